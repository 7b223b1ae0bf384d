//! What a list is made of: addresses that rules name, and sets of pods with the ports that are open to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    known::{Cluster, Known, PodId},
    sets::{SetId, Sets},
};
use crate::policy::{
    clause::{By, Chosen, Clause, Peers, Scope},
    cluster::{NamedPort, ObjectName},
    firewall::{ListName, Open, Ports},
    space::{Ground, Space},
    spec::{Direction, Selector},
};

/// What pods have in common that share a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub direction: Direction,
    pub namespace: Arc<str>,
    /// Those that select the pod. None at all: the pod is not known, and nothing is open.
    pub policies: Vec<Arc<str>>,
    /// Of the pod's ports with a name those that a rule names.
    pub ports: Vec<NamedPort>,
}

#[derive(Clone, Debug)]
pub(super) struct Made {
    pub key: Key,
    /// Of this node, which it decides about.
    pub pods: BTreeSet<ObjectName>,
    pub ground: Ground,
    pub uses: BTreeMap<SetId, Vec<Use>>,
}

/// What is open to the pods of a set.
#[derive(Clone, Debug)]
pub(super) struct Use {
    by: By,
    /// Only at these addresses.
    within: Option<Space>,
}

/// What rules come to, before anybody is looked up.
#[derive(Debug, Default)]
pub(super) struct Draft {
    addresses: Vec<(Space, Option<Ports>)>,
    pods: BTreeMap<Chosen, Vec<Use>>,
}

impl Key {
    /// The same on every node and after every start.
    pub(super) fn name(&self) -> ListName {
        let ports = self.ports.iter().flat_map(|port| {
            let number =
                [port.protocol.number(), port.port.to_be_bytes()[0], port.port.to_be_bytes()[1]];
            port.name.bytes().chain([b'/']).chain(number)
        });
        let policies = self.policies.iter().flat_map(|name| name.bytes().chain([b'/']));
        let direction = [self.direction as u8];
        let namespace = self.namespace.bytes().chain([b'/']);
        ListName(fnv(direction
            .into_iter()
            .chain(namespace)
            .chain(policies)
            .chain(*b"//")
            .chain(ports)))
    }
}

impl Draft {
    /// Ports of the list's own pods that have a name are known; those of its peers are each pod's own.
    pub(super) fn add(&mut self, clause: Clause, key: &Key) {
        let Clause { peers, by, .. } = clause;
        let theirs = key.direction == Direction::Egress && matches!(by, By::Named(..));
        if theirs {
            let (chosen, within) = match peers {
                Peers::Pods(chosen) => (chosen, None),
                Peers::Addresses(space) => (every_pod(), Some(space)),
            };
            self.pods.entry(chosen).or_default().push(Use { by, within });
            return;
        }
        let mut ports = Vec::new();
        by.each(&key.ports, |one| ports.push(one));
        match peers {
            Peers::Addresses(space) => {
                self.addresses.extend(ports.into_iter().map(|ports| (space.clone(), ports)));
            }
            Peers::Pods(chosen) if !ports.is_empty() => {
                let by = |ports: Option<Ports>| ports.map_or(By::Everything, By::Ports);
                let uses = ports.into_iter().map(|ports| Use { by: by(ports), within: None });
                self.pods.entry(chosen).or_default().extend(uses);
            }
            Peers::Pods(_) => {}
        }
    }

    pub(super) fn ground(&self) -> Ground {
        Ground::of(self.addresses.iter().map(|(space, ports)| (space, *ports)))
    }

    pub(super) fn uses(
        self,
        list: ListName,
        sets: &mut Sets,
        cluster: &mut Cluster,
    ) -> BTreeMap<SetId, Vec<Use>> {
        let pods = self.pods.into_iter();
        pods.map(|(chosen, uses)| (sets.hold(&chosen, list, cluster), uses)).collect()
    }
}

impl Made {
    /// What is open to an address since these pods, each in these sets, have it.
    pub(super) fn entries_of(&self, addr: IpAddr, pods: &[(&Known, Vec<SetId>)]) -> Vec<Open> {
        let mut ports = Vec::new();
        for (pod, sets) in pods {
            let uses = sets.iter().filter_map(|set| self.uses.get(set)).flatten();
            uses.for_each(|one| one.ports(pod, addr, &mut ports));
        }
        self.ground.beside(addr, &ports)
    }

    /// Everything.
    pub(super) fn entries(&self, sets: &Sets, cluster: &Cluster) -> BTreeSet<Open> {
        let mut open: Vec<(IpAddr, Option<Ports>)> = Vec::new();
        let mut ports = Vec::new();
        for (set, uses) in &self.uses {
            let members = sets.get(*set).into_iter().flat_map(|set| set.members.iter());
            for pod in members.filter_map(|id: &PodId| cluster.pod(*id)) {
                for addr in &pod.addrs {
                    uses.iter().for_each(|one| one.ports(pod, *addr, &mut ports));
                    open.extend(ports.drain(..).map(|ports| (*addr, ports)));
                }
            }
        }
        open.sort_unstable();
        open.dedup();
        let by_addr = open.chunk_by(|a, b| a.0 == b.0).flat_map(|same| {
            let ports: Vec<Option<Ports>> = same.iter().map(|(_, ports)| *ports).collect();
            self.ground.beside(same[0].0, &ports)
        });
        self.ground.entries().chain(by_addr).collect()
    }
}

impl Use {
    fn ports(&self, pod: &Known, addr: IpAddr, out: &mut Vec<Option<Ports>>) {
        if self.within.as_ref().is_none_or(|space| space.contains(addr)) {
            self.by.each(&pod.ports, |ports| out.push(ports));
        }
    }
}

fn every_pod() -> Chosen {
    Chosen { scope: Scope::Any, pods: Selector::default() }
}

/// FNV-1a, 64 bits.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
