//! The underlay: its families, its segments, and what of it changes while pods run.

use crate::story::*;

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
    cluster.apply("net", &cluster.network("veth", "host-gw", 1)).unwrap();
    cluster.settled("net", "host-gw").unwrap();
    let (way, why) = cluster.way("node-a", "node-c", "net", true).unwrap();
    assert!(way == "none" && why.contains("is not on-link"), "{way}: {why}");
    assert!(reaches(&pods[0], &pods[1]) && !reaches(&pods[0], &pods[2]));
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
