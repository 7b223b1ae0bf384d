//! All tables as one, and the one place where a path is put in or taken out: what follows from that
//! for everybody else follows there.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::IpNet;

use super::{
    best::Known,
    export::may_tell,
    hops::{self, Hops},
    index::Secret,
    learnt::{Said, Watch},
    path::Path,
    peers::Peers,
    routes::Routes,
    table::{Key, Table},
};
use crate::{
    attrs::{Attrs, Family, NextHop},
    config::Originated,
};

#[derive(Debug)]
pub struct Rib {
    pub(super) router_id: Ipv4Addr,
    pub(super) paths_max: usize,
    originated: BTreeMap<IpNet, Originated>,
    pub(super) tables: [Table; 2],
    pub(super) routes: Routes,
    pub(super) hops: Hops,
    pub(super) peers: Peers,
    pub(super) version: u64,
    /// None: nobody asks for changes.
    pub(super) watch: Option<Watch>,
}

/// What becomes of one path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
    /// Of its route, one use is given.
    Set(Path),
    RemoveOf(Path),
}

impl Default for Rib {
    fn default() -> Self {
        Self::new()
    }
}

impl Rib {
    pub fn new() -> Self {
        let secret = Secret::new();
        Self {
            router_id: Ipv4Addr::UNSPECIFIED,
            paths_max: 1,
            originated: BTreeMap::new(),
            tables: Family::ALL.map(|family| Table::new(family, secret)),
            routes: Routes::new(secret),
            hops: Hops::default(),
            peers: Peers::default(),
            version: 0,
            watch: None,
        }
    }

    /// Our own routes and what is on-link; the difference to before is found here.
    pub fn configure(
        &mut self,
        router_id: Ipv4Addr,
        originated: &BTreeMap<IpNet, Originated>,
        connected: &[IpNet],
        paths_max: usize,
    ) {
        if self.router_id != router_id {
            self.router_id = router_id;
            self.tell_all_again();
        }
        self.hops.connect(connected);
        self.limit_paths(paths_max.max(1));
        self.originate(originated);
        self.settle();
    }

    fn originate(&mut self, originated: &BTreeMap<IpNet, Originated>) {
        let before = std::mem::replace(&mut self.originated, originated.clone());
        for prefix in before.keys().filter(|prefix| !originated.contains_key(prefix)) {
            let (family, key) = (Family::of(prefix), Key::of(prefix));
            let slot = self.table(family).find(key);
            let own = slot.and_then(|slot| self.own_path(family, slot));
            if let (Some(slot), Some(own)) = (slot, own) {
                self.change(family, slot, Edit::RemoveOf(own));
            }
        }
        for (prefix, own) in originated.iter().filter(|(net, own)| before.get(net) != Some(own)) {
            let attrs = Attrs {
                med: own.med,
                communities: own.communities.clone(),
                large_communities: own.large_communities.clone(),
                ..Attrs::default()
            };
            // What stands for the next hop differs by neighbour.
            let route = self.routes.take(&attrs, NextHop::V4(Ipv4Addr::UNSPECIFIED));
            let slot = self.tables[Family::of(prefix) as usize].find_or_make(Key::of(prefix));
            let path = Path::own(route, own.external_only);
            self.change(Family::of(prefix), slot, Edit::Set(path));
        }
    }

    fn own_path(&self, family: Family, slot: u32) -> Option<Path> {
        self.table(family).paths(slot).iter().copied().find(|path| path.is_own())
    }

    fn limit_paths(&mut self, paths_max: usize) {
        if self.paths_max == paths_max {
            return;
        }
        self.paths_max = paths_max;
        self.hops.shake();
        for family in Family::ALL {
            for slot in 0..self.table(family).slots() {
                if self.table(family).paths(slot).len() > 1 {
                    self.learnt_changes(family, slot);
                }
            }
        }
    }

    pub(super) fn table(&self, family: Family) -> &Table {
        &self.tables[family as usize]
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known {
            routes: &self.routes,
            hops: &self.hops,
            peers: &self.peers,
            paths_max: self.paths_max,
        }
    }

    /// The best path of a prefix that leads anywhere: it is kept first.
    pub(super) fn best(&self, family: Family, slot: u32) -> Option<Path> {
        let first = self.table(family).paths(slot).first().copied();
        first.filter(|path| self.known().is_usable(*path))
    }

