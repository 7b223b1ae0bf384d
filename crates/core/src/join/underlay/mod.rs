//! The physical network itself: pods stand on it beside the nodes, as their NIC's children. No
//! path leads to a peer, nothing is held; what the network has besides is said here.

mod switch;

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use switch::{Switch, TRIES, Try};

use super::{Joining, Receive, Receiver, Way};
use crate::network::overlap;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Underlay {
    /// The network's routers, at most one per family; none: the pods reach their network alone.
    #[serde(default)]
    pub gateway: Vec<IpAddr>,
    /// Addresses of the ranges that are others': prefixes or single addresses.
    #[serde(default)]
    pub exclude: Vec<Span>,
    /// Who gives addresses to pods: `chunks` (nodes claim blocks of the ranges) or `dhcp` (the
    /// network's own DHCP server, which names the router too; IPv4 alone).
    #[serde(default)]
    pub addresses: Addresses,
    /// Addresses of the ranges that pods get one at a time, on whichever node: who asks for one, or
    /// who had one (`sticky`). No node's block gives them.
    #[serde(default, rename = "static")]
    pub fixed: Vec<Span>,
    /// A pod gets the address that its name had, from those that are static.
    #[serde(default)]
    pub sticky: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Addresses {
    #[default]
    Chunks,
    Dhcp,
}

impl Joining for Underlay {
    fn receives(&self, _me: &Receiver<'_>) -> Vec<Receive> {
        Vec::new()
    }
    fn order(&self) -> &'static [Way] {
        &[]
    }
    fn gateways(&self) -> &[IpAddr] {
        &self.gateway
    }
    fn shared(&self) -> Option<&Underlay> {
        Some(self)
    }
}

impl Underlay {
    /// Addresses of `range` that no pod is given: the network's own, its broadcast address, its
    /// routers', and what is excluded.
    pub fn kept(&self, range: &IpNet) -> Vec<IpNet> {
        let broadcast = match range {
            // A network of two has no broadcast address (RFC 3021).
            IpNet::V4(range) if range.prefix_len() < 31 => Some(range.broadcast().into()),
            _ => None,
        };
        let first = (range.prefix_len() + 1 < range.max_prefix_len()).then(|| range.network());
        let one = |addr: IpAddr| IpNet::from(addr);
        let mut kept: Vec<IpNet> = first.into_iter().chain(broadcast).map(one).collect();
        kept.extend(self.gateway.iter().copied().map(one));
        kept.extend(self.exclude.iter().map(|span| span.0));
        kept
    }

    /// Checks its static addresses against everything else that is said of the network.
    pub fn check_fixed(&self, ranges: &[IpNet]) -> Result<(), String> {
        if self.sticky && self.fixed.is_empty() {
            return Err("`sticky` gives out static addresses: name some, such as \
                        `static: [192.0.2.128/26]`"
                .into());
        }
        let inside = |span: &Span| ranges.iter().any(|range| range.contains(&span.0));
        if let Some(span) = self.fixed.iter().find(|span| !inside(span)) {
            return Err(format!("static {span} is in none of its ranges"));
        }
        for span in &self.fixed {
            if let Some(gateway) = self.gateway.iter().find(|gateway| span.0.contains(*gateway)) {
                return Err(format!("static {span} has gateway {gateway} in it"));
            }
            if let Some(other) = self.exclude.iter().find(|other| overlap(&span.0, &other.0)) {
                return Err(format!("static {span} and exclude {other} overlap"));
            }
        }
        let usable = |range: &IpNet| {
            let kept: Vec<IpNet> = self.kept(range);
            let inside = self.fixed.iter().filter(|span| range.contains(&span.0));
            inside.into_iter().any(|span| !kept.contains(&span.0))
        };
        if !self.fixed.is_empty() && !ranges.iter().any(usable) {
            return Err("no static address can be given: they are the range's own".into());
        }
        Ok(())
    }
}

/// A prefix, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub IpNet);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let addr = text.parse::<IpAddr>().map(IpNet::from);
        let net = addr.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            format!("{text:?} is neither an address nor a prefix, like 192.0.2.0/28")
        })?;
        if net.trunc() == net {
            return Ok(Self(net));
        }
        Err(format!("{net} has bits set beyond its prefix; write {}", net.trunc()))
    }
}
impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_own_addresses_are_kept() {
        let join = Underlay {
            gateway: vec!["10.9.0.1".parse().unwrap()],
            exclude: vec!["10.9.0.64/26".parse().unwrap(), "10.9.0.9".parse().unwrap()],
            ..Underlay::default()
        };
        let kept = |range: &str| -> Vec<String> {
            join.kept(&range.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        let rest = ["10.9.0.1/32", "10.9.0.64/26", "10.9.0.9/32"];
        let with = |own: &[&str]| -> Vec<String> {
            own.iter().chain(&rest).map(ToString::to_string).collect()
        };
        assert_eq!(kept("10.9.0.0/24"), with(&["10.9.0.0/32", "10.9.0.255/32"]));
        assert_eq!(kept("10.9.0.0/31"), with(&[]));
        assert_eq!(kept("fd00:9::/64"), with(&["fd00:9::/128"]));
    }

    #[test]
    fn a_span_is_a_prefix_or_an_address() {
        for (text, said) in [
            ("10.9.0.0/26", Ok("10.9.0.0/26")),
            ("10.9.0.9", Ok("10.9.0.9")),
            ("10.9.0.9/26", Err("write 10.9.0.0/26")),
            ("10.9.0", Err("neither an address nor a prefix")),
        ] {
            match (text.parse::<Span>(), said) {
                (Ok(span), Ok(want)) => assert_eq!(span.to_string(), want),
                (Err(why), Err(want)) => assert!(why.contains(want), "{why}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
