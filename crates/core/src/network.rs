//! A network as its operator describes it: how pods attach, how nodes are joined, which addresses.
//! Says nothing of any node. Written in YAML by people and kept as JSON in the store.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    attach::Attach,
    join::Join,
    name::{Mtu, NetworkName},
};

/// The schema of records that this version writes. A record with a higher one is left alone.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Version of this record's form; written by weft.
    #[serde(default = "schema")]
    pub schema: u32,
    /// How a pod's link is born: `veth` (routed, no bridge) or `bridge`.
    #[serde(default)]
    pub attach: Attach,
    /// How packets reach the pods of other nodes: `vxlan`, `host-gw` or `auto`.
    #[serde(default)]
    pub join: Join,
    /// Addresses of the pods: one IPv4 range, one IPv6 range, or one of each (dual stack).
    pub ranges: Vec<IpNet>,
    /// Length of the block that a node claims from an IPv4 range.
    #[serde(default = "block4")]
    pub block_prefix4: u8,
    /// Length of the block that a node claims from an IPv6 range.
    #[serde(default = "block6")]
    pub block_prefix6: u8,
    /// Packets that leave the network's ranges take the node's address.
    #[serde(default = "yes")]
    pub masquerade: bool,
    /// Pod-to-pod packets skip connection tracking: `auto` (as long as no other program
    /// translates addresses on the node, as kube-proxy does), `always` or `never`.
    #[serde(default)]
    pub untracked: Untracked,
    /// Upper bound of the pods' MTU in bytes; none: what the paths allow.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// The network of a pod whose CNI configuration names none. One network of a cluster is it.
    #[serde(default)]
    pub default: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Untracked {
    #[default]
    Auto,
    Always,
    Never,
}

fn schema() -> u32 {
    SCHEMA
}
fn block4() -> u8 {
    24
}
fn block6() -> u8 {
    112
}
fn yes() -> bool {
    true
}

/// Why a network can't be taken as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    #[error(
        "network {0}: no range; give `ranges`, such as [10.1.0.0/16] or [10.1.0.0/16, fd01::/64]"
    )]
    NoRange(NetworkName),
    #[error(
        "network {name}: {range} is not for pods: loopback, link-local, multicast or unspecified"
    )]
    Special { name: NetworkName, range: IpNet },
    #[error("network {name}: two {family} ranges; one per address family")]
    TwoRanges { name: NetworkName, family: &'static str },
    #[error("network {name}: {range} has bits set beyond its prefix; write {}", range.trunc())]
    HostBits { name: NetworkName, range: IpNet },
    #[error(
        "network {name}: a block of /{block} does not fit range {range}; \
         use a length from {} to {most}", range.prefix_len()
    )]
    Block { name: NetworkName, range: IpNet, block: u8, most: u8 },
    #[error("network {name}: MTU {mtu} is too small for IPv6, which needs 1280 (RFC 8200, 5)")]
    Mtu6 { name: NetworkName, mtu: Mtu },
    #[error("network {name}: {range} overlaps {other_range} of network {other}")]
    Overlap { name: NetworkName, range: IpNet, other: NetworkName, other_range: IpNet },
    #[error("network {name}: VNI {vni} is network {other}'s; give each network its own `vni`")]
    SameVni { name: NetworkName, vni: u32, other: NetworkName },
    #[error(
        "network {name}: {other} is the default network already; set its `default` to false first"
    )]
    TwoDefaults { name: NetworkName, other: NetworkName },
    #[error("network {name}: {range} overlaps {addr}, an address of the underlay")]
    Underlay { name: NetworkName, range: IpNet, addr: IpNet },
}

impl Network {
    /// Smallest block worth claiming: the tunnel's and the gateway's address and one pod.
    const SMALLEST_BLOCK4: u8 = 29;
    const SMALLEST_BLOCK6: u8 = 126;

    pub fn block_prefix(&self, range: &IpNet) -> u8 {
        if range.addr().is_ipv4() { self.block_prefix4 } else { self.block_prefix6 }
    }

