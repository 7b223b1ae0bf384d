//! Attributes and next hop as bytes: a fraction of their size as lists, one block of memory, and
//! equal exactly if they are. Never leaves the process.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::attrs::{AsPath, Attrs, Community, LargeCommunity, NextHop, Origin, Other, Segment};

/// Stands for a length that eight bits don't hold.
const LONG: usize = 255;

/// What follows the AS path and the next hop, bit by bit; what is not there takes no byte.
mod has {
    pub const MED: u16 = 1;
    pub const LOCAL_PREF: u16 = 1 << 1;
    pub const ATOMIC_AGGREGATE: u16 = 1 << 2;
    pub const AGGREGATOR: u16 = 1 << 3;
    pub const COMMUNITIES: u16 = 1 << 4;
    pub const LARGE_COMMUNITIES: u16 = 1 << 5;
    pub const ORIGINATOR: u16 = 1 << 6;
    pub const CLUSTER_LIST: u16 = 1 << 7;
    pub const OTHERS: u16 = 1 << 8;
}

/// Puts them into an empty buffer; answers how many bytes, at its beginning, are the AS path's.
pub(super) fn pack(attrs: &Attrs, next_hop: NextHop, to: &mut Vec<u8>) -> usize {
    to.clear();
    list(to, &attrs.as_path.0, pack_segment);
    let path_end = to.len();
    pack_next_hop(next_hop, to);
    to.push(attrs.origin as u8);
    to.extend(what(attrs).to_le_bytes());
    attrs.med.into_iter().chain(attrs.local_pref).for_each(|number| word(to, number));
    if let Some((asn, addr)) = attrs.aggregator {
        word(to, asn);
        word(to, addr.to_bits());
    }
    some(to, &attrs.communities, |to, community| word(to, community.0));
    some(to, &attrs.large_communities, |to, LargeCommunity(a, b, c)| {
        [*a, *b, *c].into_iter().for_each(|part| word(to, part));
    });
    attrs.originator.into_iter().for_each(|addr| word(to, addr.to_bits()));
    some(to, &attrs.cluster_list, |to, addr| word(to, addr.to_bits()));
    some(to, &attrs.others, |to, other| {
        to.extend([other.code, u8::from(other.partial)]);
        list(to, &other.value, |to, byte| to.push(*byte));
    });
    path_end
}

pub(super) fn unpack(bytes: &[u8]) -> (Attrs, NextHop) {
    let mut from = Bytes(bytes);
    let as_path = AsPath(from.list(Bytes::segment));
    let next_hop = from.next_hop();
    let origin = from.origin();
    let what = u16::from_le_bytes(from.take());
    let mut attrs = Attrs { origin, as_path, ..Attrs::default() };
    let has = |bit| what & bit != 0;
    attrs.med = has(has::MED).then(|| from.word());
    attrs.local_pref = has(has::LOCAL_PREF).then(|| from.word());
    attrs.atomic_aggregate = has(has::ATOMIC_AGGREGATE);
    attrs.aggregator = has(has::AGGREGATOR).then(|| (from.word(), from.ipv4()));
    if has(has::COMMUNITIES) {
        attrs.communities = from.list(|from| Community(from.word()));
    }
    if has(has::LARGE_COMMUNITIES) {
        attrs.large_communities =
            from.list(|from| LargeCommunity(from.word(), from.word(), from.word()));
    }
    attrs.originator = has(has::ORIGINATOR).then(|| from.ipv4());
    if has(has::CLUSTER_LIST) {
        attrs.cluster_list = from.list(Bytes::ipv4);
    }
    if has(has::OTHERS) {
        attrs.others = from.list(Bytes::other);
    }
    (attrs, next_hop)
}

fn what(attrs: &Attrs) -> u16 {
    let bits = [
        (has::MED, attrs.med.is_some()),
        (has::LOCAL_PREF, attrs.local_pref.is_some()),
        (has::ATOMIC_AGGREGATE, attrs.atomic_aggregate),
        (has::AGGREGATOR, attrs.aggregator.is_some()),
        (has::COMMUNITIES, !attrs.communities.is_empty()),
        (has::LARGE_COMMUNITIES, !attrs.large_communities.is_empty()),
        (has::ORIGINATOR, attrs.originator.is_some()),
        (has::CLUSTER_LIST, !attrs.cluster_list.is_empty()),
        (has::OTHERS, !attrs.others.is_empty()),
    ];
    bits.iter().filter(|(_, is)| *is).fold(0, |what, (bit, _)| what | bit)
}

