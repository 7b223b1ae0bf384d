//! Nodes joined by BGP with nothing said of it: a mesh that finds itself by the store. Routers of other
//! makes are in the stories of racks.

use std::fs;

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
pub fn weft(node: &Node, args: &str) -> (String, i32) {
    let mut command = std::process::Command::new(program());
    command.args(args.split(' ')).env("WEFT_CONTROL", node.control());
    let out = node.netns.run(|| command.output().unwrap()).unwrap();
    let said = [out.stdout, out.stderr].concat();
    (String::from_utf8(said).unwrap(), out.status.code().unwrap())
}

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
    // Another daemon's routes are its own; ours are written again.
    let strange = "203.0.113.128/25 via 192.0.2.254 dev eth0 proto bgp";
    node.signal(Signal::SIGSTOP).unwrap();
    sh(&node.netns, &format!("ip route add {strange}; ip nexthop flush proto 119"));
    assert!(!sh(&node.netns, "ip route show proto 119").contains("via 192.0.2.2"), "it hurts");
    node.signal(Signal::SIGCONT).unwrap();
    until("healed", || reaches(&pods[0], &pods[1]));
    well(&site);
    site.delete_pods(pods).unwrap();
    node.ask("DELETE", "/v1/networks/net", None).unwrap();
    for node in &site.nodes {
        nothing_left(node);
        node.wait_until("silent", |node| Ok(bgp(node)["speaker"].is_null())).unwrap();
        let left = sh(&node.netns, "ip nexthop; ip route show proto 119; ss -Hltn 'sport = :179'");
        assert_eq!(left, "", "nothing is left");
    }
    assert!(sh(&node.netns, "ip route").contains("203.0.113.128/25"), "a stranger's route is left");
}

/// What flows between the pods of all nodes, one each way and by both families.
fn flowing(pods: &[Pod]) -> Vec<Flow> {
    [
        (FlowKind::Small, 0, 1, true),
        (FlowKind::Small, 1, 0, false),
        (FlowKind::Full, 1, 2, true),
        (FlowKind::Full, 2, 0, false),
        (FlowKind::Bulk, 0, 2, true),
    ]
    .into_iter()
    .map(|(kind, from, to, v4)| Flow::start(kind, &pods[from], &pods[to], v4).unwrap())
    .collect()
}

fn calm() {
    std::thread::sleep(Duration::from_millis(300));
}

fn nothing_lost(flows: Vec<Flow>, what: &str) {
    calm();
    assert!(flows.iter().all(|flow| flow.arrived() > 0), "{what}");
    // All stop together, so that the time to drain is waited for once.
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let stopping: Vec<_> = flows.into_iter().map(|flow| scope.spawn(|| flow.stop())).collect();
        stopping.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all += report);
    assert!(all.sent > 1000, "{what}: {all:?}");
    assert_eq!((all.lost, all.resets), (0, 0), "{what}: {all:?}");
}

#[test]
fn changes_between_bgp_and_every_other_join_lose_nothing() {
    for attach in ["veth", "bridge"] {
        let site = cluster(3, attach, "vxlan");
        let pods = site.add_pods("net", "").unwrap();
        let mut was = "vxlan";
        for join in ["bgp", "vxlan", "bgp", "host-gw", "bgp", "auto", "bgp"] {
            let flows = flowing(&pods);
            calm();
            site.apply("net", &site.network(attach, join, 1)).unwrap();
            site.settled("net", join).unwrap();
            nothing_lost(flows, &format!("{attach}: {was} to {join}"));
            was = join;
        }
        well(&site);
    }
}

#[test]
fn an_agent_that_is_killed_and_restarted_loses_nothing() {
    let site = cluster(3, "veth", "bgp");
    let pods = site.add_pods("net", "").unwrap();
    let flows = flowing(&pods);
    // The last time nothing is left of what it kept.
    let times = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL, Signal::SIGKILL];
    for (time, signal) in times.into_iter().enumerate() {
        let node = &site.nodes[time % 2];
        calm();
        node.signal(signal).unwrap();
        node.wait_for_death().unwrap();
        // For longer than BFD takes to call it dead.
        std::thread::sleep(Duration::from_millis(1500));
        if time == 3 {
            fs::remove_file(node.control().with_file_name("bgp.keep")).unwrap();
        }
        node.start(&[]).unwrap();
        site.settled("net", "bgp").unwrap();
        for node in &site.nodes {
            node.wait_until("established", |node| {
                let status = bgp(node);
                let all = status["neighbours"].as_array().unwrap().clone();
                Ok(status["settling"] == false
                    && all.len() == 2
                    && all.iter().all(|n| n["state"] == "established" && n["restarting"] == false))
            })
            .unwrap();
        }
    }
    nothing_lost(flows, "killed and restarted");
    well(&site);
}

