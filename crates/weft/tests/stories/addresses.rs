//! Addresses of a shared network that are claimed one at a time: they move between nodes, and a name
//! gets what it had. Blocks are given back, and what an address's last owner left is forgotten.

use std::collections::BTreeSet;

use crate::{
    lan::{lan, mac},
    macvlan::{attach, first_answer},
    story::*,
    strangers_lan::stranger,
};

const STATIC: [&str; 2] = ["10.77.0.128/26", "fd00:77::8:0/125"];

/// The second switch's network with static addresses, served on every node.
fn site_of(nodes: usize, sticky: bool) -> Site {
    let site = built(&Plan { pods: 1, ..lan(nodes) });
    site.start().unwrap();
    site.apply("net", &network(&site, sticky)).unwrap();
    site.settled("net", "underlay").unwrap();
    site
}

fn network(site: &Site, sticky: bool) -> Value {
    let mut network = site.lan_network(&attach("bridge"));
    network["join"]["static"] = json!(STATIC);
    network["join"]["sticky"] = json!(sticky);
    network
}

/// A pod that asks for these; the answer where it gets none.
fn ask(node: &Node, name: &str, ips: &[&str]) -> Result<Pod, Value> {
    let (netns, path) = namespace(name);
    let mut config = node.cni_config("net");
    if !ips.is_empty() {
        config["runtimeConfig"] = json!({"ips": ips});
    }
    let args = format!("K8S_POD_NAMESPACE=lab;K8S_POD_NAME={name}");
    let (exit, answer) = node.cni("ADD", name, &path, &config, &[("CNI_ARGS", &args)]).unwrap();
    if exit != 0 {
        drop(netns);
        forget(&path);
        return Err(answer);
    }
    let ips = answer["ips"].as_array().unwrap().iter();
    let addrs = ips.map(|ip| ip["address"].as_str().unwrap().parse::<ipnet::IpNet>().unwrap());
    Ok(Pod {
        name: name.into(),
        node: node.name.clone(),
        netns,
        path,
        addrs: addrs.map(|addr| addr.addr()).collect(),
        network: "net".into(),
    })
}

/// The addresses that are claimed one at a time, as files of the store.
fn claims(site: &Site) -> Vec<(String, Value)> {
    let dir = site.plan.dir.join("store/claims/net");
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let claims = files.filter_map(|file| {
        let text = std::fs::read_to_string(file.path()).ok()?;
        let (_, claim) = text.split_once('\n')?;
        let name = file.file_name().to_string_lossy().into_owned();
        Some((name, serde_json::from_str(claim).ok()?))
    });
    let mut claims: Vec<_> = claims.collect();
    claims.sort_by(|a, b| a.0.cmp(&b.0));
    claims
}

const BOTH: [&str; 2] = ["10.77.0.130", "fd00:77::8:2"];

#[test]
fn a_static_address_is_given_on_any_node_and_to_one_pod_at_a_time() {
    let site = site_of(2, false);
    let (a, b) = (&site.nodes[0], &site.nodes[1]);
    let pod = ask(a, "first", &BOTH).unwrap();
    assert_eq!(pod.addrs, BOTH.map(|addr| addr.parse::<IpAddr>().unwrap()));
    assert_eq!(claims(&site).len(), 2);
    empty_plan(a);
    assert_eq!(a.status().unwrap()["problems"], json!([]));
    // Neither here nor elsewhere a second time, and whose it is is said.
    for node in [a, b] {
        let answer = ask(node, "second", &BOTH).err().unwrap();
        let said = answer["details"].as_str().unwrap();
        assert_eq!(answer["code"], 11, "{answer}");
        assert!(said.contains("lab/first") && said.contains("10.77.0.130"), "{said}");
    }
    assert_eq!(claims(&site).len(), 2, "nothing is left of what was refused");
    // What is not static is not given by name on any node.
    let kept = ask(b, "third", &["10.77.0.1"]).err().unwrap();
    assert_eq!(kept["code"], 7, "{kept}");
    // One family alone; the other from a block, in which no static address is.
    let mixed = ask(b, "fourth", &["10.77.0.131"]).unwrap();
    assert_eq!(mixed.addrs[0].to_string(), "10.77.0.131");
    assert_eq!(claims(&site).len(), 3);
    b.delete_pod(mixed).unwrap();
    // Gone here, at once to be had there.
    a.delete_pod(pod).unwrap();
    let moved = ask(b, "second", &BOTH).unwrap();
    assert!(
        claims(&site).iter().all(|(_, claim)| claim["node"] == "node-b"),
        "{:?}",
        claims(&site)
    );
    b.delete_pod(moved).unwrap();
    until("given back", || claims(&site).is_empty());
    site.nodes.iter().for_each(nothing_left);
}

