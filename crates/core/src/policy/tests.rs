//! The firewall of each node lets pass what the API means, in clusters by dice that change object by
//! object.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    sync::Arc,
};

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
    /// Pods that run already, and of which the API does not say the addresses yet.
    early: BTreeSet<ObjectName>,
    dice: Dice,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let Cluster { policies, namespaces, pods, nodes } = cases::cluster(&mut dice);
        let mut world = Self {
            nodes: nodes.keys().map(|node| (node.clone(), Default::default())).collect(),
            cluster: Cluster { nodes, ..Cluster::default() },
            early: BTreeSet::new(),
            dice,
        };
        let namespaces = namespaces.into_iter().map(|(name, l)| cases::Change::Namespace(name, l));
        let policies = policies.into_iter().map(|(name, p)| cases::Change::Policy(name, Some(p)));
        let pods = pods.into_iter().map(|(name, pod)| cases::Change::Pod(name, Some(pod)));
        let mut all: Vec<_> = namespaces.chain(policies).chain(pods).collect();
        while !all.is_empty() {
            let next = world.dice.roll(all.len());
            world.hear(all.swap_remove(next));
        }
        world
    }

    fn hear(&mut self, change: cases::Change) {
        let order = self.dice.roll(4);
        for (node, (index, _)) in &mut self.nodes {
            match change.clone() {
                cases::Change::Namespace(name, labels) => index.namespace(&name, Some(labels)),
                cases::Change::Policy(name, spec) => index.policy(&name, spec),
                cases::Change::Pod(name, pod) => hear_pod(index, node, &name, pod, order),
            }
        }
        if let cases::Change::Pod(name, _) = &change {
            self.early.remove(name);
            self.early.extend((order == EARLY).then(|| name.clone()));
        }
        change.apply(&mut self.cluster);
    }

    /// The API says at last which addresses the pods have.
    fn hear_of_early(&mut self) {
        for name in std::mem::take(&mut self.early) {
            for (index, _) in self.nodes.values_mut() {
                index.pod(&name, self.cluster.pods.get(&name).cloned());
            }
        }
    }

    fn settle(&mut self) {
        for (index, held) in self.nodes.values_mut() {
            follow(held, index.changes());
            assert!(index.changes().is_empty(), "nothing was said since");
            is_sound(held);
        }
    }

    fn check_some(&mut self, count: usize) {
        let packets = cases::packets(&self.cluster);
        for _ in 0..count.min(packets.len()) {
            let packet = self.dice.pick(&packets);
            self.check(&packet);
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
            let is = list.is_none_or(open);
            // Who is not known is nobody's peer, but nothing more is open.
            assert!(
                is == side.is_open() || !is && !self.early.is_empty(),
                "{direction:?} of {packet}: {verdict}, and the list is {list:?}\n{:#?}",
                self.cluster
            );
            assert_eq!(list.is_none(), *reason == Reason::Unselected, "{packet}: {verdict}");
        }
    }
}

const EARLY: usize = 0;

/// The node and the API tell of a pod in one order or the other.
fn hear_pod(
    index: &mut Index,
    node: &NodeName,
    name: &ObjectName,
    mut pod: Option<Pod>,
    order: usize,
) {
    let here = pod.as_ref().filter(|pod| pod.node.as_ref() == Some(node));
    let addrs = here.map_or(vec![], |pod| pod.addrs.clone());
    if order == 1 {
        index.pod(name, pod);
        return index.local(name, &addrs);
    }
    index.local(name, &addrs);
    if let Some(pod) = pod.as_mut().filter(|_| order == EARLY) {
        pod.addrs.clear();
    }
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
        let mut world = World::new(seed);
        for _ in 0..5 {
            world.settle();
            world.check_some(40);
            world.hear_of_early();
            world.settle();
            world.check_some(40);
            for _ in 0..=world.dice.roll(4) {
                let change = cases::change(&world.cluster, &mut world.dice);
                world.hear(change);
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
