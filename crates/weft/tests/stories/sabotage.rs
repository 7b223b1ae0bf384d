//! Sabotage: what somebody breaks is healed, what is a stranger's is left alone.

use std::{collections::VecDeque, net::UdpSocket, thread};

use weft::lab::WORLD4;

use crate::story::*;

/// What is healed later than this is healed too late.
const HEALED_MAX: Duration = Duration::from_secs(1);
/// How long nothing may come through for the hurt to be proved.
const HURT: Duration = Duration::from_millis(100);

/// Asks `to` once a millisecond, each time from a port of its own, so that no connection from before
/// answers. When the first question that was answered was asked; none if none was within `longest`.
fn first_through(from: &Netns, to: IpAddr, longest: Duration) -> Option<Duration> {
    let ask = || {
        let start = Instant::now();
        let mut asked: VecDeque<(Duration, UdpSocket)> = VecDeque::new();
        while start.elapsed() < longest {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_nonblocking(true).unwrap();
            let at = start.elapsed();
            // A node without a route says so at once, which is no answer.
            let _ = socket.send_to(b"there?", (to, 7));
            asked.push_back((at, socket));
            if asked.len() > 300 {
                asked.pop_front();
            }
            thread::sleep(Duration::from_millis(1));
            let answered = |(_, socket): &&(Duration, UdpSocket)| socket.recv(&mut [0; 64]).is_ok();
            if let Some((at, _)) = asked.iter().find(answered) {
                return Some(*at);
            }
        }
        None
    };
    from.run(ask).unwrap()
}

/// Breaks the node while its agent is held, or it would heal before we look.
fn hurts_and_heals(node: &Node, pod: &Pod, to: IpAddr, sabotage: &str) {
    // A neighbour that was never asked for is asked for once a second.
    assert!(first_through(&pod.netns, to, 5 * HEALED_MAX).is_some(), "before {sabotage}");
    node.signal(Signal::SIGSTOP).unwrap();
    sh(&node.netns, sabotage);
    let hurt = first_through(&pod.netns, to, HURT).is_none();
    assert!(hurt, "{sabotage}: it did nothing to {to}, so the test proves nothing");
    node.signal(Signal::SIGCONT).unwrap();
    let healed = first_through(&pod.netns, to, 30 * HEALED_MAX);
    eprintln!("{:>4} ms to {to}: {sabotage}", healed.map_or(9999, |healed| healed.as_millis()));
    assert!(healed.is_some_and(|healed| healed < HEALED_MAX), "{sabotage}: {healed:?} to {to}");
    empty_plan(node);
}

/// Takes every route to a peer's block away.
fn no_peers(family: &str) -> String {
    let peers = format!("ip {family} route show proto 119 | grep nhid");
    format!("{peers} | while read dst rest; do ip {family} route del $dst proto 119; done")
}

const STRANGERS: &str = "ip link add stranger type bridge; ip route add 10.9.0.0/16 dev eth0
                         nft add table inet strangers";

fn strangers_are_left(netns: &Netns) {
    let left = sh(netns, "ip -o link; ip route; nft list tables");
    for kept in ["stranger", "10.9.0.0/16", "strangers"] {
        assert!(left.contains(kept), "{kept} is gone: {left}");
    }
}

/// The host beyond the router, which pods reach by masquerade alone.
fn world(site: &Site) -> Pod {
    let addrs = vec![WORLD4.parse().unwrap()];
    let (name, netns) = ("world".to_owned(), site.wire.world.try_clone().unwrap());
    Pod { node: name.clone(), name, netns, path: PathBuf::new(), addrs, network: "none".into() }
}

/// Sabotage of the first node, by which of its packets it hurts: to a pod of the other node by IPv4
/// or IPv6, or to the world.
fn each_hurts(attach: &str, join: &str, cases: &[(To, &str)]) {
    let site = cluster(2, attach, join);
    let (pods, _echo) = answering(&site);
    let world = world(&site);
    let _beyond = Responder::start(&world).unwrap();
    let node = &site.nodes[0];
    sh(&node.netns, STRANGERS);
    for (to, sabotage) in cases {
        let addr = match to {
            To::Pod4 => pods[1].addr(true).unwrap(),
            To::Pod6 => pods[1].addr(false).unwrap(),
            To::World => world.addrs[0],
        };
        let sabotage = sabotage.replace("POD", &pods_of(node)[0]);
        hurts_and_heals(node, &pods[0], addr, &sabotage);
    }
    strangers_are_left(&node.netns);
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
}

