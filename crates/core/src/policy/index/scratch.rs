//! The firewall, from nothing.

use super::*;
use crate::policy::{
    clause::{By, Chosen, Peers, Scope, clauses},
    firewall::{List, Ports},
    space::{Ground, Space},
};

pub(super) struct World<'a> {
    pub namespaces: &'a BTreeMap<Arc<str>, Labels>,
    pub pods: &'a BTreeMap<ObjectName, Pod>,
    pub policies: &'a BTreeMap<ObjectName, PolicySpec>,
    pub local: &'a BTreeMap<ObjectName, Vec<IpAddr>>,
}

pub(super) fn firewall(
    namespaces: &BTreeMap<Arc<str>, Labels>,
    pods: &BTreeMap<ObjectName, Pod>,
    policies: &BTreeMap<ObjectName, PolicySpec>,
    local: &BTreeMap<ObjectName, Vec<IpAddr>>,
) -> Firewall {
    let world = World { namespaces, pods, policies, local };
    let mut out = Firewall::default();
    for (name, addrs) in local {
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some((key, list)) = world.list(name, direction) else { continue };
            let key = ListName(key);
            out.lists.insert(key, Arc::new(list));
            out.pods.extend(addrs.iter().map(|addr| ((direction, *addr), key)));
        }
    }
    out
}

impl World<'_> {
    fn list(&self, name: &ObjectName, direction: Direction) -> Option<(u64, List)> {
        let pod = self.pods.get(name);
        let selecting = self.policies.iter().filter(|(policy, spec)| {
            policy.namespace == name.namespace
                && spec.concerns(direction)
                && pod.is_none_or(|pod| spec.pod_selector.matches(&pod.labels))
        });
        let selecting: Vec<_> = selecting.collect();
        if selecting.is_empty() {
            return None;
        }
        let mut opens: Vec<(Space, Option<Ports>)> = Vec::new();
        for (policy, spec) in selecting.iter().filter(|_| pod.is_some()) {
            for clause in clauses(&policy.namespace, spec, direction).0 {
                opens.extend(self.opens(&clause.peers, &clause.by, pod, direction));
            }
        }
        let ground = Ground::of(opens.iter().map(|(space, ports)| (space, *ports)));
        let names: Vec<String> = selecting.iter().map(|(name, _)| name.to_string()).collect();
        let key = format!("{direction:?} {name} {}", names.join(" "));
        Some((fnv(&key), List { entries: ground.entries().collect() }))
    }

    fn opens(
        &self,
        peers: &Peers,
        by: &By,
        subject: Option<&Pod>,
        direction: Direction,
    ) -> Vec<(Space, Option<Ports>)> {
        let mut out = Vec::new();
        let named = matches!(by, By::Named(..)) && direction == Direction::Egress;
        let own = subject.map_or(&[][..], |pod| &pod.ports[..]);
        if let (Peers::Addresses(space), false) = (peers, named) {
            return by.at(own).into_iter().map(|ports| (space.clone(), ports)).collect();
        }
        for (name, pod) in self.pods {
            if matches!(peers, Peers::Pods(chosen) if !self.chooses(chosen, name, pod)) {
                continue;
            }
            let local = self.local.get(name).into_iter().flatten();
            for addr in pod.addrs.iter().chain(local) {
                if matches!(peers, Peers::Addresses(space) if !space.contains(*addr)) {
                    continue;
                }
                let ports = by.at(if named { &pod.ports } else { own });
                let space = Space::of(&[(*addr).into()], &[]);
                out.extend(ports.into_iter().map(|ports| (space.clone(), ports)));
            }
        }
        out
    }

    fn chooses(&self, chosen: &Chosen, name: &ObjectName, pod: &Pod) -> bool {
        let there = match &chosen.scope {
            Scope::Namespace(namespace) => *namespace == name.namespace,
            Scope::Matching(selector) => {
                self.namespaces.get(&name.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        there && chosen.pods.matches(&pod.labels)
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