/// Article: BGP | direct routing: BGP spreads each node's pod routes, a veth pair per container, no encapsulation
/// Negative: a packet to a pod of a node whose link went dark, left within a second; the others' arrive, and its own once it is back
#[test]
fn a_node_that_dies_silently_is_left_within_a_second() {
    let site = cluster(3, "veth", "bgp");
    let (pods, _echo) = answering(&site);
    assert!(reaches(&pods[0], &pods[2]));
    let node = &site.nodes[0];
    let has = || sh(&node.netns, "ip route show proto 119").contains("via 192.0.2.3");
    node.wait_until("watched", |node| {
        let status = bgp(node);
        Ok(status["neighbours"].as_array().unwrap().iter().all(|n| n["bfd"] == "up"))
    })
    .unwrap();
    until("by a nexthop object", || sh(&node.netns, "ip nexthop").contains("192.0.2.3"));
    assert!(sh(&node.netns, "ip route get 10.1.0.1; ip route show proto 119").contains("nhid"));
    let switch = site.wire.switch(0);
    sh(switch, "ip link set node-c down");
    let start = Instant::now();
    until("left", || !has());
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1100), "{took:?}");
    let (said, code) = weft(node, "bgp");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("node-c") && said.to_lowercase().contains("bfd"), "{said}");
    assert!(!reaches(&pods[0], &pods[2]));
    let (said, _) = weft(node, "paths");
    assert!(said.contains("is not learnt by BGP"), "{said}");
    // The last one is still reached, and the one that comes back is again.
    assert!(reaches(&pods[0], &pods[1]));
    node.wait_until("telling it", |node| {
        Ok(problems(node).contains("the session with node-c (AS 64512, 192.0.2.3) is down for"))
    })
    .unwrap();
    sh(switch, "ip link set node-c up");
    until("reached again", || reaches(&pods[0], &pods[2]));
    site.settled("net", "bgp").unwrap();
    well(&site);
}

#[test]
fn a_router_that_knows_no_pods_is_no_way_and_the_reason_is_said() {
    let plan = Plan { topology: Topology::Routed, ..plan(3) };
    let site = built(&plan);
    begin(&site, "veth", "bgp");
    let node = &site.nodes[0];
    let to_c = |node: &Node| -> anyhow::Result<String> {
        let paths = node.ask("GET", "/v1/paths", None)?;
        let all = paths.as_array().cloned().unwrap_or_default();
        let path = all.iter().find(|p| p["peer"] == "node-c" && p["family"] == "ipv4");
        Ok(path.map(|p| format!("{} {}", p["way"], p["why"])).unwrap_or_default())
    };
    node.wait_until("told why", |node| Ok(to_c(node)?.contains("was learnt by BGP, but"))).unwrap();
    let said = to_c(node).unwrap();
    assert!(said.starts_with("\"none\"") && said.contains("198.51.100.3"), "{said}");
    let pods = site.add_pods("net", "").unwrap();
    let _echo = responders(&pods);
    until("the near one reached", || reaches(&pods[0], &pods[1]));
    assert!(!reaches(&pods[0], &pods[2]));
    let (said, _) = weft(node, "bgp");
    assert_eq!(said.matches("established").count(), 2, "{said}");
    assert!(said.contains("nowhere 10.1."), "{said}");
    empty_plan(node);
}

