//! Next hops that neighbours said, and where they lead: on-link as they are, or through the longest
//! learnt route that covers them, which may lead through another. Depends on which paths there are
//! and on what is connected, never on which path is best: so the choice of best paths, which depends
//! on it, can't go in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    best::Known,
    path::Path,
    peers::Peers,
    routes::Routes,
    table::{Key, Table, bits},
};
use crate::attrs::Family;

/// A route leads to a next hop through at most so many others.
const DEPTH: usize = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    uses: u32,
    /// None: this one is free.
    said: Option<IpAddr>,
    onlink: bool,
    /// On-link addresses; none: it leads nowhere.
    vias: Vec<IpAddr>,
    /// The round in which this was found, at the latest.
    round: usize,
}

#[derive(Debug, Default)]
pub(super) struct Hops {
    list: Vec<Hop>,
    free: Vec<u32>,
    by_said: BTreeMap<IpAddr, u32>,
    /// Those that are not on-link, by address, so that a route that covers one is noticed.
    far: BTreeSet<(Family, u128, u32)>,
    connected: Vec<IpNet>,
    /// New far ones, that are not resolved yet.
    fresh: Vec<u32>,
    /// A route that covers a far one has changed.
    shaken: bool,
}

impl Hops {
    pub fn take(&mut self, said: IpAddr) -> u32 {
        let id = match self.by_said.get(&said) {
            Some(id) => *id,
            None => self.add(said),
        };
        self.list[id as usize].uses += 1;
        id
    }

    pub fn drop(&mut self, id: u32) {
        let hop = &mut self.list[id as usize];
        hop.uses -= 1;
        if hop.uses > 0 {
            return;
        }
        let gone = std::mem::take(hop);
        if let Some(said) = gone.said {
            self.by_said.remove(&said);
            self.far.remove(&far_key(said, id));
        }
        self.fresh.retain(|other| *other != id);
        self.free.push(id);
    }

    pub fn leads(&self, id: u32) -> bool {
        !self.list[id as usize].vias.is_empty()
    }

    pub fn is_onlink(&self, id: u32) -> bool {
        self.list[id as usize].onlink
    }

    pub fn vias(&self, id: u32) -> &[IpAddr] {
        &self.list[id as usize].vias
    }

    pub fn said(&self, id: u32) -> Option<IpAddr> {
        self.list[id as usize].said
    }

    /// The paths of a prefix have changed: does anything here lead through it?
    pub fn notice(&mut self, family: Family, key: Key) {
        if self.far.is_empty() || self.shaken {
            return;
        }
        let inside = (family, key.bits, 0)..=(family, key.last(), u32::MAX);
        self.shaken = self.far.range(inside).next().is_some();
    }

    pub fn connect(&mut self, connected: &[IpNet]) {
        if self.connected == connected {
            return;
        }
        self.connected = connected.to_vec();
        self.shaken = true;
    }

    /// As many paths as one route may have has changed, and so may where those lead that are far.
    pub fn shake(&mut self) {
        self.shaken = true;
    }

    #[cfg(test)]
    pub fn len(&self) -> u32 {
        u32::try_from((self.list.len() - self.free.len()).max(self.far.len())).unwrap()
    }

    /// True if `resolve` has something to do.
    pub fn is_unsettled(&self) -> bool {
        self.shaken || !self.fresh.is_empty()
    }

    fn add(&mut self, said: IpAddr) -> u32 {
        let hop = Hop { uses: 0, said: Some(said), ..self.place(said) };
        let far = !hop.onlink;
        let id = match self.free.pop() {
            Some(id) => {
                self.list[id as usize] = hop;
                id
            }
            None => {
                self.list.push(hop);
                u32::try_from(self.list.len() - 1).expect("fewer than there are routes")
            }
        };
        self.by_said.insert(said, id);
        if far {
            self.far.insert(far_key(said, id));
            self.fresh.push(id);
        }
        id
    }

    fn place(&self, addr: IpAddr) -> Hop {
        let onlink = is_link_local(addr) || self.connected.iter().any(|net| net.contains(&addr));
        Hop { onlink, vias: if onlink { vec![addr] } else { Vec::new() }, ..Hop::default() }
    }
}

