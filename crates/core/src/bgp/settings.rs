//! What the operator says of BGP, for the whole cluster: the record `settings/bgp`, written in YAML by
//! people (`weft bgp apply`). Without it everything here has its default.

use std::{collections::BTreeMap, fmt, marker::PhantomData, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Community, LargeCommunity};
use crate::{name::NodeName, network::SCHEMA};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    pub schema: u32,
    /// The AS that nodes are in.
    pub asn: u32,
    /// Nodes that are in another, the first that fits: one AS per rack, say.
    pub nodes: Vec<NodesAs>,
    /// Nodes of one AS have sessions with each other.
    pub mesh: bool,
    /// Who passes routes on, so that not all have sessions with all (RFC 4456).
    pub reflectors: Switch<Reflecting>,
    /// Between nodes.
    pub bfd: Switch<Bfd>,
    pub graceful_restart: Switch<Restart>,
    /// A neighbour that says nothing for so long is taken for dead; 0: never.
    pub hold_seconds: u16,
    /// Where nodes listen.
    pub port: u16,
    /// A file on each node with the password of sessions between nodes (TCP MD5).
    pub password_file: Option<PathBuf>,
    /// A node's block may be reached by a learnt route that covers it.
    pub aggregates: bool,
    /// A neighbour that says more routes of one family is not listened to.
    pub maximum_routes: u32,
    /// Over how many ways at once one prefix is reached at most (ECMP).
    pub paths: u8,
    /// Neighbours that are no nodes.
    pub peers: Vec<External>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            asn: 64512,
            nodes: Vec::new(),
            mesh: true,
            reflectors: Switch::On(Reflecting::default()),
            bfd: Switch::On(Bfd::default()),
            graceful_restart: Switch::On(Restart::default()),
            hold_seconds: 90,
            port: 179,
            password_file: None,
            aggregates: false,
            maximum_routes: 1_000_000,
            paths: 8,
            peers: Vec::new(),
        }
    }
}

/// Which nodes are meant: those named, and those that have all the labels; neither: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    #[serde(default)]
    pub nodes: Vec<NodeName>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    pub fn selects(&self, node: &NodeName, labels: &BTreeMap<String, String>) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        match (self.nodes.is_empty(), self.labels.is_empty()) {
            (true, true) => true,
            (false, true) => self.nodes.contains(node),
            (true, false) => self.labels.iter().all(has),
            (false, false) => self.nodes.contains(node) || self.labels.iter().all(has),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesAs {
    #[serde(flatten)]
    pub of: Selector,
    pub asn: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reflecting {
    /// As soon as there are more nodes than this.
    pub above: u16,
    /// So many of them, spread over the values of the label `rack` or `topology.kubernetes.io/zone`.
    pub count: u8,
    /// These and no others, however many nodes there are.
    pub nodes: Vec<NodeName>,
}

impl Default for Reflecting {
    fn default() -> Self {
        Self { above: 100, count: 3, nodes: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bfd {
    pub interval_ms: u32,
    pub multiplier: u8,
}

impl Default for Bfd {
    fn default() -> Self {
        Self { interval_ms: 300, multiplier: 3 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restart {
    /// How long neighbours keep our routes while the agent restarts.
    pub seconds: u16,
}

impl Default for Restart {
    fn default() -> Self {
        Self { seconds: 120 }
    }
}

/// A neighbour that is no node: a top-of-rack switch, say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    pub name: String,
    pub address: IpAddr,
    pub asn: u32,
    /// Which nodes have a session with it.
    #[serde(flatten)]
    pub of: Selector,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// It is so many hops away (1: on the same link), and nobody farther is listened to (GTSM).
    #[serde(default)]
    pub ttl_security: Option<u8>,
    /// It is up to so many hops away.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Only waits for it to connect.
    #[serde(default)]
    pub passive: bool,
    /// None: no BFD.
    #[serde(default)]
    pub bfd: Switch<Bfd>,
    /// None: as between nodes.
    #[serde(default)]
    pub graceful_restart: Option<Switch<Restart>>,
    #[serde(default)]
    pub hold_seconds: Option<u16>,
    /// What is taken of it: the first that covers a prefix decides. What none covers is taken, unless
    /// one of them says `accept`.
    #[serde(default)]
    pub import: Vec<Import>,
    /// Its default route is taken.
    #[serde(default)]
    pub accept_default: bool,
    /// Added to what is said to it.
    #[serde(default)]
    pub communities: Vec<Community>,
    #[serde(default)]
    pub large_communities: Vec<LargeCommunity>,
    #[serde(default)]
    pub maximum_routes: Option<u32>,
    #[serde(default)]
    pub port: Option<u16>,
}

/// Prefixes inside `prefix`, of a length from `least` to `most`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub prefix: IpNet,
    #[serde(default)]
    pub least: Option<u8>,
    #[serde(default)]
    pub most: Option<u8>,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Accept,
    Reject,
}

/// `off`, or a map with what is to be otherwise than by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch<T> {
    #[default]
    Off,
    On(T),
}

impl<T> Switch<T> {
    pub fn on(&self) -> Option<&T> {
        match self {
            Self::Off => None,
            Self::On(what) => Some(what),
        }
    }
}

impl<T: Serialize> Serialize for Switch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::On(what) => what.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spelling<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Spelling<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, or a map ({} for the defaults)")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch<T>, E> {
                match text {
                    "off" => Ok(Switch::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            // What YAML 1.1 makes of `off`.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
                if on {
                    Err(E::invalid_value(de::Unexpected::Bool(on), &self))
                } else {
                    Ok(Switch::Off)
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Switch::On)
            }
        }
        deserializer.deserialize_any(Spelling(PhantomData))
    }
}
