//! Services with `externalTrafficPolicy: Local` whose backends stand on the physical network: a client of
//! theirs keeps his address past kube-proxy, and would be answered by the network's router, past the
//! translation. So weft has such backends see the node.

use crate::{
    citizens::address,
    kube_proxy::{Mode, Service, SocketAddr, write},
    lan::lan,
    services::{ENDPOINT, SERVICE, cluster_ip, seen_at, serve},
    sources::own_addresses,
    story::*,
};

const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;

/// The rules of a node's kube-proxy, for a Service with this one backend.
fn proxy(node: &Node, mode: Mode, backend: SocketAddr, is_own: bool) {
    let ipv4 = backend.is_ipv4();
    let service = Service {
        vip: cluster_ip(0, ipv4),
        port: SERVICE,
        cluster: CLUSTER,
        local: LOCAL,
        endpoints: vec![backend],
        own: if is_own { vec![backend] } else { Vec::new() },
        pods: if ipv4 { "10.1.0.0/16" } else { "fd00:1::/64" },
    };
    write(&node.netns, mode, &service);
}

/// A backend on the first node, of a network that is made by `network` and joined by `join`.
pub fn local_policy(network: impl Fn(&Site) -> Value, join: &str, mode: Mode) {
    let site = built(&lan(2));
    begin(&site, "veth", "host-gw");
    site.apply("lan", &network(&site)).unwrap();
    site.settled("net", "host-gw").unwrap();
    site.settled("lan", join).unwrap();
    let [a, b] = [&site.nodes[0], &site.nodes[1]];
    let server = a.add_pod("server", "lan").unwrap();
    let near = a.add_pod("near", "net").unwrap();
    serve(&server);
    let own = own_addresses(a);
    for ipv4 in [true, false] {
        let backend = SocketAddr::new(server.addr(ipv4).unwrap(), ENDPOINT);
        proxy(a, mode, backend, true);
        proxy(b, mode, backend, false);
        let port = |node: &Node| SocketAddr::new(address(node, ipv4), LOCAL);
        let vip = SocketAddr::new(cluster_ip(0, ipv4), SERVICE);
        let mut clients = vec![
            ("another node", &b.netns, port(a)),
            ("the node itself", &a.netns, port(a)),
            ("a routed pod of the node", &near.netns, port(a)),
            ("the node, by the ClusterIP", &a.netns, vip),
            ("a routed pod, by the ClusterIP", &near.netns, vip),
            ("the node, as a probe", &a.netns, backend),
        ];
        if ipv4 {
            clients.push(("behind a router", &site.wire.world, port(a)));
        }
        for (who, from, at) in clients {
            until(&format!("{who} served, {mode:?}, ipv4 {ipv4}"), || {
                seen_at(from, at, true).is_some_and(|seen| own.contains(&seen))
            });
        }
        assert_eq!(seen_at(&a.netns, port(b), true), None, "no backend is there");
    }
    site.nodes.iter().for_each(empty_plan);
    if join != "underlay" {
        return;
    }
    // It is the node's address that brings answers back.
    let at = SocketAddr::new(address(a, true), LOCAL);
    a.kill().unwrap();
    sh(&a.netns, "nft flush chain inet weft source-nat; conntrack -F 2>/dev/null || true");
    assert_eq!(seen_at(&b.netns, at, true), None);
}

fn macvlan(mode: &'static str) -> impl Fn(&Site) -> Value {
    move |site| site.lan_network(&json!({"kind": "macvlan", "parent": "eth1", "mode": mode}))
}

#[test]
fn local_traffic_policy_serves_from_macvlan_pods_with_nftables() {
    local_policy(macvlan("bridge"), "underlay", Mode::Nftables);
}

#[test]
fn local_traffic_policy_serves_from_private_macvlan_pods_with_iptables() {
    local_policy(macvlan("private"), "underlay", Mode::Iptables);
}
