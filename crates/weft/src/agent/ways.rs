//! How the addresses are reached that packets may be sent to: asked of the kernel once, until something
//! changes there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weft_core::{learnt::Learnt, paths::Reach, view::View};

use super::Agent;

/// None: not at all.
pub type Reaches = BTreeMap<IpAddr, Option<Reach>>;

/// How each peer's addresses and each learnt next hop are reached, where it is not known yet.
pub(super) fn find(agent: &Agent, reaches: &mut Reaches, view: &View, learnt: &Learnt) {
    let peers = view.nodes.iter().filter(|(name, _)| **name != agent.node);
    let addrs = peers.flat_map(|(_, node)| node.record.underlay.iter().copied());
    let addrs = addrs.chain(learnt.hops());
    let unknown: BTreeSet<IpAddr> = addrs.filter(|at| !reaches.contains_key(at)).collect();
    let unknown: Vec<IpAddr> = unknown.into_iter().collect();
    for (addr, route) in unknown.iter().zip(agent.kernel.route_to(&unknown)) {
        let reach = route.filter(|route| !route.dev.is_ours()).map(|route| Reach {
            dev: route.dev,
            gateway: route.gateway,
            mtu: route.mtu,
        });
        reaches.insert(*addr, reach);
    }
}

impl Agent {
    /// How each peer's addresses are reached now.
    pub fn reaches(&self, view: &View) -> Reaches {
        let mut reaches = Reaches::new();
        find(self, &mut reaches, view, &Learnt::default());
        reaches
    }
}
