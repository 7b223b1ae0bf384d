//! A network as its operator describes it: how pods attach, how nodes are joined, which addresses.
//! Says nothing of any node. Written in YAML by people and kept as JSON in the store.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    attach::{self, Attach, Footing, Segment, bridge::first_of},
    ipam::Reserve,
    join::{Join, Way, underlay::Addresses},
    name::{IfName, Mtu, NetworkName},
};

mod bad;

pub use bad::BadNetwork;

/// The schema of records that this version writes. A record with a higher one is left alone.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Version of this record's form; written by weft.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// How a pod's link is born: `veth` (routed, no bridge), `bridge`, `macvlan` or `ipvlan`.
    #[serde(default)]
    pub attach: Attach,
    /// How packets reach the pods of other nodes: `vxlan`, `host-gw`, `bgp`, `auto`,
    /// `vxlan-bridged` or `underlay`.
    #[serde(default)]
    pub join: Join,
    /// Addresses of the pods: one IPv4 range, one IPv6 range, or one of each (dual stack).
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::Prefix>"))]
    pub ranges: Vec<IpNet>,
    /// Length of the block that a node claims from an IPv4 range.
    #[serde(default)]
    pub block_prefix4: Option<u8>,
    /// Length of the block that a node claims from an IPv6 range.
    #[serde(default)]
    pub block_prefix6: Option<u8>,
    /// Packets that leave the network's ranges take the node's address: so unless it is said
    /// otherwise, or the network is the physical one, whose packets pass no node.
    #[serde(default)]
    pub masquerade: Option<bool>,
    /// The nodes are in the network too: pods reach their node and through it everything else.
    /// Without it (joins `vxlan-bridged` and `underlay` alone) pods reach each other only, and several
    /// networks may have the same ranges.
    #[serde(default = "yes")]
    pub host_access: bool,
    /// Ranges of Services (ClusterIPs), which pods on the physical network reach by their node. Left out:
    /// the cluster's ServiceCIDRs, on Kubernetes; an empty list: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<crate::schema::Prefix>>"))]
    pub services: Option<Vec<IpNet>>,
    /// Pod-to-pod packets skip connection tracking: `auto` (as long as no other program
    /// translates addresses on the node, as kube-proxy does), `always` or `never`.
    #[serde(default)]
    pub untracked: Untracked,
    /// What a pod sends under an address that weft did not give it is dropped by its node. Without it pods
    /// may route for others (a VPN's gateway, a virtual machine's host), and pretend to be others.
    #[serde(default = "yes")]
    pub spoof_check: bool,
    /// Upper bound of the pods' MTU in bytes; none: what the paths allow.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// The network of a pod whose CNI configuration names none. One network of a cluster is it.
    #[serde(default)]
    pub default: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Untracked {
    #[default]
    Auto,
    Always,
    Never,
}

fn yes() -> bool {
    true
}
fn first_schema() -> u32 {
    SCHEMA
}

impl Network {
    /// The length of the blocks of `range`. On a shared network addresses are few.
    pub fn block_prefix(&self, range: &IpNet) -> u8 {
        let ipv4 = range.addr().is_ipv4();
        let written = if ipv4 { self.block_prefix4 } else { self.block_prefix6 };
        written.unwrap_or_else(|| match (self.join.shared(), ipv4) {
            (None, true) => 24,
            (None, false) => 112,
            (Some(_), _) => range.prefix_len().max(range.max_prefix_len() - 4),
        })
    }

    /// Smallest block worth claiming: one pod, and beside it the tunnel's and the gateway's
    /// address where there are any.
    fn smallest_block(&self, range: &IpNet) -> u8 {
        match (self.join.shared(), range.addr().is_ipv4()) {
            (None, true) => 29,
            (None, false) => 126,
            (Some(_), _) => range.max_prefix_len(),
        }
    }

    /// True if the network's own DHCP server gives pods their addresses, and no node has blocks.
    pub fn by_dhcp(&self) -> bool {
        self.join.shared().is_some_and(|shared| shared.addresses == Addresses::Dhcp)
    }