fn pack_next_hop(next_hop: NextHop, to: &mut Vec<u8>) {
    match next_hop {
        NextHop::V4(addr) => {
            to.push(0);
            to.extend(addr.octets());
        }
        NextHop::V6(addr, link_local) => {
            to.push(1 + u8::from(link_local.is_some()));
            to.extend(addr.octets());
            to.extend(link_local.map(|addr| addr.octets()).iter().flatten());
        }
    }
}

fn pack_segment(to: &mut Vec<u8>, segment: &Segment) {
    let (kind, asns) = match segment {
        Segment::Set(asns) => (1, asns),
        Segment::Sequence(asns) => (2, asns),
        Segment::ConfedSequence(asns) => (3, asns),
        Segment::ConfedSet(asns) => (4, asns),
    };
    to.push(kind);
    list(to, asns, |to, asn| word(to, *asn));
}

fn word(to: &mut Vec<u8>, word: u32) {
    to.extend(word.to_le_bytes());
}

/// Lists fit into a message, so their lengths fit into 16 bits; most fit into eight.
#[allow(clippy::cast_possible_truncation)]
fn list<T>(to: &mut Vec<u8>, items: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    match items.len() {
        short @ ..LONG => to.push(short as u8),
        long => {
            to.push(LONG as u8);
            to.extend((long as u16).to_le_bytes());
        }
    }
    items.iter().for_each(|item| each(to, item));
}

fn some<T>(to: &mut Vec<u8>, items: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    if !items.is_empty() {
        list(to, items, each);
    }
}

/// What is not there reads as zero; but all is, as `pack` put it.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((first, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *first
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn ipv4(&mut self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.word())
    }

    fn ipv6(&mut self) -> Ipv6Addr {
        Ipv6Addr::from(self.take::<16>())
    }

    fn next_hop(&mut self) -> NextHop {
        match self.byte() {
            0 => NextHop::V4(self.take::<4>().into()),
            1 => NextHop::V6(self.ipv6(), None),
            _ => NextHop::V6(self.ipv6(), Some(self.ipv6())),
        }
    }

    fn origin(&mut self) -> Origin {
        match self.byte() {
            0 => Origin::Igp,
            1 => Origin::Egp,
            _ => Origin::Incomplete,
        }
    }

    fn segment(&mut self) -> Segment {
        let kind = match self.byte() {
            1 => Segment::Set,
            2 => Segment::Sequence,
            3 => Segment::ConfedSequence,
            _ => Segment::ConfedSet,
        };
        kind(self.list(Self::word))
    }

    fn other(&mut self) -> Other {
        let [code, partial] = self.take();
        Other { code, partial: partial == 1, value: self.list(Self::byte) }
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let short = self.byte();
        let is_long = usize::from(short) == LONG;
        let len = if is_long { u16::from_le_bytes(self.take()) } else { short.into() };
        (0..len).map(|_| item(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attributes_come_back() {
        let addr = |last| Ipv4Addr::new(10, 0, 0, last);
        let attrs = Attrs {
            origin: Origin::Egp,
            as_path: AsPath(vec![
                Segment::ConfedSequence(vec![1]),
                Segment::ConfedSet(vec![2, 3]),
                Segment::Sequence(vec![4_200_000_001, 5]),
                Segment::Set(vec![6]),
            ]),
            med: Some(0),
            local_pref: Some(u32::MAX),
            atomic_aggregate: true,
            aggregator: Some((7, addr(1))),
            communities: vec![Community(8), Community(9)],
            large_communities: vec![LargeCommunity(10, 11, 12)],
            originator: Some(addr(2)),
            cluster_list: vec![addr(3), addr(4)],
            others: vec![Other { code: 99, partial: true, value: vec![1; 255] }],
        };
        let global = "2001:db8::1".parse().unwrap();
        let hops = [
            NextHop::V4(addr(5)),
            NextHop::V6(global, None),
            NextHop::V6(global, Some("fe80::1".parse().unwrap())),
        ];
        for next_hop in hops {
            for attrs in [&attrs, &Attrs::default()] {
                let mut bytes = vec![1];
                pack(attrs, next_hop, &mut bytes);
                assert_eq!(unpack(&bytes), (attrs.clone(), next_hop));
            }
        }
    }
}
