//! Routers of other makes beside the nodes: two racks with FRR and BIRD, two BIRDs on one segment as
//! each other's alternative; and nodes that reflect.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use weft::lab::{start_routers, tor};

use crate::story::*;

fn racks(nodes: usize) -> Plan {
    Plan { topology: Topology::Racks, ..plan(nodes) }
}

fn neighbours(node: &Node) -> Vec<Value> {
    let said = node.ask("GET", "/v1/bgp", None).unwrap();
    said["neighbours"].as_array().cloned().unwrap_or_default()
}

/// Nodes that are named may be just about to join.
fn set(node: &Node, settings: Value) {
    let taken = |node: &Node| match node.ask("PUT", "/v1/bgp/settings", Some(settings.clone())) {
        Err(error) if error.to_string().contains("is no node of this cluster") => Ok(false),
        answer => answer.map(|_| true),
    };
    node.wait_until("told the settings", taken).unwrap();
}

/// Every node has so many sessions, all established and, where asked, watched by BFD.
fn up(site: &Site, sessions: &[usize]) {
    for (node, sessions) in site.nodes.iter().zip(sessions) {
        node.wait_until("up with its neighbours", |node| {
            let all = neighbours(node);
            let up = |n: &Value| n["state"] == "established" && n["bfd"] == "up";
            Ok(all.len() == *sessions && all.iter().all(up))
        })
        .unwrap();
    }
}

#[test]
fn pods_of_two_racks_meet_by_routes_that_their_routers_spread() {
    let site = built(&racks(3));
    let routers = start_routers(&site, tor::installed().unwrap()).unwrap();
    site.start().unwrap();
    set(&site.nodes[0], tor::settings());
    site.apply("net", &site.network("veth", "bgp", 1)).unwrap();
    site.settled("net", "bgp").unwrap();
    let (pods, _echo) = answering(&site);
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        assert!(from.name == to.name || reaches(from, to), "{} to {}", from.name, to.name);
    }
    up(&site, &[1, 1, 1]);
    // Beside a node of its own rack, through the router to one of the other.
    let asked = format!("/v1/explain?from=a1&to={}", pods[2].addr(true).unwrap());
    let explained = site.nodes[0].ask("GET", &asked, None).unwrap();
    let said = explained.to_string();
    assert_eq!(explained["works"], true, "{said}");
    assert!(said.contains("learnt from tor-1 (AS 64601, 192.0.2.254)"), "{said}");
    assert!(said.contains("64602"), "{said}");
    let table = sh(&site.nodes[0].netns, "ip nexthop; ip route show proto 119");
    assert!(table.contains("via 192.0.2.2 ") && table.contains("via 192.0.2.254 "), "{table}");
    site.nodes.iter().for_each(empty_plan);
    // A host of the world reaches all pods by either router alone, whose table it is.
    for rack in [1, 2] {
        sh(
            &site.wire.world,
            &format!(
                "ip route replace 10.1.0.0/16 via 10.254.{rack}.1
                 ip -6 route replace fd00:1::/64 via fd00:fe:{rack}::1"
            ),
        );
        for (pod, v4) in pods.iter().flat_map(|pod| [(pod, true), (pod, false)]) {
            let reached = reach(&site.wire.world, pod.addr(v4).unwrap());
            assert!(reached.is_some(), "{} through router {rack}", pod.name);
        }
    }

    // A router that crashes and starts again keeps forwarding: nobody notices.
    let flows: Vec<Flow> = [(0, 2, true), (2, 0, false), (1, 2, true)]
        .map(|(a, b, v4)| Flow::start(FlowKind::Small, &pods[a], &pods[b], v4).unwrap())
        .into();
    std::thread::sleep(Duration::from_millis(300));
    let node = &site.nodes[2];
    routers[1].kill().unwrap();
    node.wait_until("without its router", |node| {
        Ok(neighbours(node).iter().all(|n| n["state"] != "established"))
    })
    .unwrap();
    assert_eq!(neighbours(node)[0]["restarting"], true, "{:?}", neighbours(node));
    routers[1].run(&site.wire.tors()[1]).unwrap();
    up(&site, &[1, 1, 1]);
    node.wait_until("told everything again", |node| {
        Ok(neighbours(node).iter().all(|n| n["restarting"] == false))
    })
    .unwrap();
    let mut all = Report::default();
    flows.into_iter().for_each(|flow| all += flow.stop());
    assert!(all.sent > 1000 && all.lost == 0, "{all:?}\n{}", routers[1].log());
}

