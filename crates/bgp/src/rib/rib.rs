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
        let whole = |(prefix, own): (&IpNet, &Originated)| (prefix.trunc(), own.clone());
        let originated: BTreeMap<IpNet, Originated> = originated.iter().map(whole).collect();
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::*;
    use crate::{
        attrs::{AsPath, Segment},
        config::{Filter, Neighbour, Ttl},
        rib::Peer,
        wire::{Agreed, Reach, Update},
    };

    fn addr(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn peer(last: u8) -> Peer {
        let pass = Filter::all();
        let config = Neighbour {
            name: last.to_string(),
            local_as: 64512,
            remote_as: 65000 + u32::from(last),
            local_addr: addr(100),
            port: 179,
            passive: false,
            client: false,
            families: Family::ALL.into(),
            next_hop4: Some(Ipv4Addr::new(10, 0, 0, 100)),
            next_hop6: None,
            hold_time: 90,
            graceful_restart: None,
            password: None,
            ttl: Ttl::Any,
            bfd: false,
            routes_max: 25,
            import: pass.clone(),
            export: pass,
            communities: Vec::new(),
            large_communities: Vec::new(),
            own_only: false,
        };
        let agreed =
            Agreed { ipv4: true, four_octet_as: true, external: true, ..Agreed::default() };
        Peer { config, router_id: Ipv4Addr::new(10, 0, 0, last), agreed }
    }

    fn update(prefix: usize, asn: u32, hop: u8) -> Update {
        let as_path = AsPath(vec![Segment::Sequence(vec![asn])]);
        let prefixes = vec![format!("10.1.{prefix}.0/24").parse().unwrap()];
        let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, hop % 2, hop));
        Update {
            attrs: Some(Attrs { as_path, ..Attrs::default() }),
            reach: vec![Reach { next_hop, prefixes }],
            ..Update::default()
        }
    }

    fn hear(rib: &mut Rib, last: u8) {
        while rib.has_outgoing(addr(last)) {
            rib.outgoing(addr(last), &mut Vec::new(), 4096);
        }
    }

    fn sizes(rib: &Rib) -> [u32; 4] {
        let slots = rib
            .tables
            .iter()
            .map(|table| (0..table.slots()).filter(|slot| table.is_there(*slot)).count());
        let prefixes = u32::try_from(slots.sum::<usize>()).unwrap();
        let peers = u32::try_from(rib.peers.all().count()).unwrap();
        [prefixes, rib.routes.len(), rib.hops.len(), peers]
    }

    /// Three neighbours say and take back, hear or not; one goes away without having heard all.
    fn fill(rib: &mut Rib, watched: bool) {
        let mut number = 7usize;
        for _ in 0..5000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
            let [last, prefix, asn, hop, what, ..] = (number >> 8).to_le_bytes();
            let (last, prefix) = (1 + last % 3, usize::from(prefix % 40));
            let said = update(prefix, 1 + u32::from(asn % 5), 1 + hop % 6);
            let withdrawn = said.reach[0].prefixes.clone();
            let gone = Update { withdrawn, ..Update::default() };
            match what % 8 {
                0..6 => {
                    rib.update(addr(last), if what % 8 < 4 { said } else { gone });
                }
                6 => hear(rib, last),
                _ if watched => drop(rib.changed(5)),
                _ => {}
            }
        }
    }

    #[test]
    fn nothing_is_left_of_what_is_gone() {
        for watched in [false, true] {
            let mut rib = Rib::new();
            (0..3).for_each(|round| fill_and_empty(&mut rib, watched, round));
            assert!(rib.tables[0].slots() < 100, "slots are used again");
        }
    }

    fn fill_and_empty(rib: &mut Rib, watched: bool, round: usize) {
        let own = BTreeMap::from([("10.7.0.0/16".parse().unwrap(), Originated::default())]);
        rib.configure(addr_of_us(), &own, &["10.0.0.0/24".parse().unwrap()], 2);
        (1..=3).for_each(|last| rib.up(addr(last), peer(last)));
        fill(rib, watched);
        assert!(sizes(rib).iter().all(|size| *size > 0));
        if round == 1 {
            (1..=3).for_each(|last| rib.down(addr(last), &BTreeSet::from(Family::ALL)));
            (1..=3).for_each(|last| rib.up(addr(last), peer(last)));
            (1..=3).for_each(|last| rib.sweep(addr(last), Family::Ipv4));
            (1..=3).for_each(|last| hear(rib, last));
            while watched && !rib.changed(100).is_empty() {}
            assert_eq!(sizes(rib)[0], 1, "our own route is");
            let said = update(1, 7, 1);
            let withdrawn = said.reach[0].prefixes.clone();
            for update in [said, Update { withdrawn, ..Update::default() }] {
                (1..=3).for_each(|last| {
                    rib.update(addr(last), update.clone());
                });
                (1..=3).for_each(|last| hear(rib, last));
            }
            while watched && !rib.changed(100).is_empty() {}
            assert_eq!(sizes(rib)[0], 1, "all have heard that the other is gone");
        }
        rib.configure(addr_of_us(), &BTreeMap::new(), &[], 2);
        (1..=3).for_each(|last| rib.down(addr(last), &BTreeSet::new()));
        while watched && !rib.changed(100).is_empty() {}
        assert_eq!(sizes(rib), [0; 4], "round {round}");
    }

    fn addr_of_us() -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 100)
    }
}
