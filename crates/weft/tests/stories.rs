//! Stories on the real kernel: a cluster is built, hurt, and must be whole again. Each runs in a
//! sandbox of its own (`cargo xtask test`), and ends with strangers' things in place and an empty
//! plan.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use weft::lab::{
    Cluster, Families, Flow, FlowKind, Node, Plan, Pod, Report, Responder, Topology, largest,
    reach, too_big,
};
use weft_linux::{Netns, rig};

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_weft").into()
}

/// In the caller's sandbox: a test that is not in one must not touch the host.
fn plan(nodes: usize) -> Plan {
    assert_eq!(std::process::id() / 10_000, 0, "run by `cargo xtask test`, which makes a sandbox");
    Plan { nodes, pods: 1, ..Plan::default() }
}

fn cluster(nodes: usize, attach: &str, join: &str) -> Cluster {
    let cluster = Cluster::build(&plan(nodes), &program()).unwrap();
    cluster.start().unwrap();
    cluster.apply("net", &cluster.network(attach, join, 1)).unwrap();
    cluster.settled("net", join).unwrap();
    cluster
}

/// Makes room for the next cluster of the same test: its nodes and pods have the same names.
fn end(cluster: Cluster) {
    drop(cluster);
    for name in std::fs::read_dir("/run/netns").unwrap() {
        let _ = nix::mount::umount2(&name.unwrap().path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output().unwrap()).unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn reaches(from: &Pod, to: &Pod) -> bool {
    let both = |ipv4: bool| to.addr(ipv4).is_none_or(|addr| reach(&from.netns, addr).is_some());
    both(true) && both(false)
}

fn empty_plan(node: &Node) {
    node.wait_until("without anything to do", |node| Ok(node.plan()?.is_empty())).unwrap();
}

fn pods(node: &Node) -> Vec<Value> {
    node.ask("GET", "/v1/pods", None).unwrap().as_array().unwrap().clone()
}

/// Every address that the ledger has, once.
fn leases(node: &Node) -> BTreeSet<String> {
    let all: Vec<String> = pods(node)
        .iter()
        .flat_map(|pod| pod["addrs"].as_array().unwrap().clone())
        .map(|addr| addr.as_str().unwrap().to_owned())
        .collect();
    let different: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(all.len(), different.len(), "an address was given twice: {all:?}");
    different
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not {what} within 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pod_links(node: &Node) -> usize {
    sh(&node.netns, "ip -o link show type veth")
        .lines()
        .filter(|line| line.contains("weft"))
        .count()
}

#[test]
fn sabotage_hurts_and_is_healed_in_under_a_second() {
    let cluster = cluster(2, "veth", "vxlan");
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
    let (node, netns) = (&cluster.nodes[0], &cluster.nodes[0].netns);
    sh(
        netns,
        "ip link add stranger type bridge; ip route add 10.9.0.0/16 dev eth0; nft add table inet strangers",
    );
    assert!(reaches(&pods[0], &pods[1]));
    let block = sh(netns, "ip route show proto 119")
        .lines()
        .find(|l| l.contains("nhid"))
        .unwrap()
        .to_owned();
    let dst = block.split(' ').next().unwrap().to_owned();
    for sabotage in [
        format!("ip route del {dst} proto 119 metric 119"),
        "ip neigh flush nud permanent dev weftx4-1".into(),
        "bridge fdb show dev weftx4-1 | while read mac rest; do bridge fdb del $mac dev weftx4-1; done".into(),
        "ip link del weftx4-1".into(),
        "ip link set weftx4-1 down".into(),
        format!("ip link del {}", pods_of(node)[0]),
    ] {
        // The agent is held while the hurt is proved, or it would heal before we look.
        node.signal(Signal::SIGSTOP).unwrap();
        sh(netns, &sabotage);
        let addr = pods[1].addr(true).unwrap();
        let hurt = reach(&pods[0].netns, addr).is_none();
        assert!(hurt, "{sabotage}: the sabotage did nothing, so the test proves nothing");
        node.signal(Signal::SIGCONT).unwrap();
        let start = Instant::now();
        until(&format!("healed from {sabotage}"), || reaches(&pods[0], &pods[1]));
        // `reach` itself waits half a second for an answer that does not come.
        assert!(start.elapsed() < Duration::from_millis(1900), "{sabotage}: {:?}", start.elapsed());
        empty_plan(node);
    }
    node.signal(Signal::SIGSTOP).unwrap();
    sh(netns, "nft delete table inet weft");
    assert!(!sh(netns, "nft list tables").contains("inet weft"));
    node.signal(Signal::SIGCONT).unwrap();
    until("the table is back", || sh(netns, "nft list tables").contains("inet weft"));
    let left = sh(netns, "ip -o link; ip route; nft list tables");
    for kept in ["stranger", "10.9.0.0/16", "strangers"] {
        assert!(left.contains(kept), "{kept} is gone: {left}");
    }
    empty_plan(node);
}

fn pods_of(node: &Node) -> Vec<String> {
    pods(node).iter().map(|pod| pod["host_end"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_admins_route_to_a_pod_block_survives_and_is_reported() {
    let cluster = cluster(2, "veth", "host-gw");
    let (node, netns) = (&cluster.nodes[0], &cluster.nodes[0].netns);
    let routes = sh(netns, "ip route show proto 119");
    let dst =
        routes.lines().find(|l| l.contains("nhid")).unwrap().split(' ').next().unwrap().to_owned();
    sh(netns, &format!("ip route add {dst} via 192.0.2.254"));
    node.wait_until("reporting", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("a foreign route stands beside ours") && problems.contains(&dst))
    })
    .unwrap();
    assert!(sh(netns, "ip route").contains(&format!("{dst} via 192.0.2.254 dev eth0")));
    sh(
        netns,
        "nft add table inet fw; nft 'add chain inet fw f { type filter hook forward priority 0; policy drop; }'",
    );
    node.wait_until("naming the firewall", |node| {
        Ok(node.status()?["problems"].to_string().contains("table inet fw chain f has policy drop"))
    })
    .unwrap();
}

const ADD_FAULTS: [&str; 5] = [
    "add.after-open",
    "add.after-birth",
    "add.after-inside",
    "add.after-outside",
    "add.after-commit",
];
const DEL_FAULTS: [&str; 4] =
    ["del.after-doom", "del.after-routes", "del.after-link", "del.after-reap"];

fn fault(point: &str) -> Vec<(String, String)> {
    vec![("WEFT_FAULT".into(), point.into())]
}

/// Starts the agent so that it dies at `point`.
fn restart(node: &Node, env: &[(String, String)]) {
    node.kill().unwrap();
    node.start(env).unwrap();
    node.wait_until("started", |node| {
        let status = node.status()?;
        Ok(status["store"]["synced"] == true
            && status["converged"] == true
            && node.plan()?.is_empty())
    })
    .unwrap();
}

fn killed_in_add(attach: &str) {
    let cluster = cluster(1, attach, "vxlan");
    let node = &cluster.nodes[0];
    sh(&node.netns, "ip link add stranger type veth peer name stranger2");
    for point in ADD_FAULTS {
        // The runtime waits: the call outlives the agent, and ends well.
        restart(node, &fault(point));
        let pod = std::thread::scope(|scope| {
            let adding = scope.spawn(|| node.add_pod("waiter", "net").unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            adding.join().unwrap()
        });
        assert_eq!(leases(node).len(), 2, "{point}: one address of each family");
        empty_plan(node);
        assert_eq!(pod_links(node), 1, "{point}");
        node.delete_pod(pod).unwrap();
        node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
        // The runtime does not wait: nothing of its call is left.
        restart(node, &fault(point));
        let netns = Netns::create().unwrap();
        let path = PathBuf::from("/run/netns/given-up");
        netns.bind(&path).unwrap();
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(0);
        let (exit, answer) = node.cni("ADD", "given-up", &path, &config, &[]).unwrap();
        assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{point}: {answer}");
        node.wait_for_death().unwrap();
        node.start(&[]).unwrap();
        node.wait_until("started", |node| Ok(node.status()?["converged"] == true)).unwrap();
        let (exit, answer) = node.cni("DEL", "given-up", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{point}: {answer}");
        node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
        empty_plan(node);
        assert_eq!(pod_links(node), 0, "{point}: a link is left over");
        let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
    }
    assert!(sh(&node.netns, "ip -o link").contains("stranger2"));
}

#[test]
fn killed_at_every_step_of_add_with_veth() {
    killed_in_add("veth");
}

#[test]
fn killed_at_every_step_of_add_with_a_bridge() {
    killed_in_add("bridge");
}

#[test]
fn killed_at_every_step_of_del_and_the_same_address_is_given_again_at_once() {
    for attach in ["veth", "bridge"] {
        let dir = PathBuf::from(format!("/run/lab-{attach}"));
        let plan = Plan { dir, ..plan(1) };
        let cluster = Cluster::build(&plan, &program()).unwrap();
        cluster.start().unwrap();
        cluster.apply("net", &cluster.network(attach, "vxlan", 1)).unwrap();
        cluster.settled("net", "vxlan").unwrap();
        let node = &cluster.nodes[0];
        for point in DEL_FAULTS {
            restart(node, &fault(point));
            let pod = node.add_pod("doomed", "net").unwrap();
            let addrs: Vec<IpAddr> = pod.addrs.clone();
            std::thread::scope(|scope| {
                let deleting = scope.spawn(|| node.delete_pod(pod).unwrap());
                node.wait_for_death().unwrap();
                node.start(&[]).unwrap();
                deleting.join().unwrap();
            });
            let pod = add_with(node, "again", &addrs);
            assert_eq!(pod, addrs, "{point}: the address is free again");
            empty_plan(node);
            assert_eq!(pod_links(node), 1, "{point}");
            let (exit, _) = node
                .cni("DEL", "again", Path::new("/run/netns/again"), &node.cni_config("net"), &[])
                .unwrap();
            assert_eq!(exit, 0);
            nix::mount::umount2("/run/netns/again", nix::mount::MntFlags::MNT_DETACH).unwrap();
            node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
        }
        end(cluster);
    }
}

/// ADD with addresses asked for by name.
fn add_with(node: &Node, name: &str, addrs: &[IpAddr]) -> Vec<IpAddr> {
    let path = PathBuf::from("/run/netns").join(name);
    Netns::create().unwrap().bind(&path).unwrap();
    let mut config = node.cni_config("net");
    config["runtimeConfig"] = json!({"ips": addrs});
    let (exit, answer) = node.cni("ADD", name, &path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let ips = answer["ips"].as_array().unwrap();
    let bare =
        |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    ips.iter().map(bare).collect()
}

#[test]
fn random_adds_and_dels_with_kills_leak_nothing() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |sides: u64| {
        dice ^= dice >> 12;
        dice ^= dice << 25;
        dice ^= dice >> 27;
        (dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    };
    let namespaces: Vec<(Netns, PathBuf)> = (0..20)
        .map(|n| {
            let (netns, path) =
                (Netns::create().unwrap(), PathBuf::from(format!("/run/netns/r{n}")));
            netns.bind(&path).unwrap();
            (netns, path)
        })
        .collect();
    let mut present = BTreeSet::new();
    let points: Vec<&str> = ADD_FAULTS.into_iter().chain(DEL_FAULTS).collect();
    let mut kills = 0;
    for operation in 0..10_000u32 {
        if operation % 250 == 249 {
            kills += 1;
            node.kill().unwrap();
            let point = points[usize::try_from(roll(points.len() as u64)).unwrap()];
            let env = if roll(2) == 0 { fault(point) } else { Vec::new() };
            node.start(&env).unwrap();
        }
        let n = usize::try_from(roll(20)).unwrap();
        let (name, path) = (format!("r{n}"), &namespaces[n].1);
        let verb = if present.contains(&n) { "DEL" } else { "ADD" };
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(1);
        let mut done = node.cni(verb, &name, path, &config, &[]).unwrap();
        if done.0 != 0 {
            // It died of its fault: the runtime calls again, once there is an agent.
            node.kill().unwrap();
            node.start(&[]).unwrap();
            config["agentWait"] = json!(20);
            done = node.cni(verb, &name, path, &config, &[]).unwrap();
        }
        assert_eq!(done.0, 0, "{verb} {name}, operation {operation}: {}", done.1);
        if verb == "ADD" {
            present.insert(n)
        } else {
            present.remove(&n)
        };
    }
    assert!(kills >= 30);
    node.wait_until("settled", |node| Ok(node.status()?["pods"] == present.len())).unwrap();
    assert_eq!(leases(node).len(), 2 * present.len(), "0 leaks, 0 duplicates");
    empty_plan(node);
    assert_eq!(pod_links(node), present.len());
}

#[test]
fn a_frozen_agent_in_mid_change_costs_no_packet() {
    for attach in ["veth", "bridge"] {
        let dir = PathBuf::from(format!("/run/lab-{attach}"));
        let cluster = Cluster::build(&Plan { dir, ..plan(3) }, &program()).unwrap();
        cluster.start().unwrap();
        cluster.apply("net", &cluster.network(attach, "vxlan", 1)).unwrap();
        cluster.settled("net", "vxlan").unwrap();
        let pods = cluster.add_pods("net", "").unwrap();
        let flows: Vec<Flow> = [
            (FlowKind::Small, 0, 1),
            (FlowKind::Full, 1, 2),
            (FlowKind::Full, 2, 0),
            (FlowKind::Small, 2, 1),
            (FlowKind::Bulk, 0, 2),
        ]
        .into_iter()
        .map(|(kind, from, to)| Flow::start(kind, &pods[from], &pods[to], true).unwrap())
        .collect();
        let frozen = &cluster.nodes[2];
        for (join, other) in [("host-gw", "vxlan"), ("vxlan", "host-gw")] {
            frozen.signal(Signal::SIGSTOP).unwrap();
            cluster.apply("net", &cluster.network(attach, join, 1)).unwrap();
            let start = Instant::now();
            cluster.nodes[0]
                .wait_until("waiting for the frozen one", |node| {
                    let net = &node.status()?["networks"]["net"];
                    Ok(net["join"] == join && net["waiting"].to_string().contains("node-c"))
                })
                .unwrap_or_else(|error| panic!("{attach}, {other} to {join}: {error}"));
            while start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(50));
            }
            frozen.signal(Signal::SIGCONT).unwrap();
            cluster.settled("net", join).unwrap();
        }
        let mut all = Report::default();
        for flow in flows {
            assert!(flow.arrived() > 0);
            all += flow.stop();
        }
        assert_eq!((all.lost, all.resets), (0, 0), "{attach}: {all:?}");
        assert!(all.sent > 30_000, "{all:?}");
        end(cluster);
    }
}

#[test]
fn a_packet_larger_than_its_path_is_answered() {
    for attach in ["veth", "bridge"] {
        let dir = PathBuf::from(format!("/run/lab-{attach}"));
        let cluster = Cluster::build(&Plan { dir, ..plan(2) }, &program()).unwrap();
        cluster.start().unwrap();
        cluster.apply("net", &cluster.network(attach, "vxlan", 1)).unwrap();
        cluster.settled("net", "vxlan").unwrap();
        let pods = cluster.add_pods("net", "").unwrap();
        let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
        // A pod that takes its own device and route for larger than they are.
        cluster.nodes[0].signal(Signal::SIGSTOP).unwrap();
        sh(&pods[0].netns, "ip link set eth0 mtu 1500; ip route flush cache");
        for ipv4 in [true, false] {
            let addr = pods[1].addr(ipv4).unwrap();
            assert_eq!(largest(&pods[0].netns, addr), Some(1450), "{attach}");
            let learnt = too_big(&pods[0].netns, addr, 1500).unwrap();
            assert_eq!(learnt, Some(1450), "{attach}, ipv4 {ipv4}: the node answers");
        }
        end(cluster);
    }
}

#[test]
fn masqueraded_to_the_world_and_itself_among_pods() {
    let cluster = cluster(2, "veth", "host-gw");
    let pods = cluster.add_pods("net", "").unwrap();
    let seen_by = |server: &Netns, addr: IpAddr| {
        let listener = server.run(|| std::net::TcpListener::bind((addr, 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        let client = pods[0]
            .netns
            .run(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(3)).unwrap());
        let (_, from) = listener.accept().unwrap();
        drop(client);
        from.ip()
    };
    let node = cluster.nodes[0].place.addrs[0].addr();
    assert_eq!(seen_by(&cluster.wire.world, "203.0.113.1".parse().unwrap()), node, "as the node");
    assert_eq!(seen_by(&pods[1].netns, pods[1].addr(true).unwrap()), pods[0].addr(true).unwrap());
}

#[test]
fn every_underlay_carries_every_family() {
    for underlay in [Families::V4, Families::V6, Families::Mixed] {
        let dir = PathBuf::from(format!("/run/lab-{underlay:?}"));
        let nodes = if underlay == Families::Mixed { 3 } else { 2 };
        let cluster = Cluster::build(&Plan { dir, underlay, ..plan(nodes) }, &program()).unwrap();
        cluster.start().unwrap();
        cluster.apply("net", &cluster.network("veth", "vxlan", 1)).unwrap();
        for node in &cluster.nodes {
            node.wait_until("converged", |node| {
                let status = node.status()?;
                Ok(status["converged"] == true
                    && status["networks"]["net"]["peers"] == nodes - 1
                    && node.plan()?.is_empty())
            })
            .unwrap();
        }
        let pods = cluster.add_pods("net", "").unwrap();
        let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
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
        end(cluster);
    }
}

#[test]
fn between_segments_direct_is_refused_vxlan_works_and_auto_mixes() {
    let plan = Plan { topology: Topology::Routed, ..plan(3) };
    let cluster = Cluster::build(&plan, &program()).unwrap();
    cluster.start().unwrap();
    cluster.apply("net", &cluster.network("veth", "auto", 1)).unwrap();
    cluster.settled("net", "auto").unwrap();
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
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
fn nodes_claim_apart_keep_their_blocks_and_lose_them_only_when_forgotten() {
    let cluster = cluster(6, "veth", "host-gw");
    let claims = || -> Vec<(String, String)> {
        let all = cluster.nodes[0].ask("GET", "/v1/ipam", None).unwrap();
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        all.as_array().unwrap().iter().map(|c| (text(&c["block"]), text(&c["node"]))).collect()
    };
    let before = claims();
    assert_eq!(before.len(), 12, "one block of each family for each of six nodes: {before:?}");
    let node = &cluster.nodes[5];
    node.kill().unwrap();
    node.start(&[]).unwrap();
    node.wait_until("back", |node| Ok(node.status()?["converged"] == true)).unwrap();
    assert_eq!(claims(), before, "the same blocks after a restart");
    node.kill().unwrap();
    let freed = cluster.nodes[0].ask("POST", "/v1/nodes/node-f/forget", None).unwrap();
    assert_eq!(freed["freed"].as_array().unwrap().len(), 2);
    until("forgotten", || claims().iter().all(|(_, owner)| owner != "node-f"));
    cluster.nodes[0]
        .wait_until("without the peer", |n| Ok(n.status()?["networks"]["net"]["peers"] == 4))
        .unwrap();
    node.start(&[]).unwrap();
    until("claimed anew", || claims().iter().filter(|(_, owner)| owner == "node-f").count() == 2);
    cluster.settled("net", "host-gw").unwrap();
    let error = cluster.nodes[0].ask("POST", "/v1/nodes/nobody/forget", None).unwrap_err();
    assert!(error.to_string().contains("there is no node nobody"), "{error}");
}

#[test]
fn an_address_of_the_node_that_changes_is_followed() {
    let cluster = cluster(2, "veth", "vxlan");
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
    assert!(reaches(&pods[0], &pods[1]));
    let netns = &cluster.nodes[1].netns;
    rig::remove_addr(netns, "eth0", "192.0.2.2/24".parse().unwrap()).unwrap();
    rig::addr(netns, "eth0", "192.0.2.77/24".parse().unwrap()).unwrap();
    rig::route(netns, "0.0.0.0/0".parse().unwrap(), "192.0.2.254".parse().unwrap()).unwrap();
    until("followed", || reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    assert!(sh(&cluster.nodes[0].netns, "bridge fdb show dev weftx4-1").contains("192.0.2.77"));
    cluster.settled("net", "vxlan").unwrap();
}

#[test]
fn the_store_away_disturbs_nothing_that_runs() {
    let cluster = cluster(2, "veth", "vxlan");
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
    let node = &cluster.nodes[0];
    until("kept on disk", || node.dir().join("cache/view.jsonl").exists());
    std::thread::sleep(Duration::from_millis(2500)); // The view on disk may be two seconds old.
    let store = cluster.plan.dir.join("store");
    let hidden = cluster.plan.dir.join("hidden");
    std::fs::rename(&store, &hidden).unwrap();
    std::fs::write(&store, "not a directory").unwrap();
    // The agent goes on, and a new one begins, without the store.
    node.kill().unwrap();
    sh(&node.netns, "ip neigh flush nud permanent dev weftx4-1");
    node.start(&[]).unwrap();
    until("heals without the store", || reaches(&pods[0], &pods[1]));
    let more = node.add_pod("more", "net").unwrap();
    let _more = Responder::start(&more).unwrap();
    assert!(reaches(&pods[1], &more));
    node.delete_pod(more).unwrap();
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&hidden, &store).unwrap();
    node.wait_until("synced again", |node| Ok(node.status()?["store"]["synced"] == true)).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    assert!(reaches(&pods[0], &pods[1]));
}

#[test]
fn check_gc_and_status_do_what_the_spec_says() {
    let cluster = cluster(1, "veth", "vxlan");
    let node = &cluster.nodes[0];
    let config = node.cni_config("net");
    let none = Path::new("");
    assert_eq!(node.cni("STATUS", "", none, &config, &[]).unwrap().0, 0);
    let (one, two) = (node.add_pod("one", "net").unwrap(), node.add_pod("two", "net").unwrap());
    let (_, added) = node.cni("ADD", "one", &one.path, &config, &[]).unwrap();
    let mut check = config.clone();
    check["prevResult"] = added;
    let (exit, answer) = node.cni("CHECK", "one", &one.path, &check, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    sh(&one.netns, "ip addr flush dev eth0");
    let (exit, answer) = node.cni("CHECK", "one", &one.path, &check, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(100)), "{answer}");
    assert!(answer["details"].as_str().unwrap().contains("+ addr "), "{answer}");
    let (exit, answer) = node.cni("CHECK", "nobody", &one.path, &check, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(3)), "{answer}");
    // GC of another network of the runtime's frees nothing here; GC of this one all but `two`.
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "two", "ifname": "eth0"}]);
    let mut other = gc.clone();
    other["name"] = json!("other");
    assert_eq!(node.cni("GC", "", none, &other, &[]).unwrap().0, 0);
    assert_eq!(pods(node).len(), 2);
    let (exit, answer) = node.cni("GC", "", none, &gc, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    node.wait_until("freed", |node| Ok(node.status()?["pods"] == 1)).unwrap();
    assert_eq!(pods(node)[0]["container"], "two");
    // DEL twice, and DEL without a namespace.
    for _ in 0..2 {
        assert_eq!(node.cni("DEL", "two", none, &config, &[]).unwrap().0, 0);
    }
    drop(two);
    node.kill().unwrap();
    let (exit, answer) = node.cni("STATUS", "", none, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(50)), "{answer}");
}

#[test]
fn a_pod_whose_namespace_dies_frees_its_address() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let pod = node.add_pod("gone", "net").unwrap();
    assert_eq!(pods(node).len(), 1);
    nix::mount::umount2(&pod.path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    drop(pod);
    node.wait_until("freed", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    empty_plan(node);
}

#[test]
fn bad_input_is_answered_and_nothing_is_half_made() {
    let cluster = cluster(1, "veth", "vxlan");
    let node = &cluster.nodes[0];
    let put = |name: &str, network: Value| {
        let path = format!("/v1/networks/{name}");
        node.ask("PUT", &path, Some(network)).unwrap_err().to_string()
    };
    let cases = [
        (
            "blue",
            json!({"ranges": ["10.1.128.0/17"], "join": "host-gw"}),
            "overlaps 10.1.0.0/16 of network net",
        ),
        ("blue", json!({"ranges": ["192.0.0.0/16"], "join": "host-gw"}), "of the underlay"),
        (
            "blue",
            json!({"ranges": ["10.2.0.0/16"], "join": "vxlam"}),
            "expected one of `vxlan`, `host-gw`, `auto`",
        ),
        ("blue", json!({"ranges": ["10.2.0.0/16"], "attach": "macvlan"}), "`veth` or `bridge`"),
        ("blue", json!({"ranges": ["10.2.0.0/16"], "joins": "auto"}), "known here: attach"),
        ("blue", json!({"ranges": ["10.2.0.0/16"]}), "VNI 1 is network net's"),
        ("blue", json!({"ranges": []}), "no range"),
        ("Blue_", json!({"ranges": ["10.2.0.0/16"]}), "a network name"),
        (
            "net",
            json!({"ranges": ["10.1.0.0/16", "fd00:1::/64"], "attach": "bridge"}),
            "pods that run can't change",
        ),
    ];
    for (name, network, says) in cases {
        let said = put(name, network.clone());
        assert!(said.contains(says), "{network}: {said}");
    }
    let mut config = node.cni_config("net");
    config["network"] = json!("nowhere");
    let path = PathBuf::from("/run/netns/x");
    Netns::create().unwrap().bind(&path).unwrap();
    let (exit, answer) = node.cni("ADD", "x", &path, &config, &[]).unwrap();
    assert_eq!(exit, 1);
    assert!(answer.to_string().contains("networks: net"), "{answer}");
    let (exit, answer) =
        node.cni("ADD", "x", Path::new("/run/netns/gone"), &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(3)), "{answer}");
    assert_eq!(node.ask("GET", "/v1/networks", None).unwrap().as_object().unwrap().len(), 1);
    assert!(pods(node).is_empty());
    empty_plan(node);
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    let cluster = Cluster::build(&plan(1), &program()).unwrap();
    let node = &cluster.nodes[0];
    rig::sysctl(&node.netns, "net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    let look = || {
        sh(
            &node.netns,
            "ip -o link; ip -o addr; ip route; ip -6 route; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/eth0/rp_filter",
        )
    };
    let stable =
        |text: &str| text.lines().filter(|l| !l.contains("fe80")).collect::<Vec<_>>().join("\n");
    let before = stable(&look());
    cluster.start().unwrap();
    cluster.apply("net", &cluster.network("bridge", "auto", 1)).unwrap();
    cluster.settled("net", "auto").unwrap();
    let pod = node.add_pod("p", "net").unwrap();
    assert_ne!(stable(&look()), before);
    node.delete_pod(pod).unwrap();
    node.kill().unwrap();
    let config = node.dir().join("agent.yaml");
    let out = node
        .netns
        .run(|| {
            Command::new(program()).args(["uninstall", "--config"]).arg(&config).output().unwrap()
        })
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(stable(&look()), before);
}

#[test]
fn records_of_other_versions_are_kept_handled_and_said() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let store = cluster.plan.dir.join("store/networks");
    std::fs::write(store.join("newer"), "7\n{\"schema\":9,\"ranges\":[\"10.7.0.0/16\"]}").unwrap();
    std::fs::write(
        store.join("odd"),
        "8\n{\"ranges\":[\"10.8.0.0/16\"],\"join\":\"host-gw\",\"colour\":\"red\"}",
    )
    .unwrap();
    // Two networks that overlap can only come by another's hand; the first by name is served.
    std::fs::write(store.join("zz"), "9\n{\"ranges\":[\"10.1.7.0/24\"],\"join\":\"host-gw\"}")
        .unwrap();
    node.wait_until("saying that two overlap", |node| {
        Ok(node.status()?["problems"].to_string().contains("overlaps 10.1.0.0/16 of network net"))
    })
    .unwrap();
    assert_eq!(node.status().unwrap()["converged"], true, "which holds nothing else up");
    node.wait_until("saying it", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("schema 9 is newer") && problems.contains("colour (known here"))
    })
    .unwrap();
    let status = node.status().unwrap();
    assert!(
        status["networks"]["odd"].is_object() && status["networks"]["newer"].is_null(),
        "{status}"
    );
    assert!(std::fs::read_to_string(store.join("newer")).unwrap().contains("10.7.0.0/16"), "kept");
}

/// A real etcd in the world beyond the wire, where every node reaches it.
fn start_etcd(cluster: &Cluster) -> std::process::Child {
    let dir = cluster.plan.dir.join("etcd");
    std::fs::create_dir_all(&dir).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", "http://192.0.2.254:2379"])
        .args(["--advertise-client-urls", "http://192.0.2.254:2379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380"])
        .stdout(std::process::Stdio::null())
        .stderr(log);
    cluster.wire.world.run(|| etcd.spawn()).unwrap().expect("Debian package etcd-server")
}

#[test]
fn etcd_away_disturbs_nothing_and_all_catches_up_when_it_returns() {
    let store = json!({"etcd": {"endpoints": ["http://192.0.2.254:2379"]}});
    let cluster = Cluster::build_on(&plan(3), &program(), &store).unwrap();
    let mut etcd = start_etcd(&cluster);
    cluster.start().unwrap();
    cluster.apply("net", &cluster.network("veth", "vxlan", 1)).unwrap();
    cluster.settled("net", "vxlan").unwrap();
    let pods = cluster.add_pods("net", "").unwrap();
    let _echo: Vec<Responder> = pods.iter().map(|pod| Responder::start(pod).unwrap()).collect();
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[2], &pods[0]));
    let node = &cluster.nodes[0];
    until("kept on disk", || {
        let kept = std::fs::read_to_string(node.dir().join("cache/view.jsonl")).unwrap_or_default();
        kept.contains("nodes/node-c") && kept.contains("blocks/net")
    });
    etcd.kill().unwrap();
    etcd.wait().unwrap();
    for node in &cluster.nodes {
        node.wait_until("aware of it", |node| Ok(!node.status()?["store"]["away"].is_null()))
            .unwrap();
    }
    // The agent is restarted meanwhile, and what was broken before it began is healed.
    node.kill().unwrap();
    sh(&node.netns, "ip neigh flush nud permanent dev weftx4-1");
    assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_none());
    node.start(&[]).unwrap();
    until("healed without the store", || reaches(&pods[0], &pods[1]));
    let more = node.add_pod("more", "net").unwrap();
    let _more = Responder::start(&more).unwrap();
    assert!(reaches(&pods[2], &more));
    node.delete_pod(more).unwrap();
    let refused = node.ask("PUT", "/v1/networks/net", Some(cluster.network("veth", "auto", 1)));
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("192.0.2.254:2379"), "{said}");
    etcd = start_etcd(&cluster);
    for node in &cluster.nodes {
        node.wait_until("synced", |node| {
            let store = &node.status()?["store"];
            Ok(store["away"].is_null() && store["synced"] == true)
        })
        .unwrap();
    }
    cluster.apply("net", &cluster.network("veth", "host-gw", 1)).unwrap();
    cluster.settled("net", "host-gw").unwrap();
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[2], &pods[0]));
    etcd.kill().unwrap();
    etcd.wait().unwrap();
}

