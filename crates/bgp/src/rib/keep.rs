//! What neighbours said, as bytes for whoever comes after us: for each neighbour who it is, then its
//! routes as UPDATE messages, as if all sessions had agreed on everything. Each has a sum of its own,
//! so that what is damaged is left out and the others are not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Rib, path::Path, peers::Who, rib::Edit, table::Key};
use crate::{
    attrs::Family,
    wire::{self, Agreed, Frames, Message, Packer, Update},
};

const MAGIC: &[u8] = b"weft routes 1\n";

impl Rib {
    /// What neighbours said, in the form of their UPDATE messages, for `restore`.
    pub fn keep(&self) -> Vec<u8> {
        let mut kept = MAGIC.to_vec();
        let routes = Family::ALL.map(|family| self.routes_by_peer(family));
        for (id, known) in self.peers.all().filter(|(_, known)| known.taken != [0, 0]) {
            let mut part = Vec::new();
            put_who(&known.who, &mut part);
            let agreed = agreed_with(&known.who);
            for (family, routes) in Family::ALL.into_iter().zip(&routes) {
                let first = routes.partition_point(|(peer, ..)| *peer < id);
                let end = routes.partition_point(|(peer, ..)| *peer <= id);
                self.put_routes(family, &routes[first..end], &agreed, &mut part);
            }
            put_part(&part, &mut kept);
        }
        kept
    }

    /// Takes what `keep` gave as stale routes of neighbours that are yet to come up; says whose. What
    /// can't be read is left out.
    pub fn restore(&mut self, kept: &[u8]) -> BTreeMap<IpAddr, BTreeSet<Family>> {
        let mut whose: BTreeMap<IpAddr, BTreeSet<Family>> = BTreeMap::new();
        let parts = Parts(kept.strip_prefix(MAGIC).unwrap_or_default());
        for part in parts {
            if let Some((addr, families)) = self.restore_one(part) {
                whose.entry(addr).or_default().extend(families);
            }
        }
        self.settle();
        whose
    }

    /// Neighbour, route and slot, sorted, so that those with the same attributes share messages.
    fn routes_by_peer(&self, family: Family) -> Vec<(u32, u32, u32)> {
        let table = self.table(family);
        let said = |slot| {
            let paths = table.paths(slot).iter().filter(|path| !path.is_own());
            paths.map(move |path| (path.peer(), path.route, slot))
        };
        let mut routes: Vec<_> = (0..table.slots()).flat_map(said).collect();
        routes.sort_unstable();
        routes
    }

    fn put_routes(
        &self,
        family: Family,
        routes: &[(u32, u32, u32)],
        agreed: &Agreed,
        to: &mut Vec<u8>,
    ) {
        let mut left = routes.iter().peekable();
        while let Some((_, route, _)) = left.peek().copied() {
            let (attrs, next_hop) = self.routes.get(*route);
            let Ok(mut packer) = Packer::announce(&attrs, next_hop, family, agreed) else {
                // It came in a message, and yet there is no room for it in one of ours.
                while left.next_if(|(_, other, _)| other == route).is_some() {}
                continue;
            };
            while left
                .next_if(|(_, other, slot)| {
                    other == route && packer.add(&self.table(family).prefix(*slot))
                })
                .is_some()
            {}
            packer.finish(to);
        }
    }

    fn restore_one(&mut self, part: &[u8]) -> Option<(IpAddr, BTreeSet<Family>)> {
        let mut rest = part;
        let who = read_who(&mut rest)?;
        if self.peers.find(who.addr).is_some() {
            return None;
        }
        let id = self.peers.find_or_make(who);
        let mut frames = Frames::default();
        frames.push(rest);
        while let Ok(Some(message)) = frames.cut() {
            if let Ok(Some(Message::Update(update))) = wire::read(&message, &agreed_with(&who)) {
                self.restore_update(id, &update);
            }
        }
        let known = self.peers.get(id)?;
        let of_it = |family: &Family| known.taken[*family as usize] > 0;
        let families: BTreeSet<Family> = Family::ALL.into_iter().filter(of_it).collect();
        self.forget_if_gone(id);
        (!families.is_empty()).then_some((who.addr, families))
    }

    fn restore_update(&mut self, id: u32, update: &Update) {
        let Some(attrs) = &update.attrs else { return };
        for reach in &update.reach {
            let route = self.routes.take_said(attrs, reach.next_hop, &mut self.hops);
            self.settle();
            for prefix in &reach.prefixes {
                let family = Family::of(prefix);
                let slot = self.tables[family as usize].find_or_make(Key::of(prefix));
                self.routes.keep(route, 1);
                self.change(family, slot, Edit::Set(Path::of(id, route).stale()));
            }
            self.routes.drop(route, &mut self.hops);
        }
    }
}

/// The form of what is kept: that of a session that has agreed on all.
fn agreed_with(who: &Who) -> Agreed {
    Agreed {
        four_octet_as: true,
        ipv4: true,
        ipv6: true,
        ipv4_over_ipv6: true,
        external: who.external,
    }
}

fn put_who(who: &Who, to: &mut Vec<u8>) {
    let addr = match who.addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    };
    to.extend(addr.octets());
    to.extend(who.router_id.octets());
    to.extend(who.local_as.to_be_bytes());
    to.extend(who.remote_as.to_be_bytes());
    to.push(u8::from(who.client));
}

fn read_who(from: &mut &[u8]) -> Option<Who> {
    let addr = Ipv6Addr::from(take::<16>(from)?).to_canonical();
    let router_id = Ipv4Addr::from(take::<4>(from)?);
    let local_as = u32::from_be_bytes(take(from)?);
    let remote_as = u32::from_be_bytes(take(from)?);
    let [client] = take(from)?;
    let external = local_as != remote_as;
    Some(Who { addr, router_id, local_as, remote_as, external, client: client == 1 })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*first)
}

fn put_part(part: &[u8], to: &mut Vec<u8>) {
    to.extend((part.len() as u64).to_be_bytes());
    to.extend(sum(part).to_be_bytes());
    to.extend(part);
}

/// Those that are as they were put.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let len = usize::try_from(u64::from_be_bytes(take(&mut self.0)?)).ok()?;
            let wanted = u64::from_be_bytes(take(&mut self.0)?);
            let (part, rest) = self.0.split_at_checked(len)?;
            self.0 = rest;
            if sum(part) == wanted {
                return Some(part);
            }
        }
    }
}

/// FNV-1a: against what was cut off or overwritten, not against forgers.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
