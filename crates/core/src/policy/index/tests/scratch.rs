//! The firewall, from nothing: slow, and simple enough to be believed.

use std::collections::BTreeMap;

use super::*;
use crate::policy::{
    clause::{By, Chosen, Peers, Scope, clauses},
    firewall::Ports,
    space::{Ground, Space},
};

/// What is open to each address. What is not here is open.
pub(super) type Openness = BTreeMap<(Direction, IpAddr), Ground>;

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: BTreeMap<ObjectName, Pod>,
    pub policies: BTreeMap<ObjectName, PolicySpec>,
    pub local: BTreeMap<ObjectName, Vec<IpAddr>>,
}

/// What a firewall says, whatever its entries look like.
pub(super) fn openness(firewall: &Firewall) -> Openness {
    let ground = |list: &ListName| {
        let entries = firewall.lists[list].entries.iter();
        let opens: Vec<_> = entries.map(|open| (space(open.peer), open.ports)).collect();
        Ground::of(opens.iter().map(|(space, ports)| (space, *ports)))
    };
    firewall.pods.iter().map(|(key, list)| (*key, ground(list))).collect()
}

fn space(peer: Option<IpNet>) -> Space {
    peer.map_or_else(Space::everybody, |peer| Space::of(&[peer], &[]))
}

impl World {
    pub(super) fn openness(&self) -> Openness {
        let mut out = Openness::new();
        for (name, addrs) in &self.local {
            for direction in [Direction::Ingress, Direction::Egress] {
                let Some(ground) = self.ground(name, direction) else { continue };
                out.extend(addrs.iter().map(|addr| ((direction, *addr), ground.clone())));
            }
        }
        out
    }

    fn ground(&self, name: &ObjectName, direction: Direction) -> Option<Ground> {
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
        let mut opens = Vec::new();
        for (policy, spec) in selecting.iter().filter(|_| pod.is_some()) {
            for clause in clauses(&policy.namespace, spec, direction).0 {
                opens.extend(self.opens(&clause.peers, &clause.by, pod, direction));
            }
        }
        Some(Ground::of(opens.iter().map(|(space, ports)| (space, *ports))))
    }

    fn opens(
        &self,
        peers: &Peers,
        by: &By,
        subject: Option<&Pod>,
        direction: Direction,
    ) -> Vec<(Space, Option<Ports>)> {
        let mut out = Vec::new();
        let theirs = matches!(by, By::Named(..)) && direction == Direction::Egress;
        let own = subject.map_or(&[][..], |pod| &pod.ports[..]);
        if let (Peers::Addresses(space), false) = (peers, theirs) {
            by.each(own, |ports| out.push((space.clone(), ports)));
            return out;
        }
        for (name, pod) in &self.pods {
            if matches!(peers, Peers::Pods(chosen) if !self.chooses(chosen, name, pod)) {
                continue;
            }
            let local = self.local.get(name).into_iter().flatten();
            for addr in pod.addrs.iter().chain(local) {
                if matches!(peers, Peers::Addresses(space) if !space.contains(*addr)) {
                    continue;
                }
                let space = space(Some((*addr).into()));
                let names = if theirs { &pod.ports } else { own };
                by.each(names, |ports| out.push((space.clone(), ports)));
            }
        }
        out
    }

    fn chooses(&self, chosen: &Chosen, name: &ObjectName, pod: &Pod) -> bool {
        let labels = self.namespaces.get(&*name.namespace);
        let there = match &chosen.scope {
            Scope::Namespace(namespace) => *namespace == name.namespace,
            Scope::Matching(selector) => labels.is_some_and(|labels| selector.matches(labels)),
            Scope::Any => true,
        };
        there && chosen.pods.matches(&pod.labels)
    }
}
