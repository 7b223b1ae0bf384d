//! From which address who is seen, as Kubernetes wants it: probes, Services of every kind, pods, and
//! what lies outside; with the rules of kube-proxy in each of its modes.

use crate::{
    citizens::address,
    kube_proxy::{Mode, Service, SocketAddr, write},
    services::{ENDPOINT, SERVICE, cluster_ip, seen_at, serve, serve_at},
    story::*,
};

const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;

/// Who is asked to be.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Nobody,
    As(IpAddr),
    /// Any address of the node.
    Of(usize),
    /// As anybody but this.
    Not(IpAddr),
}

pub fn own_addresses(node: &Node) -> Vec<IpAddr> {
    let lines = sh(&node.netns, "ip -o addr");
    let words = lines.lines().filter_map(|line| line.split_whitespace().nth(3));
    words.filter_map(|word| word.split('/').next()?.parse().ok()).collect()
}

/// A backend on the first node; pods beside it and on the second; the world outside.
fn sources(attach: &str, join: &str, mode: Mode, bridge_calls: bool) {
    let site = built(&plan(2));
    if !bridge_calls {
        site.nodes.iter().for_each(without_br_netfilter);
    }
    begin(&site, attach, join);
    site.settled("net", join).unwrap();
    let server = site.nodes[0].add_pod("server", "net").unwrap();
    let other = site.nodes[1].add_pod("other", "net").unwrap();
    let pods = site.add_pods("net", "").unwrap();
    serve(&server);
    let world = &site.wire.world;
    let outside: Vec<IpAddr> =
        ["203.0.113.1", "2001:db8:ffff::1"].map(|ip| ip.parse().unwrap()).into();
    serve_at(world, &outside[..1]);
    let families: &[bool] = if mode == Mode::IptablesLegacy { &[true] } else { &[true, false] };
    for ipv4 in families.iter().copied() {
        let to = |pod: &Pod| SocketAddr::new(pod.addr(ipv4).unwrap(), ENDPOINT);
        for (n, node) in site.nodes.iter().enumerate() {
            let own = if n == 0 { vec![to(&server)] } else { Vec::new() };
            let pods = if ipv4 { "10.1.0.0/16" } else { "fd00:1::/64" };
            let (vip, endpoints) = (cluster_ip(0, ipv4), vec![to(&server)]);
            let service = Service {
                vip,
                port: SERVICE,
                cluster: CLUSTER,
                local: LOCAL,
                endpoints,
                own,
                pods,
            };
            write(&node.netns, mode, &service);
        }
    }
    drop(other);
    for ipv4 in families.iter().copied() {
        let table =
            table(&site, (&server, &pods[0], &pods[1]), ipv4, attach != "bridge" || bridge_calls);
        for (what, from, at, want) in table {
            let what = format!("{attach} × {join}, {mode:?}, ipv4 {ipv4}: {what}");
            let right = |seen: Option<IpAddr>| match want {
                Seen::Nobody => seen.is_none(),
                Seen::As(ip) => seen == Some(ip),
                Seen::Of(n) => seen.is_some_and(|ip| own_addresses(&site.nodes[n]).contains(&ip)),
                Seen::Not(ip) => seen.is_some_and(|seen| seen != ip),
            };
            // Rules are heard of, and what they need is done, within moments.
            let end = Instant::now() + Duration::from_secs(5);
            let mut seen = seen_at(from, at, true);
            while !right(seen) && Instant::now() < end {
                seen = seen_at(from, at, true);
            }
            assert!(right(seen), "{what}: {seen:?} instead of {want:?}");
        }
    }
    site.nodes.iter().for_each(empty_plan);
}

type Line<'a> = (&'static str, &'a Netns, SocketAddr, Seen);

