//! The firewall as it is, and what it was when somebody last asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::policy::{
    firewall::{Change, Firewall, List, ListChange, ListName, Open},
    space::Ground,
    spec::Direction,
};

#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub firewall: Firewall,
    lists: BTreeMap<ListName, Since>,
    /// What decided when last asked.
    pods: BTreeMap<(Direction, IpAddr), Option<ListName>>,
}

/// What has become of a list.
#[derive(Clone, Debug)]
enum Since {
    New,
    Changed {
        added: BTreeSet<Open>,
        removed: BTreeSet<Open>,
    },
    /// With what was in it when last asked.
    Gone(BTreeSet<Open>),
}

impl Told {
    pub(super) fn create(&mut self, name: ListName, entries: BTreeSet<Open>) {
        let since = match self.lists.remove(&name) {
            Some(Since::Gone(was)) => Since::Changed {
                added: entries.difference(&was).copied().collect(),
                removed: was.difference(&entries).copied().collect(),
            },
            _ => Since::New,
        };
        self.lists.insert(name, since);
        self.firewall.lists.insert(name, Arc::new(List { entries }));
    }

    pub(super) fn remove(&mut self, name: ListName) {
        let Some(list) = self.firewall.lists.remove(&name) else { return };
        let mut was = Arc::unwrap_or_clone(list).entries;
        match self.lists.remove(&name) {
            Some(Since::New) => return,
            Some(Since::Changed { added, removed }) => {
                was.retain(|open| !added.contains(open));
                was.extend(removed);
            }
            Some(Since::Gone(_)) | None => {}
        }
        self.lists.insert(name, Since::Gone(was));
    }

    /// Everything in a list, anew.
    pub(super) fn fill(&mut self, name: ListName, entries: BTreeSet<Open>) {
        let Some(list) = self.firewall.lists.get(&name).cloned() else { return };
        list.entries.difference(&entries).for_each(|open| self.close(name, open));
        entries.difference(&list.entries).for_each(|open| self.open(name, *open));
    }

    /// What is open to one address in a list, beside what is open to whoever has it.
    pub(super) fn address(&mut self, name: ListName, addr: IpAddr, ground: &Ground, now: &[Open]) {
        let Some(list) = self.firewall.lists.get(&name) else { return };
        let peer = Some(addr.into());
        let from = list.entries.range(Open { peer, ports: None }..);
        let there = from.take_while(|open| open.peer == peer).copied();
        let stale: Vec<Open> =
            there.filter(|open| !now.contains(open) && !ground.holds(addr, open.ports)).collect();
        stale.iter().for_each(|open| self.close(name, open));
        now.iter().for_each(|open| self.open(name, *open));
    }

    fn open(&mut self, name: ListName, open: Open) {
        let Some(list) = self.firewall.lists.get_mut(&name) else { return };
        if !list.entries.contains(&open)
            && Arc::make_mut(list).entries.insert(open)
            && let Some((added, removed)) = self.since(name)
            && !removed.remove(&open)
        {
            added.insert(open);
        }
    }

    fn close(&mut self, name: ListName, open: &Open) {
        let Some(list) = self.firewall.lists.get_mut(&name) else { return };
        if list.entries.contains(open)
            && Arc::make_mut(list).entries.remove(open)
            && let Some((added, removed)) = self.since(name)
            && !added.remove(open)
        {
            removed.insert(*open);
        }
    }

    /// None: the address is open.
    pub(super) fn decide(&mut self, direction: Direction, addr: IpAddr, list: Option<ListName>) {
        let key = (direction, addr);
        let was = match list {
            Some(list) => self.firewall.pods.insert(key, list),
            None => self.firewall.pods.remove(&key),
        };
        self.pods.entry(key).or_insert(was);
    }

    pub(super) fn ask(&mut self) -> Change {
        let lists = std::mem::take(&mut self.lists).into_iter();
        let lists = lists.filter_map(|(name, since)| Some((name, self.become_of(name, since)?)));
        let lists = lists.collect();
        let now = |key| self.firewall.pods.get(&key).copied();
        let pods = std::mem::take(&mut self.pods).into_iter();
        let pods = pods.filter(|(key, was)| now(*key) != *was);
        Change { lists, pods: pods.map(|(key, _)| (key, now(key))).collect() }
    }

    fn become_of(&self, name: ListName, since: Since) -> Option<ListChange> {
        match since {
            Since::New => self.firewall.lists.get(&name).cloned().map(ListChange::New),
            Since::Changed { added, removed } => {
                let same = added.is_empty() && removed.is_empty();
                (!same).then_some(ListChange::Entries { added, removed })
            }
            Since::Gone(_) => Some(ListChange::Gone),
        }
    }

    /// What was added and removed. None: it is new as a whole.
    fn since(&mut self, name: ListName) -> Option<(&mut BTreeSet<Open>, &mut BTreeSet<Open>)> {
        let unchanged = || Since::Changed { added: BTreeSet::new(), removed: BTreeSet::new() };
        match self.lists.entry(name).or_insert_with(unchanged) {
            Since::Changed { added, removed } => Some((added, removed)),
            Since::New | Since::Gone(_) => None,
        }
    }
}
