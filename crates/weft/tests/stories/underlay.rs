//! The underlay: its families, its segments, and what of it changes while pods run.

use crate::story::*;

/// Article: Overlay | non-intrusive: works over whatever carries IP
/// Negative: two nodes without an address family in common: refused with the reason; a third that has both reaches each
#[test]
fn every_underlay_carries_every_family() {
    for underlay in [Families::V4, Families::V6, Families::Mixed] {
        let nodes = if underlay == Families::Mixed { 3 } else { 2 };
        let cluster = built(&Plan { underlay, ..plan(nodes) });
        begin(&cluster, "veth", "vxlan");
        for node in &cluster.nodes {
            node.wait_until("converged", |node| {
                let status = node.status()?;
                Ok(status["converged"] == true
                    && status["networks"]["net"]["peers"] == nodes - 1
                    && node.plan()?.is_empty())
            })
            .unwrap();
        }
        let (pods, _echo) = answering(&cluster);
        // Node a has IPv4 alone and node b IPv6 alone: these two can't, the third reaches both.
        let last = pods.len() - 1;
        for other in 0..last {
            until(&format!("{underlay:?}: pods meet"), || {
                reaches(&pods[last], &pods[other]) && reaches(&pods[other], &pods[last])
            });
        }
        if underlay == Families::Mixed {
            let status = cluster.nodes[0].status().unwrap();
            let why = status["networks"]["net"]["unreachable"]["node-b"].to_string();
            assert!(why.contains("family"), "{why}");
        }
    }
}

/// Article: Direct routing | stricter requirements on the underlay
/// Negative: host-gw through a router is refused with the reason; VXLAN carries the same packet, `auto` mixes
#[test]
fn between_segments_direct_is_refused_vxlan_works_and_auto_mixes() {
    let plan = Plan { topology: Topology::Routed, ..plan(3) };
    let cluster = cluster_of(&plan, "veth", "auto");
    let (pods, _echo) = answering(&cluster);
    assert_eq!(cluster.way("node-a", "node-b", "net", true).unwrap().0, "direct");
    let (way, why) = cluster.way("node-a", "node-c", "net", true).unwrap();
    assert_eq!(way, "vxlan");
    assert!(why.contains("192.0.2.254"), "{why}");
    assert!(
        reaches(&pods[0], &pods[1]) && reaches(&pods[0], &pods[2]) && reaches(&pods[2], &pods[1])
    );
    let explained = cluster.nodes[0]
        .ask("GET", &format!("/v1/explain?from=a1&to={}", pods[2].addr(true).unwrap()), None)
        .unwrap();
    let text = explained.to_string();
    for word in
        ["not direct to node-c", "vxlan id 1 dstport 4789", "the kernel agrees", "\"mtu\":1450"]
    {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    // Nobody is cut off by mistake.
    let direct = cluster.network("veth", "host-gw", 1);
    let refused = cluster.apply("net", &direct).unwrap_err().to_string();
    for word in ["node-c would not be reached from node-a", "is not on-link", "--force"] {
        assert!(refused.contains(word), "{word} is not in {refused}");
    }
    assert!(reaches(&pods[0], &pods[2]));
    cluster.nodes[0].ask("PUT", "/v1/networks/net?force=true", Some(direct)).unwrap();
    cluster.settled("net", "host-gw").unwrap();
    let (way, why) = cluster.way("node-a", "node-c", "net", true).unwrap();
    assert!(way == "none" && why.contains("is not on-link"), "{way}: {why}");
    assert!(reaches(&pods[0], &pods[1]) && !reaches(&pods[0], &pods[2]));
    let status = cluster.nodes[0].status().unwrap();
    let cut = status["networks"]["net"]["unreachable"]["node-c"].as_str().unwrap();
    assert!(cut.contains("direct: 198.51.100.3 is not on-link"), "{status}");
    // Nor is anybody kept from what helps.
    cluster.apply("net", &cluster.network("veth", "vxlan", 1)).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    assert!(reaches(&pods[0], &pods[2]));
}

#[test]
fn an_address_of_the_node_that_changes_is_followed() {
    let cluster = cluster(2, "veth", "vxlan");
    let (pods, _echo) = answering(&cluster);
    assert!(reaches(&pods[0], &pods[1]));
    let netns = &cluster.nodes[1].netns;
    rig::remove_addr(netns, "eth0", "192.0.2.2/24".parse().unwrap()).unwrap();
    rig::addr(netns, "eth0", "192.0.2.77/24".parse().unwrap()).unwrap();
    rig::route(netns, "0.0.0.0/0".parse().unwrap(), "192.0.2.254".parse().unwrap()).unwrap();
    until("followed", || reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    assert!(sh(&cluster.nodes[0].netns, "bridge fdb show dev weftx4-1").contains("192.0.2.77"));
    cluster.settled("net", "vxlan").unwrap();
}

/// Traffic is as it was, and nobody has anything left to do or to say.
fn well_again(what: &str, site: &Site, pods: &[Pod], join: &str) {
    until(&format!("{what}: pods meet again"), || {
        reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0])
    });
    site.settled("net", join).unwrap();
    for node in &site.nodes {
        node.wait_until(&format!("{what}: quiet"), |node| {
            Ok(node.status()?["problems"].as_array().is_some_and(Vec::is_empty))
        })
        .unwrap();
    }
}

