//! Which pods are chosen by the peers of rules: one set for each pair of selectors that differs, kept up to
//! date pod by pod. Only what rules for pods of this node speak of is here.

use std::collections::{BTreeMap, BTreeSet};

use super::known::{Cluster, Known, PodId};
use crate::policy::{
    clause::{Chosen, Scope},
    cluster::Labels,
    firewall::ListName,
    spec::{Operator, Selector},
};

pub(super) type SetId = u32;
pub(super) type ScopeId = u32;

#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    there: BTreeMap<SetId, Set>,
    ids: BTreeMap<Chosen, SetId>,
    scopes: BTreeMap<ScopeId, Reach>,
    scope_ids: BTreeMap<Scope, ScopeId>,
    next: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Set {
    pods: Selector,
    scope: ScopeId,
    pub members: BTreeSet<PodId>,
    /// Lists that speak of it.
    pub users: BTreeSet<ListName>,
}

/// The sets of one scope, by a label that all of their pods have.
#[derive(Clone, Debug)]
struct Reach {
    scope: Scope,
    sets: usize,
    by_label: BTreeMap<String, BTreeMap<String, BTreeSet<SetId>>>,
    rest: BTreeSet<SetId>,
}

impl Sets {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.there.is_empty() && self.ids.is_empty() && self.scopes.is_empty()
    }

    pub(super) fn get(&self, id: SetId) -> Option<&Set> {
        self.there.get(&id)
    }

    /// The set of these pods, which exists from now on as long as a list uses it.
    pub(super) fn hold(&mut self, chosen: &Chosen, list: ListName, cluster: &mut Cluster) -> SetId {
        let id = match self.ids.get(chosen) {
            Some(id) => *id,
            None => self.make(chosen, cluster),
        };
        self.there.entry(id).and_modify(|set| {
            set.users.insert(list);
        });
        id
    }

    pub(super) fn release(&mut self, id: SetId, list: ListName, cluster: &mut Cluster) {
        let Some(set) = self.there.get_mut(&id) else { return };
        set.users.remove(&list);
        if !set.users.is_empty() {
            return;
        }
        let Some(Set { pods, scope, .. }) = self.there.remove(&id) else { return };
        let Some(reach) = self.scopes.get_mut(&scope) else { return };
        reach.note(id, &pods, false);
        self.ids.remove(&Chosen { scope: reach.scope.clone(), pods });
        if reach.sets > 0 {
            return;
        }
        self.scope_ids.remove(&reach.scope);
        self.scopes.remove(&scope);
        cluster.namespaces.values_mut().for_each(|namespace| {
            namespace.scopes.remove(&scope);
        });
    }

    /// The sets that these pods are in.
    pub(super) fn of(&self, pod: &Known, cluster: &Cluster) -> Vec<SetId> {
        let Some(namespace) = cluster.namespaces.get(&pod.namespace) else { return Vec::new() };
        self.inside(namespace.scopes.iter(), &pod.labels)
    }

    /// The sets of these scopes that a pod with these labels is in.
    pub(super) fn inside<'a>(
        &self,
        scopes: impl Iterator<Item = &'a ScopeId>,
        labels: &Labels,
    ) -> Vec<SetId> {
        let reaches = scopes.filter_map(|scope| self.scopes.get(scope));
        reaches.flat_map(|reach| self.chosen(reach, labels)).collect()
    }

    pub(super) fn enter(&mut self, id: SetId, pod: PodId) {
        self.there.entry(id).and_modify(|set| {
            set.members.insert(pod);
        });
    }

    pub(super) fn leave(&mut self, id: SetId, pod: PodId) {
        self.there.entry(id).and_modify(|set| {
            set.members.remove(&pod);
        });
    }

    /// Every scope that a namespace with these labels is in.
    pub(super) fn reaching(&self, name: &str, labels: Option<&Labels>) -> BTreeSet<ScopeId> {
        let all = self.scopes.iter();
        all.filter(|(_, reach)| reach.includes(name, labels)).map(|(id, _)| *id).collect()
    }

    fn chosen(&self, reach: &Reach, labels: &Labels) -> impl Iterator<Item = SetId> {
        let labelled = labels.iter().filter_map(|(key, value)| {
            reach.by_label.get(&**key).and_then(|values| values.get(&**value))
        });
        labelled
            .chain([&reach.rest])
            .flatten()
            .copied()
            .filter(|id| self.there.get(id).is_some_and(|set| set.pods.matches(labels)))
    }

    fn make(&mut self, chosen: &Chosen, cluster: &mut Cluster) -> SetId {
        let scope = match self.scope_ids.get(&chosen.scope) {
            Some(scope) => *scope,
            None => self.make_scope(&chosen.scope, cluster),
        };
        let id = self.number();
        if let Some(reach) = self.scopes.get_mut(&scope) {
            reach.note(id, &chosen.pods, true);
        }
        let reached = match &chosen.scope {
            Scope::Namespace(name) => cluster.namespaces.get(name).into_iter().collect(),
            Scope::Matching(_) | Scope::Any => cluster.namespaces.values().collect::<Vec<_>>(),
        };
        let pods = reached
            .into_iter()
            .filter(|namespace| namespace.scopes.contains(&scope))
            .flat_map(|namespace| namespace.pods.values());
        let is =
            |id: &&PodId| cluster.pod(**id).is_some_and(|pod| chosen.pods.matches(&pod.labels));
        let members = pods.filter(is).copied().collect();
        let set = Set { pods: chosen.pods.clone(), scope, members, users: BTreeSet::new() };
        self.there.insert(id, set);
        self.ids.insert(chosen.clone(), id);
        id
    }

    fn make_scope(&mut self, scope: &Scope, cluster: &mut Cluster) -> ScopeId {
        let id = self.number();
        let reach = Reach {
            scope: scope.clone(),
            sets: 0,
            by_label: BTreeMap::new(),
            rest: BTreeSet::new(),
        };
        for (name, namespace) in &mut cluster.namespaces {
            if reach.includes(name, namespace.labels.as_ref()) {
                namespace.scopes.insert(id);
            }
        }
        self.scopes.insert(id, reach);
        self.scope_ids.insert(scope.clone(), id);
        id
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }
}

