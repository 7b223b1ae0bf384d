//! What is pending for a neighbour becomes messages when it is asked for, and not before: so a prefix
//! that changes ten times in between is said once, and one that is as it was not at all.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{
    Peer, Rib,
    best::Known,
    export::{may_tell, route_for},
    out::{Out, Said},
    path::Path,
    peers::Who,
};
use crate::{
    attrs::{Attrs, Family, NextHop},
    wire::{self, Message, Packer, Refresh, RouteRefresh, Update},
};

/// Bytes of a message and of a prefix, about: enough are looked at together to fill the buffer, so
/// that those with the same attributes share messages.
const MESSAGE: usize = 64;
const PREFIX: usize = 4;

/// A neighbour, and what of it is asked for each prefix.
struct Listener {
    id: u32,
    who: Who,
    peer: Arc<Peer>,
    family: Family,
}

/// A route as the neighbour is to hear it.
struct Route {
    attrs: Attrs,
    next_hop: NextHop,
    said: Said,
}

/// What is to be said now.
#[derive(Default)]
struct Pending {
    gone: Vec<u32>,
    /// By route, which has its number in `routes`.
    said: Vec<(usize, u32)>,
    routes: Vec<Route>,
    /// The routes of paths that were looked at; none: it is not to hear of them.
    by_path: HashMap<(u32, u32), Option<usize>>,
}

impl Pending {
    fn find(&mut self, path: Path, make: impl FnOnce() -> Option<Route>) -> Option<usize> {
        let routes = &mut self.routes;
        *self.by_path.entry((path.peer(), path.route)).or_insert_with(|| {
            routes.push(make()?);
            Some(routes.len() - 1)
        })
    }

    /// That they take as messages, about.
    fn bytes(&self) -> usize {
        self.routes.len() * MESSAGE + (self.gone.len() + self.said.len()) * PREFIX
    }
}

impl Rib {
    /// It asked for all routes of the family again. With `marked`, BoRR and EoRR stand around them
    /// (RFC 7313).
    pub fn refresh(&mut self, peer: IpAddr, family: Family, marked: bool) {
        let Some(listener) = self.listener(peer, family) else { return };
        if let Some(known) = self.peers.get_mut(listener.id) {
            known.out[family as usize].again(marked);
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
        known.is_some_and(|known| known.up.is_some() && !known.out.iter().all(Out::is_idle))
    }

    /// Adds whole messages for the neighbour to the buffer, up to about `most` bytes (at most one
    /// message more), and answers their number. Nothing is added only if nothing is to be said.
    pub fn outgoing(&mut self, peer: IpAddr, buffer: &mut Vec<u8>, most: usize) -> u64 {
        let end = buffer.len() + most;
        let mut messages = 0;
        let known = self.peers.find(peer).and_then(|id| self.peers.get_mut(id));
        for family in known.map(|known| known.first.next()).into_iter().flatten() {
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
        let Some(out) = self.out(to) else { return 0 };
        if out.begins() {
            return to.write_refresh(Refresh::Begin, buffer);
        }
        let room = end.saturating_sub(buffer.len());
        let Some(pending) = self.compare(to, room) else {
            let ends = self.out(to).map(Out::ends).unwrap_or_default();
            let rib = if ends.rib { to.write_end_of_rib(buffer) } else { 0 };
            return rib + if ends.refresh { to.write_refresh(Refresh::End, buffer) } else { 0 };
        };
        let messages = self.say_gone(to, &pending.gone, buffer, end);
        messages + self.say_routes(to, &pending, buffer, end)
    }

    fn out(&mut self, to: &Listener) -> Option<&mut Out> {
        self.peers.get_mut(to.id).map(|known| &mut known.out[to.family as usize])
    }

    /// Looks at what is pending until it fills about so many bytes; none: nothing is pending.
    fn compare(&mut self, to: &Listener, room: usize) -> Option<Pending> {
        let slots = self.table(to.family).slots();
        let mut pending = Pending::default();
        let mut looked = false;
        while pending.bytes() < room
            && let Some(slot) = self.out(to)?.next(slots)
        {
            looked = true;
            let best = self.best(to.family, slot).filter(|best| self.passes(to, slot, *best));
            let new = best.and_then(|best| pending.find(best, || self.route_for(to, best)));
            let old = self.out(to)?.told(slot);
            match new {
                None if old.is_some() => pending.gone.push(slot),
                Some(new) if old != Some(pending.routes[new].said) => {
                    pending.said.push((new, slot))
                }
                _ => {}
            }
        }
        pending.said.sort_unstable();
        looked.then_some(pending)
    }

    fn passes(&self, to: &Listener, slot: u32, best: Path) -> bool {
        let known: Known<'_> = self.known();
        let (reach, own_only) = (known.facts(best).reach, to.peer.config.own_only);
        may_tell(best, known.who(best), reach, &to.who, own_only)
            && to.peer.config.export.passes(&self.table(to.family).prefix(slot))
    }

    fn route_for(&self, to: &Listener, best: Path) -> Option<Route> {
        let (attrs, next_hop) =
            route_for(&self.known(), best, to.family, &to.who, &to.peer, self.router_id)?;
        // RFC 4271, 9.2: what does not fit into a message is not said.
        Packer::announce(&attrs, next_hop, to.family, &to.peer.agreed).ok()?;
        let said = Said::of(self.routes.hash(&attrs, next_hop));
        Some(Route { attrs, next_hop, said })
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
        pending: &Pending,
        buffer: &mut Vec<u8>,
        end: usize,
    ) -> u64 {
        let mut messages = 0;
        let mut left = pending.said.iter().copied().peekable();
        while let Some((at, _)) = left.peek().copied()
            && buffer.len() < end
        {
            let Route { attrs, next_hop, said } = &pending.routes[at];
            let packer = Packer::announce(attrs, *next_hop, to.family, &to.peer.agreed);
            let mut packer = packer.expect("it did fit when the route was made");
            while let Some((_, slot)) = left.next_if(|(other, slot)| {
                *other == at && packer.add(&self.table(to.family).prefix(*slot))
            }) {
                self.told(to, slot, Some(*said));
            }
            packer.finish(buffer);
            messages += 1;
        }
        self.put_back(to, left.map(|(_, slot)| slot));
        messages
    }

    fn told(&mut self, to: &Listener, slot: u32, said: Option<Said>) {
        if let Some(out) = self.out(to) {
            out.tell(slot, said);
        }
    }

    fn put_back(&mut self, to: &Listener, slots: impl Iterator<Item = u32>) {
        if let Some(out) = self.out(to) {
            slots.for_each(|slot| out.put_back(slot));
        }
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
