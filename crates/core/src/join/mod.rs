//! How packets reach the pods of other nodes: one folder each; this file is the only other that
//! names them. A join says in which ways a node can be sent to; which way a sender takes is
//! chosen in `paths/`, per peer.

pub mod auto;
pub mod bgp;
pub mod bridged;
pub mod hostgw;
pub mod underlay;
pub mod vxlan;

use std::{net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

pub use vxlan::Group;

use crate::{
    attach::Ground,
    kind::kind_or_map,
    name::{IfName, Mac, Mtu, NetworkName, NodeName, Vni},
    paths::{Path, Refusal, Sender},
    state::{Knob, Object, State},
};

/// The `join` of a network. A kind is its own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    Vxlan(vxlan::Vxlan),
    HostGw(hostgw::HostGw),
    Bgp(bgp::Bgp),
    Auto(auto::Auto),
    VxlanBridged(bridged::Bridged),
    Underlay(underlay::Underlay),
}
kind_or_map!(Join, Kind);

impl Default for Join {
    fn default() -> Self {
        Self(Kind::Vxlan(vxlan::Vxlan::default()))
    }
}

/// What a join answers. It performs nothing and is never told what the kernel holds.
pub trait Joining {
    /// In which ways this node is to be reached, the preferred ones first.
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive>;

    /// Which ways a sender takes, the preferred ones first.
    fn order(&self) -> &'static [Way];

    fn vni(&self) -> Option<Vni> {
        None
    }

    /// Checks its settings against each other.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The multicast group by which nodes find each other, where they do.
    fn group(&self) -> Option<IpAddr> {
        None
    }

    /// True if it makes one L2 domain of all nodes, which pods attach to by a bridge.
    fn is_bridged(&self) -> bool {
        false
    }

    /// Routers of the network that pods stand on beside the nodes.
    fn gateways(&self) -> &[IpAddr] {
        &[]
    }

    /// What is said of it by BGP, where nodes are joined by that.
    fn bgp(&self) -> Option<&bgp::Bgp> {
        None
    }

    /// Whose the addresses are besides, where pods share the network with strangers.
    fn shared(&self) -> Option<&underlay::Underlay> {
        None
    }
}

impl Join {
    pub fn kind(&self) -> &dyn Joining {
        match &self.0 {
            Kind::Vxlan(join) => join,
            Kind::HostGw(join) => join,
            Kind::Bgp(join) => join,
            Kind::Auto(join) => join,
            Kind::VxlanBridged(join) => join,
            Kind::Underlay(join) => join,
        }
    }
    pub fn vni(&self) -> Option<Vni> {
        self.kind().vni()
    }
    pub fn shared(&self) -> Option<&underlay::Underlay> {
        self.kind().shared()
    }
}

/// The node that is to be reached, in one network.
pub struct Receiver<'a> {
    pub node: &'a NodeName,
    pub network: &'a NetworkName,
    /// Its addresses on the underlay, at most one per family.
    pub underlay: &'a [IpAddr],
}

/// A way in which packets cross the underlay. Lower layers of the network are asked more by the
/// first than by the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Direct,
    /// As `direct`, to where BGP says.
    Bgp,
    Vxlan,
    VxlanBridged,
}

impl Way {
    /// Packets cross the underlay inside others.
    pub fn is_tunnel(self) -> bool {
        !matches!(self, Self::Direct | Self::Bgp)
    }
}

/// One way in which a node can be reached, as it advertises it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum Receive {
    /// Pod packets as they are, sent to this underlay address.
    Direct { underlay: IpAddr },
    /// As they are too, to wherever the blocks that this node says by BGP were learnt from.
    Bgp { underlay: IpAddr },
    /// In UDP to a VTEP (RFC 7348).
    Vxlan { underlay: IpAddr, vni: Vni, port: u16, mac: Mac },
    /// In UDP to a VTEP that is a port of the network's bridge. The MAC is the node's own there.
    VxlanBridged { underlay: IpAddr, vni: Vni, port: u16, mac: Mac },
    /// The same, where VTEPs find each other in a multicast group.
    VxlanGroup { underlay: IpAddr, vni: Vni, port: u16, mac: Mac, group: Group },
    /// As `vxlan`, where VTEPs find each other in a multicast group.
    VxlanLearnt { underlay: IpAddr, vni: Vni, port: u16, mac: Mac, group: Group },
}