/// A router on the nodes' segment with one host behind it, both ends of which are the test's.
struct Tor {
    netns: Netns,
    daemon: Child,
}

impl Drop for Tor {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const FAR4: &str = "198.18.5.1";
const FAR6: &str = "fd00:fa::1";

/// A host with addresses of its own, behind whatever router is made for it.
fn far() -> Netns {
    let far = Netns::create().unwrap();
    far.run(|| rig::up_here("lo")).unwrap().unwrap();
    // Nobody else is there to have its addresses.
    rig::sysctl(&far, "net/ipv6/conf/default/accept_dad", "0").unwrap();
    for addr in [format!("{FAR4}/32"), format!("{FAR6}/128")] {
        rig::addr(&far, "lo", addr.parse().unwrap()).unwrap();
    }
    far
}

/// The `n`-th router between the nodes' segment and that host, as yet without a daemon.
fn router(site: &Site, far: &Netns, n: usize) -> Netns {
    let netns = Netns::create().unwrap();
    netns.run(|| rig::up_here("lo")).unwrap().unwrap();
    for knob in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        rig::sysctl(&netns, knob, "1").unwrap();
    }
    rig::sysctl(&netns, "net/ipv6/conf/default/accept_dad", "0").unwrap();
    let port = format!("tor{n}");
    rig::pair(&netns, "seg", site.wire.switch(0), &port, 1500).unwrap();
    rig::port(site.wire.switch(0), &port, "br0").unwrap();
    rig::pair(&netns, "far", far, &port, 1500).unwrap();
    for (netns, dev, addr) in [
        (&netns, "seg", format!("192.0.2.{}/24", 200 + n)),
        (&netns, "seg", format!("2001:db8:1::{}/64", 200 + n)),
        (&netns, "far", format!("10.9.{n}.1/24")),
        (&netns, "far", format!("fd00:9:{n}::1/64")),
        (far, &port, format!("10.9.{n}.2/24")),
        (far, &port, format!("fd00:9:{n}::2/64")),
    ] {
        rig::addr(netns, dev, addr.parse().unwrap()).unwrap();
    }
    let to_far =
        format!("ip route add {FAR4}/32 via 10.9.{n}.2; ip route add {FAR6}/128 via fd00:9:{n}::2");
    sh(&netns, &to_far);
    netns
}

/// Two of them, and the host that both lead to.
fn alternatives(site: &Site) -> (Vec<Tor>, Pod) {
    let far = far();
    let tors = [1, 2].map(|n| {
        let (netns, port) = (router(site, &far, n), format!("tor{n}"));
        let dir = site.plan.dir.join(&port);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("bird.conf"), bird(n)).unwrap();
        let mut bird = Command::new("/usr/sbin/bird");
        bird.arg("-f").arg("-c").arg(dir.join("bird.conf")).arg("-s").arg(dir.join("ctl"));
        bird.arg("-P").arg(dir.join("pid")).stdout(Stdio::null()).stderr(Stdio::null());
        Tor { daemon: netns.run(|| bird.spawn().unwrap()).unwrap(), netns }
    });
    // Reverse paths of what comes by either.
    sh(&far, "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    let addrs = [FAR4, FAR6].map(|addr| addr.parse().unwrap()).into();
    let (name, node, network) = ("far".into(), String::new(), String::new());
    (tors.into(), Pod { name, node, netns: far, path: PathBuf::new(), addrs, network })
}