    pub fn masquerades(&self) -> bool {
        let passes = match self.attach.kind().footing() {
            Footing::Node => true,
            Footing::Network => false,
            Footing::Routed { translates } => translates,
        };
        self.host_access && self.masquerade.unwrap_or(passes)
    }

    /// Which addresses of this node's blocks no pod is given; `hosts` have theirs already.
    pub fn reserve(&self, hosts: impl IntoIterator<Item = IpAddr>) -> Reserve {
        let Some(shared) = self.join.shared() else { return Reserve::default() };
        let kept = self.ranges.iter().flat_map(|range| shared.kept(range));
        let kept = kept.chain(hosts.into_iter().map(IpNet::from));
        Reserve::with_fixed(kept, shared.fixed.iter().map(|span| span.0))
    }

    /// True if the address is one that its network calls static.
    pub fn is_fixed(&self, addr: IpAddr) -> bool {
        let fixed = self.join.shared().map(|shared| &shared.fixed[..]).unwrap_or_default();
        fixed.iter().any(|span| span.0.contains(&addr))
    }

    pub fn has_fixed(&self) -> bool {
        self.join.shared().is_some_and(|shared| !shared.fixed.is_empty())
    }

    /// True if packets between pods of two nodes pass the nodes' routing.
    pub fn is_routed(&self) -> bool {
        self.join.shared().is_none() && self.host_access
    }

    /// The one device by which pods' packets can leave, where the node routes what its children send.
    pub fn only_by(&self) -> Option<&IfName> {
        let kind = self.attach.kind();
        let parent = kind.parent().filter(|_| matches!(kind.footing(), Footing::Routed { .. }));
        parent.map(|parent| &parent.nic)
    }

    /// True if pods reach their node by a pair of its own, since their link is no way to it.
    pub fn gives_access(&self) -> bool {
        self.host_access && self.attach.kind().parent().is_some()
    }

    /// Ranges of Services that it names itself.
    pub fn services(&self) -> &[IpNet] {
        self.services.as_deref().unwrap_or_default()
    }

