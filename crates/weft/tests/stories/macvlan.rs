//! Pods on the physical network itself, as children of a NIC (MACVLAN): who meets whom in which
//! mode, and what becomes of links that are in the pod's namespace alone.

use crate::story::*;

/// Nodes with a second NIC on a second switch, two pods each unless said otherwise.
fn lan(nodes: usize) -> Plan {
    Plan { lan: true, pods: 2, ..plan(nodes) }
}

fn attach(mode: &str) -> Value {
    json!({"kind": "macvlan", "parent": "eth1", "mode": mode})
}

/// A cluster whose network `net` is the second switch's.
fn on_lan(plan: &Plan, mode: &str) -> Site {
    let site = built(plan);
    site.start().unwrap();
    site.apply("net", &site.lan_network(&attach(mode))).unwrap();
    site.settled("net", "underlay").unwrap();
    site
}

fn mac(netns: &Netns, dev: &str) -> String {
    let line = sh(netns, &format!("ip -br link show {dev}"));
    line.split_whitespace().nth(2).unwrap().to_owned()
}

/// Every pod knows every other's MAC address: what does not arrive then, was not kept by ARP.
fn introduce(pods: &[Pod]) {
    let macs: Vec<String> = pods.iter().map(|pod| mac(&pod.netns, "eth0")).collect();
    for pod in pods {
        for (other, mac) in pods.iter().zip(&macs).filter(|(other, _)| other.name != pod.name) {
            for addr in &other.addrs {
                let neigh = format!("ip neigh replace {addr} lladdr {mac} dev eth0 nud permanent");
                sh(&pod.netns, &neigh);
            }
        }
    }
}

#[test]
fn macvlan_pods_meet_across_nodes_and_reach_the_networks_router() {
    let site = on_lan(&lan(2), "bridge");
    let (pods, _echo) = answering(&site);
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
    }
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

fn pair<'a>(pods: &'a [Pod], a: &str, b: &str) -> (&'a Pod, &'a Pod) {
    let named = |name: &str| pods.iter().find(|pod| pod.name == name).unwrap();
    (named(a), named(b))
}

fn meet(pods: &[Pod], a: &str, b: &str) -> bool {
    let (a, b) = pair(pods, a, b);
    reaches(a, b) && reaches(b, a)
}

/// Not one packet, in either direction and of either family.
fn apart(pods: &[Pod], a: &str, b: &str) -> bool {
    let (a, b) = pair(pods, a, b);
    let none =
        |from: &Pod, to: &Pod| to.addrs.iter().all(|addr| reach(&from.netns, *addr).is_none());
    none(a, b) && none(b, a)
}

/// Packets as large as the wire takes, with DF, by both families.
fn full_size(from: &Pod, to: &Pod) {
    for addr in &to.addrs {
        assert_eq!(largest(&from.netns, *addr), Some(1500), "{} to {addr}", from.name);
    }
}

#[test]
fn macvlan_bridge_pods_of_a_node_meet_directly() {
    let site = on_lan(&lan(2), "bridge");
    let (pods, _echo) = answering(&site);
    assert!(meet(&pods, "a1", "a2") && meet(&pods, "a1", "b1"));
    full_size(&pods[0], &pods[2]);
    full_size(&pods[0], &pods[1]);
    // Without the switch: the node's own pods still meet, others no more.
    sh(site.wire.lan().unwrap(), "ip link set node-a nomaster");
    assert!(meet(&pods, "a1", "a2"));
    assert!(apart(&pods, "a1", "b1"));
}

#[test]
fn macvlan_vepa_pods_of_a_node_meet_only_through_a_switch_that_sends_back() {
    let site = on_lan(&lan(2), "vepa");
    let (pods, _echo) = answering(&site);
    introduce(&pods);
    assert!(apart(&pods, "a1", "a2"), "no switch sends back what came by a port");
    assert!(meet(&pods, "a1", "b1") && meet(&pods, "a2", "b2"));
    full_size(&pods[0], &pods[2]);
    site.wire.hairpin("node-a", true).unwrap();
    assert!(meet(&pods, "a1", "a2"));
    full_size(&pods[0], &pods[1]);
    site.wire.hairpin("node-a", false).unwrap();
    assert!(apart(&pods, "a1", "a2"));
}

