//! What neighbours said, as bytes for whoever comes after us: for each neighbour who it is, then its
//! routes as UPDATE messages, as if all sessions had agreed on everything. Each has a sum of its own,
//! so that what is damaged is left out and the others are not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    Rib,
    path::Path,
    peers::{Known, Who},
    rib::Edit,
    table::Key,
};
use crate::{
    attrs::Family,
    wire::{self, Agreed, Frames, Message, Packer, Update},
};

const MAGIC: &[u8] = b"weft routes 1\n";

impl Rib {
    /// What neighbours said, in the form of their UPDATE messages, for `restore`.
    pub fn keep(&self) -> Vec<u8> {
        let mut kept = MAGIC.to_vec();
        let routes = self.routes_by_peer();
        for (id, known) in self.peers.all().filter(|(_, known)| known.taken != [0, 0]) {
            let mut part = Vec::new();
            put_who(&known.who, &mut part);
            for family in Family::ALL {
                let of = routes.range((id, family, 0, 0)..=(id, family, u32::MAX, u32::MAX));
                self.put_routes(known, family, of.copied(), &mut part);
            }
            put_part(&part, &mut kept);
        }
        kept
    }

    /// Takes what `keep` gave as stale routes of neighbours that are yet to come up; says whose.
    pub fn restore(&mut self, kept: &[u8]) -> BTreeMap<IpAddr, BTreeSet<Family>> {
        let mut whose: BTreeMap<IpAddr, BTreeSet<Family>> = BTreeMap::new();
        let mut parts = Parts(kept.strip_prefix(MAGIC).unwrap_or_default());
        while let Some(part) = parts.next() {
            if let Some((addr, families)) = self.restore_one(part) {
                whose.entry(addr).or_default().extend(families);
            }
        }
        self.settle();
        whose
    }
}
