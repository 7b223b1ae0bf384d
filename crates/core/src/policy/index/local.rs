//! The pods of this node: which policies select them, and the lists that follow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Index,
    lists::{Draft, Key, Made},
};
use crate::policy::{
    clause::clauses,
    cluster::{NamedPort, ObjectName},
    firewall::ListName,
    space::Ground,
    spec::{Direction, PolicySpec, PortName},
};

/// A pod of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    pub addrs: Vec<IpAddr>,
    /// What the cluster says of its addresses.
    pub told: Vec<IpAddr>,
    /// By direction.
    pub lists: [Option<ListName>; 2],
}

impl Index {
    /// Finds the lists of a pod of this node anew.
    pub(super) fn select(&mut self, name: &ObjectName) {
        let Some(local) = self.local.get(name) else { return };
        let (was, attached) = (local.lists, !local.addrs.is_empty());
        for direction in [Direction::Ingress, Direction::Egress] {
            let key = self.key(name, direction).filter(|_| attached);
            let old = was[direction as usize];
            let new = key.map(|key| self.join(key, name));
            if old == new {
                continue;
            }
            if let Some(local) = self.local.get_mut(name) {
                local.lists[direction as usize] = new;
            }
            old.into_iter().for_each(|list| self.quit(list, name));
        }
        let Some(local) = self.local.get(name).filter(|local| local.lists != was) else { return };
        local.addrs.clone().into_iter().for_each(|addr| self.decide(addr));
    }

    /// Which list decides about an address of this node.
    pub(super) fn decide(&mut self, addr: IpAddr) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let those = self.local.values().filter(|local| local.addrs.contains(&addr));
            let list = those.filter_map(|local| local.lists[direction as usize]).next_back();
            self.told.decide(direction, addr, list);
        }
    }

    /// Makes a list of what its policies now say.
    pub(super) fn make(&mut self, name: ListName) {
        let Some(made) = self.lists.get(&name) else { return };
        let (ground, uses) = self.draft(name, &made.key.clone());
        let Some(made) = self.lists.get_mut(&name) else { return };
        made.ground = ground;
        let old = std::mem::replace(&mut made.uses, uses);
        let left: Vec<_> = old.into_keys().filter(|set| !made.uses.contains_key(set)).collect();
        let entries = made.entries(&self.sets, &self.cluster);
        left.into_iter().for_each(|set| self.sets.release(set, name, &mut self.cluster));
        self.told.fill(name, entries);
    }

    /// None: no policy selects the pod.
    fn key(&self, name: &ObjectName, direction: Direction) -> Option<Key> {
        let policies = self.policies.get(&name.namespace)?;
        let mut concerned = policies.iter().filter(|(_, spec)| spec.concerns(direction));
        let namespace = name.namespace.clone();
        let Some(pod) = self.cluster.find(name) else {
            concerned.next()?;
            return Some(Key { direction, namespace, policies: Vec::new(), ports: Vec::new() });
        };
        let selecting = concerned.filter(|(_, spec)| spec.pod_selector.matches(&pod.labels));
        let selecting: Vec<(&Arc<str>, &PolicySpec)> = selecting.collect();
        if selecting.is_empty() {
            return None;
        }
        let spoken: BTreeSet<&str> =
            selecting.iter().flat_map(|(_, spec)| names(spec, direction)).collect();
        let ports: Vec<NamedPort> =
            pod.ports.iter().filter(|port| spoken.contains(&*port.name)).cloned().collect();
        let policies = selecting.into_iter().map(|(name, _)| name.clone()).collect();
        Some(Key { direction, namespace, policies, ports })
    }

    fn join(&mut self, key: Key, pod: &ObjectName) -> ListName {
        let mut name = key.name();
        while self.lists.get(&name).is_some_and(|made| made.key != key) {
            name = ListName(name.0.wrapping_add(1));
        }
        if let Some(made) = self.lists.get_mut(&name) {
            made.pods.insert(pod.clone());
            return name;
        }
        let (ground, uses) = self.draft(name, &key);
        let made = Made { key, pods: BTreeSet::from([pod.clone()]), ground, uses };
        self.told.create(name, made.entries(&self.sets, &self.cluster));
        self.lists.insert(name, made);
        name
    }

    fn quit(&mut self, name: ListName, pod: &ObjectName) {
        let Some(made) = self.lists.get_mut(&name) else { return };
        made.pods.remove(pod);
        if !made.pods.is_empty() {
            return;
        }
        let uses = self.lists.remove(&name).map(|made| made.uses).unwrap_or_default();
        uses.into_keys().for_each(|set| self.sets.release(set, name, &mut self.cluster));
        self.told.remove(name);
    }

    fn draft(
        &mut self,
        name: ListName,
        key: &Key,
    ) -> (Ground, BTreeMap<super::SetId, Vec<super::lists::Use>>) {
        let mut draft = Draft::default();
        let there = self.policies.get(&key.namespace);
        for spec in key.policies.iter().filter_map(|policy| there?.get(policy)) {
            let (clauses, _) = clauses(&key.namespace, spec, key.direction);
            clauses.into_iter().for_each(|clause| draft.add(clause, key));
        }
        (draft.ground(), draft.uses(name, &mut self.sets, &mut self.cluster))
    }
}

/// Names of the pod's own ports that a policy speaks of.
fn names(spec: &PolicySpec, direction: Direction) -> impl Iterator<Item = &str> {
    let rules = spec.ingress.iter().filter(move |_| direction == Direction::Ingress);
    rules.flat_map(|rule| &rule.ports).filter_map(|port| match &port.port {
        Some(PortName::Name(name)) => Some(name.as_str()),
        _ => None,
    })
}
