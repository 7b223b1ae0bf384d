//! What a set's elements are made of, as the kernel asks for it.

use super::super::{LIST_ELEM, numbers::*};
use crate::wire::Batch;

const SET_DESC: u16 = 9;
const DESC_CONCAT: u16 = 2;
const FIELD_LEN: u16 = 1;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCAT: u32 = 0x80;
const VERDICT: u32 = 0xffff_ff00;
const SET_DATA_LEN: u16 = 7;
/// `nft`'s numbers of types, of which a concatenation has six bits for each.
const TYPE_BITS: u32 = 6;

/// One part of a key: `nft`'s number of its type, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Part {
    Address { ipv4: bool },
    Protocol,
    Port,
    Link,
    Mac,
}

/// What the elements of a map lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Data {
    None,
    /// Chains to jump to.
    Chain,
    Value(&'static [Part]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Shape {
    pub(in crate::nft) parts: &'static [Part],
    pub(in crate::nft) interval: bool,
    pub(in crate::nft) data: Data,
}

/// What the kernel says of a set: flags, type and length of its keys, type of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Numbers {
    pub(in crate::nft) flags: u32,
    pub(in crate::nft) key_type: u32,
    pub(in crate::nft) key_len: u32,
    pub(in crate::nft) data_type: Option<u32>,
}

impl Part {
    fn kind(self) -> u32 {
        match self {
            Self::Address { ipv4: true } => 7,
            Self::Address { ipv4: false } => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Link => 41,
            Self::Mac => 9,
        }
    }

    pub(in crate::nft) fn bytes(self) -> usize {
        match self {
            Self::Address { ipv4: true } => 4,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Address { ipv4: false } | Self::Link => 16,
            Self::Mac => 6,
        }
    }
}

impl Shape {
    pub(in crate::nft) const fn plain(parts: &'static [Part]) -> Self {
        Self { parts, interval: false, data: Data::None }
    }
    pub(in crate::nft) const fn ranges(parts: &'static [Part]) -> Self {
        Self { parts, interval: true, data: Data::None }
    }
    /// To chains.
    pub(in crate::nft) const fn map(parts: &'static [Part]) -> Self {
        Self { parts, interval: false, data: Data::Chain }
    }
    pub(in crate::nft) const fn values(parts: &'static [Part], of: &'static [Part]) -> Self {
        Self { parts, interval: false, data: Data::Value(of) }
    }

    /// One that we never make.
    pub(in crate::nft) fn strange(is_map: bool) -> Self {
        if is_map { Self::map(&[]) } else { Self::plain(&[]) }
    }

    pub(in crate::nft) fn is_map(&self) -> bool {
        self.data != Data::None
    }

    pub(in crate::nft) fn key_len(&self) -> usize {
        length(self.parts)
    }

    /// True if a range is told as two elements, one at each end (`nft_set_rbtree`).
    pub(in crate::nft) fn by_ends(&self) -> bool {
        self.interval && self.parts.len() == 1
    }

    pub(in crate::nft) fn numbers(&self) -> Numbers {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let (interval, concat) = (self.interval, self.interval && self.parts.len() > 1);
        Numbers {
            flags: flag(interval, INTERVAL) | flag(self.is_map(), MAP) | flag(concat, CONCAT),
            key_type: kind(self.parts),
            key_len: u32::try_from(self.key_len()).unwrap_or(u32::MAX),
            data_type: match self.data {
                Data::None => None,
                Data::Chain => Some(VERDICT),
                Data::Value(parts) => Some(kind(parts)),
            },
        }
    }

    pub(in crate::nft) fn encode(&self, batch: &mut Batch) {
        let numbers = self.numbers();
        batch
            .attr_be32(SET_FLAGS, numbers.flags)
            .attr_be32(SET_KEY_TYPE, numbers.key_type)
            .attr_be32(SET_KEY_LEN, numbers.key_len);
        if let Some(kind) = numbers.data_type {
            batch.attr_be32(SET_DATA_TYPE, kind);
        }
        if let Data::Value(parts) = self.data {
            let length = u32::try_from(length(parts)).unwrap_or(u32::MAX);
            batch.attr_be32(SET_DATA_LEN, length);
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

fn kind(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |kind, part| kind << TYPE_BITS | part.kind())
}

/// Of several parts each is filled up to four bytes.
fn length(parts: &[Part]) -> usize {
    match parts {
        [part] => part.bytes(),
        parts => parts.iter().map(|part| part.bytes().next_multiple_of(4)).sum(),
    }
}

impl Numbers {
    pub(in crate::nft) fn read(value: impl Fn(u16) -> Option<u32>) -> Option<Self> {
        Some(Self {
            flags: value(SET_FLAGS).unwrap_or(0),
            key_type: value(SET_KEY_TYPE)?,
            key_len: value(SET_KEY_LEN)?,
            data_type: value(SET_DATA_TYPE),
        })
    }
}
