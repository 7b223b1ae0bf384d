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
    let said = "the store lists node-b: the underlay drops multicast to it";
    until("named", || problems(&site.nodes[0]).contains(said));
    sh(site.wire.switch(0), "nft delete table bridge t");
    no_problems(&site);
    everybody(&pods);
    let world: IpAddr = WORLD4.parse().unwrap();
    let seen = seen_by(&pods[0].netns, &site.wire.world, world);
    assert_eq!(seen, site.nodes[0].place.addrs[0].addr(), "to the world as the node");
    site.nodes.iter().for_each(empty_plan);
}