    pub fn contains(&self, net: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.contains(net))
    }

    /// Checks what can be told from this network alone.
    pub fn check(&self, name: &NetworkName) -> Result<(), BadNetwork> {
        let name = || name.clone();
        if self.ranges.is_empty() {
            return Err(BadNetwork::NoRange(name()));
        }
        for (family, is) in [("IPv4", true), ("IPv6", false)] {
            if self.ranges.iter().filter(|range| range.addr().is_ipv4() == is).count() > 1 {
                return Err(BadNetwork::TwoRanges { name: name(), family });
            }
        }
        for range in &self.ranges {
            if range.trunc() != *range {
                return Err(BadNetwork::HostBits { name: name(), range: *range });
            }
            if special(range) {
                return Err(BadNetwork::Special { name: name(), range: *range });
            }
            let most =
                if range.addr().is_ipv4() { Self::SMALLEST_BLOCK4 } else { Self::SMALLEST_BLOCK6 };
            let block = self.block_prefix(range);
            if !(range.prefix_len()..=most).contains(&block) {
                return Err(BadNetwork::Block { name: name(), range: *range, block, most });
            }
            if let Some(mtu) = self.mtu.filter(|mtu| range.addr().is_ipv6() && mtu.get() < 1280) {
                return Err(BadNetwork::Mtu6 { name: name(), mtu });
            }
        }
        Ok(())
    }

    /// Checks it beside another network of the cluster.
    pub fn check_beside(
        &self,
        name: &NetworkName,
        other: &NetworkName,
        beside: &Self,
    ) -> Result<(), BadNetwork> {
        let (name, other) = (name.clone(), other.clone());
        for range in &self.ranges {
            if let Some(other_range) = beside.ranges.iter().find(|other| overlap(range, other)) {
                let (range, other_range) = (*range, *other_range);
                return Err(BadNetwork::Overlap { name, range, other, other_range });
            }
        }
        if let (Some(vni), Some(taken)) = (self.join.vni(), beside.join.vni())
            && vni == taken
        {
            return Err(BadNetwork::SameVni { name, vni: vni.get(), other });
        }
        if self.default && beside.default {
            return Err(BadNetwork::TwoDefaults { name, other });
        }
        Ok(())
    }

    /// Checks it beside an address or prefix of a node's underlay.
    pub fn check_underlay(&self, name: &NetworkName, addr: &IpNet) -> Result<(), BadNetwork> {
        match self.ranges.iter().find(|range| overlap(range, &addr.trunc())) {
            Some(range) => {
                Err(BadNetwork::Underlay { name: name.clone(), range: *range, addr: *addr })
            }
            None => Ok(()),
        }
    }
}

/// Addresses that mean something of their own in every network (RFC 6890).
fn special(range: &IpNet) -> bool {
    let special = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/127",
        "fe80::/10",
        "ff00::/8",
    ];
    special.iter().filter_map(|net| net.parse().ok()).any(|net| overlap(range, &net))
}

pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Fields of `written` that reading it did not take, as paths; beside each the fields that stand
/// at its place. What people write may have none; a record of a newer version may.
pub fn unknown_fields<T: Serialize>(written: &serde_json::Value, read: &T) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Ok(known) = serde_json::to_value(read) {
        collect_unknown("", written, &known, &mut unknown);
    }
    unknown
}

fn collect_unknown(
    path: &str,
    written: &serde_json::Value,
    known: &serde_json::Value,
    unknown: &mut Vec<String>,
) {
    let (Some(written), Some(known)) = (written.as_object(), known.as_object()) else { return };
    for (field, value) in written {
        match known.get(field) {
            Some(known) => collect_unknown(&format!("{path}{field}."), value, known, unknown),
            None => {
                let choices: Vec<&str> = known.keys().map(String::as_str).collect();
                unknown.push(format!("{path}{field} (known here: {})", choices.join(", ")));
            }
        }
    }
}
