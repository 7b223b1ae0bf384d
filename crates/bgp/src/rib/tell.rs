//! What is pending for a neighbour becomes messages when it is asked for, and not before: so a prefix
//! that changes ten times in between is said once, and one that is as it was not at all.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    Peer, Rib,
    best::Known,
    export::{may_tell, route_for},
    out::Told,
    path::Path,
    peers::Who,
};
use crate::{
    attrs::Family,
    wire::{self, Message, Packer, Refresh, RouteRefresh, Update},
};

/// Prefixes that are looked at together, so that those with the same attributes share messages: at
/// least and at most so many, in between as many as the shortest ones fill the buffer.
const TOGETHER: std::ops::RangeInclusive<usize> = 64..=8192;
const PREFIX_BYTES: usize = 4;

/// A neighbour, and what of it is asked for each prefix.
struct Listener {
    id: u32,
    who: Who,
    peer: Arc<Peer>,
    family: Family,
}

impl Rib {
    /// It asked for all routes of the family again. With `marked`, BoRR and EoRR stand around them
    /// (RFC 7313).
    pub fn refresh(&mut self, peer: IpAddr, family: Family, marked: bool) {
        let Some(listener) = self.listener(peer, family) else { return };
        let Some(known) = self.peers.get_mut(listener.id) else { return };
        for route in known.out[family as usize].again(marked) {
            self.routes.drop(route, &mut self.hops);
        }
    }

    /// Once all routes that there are now were said, End-of-RIB follows, when this was asked.
    pub fn end_of_rib(&mut self, peer: IpAddr, family: Family) {
        let Some(listener) = self.listener(peer, family) else { return };
        if let Some(known) = self.peers.get_mut(listener.id) {
            known.out[family as usize].end_of_rib();
        }
    }

    /// True if `outgoing` has something to look at; it may find then that nothing is to be said.
    pub fn has_outgoing(&self, peer: IpAddr) -> bool {
        let known = self.peers.find(peer).and_then(|id| self.peers.get(id));
        known.is_some_and(|known| {
            known.up.is_some() && !known.out.iter().all(super::out::Out::is_idle)
        })
    }

    /// Adds whole messages for the neighbour to the buffer, up to about `most` bytes (at most one
    /// message more), and answers their number. Nothing is added only if nothing is to be said.
    pub fn outgoing(&mut self, peer: IpAddr, buffer: &mut Vec<u8>, most: usize) -> u64 {
        let end = buffer.len() + most;
        let mut messages = 0;
        for family in Family::ALL {
            let Some(listener) = self.listener(peer, family) else { continue };
            while buffer.len() < end && !self.is_idle(&listener) {
                messages += self.say(&listener, buffer, end);
            }
        }
        messages
    }

    fn listener(&self, peer: IpAddr, family: Family) -> Option<Listener> {
        let id = self.peers.find(peer)?;
        let known = self.peers.get(id)?;
        let peer = known.up.clone().filter(|peer| peer.agreed.speaks(family))?;
        Some(Listener { id, who: known.who, peer, family })
    }

    fn is_idle(&self, to: &Listener) -> bool {
        self.peers.get(to.id).is_none_or(|known| known.out[to.family as usize].is_idle())
    }

    fn say(&mut self, to: &Listener, buffer: &mut Vec<u8>, end: usize) -> u64 {
        let (family, slots) = (to.family, self.table(to.family).slots());
        let Some(known) = self.peers.get_mut(to.id) else { return 0 };
        let out = &mut known.out[family as usize];
        if out.begins() {
            return to.write_refresh(Refresh::Begin, buffer);
        }
        let room = end.saturating_sub(buffer.len()) / PREFIX_BYTES;
        let pending = out.take(room.clamp(*TOGETHER.start(), *TOGETHER.end()), slots);
        if pending.is_empty() {
            let ends = out.ends();
            let rib = if ends.rib { to.write_end_of_rib(buffer) } else { 0 };
            return rib + if ends.refresh { to.write_refresh(Refresh::End, buffer) } else { 0 };
        }
        let (gone, mut said) = self.compare(to, pending);
        said.sort_unstable();
        let messages = self.say_gone(to, &gone, buffer, end);
        messages + self.say_routes(to, &said, buffer, end)
    }