#[test]
fn two_networks_at_once_and_a_pod_in_both() {
    let cluster = cluster(2, "veth", "vxlan");
    cluster.apply("blue", &cluster.network("bridge", "host-gw", 2)).unwrap();
    cluster.settled("blue", "host-gw").unwrap();
    let pods = cluster.add_pods("net", "").unwrap();
    let blues = cluster.add_pods("blue", "blue-").unwrap();
    let node = &cluster.nodes[0];
    // The first pod gets a second interface: routes to its network, not everything.
    let config = node.cni_config("blue");
    let second = [("CNI_IFNAME", "net1")];
    let (exit, answer) = node.cni("ADD", "a1", &pods[0].path, &config, &second).unwrap();
    assert_eq!(exit, 0, "{answer}");
    assert_eq!(answer["routes"][0]["dst"], "10.2.0.0/16", "{answer}");
    let routes = sh(&pods[0].netns, "ip route");
    assert!(
        routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("10.2.0.0/16 via"),
        "{routes}"
    );
    let _echo: Vec<Responder> =
        pods.iter().chain(&blues).map(|pod| Responder::start(pod).unwrap()).collect();
    assert!(reaches(&pods[0], &pods[1]) && reaches(&blues[0], &blues[1]));
    assert!(reaches(&pods[0], &blues[1]), "by its second interface");
    for (name, ifname) in [("a1", "net1"), ("a1", "eth0")] {
        let (exit, _) =
            node.cni("DEL", name, &pods[0].path, &config, &[("CNI_IFNAME", ifname)]).unwrap();
        assert_eq!(exit, 0);
    }
    empty_plan(node);
}