/// The agent is killed where it has claimed and recorded nothing, and where the pod is gone and the
/// claim is not.
#[test]
fn a_static_address_of_a_call_that_died_is_free_again() {
    let site = site_of(2, false);
    let (a, b) = (&site.nodes[0], &site.nodes[1]);
    let (_netns, path) = namespace("dead");
    let mut config = a.cni_config("net");
    config["runtimeConfig"] = json!({"ips": BOTH});
    config["agentWait"] = json!(0);
    crate::kill::restart(a, &crate::kill::fault("add.after-claim"));
    let (exit, answer) = a.cni("ADD", "dead", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    a.wait_for_death().unwrap();
    assert_eq!(claims(&site).len(), 2, "it had claimed them");
    let answer = ask(b, "other", &BOTH).err().unwrap();
    assert!(answer["details"].to_string().contains("on node node-a"), "{answer}");
    a.start(&[]).unwrap();
    until("given back", || claims(&site).is_empty());
    crate::kill::restart(a, &crate::kill::fault("del.before-release"));
    let pod = ask(a, "first", &BOTH).unwrap();
    a.delete_pod(pod).unwrap();
    a.wait_for_death().unwrap();
    assert!(!claims(&site).is_empty(), "it has not given them back");
    a.start(&[]).unwrap();
    until("given back", || claims(&site).is_empty());
    let pod = ask(b, "other", &BOTH).unwrap();
    // A claim that somebody deletes under a pod is made good.
    std::fs::remove_file(site.plan.dir.join("store/claims/net").join(BOTH[0])).unwrap();
    until("claimed again", || claims(&site).len() == 2);
    b.delete_pod(pod).unwrap();
    forget(&path);
    site.nodes.iter().for_each(nothing_left);
}

#[test]
fn a_static_address_is_not_given_while_the_store_is_away() {
    let site = site_of(1, false);
    let node = &site.nodes[0];
    let (store, hidden) = (site.plan.dir.join("store"), site.plan.dir.join("hidden"));
    std::fs::rename(&store, &hidden).unwrap();
    std::fs::write(&store, "not a directory").unwrap();
    node.wait_until("aware of it", |node| Ok(!node.status()?["store"]["away"].is_null())).unwrap();
    let answer = ask(node, "first", &BOTH).err().unwrap();
    assert_eq!(answer["code"], 11, "{answer}");
    assert!(answer["details"].to_string().contains("the store, which is away"), "{answer}");
    let pod = ask(node, "block", &[]).unwrap();
    node.delete_pod(pod).unwrap();
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&hidden, &store).unwrap();
    node.wait_until("back", |node| Ok(node.status()?["store"]["away"].is_null())).unwrap();
    let pod = ask(node, "first", &BOTH).unwrap();
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

/// A host of the network that is no node: its caches are its own.
fn third_host(site: &Site) -> Netns {
    let host = Netns::create().unwrap();
    let switch = site.wire.lan().unwrap();
    rig::pair(&host, "eth0", switch, "third", 1500).unwrap();
    rig::port(switch, "third", "br0").unwrap();
    sh(
        &host,
        "ip addr add 10.77.0.2/24 dev eth0; ip addr add fd00:77::2/64 dev eth0 nodad; \
         ip link set eth0 up",
    );
    host
}

#[test]
fn an_address_that_moves_to_a_pod_of_another_node_is_reached_at_once_by_a_third_host() {
    let site = site_of(2, false);
    let host = third_host(&site);
    let mut slowest = Duration::ZERO;
    let mut pod = ask(&site.nodes[0], "pod-0", &BOTH).unwrap();
    for round in 1..7 {
        let echo = responders([&pod]);
        for addr in &pod.addrs {
            assert!(reach(&host, *addr).is_some(), "round {round}: {addr}");
        }
        let was = mac(&pod.netns, "eth0");
        let knows = sh(&host, "ip neigh show");
        assert_eq!(knows.matches(&was).count(), 2, "it knows both: {knows}");
        drop(echo);
        site.nodes[(round + 1) % 2].delete_pod(pod).unwrap();
        pod = ask(&site.nodes[round % 2], &format!("pod-{round}"), &BOTH).unwrap();
        let answered = Instant::now();
        let _echo = responders([&pod]);
        for addr in &pod.addrs {
            first_answer(&host, *addr);
            let took = answered.elapsed();
            assert!(took < Duration::from_secs(1), "round {round}: {addr} after {took:?}");
            slowest = slowest.max(took);
        }
        assert_ne!(mac(&pod.netns, "eth0"), was, "another pod, another MAC");
    }
    println!("the third host reached the new owner after at most {slowest:?}");
    site.nodes[0].delete_pod(pod).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

/// Flows that the node's connection tracking remembers.
fn tracked(node: &Node) -> usize {
    let count = sh(&node.netns, "cat /proc/sys/net/netfilter/nf_conntrack_count");
    count.trim().parse().unwrap()
}

#[test]
fn what_is_tracked_of_an_address_is_forgotten_before_another_pod_has_it() {
    let site = cluster(1, "veth", "host-gw");
    let node = &site.nodes[0];
    // Somebody translates: everything is tracked, and is found before the routes.
    sh(
        &node.netns,
        "nft add table ip theirs; nft 'add chain ip theirs pre { type nat hook prerouting priority \
         -100 ; }'; nft 'add rule ip theirs pre ip daddr 192.0.2.77 udp dport 7 counter dnat to 192.0.2.78'",
    );
    let (old, other) = (node.add_pod("old", "net").unwrap(), node.add_pod("other", "net").unwrap());
    node.wait_until("tracking", |node| Ok(node.plan()?.is_empty())).unwrap();
    let _echo = responders([&old, &other]);
    let before = tracked(node);
    // A flow each way by the pod that goes, and one that stays: its own, to the world.
    assert!(reaches(&old, &other) && reaches(&other, &old));
    let world: IpAddr = "203.0.113.1".parse().unwrap();
    for pod in [&old, &other] {
        let socket = pod.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.send_to(b"x", (world, 7)).unwrap();
    }
    assert!(tracked(node) >= before + 4, "{} of {before}", tracked(node));
    let addr = old.addrs[0];
    node.delete_pod(old).unwrap();
    nothing_tracked_of(node, addr);
    node.wait_until("free", |node| Ok(node.status()?["pods"] == 1)).unwrap();
    assert!(tracked(node) > 0, "what is not the pod's stays");
    node.delete_pod(other).unwrap();
    nothing_left(node);
}

/// Waits until no flow has the address.
fn nothing_tracked_of(node: &Node, addr: IpAddr) {
    let kernel = node.netns.run(weft_linux::Kernel::here).unwrap().unwrap();
    node.wait_until("free", |node| {
        Ok(!pods(node).iter().any(|pod| pod["addrs"].to_string().contains(&addr.to_string())))
    })
    .unwrap();
    // Whoever would end them now finds none.
    assert_eq!(kernel.forget_flows(&[addr].into()).unwrap(), 0, "{addr}");
}

/// The blocks of a node, as the second says.
fn blocks(site: &Site, node: &str) -> Vec<String> {
    let all = site.nodes[1].ask("GET", "/v1/ipam", None).unwrap();
    let ours = all.as_array().unwrap().iter().filter(|block| block["node"] == node);
    ours.map(|block| block["block"].as_str().unwrap().to_owned()).collect()
}

/// All blocks, as the node says.
fn blocks_of(node: &Node) -> Vec<String> {
    let all = node.ask("GET", "/v1/ipam", None).unwrap();
    let all = all.as_array().unwrap().iter();
    all.map(|block| block["block"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_node_that_rebooted_gives_back_the_blocks_that_it_does_not_need() {
    let site = built(&Plan { pods: 1, ..lan(2) });
    site.start().unwrap();
    let mut network = network(&site, false);
    (network["blockPrefix4"], network["blockPrefix6"]) = (json!(30), json!(126));
    site.apply("net", &network).unwrap();
    site.settled("net", "underlay").unwrap();
    let node = &site.nodes[0];
    let pods: Vec<Pod> = (0..11).map(|n| ask(node, &format!("p{n}"), &[]).unwrap()).collect();
    let fixed = ask(node, "fixed", &BOTH).unwrap();
    let before = blocks(&site, "node-a");
    assert!(before.len() >= 6, "{before:?}");
    // Another agent of the same boot keeps them.
    crate::kill::restart(node, &[]);
    let now = blocks(&site, "node-a");
    assert!(before.iter().all(|block| now.contains(block)), "{before:?}, then {now:?}");
    reboot(node, pods.into_iter().chain([fixed]));
    until("one of each family", || blocks(&site, "node-a").len() == 2);
    until("nothing static", || claims(&site).is_empty());
    let left = blocks(&site, "node-a");
    assert!(left.iter().all(|block| now.contains(block)), "{left:?} of {now:?}");
    // They are others' to have, and the node goes on.
    let again = ask(node, "again", &[]).unwrap();
    let there = ask(&site.nodes[1], "there", &BOTH).unwrap();
    let now = blocks(&site, "node-a");
    assert!(left.iter().all(|block| now.contains(block)), "{left:?}, then {now:?}");
    let file = left[0].replace('/', "-");
    let claim = site.plan.dir.join("store/blocks/net").join(file);
    let claim = std::fs::read_to_string(claim).unwrap();
    assert!(claim.contains("11111111-2222"), "what stays is of this boot: {claim}");
    node.delete_pod(again).unwrap();
    site.nodes[1].delete_pod(there).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

/// Names keep one of four addresses.
fn sticky_on(nodes: usize) -> Site {
    let site = built(&Plan { pods: 1, families: Families::V4, ..lan(nodes) });
    site.start().unwrap();
    let mut network = site.lan_network(&attach("bridge"));
    network["join"]["static"] = json!(["10.77.0.128/30"]);
    network["join"]["sticky"] = json!(true);
    site.apply("net", &network).unwrap();
    site.settled("net", "underlay").unwrap();
    site
}

#[test]
fn a_name_gets_the_address_that_it_had_on_any_node_until_the_span_is_full() {
    let site = sticky_on(2);
    let nodes = &site.nodes;
    let mut had = std::collections::BTreeMap::new();
    for n in 0..12 {
        let name = format!("web-{}", n % 3);
        let pod = ask(&nodes[(n / 3 + n) % 2], &name, &[]).unwrap();
        let addr = pod.addrs[0];
        assert_eq!(*had.entry(name).or_insert(addr), addr, "round {n}");
        nodes[(n / 3 + n) % 2].delete_pod(pod).unwrap();
        until("let go", || claims(&site).iter().all(|(_, claim)| claim["node"].is_null()));
    }
    let different: BTreeSet<_> = had.values().collect();
    assert_eq!(different.len(), 3, "{had:?}");
    // A fourth has the last that nobody had; a fifth, that of who was gone for the longest.
    let fourth = ask(&nodes[0], "db-0", &[]).unwrap();
    assert!(!had.values().any(|addr| *addr == fourth.addrs[0]));
    let fifth = ask(&nodes[1], "db-1", &[]).unwrap();
    assert_eq!(fifth.addrs[0], had["web-0"]);
    // The name that lost its own gets the next; the name that is gone on another node waits for it.
    let web0 = ask(&nodes[0], "web-0", &[]).unwrap();
    assert_eq!(web0.addrs[0], had["web-1"]);
    let answer = ask(&nodes[1], "web-0x", &[]).unwrap();
    assert_eq!(answer.addrs[0], had["web-2"]);
    let full = ask(&nodes[1], "web-2", &[]).err().unwrap();
    assert!(full["details"].to_string().contains("all 4 static addresses"), "{full}");
    // Whoever is still there elsewhere has it.
    forget(&PathBuf::from("/run/netns/web-0"));
    let twice = ask(&nodes[1], "web-0", &[]).err().unwrap();
    let said = twice["details"].to_string();
    assert!(said.contains("lab/web-0 still has") && said.contains("on node node-a"), "{said}");
    // A node that will not come back lets go of them, and the name keeps its own.
    nodes[0].kill().unwrap();
    sh(&nodes[0].netns, "ip link set eth1 down");
    nodes[1].ask("POST", "/v1/nodes/node-a/forget?force=true", None).unwrap();
    let moved = ask(&nodes[1], "web-0", &[]).unwrap();
    assert_eq!(moved.addrs, web0.addrs);
    for pod in [fifth, answer, moved] {
        nodes[1].delete_pod(pod).unwrap();
    }
    nothing_left(&nodes[1]);
    drop((fourth, web0));
    nodes[1].ask("DELETE", "/v1/networks/net", None).unwrap();
    until("nothing is kept without its network", || claims(&site).is_empty());
}

#[test]
fn a_name_does_not_get_its_address_again_while_a_stranger_has_it() {
    let site = sticky_on(1);
    let node = &site.nodes[0];
    let pod = ask(node, "web-0", &[]).unwrap();
    let had = pod.addrs[0];
    node.delete_pod(pod).unwrap();
    until("let go", || claims(&site).iter().all(|(_, claim)| claim["node"].is_null()));
    let host = stranger(&site);
    sh(&host, &format!("ip addr add {had}/24 dev eth0"));
    let start = Instant::now();
    let pod = ask(node, "web-0", &[]).unwrap();
    assert_ne!(pod.addrs[0], had);
    assert!(start.elapsed() < Duration::from_millis(350), "{:?}", start.elapsed());
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn static_addresses_that_can_not_be_are_refused_with_the_reason() {
    let site = built(&Plan { pods: 1, ..lan(1) });
    site.start().unwrap();
    let node = &site.nodes[0];
    let put = |join: &[(&str, Value)]| {
        let mut network = site.lan_network(&attach("bridge"));
        for (field, value) in join {
            network["join"][*field] = value.clone();
        }
        node.ask("PUT", "/v1/networks/net", Some(network)).map_err(|error| error.to_string())
    };
    let cases: [(&[(&str, Value)], &str); 6] = [
        (&[("static", json!(["10.78.0.0/28"]))], "static 10.78.0.0/28 is in none of its ranges"),
        (&[("sticky", json!(true))], "`sticky` gives out static addresses: name some"),
        (&[("static", json!(["10.77.0.0/28"]))], "has gateway 10.77.0.1 in it"),
        (
            &[("static", json!(["10.77.0.64/28"])), ("exclude", json!(["10.77.0.70"]))],
            "static 10.77.0.64/28 and exclude 10.77.0.70 overlap",
        ),
        (&[("static", json!(["10.77.0.255"]))], "no static address can be given"),
        (&[("static", json!(["10.77.0.65/28"]))], "write 10.77.0.64/28"),
    ];
    for (join, want) in cases {
        let said = put(join).unwrap_err();
        assert!(said.contains(want), "{want} is not in {said}");
    }
    put(&[("static", json!(["10.77.0.64/28"]))]).unwrap();
    site.settled("net", "underlay").unwrap();
    let pod = ask(node, "pod", &["10.77.0.65"]).unwrap();
    until("known", || blocks_of(node).iter().any(|block| block == "10.77.0.65/32"));
    let said = put(&[]).unwrap_err();
    assert!(said.contains("10.77.0.65 is with pod lab/pod"), "{said}");
    let said = put(&[("static", json!(["10.77.0.0/24"]))]).unwrap_err();
    assert!(said.contains("has gateway"), "{said}");
    let block = blocks_of(node).into_iter().find(|block| block.contains("10.77")).unwrap();
    let said = put(&[("static", json!(["10.77.0.64/28", block]))]).unwrap_err();
    assert!(said.contains("of node node-a, whose pods may have"), "{said}");
    node.delete_pod(pod).unwrap();
    node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    until("not static any more", || put(&[]).is_ok());
    nothing_left(node);
}
