//! Ports of a node that lead to pods (`portMappings`): from outside, from the node, from pods of this
//! node and of others, and from the pod itself.

use std::net::{SocketAddr, UdpSocket};

use crate::{
    citizens::address,
    lan::mac,
    services::{ENDPOINT, seen_at, serve, serve_at},
    story::*,
};

const PORT: u16 = 80;

/// Runs ADD with these ports. What it said, where it refused.
pub fn add_with(node: &Node, name: &str, more: &Value) -> Result<Pod, Value> {
    let (netns, path) = namespace(name);
    let mut config = node.cni_config("net");
    config["runtimeConfig"] = more.clone();
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=lab;K8S_POD_NAME={name}");
    let (exit, answer) = node.cni("ADD", name, &path, &config, &[("CNI_ARGS", &args)]).unwrap();
    if exit != 0 {
        forget(&path);
        return Err(answer);
    }
    let ips = answer["ips"].as_array().unwrap().iter();
    let addrs =
        ips.map(|ip| ip["address"].as_str().unwrap().parse::<ipnet::IpNet>().unwrap().addr());
    let (addrs, node) = (addrs.collect(), node.name.clone());
    Ok(Pod { name: name.into(), node, netns, path, addrs, network: "net".into() })
}

fn mapping(protocol: &str, port: u16, ip: &str) -> Value {
    json!({"hostPort": port, "containerPort": ENDPOINT, "protocol": protocol, "hostIP": ip})
}

/// What a runtime says of a port over TCP and UDP at all of the node's addresses.
fn everywhere() -> Value {
    json!({"portMappings": [mapping("tcp", PORT, ""), mapping("UDP", PORT, "")]})
}

fn mapped(attach: &str, join: &str) {
    let site = cluster_of(&plan(2), attach, join);
    ports_lead(&site, &format!("{attach} × {join}"), true);
}

/// From everywhere to a port of the first node; `kept`: the pod sees who asks.
fn ports_lead(site: &Site, model: &str, kept: bool) {
    let node = &site.nodes[0];
    let neighbour = site.add_pods("net", "").unwrap();
    let pod = add_with(node, "server", &everywhere()).unwrap_or_else(|why| panic!("{why}"));
    serve(&pod);
    let world = &site.wire.world;
    for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let at = SocketAddr::new(address(node, ipv4), PORT);
        let what = format!("{model}, ipv4 {ipv4}, tcp {tcp}");
        let far = address(&site.nodes[1], ipv4);
        let outside = seen_at(&site.nodes[1].netns, at, tcp);
        assert_eq!(outside, Some(if kept { far } else { address(node, ipv4) }), "{what}: outside");
        assert!(seen_at(world, at, tcp).is_some(), "{what}: behind a router");
        assert_eq!(seen_at(&node.netns, at, tcp), Some(at.ip()), "{what}: the node itself");
        // The rules that keep pods' packets untracked are gone once the loop has seen the port.
        until(&format!("{what}: a pod of the node"), || {
            seen_at(&neighbour[0].netns, at, tcp).is_some()
        });
        let near = seen_at(&neighbour[0].netns, at, tcp);
        assert!(!kept || near == neighbour[0].addr(ipv4), "{what}: a pod of the node, as {near:?}");
        assert!(seen_at(&neighbour[1].netns, at, tcp).is_some(), "{what}: a pod of the other node");
        let itself = seen_at(&pod.netns, at, tcp);
        assert!(itself.is_some() && itself != pod.addr(ipv4), "{what}: itself, as {itself:?}");
    }
    for tcp in [true, false] {
        let loopback = SocketAddr::new([127, 0, 0, 1].into(), PORT);
        assert!(seen_at(&node.netns, loopback, tcp).is_some(), "{model}: 127.0.0.1, tcp {tcp}");
        let other = SocketAddr::new(loopback.ip(), PORT + 1);
        assert_eq!(seen_at(&node.netns, other, tcp), None, "{model}: nobody's port");
    }
    site.nodes.iter().for_each(empty_plan);
    node.delete_pod(pod).unwrap();
    assert!(!sh(&node.netns, "nft list tables").contains("weft-ports"), "gone with the last");
    site.delete_pods(neighbour).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