impl Receive {
    pub fn way(&self) -> Way {
        match self {
            Self::Direct { .. } => Way::Direct,
            Self::Bgp { .. } => Way::Bgp,
            Self::Vxlan { .. } | Self::VxlanLearnt { .. } => Way::Vxlan,
            Self::VxlanBridged { .. } | Self::VxlanGroup { .. } => Way::VxlanBridged,
        }
    }

    pub fn underlay(&self) -> IpAddr {
        match self {
            Self::Direct { underlay }
            | Self::Bgp { underlay }
            | Self::Vxlan { underlay, .. }
            | Self::VxlanBridged { underlay, .. }
            | Self::VxlanGroup { underlay, .. }
            | Self::VxlanLearnt { underlay, .. } => *underlay,
        }
    }

    /// True if a network of this join can ever be reached so. Joins that make other segments, or find
    /// nodes otherwise, do not follow on each other: what does not suit is of an earlier network.
    pub fn suits(&self, join: &Join) -> bool {
        let (bridged, group) = match self {
            Self::Direct { .. } | Self::Bgp { .. } => return !join.kind().is_bridged(),
            Self::Vxlan { .. } => (false, false),
            Self::VxlanLearnt { .. } => (false, true),
            Self::VxlanBridged { .. } => (true, false),
            Self::VxlanGroup { .. } => (true, true),
        };
        (bridged, group) == (join.kind().is_bridged(), join.kind().group().is_some())
    }