#[test]
fn macvlan_private_pods_of_a_node_never_meet_not_even_known_and_behind_a_hairpin() {
    let site = on_lan(&lan(2), "private");
    let (pods, _echo) = answering(&site);
    introduce(&pods);
    site.wire.hairpin("node-a", true).unwrap();
    assert!(apart(&pods, "a1", "a2"));
    assert!(meet(&pods, "a1", "b1") && meet(&pods, "a2", "b2"), "of two nodes they do");
    full_size(&pods[0], &pods[2]);
    // What keeps them apart is ours: the kernel alone does not.
    let node = &site.nodes[0];
    node.kill().unwrap();
    assert!(apart(&pods, "a1", "a2"), "it does not need the agent");
    sh(&node.netns, "nft delete table netdev weft");
    assert!(meet(&pods, "a1", "a2"));
    node.start(&[]).unwrap();
    site.settled("net", "underlay").unwrap();
    assert!(apart(&pods, "a1", "a2"));
    // Siblings come and go.
    let late = node.add_pod("a3", "net").unwrap();
    let mut pods = pods;
    pods.push(late);
    introduce(&pods);
    let _echo = responders(pods.last());
    assert!(apart(&pods, "a1", "a3") && apart(&pods, "a2", "a3"));
    assert!(meet(&pods, "a3", "b1"));
    let guard = || sh(&node.netns, "nft list set netdev weft apart-eth1");
    let gone = pods.pop().unwrap();
    let gone_mac = mac(&gone.netns, "eth0");
    assert!(guard().contains(&gone_mac), "{}", guard());
    node.delete_pod(gone).unwrap();
    assert!(!guard().contains(&gone_mac), "{}", guard());
    site.delete_pods(pods).unwrap();
    nothing_left(node);
    assert!(!sh(&node.netns, "nft list tables").contains("netdev"), "the last took it with it");
}

#[test]
fn macvlan_passthru_takes_the_whole_nic_and_a_second_pod_is_refused() {
    let site = on_lan(&Plan { pods: 1, ..lan(2) }, "passthru");
    let (pods, echo) = answering(&site);
    assert!(meet(&pods, "a1", "b1"));
    full_size(&pods[0], &pods[1]);
    assert_eq!(mac(&pods[0].netns, "eth0"), mac(&site.nodes[0].netns, "eth1"));
    let node = &site.nodes[0];
    let (second, path) = namespace("second");
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("ADD", "second", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    let said = answer["details"].as_str().unwrap();
    for word in ["network net", "eth1 whole to one pod, and lab/a1 has it", "use mode bridge"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!(sh(&second, "ip -o link").lines().count(), 1, "nothing is half made");
    assert_eq!(leases(node).len(), 2);
    // Once the first is gone, at once.
    drop(echo);
    let mut pods = pods;
    node.delete_pod(pods.remove(0)).unwrap();
    let (exit, answer) = node.cni("ADD", "second", &path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let _echo = responders(&pods);
    assert!(pods[0].addrs.iter().all(|addr| reach(&second, *addr).is_some()));
    assert_eq!(node.cni("DEL", "second", &path, &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

/// Links of pods in namespaces that have a file, on whichever node.
fn links_inside(_: &Node) -> usize {
    let names = std::fs::read_dir("/run/netns").unwrap().flatten();
    let namespaces = names.filter_map(|name| Netns::open(&name.path()).ok());
    let links = |netns: Netns| sh(&netns, "ip -o link show type macvlan").lines().count();
    namespaces.map(links).sum()
}

#[test]
fn killed_at_every_step_of_add_with_macvlan() {
    for mode in ["bridge", "private", "passthru"] {
        crate::kill::killed_in_add(&on_lan(&lan(1), mode), links_inside);
    }
}

#[test]
fn killed_at_every_step_of_del_with_macvlan() {
    for mode in ["bridge", "private", "passthru"] {
        crate::kill::killed_in_del(&on_lan(&lan(1), mode), links_inside);
    }
}
