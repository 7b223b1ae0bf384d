//! The cluster as one node sees it: the records of the store, parsed. A record that can't be read
//! is kept out and said; it is never rewritten.
//!
//! Keys: `networks/NETWORK`, `nodes/NODE`, `blocks/NETWORK/BLOCK`, `claims/NETWORK/ADDRESS`,
//! `acks/NODE`, `pods/NETWORK/NODE`, `settings/bgp`. The changes that led here, and whether this is the first full list, are the store's business.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, error::Category};

use crate::{
    bgp::Settings,
    ipam::{Reserve, fixed::FixedClaim},
    join::Receive,
    name::{Mac, Mtu, NetworkName, NodeName, fnv1a},
    network::{Network, SCHEMA, unknown_fields},
    written,
};

use verdict::UNKNOWN;
pub use verdict::Verdict;

#[derive(Clone, Debug, Default)]
pub struct View {
    pub networks: BTreeMap<NetworkName, Network>,
    pub nodes: BTreeMap<NodeName, Node>,
    pub claims: BTreeMap<(NetworkName, IpNet), Claim>,
    /// Addresses that were claimed one at a time, with the record's revision.
    pub fixed: BTreeMap<(NetworkName, IpAddr), (u64, FixedClaim)>,
    pub acks: BTreeMap<NodeName, u64>,
    /// The pods of each node in each network whose nodes must know them, with the record's revision.
    pub residents: BTreeMap<(NetworkName, NodeName), (u64, Residents)>,
    /// Of BGP in the whole cluster.
    pub bgp: Settings,
    /// What could not be read, or only in part, by key.
    pub said: BTreeMap<String, String>,
    /// The store's revision that this view shows.
    pub revision: u64,
}

/// What one node publishes of itself. Only that node writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub schema: u32,
    /// `/proc/sys/kernel/random/boot_id` when it was written.
    pub boot: String,
    pub version: String,
    /// Its addresses on the underlay, at most one per family.
    pub underlay: Vec<IpAddr>,
    /// The smallest MTU of its underlay devices.
    pub mtu: Mtu,
    pub networks: Parts,
    /// What its operator says of it, such as its rack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The UID of its Node object, where Kubernetes has one: once that is gone, so is the node.
    #[serde(default, rename = "nodeObject", skip_serializing_if = "Option::is_none")]
    pub node_object: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl NodeRecord {
    pub fn part(&self, network: &NetworkName) -> Option<&Part> {
        self.networks.iter().find(|(name, _)| *name == network).map(|(_, part)| part)
    }
}

/// A node's part in each of its networks. Thousands are held, and most nodes are in one network or
/// two: a map would take four times the room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts(Vec<(NetworkName, Part)>);

impl Parts {
    /// In the order of the networks' names.
    pub fn iter(&self) -> impl Iterator<Item = (&NetworkName, &Part)> {
        self.0.iter().map(|(name, part)| (name, part))
    }
}
impl FromIterator<(NetworkName, Part)> for Parts {
    fn from_iter<I: IntoIterator<Item = (NetworkName, Part)>>(parts: I) -> Self {
        Self(BTreeMap::from_iter(parts).into_iter().collect())
    }
}
impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|parts| Self(parts.into_iter().collect()))
    }
}

/// A node's part in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub blocks: Vec<IpNet>,
    pub receives: Vec<Receive>,
    /// Held until every peer has acknowledged the revision of this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawing: Vec<Receive>,
    /// The largest packet that its pods may send.
    pub send: Mtu,
    /// The largest packet that its pods take.
    pub accept: Mtu,
    /// It has pods in the network, which must not be deleted under them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pods: bool,
    /// Addresses of the network's ranges that are the node's own, where pods stand beside nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub record: NodeRecord,
    /// Revision of the record's last change.
    pub revision: u64,
}

/// A block that a node claims for good: no expiry, freed by `weft node forget`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub schema: u32,
    pub node: NodeName,
    pub boot: String,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ack {
    pub schema: u32,
    pub revision: u64,
}

