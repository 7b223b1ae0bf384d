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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attach::Segment, name::Mtu};

    fn pod(attach: &str, addrs: &[&str]) -> Attachment {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "cni": "net", "container": "c", "ifname": "eth0", "phase": "opened",
            "network": "net", "attach": serde_json::from_str::<serde_json::Value>(attach).unwrap(),
            "runtime": "test", "netns": "/run/netns/x", "cookie": 1, "mac": "02:00:00:00:00:01",
            "addrs": addrs, "default_route": true,
        }))
        .unwrap()
    }

    fn door_of(
        pod: &Attachment,
        segment: Segment,
        policed: &[(Direction, &str, u64)],
    ) -> Option<Door> {
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse::<IpNet>().unwrap());
        let (ranges, blocks) =
            (nets(["10.1.0.0/16", "fd00:1::/64"]), nets(["10.1.7.0/24", "fd00:1::700/120"]));
        let on = Ground {
            node: &"node-a".parse().unwrap(),
            network: &"net".parse().unwrap(),
            ranges: &ranges,
            blocks: &blocks,
            gateways: &[],
            segment,
            nics: &[],
            answers: Vec::new(),
            send: Mtu::ETHERNET,
            accept: Mtu::ETHERNET,
            wire: Mtu::ETHERNET,
            parent: None,
            access: None,
        };
        let mut firewall = Firewall::default();
        for (direction, addr, name) in policed {
            firewall.pods.insert((*direction, addr.parse().unwrap()), ListName(*name));
        }
        door(pod, &on, &firewall)
    }

    const BRIDGE: &str = r#"{"kind": "bridge"}"#;
    const MACVLAN: &str = r#"{"kind": "macvlan", "parent": "eth1"}"#;
    const IN: (Direction, &str, u64) = (Direction::Ingress, "10.1.7.5", 1);

    fn texts<T: ToString>(some: impl IntoIterator<Item = T>) -> Vec<String> {
        some.into_iter().map(|one| one.to_string()).collect()
    }

    #[test]
    fn a_pod_that_is_reached_by_its_node_alone_or_is_open_has_no_door() {
        let routed = pod(r#"{"kind": "veth"}"#, &["10.1.7.5"]);
        assert_eq!(door_of(&routed, Segment::Node, &[IN]), None);
        assert_eq!(door_of(&pod(BRIDGE, &["10.1.7.5"]), Segment::Node, &[]), None);
        assert_eq!(door_of(&pod(MACVLAN, &["10.1.7.6"]), Segment::Node, &[IN]), None);
    }

    #[test]
    fn on_a_bridge_what_is_near_is_judged_and_the_gateway_is_the_nodes() {
        let bridged = pod(BRIDGE, &["10.1.7.5", "fd00:1::705"]);
        let door = door_of(&bridged, Segment::Node, &[IN]).unwrap();
        assert_eq!(texts(&door.nodes), ["10.1.7.1", "fd00:1::701"]);
        let near = texts(door.near.unwrap());
        assert_eq!(near[0], "10.1.7.0/24");
        assert!(
            near.contains(&"fd00:1::700/120".to_owned()) && near.contains(&"fe80::/10".to_owned())
        );
        let wide = Segment::Network { host_access: true };
        let door = door_of(&bridged, wide, &[IN]).unwrap();
        assert_eq!(texts(&door.nodes), ["10.1.0.1", "10.1.7.1", "fd00:1::1", "fd00:1::701"]);
        assert_eq!(texts(door.near.unwrap())[0], "10.1.0.0/16");
    }

    #[test]
    fn of_a_nics_child_all_is_judged_and_a_family_without_an_address_is_no_way_around() {
        let door = door_of(&pod(MACVLAN, &["10.1.7.5"]), Segment::Node, &[IN]).unwrap();
        let one = Some(ListName(1));
        assert_eq!((door.ingress, door.egress), (Lists { v4: one, v6: one }, Lists::default()));
        assert_eq!(door.near, None);
    }
}
