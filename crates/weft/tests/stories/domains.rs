//! Bridge domains: one L2 segment per VNI over all nodes, and nothing between two of them.

use weft::lab::WORLD4;

use crate::story::*;

const BRIDGED: &str = "vxlan-bridged";

#[test]
fn pods_of_all_nodes_share_a_segment_and_reach_nodes_and_the_world_by_one_gateway() {
    let site = cluster(3, "bridge", BRIDGED);
    let (pods, _echo) = answering(&site);
    for from in &pods {
        for to in &pods {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
        let inside = sh(&from.netns, "ip addr show eth0; ip route; ip -6 route; ip neigh");
        eprintln!("{inside}");
    }
    eprintln!(
        "{}",
        sh(
            &site.nodes[0].netns,
            "ip -d link show type vxlan; bridge fdb; ip neigh; ip route; ip -6 route; bridge -d link"
        )
    );
    let _ = WORLD4;
    for node in &site.nodes {
        empty_plan(node);
    }
}