/// What a network daemon does once the device is up: its IPv6 address and the ways out are gone.
fn as_before(node: &Node, dev: &str) {
    let script = format!(
        "ip addr replace 192.0.2.1/24 dev {dev}
         ip addr replace 2001:db8:1::1/64 dev {dev} nodad
         ip route replace default via 192.0.2.254 dev {dev}
         ip -6 route replace default via 2001:db8:1::fe dev {dev}"
    );
    sh(&node.netns, &script);
}

/// Every join, each with an attach that it goes with.
const MODELS: [(&str, &str); 5] = [
    ("veth", "vxlan"),
    ("bridge", "host-gw"),
    ("bridge", "vxlan-bridged"),
    ("bridge", "vxlan-bridged+multicast"),
    ("veth", "vxlan+multicast"),
];

#[test]
fn a_device_that_goes_down_and_comes_up_is_followed() {
    for (attach, join) in MODELS {
        let site = cluster(2, attach, join);
        let (pods, _echo) = answering(&site);
        let node = &site.nodes[0];
        assert!(reaches(&pods[0], &pods[1]));
        for round in 0..2 {
            sh(&node.netns, "ip link set eth0 down");
            assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_none());
            node.wait_until("saying it", |node| {
                Ok(node.status()?["problems"]
                    .to_string()
                    .contains("eth0 has an address but is down"))
            })
            .unwrap();
            sh(&node.netns, "ip link set eth0 up");
            as_before(node, "eth0");
            well_again(&format!("{join}, round {round}"), &site, &pods, join);
        }
    }
}

#[test]
fn an_address_and_the_way_out_that_move_to_another_device_are_followed() {
    for (attach, join) in MODELS {
        let site = cluster(2, attach, join);
        let (pods, _echo) = answering(&site);
        let node = &site.nodes[0];
        let switch = site.wire.switch(0);
        rig::pair(&node.netns, "eth1", switch, "second", 1500).unwrap();
        rig::port(switch, "second", "br0").unwrap();
        // Whoever has the old device's MAC in its cache is told, as daemons do.
        sh(
            &node.netns,
            "ip addr flush dev eth0 scope global; ip link set eth0 down; ip link set eth1 down
             echo 1 >/proc/sys/net/ipv4/conf/eth1/arp_notify
             echo 1 >/proc/sys/net/ipv6/conf/eth1/ndisc_notify
             ip addr add 192.0.2.1/24 dev eth1",
        );
        assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_none(), "{join}");
        sh(&node.netns, "ip link set eth1 up");
        as_before(node, "eth1");
        well_again(join, &site, &pods, join);
        let underlay = node.status().unwrap()["underlay"].clone();
        assert!(underlay.as_array().unwrap().iter().all(|nic| nic["dev"] == "eth1"), "{underlay}");
        let routes = sh(&node.netns, "ip route; ip -6 route");
        assert!(!routes.contains("eth0"), "{routes}");
    }
}

