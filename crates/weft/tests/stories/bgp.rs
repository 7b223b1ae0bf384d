//! Nodes joined by BGP with nothing said of it: a mesh that finds itself by the store. Routers of other
//! makes are in the stories of racks.

use crate::story::*;

fn bgp(node: &Node) -> Value {
    node.ask("GET", "/v1/bgp", None).unwrap()
}

fn problems(node: &Node) -> String {
    node.status().unwrap()["problems"].to_string()
}

fn well(site: &Site) {
    for node in &site.nodes {
        node.wait_until("well", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
        empty_plan(node);
    }
}

/// What `weft` prints on the node, and its exit code.
fn weft(node: &Node, args: &str) -> (String, i32) {
    let mut command = std::process::Command::new(program());
    command.args(args.split(' ')).env("WEFT_CONTROL", node.control());
    let out = node.netns.run(|| command.output().unwrap()).unwrap();
    let said = [out.stdout, out.stderr].concat();
    (String::from_utf8(said).unwrap(), out.status.code().unwrap())
}

/// Article: BGP | direct routing: BGP spreads each node's pod routes, a veth pair per container, no encapsulation
/// Negative: a node that dies is nobody's next hop any more within a second; routes into the pods' range that no node stands for
#[test]
fn a_mesh_finds_itself_and_pods_reach_each_other() {
    let site = cluster(3, "veth", "bgp");
    let (pods, _echo) = answering(&site);
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        assert!(from.name == to.name || reaches(from, to), "{} to {}", from.name, to.name);
    }
    well(&site);
    let node = &site.nodes[0];
    let (said, code) = weft(node, "bgp");
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("AS 64512 router id 192.0.2.1 routes 4\n"), "{said}");
    assert_eq!(said.matches("established").count(), 2, "{said}");
    let (said, _) = weft(node, "bgp routes");
    assert!(said.contains("node-b (net)") && said.contains("yes"), "{said}");
    let (said, _) = weft(node, "paths");
    assert!(said.contains("bgp dev eth0 via 192.0.2.2 mtu 1500"), "{said}");
    let (said, code) = weft(node, &format!("explain a1 {}", pods[1].addr(true).unwrap()));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("learnt from node-b (AS 64512, 192.0.2.2), of our own AS"), "{said}");
    let largest = [(0, 1, true), (1, 2, false)]
        .map(|(from, to, v4)| largest(&pods[from].netns, pods[to].addr(v4).unwrap()));
    assert_eq!(largest, [Some(1500); 2]);
    let metrics = node.ask("GET", "/metrics", None).unwrap();
    assert!(metrics.to_string().contains("weft_bgp_session_up{neighbour="), "{metrics}");
    site.delete_pods(pods).unwrap();
    node.ask("DELETE", "/v1/networks/net", None).unwrap();
    for node in &site.nodes {
        nothing_left(node);
        node.wait_until("silent", |node| Ok(bgp(node)["speaker"].is_null())).unwrap();
        let left = sh(&node.netns, "ip nexthop; ip route show proto 119; ss -Hltn 'sport = :179'");
        assert_eq!(left, "", "nothing is left");
    }
}