    /// The caller settles once it has changed all that it has to.
    pub(super) fn change(&mut self, family: Family, slot: u32, edit: Edit) {
        let said = Said::of(&self.known(), self.table(family).paths(slot));
        let best = self.best(family, slot);
        let peer = match edit {
            Edit::Set(path) | Edit::RemoveOf(path) => path.peer(),
        };
        let old = self.table(family).path_of(slot, peer);
        let table = &mut self.tables[family as usize];
        let new = match edit {
            Edit::Set(path) => {
                table.set_path(slot, path);
                Some(path)
            }
            Edit::RemoveOf(_) => {
                table.remove_path(slot, peer);
                None
            }
        };
        self.hops.notice(family, self.tables[family as usize].key(slot));
        self.choose(family, slot);
        if said != Said::of(&self.known(), self.table(family).paths(slot)) {
            self.learnt_changes(family, slot);
        }
        let now = self.best(family, slot);
        if best.map(Path::fresh) != now.map(Path::fresh) {
            self.mark(family, slot, now);
        }
        self.count(family, old, new);
        if let Some(old) = old {
            self.routes.drop(old.route, &mut self.hops);
        }
        self.release_if_unused(family, slot);
    }

    fn choose(&mut self, family: Family, slot: u32) {
        let paths = self.table(family).paths(slot);
        if paths.len() > 1
            && let Some(best) = self.known().best(paths)
        {
            self.tables[family as usize].put_first(slot, best);
        }
    }

    fn count(&mut self, family: Family, old: Option<Path>, new: Option<Path>) {
        let peer = old.or(new).map(Path::peer);
        let Some(known) = peer.and_then(|peer| self.peers.get_mut(peer)) else { return };
        let is_stale = |path: Option<Path>| u32::from(path.is_some_and(Path::is_stale));
        let is_there = |path: Option<Path>| u32::from(path.is_some());
        let (taken, stale) = (&mut known.taken[family as usize], &mut known.stale[family as usize]);
        *taken = *taken + is_there(new) - is_there(old);
        *stale = *stale + is_stale(new) - is_stale(old);
    }

    /// Whoever was told of it before, or may be now, is to be told of its best path.
    fn mark(&mut self, family: Family, slot: u32, best: Option<Path>) {
        let from = best.and_then(|best| self.peers.who(best.peer())).copied();
        let reach = best.map(|best| self.routes.facts(best.route).reach).unwrap_or_default();
        for (_, known) in self.peers.all_mut() {
            let Some(peer) = known.up.as_ref().filter(|peer| peer.agreed.speaks(family)) else {
                continue;
            };
            let (to, own_only) = (&known.who, peer.config.own_only);
            let may = best.is_some_and(|best| may_tell(best, from.as_ref(), reach, to, own_only));
            let out = &mut known.out[family as usize];
            if may || out.told(slot).is_some() {
                out.mark(slot);
            }
        }
    }

    pub(super) fn learnt_changes(&mut self, family: Family, slot: u32) {
        self.version += 1;
        if let Some(watch) = &mut self.watch {
            watch.mark(family, slot);
        }
    }

    /// A prefix without paths goes once everybody knows that it has none.
    pub(super) fn release_if_unused(&mut self, family: Family, slot: u32) {
        let watched = || self.watch.as_ref().is_some_and(|watch| watch.waits(family, slot));
        let unused = self.table(family).paths(slot).is_empty() && self.table(family).is_there(slot);
        if unused && !self.peers.was_told(family, slot) && !watched() {
            self.tables[family as usize].release(slot);
        }
    }

    /// Where next hops lead, and what follows from that.
    pub(super) fn settle(&mut self) {
        if !self.hops.is_unsettled() {
            return;
        }
        let Self { hops, tables, routes, peers, paths_max, .. } = self;
        let changed = hops::resolve(hops, tables, routes, peers, *paths_max);
        if !changed.is_empty() {
            self.decide_again(|known, path| {
                known.hop(path).is_some_and(|hop| changed.contains(&hop))
            });
        }
    }

    /// Prefixes that have such a path.
    pub(super) fn decide_again(&mut self, concerned: impl Fn(&Known<'_>, Path) -> bool) {
        for family in Family::ALL {
            for slot in 0..self.table(family).slots() {
                let paths = self.table(family).paths(slot);
                if !paths.iter().any(|path| concerned(&self.known(), *path)) {
                    continue;
                }
                self.choose(family, slot);
                self.learnt_changes(family, slot);
                self.mark(family, slot, self.best(family, slot));
            }
        }
    }

    pub(super) fn tell_all_again(&mut self) {
        for (_, known) in self.peers.all_mut() {
            known.look_again();
        }
    }
}
