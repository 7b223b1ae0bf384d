//! Attributes and next hop as bytes: a fraction of their size as lists, one block of memory, and
//! equal exactly if they are. Never leaves the process.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::attrs::{AsPath, Attrs, Community, LargeCommunity, NextHop, Origin, Other, Segment};

/// Puts them into an empty buffer.
pub(super) fn pack(attrs: &Attrs, next_hop: NextHop, to: &mut Vec<u8>) {
    to.clear();
    pack_next_hop(next_hop, to);
    to.push(attrs.origin as u8);
    list(to, &attrs.as_path.0, pack_segment);
    maybe(to, attrs.med, word);
    maybe(to, attrs.local_pref, word);
    to.push(u8::from(attrs.atomic_aggregate));
    maybe(to, attrs.aggregator, |to, (asn, addr)| {
        word(to, asn);
        word(to, addr.to_bits());
    });
    list(to, &attrs.communities, |to, community| word(to, community.0));
    list(to, &attrs.large_communities, |to, LargeCommunity(a, b, c)| {
        [*a, *b, *c].into_iter().for_each(|part| word(to, part));
    });
    maybe(to, attrs.originator, |to, addr| word(to, addr.to_bits()));
    list(to, &attrs.cluster_list, |to, addr| word(to, addr.to_bits()));
    list(to, &attrs.others, |to, other| {
        to.extend([other.code, u8::from(other.partial)]);
        list(to, &other.value, |to, byte| to.push(*byte));
    });
}

pub(super) fn unpack(bytes: &[u8]) -> (Attrs, NextHop) {
    let mut from = Bytes(bytes);
    let next_hop = from.next_hop();
    let attrs = Attrs {
        origin: from.origin(),
        as_path: AsPath(from.list(Bytes::segment)),
        med: from.maybe(Bytes::word),
        local_pref: from.maybe(Bytes::word),
        atomic_aggregate: from.byte() == 1,
        aggregator: from.maybe(|from| (from.word(), from.ipv4())),
        communities: from.list(|from| Community(from.word())),
        large_communities: from.list(|from| LargeCommunity(from.word(), from.word(), from.word())),
        originator: from.maybe(Bytes::ipv4),
        cluster_list: from.list(Bytes::ipv4),
        others: from.list(Bytes::other),
    };
    (attrs, next_hop)
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

/// Lists fit into a message, so their lengths fit into 16 bits.
#[allow(clippy::cast_possible_truncation)]
fn list<T>(to: &mut Vec<u8>, items: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
    to.extend((items.len() as u16).to_le_bytes());
    items.iter().for_each(|item| each(to, item));
}

fn maybe<T>(to: &mut Vec<u8>, item: Option<T>, put: impl Fn(&mut Vec<u8>, T)) {
    to.push(u8::from(item.is_some()));
    if let Some(item) = item {
        put(to, item);
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
        let len = u16::from_le_bytes(self.take());
        (0..len).map(|_| item(self)).collect()
    }

    fn maybe<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Option<T> {
        (self.byte() == 1).then(|| item(self))
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
            others: vec![Other { code: 99, partial: true, value: vec![1, 2, 3] }],
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
