//! What a node holds for a segment that it shares with a peer, as text.

use std::collections::BTreeMap;

use crate::{
    attach::Segment,
    desired::{self, Host, Served},
    learnt::Learnt,
    name::{IfName, Mtu, NetworkName, NodeName},
    network::Network,
    paths::{Nic, Reach, Sender, Situation, stage},
    view::View,
};

/// One node's state beside a peer with two blocks and one pod, links and sysctls left out.
fn beside_a_peer(network: &str) -> Vec<String> {
    let (me, name): (NodeName, NetworkName) = ("a".parse().unwrap(), "n".parse().unwrap());
    let network: Network = serde_json::from_str(network).unwrap();
    network.check(&name).unwrap();
    let mut view = View::default();
    view.put("networks/n", serde_json::to_string(&network).unwrap().as_bytes(), 1);
    let receive = match network.join.kind().group() {
        None => r#"{"way":"vxlan-bridged""#,
        Some(_) => r#"{"way":"vxlan-group","group":{"addr":"239.1.1.7","ttl":1}"#,
    };
    let peer = format!(
        r#"{{"schema":1,"boot":"x","version":"0","underlay":["192.0.2.2"],"mtu":1500,"networks":
           {{"n":{{"blocks":["10.1.2.0/24","fd00:1:2::/112"],"send":1450,"accept":1450,
           "receives":[{receive},"underlay":"192.0.2.2","vni":7,"port":4789,
           "mac":"02:00:00:00:00:02"}}]}}}}}}"#
    );
    view.put("nodes/b", peer.as_bytes(), 2);
    let pods =
        r#"{"schema":1,"pods":[{"mac":"02:00:00:00:02:05","addrs":["10.1.2.5","fd00:1:2::5"]}]}"#;
    view.put("pods/n/b", pods.as_bytes(), 3);
    assert!(view.said.is_empty(), "{:?}", view.said);
    let nic =
        Nic { dev: IfName::new("eth0"), addr: "192.0.2.1/24".parse().unwrap(), mtu: Mtu::ETHERNET };
    let reach = Reach { dev: IfName::new("eth0"), gateway: None, mtu: Mtu::ETHERNET };
    let reach = BTreeMap::from([("192.0.2.2".parse().unwrap(), Some(reach))]);
    let blocks = ["10.1.1.0/24".parse().unwrap(), "fd00:1:1::/112".parse().unwrap()];
    let nics = [nic];
    let stage = stage(&Situation {
        node: &me,
        name: &name,
        network: &network,
        sender: Sender {
            underlay: &nics,
            reach: &reach,
            only_by: None,
            learnt: &Learnt::default(),
        },
        blocks: &blocks,
        view: &view,
        known: None,
        parent: None,
        hosts: &[],
        patience_over: false,
    });
    let served =
        [Served { name: &name, network: &network, blocks: &blocks, stage: &stage, access: None }];
    let host = Host { nics: nics.to_vec(), wire: Some(Mtu::ETHERNET), ..Host::default() };
    let state = desired::node(&me, &host, &served, std::iter::empty());
    let lines = state.objects().map(ToString::to_string);
    lines.filter(|line| !line.starts_with("sysctl") && !line.ends_with(" up")).collect()
}

fn network(join: &str, host_access: bool) -> String {
    format!(
        r#"{{"ranges":["10.1.0.0/16","fd00:1::/32"],"attach":"bridge","masquerade":false,
           "untracked":"never","hostAccess":{host_access},
           "join":{{"kind":"vxlan-bridged","vni":7{join}}}}}"#
    )
}

/// Without what is on the node alone.
fn told(network: &str) -> Vec<String> {
    let all = beside_a_peer(network).into_iter();
    all.filter(|line| ["neigh", "fdb", "route"].iter().any(|kind| line.starts_with(kind))).collect()
}

