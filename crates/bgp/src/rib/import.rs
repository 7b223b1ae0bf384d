//! What a neighbour says: taken, or refused with the reason.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Rib, Taken,
    path::Path,
    peers::Known,
    refusal::{self, Refusal},
    rib::Edit,
    table::Key,
};
use crate::{
    attrs::{Attrs, Family},
    wire::{Reach, Update},
};

impl Rib {
    pub fn update(&mut self, peer: IpAddr, update: Update) -> Taken {
        let up = |id: &u32| self.peers.get(*id).is_some_and(|known| known.up.is_some());
        let Some(id) = self.peers.find(peer).filter(up) else { return Taken::default() };
        for prefix in &update.withdrawn {
            self.withdraw(id, prefix);
        }
        let mut taken = Taken::default();
        if let Some(attrs) = &update.attrs {
            let mut reach = update.reach.iter();
            taken.too_many = reach.find_map(|reach| self.announce(id, attrs, reach));
        }
        self.settle();
        taken
    }

    /// Answers the family of which it said too many.
    fn announce(&mut self, peer: u32, attrs: &Attrs, reach: &Reach) -> Option<Family> {
        if let Some(why) = self.refuses(peer, attrs, reach) {
            reach.prefixes.iter().for_each(|prefix| self.refuse(peer, prefix, why));
            return None;
        }
        let route = self.routes.take_said(attrs, reach.next_hop, &mut self.hops);
        self.settle();
        let path = Path::of(peer, route);
        let too_many = reach.prefixes.iter().find_map(|prefix| self.take(path, prefix));
        self.routes.drop(route, &mut self.hops);
        too_many
    }

    fn refuses(&self, peer: u32, attrs: &Attrs, reach: &Reach) -> Option<Refusal> {
        let from = self.peers.get(peer)?;
        let of_attrs = refusal::of_attrs(attrs, from, self.router_id);
        of_attrs.or_else(|| refusal::of_next_hop(reach.next_hop, &self.peers))
    }

    /// Answers the family if there is no room for it.
    fn take(&mut self, path: Path, prefix: &IpNet) -> Option<Family> {
        let from = self.peers.get(path.peer())?;
        if let Some(why) = refusal::of_prefix(prefix, from) {
            self.refuse(path.peer(), prefix, why);
            return None;
        }
        let family = Family::of(prefix);
        let full = is_full(from, family);
        let slot = self.tables[family as usize].find_or_make(Key::of(prefix));
        match self.table(family).path_of(slot, path.peer()) {
            Some(old) if old == path => return None,
            Some(old) if !old.is_stale() => {}
            _ if full => {
                self.release_if_unused(family, slot);
                return Some(family);
            }
            _ => {}
        }
        self.routes.keep(path.route, 1);
        self.change(family, slot, Edit::Set(path));
        None
    }

    /// What it said of the prefix before does not hold any more either.
    fn refuse(&mut self, peer: u32, prefix: &IpNet, why: Refusal) {
        if let Some(known) = self.peers.get_mut(peer) {
            *known.refused.entry(why).or_default() += 1;
        }
        self.withdraw(peer, prefix);
    }

    fn withdraw(&mut self, peer: u32, prefix: &IpNet) {
        let family = Family::of(prefix);
        let Some(slot) = self.table(family).find(Key::of(prefix)) else { return };
        if let Some(old) = self.table(family).path_of(slot, peer) {
            self.change(family, slot, Edit::RemoveOf(old));
        }
    }
}

/// Those that are stale may be said again, and don't count.
fn is_full(from: &Known, family: Family) -> bool {
    let at = family as usize;
    let most = from.up.as_ref().map(|peer| peer.config.routes_max);
    most.is_some_and(|most| from.taken[at] - from.stale[at] >= most)
}
