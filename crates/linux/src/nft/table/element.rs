//! A set's elements, written and read.

use std::{collections::BTreeSet, io, net::IpAddr};

use weft_core::{
    name::{IfName, Mac},
    policy::firewall::Ports,
};

use super::super::{LIST_ELEM, NLM_F_CREATE, header, numbers::*, value_of, words};
use super::{
    Place,
    shape::{Data, Shape},
};
use crate::{
    socket,
    wire::{self, Batch},
};

const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;
/// A link's name, a MAC and an IPv6 address.
const LONGEST: usize = 40;
/// Elements in one message: the length of their list is told in 16 bits.
pub(in crate::nft) const ELEMENTS: usize = 400;

/// A key's parts, each filled up to four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nft) struct Key {
    bytes: [u8; LONGEST],
    length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nft) struct Element {
    pub(in crate::nft) first: Key,
    /// The last of a range, itself in it.
    pub(in crate::nft) last: Option<Key>,
    pub(in crate::nft) to: Option<To>,
}

/// What a map leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::nft) enum To {
    Chain(String),
    Value(Key),
}

impl Default for Key {
    fn default() -> Self {
        Self { bytes: [0; LONGEST], length: 0 }
    }
}

impl Key {
    pub(in crate::nft) fn addr(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::default().with(&addr.octets()),
            IpAddr::V6(addr) => Self::default().with(&addr.octets()),
        }
    }

    pub(in crate::nft) fn with(mut self, part: &[u8]) -> Self {
        self.bytes[self.length..self.length + part.len()].copy_from_slice(part);
        self.length += part.len().next_multiple_of(4);
        self
    }

    pub(in crate::nft) fn and_addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.with(&addr.octets()),
            IpAddr::V6(addr) => self.with(&addr.octets()),
        }
    }

    /// Protocol and port.
    pub(in crate::nft) fn and_port(self, ports: Ports, port: u16) -> Self {
        self.with(&[ports.protocol.number()]).with(&port.to_be_bytes())
    }

    pub(in crate::nft) fn link(dev: &IfName) -> Self {
        Self::default().with(&words::whole_name(dev))
    }

    pub(in crate::nft) fn and_mac(self, mac: Mac) -> Self {
        self.with(&mac.0)
    }

    pub(in crate::nft) fn bytes(&self) -> &[u8] {
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
    pub(in crate::nft) fn one(key: Key) -> Self {
        Self { first: key, last: None, to: None }
    }
    pub(in crate::nft) fn range(first: Key, last: Key) -> Self {
        Self { first, last: Some(last), to: None }
    }
    pub(in crate::nft) fn to(key: Key, chain: String) -> Self {
        Self { first: key, last: None, to: Some(To::Chain(chain)) }
    }
    pub(in crate::nft) fn value(key: Key, value: Key) -> Self {
        Self { first: key, last: None, to: Some(To::Value(value)) }
    }

    /// As one or two elements of the kernel's. To be removed its value need not be said.
    pub(in crate::nft) fn encode(&self, batch: &mut Batch, shape: &Shape) {
        let length = shape.key_len();
        let key = |batch: &mut Batch, kind, key: &Key| {
            value(batch, kind, key.bytes().get(..length).unwrap_or_default());
        };
        batch.nest(LIST_ELEM, |batch| {
            key(batch, ELEM_KEY, &self.first);
            if let Some(last) = self.last.filter(|_| !shape.by_ends()) {
                key(batch, ELEM_KEY_END, &last);
            }
            match &self.to {
                Some(To::Chain(chain)) => drop(batch.nest(ELEM_DATA, |b| verdict(b, JUMP, chain))),
                Some(To::Value(to)) => value(batch, ELEM_DATA, to.bytes()),
                None => {}
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

fn value(batch: &mut Batch, kind: u16, bytes: &[u8]) {
    batch.nest(kind, |batch| {
        batch.attr(DATA_VALUE, bytes);
    });
}

/// To jump to a chain, or to go there for good.
pub(in crate::nft) fn verdict(batch: &mut Batch, code: i32, chain: &str) {
    batch.nest(DATA_VERDICT, |batch| {
        batch.attr_be32(VERDICT_CODE, code.cast_unsigned()).attr_str(VERDICT_CHAIN, chain);
    });
}

/// Writes elements of one set, or takes them out.
pub(in crate::nft) fn write<'a>(
    batch: &mut Batch,
    (place, kind): (Place, u16),
    (name, shape): (&str, &Shape),
    some: impl Iterator<Item = &'a Element>,
) {
    let create = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut some = some.peekable();
    while some.peek().is_some() {
        batch
            .begin(kind, create, &header(place.family))
            .attr_str(ELEMS_TABLE, place.name)
            .attr_str(ELEMS_SET, name)
            .nest(ELEMS, |batch| {
                some.by_ref().take(ELEMENTS).for_each(|element| element.encode(batch, shape));
            })
            .end();
    }
}

/// The elements of one set.
pub(in crate::nft) fn read(
    socket: &mut socket::Link,
    place: Place,
    (name, shape): (&str, &Shape),
) -> io::Result<BTreeSet<Element>> {
    let lists = socket.dump(
        GETSETELEM,
        &header(place.family),
        |batch| {
            batch.attr_str(ELEMS_TABLE, place.name).attr_str(ELEMS_SET, name);
        },
        |message| {
            let list = wire::attrs(value_of(message, ELEMS)?);
            let each = list.filter(|(kind, _)| *kind == LIST_ELEM);
            Some(each.filter_map(|(_, element)| told(element, shape)).collect::<Vec<_>>())
        },
    )?;
    Ok(gather(shape, lists.into_iter().flatten().collect()))
}

/// An element as the kernel tells it.
struct Told {
    first: Key,
    last: Option<Key>,
    ends: bool,
    to: Option<To>,
}

fn told(element: &[u8], shape: &Shape) -> Option<Told> {
    let (mut first, mut last, mut ends, mut to) = (None, None, false, None);
    for (kind, value) in wire::attrs(element) {
        match kind {
            ELEM_KEY => first = of_data(value),
            ELEM_KEY_END => last = of_data(value),
            ELEM_FLAGS => {
                let flags = value.try_into().ok().map(u32::from_be_bytes);
                ends = flags.is_some_and(|flags| flags & INTERVAL_END != 0);
            }
            ELEM_DATA => {
                to = match shape.data {
                    Data::Value(_) => of_data(value).map(To::Value),
                    _ => Some(To::Chain(led_to(value).unwrap_or_default())),
                };
            }
            _ => {}
        }
    }
    Some(Told { first: first?, last, ends, to })
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
fn gather(shape: &Shape, mut told: Vec<Told>) -> BTreeSet<Element> {
    if !shape.by_ends() {
        let whole = told.into_iter().map(|told| Element {
            first: told.first,
            last: told.last,
            to: told.to,
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