#[test]
fn by_the_store_a_peer_and_its_pods_are_told() {
    let want = [
        "neigh 10.1.2.1 lladdr 02:00:00:00:00:02 dev weftb-n",
        "neigh 10.1.2.5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "neigh fd00:1:2::1 lladdr 02:00:00:00:00:02 dev weftb-n",
        "neigh fd00:1:2::5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "fdb 02:00:00:00:00:02 dst 192.0.2.2 dev weftx4-7",
        "fdb 02:00:00:00:02:05 dst 192.0.2.2 dev weftx4-7",
        "fdb 00:00:00:00:00:00 dst 192.0.2.2 dev weftx4-7",
        "fdb 02:00:00:00:00:02 dev weftx4-7 master static",
        "fdb 02:00:00:00:02:05 dev weftx4-7 master static",
        "route 10.1.0.0/16 dev weftb-n src 10.1.1.1 mtu 1450",
        "route fd00:1::/32 dev weftb-n src fd00:1:1::1 mtu 1450",
    ];
    assert_eq!(told(&network("", true)), want);
    let addrs = beside_a_peer(&network("", true)).into_iter().filter(|l| l.starts_with("addr"));
    let want = [
        "addr 10.1.0.1/16 dev weftb-n noprefixroute scope host",
        "addr 10.1.1.1/32 dev weftb-n",
        "addr fd00:1::1/32 dev weftb-n noprefixroute deprecated",
        "addr fd00:1:1::1/128 dev weftb-n",
    ];
    assert_eq!(addrs.collect::<Vec<_>>(), want);
}

#[test]
fn without_host_access_no_node_is_on_the_segment() {
    let want = [
        "neigh 10.1.2.5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "neigh fd00:1:2::5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "fdb 02:00:00:00:02:05 dst 192.0.2.2 dev weftx4-7",
        "fdb 00:00:00:00:00:00 dst 192.0.2.2 dev weftx4-7",
        "fdb 02:00:00:00:02:05 dev weftx4-7 master static",
    ];
    assert_eq!(told(&network("", false)), want);
    let all = beside_a_peer(&network("", false));
    assert!(!all.iter().any(|line| line.starts_with("addr") || line.contains("masquerade")));
}

#[test]
fn in_a_group_only_what_nodes_need_is_told() {
    let group = r#","discovery":"multicast","group":"239.1.1.7""#;
    let want = [
        "neigh 10.1.2.1 lladdr 02:00:00:00:00:02 dev weftb-n",
        "neigh 10.1.2.5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "neigh fd00:1:2::1 lladdr 02:00:00:00:00:02 dev weftb-n",
        "neigh fd00:1:2::5 lladdr 02:00:00:00:02:05 dev weftb-n",
        "fdb 02:00:00:00:00:02 dst 192.0.2.2 dev weftx4-7",
        "fdb 02:00:00:00:00:02 dev weftx4-7 master static",
        "route 10.1.0.0/16 dev weftb-n src 10.1.1.1 mtu 1450",
        "route fd00:1::/32 dev weftb-n src fd00:1:1::1 mtu 1450",
    ];
    assert_eq!(told(&network(group, true)), want);
    let all = beside_a_peer(&network(group, true));
    let link =
        "link weftx4-7 vxlan id 7 group 239.1.1.7 dev eth0 local 192.0.2.1 dstport 4789 ttl 1";
    assert!(all.iter().any(|line| line.starts_with(link)), "{all:#?}");
}

#[test]
fn the_block_with_the_gateway_is_nobodys() {
    let network: Network = serde_json::from_str(&network("", true)).unwrap();
    assert_eq!(network.segment(), Segment::Network { host_access: true });
    let cases = [
        ("10.1.0.0/24", true),
        ("10.1.1.0/24", false),
        ("fd00:1::/112", true),
        ("fd00:1::1:0/112", false),
    ];
    for (block, kept) in cases {
        assert_eq!(network.keeps(&block.parse().unwrap()), kept, "{block}");
    }
}