fn far_key(addr: IpAddr, id: u32) -> (Family, u128, u32) {
    (Family::of(&addr.into()), bits(addr), id)
}

fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// Finds out where next hops lead, as the tables are now; answers those of which that has changed,
/// the ones that are new aside.
pub(super) fn resolve(
    hops: &mut Hops,
    tables: &[Table; 2],
    routes: &Routes,
    peers: &Peers,
    paths_max: usize,
) -> BTreeSet<u32> {
    let fresh = std::mem::take(&mut hops.fresh);
    let look = Look { tables, routes, peers, paths_max };
    if !hops.shaken && look.fresh(hops, &fresh) {
        return BTreeSet::new();
    }
    hops.shaken = false;
    let before = hops.list.clone();
    replace(hops);
    (1..=DEPTH).all(|round| look.round(hops, round));
    let differs = |(id, (old, new)): (u32, (&Hop, &Hop))| {
        ((&old.vias, old.onlink) != (&new.vias, new.onlink)).then_some(id)
    };
    (0..).zip(before.iter().zip(&hops.list)).filter_map(differs).collect()
}

/// All as they are without any route.
fn replace(hops: &mut Hops) {
    hops.far.clear();
    for (said, id) in hops.by_said.clone() {
        let placed = hops.place(said);
        if !placed.onlink {
            hops.far.insert(far_key(said, id));
        }
        let hop = &mut hops.list[id as usize];
        *hop = Hop { uses: hop.uses, said: hop.said, ..placed };
    }
}

struct Look<'a> {
    tables: &'a [Table; 2],
    routes: &'a Routes,
    peers: &'a Peers,
    paths_max: usize,
}

impl Look<'_> {
    /// New ones alone: nothing leads through a path that has one of them, or that would have been
    /// noticed. False if the whole has to be looked at, because it is too deep.
    fn fresh(&self, hops: &mut Hops, fresh: &[u32]) -> bool {
        let found: Vec<_> = fresh.iter().map(|id| self.vias(hops, *id)).collect();
        let shallow = found.iter().all(|(_, round)| *round < DEPTH);
        for (id, (vias, round)) in fresh.iter().zip(found) {
            let hop = &mut hops.list[*id as usize];
            (hop.vias, hop.round) = (vias, round + 1);
        }
        shallow
    }

    /// Each far one once, by what the round before found; true if that changed something.
    fn round(&self, hops: &mut Hops, round: usize) -> bool {
        let far: Vec<u32> = hops.far.iter().map(|(_, _, id)| *id).collect();
        let found: Vec<_> = far.iter().map(|id| self.vias(hops, *id).0).collect();
        let mut changed = false;
        for (id, vias) in far.into_iter().zip(found) {
            let hop = &mut hops.list[id as usize];
            if hop.vias != vias {
                (hop.vias, hop.round, changed) = (vias, round, true);
            }
        }
        changed
    }

    /// Those of the longest route that covers it and leads anywhere, other than through itself; and
    /// the latest round of what was asked for that.
    fn vias(&self, hops: &Hops, id: u32) -> (Vec<IpAddr>, usize) {
        let Some(addr) = hops.said(id) else { return (Vec::new(), 0) };
        let table = &self.tables[Family::of(&addr.into()) as usize];
        let known =
            Known { routes: self.routes, hops, peers: self.peers, paths_max: self.paths_max };
        let mut round = 0;
        for slot in table.covering(addr) {
            let elsewhere = |path: &Path| known.hop(*path).is_some_and(|hop| hop != id);
            let paths: Vec<_> = table.paths(slot).iter().copied().filter(elsewhere).collect();
            let asked = paths.iter().filter_map(|path| known.hop(*path));
            round = asked.map(|hop| hops.list[hop as usize].round).fold(round, usize::max);
            let vias = known.distinct_vias(&paths);
            if !vias.is_empty() {
                return (vias, round);
            }
        }
        (Vec::new(), round)
    }
}