    /// The UDP port that packets arrive at, where they are inside UDP.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Direct { .. } | Self::Bgp { .. } => None,
            Self::Vxlan { port, .. }
            | Self::VxlanBridged { port, .. }
            | Self::VxlanGroup { port, .. }
            | Self::VxlanLearnt { port, .. } => Some(*port),
        }
    }

    /// What a node must hold to be reached this way, and to send this way too.
    pub fn hold(&self, on: &Ground<'_>) -> State {
        match self {
            Self::Direct { .. } | Self::Bgp { .. } => State::default(),
            Self::Vxlan { underlay, vni, port, mac } => {
                vxlan::hold((*underlay, *vni, *port, *mac), on)
            }
            Self::VxlanLearnt { underlay, vni, port, mac, group } => {
                vxlan::learnt::hold_routed((*underlay, *vni, *port, *mac), group, on)
            }
            Self::VxlanBridged { underlay, vni, port, mac } => {
                bridged::hold((*underlay, *vni, *port, *mac), None, on)
            }
            Self::VxlanGroup { underlay, vni, port, mac, group } => {
                bridged::hold((*underlay, *vni, *port, *mac), Some(group), on)
            }
        }
    }

    /// The device that `hold` makes, where it makes one.
    pub fn device(&self) -> Option<IfName> {
        match self {
            Self::Direct { .. } | Self::Bgp { .. } => None,
            Self::Vxlan { underlay, vni, .. }
            | Self::VxlanBridged { underlay, vni, .. }
            | Self::VxlanGroup { underlay, vni, .. }
            | Self::VxlanLearnt { underlay, vni, .. } => Some(vxlan::device(*vni, *underlay)),
        }
    }

    /// The sysctls that `hold` may set.
    pub fn knobs(&self) -> Vec<Knob> {
        let Some(dev) = self.device() else { return Vec::new() };
        match self {
            Self::VxlanLearnt { .. } => vec![
                Knob::RpFilter(dev.clone()),
                Knob::ProxyNdp(dev.clone()),
                Knob::ProxyDelay4(dev.clone()),
                Knob::ProxyDelay6(dev),
            ],
            _ => vec![Knob::RpFilter(dev)],
        }
    }

    /// The path by which `sender` would use this way, for pod addresses of the given family, or
    /// why it can't.
    pub fn path(
        &self,
        sender: &Sender<'_>,
        peer: &crate::paths::Peer<'_>,
        ipv4: bool,
    ) -> Result<Path, Refusal> {
        let path = match self {
            Self::Direct { .. } => hostgw::path(self, sender, peer, ipv4),
            Self::Bgp { .. } => bgp::path(self, sender, peer, ipv4),
            Self::Vxlan { vni, .. } | Self::VxlanLearnt { vni, .. } => {
                vxlan::path(self, *vni, sender, peer, ipv4)
            }
            Self::VxlanBridged { vni, .. } | Self::VxlanGroup { vni, .. } => {
                bridged::path(self, *vni, sender, peer, ipv4)
            }
        }?;
        if !ipv4 && path.mtu < Mtu::IPV6_LEAST {
            return Err(Refusal::TooSmallForIpv6 { mtu: path.mtu });
        }
        Ok(path)
    }

    /// Neighbour and FDB entries that a next hop by this way stands on.
    pub fn facts(&self, dev: &IfName, via: IpAddr) -> Option<[Object; 2]> {
        match self {
            Self::Vxlan { underlay, mac, .. } => Some(vxlan::facts(dev, via, *mac, *underlay)),
            Self::Direct { .. }
            | Self::Bgp { .. }
            | Self::VxlanBridged { .. }
            | Self::VxlanGroup { .. }
            | Self::VxlanLearnt { .. } => None,
        }
    }

    /// True if whoever sends to both holds one thing for it: their `counterpart` is the same.
    pub fn same_way_back(&self, other: &Self) -> bool {
        let family = self.underlay().is_ipv4() == other.underlay().is_ipv4();
        family && self.shared() == other.shared()
    }

    /// What is the same on all nodes.
    fn shared(&self) -> (u8, Option<(Vni, u16)>, Option<&Group>) {
        match self {
            Self::Direct { .. } => (0, None, None),
            Self::Bgp { .. } => (5, None, None),
            Self::Vxlan { vni, port, .. } => (1, Some((*vni, *port)), None),
            Self::VxlanBridged { vni, port, .. } => (2, Some((*vni, *port)), None),
            Self::VxlanGroup { vni, port, group, .. } => (3, Some((*vni, *port)), Some(group)),
            Self::VxlanLearnt { vni, port, group, .. } => (4, Some((*vni, *port)), Some(group)),
        }
    }

    /// The way back: what `me` must hold to send to a peer that is reached this way.
    pub fn counterpart(&self, me: &Receiver<'_>) -> Option<Self> {
        let back = match self {
            Self::Direct { .. } => hostgw::HostGw {}.receives(me),
            Self::Bgp { .. } => bgp::Bgp::default().receives(me),
            Self::Vxlan { vni, port, .. } => tunnel(*vni, *port, None)?.receives(me),
            Self::VxlanLearnt { vni, port, group, .. } => {
                tunnel(*vni, *port, Some(group))?.receives(me)
            }
            Self::VxlanBridged { vni, port, .. } => {
                bridged::Bridged { tunnel: tunnel(*vni, *port, None)? }.receives(me)
            }
            Self::VxlanGroup { vni, port, group, .. } => {
                bridged::Bridged { tunnel: tunnel(*vni, *port, Some(group))? }.receives(me)
            }
        };
        back.into_iter().find(|back| back.underlay().is_ipv4() == self.underlay().is_ipv4())
    }
}

/// None of a peer's port 0, at which nobody can be reached.
fn tunnel(vni: Vni, port: u16, group: Option<&Group>) -> Option<vxlan::Vxlan> {
    let port = NonZeroU16::new(port)?;
    Some(vxlan::Vxlan { vni, port, finding: group.map(Into::into).unwrap_or_default() })
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Bgp => "bgp",
            Self::Vxlan => "vxlan",
            Self::VxlanBridged => "vxlan-bridged",
        })
    }
}
