//! Namespaces and pods, kept small: what pods have in common is held once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::sets::ScopeId;
use crate::policy::cluster::{Labels, NamedPort, ObjectName, Pod};

pub(super) type PodId = u32;

/// With how many have it.
type Shared<T> = BTreeMap<Arc<T>, u32>;

#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    pods: Vec<Option<Known>>,
    free: Vec<PodId>,
    v4: BTreeSet<(Ipv4Addr, PodId)>,
    v6: BTreeSet<(Ipv6Addr, PodId)>,
    pub labels: Shared<Labels>,
    pub ports: Shared<[NamedPort]>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Namespace {
    /// None: it is not known, though somebody speaks of it.
    pub labels: Option<Labels>,
    pub pods: BTreeMap<Box<str>, PodId>,
    /// In whose reach it is.
    pub scopes: BTreeSet<ScopeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub namespace: Arc<str>,
    pub labels: Arc<Labels>,
    pub addrs: Box<[IpAddr]>,
    pub ports: Arc<[NamedPort]>,
}

impl Known {
    pub(super) fn new(name: &ObjectName, pod: Pod, addrs: Vec<IpAddr>) -> Self {
        let mut ports = pod.ports;
        ports.sort();
        let namespace = name.namespace.clone();
        Self { namespace, labels: pod.labels, addrs: addrs.into(), ports: ports.into() }
    }
}

impl Cluster {
    pub(super) fn id(&self, name: &ObjectName) -> Option<PodId> {
        self.namespaces.get(&name.namespace)?.pods.get(&*name.name).copied()
    }

    pub(super) fn pod(&self, id: PodId) -> Option<&Known> {
        self.pods.get(id as usize)?.as_ref()
    }

    pub(super) fn find(&self, name: &ObjectName) -> Option<&Known> {
        self.pod(self.id(name)?)
    }

    /// The pods that have this address: one, but for moments.
    pub(super) fn at(&self, addr: IpAddr) -> impl Iterator<Item = PodId> {
        let (v4, v6) = match addr {
            IpAddr::V4(addr) => (Some(addr), None),
            IpAddr::V6(addr) => (None, Some(addr)),
        };
        let v4 = v4.into_iter().flat_map(|a| self.v4.range((a, PodId::MIN)..=(a, PodId::MAX)));
        let v6 = v6.into_iter().flat_map(|a| self.v6.range((a, PodId::MIN)..=(a, PodId::MAX)));
        v4.map(|(_, id)| *id).chain(v6.map(|(_, id)| *id))
    }

    /// What others have too is held once.
    pub(super) fn put(&mut self, name: &ObjectName, mut known: Known) -> PodId {
        self.take(name);
        known.labels = share(&mut self.labels, known.labels);
        known.ports = share(&mut self.ports, known.ports);
        let id = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            PodId::try_from(self.pods.len() - 1).expect("fewer pods than there are addresses")
        });
        self.address(id, &known.addrs, true);
        if let Some((namespace, _)) = self.namespaces.get_key_value(&known.namespace) {
            known.namespace = namespace.clone();
        }
        let namespace = self.namespaces.entry(known.namespace.clone()).or_default();
        namespace.pods.insert((*name.name).into(), id);
        self.pods[id as usize] = Some(known);
        id
    }

    pub(super) fn take(&mut self, name: &ObjectName) -> Option<(PodId, Known)> {
        let namespace = self.namespaces.get_mut(&name.namespace)?;
        let id = namespace.pods.remove(&*name.name)?;
        let known = self.pods[id as usize].take()?;
        self.free.push(id);
        self.address(id, &known.addrs, false);
        forget(&mut self.labels, &known.labels);
        forget(&mut self.ports, &known.ports);
        Some((id, known))
    }

    /// Unless there is anything left to know of it.
    pub(super) fn forget_namespace(&mut self, name: &str) {
        let empty = |one: &Namespace| one.labels.is_none() && one.pods.is_empty();
        if self.namespaces.get(name).is_some_and(empty) {
            self.namespaces.remove(name);
        }
    }

    fn address(&mut self, id: PodId, addrs: &[IpAddr], has: bool) {
        for addr in addrs {
            match (addr, has) {
                (IpAddr::V4(addr), true) => self.v4.insert((*addr, id)),
                (IpAddr::V4(addr), false) => self.v4.remove(&(*addr, id)),
                (IpAddr::V6(addr), true) => self.v6.insert((*addr, id)),
                (IpAddr::V6(addr), false) => self.v6.remove(&(*addr, id)),
            };
        }
    }
}

fn share<T: Ord + ?Sized>(all: &mut Shared<T>, one: Arc<T>) -> Arc<T> {
    if let Some(there) = all.get_key_value(&one).map(|(there, _)| there.clone()) {
        all.entry(one).and_modify(|count| *count += 1);
        return there;
    }
    all.insert(one.clone(), 1);
    one
}

fn forget<T: Ord + ?Sized>(all: &mut Shared<T>, one: &Arc<T>) {
    let Some(count) = all.get_mut(one) else { return };
    *count -= 1;
    if *count == 0 {
        all.remove(one);
    }
}
