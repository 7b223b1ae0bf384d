//! Direct routing by BGP: each node says its blocks to its neighbours, and a pod packet goes as it is
//! to wherever the peer's block was learnt from. Costs nothing; needs routers, where there are any
//! between nodes, that speak BGP too.
//!
//! Who speaks with whom is not the network's: see `crate::bgp`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Joining, Receive, Receiver, Way};
use crate::{
    bgp::{Community, LargeCommunity},
    learnt::on_link,
    name::{IfName, Mtu},
    paths::{Leg, Path, Peer, Refusal, Sender},
    state::Group,
};

/// What of this network is said to neighbours, and how it is marked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Bgp {
    /// `blocks`: each node says its blocks. `addresses`: to external neighbours also each pod's
    /// address by itself.
    #[serde(default)]
    pub advertise: Advertise,
    /// RFC 1997: `64512:100`, or a well-known one by its name, such as `no-export`.
    #[serde(default)]
    pub communities: Vec<Community>,
    /// RFC 8092: `64512:1:2`.
    #[serde(default)]
    pub large_communities: Vec<LargeCommunity>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Advertise {
    #[default]
    Blocks,
    Addresses,
}

impl Joining for Bgp {
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive> {
        me.underlay.iter().map(|underlay| Receive::Bgp { underlay: *underlay }).collect()
    }
    fn order(&self) -> &'static [Way] {
        &[Way::Bgp]
    }
    fn bgp(&self) -> Option<&Self> {
        Some(self)
    }
}

/// A path to all of the peer's blocks of the family, or why there is none.
pub fn path(
    receive: &Receive,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let legs: Result<Vec<(Leg, Mtu)>, Refusal> =
        blocks(peer, ipv4).map(|block| settled(block, sender, peer, ipv4)).collect();
    assemble(receive, peer, ipv4, legs?)
}

/// A path to those of its blocks that were learnt, even if just now: better than none to any.
pub fn part(
    receive: &Receive,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let legs = blocks(peer, ipv4).filter_map(|block| leg(block, sender, ipv4).ok()).collect();
    assemble(receive, peer, ipv4, legs)
}

fn blocks<'a>(peer: &'a Peer<'_>, ipv4: bool) -> impl Iterator<Item = &'a IpNet> {
    peer.blocks.iter().filter(move |block| block.addr().is_ipv4() == ipv4)
}

fn assemble(
    receive: &Receive,
    peer: &Peer<'_>,
    ipv4: bool,
    legs: Vec<(Leg, Mtu)>,
) -> Result<Path, Refusal> {
    let narrowest = legs.iter().map(|(_, mtu)| *mtu).min();
    let first = legs.first().and_then(|(leg, _)| leg.hops.hops().first());
    let (Some((dev, via)), Some(mtu)) = (first.cloned(), narrowest) else {
        return Err(Refusal::NoBlock { ipv4 });
    };
    let legs = legs.into_iter().map(|(leg, _)| leg).collect();
    Ok(Path { receive: receive.clone(), dev, via, mtu: mtu.min(peer.mtu), overhead: 0, legs })
}

/// As `leg`, unless a router on the way may not know the way itself yet. The peer does.
fn settled(
    block: &IpNet,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<(Leg, Mtu), Refusal> {
    let leg = leg(block, sender, ipv4)?;
    let peers_own = |via: &IpAddr| peer.receives.iter().any(|own| own.underlay() == *via);
    let fresh = sender.learnt.to(block).filter(|(_, route)| route.fresh);
    if fresh.is_some_and(|(_, route)| !route.hops.iter().all(peers_own)) {
        return Err(Refusal::JustLearnt { block: *block });
    }
    Ok(leg)
}

/// How one block is reached, and the narrowest device on the way.
fn leg(block: &IpNet, sender: &Sender<'_>, ipv4: bool) -> Result<(Leg, Mtu), Refusal> {
    let (block, learnt) = (*block, sender.learnt);
    let Some((_, route)) = learnt.to(&block) else {
        return Err(Refusal::NotLearnt { block, settling: learnt.may_come(&block) });
    };
    let nowhere = |why| Refusal::LeadsNowhere { block, why };
    let mut why = None;
    let (mut hops, mut mtu): (Vec<(IfName, IpAddr)>, _) = (Vec::new(), Mtu::MAX);
    for via in &route.hops {
        match on_link(*via, ipv4, sender.reach) {
            Ok(reach) if sender.only_by.is_some_and(|parent| *parent != reach.dev) => {
                why = why.or(Some(format!("next hop {via} is by {}, not the parent", reach.dev)));
            }
            Ok(reach) => {
                hops.push((reach.dev.clone(), *via));
                mtu = mtu.min(reach.mtu);
            }
            Err(bad) => why = why.or(Some(bad)),
        }
    }
    if hops.is_empty() {
        let said = why.or_else(|| route.why.clone());
        return Err(nowhere(said.unwrap_or_else(|| "it has no next hop".into())));
    }
    Ok((Leg { block, hops: Group::from(hops) }, mtu))
}

#[cfg(test)]
mod tests;
