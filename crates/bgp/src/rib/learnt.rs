//! What the tables say to who installs routes: where each prefix leads, and what has changed of that.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::{Rib, best::Known, path::Path};
use crate::{
    attrs::Family,
    report::{Learnt, LearntHop},
};

/// What of a prefix's paths `Learnt` is made of: it is equal where that is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Who said so, and the number of the next hop. Most have one.
    first: Option<(u32, u32)>,
    more: Vec<(u32, u32)>,
    leads: bool,
    stale: bool,
    path: u64,
}

impl Said {
    pub fn of(known: &Known<'_>, paths: &[Path]) -> Self {
        match paths {
            [] => Self::default(),
            [only] => Self::of_one(known, *only),
            _ => Self::of_many(known, paths),
        }
    }

    fn of_one(known: &Known<'_>, path: Path) -> Self {
        let Some(hop) = known.hop(path) else { return Self::default() };
        let leads = known.hops.leads(hop);
        let path_hash = known.facts(path).path;
        Self {
            first: Some((path.peer(), hop)),
            more: Vec::new(),
            leads,
            stale: path.is_stale(),
            path: path_hash,
        }
    }

    fn of_many(known: &Known<'_>, paths: &[Path]) -> Self {
        let equal = known.equals_or_any(paths);
        let Some((best, others)) = equal.split_first() else { return Self::default() };
        let more = others.iter().filter_map(|path| Some((path.peer(), known.hop(*path)?)));
        Self { more: more.collect(), ..Self::of_one(known, *best) }
    }
}

/// What of an answer depends on the paths alone, by who said them and what: of a million prefixes
/// few differ in that.
type Ways = HashMap<Vec<(u32, u32)>, Way>;

struct Way {
    hops: Arc<[LearntHop]>,
    why: Option<Arc<str>>,
    as_path: Arc<str>,
}

/// Prefixes whose answer is another than when it was last asked for.
#[derive(Debug)]
pub(super) struct Watch([Pending; 2]);

#[derive(Debug)]
struct Pending {
    /// From this slot on nothing was asked for yet.
    walk: Option<u32>,
    slots: BTreeSet<u32>,
}

impl Watch {
    fn new() -> Self {
        Self(Family::ALL.map(|_| Pending { walk: Some(0), slots: BTreeSet::new() }))
    }

    pub fn mark(&mut self, family: Family, slot: u32) {
        let Pending { walk, slots } = &mut self.0[family as usize];
        if walk.is_none_or(|walk| slot < walk) {
            slots.insert(slot);
        }
    }

    pub fn waits(&self, family: Family, slot: u32) -> bool {
        self.0[family as usize].slots.contains(&slot)
    }

    fn next(&mut self, family: Family, slots: u32) -> Option<u32> {
        let pending = &mut self.0[family as usize];
        pending.slots.pop_first().or_else(|| {
            let slot = pending.walk?;
            pending.walk = Some(slot + 1).filter(|next| *next < slots);
            (slot < slots).then_some(slot)
        })
    }
}

impl Rib {
    /// Counts up whenever `learnt` would answer differently.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The best routes of others, our own aside, by family and prefix.
    pub fn learnt(&self) -> Vec<Learnt> {
        let (mut learnt, mut ways) = (Vec::new(), Ways::default());
        for family in Family::ALL {
            let table = self.table(family);
            let mut slots: Vec<u32> = (0..table.slots()).collect();
            slots.sort_unstable_by_key(|slot| table.key(*slot));
            let of = slots.into_iter().filter_map(|slot| self.learnt_of(family, slot, &mut ways));
            learnt.extend(of);
        }
        learnt
    }

    /// What of `learnt` is another than at the last call, up to `most` prefixes: none: it is not
    /// learnt any more (or again). Empty: nothing is. The first call begins with all there is. From
    /// then on a prefix that went is held until it was asked for, so it is to be called again and again.
    pub fn changed(&mut self, most: usize) -> Vec<(IpNet, Option<Learnt>)> {
        let (mut changed, mut ways) = (Vec::new(), Ways::default());
        self.watch.get_or_insert_with(Watch::new);
        for family in Family::ALL {
            while changed.len() < most
                && let Some(slot) = self.next_changed(family)
            {
                let learnt = self.learnt_of(family, slot, &mut ways);
                if learnt.is_some() || self.table(family).is_there(slot) {
                    changed.push((self.table(family).prefix(slot), learnt));
                }
                self.release_if_unused(family, slot);
            }
        }
        changed
    }

    fn next_changed(&mut self, family: Family) -> Option<u32> {
        let slots = self.tables[family as usize].slots();
        self.watch.as_mut()?.next(family, slots)
    }

    fn learnt_of(&self, family: Family, slot: u32, ways: &mut Ways) -> Option<Learnt> {
        let known = self.known();
        let equal = known.equals_or_any(self.table(family).paths(slot));
        let best = *equal.first().filter(|best| !best.is_own())?;
        let key = equal.iter().map(|path| (path.peer(), path.route)).collect();
        let way = ways.entry(key).or_insert_with(|| self.way_of(&equal, best));
        Some(Learnt {
            prefix: self.table(family).prefix(slot),
            hops: way.hops.clone(),
            why: way.why.clone(),
            stale: best.is_stale(),
            as_path: way.as_path.clone(),
        })
    }

    fn way_of(&self, equal: &[Path], best: Path) -> Way {
        let (attrs, next_hop) = self.routes.get(best.route);
        let hops = self.hops_of(equal);
        let nowhere = || {
            format!("next hop {} is not on-link and no learnt route leads to it", next_hop.addr())
        };
        Way {
            why: hops.is_empty().then(|| nowhere().into()),
            hops: hops.into(),
            as_path: attrs.as_path.to_string().into(),
        }
    }

    fn hops_of(&self, equal: &[Path]) -> Vec<LearntHop> {
        let known = self.known();
        let mut hops: Vec<LearntHop> = Vec::new();
        for path in equal {
            let (Some(hop), Some(from)) = (known.hop(*path), known.who(*path)) else { continue };
            let through = self.hops.said(hop).filter(|_| !self.hops.is_onlink(hop));
            for via in self.hops.vias(hop) {
                if hops.len() < self.paths_max && !hops.iter().any(|hop| hop.via == *via) {
                    hops.push(LearntHop { via: *via, from: from.addr, through });
                }
            }
        }
        hops.sort();
        hops
    }
}

impl Known<'_> {
    /// Those that lead anywhere; where none does, those that would be if all did.
    fn equals_or_any(&self, paths: &[Path]) -> Vec<Path> {
        let usable = self.equals(paths);
        if usable.is_empty() { self.choose(paths.to_vec()) } else { usable }
    }
}
