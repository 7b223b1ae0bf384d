//! What paths say: attributes and next hop, each different one kept once, by a number that lives as
//! long as somebody uses it. Beside the bytes stands what the choice of the best path asks for.

use std::net::Ipv4Addr;

use super::{
    hops::Hops,
    index::{Index, Secret},
    packed::{pack, unpack},
};
use crate::attrs::{AsPath, Attrs, Community, NextHop, Origin, Segment};

pub(super) const NO_HOP: u32 = u32::MAX;
/// LOCAL_PREF of what came without one.
pub(super) const LOCAL_PREF: u32 = 100;

/// How far a route may be told (RFC 1997).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    #[default]
    Anybody,
    Inside,
    Nobody,
}

/// What of the attributes decides.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub local_pref: u32,
    pub path_len: u16,
    pub origin: Origin,
    pub med: u32,
    /// Zero: the path began inside our AS, or is not known to have begun in one AS.
    pub neighbour_as: u32,
    /// Zero: none.
    originator: u32,
    pub clusters: u16,
    pub reach: Reach,
    /// The next hop's number in `Hops`, where a neighbour said this.
    pub hop: u32,
    /// Equal for equal AS paths.
    pub path: u64,
}

impl Facts {
    pub fn originator(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from_bits(self.originator)).filter(|addr| !addr.is_unspecified())
    }
}

#[derive(Debug)]
struct Held {
    uses: u32,
    facts: Facts,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
pub(super) struct Routes {
    secret: Secret,
    held: Vec<Held>,
    free: Vec<u32>,
    index: Index,
    scratch: Vec<u8>,
}

impl Routes {
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            held: Vec::new(),
            free: Vec::new(),
            index: Index::new(),
            scratch: Vec::new(),
        }
    }

    /// Its number, which the caller now uses once.
    pub fn take(&mut self, attrs: &Attrs, next_hop: NextHop) -> u32 {
        let mut bytes = std::mem::take(&mut self.scratch);
        let path_end = pack(attrs, next_hop, &mut bytes);
        let hash = self.secret.of_bytes(&bytes);
        let held = &self.held;
        let found = self.index.find(hash, |id| *held[id as usize].bytes == *bytes);
        let id = found.unwrap_or_else(|| {
            let path = self.secret.of_bytes(&bytes[..path_end]);
            self.hold(hash, Held { uses: 0, facts: facts(attrs, path), bytes: (*bytes).into() })
        });
        self.scratch = bytes;
        self.keep(id, 1);
        id
    }

    /// Of what is not kept: known again by this.
    pub fn hash(&self, attrs: &Attrs, next_hop: NextHop) -> u64 {
        let mut bytes = Vec::with_capacity(128);
        pack(attrs, next_hop, &mut bytes);
        self.secret.of_bytes(&bytes)
    }

    /// The same for what a neighbour said: where its next hop leads is known from now on.
    pub fn take_said(&mut self, attrs: &Attrs, next_hop: NextHop, hops: &mut Hops) -> u32 {
        let id = self.take(attrs, next_hop);
        let facts = &mut self.held[id as usize].facts;
        if facts.hop == NO_HOP {
            facts.hop = hops.take(next_hop.addr());
        }
        id
    }

    pub fn keep(&mut self, id: u32, times: u32) {
        self.held[id as usize].uses += times;
    }

    pub fn drop(&mut self, id: u32, hops: &mut Hops) {
        let held = &mut self.held[id as usize];
        held.uses -= 1;
        if held.uses > 0 {
            return;
        }
        let (hop, bytes) = (held.facts.hop, std::mem::take(&mut held.bytes));
        self.index.remove(self.secret.of_bytes(&bytes), id);
        self.free.push(id);
        if hop != NO_HOP {
            hops.drop(hop);
        }
    }

    pub fn facts(&self, id: u32) -> &Facts {
        &self.held[id as usize].facts
    }

    pub fn get(&self, id: u32) -> (Attrs, NextHop) {
        unpack(&self.held[id as usize].bytes)
    }

    #[cfg(test)]
    pub fn len(&self) -> u32 {
        u32::try_from(self.held.len() - self.free.len()).unwrap()
    }

    #[allow(clippy::cast_possible_truncation)] // Fewer than there are routes.
    fn hold(&mut self, hash: u64, held: Held) -> u32 {
        let id = match self.free.pop() {
            Some(id) => {
                self.held[id as usize] = held;
                id
            }
            None => {
                self.held.push(held);
                (self.held.len() - 1) as u32
            }
        };
        self.index.insert(hash, id);
        id
    }
}

fn facts(attrs: &Attrs, path: u64) -> Facts {
    Facts {
        local_pref: attrs.local_pref.unwrap_or(LOCAL_PREF),
        #[allow(clippy::cast_possible_truncation)] // It came in a message.
        path_len: attrs.as_path.length() as u16,
        origin: attrs.origin,
        // RFC 4271, 9.1.2.2 c: none is the lowest.
        med: attrs.med.unwrap_or(0),
        neighbour_as: neighbour_as(&attrs.as_path).unwrap_or(0),
        originator: attrs.originator.map_or(0, Ipv4Addr::to_bits),
        #[allow(clippy::cast_possible_truncation)] // It came in a message.
        clusters: attrs.cluster_list.len() as u16,
        reach: reach(&attrs.communities),
        hop: NO_HOP,
        path,
    }
}

fn neighbour_as(path: &AsPath) -> Option<u32> {
    let outside = |segment: &&Segment| matches!(segment, Segment::Sequence(_) | Segment::Set(_));
    match path.0.iter().find(outside)? {
        Segment::Sequence(asns) => asns.first().copied(),
        _ => None,
    }
}

fn reach(communities: &[Community]) -> Reach {
    if communities.contains(&Community::NO_ADVERTISE) {
        Reach::Nobody
    } else if communities
        .iter()
        .any(|one| [Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED].contains(one))
    {
        Reach::Inside
    } else {
        Reach::Anybody
    }
}