    /// Prefixes that it is to forget; and those that it is to hear, with the numbers of routes, of
    /// which one use each is taken.
    fn compare(&mut self, to: &Listener, pending: Vec<u32>) -> (Vec<u32>, Vec<(u32, u32)>) {
        let (mut gone, mut said) = (Vec::new(), Vec::new());
        let mut routes: HashMap<(u32, u32), Option<u32>> = HashMap::new();
        for slot in pending {
            let best = self.best(to.family, slot).filter(|best| self.passes(to, slot, *best));
            let new = best.and_then(|best| {
                let key = (best.peer(), best.route);
                *routes.entry(key).or_insert_with(|| self.route_for(to, best))
            });
            let known = self.peers.get(to.id);
            let old = known.and_then(|known| known.out[to.family as usize].told(slot));
            match (old, new) {
                (Some(Told::Route(old)), Some(new)) if old == new => {}
                (_, Some(new)) => {
                    self.routes.keep(new, 1);
                    said.push((new, slot));
                }
                (Some(_), None) => gone.push(slot),
                (None, None) => {}
            }
        }
        for route in routes.into_values().flatten() {
            self.routes.drop(route, &mut self.hops);
        }
        (gone, said)
    }

    fn passes(&self, to: &Listener, slot: u32, best: Path) -> bool {
        let known: Known<'_> = self.known();
        let (reach, own_only) = (known.facts(best).reach, to.peer.config.own_only);
        may_tell(best, known.who(best), reach, &to.who, own_only)
            && to.peer.config.export.passes(&self.table(to.family).prefix(slot))
    }

    fn route_for(&mut self, to: &Listener, best: Path) -> Option<u32> {
        let (attrs, next_hop) =
            route_for(&self.known(), best, to.family, &to.who, &to.peer, self.router_id)?;
        // RFC 4271, 9.2: what does not fit into a message is not said.
        Packer::announce(&attrs, next_hop, to.family, &to.peer.agreed).ok()?;
        Some(self.routes.take(&attrs, next_hop))
    }

    fn say_gone(&mut self, to: &Listener, gone: &[u32], buffer: &mut Vec<u8>, end: usize) -> u64 {
        let mut messages = 0;
        let mut left = gone.iter().copied().peekable();
        while left.peek().is_some() && buffer.len() < end {
            let mut packer = Packer::withdraw(to.family);
            while let Some(slot) =
                left.next_if(|slot| packer.add(&self.table(to.family).prefix(*slot)))
            {
                self.told(to, slot, None);
                self.release_if_unused(to.family, slot);
            }
            packer.finish(buffer);
            messages += 1;
        }
        self.put_back(to, left);
        messages
    }

    fn say_routes(
        &mut self,
        to: &Listener,
        said: &[(u32, u32)],
        buffer: &mut Vec<u8>,
        end: usize,
    ) -> u64 {
        let mut messages = 0;
        let mut left = said.iter().copied().peekable();
        while let Some((route, _)) = left.peek().copied()
            && buffer.len() < end
        {
            let (attrs, next_hop) = self.routes.get(route);
            let packer = Packer::announce(&attrs, next_hop, to.family, &to.peer.agreed);
            let mut packer = packer.expect("it did fit when the route was made");
            while let Some((_, slot)) = left.next_if(|(other, slot)| {
                *other == route && packer.add(&self.table(to.family).prefix(*slot))
            }) {
                self.told(to, slot, Some(route));
            }
            packer.finish(buffer);
            messages += 1;
        }
        let left: Vec<_> = left.collect();
        for (route, _) in &left {
            self.routes.drop(*route, &mut self.hops);
        }
        self.put_back(to, left.into_iter().map(|(_, slot)| slot));
        messages
    }

    fn told(&mut self, to: &Listener, slot: u32, route: Option<u32>) {
        let Some(known) = self.peers.get_mut(to.id) else { return };
        if let Some(old) = known.out[to.family as usize].tell(slot, route) {
            self.routes.drop(old, &mut self.hops);
        }
    }

    fn put_back(&mut self, to: &Listener, slots: impl Iterator<Item = u32>) {
        let Some(known) = self.peers.get_mut(to.id) else { return };
        slots.for_each(|slot| known.out[to.family as usize].put_back(slot));
    }
}

impl Listener {
    fn write_refresh(&self, kind: Refresh, buffer: &mut Vec<u8>) -> u64 {
        let message = Message::RouteRefresh(RouteRefresh { family: self.family, kind });
        wire::write(&message, &self.peer.agreed, buffer);
        1
    }

    fn write_end_of_rib(&self, buffer: &mut Vec<u8>) -> u64 {
        let update = Update { end_of_rib: Some(self.family), ..Update::default() };
        wire::write(&Message::Update(update), &self.peer.agreed, buffer);
        1
    }
}
