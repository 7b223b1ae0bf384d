//! What the kernel does with packets, beside what policies mean: clusters by dice, their firewalls in a
//! real table, real packets through it.
#![allow(clippy::unwrap_used)]

#[path = "verdicts/wire.rs"]
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use weft_core::{
    name::NodeName,
    policy::{
        cases::{self, Dice},
        index::Index,
        spec::Protocol,
        verdict::{Cluster, Packet, Reason, Side},
    },
};
use weft_linux::{PolicyTable, Wanted};
use wire::{Flags, Router};

const CLUSTERS: u64 = 300;
const CHANGES: usize = 2;
const PACKETS: usize = 60;

/// A node: what it knows of the cluster, and its kernel.
struct Node {
    name: NodeName,
    index: Index,
    table: PolicyTable,
    router: Router,
}

impl Node {
    fn new(name: &NodeName) -> Self {
        let router = Router::new();
        let table = PolicyTable::of(&router.netns).unwrap();
        Self { name: name.clone(), index: Index::default(), table, router }
    }

    fn hear(&mut self, change: cases::Change) {
        match change {
            cases::Change::Namespace(name, labels) => self.index.namespace(&name, Some(labels)),
            cases::Change::Policy(name, spec) => self.index.policy(&name, spec),
            cases::Change::Pod(name, pod) => {
                let here = pod.as_ref().filter(|pod| pod.node.as_ref() == Some(&self.name));
                let addrs = here.map_or(vec![], |pod| pod.addrs.clone());
                self.index.local(&name, &addrs);
                self.index.pod(&name, pod);
            }
        }
    }

    /// What policies mean for a packet that this node hands on. None: it does not.
    fn meant(&self, cluster: &Cluster, packet: &Packet) -> Option<bool> {
        let verdict = cluster.verdict(packet);
        let mut open = true;
        for side in [verdict.egress, verdict.ingress] {
            let Side::Pod(pod, reason) = &side else { continue };
            if cluster.pods[pod].node.as_ref() != Some(&self.name) {
                continue;
            }
            if matches!(reason, Reason::OwnNode(_)) {
                return None;
            }
            open &= side.is_open();
        }
        Some(open)
    }
}

#[test]
fn the_kernel_lets_pass_what_policies_mean() {
    let start = Instant::now();
    let (mut all, mut passed, mut answers) = (0, 0, 0);
    let names = cases::cluster(&mut Dice::new(0)).nodes;
    let mut nodes: Vec<Node> = names.keys().map(Node::new).collect();
    for seed in 0..CLUSTERS {
        let mut dice = Dice::new(seed);
        let mut cluster = cases::cluster(&mut dice);
        nodes.iter_mut().for_each(|node| node.index = Index::default());
        for change in everything(&cluster) {
            nodes.iter_mut().for_each(|node| node.hear(change.clone()));
        }
        for round in 0..=CHANGES {
            if round > 0 {
                let change = cases::change(&cluster, &mut dice);
                nodes.iter_mut().for_each(|node| node.hear(change.clone()));
                change.apply(&mut cluster);
            }
            let packets = cases::packets(&cluster);
            if packets.is_empty() {
                continue;
            }
            let some: Vec<Packet> = (0..PACKETS).map(|_| dice.pick(&packets)).collect();
            for node in &mut nodes {
                let (sent, through, back) = check(node, &cluster, &some, seed);
                (all, passed, answers) = (all + sent, passed + through, answers + back);
            }
        }
    }
    println!("{all} packets, {passed} passed, {answers} answers, in {:?}", start.elapsed());
    assert!(all > 10_000 && passed * 20 > all && passed * 20 < all * 19, "{passed} of {all}");
}

fn everything(cluster: &Cluster) -> Vec<cases::Change> {
    let Cluster { namespaces, policies, pods, .. } = cluster.clone();
    let namespaces = namespaces.into_iter().map(|(name, l)| cases::Change::Namespace(name, l));
    let policies = policies.into_iter().map(|(name, p)| cases::Change::Policy(name, Some(p)));
    let pods = pods.into_iter().map(|(name, pod)| cases::Change::Pod(name, Some(pod)));
    namespaces.chain(policies).chain(pods).collect()
}

/// How many were sent, passed, and how many answers.
fn check(node: &mut Node, cluster: &Cluster, some: &[Packet], seed: u64) -> (usize, usize, usize) {
    let _ = node.index.changes();
    node.table.write(Wanted::Node(node.index.firewall().clone())).unwrap();
    let meant: BTreeMap<u32, (Packet, bool)> = some
        .iter()
        .filter_map(|packet| Some((*packet, node.meant(cluster, packet)?)))
        .map(|(packet, open)| (node.router.number(), (packet, open)))
        .collect();
    let sent = meant.iter().map(|(number, (packet, _))| (*number, *packet, Flags::First));
    let arrived = node.router.send(sent);
    // Answers pass whatever the lists say.
    let tcp = meant.iter().filter(|(number, (packet, _))| {
        packet.port.is_some_and(|(p, _)| p == Protocol::Tcp) && arrived.contains(number)
    });
    let answers: Vec<_> = tcp.map(|(number, (packet, _))| (*number, *packet)).collect();
    let back = node.router.send(answers.iter().map(|(n, packet)| (*n, *packet, Flags::Answer)));
    let expected: BTreeSet<u32> = answers.iter().map(|(number, _)| *number).collect();
    for (number, (packet, open)) in &meant {
        assert_eq!(
            arrived.contains(number),
            *open,
            "seed {seed}, {}: {packet}: {}\n{}",
            node.name,
            cluster.verdict(packet),
            node.router.rules(),
        );
    }
    assert_eq!(back, expected, "seed {seed}: answers");
    (meant.len(), arrived.len(), back.len())
}