#[derive(Clone, Copy)]
enum To {
    Pod4,
    Pod6,
    World,
}

#[test]
fn sabotage_hurts_and_is_healed_in_under_a_second() {
    each_hurts(
        "veth",
        "vxlan",
        &[
            (To::Pod4, &no_peers("-4")),
            (To::Pod6, &no_peers("-6")),
            (To::Pod4, "ip neigh flush nud permanent dev weftx4-1"),
            (To::Pod6, "ip neigh flush nud permanent dev POD"),
            (
                To::Pod4,
                "bridge fdb show dev weftx4-1 | while read mac rest
                 do bridge fdb del $mac dev weftx4-1; done",
            ),
            (To::Pod4, "ip link del weftx4-1"),
            (To::Pod6, "ip link set weftx4-1 down"),
            (To::Pod4, "ip -4 addr flush dev weftx4-1"),
            (To::Pod4, "ip link del POD"),
            (To::Pod6, "ip link set POD down"),
            (To::World, "nft delete table inet weft"),
            (To::World, "nft flush ruleset; nft add table inet strangers"),
            (To::Pod4, "sysctl -w net.ipv4.ip_forward=0"),
            (To::Pod6, "sysctl -w net.ipv6.conf.all.forwarding=0"),
        ],
    );
}

#[test]
fn sabotage_hurts_direct_routes_and_is_healed_in_under_a_second() {
    each_hurts(
        "veth",
        "host-gw",
        &[
            (To::Pod4, "ip nexthop flush proto 119"),
            (To::Pod6, "ip -6 nexthop flush proto 119"),
            (To::Pod4, &no_peers("-4")),
            (To::Pod6, &no_peers("-6")),
        ],
    );
}

#[test]
fn sabotage_hurts_a_bridge_and_is_healed_in_under_a_second() {
    each_hurts(
        "bridge",
        "vxlan",
        &[
            (To::Pod4, "ip link del weftb-net"),
            (To::Pod6, "ip link del weftb-net"),
            (To::Pod4, "ip link set weftb-net down"),
            (To::Pod6, "ip link set POD nomaster"),
            (To::Pod4, "ip link del POD"),
            (To::Pod6, "ip neigh flush nud permanent dev weftb-net"),
            (To::World, "nft delete table inet weft"),
        ],
    );
}

#[test]
fn sabotage_hurts_a_domain_and_is_healed_in_under_a_second() {
    let flush = |flags: &str| {
        format!(
            "bridge fdb show dev weftx4-1 | grep -v 'master weftb-net permanent' |
             while read mac rest
             do bridge fdb del $mac dev weftx4-1 {flags} || true; done"
        )
    };
    each_hurts(
        "bridge",
        "vxlan-bridged",
        &[
            (To::Pod4, "ip link del weftx4-1"),
            (To::Pod6, "ip link set weftx4-1 down"),
            (To::Pod4, "ip link set weftx4-1 nomaster"),
            (To::Pod6, "ip link del weftb-net"),
            (To::Pod4, "ip link set POD nomaster"),
            (To::Pod4, &flush("self")),
            (To::World, "ip -4 addr flush dev weftb-net"),
            (To::World, "ip route flush proto 119"),
            (To::World, "nft delete table inet weft"),
            (To::Pod6, "ip link del POD"),
        ],
    );
}

#[test]
fn sabotage_hurts_routed_pods_in_a_group_and_is_healed_in_under_a_second() {
    each_hurts(
        "veth",
        "vxlan+multicast",
        &[
            (To::Pod4, "ip link del weftx4-1"),
            (To::Pod6, "ip link set weftx4-1 down"),
            (To::Pod4, "ip route del 10.1.0.0/16"),
            (To::Pod6, "ip -6 addr flush dev weftx4-1; ip -6 neigh flush dev weftx4-1"),
        ],
    );
}

#[test]
fn sabotage_hurts_a_domain_in_a_group_and_is_healed_in_under_a_second() {
    each_hurts(
        "bridge",
        "vxlan-bridged+multicast",
        &[
            (To::Pod4, "ip link del weftx4-1"),
            (To::Pod6, "ip link set weftx4-1 down"),
            (To::Pod6, "ip link set weftx4-1 nomaster"),
            (To::Pod4, "ip link del weftb-net"),
            (To::World, "ip -4 addr flush dev weftb-net"),
        ],
    );
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
