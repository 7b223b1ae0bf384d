//! What a pod's own namespace is told of policies: of the links on which others reach it past its
//! node's routing, and of what stands behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    firewall::{Firewall, List, ListName},
    spec::Direction,
};
use crate::{
    attach::{Footing, Ground, bridge::first_of},
    attachment::Attachment,
    name::IfName,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub doors: Vec<Door>,
    pub lists: BTreeMap<ListName, Arc<List>>,
}

/// One link, and the lists that decide there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub dev: IfName,
    pub ingress: Lists,
    pub egress: Lists,
    /// The node's own addresses on the link: it and its pods are always open to each other.
    pub nodes: BTreeSet<IpAddr>,
    /// What is reached on the link itself; what leaves for other places is judged by the node. None:
    /// everything is.
    pub near: Option<BTreeSet<IpNet>>,
}

/// By family. None: it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub v4: Option<ListName>,
    pub v6: Option<ListName>,
}

/// What of a packet's way is on the link itself, whatever the link.
const ALWAYS_NEAR: [&str; 5] =
    ["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8"];

/// True if not all that comes to the pod passes its node's routing.
pub fn is_reached_past_node(pod: &Attachment) -> bool {
    let kind = pod.attach.kind();
    kind.footing() != Footing::Node || kind.reached_past_routes()
}

/// The door of a pod's link, if others come in there past the node's routing, and any policy concerns
/// the pod. None: its node judges everything.
pub fn door(pod: &Attachment, on: &Ground<'_>, firewall: &Firewall) -> Option<Door> {
    if !is_reached_past_node(pod) {
        return None;
    }
    let routed = pod.attach.kind().footing() == Footing::Node;
    let lists = |direction| {
        let of = |ipv4: bool| {
            let mut own = pod.addrs.iter().filter(|addr| addr.is_ipv4() == ipv4);
            own.find_map(|addr| firewall.pods.get(&(direction, *addr)).copied())
        };
        // A family without an address of its own is no way around.
        let (v4, v6) = (of(true), of(false));
        Lists { v4: v4.or(v6), v6: v6.or(v4) }
    };
    let (ingress, egress) = (lists(Direction::Ingress), lists(Direction::Egress));
    (ingress != Lists::default() || egress != Lists::default()).then(|| Door {
        dev: pod.id.ifname.clone(),
        ingress,
        egress,
        nodes: nodes(on, routed),
        near: routed.then(|| near(pod, on)),
    })
}

/// What stands behind the doors of one namespace.
pub fn own(doors: Vec<Door>, firewall: &Firewall) -> Own {
    let used = |door: &Door| [door.ingress.v4, door.ingress.v6, door.egress.v4, door.egress.v6];
    let used = doors.iter().flat_map(used).flatten();
    let lists = used.filter_map(|name| Some((name, firewall.lists.get(&name)?.clone()))).collect();
    Own { doors, lists }
}

/// By which addresses the node reaches its pods, and those of the gateway that it is.
fn nodes(on: &Ground<'_>, routed: bool) -> BTreeSet<IpAddr> {
    let gateways = if on.segment.is_wide() { on.ranges } else { &[] };
    let bridge = on.blocks.iter().chain(gateways).filter(|_| routed).map(first_of);
    on.nics.iter().map(|nic| nic.addr.addr()).chain(bridge).collect()
}

fn near(pod: &Attachment, on: &Ground<'_>) -> BTreeSet<IpNet> {
    let always = ALWAYS_NEAR.iter().map(|net| net.parse().expect("written above"));
    pod.addrs.iter().map(|addr| pod.attach.pod_addr(pod, *addr, on).trunc()).chain(always).collect()
}