impl Reach {
    fn includes(&self, name: &str, labels: Option<&Labels>) -> bool {
        match &self.scope {
            Scope::Namespace(one) => **one == *name,
            Scope::Matching(selector) => labels.is_some_and(|labels| selector.matches(labels)),
            Scope::Any => true,
        }
    }

    /// A set comes or goes.
    fn note(&mut self, id: SetId, pods: &Selector, comes: bool) {
        self.sets = if comes { self.sets + 1 } else { self.sets - 1 };
        let Some((key, values)) = telling(pods) else {
            set_to(&mut self.rest, id, comes);
            return;
        };
        let by_value = self.by_label.entry(key.to_owned()).or_default();
        for value in values {
            let sets = by_value.entry(value.clone()).or_default();
            set_to(sets, id, comes);
            if sets.is_empty() {
                by_value.remove(value);
            }
        }
        if by_value.is_empty() {
            self.by_label.remove(key);
        }
    }
}

/// A key of which everybody selected has one of these values.
fn telling(selector: &Selector) -> Option<(&str, Vec<&String>)> {
    let equal = selector.match_labels.iter().map(|(key, value)| (key.as_str(), vec![value])).next();
    let among = || {
        let one = selector.match_expressions.iter().find(|one| one.operator == Operator::In)?;
        let mut values: Vec<&String> = one.values.iter().collect();
        values.sort();
        values.dedup();
        Some((one.key.as_str(), values))
    };
    equal.or_else(among)
}

fn set_to(sets: &mut BTreeSet<SetId>, id: SetId, there: bool) {
    if there {
        sets.insert(id);
    } else {
        sets.remove(&id);
    }
}
