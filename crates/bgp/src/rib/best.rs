//! Which of a prefix's paths is best (RFC 4271, 9.1.2.2), and which are as good (ECMP). All paths are
//! taken at once and those that lose at each step are left out, so that the answer does not depend
//! on the order in which they came, MED included.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use super::{
    hops::Hops,
    path::Path,
    peers::{Peers, Who},
    routes::{Facts, NO_HOP, Routes},
};

/// What a choice asks.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub routes: &'a Routes,
    pub hops: &'a Hops,
    pub peers: &'a Peers,
    pub paths_max: usize,
}

impl<'a> Known<'a> {
    pub fn facts(&self, path: Path) -> &'a Facts {
        self.routes.facts(path.route)
    }

    /// None: it is our own.
    pub fn who(&self, path: Path) -> Option<&'a Who> {
        self.peers.who(path.peer())
    }

    /// The next hop's number; none: the path is our own.
    pub fn hop(&self, path: Path) -> Option<u32> {
        let hop = self.facts(path).hop;
        (!path.is_own() && hop != NO_HOP).then_some(hop)
    }

    /// RFC 4271, 9.1.2.1: a path whose next hop leads nowhere takes no part.
    pub fn is_usable(&self, path: Path) -> bool {
        path.is_own() || self.hop(path).is_some_and(|hop| self.hops.leads(hop))
    }

    pub fn vias(&self, path: Path) -> &'a [IpAddr] {
        self.hop(path).map_or(&[], |hop| self.hops.vias(hop))
    }

    /// The best paths that lead anywhere, the very best first; one of our own stands alone.
    pub fn equals(&self, paths: &[Path]) -> Vec<Path> {
        let usable = paths.iter().copied().filter(|path| self.is_usable(*path));
        self.choose(usable.collect())
    }

    pub fn best(&self, paths: &[Path]) -> Option<Path> {
        match paths {
            [only] => self.is_usable(*only).then_some(*only),
            _ => self.equals(paths).first().copied(),
        }
    }

    /// Where the best of them lead.
    pub fn distinct_vias(&self, paths: &[Path]) -> Vec<IpAddr> {
        let mut distinct = Vec::new();
        for path in self.equals(paths) {
            for via in self.vias(path) {
                if distinct.len() < self.paths_max && !distinct.contains(via) {
                    distinct.push(*via);
                }
            }
        }
        distinct
    }

    /// Those of them that are equal through the preference of on-link next hops, in the order of
    /// what breaks the tie.
    pub fn choose(&self, mut left: Vec<Path>) -> Vec<Path> {
        if left.len() < 2 {
            return left;
        }
        if let Some(own) = left.iter().find(|path| path.is_own()) {
            return vec![*own];
        }
        keep_least(&mut left, |path| {
            let facts = self.facts(path);
            (Reverse(facts.local_pref), facts.path_len, facts.origin)
        });
        self.keep_least_med(&mut left);
        keep_least(&mut left, |path| (!self.is_external(path), !self.is_onlink(path)));
        left.sort_by_cached_key(|path| self.tie_breakers(*path));
        left
    }

    /// Among paths of the same neighbouring AS alone.
    fn keep_least_med(&self, left: &mut Vec<Path>) {
        let mut least: BTreeMap<u32, u32> = BTreeMap::new();
        for path in left.iter() {
            let facts = self.facts(*path);
            let med = least.entry(facts.neighbour_as).or_insert(facts.med);
            *med = facts.med.min(*med);
        }
        left.retain(|path| {
            let facts = self.facts(*path);
            least.get(&facts.neighbour_as) == Some(&facts.med)
        });
    }

    fn is_external(&self, path: Path) -> bool {
        self.who(path).is_some_and(|who| who.external)
    }

    /// What stands for the cost of the way to the next hop (RFC 4271, 9.1.2.2 e).
    fn is_onlink(&self, path: Path) -> bool {
        self.hop(path).is_some_and(|hop| self.hops.is_onlink(hop))
    }

    /// Fresh before stale; then RFC 4271, 9.1.2.2 f and g with RFC 4456, 9.
    fn tie_breakers(&self, path: Path) -> (bool, Ipv4Addr, u16, Option<IpAddr>) {
        let (facts, who) = (self.facts(path), self.who(path));
        let router_id = who.map_or(Ipv4Addr::UNSPECIFIED, |who| who.router_id);
        let id = facts.originator().unwrap_or(router_id);
        (path.is_stale(), id, facts.clusters, who.map(|who| who.addr))
    }
}

fn keep_least<T: Ord>(left: &mut Vec<Path>, measure: impl Fn(Path) -> T) {
    if let Some(least) = left.iter().map(|path| measure(*path)).min() {
        left.retain(|path| measure(*path) == least);
    }
}