#[test]
fn bad_settings_change_nothing_and_good_ones_are_followed() {
    let site = cluster(2, "veth", "bgp");
    let node = &site.nodes[0];
    let file = site.plan.dir.join("bgp.yaml");
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        weft(node, &format!("bgp apply -f {}", file.display()))
    };
    for (text, want) in [
        ("asn: 0", "AS 0 is reserved"),
        ("holdSeconds: 2", "3 and more (RFC 4271, 4.2)"),
        ("as: 64513", "unknown field as (known here: aggregates, asn"),
        (
            "reflectors: {nodes: [node-z]}",
            "node-z is no node of this cluster; there are node-a, node-b",
        ),
        (
            "peers: [{name: x, address: 192.0.2.2, asn: 65001}]",
            "192.0.2.2 is the address of node node-b",
        ),
        ("peers: [{name: x, adress: 192.0.2.9, asn: 65001}]", "missing field `address`"),
        (
            "peers: [{name: x, address: 192.0.2.9, asn: 65001, pasive: true}]",
            "unknown field peers[0].pasive",
        ),
    ] {
        let (said, code) = apply(text);
        assert!(code == 1 && said.contains(want), "{text}: {said}");
    }
    let (said, code) = weft(node, "bgp settings");
    assert!(code == 0 && said.contains("\"asn\": 64512"), "{said}");
    // One neighbour's password that can't be read harms no other session.
    let (said, code) = apply(
        "asn: 64999\npeers: [{name: tor, address: 192.0.2.9, asn: 65001, passwordFile: /nowhere},
         {name: rot, address: 192.0.2.10, asn: 65001}]",
    );
    assert_eq!(code, 0, "{said}");
    node.wait_until("told of it", |node| {
        Ok(problems(node).contains("the password of tor can't be read: /nowhere"))
    })
    .unwrap();
    node.wait_until("in the other AS", |node| {
        let status = bgp(node);
        let all = status["neighbours"].as_array().unwrap();
        let b = all.iter().find(|n| n["name"] == "node-b");
        Ok(status["speaker"]["asn"] == 64999
            && all.len() == 2
            && b.is_some_and(|b| b["remoteAs"] == 64999 && b["state"] == "established"))
    })
    .unwrap();
    node.wait_until("telling who does not answer", |node| {
        Ok(problems(node).contains("the session with rot (AS 65001, 192.0.2.10) is down"))
    })
    .unwrap();
    // A password between nodes, which one of them does not know at first.
    let (password, other) = (site.plan.dir.join("password"), site.plan.dir.join("other"));
    fs::write(&password, "secret\n").unwrap();
    let (said, code) = apply(&format!("passwordFile: {}", password.display()));
    assert_eq!(code, 0, "{said}");
    let stands = |node: &Node| bgp(node)["neighbours"][0]["state"] == "established";
    let again = |node: &Node| bgp(node)["neighbours"][0]["established"].as_u64().unwrap();
    until("established with it", || site.nodes.iter().all(|n| stands(n) && again(n) > 0));
    sh(&site.nodes[1].netns, &format!("echo other > {}", other.display()));
    let (said, code) = apply(&format!("passwordFile: {}", other.display()));
    assert_eq!(code, 0, "{said}");
    until("established with the other", || site.nodes.iter().all(stands));
    // Another AS makes sessions begin anew, where nodes listen by then.
    let (said, code) = apply("{asn: 64998, port: 1179}");
    assert_eq!(code, 0, "{said}");
    until("established by another port", || {
        let all = bgp(node)["neighbours"].clone();
        all[0]["remoteAs"] == 64998 && all[0]["state"] == "established"
    });
    let listens = sh(&node.netns, "ss -Hltn");
    assert!(listens.contains(":1179") && !listens.contains(":179 "), "{listens}");
    // What is no file is not read until the memory is full.
    let (said, code) = apply("passwordFile: /dev/zero");
    assert_eq!(code, 0, "{said}");
    node.wait_until("told of it", |node| Ok(problems(node).contains("/dev/zero: it is no file")))
        .unwrap();
    let (said, code) = apply("mesh: false");
    assert_eq!(code, 0, "{said}");
    node.wait_until("told that it is alone", |node| {
        Ok(problems(node).contains("this node has no neighbour and learns nothing"))
    })
    .unwrap();
    let (said, code) = weft(node, "bgp reset");
    assert_eq!(code, 0, "{said}");
    site.settled("net", "bgp").unwrap();
    well(&site);
}

#[test]
fn nodes_that_come_to_reflect_and_cease_to_lose_nothing() {
    let site = cluster(4, "veth", "bgp");
    let pods = site.add_pods("net", "").unwrap();
    let sessions = |node: &Node| bgp(node)["neighbours"].as_array().unwrap().len();
    let node = &site.nodes[0];
    for (reflectors, far) in [
        (json!({"nodes": ["node-a", "node-b"]}), 2),
        (json!({"nodes": ["node-b", "node-c"]}), 2),
        (json!({"above": 3, "count": 2}), 2),
        (json!("off"), 3),
    ] {
        let flows = flowing(&pods[..3]);
        calm();
        node.ask("PUT", "/v1/bgp/settings", Some(json!({"reflectors": reflectors}))).unwrap();
        // Who does not reflect has sessions with those alone that do.
        for node in &site.nodes {
            node.wait_until("settled", |node| {
                let all = bgp(node)["neighbours"].as_array().unwrap().clone();
                Ok([far, 3].contains(&all.len()) && all.iter().all(|n| n["state"] == "established"))
            })
            .unwrap();
        }
        until("with as many sessions as are wanted", || {
            let few = site.nodes.iter().filter(|node| sessions(node) == far).count();
            few == if far == 3 { 4 } else { 2 }
        });
        nothing_lost(flows, &format!("reflectors {reflectors}"));
        site.settled("net", "bgp").unwrap();
    }
    well(&site);
}