#[test]
fn ports_lead_to_pods_with_veth_over_vxlan() {
    mapped("veth", "vxlan");
}

#[test]
fn ports_lead_to_pods_with_veth_over_host_gw() {
    mapped("veth", "host-gw");
}

#[test]
fn ports_lead_to_pods_with_a_bridge_over_vxlan() {
    mapped("bridge", "vxlan");
}

#[test]
fn ports_lead_to_pods_in_a_domain() {
    mapped("bridge", "vxlan-bridged");
}

/// The pod answers by its own NIC unless it is the node that asks.
#[test]
fn ports_lead_to_pods_on_the_physical_network() {
    let site = crate::lan::on_lan(
        &Plan { pods: 1, ..crate::lan::lan(2) },
        &crate::macvlan::attach("bridge"),
    );
    ports_lead(&site, "macvlan", false);
}

#[test]
fn a_port_that_is_taken_is_refused_with_who_has_it() {
    let site = cluster(1, "veth", "host-gw");
    let node = &site.nodes[0];
    let tcp = |ip: &str| json!({"portMappings": [mapping("tcp", PORT, ip)]});
    let first = add_with(node, "first", &tcp("")).unwrap_or_else(|why| panic!("{why}"));
    for ip in ["", "0.0.0.0", "::", "192.0.2.1"] {
        let said = add_with(node, "second", &tcp(ip)).err().unwrap().to_string();
        for word in ["80/tcp of the node is taken", "lab/first"] {
            assert!(said.contains(word), "{ip}: {word} is not in {said}");
        }
    }
    assert_eq!(leases(node).len(), 2, "nothing is kept of what was refused");
    // Another protocol, and another port, are others.
    let udp =
        json!({"portMappings": [mapping("udp", PORT, ""), mapping("tcp", PORT + 1, "127.0.0.1")]});
    let second = add_with(node, "second", &udp).unwrap_or_else(|why| panic!("{why}"));
    node.delete_pod(first).unwrap();
    // The next has it at once, though the first is still being freed.
    let third = add_with(node, "third", &tcp("127.0.0.1")).unwrap_or_else(|why| panic!("{why}"));
    serve(&third);
    serve(&second);
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    assert!(seen_at(&node.netns, at("127.0.0.1", PORT), true).is_some());
    assert!(seen_at(&node.netns, at("127.0.0.1", PORT + 1), true).is_some());
    let own = address(node, true);
    assert_eq!(seen_at(&node.netns, SocketAddr::new(own, PORT), true), None, "one address alone");
    assert!(seen_at(&node.netns, SocketAddr::new(own, PORT), false).is_some());
    [second, third].into_iter().for_each(|pod| node.delete_pod(pod).unwrap());
    nothing_left(node);
}

/// What a client's packets met before there was a port does not keep them from it, nor from who has
/// it next.
#[test]
fn a_client_that_goes_on_asking_by_udp_is_answered_by_whoever_has_the_port_now() {
    let site = cluster(2, "veth", "vxlan");
    let node = &site.nodes[0];
    // Something is translated, so that flows are remembered.
    sh(
        &node.netns,
        "nft add table ip t; nft 'add chain ip t c { type nat hook prerouting priority -100; }'",
    );
    let client = site.nodes[1].netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    client.connect((address(node, true), PORT)).unwrap();
    let answered = || {
        let _ = client.send(b"who am I?");
        client.recv(&mut [0; 64]).is_ok()
    };
    assert!(!answered(), "nobody is there");
    for name in ["one", "two"] {
        let pod = add_with(node, name, &everywhere()).unwrap_or_else(|why| panic!("{why}"));
        serve(&pod);
        until(&format!("{name} answers"), answered);
        node.delete_pod(pod).unwrap();
        until("nobody answers", || !answered());
    }
}

