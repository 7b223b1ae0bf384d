//! Paths: the ways by which one node can send to another, and which of them it takes. The chooser
//! is outside all kinds of join; it knows only what a path costs and whether it is possible.
//!
//! How a change of join proceeds without losing a packet is in `stage.rs`.

mod foresee;
mod stage;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use foresee::cut_off;
pub use stage::{Choices, PeerChoice, Situation, Stage, acknowledged, stage};

use crate::{
    join::{Receive, Way, bgp, vxlan::tunnel_address},
    learnt::{Learnt, through},
    name::{IfName, Mtu, NodeName},
    state::{Group, Hop, Object, Route},
};

/// A node's address on the underlay and the device that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub dev: IfName,
    pub addr: IpNet,
    pub mtu: Mtu,
}

/// What the kernel answers when asked for the way to an underlay address (`ip route get`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    pub dev: IfName,
    /// None: the address is on-link.
    pub gateway: Option<IpAddr>,
    pub mtu: Mtu,
}

/// The node that sends.
pub struct Sender<'a> {
    pub underlay: &'a [Nic],
    /// How each address of a peer is reached; none: not at all.
    pub reach: &'a BTreeMap<IpAddr, Option<Reach>>,
    /// Pods' packets can leave by this device alone.
    pub only_by: Option<&'a IfName>,
    /// What BGP's neighbours have said.
    pub learnt: &'a Learnt,
}

/// The node that is sent to, in one network.
pub struct Peer<'a> {
    pub name: &'a NodeName,
    pub blocks: &'a [IpNet],
    /// The smallest MTU of its underlay devices.
    pub mtu: Mtu,
    pub receives: &'a [Receive],
    /// Ways that it still holds but will soon give up.
    pub withdrawing: &'a [Receive],
}

impl Peer<'_> {
    pub fn block(&self, ipv4: bool) -> Option<&IpNet> {
        self.blocks.iter().find(|block| block.addr().is_ipv4() == ipv4)
    }

    pub fn tunnel_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.block(ipv4).map(tunnel_address)
    }
}

/// One possible way to one peer, for pod addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The peer's side of it, as it advertises it.
    pub receive: Receive,
    pub dev: IfName,
    /// The next hop that the route names.
    pub via: IpAddr,
    pub mtu: Mtu,
    /// Bytes of each packet that go to the envelope.
    pub overhead: u16,
    /// Where each block is reached by next hops of its own, several at once perhaps; `dev` and `via` are
    /// then the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<Leg>,
}

/// The next hops by which one of a peer's blocks is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    pub block: IpNet,
    pub hops: Group,
}

/// Why a way can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    #[error("{underlay} is not on-link: it is reached through {gateway}")]
    NotOnLink { underlay: IpAddr, gateway: IpAddr },
    #[error("no route to {underlay}")]
    NoRoute { underlay: IpAddr },
    #[error("this node has no underlay address of the family of {underlay}")]
    NoFamily { underlay: IpAddr },
    #[error("the way to {underlay} is by {dev}, and pods' packets leave by {parent} alone")]
    NotByParent { underlay: IpAddr, dev: IfName, parent: IfName },
    #[error("an IPv6 route cannot go through the IPv4 next hop {underlay}")]
    Ipv6OverIpv4 { underlay: IpAddr },
    #[error("the peer has no {} block yet", if *ipv4 { "IPv4" } else { "IPv6" })]
    NoBlock { ipv4: bool },
    #[error("IPv6 needs packets of 1280 bytes (RFC 8200, 5), and this way takes {mtu}")]
    TooSmallForIpv6 { mtu: Mtu },
    #[error("{block} is {} by BGP", if *settling { "not yet learnt" } else { "not learnt" })]
    NotLearnt { block: IpNet, settling: bool },
    #[error("{block} was learnt by BGP a moment ago from a router that may not forward yet")]
    JustLearnt { block: IpNet },
    #[error("{block} was learnt by BGP, but {why}")]
    LeadsNowhere { block: IpNet, why: String },
    #[error("the peer does not receive {0}")]
    NotReceived(Way),
}

