//! What the cluster says, one changed object at a time, and what follows for the pods of this node.

mod scratch;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    clause::Impossible,
    cluster::{Labels, ObjectName, Pod},
    firewall::{Change, Firewall, ListChange, ListName},
    spec::{Direction, PolicySpec},
};

/// Namespaces, pods and policies of the cluster, the pods of this node, and their firewall.
#[derive(Clone, Debug, Default)]
pub struct Index {
    namespaces: BTreeMap<Arc<str>, Labels>,
    pods: BTreeMap<ObjectName, Pod>,
    policies: BTreeMap<ObjectName, PolicySpec>,
    local: BTreeMap<ObjectName, Vec<IpAddr>>,
    told: Firewall,
}

impl Index {
    /// Its labels. None: it is gone.
    pub fn namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.into(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// A pod as the cluster knows it. None: it is gone.
    pub fn pod(&mut self, name: &ObjectName, pod: Option<Pod>) {
        match pod {
            Some(pod) => self.pods.insert(name.clone(), pod),
            None => self.pods.remove(name),
        };
    }

    /// None: it is gone.
    pub fn policy(&mut self, name: &ObjectName, spec: Option<PolicySpec>) {
        match spec {
            Some(spec) => self.policies.insert(name.clone(), spec),
            None => self.policies.remove(name),
        };
    }

    /// The addresses of a pod of this node, from the lease on: before the cluster knows them, and as
    /// long as it is attached. None at all: it is not attached any more. A pod that the cluster does not know
    /// may do nothing in a direction that any policy of its namespace speaks of.
    pub fn local(&mut self, name: &ObjectName, addrs: &[IpAddr]) {
        match addrs {
            [] => self.local.remove(name),
            _ => self.local.insert(name.clone(), addrs.to_vec()),
        };
    }

    pub fn firewall(&self) -> Firewall {
        scratch::firewall(&self.namespaces, &self.pods, &self.policies, &self.local)
    }

    /// What has changed of the firewall since this was last asked.
    pub fn changes(&mut self) -> Change {
        let now = self.firewall();
        let was = std::mem::replace(&mut self.told, now);
        between(&was, &self.told)
    }

    /// The list that decides about a pod of this node. None: it is open.
    pub fn list(&self, pod: &ObjectName, direction: Direction) -> Option<ListName> {
        let addr = self.local.get(pod)?.first()?;
        self.told.pods.get(&(direction, *addr)).copied()
    }

    /// What is in policies that select a pod of this node, and can't be.
    pub fn impossible(&self) -> Vec<(ObjectName, Vec<Impossible>)> {
        Vec::new()
    }
}

fn between(was: &Firewall, now: &Firewall) -> Change {
    let mut change = Change::default();
    for name in was.lists.keys().chain(now.lists.keys()) {
        let list = match (was.lists.get(name), now.lists.get(name)) {
            (Some(was), Some(now)) if was == now => continue,
            (Some(was), Some(now)) => ListChange::Entries {
                added: now.entries.difference(&was.entries).copied().collect(),
                removed: was.entries.difference(&now.entries).copied().collect(),
            },
            (None, Some(now)) => ListChange::New(now.clone()),
            (_, None) => ListChange::Gone,
        };
        change.lists.insert(*name, list);
    }
    for key in was.pods.keys().chain(now.pods.keys()) {
        let (was, now) = (was.pods.get(key), now.pods.get(key));
        if was != now {
            change.pods.insert(*key, now.copied());
        }
    }
    change
}
