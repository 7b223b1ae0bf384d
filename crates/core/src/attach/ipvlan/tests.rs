//! What a pod and its node hold of IPVLAN, as written words.

use super::*;
use crate::{
    attach::{Attach, Kind as Attaches, Segment, VlanId, macvlan},
    name::{IfName, Mtu},
};

fn parent(vlan: Option<u64>) -> Parent {
    Parent { nic: IfName::new("eth1"), vlan: vlan.map(|id| VlanId::try_from(id).unwrap()) }
}

fn ipvlan(mode: Mode, flag: Flag) -> Ipvlan {
    Ipvlan { parent: parent(None), mode, flag }
}

/// What a pod holds, and what the node does for the network.
fn held(kind: Ipvlan) -> (Vec<String>, Vec<String>) {
    let pod: Attachment = serde_json::from_value(serde_json::json!({
        "schema": 1, "cni": "net", "container": "c", "ifname": "eth0", "phase": "attached",
        "network": "lan", "attach": {"kind": "ipvlan", "parent": "eth1"}, "runtime": "test",
        "netns": "/run/netns/x", "cookie": 1, "nsid": 0, "mac": "52:54:00:00:00:01",
        "addrs": ["10.77.0.17", "fd00:77::11"], "default_route": true,
    }))
    .unwrap();
    let ranges: [IpNet; 2] = ["10.77.0.0/24".parse().unwrap(), "fd00:77::/64".parse().unwrap()];
    let mtu = |mtu: u64| Mtu::try_from(mtu).unwrap();
    let nic = super::super::Standing { mtu: mtu(1500), mac: pod.mac, up: true, ready: true };
    let on = Ground {
        node: &"node-a".parse().unwrap(),
        network: &"lan".parse().unwrap(),
        ranges: &ranges,
        blocks: &["10.77.0.16/28".parse().unwrap()],
        gateways: &["10.77.0.1".parse().unwrap()],
        segment: Segment::Node,
        nics: &[],
        parent: Some(nic),
        answers: Vec::new(),
        access: None,
        send: mtu(1500),
        accept: mtu(1500),
        wire: mtu(1500),
    };
    let said = |state: State| state.objects().map(ToString::to_string).collect();
    let node = said(kind.node(&on));
    (said(Attach(Attaches::Ipvlan(kind)).inside(&pod, &on)), node)
}

#[test]
fn in_mode_l2_a_pod_is_a_host_of_the_network_with_a_link_local_address_of_its_own() {
    let (mut inside, node) = held(ipvlan(Mode::L2, Flag::Private));
    let own = inside.remove(6);
    let of_nic = "52:54:00:00:00:01".parse::<Mac>().unwrap().link_local().to_string();
    assert!(own.starts_with("addr fe80::") && !own.contains(&of_nic), "{own}");
    assert_eq!(
        inside,
        [
            "link eth0 ipvlan mode l2 private mtu 1500 address 52:54:00:00:00:01",
            "sysctl net.ipv6.conf.eth0.accept_ra = 0",
            "link eth0 up",
            "link lo up",
            "addr 10.77.0.17/24 dev eth0",
            "addr fd00:77::11/64 dev eth0",
            "route 0.0.0.0/0 via 10.77.0.1 dev eth0 mtu 1500",
        ]
    );
    assert_eq!(node, [""; 0]);
}

#[test]
fn in_mode_l3_a_pod_has_its_address_alone_and_the_node_routes() {
    let (inside, node) = held(ipvlan(Mode::L3, Flag::Bridge));
    assert_eq!(
        inside,
        [
            "link eth0 ipvlan mode l3 bridge mtu 1500 address 52:54:00:00:00:01",
            "sysctl net.ipv6.conf.eth0.accept_ra = 0",
            "link eth0 up",
            "link lo up",
            "addr 10.77.0.17/32 dev eth0",
            "addr fd00:77::11/128 dev eth0",
            "route 0.0.0.0/0 dev eth0 mtu 1500",
            "route ::/0 dev eth0 mtu 1500",
        ]
    );
    assert_eq!(node, ["route blackhole 10.77.0.16/28"]);
}

#[test]
fn a_vlan_of_the_parent_is_held_by_the_node() {
    let (_, node) = held(Ipvlan { parent: parent(Some(7)), mode: Mode::L2, flag: Flag::Bridge });
    assert_eq!(
        node,
        [
            "link weftv-eth1.7 vlan link eth1 id 7 mtu 1500 address 52:54:00:00:00:01",
            "link weftv-eth1.7 up",
        ]
    );
}

#[test]
fn a_parent_is_shared_by_equals_alone() {
    let one = ipvlan(Mode::L2, Flag::Bridge);
    assert!(one.beside_on_parent(&ipvlan(Mode::L2, Flag::Bridge)).is_ok());
    let other_mode = ipvlan(Mode::L3s, Flag::Bridge);
    let other_flag = ipvlan(Mode::L2, Flag::Vepa);
    let macvlan = macvlan::Macvlan { parent: parent(None), mode: macvlan::Mode::Bridge };
    for other in [&other_mode as &dyn Attaching, &other_flag, &macvlan] {
        let why = one.beside_on_parent(other).unwrap_err();
        assert!(why.contains("ipvlan on eth1, mode l2 bridge") && why.contains(&other.described()));
        assert!(other.beside_on_parent(&one).is_err());
    }
}
