//! One L2 domain per VNI over all nodes (the bridge domain of RFC 7348, section 3): the network's
//! bridge has a VXLAN port, and the whole range is on-link for every pod. Costs what `vxlan` costs.
//!
//! With `discovery: store` nothing is learnt across the tunnel. What is for everybody is sent to
//! each peer (head-end replication); which node has which pod the store says, and then the bridge
//! answers ARP and ND in the pod's stead and the packet goes to that node alone. A pod that the
//! store does not know yet is reached too, by what is sent to everybody (decision 0009).
//!
//! With `discovery: multicast` the kernel joins a group, floods to it and learns from what it hears:
//! between pods no store is asked. A node could not be answered so, since its MAC is that of every
//! node, and for what nodes send to pods elsewhere, Services too, the store says who has which MAC.
//!
//! The gateway has one address and one MAC on all nodes, so a node can't be told from another by
//! these. As itself it has the second address of its block, at the MAC of its VXLAN port: the
//! one MAC besides the bridge's own for which the kernel hands a frame up.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Joining, Receive, Receiver, Way,
    vxlan::{self, Group, Vtep, Vxlan, learnt},
};
use crate::{
    attach::{Ground, bridge},
    name::{IfName, Mac, NetworkName, Vni},
    paths::{Path, Peer, Refusal, Sender},
    state::{Link, Object, State},
    view::Resident,
};

/// Settings of the tunnel, and how nodes find each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Bridged {
    #[serde(flatten)]
    pub tunnel: Vxlan,
}

impl Joining for Bridged {
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive> {
        let bridged = |receive| match receive {
            Receive::Vxlan { underlay, vni, port, mac } => {
                Receive::VxlanBridged { underlay, vni, port, mac }
            }
            Receive::VxlanLearnt { underlay, vni, port, mac, group } => {
                Receive::VxlanGroup { underlay, vni, port, mac, group }
            }
            other => other,
        };
        self.tunnel.receives(me).into_iter().map(bridged).collect()
    }
    fn order(&self) -> &'static [Way] {
        &[Way::VxlanBridged]
    }
    fn vni(&self) -> Option<Vni> {
        Some(self.tunnel.vni)
    }
    fn is_bridged(&self) -> bool {
        true
    }
    fn group(&self) -> Option<IpAddr> {
        self.tunnel.group()
    }
    fn check(&self) -> Result<(), String> {
        self.tunnel.check()
    }
}

pub fn hold(vtep: Vtep, group: Option<&Group>, on: &Ground<'_>) -> State {
    let master = Some(bridge::device(on.network));
    let mut link = Link { master, ..vxlan::link(vtep, on.wire) };
    if let Some(group) = group {
        let Some(joined) = learnt::link(link, vtep, group, on) else { return State::default() };
        link = joined;
    }
    let up = Object::Up { dev: link.dev.clone() };
    [Object::Link(link), up].into_iter().collect()
}

/// As of the tunnel, but through the peer's own address on the segment.
pub fn path(
    receive: &Receive,
    vni: Vni,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let path = vxlan::path(receive, vni, sender, peer, ipv4)?;
    Ok(Path { via: peer.block(ipv4).map_or(path.via, bridge::first_of), ..path })
}

/// What a peer has on the segment that this node is on too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    pub bridge: IfName,
    pub host_access: bool,
    #[serde(skip)]
    pub pods: Vec<Resident>,
}

impl Domain {
    pub fn new(network: &NetworkName, host_access: bool, pods: Vec<Resident>) -> Self {
        Self { bridge: bridge::device(network), host_access, pods }
    }

    /// What the kernel must hold so that frames for the peer and its pods go there, and questions
    /// for their addresses are answered here. `blocks` are of one family.
    pub fn objects<'a>(
        &self,
        path: &Path,
        blocks: impl Iterator<Item = &'a IpNet> + Clone,
    ) -> Vec<Object> {
        let (underlay, vtep, learns) = match path.receive {
            Receive::VxlanBridged { underlay, mac, .. } => (underlay, mac, false),
            Receive::VxlanGroup { underlay, mac, .. } => (underlay, mac, true),
            _ => return Vec::new(),
        };
        let there = |mac: Mac| {
            let dev = path.dev.clone();
            [Object::Fdb { dev: dev.clone(), mac, dst: underlay }, Object::Behind { dev, mac }]
        };
        let known = |ip: IpAddr, mac: Mac| Object::Neigh { dev: self.bridge.clone(), ip, mac };
        let mut objects = Vec::new();
        if self.host_access {
            objects.extend(there(vtep));
            objects.extend(blocks.clone().map(|block| known(bridge::first_of(block), vtep)));
        }
        if !learns {
            objects.push(Object::Flood { dev: path.dev.clone(), dst: underlay });
            objects.extend(self.pods.iter().flat_map(|pod| there(pod.mac)));
        }
        let addrs = self.pods.iter().flat_map(|pod| pod.addrs.iter().map(|addr| (*addr, pod.mac)));
        let of_blocks = addrs.filter(|(addr, _)| blocks.clone().any(|block| block.contains(addr)));
        objects.extend(of_blocks.map(|(addr, mac)| known(addr, mac)));
        objects
    }
}

#[cfg(test)]
mod tests;