#[test]
fn ports_that_somebody_takes_away_are_there_again() {
    let site = cluster(2, "veth", "vxlan");
    let node = &site.nodes[0];
    let pod = add_with(node, "server", &everywhere()).unwrap_or_else(|why| panic!("{why}"));
    serve(&pod);
    let served = || {
        [true, false].map(|ipv4| {
            seen_at(&site.nodes[1].netns, SocketAddr::new(address(node, ipv4), PORT), true)
                .is_some()
        }) == [true, true]
    };
    assert!(served());
    for sabotage in [
        "nft delete table inet weft-ports",
        "nft flush ruleset",
        "nft flush map inet weft-ports any4",
        "nft insert rule inet weft-ports prerouting return",
    ] {
        node.signal(Signal::SIGSTOP).unwrap();
        sh(&node.netns, sabotage);
        assert!(!served(), "{sabotage} hurts");
        node.signal(Signal::SIGCONT).unwrap();
        until("served again", served);
        empty_plan(node);
    }
    // While the agent is away ports lead on, and the next knows them.
    node.kill().unwrap();
    assert!(served());
    node.start(&[]).unwrap();
    until("back", || node.status().is_ok_and(|status| status["store"]["synced"] == true));
    empty_plan(node);
    assert!(served());
    node.delete_pod(pod).unwrap();
    nothing_left(node);
    assert!(!served());
    node.kill().unwrap();
    uninstall(node);
    assert!(!sh(&node.netns, "nft list tables").contains("weft"));
}

/// The node sends from 127.0.0.1 to pods; no pod gets to what listens there.
#[test]
fn a_pod_with_a_port_does_not_reach_the_nodes_own_loopback() {
    for attach in ["veth", "bridge"] {
        let site = cluster(1, attach, "host-gw");
        let node = &site.nodes[0];
        serve_at(&node.netns, &["127.0.0.1".parse().unwrap()]);
        let pod = add_with(node, "server", &everywhere()).unwrap_or_else(|why| panic!("{why}"));
        // As one with the right to may: by its link, though no kernel sends it there by itself.
        let dev = if attach == "veth" {
            "02:77:65:66:74:01".into()
        } else {
            mac(&node.netns, "weftb-net")
        };
        sh(
            &pod.netns,
            &format!(
                "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo
                 ip route replace 127.0.0.1/32 dev eth0
                 ip neigh replace 127.0.0.1 lladdr {dev} dev eth0 nud permanent"
            ),
        );
        let at = SocketAddr::new([127, 0, 0, 1].into(), ENDPOINT);
        assert_eq!(seen_at(&pod.netns, at, true), None, "{attach}");
        // It is the table that keeps it out.
        node.signal(Signal::SIGSTOP).unwrap();
        sh(&node.netns, "nft flush chain inet weft-ports guard");
        assert_eq!(seen_at(&pod.netns, at, true), pod.addr(true), "{attach}");
    }
}

#[test]
fn what_makes_no_sense_of_ports_is_refused_in_words() {
    let site = cluster(1, "veth", "host-gw");
    let node = &site.nodes[0];
    let said = |ports: Value| {
        add_with(node, "odd", &json!({"portMappings": ports})).err().unwrap().to_string()
    };
    for (ports, word) in [
        (json!({"hostPort": 1}), "is not a list"),
        (json!([7]), "7 is no object"),
        (json!([{"hostPort": 70000, "containerPort": 1}]), "is no port"),
        (json!([{"hostPort": 80}]), "names no `containerPort`"),
        (
            json!([{"hostPort": 80, "containerPort": 1, "protocol": "icmp"}]),
            "one of tcp, udp, sctp",
        ),
        (json!([{"hostPort": 80, "containerPort": 1, "hostIP": "here"}]), "is not an address"),
        (
            json!([mapping("tcp", 80, ""), {"hostPort": 80, "containerPort": 1}]),
            "80/tcp and 80/tcp are asked for by one pod",
        ),
    ] {
        let said = said(ports);
        assert!(said.contains(word), "{word} is not in {said}");
    }
    // One without a port of the node's asks for nothing.
    let none = json!({"portMappings": [{"hostPort": 0, "containerPort": 80}], "cgroupPath": "/x"});
    let pod = add_with(node, "none", &none).unwrap_or_else(|why| panic!("{why}"));
    assert!(!sh(&node.netns, "nft list tables").contains("weft-ports"));
    assert!(node.log().contains("`runtimeConfig.cgroupPath` is not read"));
    node.delete_pod(pod).unwrap();
}
