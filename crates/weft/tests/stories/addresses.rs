//! Addresses of a shared network that are claimed one at a time: they move between nodes, and a name
//! gets what it had. Blocks are given back, and what an address's last owner left is forgotten.

use crate::{
    macvlan::{attach, first_answer, lan, mac},
    story::*,
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
