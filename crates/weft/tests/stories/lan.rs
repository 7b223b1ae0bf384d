//! What stories of pods on the nodes' second switch use, whatever their links are. None is told
//! here.

use crate::story::*;

/// Nodes with a second NIC on a second switch, two pods each unless said otherwise.
pub fn lan(nodes: usize) -> Plan {
    Plan { lan: true, pods: 2, ..plan(nodes) }
}

/// A cluster whose network `net` is the second switch's.
pub fn on_lan(plan: &Plan, attach: &Value) -> Site {
    let site = built(plan);
    site.start().unwrap();
    site.apply("net", &site.lan_network(attach)).unwrap();
    site.settled("net", "underlay").unwrap();
    site
}

pub fn mac(netns: &Netns, dev: &str) -> String {
    let line = sh(netns, &format!("ip -br link show {dev}"));
    line.split_whitespace().nth(2).unwrap().to_owned()
}

/// Every pod knows every other's MAC address: what does not arrive then, was not kept by ARP.
pub fn introduce(pods: &[Pod]) {
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

pub fn pair<'a>(pods: &'a [Pod], a: &str, b: &str) -> (&'a Pod, &'a Pod) {
    let named = |name: &str| pods.iter().find(|pod| pod.name == name).unwrap();
    (named(a), named(b))
}

pub fn meet(pods: &[Pod], a: &str, b: &str) -> bool {
    let (a, b) = pair(pods, a, b);
    reaches(a, b) && reaches(b, a)
}

/// Not one packet, in either direction and of either family.
pub fn apart(pods: &[Pod], a: &str, b: &str) -> bool {
    let (a, b) = pair(pods, a, b);
    let none =
        |from: &Pod, to: &Pod| to.addrs.iter().all(|addr| reach(&from.netns, *addr).is_none());
    none(a, b) && none(b, a)
}

/// Packets as large as the wire takes, with DF, by both families.
pub fn full_size(from: &Pod, to: &Pod) {
    for addr in &to.addrs {
        assert_eq!(largest(&from.netns, *addr), Some(1500), "{} to {addr}", from.name);
    }
}

/// Links of pods in namespaces that have a file, on whichever node.
pub fn links_inside(_: &Node) -> usize {
    let names = std::fs::read_dir("/run/netns").unwrap().flatten();
    let namespaces = names.filter_map(|name| Netns::open(&name.path()).ok());
    let child = |line: &&str| line.contains(" macvlan ") || line.contains(" ipvlan ");
    let links = |netns: Netns| sh(&netns, "ip -o -d link").lines().filter(child).count();
    namespaces.map(links).sum()
}
