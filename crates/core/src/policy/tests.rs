//! The firewall of each node lets pass what the API means, in clusters by dice that change object by
//! object.

use std::{collections::BTreeMap, net::IpAddr, ops::Range, sync::Arc};

use super::{
    cases::{self, Dice},
    cluster::{ObjectName, Pod},
    firewall::{Change, Firewall, List, ListChange, Open},
    index::Index,
    spec::{Direction, Protocol},
    verdict::{Cluster, Packet, Reason, Side},
};
use crate::name::NodeName;

/// A cluster, and the firewall of each node as its kernel holds it after all changes.
struct World {
    cluster: Cluster,
    nodes: BTreeMap<NodeName, (Index, Firewall)>,
}

impl World {
    fn new(cluster: Cluster) -> Self {
        let nodes = cluster.nodes.keys().map(|node| (node.clone(), Default::default())).collect();
        let mut world = Self { cluster: Cluster::default(), nodes };
        for (name, labels) in cluster.namespaces {
            world.hear(cases::Change::Namespace(name, labels));
        }
        for (name, spec) in cluster.policies {
            world.hear(cases::Change::Policy(name, Some(spec)));
        }
        for (name, pod) in cluster.pods {
            world.hear(cases::Change::Pod(name, Some(pod)));
        }
        world.cluster.nodes = cluster.nodes;
        world
    }

    fn hear(&mut self, change: cases::Change) {
        for (node, (index, _)) in &mut self.nodes {
            match change.clone() {
                cases::Change::Namespace(name, labels) => index.namespace(&name, Some(labels)),
                cases::Change::Policy(name, spec) => index.policy(&name, spec),
                cases::Change::Pod(name, pod) => hear_pod(index, node, &name, pod),
            }
        }
        change.apply(&mut self.cluster);
    }

    fn settle(&mut self) {
        for (index, held) in self.nodes.values_mut() {
            follow(held, index.changes());
            assert!(index.changes().is_empty(), "nothing was said since");
            is_sound(held);
        }
    }

    /// What the firewalls say of each side that is theirs to judge, beside what is meant.
    fn check(&self, packet: &Packet) {
        let verdict = self.cluster.verdict(packet);
        let sides = [
            (Direction::Egress, &verdict.egress, packet.source, packet.destination),
            (Direction::Ingress, &verdict.ingress, packet.destination, packet.source),
        ];
        for (direction, side, own, other) in sides {
            let Side::Pod(pod, reason) = side else { continue };
            if matches!(reason, Reason::Itself | Reason::OwnNode(_)) {
                continue;
            }
            let node = self.cluster.pods[pod].node.as_ref().expect("the dice give it one");
            let firewall = &self.nodes[node].1;
            let list = firewall.pods.get(&(direction, own)).map(|name| &firewall.lists[name]);
            let open = |list: &Arc<List>| {
                list.entries.iter().any(|open| is_open(open, other, packet.port))
            };
            assert_eq!(
                list.is_none_or(open),
                side.is_open(),
                "{direction:?} of {packet}: {verdict}, and the list is {list:?}\n{:#?}",
                self.cluster
            );
            assert_eq!(list.is_none(), *reason == Reason::Unselected, "{packet}: {verdict}");
        }
    }
}

fn hear_pod(index: &mut Index, node: &NodeName, name: &ObjectName, pod: Option<Pod>) {
    let here = pod.as_ref().filter(|pod| pod.node.as_ref() == Some(node));
    index.local(name, here.map_or(&[], |pod| &pod.addrs));
    index.pod(name, pod);
}

/// As the kernel does.
fn follow(held: &mut Firewall, change: Change) {
    for (name, list) in change.lists {
        match list {
            ListChange::New(list) => {
                assert!(held.lists.insert(name, list).is_none(), "{name} was there");
            }
            ListChange::Gone => assert!(held.lists.remove(&name).is_some(), "{name} was not there"),
            ListChange::Entries { added, removed } => {
                let entries = &mut Arc::make_mut(held.lists.get_mut(&name).unwrap()).entries;
                removed.iter().for_each(|open| assert!(entries.remove(open), "{open} was not in"));
                added.into_iter().for_each(|open| assert!(entries.insert(open), "{open} was in"));
            }
        }
    }
    for (pod, list) in change.pods {
        match list {
            Some(list) => _ = held.pods.insert(pod, list),
            None => assert!(held.pods.remove(&pod).is_some(), "{pod:?} was not there"),
        }
    }
}

/// Lists that are named are there, and those that are there are named; no entry repeats another.
fn is_sound(firewall: &Firewall) {
    for name in firewall.pods.values() {
        assert!(firewall.lists.contains_key(name), "{name} is missing");
    }
    for (name, list) in &firewall.lists {
        assert!(firewall.pods.values().any(|named| named == name), "{name} is nobody's");
        let entries: Vec<_> = list.entries.iter().collect();
        for (at, one) in entries.iter().enumerate() {
            let twice = entries[at + 1..].iter().find(|other| meet(one, other));
            assert_eq!(twice, None, "{one} meets another: {list:?}");
        }
    }
}

fn meet(a: &Open, b: &Open) -> bool {
    let peers = match (a.peer, b.peer) {
        (Some(a), Some(b)) => a.contains(&b) || b.contains(&a),
        _ => true,
    };
    let ports = match (a.ports, b.ports) {
        (Some(a), Some(b)) => a.protocol == b.protocol && a.first <= b.last && b.first <= a.last,
        (None, None) => true,
        // Of another kind, which is looked up by itself.
        _ => false,
    };
    peers && ports
}

fn is_open(open: &Open, other: IpAddr, port: Option<(Protocol, u16)>) -> bool {
    open.peer.is_none_or(|peer| peer.contains(&other))
        && open.ports.is_none_or(|ports| {
            port.is_some_and(|(protocol, port)| {
                protocol == ports.protocol && ports.first <= port && port <= ports.last
            })
        })
}

fn worlds(seeds: Range<u64>) {
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let mut world = World::new(cases::cluster(&mut dice));
        for _ in 0..6 {
            world.settle();
            let packets = cases::packets(&world.cluster);
            if !packets.is_empty() {
                (0..60).for_each(|_| world.check(&dice.pick(&packets)));
            }
            for _ in 0..=dice.roll(4) {
                world.hear(cases::change(&world.cluster, &mut dice));
            }
        }
    }
}

#[test]
fn a_nodes_firewall_lets_pass_what_is_meant() {
    worlds(0..1500);
}

#[test]
#[ignore = "minutes: many more of the same"]
fn a_nodes_firewall_lets_pass_what_is_meant_at_length() {
    worlds(1500..60_000);
}
