//! What the cluster says, one changed object at a time, and what follows for the pods of this node. A
//! change costs by what it touches: rules are looked at if they are for a pod of this node, pods if such a rule
//! speaks of them.

mod judge;
mod known;
mod lists;
mod local;
mod sets;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub use judge::{Judgement, Opening};
use known::{Cluster, Known, Namespace};
use lists::Made;
use local::Local;
use sets::{SetId, Sets};
use told::Told;

use super::{
    clause::{Impossible, impossible},
    cluster::{Labels, ObjectName, Pod},
    firewall::{Change, Firewall, ListName},
    spec::{Direction, PolicySpec},
};

/// Namespaces, pods and policies of the cluster, the pods of this node, and their firewall.
#[derive(Clone, Debug, Default)]
pub struct Index {
    cluster: Cluster,
    sets: Sets,
    policies: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PolicySpec>>,
    local: BTreeMap<ObjectName, Local>,
    lists: BTreeMap<ListName, Made>,
    told: Told,
}

impl Index {
    /// Its labels. None: it is gone.
    pub fn namespace(&mut self, name: &str, labels: Option<Labels>) {
        let now = self.sets.reaching(name, labels.as_ref());
        let was = match self.cluster.namespaces.get_mut(name) {
            Some(namespace) => {
                namespace.labels = labels;
                std::mem::replace(&mut namespace.scopes, now.clone())
            }
            None => {
                let namespace = Namespace { labels, scopes: now, ..Namespace::default() };
                self.cluster.namespaces.insert(name.into(), namespace);
                self.cluster.forget_namespace(name);
                return;
            }
        };
        if was != now {
            self.reach(name, &was, &now);
        }
        self.cluster.forget_namespace(name);
    }

    /// A pod as the cluster knows it. None: it is gone.
    pub fn pod(&mut self, name: &ObjectName, pod: Option<Pod>) {
        let local = self.local.get_mut(name);
        let Some(pod) = pod else {
            local.into_iter().for_each(|local| local.told.clear());
            return self.put(name, None);
        };
        let mut addrs = pod.addrs.clone();
        if let Some(local) = local {
            local.told.clone_from(&addrs);
            addrs.extend(&local.addrs);
        }
        addrs.sort_unstable();
        addrs.dedup();
        self.put(name, Some(Known::new(name, pod, addrs)));
    }

    /// None: it is gone.
    pub fn policy(&mut self, name: &ObjectName, spec: Option<PolicySpec>) {
        let policies = self.policies.entry(name.namespace.clone()).or_default();
        if policies.get(&name.name) == spec.as_ref() {
            return;
        }
        match spec {
            Some(spec) => policies.insert(name.name.clone(), spec),
            None => policies.remove(&name.name),
        };
        let of_it = |made: &Made| {
            made.key.namespace == name.namespace && made.key.policies.contains(&name.name)
        };
        let lists: Vec<ListName> =
            self.lists.iter().filter(|(_, made)| of_it(made)).map(|(name, _)| *name).collect();
        let pods = self.local.keys().filter(|pod| pod.namespace == name.namespace);
        for pod in pods.cloned().collect::<Vec<_>>() {
            self.select(&pod);
        }
        lists.into_iter().for_each(|list| self.make(list));
    }

    /// The addresses of a pod of this node, from the lease on: before the cluster knows them, and as
    /// long as it is attached. None at all: it is not attached any more. A pod that the cluster does not
    /// know may do nothing in a direction that any policy of its namespace speaks of.
    pub fn local(&mut self, name: &ObjectName, addrs: &[IpAddr]) {
        let mut known = self.cluster.find(name).cloned();
        let before = self.local.remove(name);
        let told = match (&before, &known) {
            (Some(before), _) => before.told.clone(),
            (None, Some(known)) => known.addrs.to_vec(),
            (None, None) => Vec::new(),
        };
        if let Some(known) = &mut known {
            let mut all = [&told, addrs].concat();
            all.sort_unstable();
            all.dedup();
            known.addrs = all.into();
        }
        let lists = before.as_ref().map(|before| before.lists).unwrap_or_default();
        let old = before.map(|before| before.addrs).unwrap_or_default();
        self.local.insert(name.clone(), Local { addrs: addrs.to_vec(), told, lists });
        if known.is_some() {
            self.put(name, known);
        }
        self.select(name);
        if addrs.is_empty() {
            self.local.remove(name);
        }
        let addrs: BTreeSet<IpAddr> = old.iter().chain(addrs).copied().collect();
        addrs.into_iter().for_each(|addr| self.decide(addr));
    }