    pub fn contains(&self, net: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.contains(net))
    }

    /// How far the link that a pod is on reaches.
    pub fn segment(&self) -> Segment {
        if self.join.kind().is_bridged() {
            Segment::Network { host_access: self.host_access }
        } else {
            Segment::Node
        }
    }

    /// True if nodes must know the pods of the others: none is learnt, or nodes send there too.
    pub fn tells_residents(&self) -> bool {
        self.segment().is_wide() && (self.host_access || self.join.kind().group().is_none())
    }

    /// True if no node may have the block: it has the address of a gateway that is on all nodes.
    pub fn keeps(&self, block: &IpNet) -> bool {
        let gateway = |range: &IpNet| block.contains(&first_of(range));
        self.segment().is_wide() && self.ranges.iter().any(gateway)
    }

    fn check_bridged(&self, name: &NetworkName) -> Result<(), BadNetwork> {
        self.join.kind().check().map_err(|why| {
            let (name, join) = (name.clone(), self.join.clone());
            BadNetwork::Join { name, join, why }
        })?;
        let bridged = self.join.kind().is_bridged();
        if !self.host_access && !bridged && self.join.shared().is_none() {
            return Err(BadNetwork::HostAccess(name.clone()));
        }
        if self.default && !self.host_access {
            return Err(BadNetwork::HostlessDefault(name.clone()));
        }
        if !bridged {
            return Ok(());
        }
        if !matches!(self.attach.0, attach::Kind::Bridge(_)) {
            return Err(BadNetwork::BridgedAttach(name.clone()));
        }
        match self.ranges.iter().find(|range| self.block_prefix(range) == range.prefix_len()) {
            Some(range) => Err(BadNetwork::OneBlock { name: name.clone(), range: *range }),
            None => Ok(()),
        }
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
            let most = self.smallest_block(range);
            let block = self.block_prefix(range);
            if !(range.prefix_len()..=most).contains(&block) {
                return Err(BadNetwork::Block { name: name(), range: *range, block, most });
            }
            if let Some(mtu) = self.mtu.filter(|mtu| range.addr().is_ipv6() && mtu.get() < 1280) {
                return Err(BadNetwork::Mtu6 { name: name(), mtu });
            }
        }
        self.check_bridged(&name())?;
        self.check_models(&name())?;
        self.check_services(&name())
    }

    fn check_services(&self, name: &NetworkName) -> Result<(), BadNetwork> {
        if self.services().is_empty() {
            return Ok(());
        }
        if !self.gives_access() {
            let with = if self.host_access {
                format!("join {}", self.join)
            } else {
                "hostAccess: false".into()
            };
            return Err(BadNetwork::Services { name: name.clone(), with });
        }
        let bad = |services: &IpNet| {
            let overlapped = self.ranges.iter().find(|range| overlap(services, range));
            if services.trunc() != *services {
                Some(format!("it has bits set beyond its prefix; write {}", services.trunc()))
            } else if UNROUTED.iter().any(|net| overlaps(services, net)) {
                Some(
                    "it is not for Services: loopback, link-local, multicast or unspecified".into(),
                )
            } else {
                overlapped.map(|range| format!("it overlaps {range}, the pods' own range"))
            }
        };
        match self.services().iter().find_map(|services| Some((*services, bad(services)?))) {
            Some((services, why)) => {
                Err(BadNetwork::BadServices { name: name.clone(), services, why })
            }
            None => Ok(()),
        }
    }

    /// Whether attach and join go together, and what is said of a shared network.
    fn check_models(&self, name: &NetworkName) -> Result<(), BadNetwork> {
        let name = || name.clone();
        let attach = self.attach.kind();
        let (described, join) = (|| attach.described(), || self.join.to_string());
        let shared = match (attach.footing(), self.join.shared()) {
            (Footing::Network, Some(shared)) => shared,
            (Footing::Node, None) => return Ok(()),
            (Footing::Routed { translates }, None) => {
                return self.check_routed(&name(), translates);
            }
            (Footing::Network, None) => {
                let (attach, join) = (described(), join());
                return Err(BadNetwork::NeedsUnderlay { name: name(), attach, join });
            }
            (Footing::Node | Footing::Routed { .. }, Some(_)) => {
                return Err(BadNetwork::NotOnUnderlay { name: name(), attach: described() });
            }
        };
        for (field, said) in [
            ("masquerade", self.masquerade == Some(true)),
            ("untracked", self.untracked != Untracked::Auto),
        ] {
            if said {
                return Err(BadNetwork::PastNode { name: name(), field });
            }
        }
        self.check_dhcp(&name())?;
        for (family, is) in [("IPv4", true), ("IPv6", false)] {
            if shared.gateway.iter().filter(|addr| addr.is_ipv4() == is).count() > 1 {
                return Err(BadNetwork::TwoGateways { name: name(), family });
            }
        }
        let outside = |addr: &&IpAddr| !self.ranges.iter().any(|range| range.contains(*addr));
        if let Some(gateway) = shared.gateway.iter().find(outside) {
            return Err(BadNetwork::GatewayOutside { name: name(), gateway: *gateway });
        }
        shared.check_fixed(&self.ranges).map_err(|why| BadNetwork::Fixed { name: name(), why })?;
        let reserve = self.reserve([]);
        match self.ranges.iter().find(|range| reserve.usable(range) == 0) {
            Some(range) => Err(BadNetwork::NothingLeft { name: name(), range: *range }),
            None => Ok(()),
        }
    }

    /// What the node's own table is to route, by one of its NICs.
    fn check_routed(&self, name: &NetworkName, translates: bool) -> Result<(), BadNetwork> {
        let (name, attach) = (name.clone(), self.attach.kind().described());
        if !matches!(self.join.kind().order(), [Way::Direct | Way::Bgp]) {
            return Err(BadNetwork::NeedsRoutes { name, attach, join: self.join.to_string() });
        }
        if self.attach.kind().parent().is_some_and(|parent| parent.vlan.is_some()) {
            return Err(BadNetwork::RoutedVlan { name, attach });
        }
        if self.masquerade == Some(true) && !translates {
            return Err(BadNetwork::NotTranslated { name, attach });
        }
        Ok(())
    }

    /// Whether a DHCP server can give what is asked for, and nothing is said that it says.
    fn check_dhcp(&self, name: &NetworkName) -> Result<(), BadNetwork> {
        let Some(shared) = self.join.shared().filter(|_| self.by_dhcp()) else { return Ok(()) };
        let name = name.clone();
        if let Some(range) = self.ranges.iter().find(|range| range.addr().is_ipv6()) {
            return Err(BadNetwork::DhcpIpv6 { name, range: *range });
        }
        let said = [
            ("join.gateway", !shared.gateway.is_empty()),
            ("join.exclude", !shared.exclude.is_empty()),
            ("join.static", !shared.fixed.is_empty()),
            ("join.sticky", shared.sticky),
            ("blockPrefix4", self.block_prefix4.is_some()),
        ];
        match said.into_iter().find(|(_, said)| *said) {
            Some((field, _)) => Err(BadNetwork::DhcpSays { name, field }),
            None => Ok(()),
        }
    }

    /// Checks it beside another network of the cluster.
    pub fn check_beside(
        &self,
        name: &NetworkName,
        other: &NetworkName,
        beside: &Self,
    ) -> Result<(), BadNetwork> {
        let (name, other) = (name.clone(), other.clone());
        let (ours, theirs) = (self.attach.kind(), beside.attach.kind());
        let one_wire = ours.parent().is_some() && ours.parent() == theirs.parent();
        let apart = !self.host_access && !beside.host_access && !one_wire;
        for range in self.ranges.iter().filter(|_| !apart) {
            if let Some(other_range) = beside.ranges.iter().find(|other| overlap(range, other)) {
                let (range, other_range) = (*range, *other_range);
                return Err(BadNetwork::Overlap { name, range, other, other_range });
            }
        }
        let pairs = [(self.services(), &beside.ranges), (beside.services(), &self.ranges)];
        for (services, ranges) in pairs {
            let met = |services: &&IpNet| ranges.iter().any(|range| overlap(range, services));
            if let Some(services) = services.iter().find(met) {
                let why = format!("it overlaps a range of pods, {name}'s or {other}'s");
                return Err(BadNetwork::BadServices { name, services: *services, why });
            }
        }
        if let (Some(vni), Some(taken)) = (self.join.vni(), beside.join.vni())
            && vni == taken
        {
            return Err(BadNetwork::SameVni { name, vni: vni.get(), other });
        }
        if let (Some(parent), Some(same)) = (ours.parent(), theirs.parent())
            && parent == same
            && let Err(why) = ours.beside_on_parent(theirs)
        {
            return Err(BadNetwork::SameParent { name, parent: parent.clone(), other, why });
        }
        if self.default && beside.default {
            return Err(BadNetwork::TwoDefaults { name, other });
        }
        Ok(())
    }

    /// Checks it beside an address or prefix of a node's underlay. Where pods stand on the nodes'
    /// own network, that is as it should be: the nodes' addresses are kept.
    pub fn check_underlay(&self, name: &NetworkName, addr: &IpNet) -> Result<(), BadNetwork> {
        if self.join.shared().is_some() {
            return Ok(());
        }
        match self.ranges.iter().find(|range| overlap(range, &addr.trunc())) {
            Some(range) => {
                Err(BadNetwork::Underlay { name: name.clone(), range: *range, addr: *addr })
            }
            None => Ok(()),
        }
    }
}

/// What no network routes.
const UNROUTED: [&str; 6] =
    ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"];

/// Addresses that mean something of their own in every network (RFC 6890). A node may answer for a
/// Service at one of IPv4's link-local addresses, as a DNS cache does; no pod has one.
fn special(range: &IpNet) -> bool {
    UNROUTED.iter().chain(&["169.254.0.0/16"]).any(|net| overlaps(range, net))
}

fn overlaps(range: &IpNet, net: &str) -> bool {
    net.parse().is_ok_and(|net| overlap(range, &net))
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
    if let (Some(written), Some(known)) = (written.as_array(), known.as_array()) {
        let path = path.strip_suffix('.').unwrap_or(path);
        for (at, (written, known)) in written.iter().zip(known).enumerate() {
            collect_unknown(&format!("{path}[{at}]."), written, known, unknown);
        }
        return;
    }
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