/// A node's pods in one network, for networks that are one L2 domain. A record of its own: it
/// changes with the pods, and nobody acknowledges it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Residents {
    pub schema: u32,
    pub pods: Vec<Resident>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resident {
    pub mac: Mac,
    pub addrs: Vec<IpAddr>,
}

/// A record's key, parsed.
enum Place {
    Network(NetworkName),
    Node(NodeName),
    Claim(NetworkName, IpNet),
    Fixed(NetworkName, IpAddr),
    Ack(NodeName),
    Residents(NetworkName, NodeName),
    Bgp,
}

pub const BGP_KEY: &str = "settings/bgp";

pub fn network_key(name: &NetworkName) -> String {
    format!("networks/{name}")
}
pub fn node_key(name: &NodeName) -> String {
    format!("nodes/{name}")
}
pub fn claim_key(network: &NetworkName, block: &IpNet) -> String {
    format!("blocks/{network}/{}-{}", block.network(), block.prefix_len())
}
pub fn fixed_key(network: &NetworkName, addr: IpAddr) -> String {
    format!("claims/{network}/{addr}")
}
pub fn residents_key(network: &NetworkName, node: &NodeName) -> String {
    format!("pods/{network}/{node}")
}
pub fn ack_key(node: &NodeName) -> String {
    format!("acks/{node}")
}

/// What an object's name may have at most (RFC 1123).
const OBJECT_NAME_MAX: usize = 253;

/// The name of the object that holds the record: what can be read of the key, and a hash of all of it.
/// A valid DNS subdomain, the same for the same key whoever asks.
pub fn object_name(key: &str) -> String {
    let word = |word: &str| {
        let word = word.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        word.trim_matches('-').to_owned()
    };
    let words: Vec<String> = key.split('/').map(word).filter(|word| !word.is_empty()).collect();
    let hash = format!("{:016x}", fnv1a(&[key]));
    let mut readable = words.join(".");
    readable.truncate(OBJECT_NAME_MAX - hash.len() - 1);
    let readable = readable.trim_end_matches(['-', '.']);
    if readable.is_empty() { hash } else { format!("{readable}.{hash}") }
}

impl View {
    /// Takes in one record. What can't be read replaces nothing that could be.
    pub fn put(&mut self, key: &str, value: &[u8], revision: u64) {
        self.revision = self.revision.max(revision);
        self.said.remove(key);
        let Some(place) = place(key) else {
            self.said.insert(key.into(), "not a key of this version: left alone".into());
            return;
        };
        let taken = match place {
            Place::Network(name) => read(value).and_then(|network: Network| {
                network.check(&name).map_err(|bad| bad.to_string())?;
                let note = unknown(value, &network);
                self.networks.insert(name, network);
                Ok(note)
            }),
            Place::Node(name) => read(value).map(|record| {
                self.nodes.insert(name, Node { record, revision });
                None
            }),
            Place::Claim(network, block) => read(value).map(|claim| {
                self.claims.insert((network, block), claim);
                None
            }),
            Place::Fixed(network, addr) => read(value).map(|claim| {
                self.fixed.insert((network, addr), (revision, claim));
                None
            }),
            Place::Ack(name) => read(value).map(|ack: Ack| {
                self.acks.insert(name, ack.revision);
                None
            }),
            Place::Residents(network, node) => read(value).map(|residents| {
                self.residents.insert((network, node), (revision, residents));
                None
            }),
            Place::Bgp => read(value).and_then(|settings: Settings| {
                settings.check()?;
                let note = unknown(value, &settings);
                self.bgp = settings;
                Ok(note)
            }),
        };
        match taken {
            Ok(None) => {}
            Ok(Some(said)) | Err(said) => drop(self.said.insert(key.into(), said)),
        }
    }