fn bird(n: usize) -> String {
    let (own, asn) = (200 + n, 65000 + n);
    format!(
        "router id 192.0.2.{own};
protocol device {{}}
protocol static {{ ipv4; route {FAR4}/32 via 10.9.{n}.2; }}
protocol static {{ ipv6; route {FAR6}/128 via fd00:9:{n}::2; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; graceful restart; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; graceful restart; }}
protocol bfd {{ interface \"seg\" {{ interval 300 ms; multiplier 3; }}; }}
template bgp node {{
  local 192.0.2.{own} as {asn};
  direct;
  bfd on;
  graceful restart on;
  ipv4 {{ import all; export all; next hop self; }};
  ipv6 {{ import all; export all; next hop self; }};
}}
protocol bgp a from node {{ neighbor 192.0.2.1 as 64512; }}
protocol bgp b from node {{ neighbor 192.0.2.2 as 64512; }}
"
    )
}

/// Two nodes, each with two routers that watch over it by BFD, and a pod each.
fn between_two_routers() -> (Site, Vec<Tor>, Pod) {
    let site = cluster(2, "veth", "bgp");
    let (tors, far) = alternatives(&site);
    let peers = [1, 2].map(|n| {
        json!({"name": format!("tor-{n}"), "address": format!("192.0.2.{}", 200 + n),
               "asn": 65000 + n, "bfd": {"intervalMs": 300, "multiplier": 3}})
    });
    set(&site.nodes[0], json!({"peers": peers}));
    up(&site, &[3, 3]);
    (site, tors, far)
}

#[test]
fn of_two_routers_one_that_dies_silently_is_left_within_a_second() {
    let (site, tors, far) = between_two_routers();
    let (pods, _echo) = answering(&site);
    let node = &site.nodes[0];
    let hops = |family: &str, of: &str| {
        let show = format!("ip {family} route get {of}");
        let ways = |n: &str| sh(&node.netns, &show).contains(n);
        let group = sh(&node.netns, "ip nexthop show groups");
        (!group.is_empty(), ways("via"))
    };
    until("by both", || hops("", FAR4) == (true, true) && hops("-6", FAR6) == (true, true));
    let paths = sh(&node.netns, &format!("ip route show {FAR4}; ip -6 route show {FAR6}"));
    assert!(paths.contains("nhid"), "{paths}");
    empty_plan(node);
    // Many flows, so that each router carries some.
    let flows: Vec<Flow> = (0..4)
        .flat_map(|n| [(n, true), (n, false)])
        .map(|(n, v4)| Flow::start(FlowKind::Small, &pods[n % 2], &far, v4).unwrap())
        .collect();
    until("flowing", || flows.iter().all(|flow| flow.arrived() > 200));
    let carried = |tor: &Tor| {
        let counts = sh(&tor.netns, "grep far: /proc/net/dev");
        // Behind the name eight numbers of what came, then those of what was sent.
        counts.split_whitespace().nth(10).unwrap().parse::<u64>().unwrap()
    };
    let before: Vec<u64> = tors.iter().map(carried).collect();
    std::thread::sleep(Duration::from_millis(300));
    let busier = usize::from(carried(&tors[1]) - before[1] > carried(&tors[0]) - before[0]);
    assert!(carried(&tors[busier]) - before[busier] > 100, "nobody carries anything");
    // Its frames are dropped by the switch: its link stays up, and nobody says goodbye.
    let port = format!("tor{}", busier + 1);
    sh(
        site.wire.switch(0),
        &format!(
            "nft 'add table netdev cut; add chain netdev cut in {{ type filter hook ingress device {port} priority 0; policy drop; }}'; ip link set {port} down"
        ),
    );
    let left = Instant::now();
    until("left", || {
        let all = neighbours(node);
        let gone = format!("192.0.2.{}", 201 + busier);
        all.iter().any(|n| n["addr"] == gone.as_str() && n["state"] != "established")
    });
    assert!(left.elapsed() < Duration::from_millis(1200), "{:?}", left.elapsed());
    std::thread::sleep(Duration::from_millis(500));
    let counts: Vec<u64> = flows.iter().map(Flow::arrived).collect();
    until("all flowing again", || {
        flows.iter().zip(&counts).all(|(flow, count)| flow.arrived() > count + 100)
    });
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let stopping: Vec<_> = flows.into_iter().map(|flow| scope.spawn(|| flow.stop())).collect();
        stopping.into_iter().map(|flow| flow.join().unwrap()).collect()
    });
    let lost: Vec<u64> = reports.iter().map(|report| report.lost).collect();
    assert!(lost.iter().any(|lost| *lost > 0), "the cut hurt nobody: {lost:?}");
    assert!(lost.iter().all(|lost| *lost < 1000), "at 1 kHz, more than a second: {lost:?}");
    empty_plan(node);
}

