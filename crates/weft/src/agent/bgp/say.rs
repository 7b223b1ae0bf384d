//! What this node says to its neighbours: the blocks of each network that is held by BGP, and its pods
//! one by one where that is asked.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use weft_core::{
    attachment::Phase,
    bgp::Originated,
    join::{
        Way,
        bgp::{Advertise, Bgp},
    },
};

use crate::agent::{Agent, NetworkHere, Serving};

/// Also of a network that is changing to another join: nobody sends by BGP any more once it is said
/// no more.
pub fn originated(agent: &Agent, serving: &Serving) -> BTreeMap<IpNet, Originated> {
    let mut originated = BTreeMap::new();
    for (name, here) in serving.networks.iter().filter(|(_, here)| held(here)) {
        let plain = Bgp::default();
        let join = here.network.join.kind().bgp().unwrap_or(&plain);
        let pods: Vec<IpAddr> = if alone(here) {
            let ledger = agent.ledger();
            let attached = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
            attached.filter(|pod| pod.network == *name).flat_map(|pod| pod.addrs.clone()).collect()
        } else {
            Vec::new()
        };
        originated.extend(Originated::of(join, &here.blocks, pods.into_iter()));
    }
    originated
}

fn held(here: &NetworkHere) -> bool {
    here.stage.hold.iter().any(|receive| receive.way() == Way::Bgp)
}

/// True if each pod's address is said.
pub fn alone(here: &NetworkHere) -> bool {
    let bgp = here.network.join.kind().bgp();
    bgp.is_some_and(|bgp| bgp.advertise == Advertise::Addresses)
}