#[test]
fn an_ipv6_address_of_the_node_that_changes_is_followed() {
    for (attach, join) in MODELS {
        let plan = Plan { underlay: Families::V6, families: Families::V6, ..plan(2) };
        let site = cluster_of(&plan, attach, join);
        let (pods, _echo) = answering(&site);
        assert!(reaches(&pods[0], &pods[1]));
        sh(
            &site.nodes[1].netns,
            "ip addr del 2001:db8:1::2/64 dev eth0; ip addr add 2001:db8:1::77/64 dev eth0 nodad",
        );
        let netns = &site.nodes[0].netns;
        let paths =
            || sh(netns, "ip -6 route; ip nexthop; bridge fdb; ip -6 neigh show nud permanent");
        until(&format!("{join}: on the new address"), || {
            let paths = paths();
            paths.contains("2001:db8:1::77") && !paths.contains("db8:1::2 ")
        });
        well_again(join, &site, &pods, join);
    }
}

/// Largest packet with DF that each of two pods gets through to the other, by both families.
fn largest_both_ways(pods: &[Pod]) -> [Option<usize>; 4] {
    let one = |from: usize, to: usize, ipv4: bool| {
        largest(&pods[from].netns, pods[to].addr(ipv4).unwrap())
    };
    [one(0, 1, true), one(1, 0, true), one(0, 1, false), one(1, 0, false)]
}

fn set_mtu(netns: &Netns, dev: &str, mtu: u32) {
    sh(netns, &format!("ip link set {dev} mtu {mtu}"));
}

/// One node's device after the other, with the switch wide enough before and after.
fn resized(attach: &str, join: &str, overhead: usize) {
    let site = cluster(2, attach, join);
    let (pods, _echo) = answering(&site);
    let switch = site.wire.switch(0);
    let wire = |mtu| ["node-a", "node-b", "br0"].map(|dev| set_mtu(switch, dev, mtu));
    let follow = |node: usize, nic: u32, narrowest: usize| {
        set_mtu(&site.nodes[node].netns, "eth0", nic);
        let want = [Some(narrowest - overhead); 4];
        let what = format!("{attach} × {join}: node {node} to {nic}");
        until(&what, || largest_both_ways(&pods) == want);
        well_again(&what, &site, &pods, join);
        for pod in &pods {
            let routes = sh(&pod.netns, "ip route; ip -6 route");
            assert!(routes.contains(&format!("mtu {}", narrowest - overhead)), "{what}: {routes}");
        }
    };
    assert_eq!(largest_both_ways(&pods), [Some(1500 - overhead); 4]);
    follow(0, 1400, 1400);
    follow(1, 1400, 1400);
    // Growing costs no packet, not even the largest that fits at each moment.
    wire(9000);
    let flows = [(0, 1, true), (1, 0, true), (0, 1, false), (1, 0, false)]
        .map(|(from, to, v4)| Flow::start(FlowKind::Full, &pods[from], &pods[to], v4).unwrap());
    follow(0, 9000, 1400);
    follow(1, 9000, 9000);
    let mut all = Report::default();
    flows.into_iter().for_each(|flow| all += flow.stop());
    assert!(all.sent > 0);
    assert_eq!(all.lost, 0, "{attach} × {join}: {all:?}");
    follow(1, 1500, 1500);
    follow(0, 1500, 1500);
    wire(1500);
    assert_eq!(largest_both_ways(&pods), [Some(1500 - overhead); 4]);
}

#[test]
fn a_device_that_changes_its_mtu_is_followed_by_pods_of_veth_over_vxlan() {
    resized("veth", "vxlan", 50);
}

#[test]
fn a_device_that_changes_its_mtu_is_followed_by_pods_of_a_bridge_over_host_gw() {
    resized("bridge", "host-gw", 0);
}

#[test]
fn a_device_that_changes_its_mtu_is_followed_by_pods_of_a_segment() {
    resized("bridge", "vxlan-bridged", 50);
    resized("bridge", "vxlan-bridged+multicast", 50);
}

#[test]
fn a_device_that_changes_its_mtu_is_followed_by_pods_in_a_group() {
    resized("veth", "vxlan+multicast", 50);
}
