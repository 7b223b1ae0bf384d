//! Pods on the physical network as full citizens of their node: it reaches them and they reach it, its
//! Services and what lies behind it, the same in every mode; and who is kept apart stays so.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
};

use crate::{
    macvlan::{attach, checked, lan, links_inside, on_lan, plug, unplug},
    services::{ENDPOINT, SERVICE, cluster_ip, load, seen_at, serve, serve_at},
    story::*,
};

const MODES: [&str; 4] = ["bridge", "vepa", "private", "passthru"];

fn per_node(mode: &str) -> Plan {
    Plan { pods: if mode == "passthru" { 1 } else { 2 }, ..lan(2) }
}

/// The node's address on its underlay.
fn address(node: &Node, ipv4: bool) -> IpAddr {
    let own = node.place.addrs.iter().map(ipnet::IpNet::addr);
    own.into_iter().find(|addr| addr.is_ipv4() == ipv4).unwrap()
}

fn addresses(node: &Node) -> [IpAddr; 2] {
    [true, false].map(|ipv4| address(node, ipv4))
}

/// Both ways, by TCP and UDP, and each sees the other's own address.
fn met(node: &Node, pod: &Pod) -> Result<(), String> {
    for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let (host, own) = (address(node, ipv4), pod.addr(ipv4).unwrap());
        let probed = seen_at(&node.netns, SocketAddr::new(own, ENDPOINT), tcp);
        if probed != Some(host) {
            return Err(format!("node to {own}, tcp {tcp}: seen as {probed:?}"));
        }
        let asked = seen_at(&pod.netns, SocketAddr::new(host, ENDPOINT), tcp);
        if asked != Some(own) {
            return Err(format!("{own} to node, tcp {tcp}: seen as {asked:?}"));
        }
    }
    Ok(())
}

fn meets(node: &Node, pod: &Pod) {
    let mut last = Ok(());
    until(&format!("{} and its node meet", pod.name), || {
        last = met(node, pod);
        last.is_ok()
    });
}

/// Not one packet either way.
fn strangers(node: &Node, pod: &Pod) -> bool {
    [true, false].into_iter().all(|ipv4| {
        let (host, own) = (address(node, ipv4), pod.addr(ipv4).unwrap());
        let unseen =
            |from: &Netns, to| seen_at(from, SocketAddr::new(to, ENDPOINT), false).is_none();
        unseen(&node.netns, own) && unseen(&pod.netns, host)
    })
}

/// Every pod and every node tells who asks.
fn all_serving(site: &Site, pods: &[Pod]) {
    pods.iter().for_each(serve);
    site.nodes.iter().for_each(|node| serve_at(&node.netns, &addresses(node)));
}

#[test]
fn a_node_and_its_pods_on_the_physical_network_meet_in_every_mode() {
    for mode in MODES {
        let site = on_lan(&per_node(mode), mode);
        let pods = site.add_pods("net", "").unwrap();
        all_serving(&site, &pods);
        for pod in &pods {
            let node = site.nodes.iter().find(|node| node.name == pod.node).unwrap();
            assert_eq!(met(node, pod), Ok(()), "{mode}, {}", pod.name);
            let known = sh(&pod.netns, "ip neigh show dev weft-eth0");
            let asked = known.lines().any(|line| !line.contains("PERMANENT"));
            assert!(!asked && known.lines().count() == 2, "{mode}: nobody is asked for: {known}");
        }
        let node = &site.nodes[0];
        checked(node, &pods[0]);
        // An address of the node in the network's own range is reached by it too.
        sh(&node.netns, "ip addr add 10.77.0.250/24 dev eth1; ip addr add fd00:77::fa/64 dev eth1");
        let inside: [IpAddr; 2] = ["10.77.0.250".parse().unwrap(), "fd00:77::fa".parse().unwrap()];
        serve_at(&node.netns, &inside);
        for addr in inside {
            let at = SocketAddr::new(addr, ENDPOINT);
            until(&format!("{mode}: {addr} reached"), || {
                seen_at(&pods[0].netns, at, true) == pods[0].addr(addr.is_ipv4())
            });
        }
        assert_eq!(met(node, &pods[0]), Ok(()), "{mode}: from its underlay address still");
        site.delete_pods(pods).unwrap();
        site.nodes.iter().for_each(nothing_left);
    }
}