/// What was chosen for one peer and family, and why not something better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub path: Option<Path>,
    /// Ways that stand before the chosen one in the network's order, and what spoke against each.
    pub refused: Vec<(Way, Refusal)>,
}

/// Picks the first possible path in the order of the join, IPv4 underlay before IPv6 (it costs 20
/// bytes less). Where none of these can be taken, another that the peer advertises is better than
/// none: while a join changes, nodes are not all at the same stage. What a peer withdraws comes
/// last, since it goes once we have acknowledged.
///
/// Whether BGP leads to a peer is known only once its session stands, so until then all that is
/// withdrawn is better than nothing, and a path to some of its blocks is better than to none.
pub fn choose(order: &[Way], sender: &Sender<'_>, peer: &Peer<'_>, ipv4: bool) -> Choice {
    let all = [Way::Direct, Way::Bgp, Way::Vxlan];
    let others = all.into_iter().filter(|way| !order.contains(way));
    let advertised = order.iter().copied().chain(others.clone()).map(|way| (way, peer.receives));
    let by_bgp = order.contains(&Way::Bgp) || peer.receives.iter().any(|r| r.way() == Way::Bgp);
    let last = others.filter(|_| by_bgp);
    let withdrawn = order.iter().copied().chain(last).map(|way| (way, peer.withdrawing));
    let mut refused: Vec<(Way, Refusal)> = Vec::new();
    for (way, receives) in advertised.chain(withdrawn) {
        match best(way, receives, sender, peer, ipv4) {
            Ok(path) => return Choice { path: Some(path), refused },
            Err(refusal) => {
                let known = refused.iter().any(|(known, _)| *known == way);
                refused.extend((order.contains(&way) && !known).then_some((way, refusal)));
            }
        }
    }
    let mut said = peer.receives.iter().chain(peer.withdrawing).filter(|r| r.way() == Way::Bgp);
    let path = said.find_map(|receive| bgp::part(receive, sender, peer, ipv4).ok());
    Choice { path, refused }
}

fn best(
    way: Way,
    receives: &[Receive],
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let mut ways: Vec<&Receive> = receives.iter().filter(|r| r.way() == way).collect();
    ways.sort_by_key(|receive| receive.underlay().is_ipv6());
    let mut first = None;
    for receive in ways {
        match receive.path(sender, peer, ipv4) {
            Ok(path) => return Ok(path),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(first.unwrap_or(Refusal::NotReceived(way)))
}

impl Path {
    pub fn way(&self) -> Way {
        self.receive.way()
    }

    /// What the kernel must hold so that packets for `blocks` take this path.
    pub fn objects<'a>(&'a self, blocks: impl Iterator<Item = &'a IpNet> + 'a) -> Vec<Object> {
        if !self.legs.is_empty() {
            let wanted: BTreeSet<&IpNet> = blocks.collect();
            let legs = self.legs.iter().filter(|leg| wanted.contains(&leg.block));
            return legs.flat_map(|leg| through(leg.block, &leg.hops)).collect();
        }
        // Where peers are learnt, the range leads to all of them.
        let learnt = matches!(self.receive, Receive::VxlanLearnt { .. });
        let hop = Object::NextHop { dev: self.dev.clone(), via: self.via };
        let routes = blocks.filter(move |_| !learnt).map(|block| {
            let to = Hop::NextHop(self.dev.clone(), self.via);
            Object::Route(Route { dst: *block, to, mtu: None })
        });
        self.receive
            .facts(&self.dev, self.via)
            .into_iter()
            .flatten()
            .chain((!learnt).then_some(hop))
            .chain(routes)
            .collect()
    }

    /// Each device and next hop that it leaves by.
    pub fn ends(&self) -> BTreeSet<(&IfName, IpAddr)> {
        if self.legs.is_empty() {
            return [(&self.dev, self.via)].into();
        }
        let hops = self.legs.iter().flat_map(|leg| leg.hops.hops());
        hops.map(|(dev, via)| (dev, *via)).collect()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.way().fmt(f)?;
        self.ends().iter().try_for_each(|(dev, via)| write!(f, " dev {dev} via {via}"))?;
        write!(f, " mtu {}", self.mtu)
    }
}