    /// All there is, anew. Of a record that is there but can't be read, the last that could be
    /// still stands.
    pub fn list<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a [u8], u64)>,
        revision: u64,
    ) {
        let mut was = std::mem::replace(self, Self { revision, ..Self::default() });
        entries.for_each(|(key, value, revision)| self.put(key, value, revision));
        for place in self.said.keys().filter_map(|key| place(key)) {
            match place {
                Place::Network(name) => keep(&mut self.networks, &mut was.networks, name),
                Place::Node(name) => keep(&mut self.nodes, &mut was.nodes, name),
                Place::Claim(name, block) => keep(&mut self.claims, &mut was.claims, (name, block)),
                Place::Fixed(name, addr) => keep(&mut self.fixed, &mut was.fixed, (name, addr)),
                Place::Ack(name) => keep(&mut self.acks, &mut was.acks, name),
                Place::Residents(network, node) => {
                    keep(&mut self.residents, &mut was.residents, (network, node));
                }
                // Unless only a part of it is not known.
                Place::Bgp if self.bgp == Settings::default() => {
                    self.bgp = std::mem::take(&mut was.bgp);
                }
                Place::Bgp => {}
            }
        }
    }

    pub fn delete(&mut self, key: &str, revision: u64) {
        self.revision = self.revision.max(revision);
        self.said.remove(key);
        match place(key) {
            Some(Place::Network(name)) => drop(self.networks.remove(&name)),
            Some(Place::Node(name)) => drop(self.nodes.remove(&name)),
            Some(Place::Claim(network, block)) => drop(self.claims.remove(&(network, block))),
            Some(Place::Ack(name)) => drop(self.acks.remove(&name)),
            Some(Place::Fixed(network, addr)) => drop(self.fixed.remove(&(network, addr))),
            Some(Place::Residents(network, node)) => {
                drop(self.residents.remove(&(network, node)));
            }
            Some(Place::Bgp) => self.bgp = Settings::default(),
            None => {}
        }
    }

    /// The network meant by a caller that named none.
    pub fn default_network(&self) -> Option<&NetworkName> {
        default_of(&self.networks)
    }

    pub fn claims_of<'a>(
        &'a self,
        node: &'a NodeName,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = IpNet> + 'a {
        self.claims
            .iter()
            .filter(move |((name, _), claim)| name == network && claim.node == *node)
            .map(|((_, block), _)| *block)
    }

    /// The addresses of a network that were claimed one at a time, with the claims' revisions.
    pub fn fixed_of<'a>(
        &'a self,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = (IpAddr, u64, &'a FixedClaim)> {
        let all = self.fixed.iter().filter(move |((name, _), _)| name == network);
        all.map(|((_, addr), (revision, claim))| (*addr, *revision, claim))
    }

    /// Which addresses of a network no pod is given: nodes have theirs, of which `hosts` are the
    /// asking one's.
    pub fn reserve(&self, name: &NetworkName, network: &Network, hosts: &[IpAddr]) -> Reserve {
        let Some(_) = network.join.shared() else { return Reserve::default() };
        let nodes = self.nodes.values().flat_map(|node| {
            let hosts = node.record.part(name).into_iter().flat_map(|part| &part.hosts);
            node.record.underlay.iter().chain(hosts)
        });
        // One that was static and is not any more is still its pod's.
        let pods = self.fixed_of(name).filter(|(.., claim)| claim.node.is_some());
        let pods = pods.map(|(addr, ..)| addr).filter(|addr| !network.is_fixed(*addr));
        let pods: Vec<IpAddr> = pods.collect();
        let inside = |addr: &&IpAddr| network.ranges.iter().any(|range| range.contains(*addr));
        network.reserve(nodes.chain(hosts).chain(&pods).filter(inside).copied())
    }

    /// Networks that contradict each other: not to be served is the one of which no node has a
    /// block, of two alike the later by name.
    pub fn conflicts(&self) -> BTreeMap<NetworkName, String> {
        let mut conflicts = BTreeMap::new();
        if self.networks.len() < 2 {
            return conflicts;
        }
        let used: BTreeSet<&NetworkName> = self.claims.keys().map(|(name, _)| name).collect();
        let mut networks: Vec<_> = self.networks.iter().collect();
        networks.sort_by_key(|(name, _)| (!used.contains(name), *name));
        for (at, (name, network)) in networks.iter().enumerate() {
            let earlier = networks[..at].iter();
            for (other, beside) in earlier.filter(|(other, _)| !conflicts.contains_key(*other)) {
                if let Err(bad) = network.check_beside(name, other, beside) {
                    conflicts.insert((*name).clone(), bad.to_string());
                    break;
                }
            }
        }
        conflicts
    }
}

