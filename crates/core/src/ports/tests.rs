//! Ports of the node as tables: what is asked for, what is held for it, who has one already.

use std::net::IpAddr;

use super::*;
use crate::{
    name::IfName,
    state::{Hop, Route},
};

fn mapping(text: &str) -> PortMapping {
    let (at, protocol) = text.split_once('/').unwrap();
    let (ip, port) = at.rsplit_once(' ').map_or((None, at), |(ip, port)| (Some(ip), port));
    let protocol = match protocol {
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    PortMapping {
        host_port: port.parse().unwrap(),
        container_port: 8080,
        protocol,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
    }
}

#[test]
fn two_ports_meet_where_some_connection_is_for_both() {
    let table = [
        ("80/tcp", "80/tcp", true),
        ("80/tcp", "80/udp", false),
        ("80/tcp", "81/tcp", false),
        ("80/tcp", "192.0.2.1 80/tcp", true),
        ("0.0.0.0 80/tcp", "192.0.2.1 80/tcp", true),
        ("0.0.0.0 80/tcp", ":: 80/tcp", false),
        (":: 80/tcp", "80/tcp", true),
        (":: 80/tcp", "192.0.2.1 80/tcp", false),
        ("192.0.2.1 80/tcp", "192.0.2.1 80/tcp", true),
        ("192.0.2.1 80/tcp", "192.0.2.2 80/tcp", false),
        ("192.0.2.1 80/tcp", "2001:db8::1 80/tcp", false),
        ("127.0.0.1 80/tcp", "80/tcp", true),
    ];
    for (a, b, meet) in table {
        let (one, other) = (mapping(a), mapping(b));
        assert_eq!(one.meets(&other), meet, "{a} and {b}");
        assert_eq!(other.meets(&one), meet, "{b} and {a}");
    }
}

fn pod(ports: &[&str]) -> Attachment {
    let mut pod: Attachment = serde_json::from_value(serde_json::json!({
        "schema": 1, "cni": "net", "container": "c", "ifname": "eth0", "phase": "attached",
        "network": "default", "attach": "veth", "runtime": "test", "netns": "/run/netns/x",
        "cookie": 1, "host_end": "weft0", "mac": "02:00:00:00:00:01",
        "addrs": ["10.1.0.5", "fd00:1::5"], "default_route": true,
    }))
    .unwrap();
    pod.ports = ports.iter().map(|port| mapping(port)).collect();
    pod
}

fn reached(addrs: &[&str]) -> State {
    let route = |addr: &&str| {
        let dst = addr.parse::<IpAddr>().unwrap().into();
        Object::Route(Route { dst, to: Hop::Link(IfName::new("weft0")), mtu: None })
    };
    addrs.iter().map(route).collect()
}

fn held(pod: &Attachment, addrs: &[&str]) -> Vec<String> {
    outside(pod, &reached(addrs)).objects().map(ToString::to_string).collect()
}

const BOTH: [&str; 2] = ["10.1.0.5", "fd00:1::5"];

#[test]
fn a_port_leads_to_the_pods_address_of_each_family_that_it_is_asked_for() {
    assert_eq!(
        held(&pod(&["80/tcp", "192.0.2.1 53/udp"]), &BOTH),
        [
            "sysctl net.ipv4.conf.weft0.route_localnet = 1",
            "saddr 10.1.0.5 daddr 10.1.0.5 masquerade",
            "saddr fd00:1::5 daddr fd00:1::5 masquerade",
            "ip6 fib daddr type local tcp dport 80 dnat to [fd00:1::5]:8080",
            "ip fib daddr type local tcp dport 80 dnat to 10.1.0.5:8080",
            "ip daddr 192.0.2.1 udp dport 53 dnat to 10.1.0.5:8080",
        ]
    );
    assert_eq!(
        held(&pod(&[":: 80/sctp"]), &BOTH),
        [
            "saddr fd00:1::5 daddr fd00:1::5 masquerade",
            "ip6 fib daddr type local sctp dport 80 dnat to [fd00:1::5]:8080",
        ]
    );
}

#[test]
fn who_asks_is_hidden_where_the_pods_answers_go_by_another_way() {
    let second = Attachment { default_route: false, ..pod(&["0.0.0.0 80/tcp"]) };
    assert!(held(&second, &BOTH).contains(&"daddr 10.1.0.5 ct status dnat masquerade".into()));
    let child = Attachment { access: Some(IfName::new("weftn0")), ..pod(&["0.0.0.0 80/tcp"]) };
    assert!(held(&child, &BOTH).contains(&"daddr 10.1.0.5 ct status dnat masquerade".into()));
}

#[test]
fn there_is_no_port_where_the_node_has_no_way_and_none_of_a_pod_that_goes() {
    assert_eq!(held(&pod(&["80/tcp"]), &["fd00:1::5"]).len(), 2, "of the one family alone");
    assert_eq!(held(&pod(&["80/tcp"]), &[]), [""; 0]);
    assert_eq!(held(&pod(&[]), &BOTH), [""; 0]);
    let doomed = Attachment { phase: Phase::Doomed, ..pod(&["80/tcp"]) };
    assert_eq!(held(&doomed, &BOTH), [""; 0]);
}

#[test]
fn whatever_is_held_for_ports_is_among_the_keys_that_end_them() {
    for ports in [&["80/tcp", "127.0.0.1 53/udp"][..], &["0.0.0.0 1/tcp"], &[":: 1/sctp"], &[]] {
        let (pod, keys) = (pod(ports), keys(&pod(ports)));
        let held = outside(&pod, &reached(&BOTH));
        let held: Vec<Key> =
            held.keys().filter(|key| !matches!(key, Key::Sysctl(_))).cloned().collect();
        assert!(held.iter().all(|key| keys.contains(key)), "{ports:?}");
        assert_eq!(held.len(), keys.len(), "{ports:?}");
    }
}

#[test]
fn with_the_last_port_of_a_bridge_it_carries_loopback_addresses_no_longer() {
    let bridged = |container: &str, ports: &[&str]| {
        let mut pod = pod(ports);
        pod.attach = serde_json::from_str(r#"{"kind": "bridge"}"#).unwrap();
        pod.id.container = container.into();
        pod
    };
    let (one, two) = (bridged("one", &["80/tcp"]), bridged("two", &["81/tcp"]));
    let said = |pod: &Attachment, others: &[&Attachment]| {
        deaf(pod, others.iter().copied()).map(|object| object.to_string())
    };
    let bridge = bridge::device(&one.network);
    let off = Some(format!("sysctl net.ipv4.conf.{bridge}.route_localnet = 0"));
    assert_eq!(said(&one, &[&one]), off);
    assert_eq!(said(&one, &[&one, &two]), None, "the other's ports need it");
    let doomed = Attachment { phase: Phase::Doomed, ..two.clone() };
    assert_eq!(said(&one, &[&one, &doomed]), off);
    assert_eq!(said(&one, &[&one, &bridged("three", &[":: 80/tcp"])]), off, "IPv6 has no such way");
    let elsewhere = Attachment { network: "blue".parse().unwrap(), ..two };
    assert_eq!(said(&one, &[&elsewhere]), off);
    assert_eq!(said(&bridged("four", &[]), &[]), None);
    assert_eq!(said(&pod(&["80/tcp"]), &[]), None, "a pair's end goes with the pod");
}

#[test]
fn who_has_a_port_is_told() {
    let (mut one, mut two) = (pod(&["80/tcp"]), pod(&["192.0.2.1 53/udp"]));
    one.id.container = "one".into();
    two.id.container = "two".into();
    let asked = [mapping("81/tcp"), mapping("0.0.0.0 53/udp")];
    let (holder, port) = taken(&asked, [&one, &two].into_iter()).unwrap();
    assert_eq!((holder.id.container.as_str(), port.to_string()), ("two", "0.0.0.0:53/udp".into()));
    assert!(taken(&asked[..1], [&one, &two].into_iter()).is_none());
}
