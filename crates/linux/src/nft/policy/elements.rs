//! A set's elements, written and read.

use std::{collections::BTreeSet, net::IpAddr};

use weft_core::policy::firewall::Ports;

use super::super::numbers::*;
use super::{super::LIST_ELEM, shape::Shape};
use crate::wire::{self, Batch};

const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;
/// Two IPv6 addresses.
const LONGEST: usize = 32;

/// A key's parts, each filled up to four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Key {
    bytes: [u8; LONGEST],
    length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) first: Key,
    /// The last of a range, itself in it.
    pub(super) last: Option<Key>,
    /// The chain that it leads to.
    pub(super) chain: Option<String>,
}

impl Key {
    pub(super) fn addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::default().with(&addr.octets()),
            IpAddr::V6(addr) => Self::default().with(&addr.octets()),
        }
    }

    pub(super) fn with(mut self, part: &[u8]) -> Self {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len().next_multiple_of(4);
        self
    }

    pub(super) fn and_addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.with(&addr.octets()),
            IpAddr::V6(addr) => self.with(&addr.octets()),
        }
    }

    /// Protocol and port.
    pub(super) fn and_port(self, ports: Ports, port: u16) -> Self {
        self.with(&[ports.protocol.number()]).with(&port.to_be_bytes())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= LONGEST).then(|| Self::default().with(bytes))
    }

    /// The next behind it; none behind the last of all.
    fn next(mut self) -> Option<Self> {
        for byte in self.bytes[..self.length].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(self);
            }
        }
        None
    }

    fn before(mut self) -> Self {
        for byte in self.bytes[..self.length].iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != 0xff {
                break;
            }
        }
        self
    }
}

impl Element {
    pub(super) fn one(key: Key) -> Self {
        Self { first: key, last: None, chain: None }
    }
    pub(super) fn range(first: Key, last: Key) -> Self {
        Self { first, last: Some(last), chain: None }
    }
    pub(super) fn to(key: Key, chain: String) -> Self {
        Self { first: key, last: None, chain: Some(chain) }
    }

    /// As one or two elements of the kernel's. To be removed its value need not be said.
    pub(super) fn encode(&self, batch: &mut Batch, shape: &Shape) {
        batch.nest(LIST_ELEM, |batch| {
            key(batch, ELEM_KEY, &self.first);
            if let Some(last) = self.last.filter(|_| !shape.by_ends()) {
                key(batch, ELEM_KEY_END, &last);
            }
            if let Some(chain) = &self.chain {
                batch.nest(ELEM_DATA, |batch| jump(batch, chain));
            }
        });
        // A range up to the last address of all has no end.
        if let Some(end) = self.last.filter(|_| shape.by_ends()).and_then(Key::next) {
            batch.nest(LIST_ELEM, |batch| {
                key(batch, ELEM_KEY, &end);
                batch.attr_be32(ELEM_FLAGS, INTERVAL_END);
            });
        }
    }
}

fn key(batch: &mut Batch, kind: u16, key: &Key) {
    batch.nest(kind, |batch| {
        batch.attr(DATA_VALUE, key.bytes());
    });
}

pub(super) fn jump(batch: &mut Batch, chain: &str) {
    batch.nest(DATA_VERDICT, |batch| {
        batch.attr_be32(VERDICT_CODE, JUMP.cast_unsigned()).attr_str(VERDICT_CHAIN, chain);
    });
}

/// An element as the kernel tells it.
pub(super) struct Told {
    first: Key,
    last: Option<Key>,
    ends: bool,
    chain: Option<String>,
}

pub(super) fn read(element: &[u8]) -> Option<Told> {
    let (mut first, mut last, mut ends, mut chain) = (None, None, false, None);
    for (kind, value) in wire::attrs(element) {
        match kind {
            ELEM_KEY => first = of_data(value),
            ELEM_KEY_END => last = of_data(value),
            ELEM_FLAGS => {
                let flags = value.try_into().ok().map(u32::from_be_bytes);
                ends = flags.is_some_and(|flags| flags & INTERVAL_END != 0);
            }
            ELEM_DATA => chain = Some(led_to(value).unwrap_or_default()),
            _ => {}
        }
    }
    Some(Told { first: first?, last, ends, chain })
}

fn of_data(data: &[u8]) -> Option<Key> {
    let (_, value) = wire::attrs(data).find(|(kind, _)| *kind == DATA_VALUE)?;
    Key::read(value)
}

fn led_to(data: &[u8]) -> Option<String> {
    let (_, verdict) = wire::attrs(data).find(|(kind, _)| *kind == DATA_VERDICT)?;
    let of = |of: u16| wire::attrs(verdict).find(|(kind, _)| *kind == of).map(|(_, value)| value);
    let code = of(VERDICT_CODE)?.try_into().ok().map(u32::from_be_bytes)?;
    (code.cast_signed() == JUMP).then(|| of(VERDICT_CHAIN).map(wire::text))?
}

/// What was told, with the ends of ranges put together.
pub(super) fn gather(shape: &Shape, mut told: Vec<Told>) -> BTreeSet<Element> {
    if !shape.by_ends() {
        let whole = told.into_iter().map(|told| Element {
            first: told.first,
            last: told.last,
            chain: told.chain,
        });
        return whole.collect();
    }
    // Where one range ends and the next begins, the end is first.
    told.sort_by_key(|told| (told.first, !told.ends));
    let mut ranges = BTreeSet::new();
    let mut open = None;
    for told in told {
        if told.ends {
            let range = |first| Element::range(first, told.first.before());
            ranges.extend(open.take().map(range));
        } else {
            open = Some(told.first);
        }
    }
    let last = |first: Key| Key { bytes: all_ones(first.length), ..first };
    ranges.extend(open.map(|first| Element::range(first, last(first))));
    ranges
}

fn all_ones(length: usize) -> [u8; LONGEST] {
    let mut bytes = [0; LONGEST];
    bytes[..length].fill(0xff);
    bytes
}
