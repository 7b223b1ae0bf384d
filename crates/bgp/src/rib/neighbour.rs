//! Neighbours come and go, and what they said with them, or later.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    Counts, Peer, Rib,
    path::Path,
    peers::{Known, Who},
    rib::Edit,
};
use crate::{attrs::Family, config::Neighbour, wire::Agreed};

impl Rib {
    /// Filters, `routes_max`, communities or `own_only` of a neighbour that stays up have changed. What
    /// concerns its routes takes effect on what it says from now on (the caller asks it for a
    /// refresh), what concerns those that it is told at once.
    pub fn reconfigure(&mut self, peer: IpAddr, config: &Neighbour) {
        let known = self.peers.find(peer).and_then(|peer| self.peers.get_mut(peer));
        let Some(known) = known else { return };
        let Some(up) = &mut known.up else { return };
        if up.config != *config {
            Arc::make_mut(up).config = config.clone();
            known.look_again();
        }
    }

    /// A session is established: it is to be told everything. Stale routes that it said before stay
    /// until `sweep`.
    pub fn up(&mut self, peer: IpAddr, of: Peer) {
        let who = Who::of(peer, &of);
        let id = self.peers.find_or_make(who);
        self.forget_told(id);
        let Some(known) = self.peers.get_mut(id) else { return };
        let differs = known.who != who && known.taken != [0, 0];
        known.who = who;
        known.up = Some(Arc::new(of));
        known.refused.clear();
        known.look_again();
        self.peers.learn_own_addrs();
        if differs {
            self.decide_again(|_, path| path.is_of(id));
        }
    }

    /// Its session has ended. Routes of the families in `keep` become stale and stay, those that were
    /// stale already go (RFC 4724, 4.2); the rest go now.
    pub fn down(&mut self, peer: IpAddr, keep: &BTreeSet<Family>) {
        let Some(id) = self.peers.find(peer) else { return };
        if let Some(known) = self.peers.get_mut(id) {
            known.up = None;
        }
        self.forget_told(id);
        for family in Family::ALL {
            let kept = keep.contains(&family);
            self.change_paths(family, id, |path| {
                if kept && !path.is_stale() { Some(path.stale()) } else { None }
            });
        }
        self.peers.learn_own_addrs();
        self.forget_if_gone(id);
        self.settle();
    }

    /// All its routes of the family are stale until said again (RFC 7313, 4).
    pub fn stale(&mut self, peer: IpAddr, family: Family) {
        let Some(id) = self.peers.find(peer) else { return };
        self.change_paths(family, id, |path| Some(path.stale()));
        self.settle();
    }

    /// What is still stale of its routes goes.
    pub fn sweep(&mut self, peer: IpAddr, family: Family) {
        let Some(id) = self.peers.find(peer) else { return };
        let none = |known: &Known| known.stale[family as usize] == 0;
        if self.peers.get(id).is_none_or(none) {
            return;
        }
        self.change_paths(family, id, |path| (!path.is_stale()).then_some(path));
        self.forget_if_gone(id);
        self.settle();
    }

    pub fn counts(&self, peer: IpAddr) -> Counts {
        let known = self.peers.find(peer).and_then(|id| self.peers.get(id));
        let Some(known) = known else { return Counts::default() };
        let by_family = |count: &dyn Fn(usize) -> u32| {
            let counts = Family::ALL.map(|family| (family, count(family as usize)));
            counts.into_iter().filter(|(_, count)| *count > 0).collect()
        };
        let refused = known.refused.iter().map(|(why, count)| (why.reason().to_owned(), *count));
        Counts {
            taken: by_family(&|family| known.taken[family]),
            stale: by_family(&|family| known.stale[family]),
            told: by_family(&|family| known.out[family].count),
            refused: refused.collect(),
        }
    }

    /// Each of its paths becomes what is answered; none: it goes.
    fn change_paths(&mut self, family: Family, peer: u32, into: impl Fn(Path) -> Option<Path>) {
        for slot in 0..self.table(family).slots() {
            let Some(old) = self.table(family).path_of(slot, peer) else { continue };
            match into(old) {
                Some(new) if new == old => {}
                Some(new) => {
                    self.routes.keep(new.route, 1);
                    self.change(family, slot, Edit::Set(new));
                }
                None => self.change(family, slot, Edit::RemoveOf(old)),
            }
        }
    }

    fn forget_told(&mut self, id: u32) {
        for family in Family::ALL {
            let Some(known) = self.peers.get_mut(id) else { return };
            for slot in known.out[family as usize].drain() {
                self.release_if_unused(family, slot);
            }
        }
    }

    pub(super) fn forget_if_gone(&mut self, id: u32) {
        let gone = |known: &Known| known.up.is_none() && known.taken == [0, 0];
        if self.peers.get(id).is_some_and(gone) {
            self.peers.forget(id);
        }
    }
}

impl Known {
    pub(super) fn look_again(&mut self) {
        let Some(peer) = &self.up else { return };
        for family in Family::ALL.into_iter().filter(|family| peer.agreed.speaks(*family)) {
            self.out[family as usize].look_again();
        }
    }
}

impl Agreed {
    pub(super) fn speaks(&self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}