/// With the settings by which a death is noticed in under a second, an agent that is killed and
/// started again costs nothing of what comes to its pod through either router.
#[test]
fn an_agent_that_is_killed_is_not_noticed_by_routers_with_the_same_bfd() {
    let (site, _tors, far) = between_two_routers();
    let (pods, _echo) = answering(&site);
    let (node, pod) = (&site.nodes[0], &pods[0]);
    for n in [1, 2] {
        sh(
            &far.netns,
            &format!(
                "ip route replace 10.1.0.0/16 via 10.9.{n}.1 src {FAR4}
                 ip route replace fd00:1::/64 via fd00:9:{n}::1 src {FAR6}"
            ),
        );
        until("reached from there", || {
            [true, false].iter().all(|v4| reach(&far.netns, pod.addr(*v4).unwrap()).is_some())
        });
        let flows = [true, false].map(|v4| Flow::start(FlowKind::Small, &far, pod, v4).unwrap());
        until("flowing", || flows.iter().all(|flow| flow.arrived() > 200));
        node.kill().unwrap();
        node.start(&[]).unwrap();
        site.settled("net", "bgp").unwrap();
        up(&site, &[3, 3]);
        // BFD would have been noticed by then.
        std::thread::sleep(Duration::from_millis(1200));
        let mut all = Report::default();
        flows.into_iter().for_each(|flow| all += flow.stop());
        assert!(all.sent > 1000 && all.lost == 0, "through router {n}: {all:?}");
    }
}

/// It has no forwarding table: what its RIB says is written to the kernel by the test.
fn gobgp() -> String {
    let neighbour = |n: usize| {
        let family = |name: &str| {
            format!(
                "[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{name}\"
"
            )
        };
        format!(
            "[[neighbors]]
[neighbors.config]
neighbor-address = \"192.0.2.{n}\"
peer-as = 64512
{}{}",
            family("ipv4-unicast"),
            family("ipv6-unicast")
        )
    };
    format!(
        "[global.config]
as = 65010
router-id = \"192.0.2.201\"
{}{}",
        neighbour(1),
        neighbour(2)
    )
}

