//! The routed tunnel in a multicast group: no control plane but the wire. Each node answers for its
//! own pods, and who is where is learnt.

use weft::lab::WORLD4;

use crate::{
    domains::{no_problems, problems, seen_by},
    story::*,
};

const LEARNT: &str = "vxlan+multicast";

fn everybody(pods: &[Pod]) {
    for from in pods {
        for to in pods {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
    }
}

/// What was learnt is forgotten, on all nodes.
fn forget_all(site: &Site, dev: &str) {
    for node in &site.nodes {
        sh(
            &node.netns,
            &format!(
                "ip neigh flush dev {dev}; bridge fdb show dev {dev} | grep -v permanent |
                 while read mac rest; do bridge fdb del $mac dev {dev} || true; done"
            ),
        );
    }
}

fn reaches_without_store_or_agent(attach: &str, underlay: Families, dev: &str, mtu: usize) {
    let site = cluster_of(&Plan { underlay, ..plan(3) }, attach, LEARNT);
    let (pods, _echo) = answering(&site);
    no_problems(&site);
    everybody(&pods);
    let (node, there) = (&site.nodes[0], &pods[1]);
    let routes = sh(&node.netns, "ip route; ip -6 route");
    assert!(
        routes.contains(&format!("10.1.0.0/16 dev {dev} proto 119 scope link src")),
        "{routes}"
    );
    assert!(!routes.contains("nhid"), "no route to a peer's block: {routes}");
    for ipv4 in [true, false] {
        let addr = there.addr(ipv4).unwrap();
        assert_eq!(largest(&pods[0].netns, addr), Some(mtu), "{attach}, ipv4 {ipv4}");
        let own = seen_by(&node.netns, &there.netns, addr);
        assert_eq!(seen_by(&there.netns, &node.netns, own), addr, "a node as itself");
        assert_eq!(seen_by(&pods[0].netns, &there.netns, addr), pods[0].addr(ipv4).unwrap());
    }
    let told =
        node.ask("GET", &format!("/v1/explain?from=a1&to={}", there.addrs[0]), None).unwrap();
    assert!(told["works"] == true && told["hops"].to_string().contains("in group"), "{told}");
    // A node answers for the pods that it has, and for nothing else.
    let answered = sh(&node.netns, "ip neigh show proxy");
    assert_eq!(answered.lines().count(), 2, "{answered}");
    // Of a new one as soon as ADD says that it is there: nothing else wakes the agent then.
    let second = node.add_pod("a2", "net").unwrap();
    let answered = sh(&node.netns, "ip neigh show proxy");
    assert_eq!(answered.lines().count(), 4, "{answered}");
    node.delete_pod(second).unwrap();
    until("answered for no more", || sh(&node.netns, "ip neigh show proxy").lines().count() == 2);
    site.nodes.iter().for_each(empty_plan);
    site.nodes.iter().for_each(|node| node.kill().unwrap());
    forget_all(&site, dev);
    everybody(&pods);
    // And all of it goes with the pod.
    for node in &site.nodes {
        node.start(&[]).unwrap();
    }
    site.settled("net", LEARNT).unwrap();
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
    let answered = sh(&node.netns, "ip neigh show proxy");
    assert_eq!(answered, "");
}

#[test]
fn in_a_group_routed_pods_are_reached_without_store_or_agent() {
    reaches_without_store_or_agent("veth", Families::Dual, "weftx4-1", 1450);
}

#[test]
fn in_a_group_over_ipv6_routed_pods_are_reached_without_store_or_agent() {
    reaches_without_store_or_agent("veth", Families::V6, "weftx6-1", 1430);
}

#[test]
fn in_a_group_pods_of_bridges_are_reached_without_store_or_agent() {
    reaches_without_store_or_agent("bridge", Families::V4, "weftx4-1", 1450);
}

#[test]
fn a_wire_that_drops_the_group_cuts_routed_pods_off_and_is_named() {
    let site = cluster(2, "veth", LEARNT);
    let (pods, _echo) = answering(&site);
    no_problems(&site);
    everybody(&pods);
    let forward = "type filter hook forward priority 0;";
    let drop = "ether daddr 01:00:5e:01:01:01 drop";
    sh(
        site.wire.switch(0),
        &format!(
            "nft 'add table bridge t; add chain bridge t f {{ {forward} }}; add rule bridge t f {drop}'"
        ),
    );
    forget_all(&site, "weftx4-1");
    assert!(!reaches(&pods[0], &pods[1]), "asked for in the group alone");
    let said = "the store or `peers` lists node-b: the underlay drops multicast to it";
    until("named", || problems(&site.nodes[0]).contains(said));
    sh(site.wire.switch(0), "nft delete table bridge t");
    no_problems(&site);
    everybody(&pods);
    let world: IpAddr = WORLD4.parse().unwrap();
    let seen = seen_by(&pods[0].netns, &site.wire.world, world);
    assert_eq!(seen, site.nodes[0].place.addrs[0].addr(), "to the world as the node");
    site.nodes.iter().for_each(empty_plan);
}

/// Nodes that have no store in common: their blocks are dealt out, the network is told to each.
fn strangers_to_each_other(peers: &[&str]) -> Site {
    let site = built(&plan(2));
    for (n, node) in site.nodes.iter().enumerate() {
        configure(node, |config| {
            config["store"] = json!({"file": {"dir": node.dir().join("store")}});
            config["blocks"] = json!({"net": [format!("10.1.{}.0/24", n + 1), format!("fd00:1::{}:0/112", n + 1)]});
            config["peers"] = json!(peers);
        });
        node.start(&[]).unwrap();
    }
    for node in &site.nodes {
        let network = site.network("veth", LEARNT, 1);
        node.wait_until("told", |node| {
            node.ask("PUT", "/v1/networks/net", Some(network.clone())).map(|_| true)
        })
        .unwrap();
    }
    site
}

/// Article: VXLAN, multicast | no control centre at all
/// Negative: the store of each node lists no other; a wire that drops the group cuts them off (`a_wire_that_drops`)
#[test]
fn without_any_control_plane_nodes_with_blocks_of_their_own_reach_each_other() {
    let site = strangers_to_each_other(&[]);
    no_problems(&site);
    let (pods, _echo) = answering(&site);
    for (n, pod) in pods.iter().enumerate() {
        let addrs: Vec<String> = pod.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(addrs, [format!("10.1.{}.2", n + 1), format!("fd00:1::{}:2", n + 1)]);
    }
    everybody(&pods);
    let status = site.nodes[0].status().unwrap();
    assert_eq!(status["networks"]["net"]["peers"], 0, "nobody told of the other");
}

#[test]
fn a_peer_that_is_configured_is_missed_by_name_and_alone_is_never_well() {
    let site = strangers_to_each_other(&["node-a", "node-b"]);
    no_problems(&site);
    site.nodes[1].kill().unwrap();
    let says = "the store or `peers` lists node-b";
    until("missed", || problems(&site.nodes[0]).contains(says));
    // Who is told of nobody hears nobody, and says so.
    let node = &site.nodes[0];
    node.kill().unwrap();
    configure(node, |config| config["peers"] = json!([]));
    sh(
        &node.netns,
        "bridge fdb show dev weftx4-1 | grep -v permanent |
         while read mac rest; do bridge fdb del $mac dev weftx4-1 || true; done",
    );
    node.start(&[]).unwrap();
    let says = "no peer was heard in group 239.1.1.1";
    node.wait_until(says, |node| Ok(node.status()?["problems"].to_string().contains(says)))
        .unwrap();
}

#[test]
fn a_block_that_was_dealt_out_twice_is_said_and_neither_is_lost() {
    let site = built(&plan(2));
    for node in &site.nodes {
        configure(node, |config| {
            config["blocks"] = json!({"net": ["10.1.0.0/24", "fd00:1::/112"]})
        });
    }
    begin(&site, "veth", "vxlan");
    let has = |node: &Node| node.status().unwrap()["networks"]["net"]["blocks"].to_string();
    let sorry =
        |node: &Node| problems(node).contains("10.1.0.0/24, of agent.yaml, overlaps 10.1.0.0/24");
    until("said by one", || site.nodes.iter().any(sorry));
    let (told, other): (Vec<&Node>, Vec<&Node>) = site.nodes.iter().partition(|node| sorry(node));
    assert_eq!((told.len(), other.len()), (1, 1));
    until("had by the other", || has(other[0]).contains("10.1.0.0/24"));
    assert!(!has(told[0]).contains("10.1.0.0/24"));
}
