//! What a set's elements are made of, as the kernel asks for it.

use super::super::LIST_ELEM;
use super::super::numbers::*;
use crate::wire::Batch;

const SET_DESC: u16 = 9;
const DESC_CONCAT: u16 = 2;
const FIELD_LEN: u16 = 1;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCAT: u32 = 0x80;
const VERDICT: u32 = 0xffff_ff00;

/// One part of a key: `nft`'s number of its type, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Address { ipv4: bool },
    Protocol,
    Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) parts: &'static [Part],
    pub(super) interval: bool,
    /// Its values are chains to jump to.
    pub(super) map: bool,
}

/// What the kernel says of a set: flags, type and length of its keys, type of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_len: u32,
    pub(super) data_type: Option<u32>,
}

impl Part {
    fn kind(self) -> u32 {
        match self {
            Self::Address { ipv4: true } => 7,
            Self::Address { ipv4: false } => 8,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Address { ipv4: true } => 4,
            Self::Address { ipv4: false } => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

impl Shape {
    pub(super) fn plain(parts: &'static [Part]) -> Self {
        Self { parts, interval: false, map: false }
    }
    pub(super) fn ranges(parts: &'static [Part]) -> Self {
        Self { interval: true, ..Self::plain(parts) }
    }
    pub(super) fn map(parts: &'static [Part]) -> Self {
        Self { map: true, ..Self::plain(parts) }
    }

    /// True if a range is told as two elements, one at each end (`nft_set_rbtree`).
    pub(super) fn by_ends(&self) -> bool {
        self.interval && self.parts.len() == 1
    }

    pub(super) fn numbers(&self) -> Numbers {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let (interval, concat) = (self.interval, self.interval && self.parts.len() > 1);
        let lengths = self.parts.iter().map(|part| part.bytes().next_multiple_of(4));
        Numbers {
            flags: flag(interval, INTERVAL) | flag(self.map, MAP) | flag(concat, CONCAT),
            key_type: self.parts.iter().fold(0, |kind, part| kind << 6 | part.kind()),
            key_len: u32::try_from(lengths.sum::<usize>()).unwrap_or(u32::MAX),
            data_type: self.map.then_some(VERDICT),
        }
    }

    pub(super) fn encode(&self, batch: &mut Batch) {
        let numbers = self.numbers();
        batch
            .attr_be32(SET_FLAGS, numbers.flags)
            .attr_be32(SET_KEY_TYPE, numbers.key_type)
            .attr_be32(SET_KEY_LEN, numbers.key_len);
        if let Some(kind) = numbers.data_type {
            batch.attr_be32(SET_DATA_TYPE, kind);
        }
        if numbers.flags & CONCAT == 0 {
            return;
        }
        batch.nest(SET_DESC, |batch| {
            batch.nest(DESC_CONCAT, |batch| {
                for part in self.parts {
                    let length = u32::try_from(part.bytes()).unwrap_or(0);
                    batch.nest(LIST_ELEM, |batch| {
                        batch.attr_be32(FIELD_LEN, length);
                    });
                }
            });
        });
    }
}

impl Numbers {
    pub(super) fn read(value: impl Fn(u16) -> Option<u32>) -> Option<Self> {
        Some(Self {
            flags: value(SET_FLAGS).unwrap_or(0),
            key_type: value(SET_KEY_TYPE)?,
            key_len: value(SET_KEY_LEN)?,
            data_type: value(SET_DATA_TYPE),
        })
    }
}