    pub fn firewall(&self) -> &Firewall {
        &self.told.firewall
    }

    /// What has changed of the firewall since this was last asked.
    pub fn changes(&mut self) -> Change {
        self.told.ask()
    }

    /// The list that decides about a pod of this node. None: it is open.
    pub fn list(&self, pod: &ObjectName, direction: Direction) -> Option<ListName> {
        self.local.get(pod)?.lists[direction as usize]
    }

    /// Policies that select a pod of this node.
    pub fn in_force(&self) -> BTreeSet<ObjectName> {
        let of = |key: &lists::Key| {
            let object = |name: &Arc<str>| ObjectName {
                namespace: key.namespace.clone(),
                name: name.clone(),
            };
            key.policies.iter().map(object).collect::<Vec<_>>()
        };
        self.lists.values().flat_map(|made| of(&made.key)).collect()
    }

    /// What is in policies that select a pod of this node, and can't be.
    pub fn impossible(&self) -> BTreeMap<ObjectName, Vec<Impossible>> {
        let flaws = self.in_force().into_iter().filter_map(|name| {
            let flaws = impossible(self.policies.get(&name.namespace)?.get(&name.name)?);
            (!flaws.is_empty()).then_some((name, flaws))
        });
        flaws.collect()
    }

    fn put(&mut self, name: &ObjectName, known: Option<Known>) {
        let was = self.cluster.find(name);
        if was == known.as_ref() {
            return;
        }
        let was_in = was.map_or_else(Vec::new, |pod| self.sets.of(pod, &self.cluster));
        let taken = self.cluster.take(name);
        let mut addrs: BTreeSet<IpAddr> = BTreeSet::new();
        if let Some((id, was)) = &taken {
            addrs.extend(&was.addrs);
            was_in.iter().for_each(|set| self.sets.leave(*set, *id));
        }
        let mut is_in = Vec::new();
        if let Some(known) = known {
            addrs.extend(&known.addrs);
            let id = self.insert(name, known);
            is_in = self.cluster.pod(id).map_or_else(Vec::new, |p| self.sets.of(p, &self.cluster));
            is_in.iter().for_each(|set| self.sets.enter(*set, id));
        }
        self.cluster.forget_namespace(&name.namespace);
        let lists = self.users(was_in.iter().chain(&is_in));
        addrs.into_iter().for_each(|addr| self.refresh(addr, &lists));
        self.select(name);
    }

    fn insert(&mut self, name: &ObjectName, known: Known) -> known::PodId {
        if !self.cluster.namespaces.contains_key(&name.namespace) {
            let scopes = self.sets.reaching(&name.namespace, None);
            let namespace = Namespace { scopes, ..Namespace::default() };
            self.cluster.namespaces.insert(name.namespace.clone(), namespace);
        }
        self.cluster.put(name, known)
    }

    /// A namespace has left scopes and come into others, with all its pods.
    fn reach(&mut self, name: &str, was: &BTreeSet<sets::ScopeId>, now: &BTreeSet<sets::ScopeId>) {
        let Some(namespace) = self.cluster.namespaces.get(name) else { return };
        let mut addrs = BTreeSet::new();
        let mut sets = BTreeSet::new();
        for id in namespace.pods.values() {
            let Some(pod) = self.cluster.pod(*id) else { continue };
            for set in self.sets.inside(was.difference(now), &pod.labels) {
                self.sets.leave(set, *id);
                sets.insert(set);
            }
            for set in self.sets.inside(now.difference(was), &pod.labels) {
                self.sets.enter(set, *id);
                sets.insert(set);
            }
            addrs.extend(&pod.addrs);
        }
        let lists = self.users(sets.iter());
        addrs.into_iter().for_each(|addr| self.refresh(addr, &lists));
    }

    /// Lists that speak of any of these sets.
    fn users<'a>(&self, sets: impl Iterator<Item = &'a SetId>) -> BTreeSet<ListName> {
        sets.filter_map(|set| self.sets.get(*set))
            .flat_map(|set| set.users.iter().copied())
            .collect()
    }

    /// What is open to an address in these lists, after who has it has changed.
    fn refresh(&mut self, addr: IpAddr, lists: &BTreeSet<ListName>) {
        if lists.is_empty() {
            return;
        }
        let pods = self.cluster.at(addr).filter_map(|id| self.cluster.pod(id));
        let pods: Vec<_> = pods.map(|pod| (pod, self.sets.of(pod, &self.cluster))).collect();
        for name in lists {
            let Some(made) = self.lists.get(name) else { continue };
            let now = made.entries_of(addr, &pods);
            self.told.address(*name, addr, &made.ground, &now);
        }
    }
}