/// The network meant by a caller that named none: the one that is `default`, or the only one.
pub fn default_of(networks: &BTreeMap<NetworkName, Network>) -> Option<&NetworkName> {
    let named = networks.iter().find(|(_, network)| network.default);
    let only = || Some(networks.iter().next()?).filter(|_| networks.len() == 1);
    named.or_else(only).map(|(name, _)| name)
}

fn keep<K: Ord, V>(now: &mut BTreeMap<K, V>, was: &mut BTreeMap<K, V>, key: K) {
    if let Some(value) = was.remove(&key) {
        now.entry(key).or_insert(value);
    }
}

fn place(key: &str) -> Option<Place> {
    let mut parts = key.split('/');
    let place = match (parts.next()?, parts.next()?, parts.next()) {
        ("settings", "bgp", None) => Place::Bgp,
        ("networks", name, None) => Place::Network(name.parse().ok()?),
        ("nodes", name, None) => Place::Node(name.parse().ok()?),
        ("acks", name, None) => Place::Ack(name.parse().ok()?),
        ("pods", network, Some(node)) => {
            Place::Residents(network.parse().ok()?, node.parse().ok()?)
        }
        ("claims", network, Some(addr)) => Place::Fixed(network.parse().ok()?, addr.parse().ok()?),
        ("blocks", network, Some(block)) => {
            let (addr, prefix) = block.rsplit_once('-')?;
            let block = IpNet::new(addr.parse().ok()?, prefix.parse().ok()?).ok()?;
            Place::Claim(network.parse().ok()?, block)
        }
        _ => return None,
    };
    parts.next().is_none().then_some(place)
}

/// Reads a record, unless a newer version wrote it in a form that this one does not know.
fn read<T: Record>(value: &[u8]) -> Result<T, String> {
    let record: Result<T, _> = serde_json::from_slice(value);
    let schema = match &record {
        Ok(record) => record.schema(),
        Err(_) => serde_json::from_slice(value).map_or(0, |Written { schema }| schema),
    };
    if schema > SCHEMA {
        return Err(format!(
            "schema {schema} is newer than this version's {SCHEMA}: left alone; upgrade this node"
        ));
    }
    record.map_err(|error| match error.classify() {
        Category::Data => misread::<T>(value).unwrap_or_else(|| error.to_string()),
        _ => format!("not JSON: {error}"),
    })
}

/// Which of its fields it is.
fn misread<T: Record>(value: &[u8]) -> Option<String> {
    written::read::<T>(&serde_json::from_slice(value).ok()?).err()
}

trait Record: for<'de> Deserialize<'de> {
    fn schema(&self) -> u32;
}
macro_rules! records {
    ($($record:ident),*) => {$(
        impl Record for $record {
            fn schema(&self) -> u32 {
                self.schema
            }
        }
    )*};
}
records!(Network, NodeRecord, Claim, FixedClaim, Ack, Residents, Settings);

/// All that a record of any version is sure to have.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    schema: u32,
}

/// Which fields of a record this version does not know.
fn unknown(value: &[u8], read: &impl Serialize) -> Option<String> {
    let unknown = unknown_fields(&serde_json::from_slice(value).ok()?, read);
    (!unknown.is_empty()).then(|| format!("{UNKNOWN}{}", unknown.join("; ")))
}

#[cfg(test)]
mod tests;