#[test]
fn a_host_behind_gobgp_reaches_pods() {
    let site = cluster(2, "veth", "bgp");
    let (pods, _echo) = answering(&site);
    let far = far();
    let tor = router(&site, &far, 1);
    sh(
        &far,
        &format!(
            "ip route add 10.1.0.0/16 via 10.9.1.1 src {FAR4}
             ip route add fd00:1::/64 via fd00:9:1::1 src {FAR6}"
        ),
    );
    let dir = site.plan.dir.join("gobgp");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("gobgp.toml"), gobgp()).unwrap();
    let mut daemon = Command::new("/usr/bin/gobgpd");
    daemon.arg("-f").arg(dir.join("gobgp.toml")).args(["--api-hosts", "127.0.0.1:50051"]);
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    let tor = Tor { daemon: tor.run(|| daemon.spawn().unwrap()).unwrap(), netns: tor };
    let tor = &tor.netns;
    until("gobgpd answers", || {
        let asked = format!(
            "gobgp global rib add {FAR4}/32 nexthop 192.0.2.201 &&
             gobgp global rib -a ipv6 add {FAR6}/128 nexthop 2001:db8:1::201 && echo done || true"
        );
        sh(tor, &asked).contains("done")
    });
    let peer = json!({"name": "gobgp", "address": "192.0.2.201", "asn": 65010});
    set(&site.nodes[0], json!({"peers": [peer]}));
    let rib = |family: &str| -> Vec<(String, String)> {
        let said = sh(tor, &format!("gobgp global rib -a {family} -j"));
        let rib: Value = serde_json::from_str(&said).unwrap_or_default();
        let paths = rib.as_object().into_iter().flatten();
        let hop = |paths: &Value| {
            let attrs = paths[0]["attrs"].as_array()?.clone();
            attrs.iter().find_map(|attr| attr["nexthop"].as_str().map(str::to_owned))
        };
        let all = paths.filter_map(|(prefix, paths)| Some((prefix.clone(), hop(paths)?)));
        all.filter(|(prefix, _)| prefix.starts_with("10.1.") || prefix.starts_with("fd00:1:"))
            .collect()
    };
    until("told of both nodes' blocks", || rib("ipv4").len() == 2 && rib("ipv6").len() == 2);
    for (prefix, hop) in [rib("ipv4"), rib("ipv6")].concat() {
        sh(tor, &format!("ip route replace {prefix} via {hop}"));
    }
    for node in &site.nodes {
        until("knowing the way back", || {
            let table = sh(&node.netns, "ip route show proto 119; ip -6 route show proto 119");
            table.contains(FAR4) && table.contains(FAR6)
        });
        empty_plan(node);
    }
    for (pod, v4) in pods.iter().flat_map(|pod| [(pod, true), (pod, false)]) {
        let (from, to) = (if v4 { FAR4 } else { FAR6 }, pod.addr(v4).unwrap());
        let found = sh(&far, &format!("ip route get {to}"));
        assert!(found.contains(from), "{found}");
        assert!(reach(&far, to).is_some(), "{} is not reached: {found}", pod.name);
    }
}

#[test]
fn a_reflector_that_dies_loses_nothing_and_the_other_reflects() {
    let site = built(&plan(4));
    site.start().unwrap();
    set(&site.nodes[0], json!({"reflectors": {"nodes": ["node-a", "node-b"]}}));
    begin(&site, "veth", "bgp");
    site.settled("net", "bgp").unwrap();
    // Clients have sessions with the reflectors alone.
    up(&site, &[3, 3, 2, 2]);
    let (pods, _echo) = answering(&site);
    assert!(reaches(&pods[2], &pods[3]) && reaches(&pods[0], &pods[3]));
    let flows = [(2, 3, true), (3, 2, false), (1, 2, true)]
        .map(|(a, b, v4)| Flow::start(FlowKind::Small, &pods[a], &pods[b], v4).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    sh(site.wire.switch(0), "ip link set node-a down");
    site.nodes[0].kill().unwrap();
    for node in &site.nodes[2..] {
        node.wait_until("without the reflector", |node| {
            let lost = |n: &Value| n["name"] == "node-a" && n["state"] != "established";
            Ok(neighbours(node).iter().any(lost))
        })
        .unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    // What is new is learnt by the other.
    let late = site.nodes[2].add_pod("late", "net").unwrap();
    let _late = responders([&late]);
    until("the late one reached", || reaches(&pods[3], &late));
    let mut all = Report::default();
    flows.into_iter().for_each(|flow| all += flow.stop());
    assert!(all.sent > 1000 && all.lost == 0, "{all:?}");
}