/// `sighted`: pods of one node see each other through a Service.
fn table<'a>(
    site: &'a Site,
    (server, near, far): (&'a Pod, &'a Pod, &'a Pod),
    ipv4: bool,
    sighted: bool,
) -> Vec<Line<'a>> {
    let [a, b] = [&site.nodes[0], &site.nodes[1]];
    let own = |pod: &Pod| pod.addr(ipv4).unwrap();
    let pod = SocketAddr::new(own(server), ENDPOINT);
    let vip = SocketAddr::new(cluster_ip(0, ipv4), SERVICE);
    let port = |node: &Node, port: u16| SocketAddr::new(address(node, ipv4), port);
    let beside = if sighted { Seen::As(own(near)) } else { Seen::Not(own(near)) };
    let mut table = vec![
        ("a probe of the node", &a.netns, pod, Seen::Of(0)),
        ("another node to a pod", &b.netns, pod, Seen::Of(1)),
        ("pod to pod of its node", &near.netns, pod, Seen::As(own(near))),
        ("pod to pod of another node", &far.netns, pod, Seen::As(own(far))),
        ("node to ClusterIP", &a.netns, vip, Seen::Of(0)),
        ("another node to ClusterIP", &b.netns, vip, Seen::Of(1)),
        ("pod to ClusterIP, same node", &near.netns, vip, beside),
        ("pod to ClusterIP, other node", &far.netns, vip, Seen::As(own(far))),
        ("pod to its own Service", &server.netns, vip, Seen::Not(own(server))),
        ("node port of the node itself", &a.netns, port(a, CLUSTER), Seen::Of(0)),
        ("node port of another node", &b.netns, port(a, CLUSTER), Seen::Of(0)),
        ("node port where no backend is", &b.netns, port(b, CLUSTER), Seen::Of(1)),
        ("the same from the other node", &a.netns, port(b, CLUSTER), Seen::Of(1)),
        ("policy Local from outside", &b.netns, port(a, LOCAL), Seen::As(address(b, ipv4))),
        ("policy Local where no backend is", &a.netns, port(b, LOCAL), Seen::Nobody),
        ("policy Local of the node itself", &a.netns, port(a, LOCAL), Seen::Of(0)),
        ("policy Local, a pod of the node", &near.netns, port(a, LOCAL), beside),
        ("policy Local, a pod of another node", &far.netns, port(a, LOCAL), Seen::Of(1)),
        ("pod to its own node port", &server.netns, port(a, CLUSTER), Seen::Not(own(server))),
    ];
    if ipv4 {
        let world = &site.wire.world;
        let client: IpAddr = "203.0.113.1".parse().unwrap();
        let served = SocketAddr::new(client, ENDPOINT);
        // By the address that the world sends from to the nodes.
        let local = seen_from(world, port(a, LOCAL));
        table.push(("policy Local, behind a router", world, port(a, LOCAL), Seen::As(local)));
        table.push(("node port, behind a router", world, port(a, CLUSTER), Seen::Of(0)));
        table.push(("pod to outside", &near.netns, served, Seen::Of(0)));
        table.push(("pod to outside, other node", &far.netns, served, Seen::Of(1)));
    }
    table
}

/// The address that a namespace sends from.
fn seen_from(netns: &Netns, to: SocketAddr) -> IpAddr {
    let socket = netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    socket.connect(to).unwrap();
    socket.local_addr().unwrap().ip()
}

/// As on a node whose kernel has not loaded it: bridges pass no rules, and there is nothing to ask for it.
pub fn without_br_netfilter(node: &Node) {
    let calls = "net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0";
    let hidden = node.dir().join("no-bridge");
    std::fs::create_dir_all(&hidden).unwrap();
    let hide =
        format!("sysctl -qw {calls}; mount --bind {} /proc/sys/net/bridge", hidden.display());
    sh(&node.netns, &hide);
}

#[test]
fn sources_are_right_with_veth_over_vxlan_and_nftables() {
    sources("veth", "vxlan", Mode::Nftables, true);
}

#[test]
fn sources_are_right_with_veth_over_host_gw_and_iptables() {
    sources("veth", "host-gw", Mode::Iptables, true);
}

#[test]
fn sources_are_right_with_veth_over_vxlan_and_old_iptables() {
    sources("veth", "vxlan", Mode::IptablesLegacy, true);
}

#[test]
fn sources_are_right_with_a_bridge_over_vxlan_and_nftables() {
    sources("bridge", "vxlan", Mode::Nftables, true);
}

#[test]
fn sources_are_right_with_a_bridge_over_host_gw_and_iptables() {
    sources("bridge", "host-gw", Mode::Iptables, true);
}

#[test]
fn sources_are_right_with_a_bridge_and_no_br_netfilter() {
    for mode in [Mode::Nftables, Mode::Iptables] {
        sources("bridge", "host-gw", mode, false);
    }
}
