//! Path attributes one by one: their header (RFC 4271, 4.3), which flags each has, what its value may
//! be, and what follows if it is none (RFC 7606).

use std::net::Ipv4Addr;

use super::{bytes::Bytes, notification::update_error as error};
use crate::attrs::{Community, LargeCommunity, Origin};

pub mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    /// The length has two bytes.
    pub const EXTENDED: u8 = 0x10;
}

pub const ORIGIN: u8 = 1;
pub const AS_PATH: u8 = 2;
pub const NEXT_HOP: u8 = 3;
pub const MED: u8 = 4;
pub const LOCAL_PREF: u8 = 5;
pub const ATOMIC_AGGREGATE: u8 = 6;
pub const AGGREGATOR: u8 = 7;
pub const COMMUNITIES: u8 = 8;
pub const ORIGINATOR_ID: u8 = 9;
pub const CLUSTER_LIST: u8 = 10;
pub const MP_REACH: u8 = 14;
pub const MP_UNREACH: u8 = 15;
pub const AS4_PATH: u8 = 17;
pub const AS4_AGGREGATOR: u8 = 18;
pub const LARGE_COMMUNITIES: u8 = 32;

/// What follows from an attribute that is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It counts as not there.
    Discard,
    /// The routes count as withdrawn.
    Withdraw,
    /// The session ends.
    Reset,
}

/// What is wrong with an attribute: the subcode, should the session have to end, and words.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    pub subcode: u8,
    pub why: String,
}

impl Malformed {
    pub fn new(subcode: u8, why: &str) -> Self {
        Self { subcode, why: why.to_owned() }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    pub flags: u8,
    pub code: u8,
    pub value: &'a [u8],
    /// With its header, as a NOTIFICATION quotes it.
    pub whole: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The first of a list. The error is the code, as far as there is one: the list ends inside of it
    /// (RFC 7606, 4).
    pub fn first(list: &mut Bytes<'a>) -> Result<Self, Option<u8>> {
        let all = list.0;
        let flags = list.u8().ok_or(None)?;
        let code = list.u8().ok_or(None)?;
        let value = if flags & flag::EXTENDED == 0 { list.sized8() } else { list.sized16() };
        let value = value.ok_or(Some(code))?;
        let whole = &all[..all.len() - list.0.len()];
        Ok(Self { flags, code, value, whole })
    }
}

/// Flags that an attribute has to have (RFC 4271, 5; 1997; 4456; 4760; 6793; 8092); none: it is not
/// known here.
pub fn flags(code: u8) -> Option<u8> {
    Some(match code {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => flag::TRANSITIVE,
        MED | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH | MP_UNREACH => flag::OPTIONAL,
        AGGREGATOR | COMMUNITIES | AS4_PATH | AS4_AGGREGATOR | LARGE_COMMUNITIES => {
            flag::OPTIONAL | flag::TRANSITIVE
        }
        _ => return None,
    })
}

pub fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        ORIGIN => "ORIGIN",
        AS_PATH => "AS_PATH",
        NEXT_HOP => "NEXT_HOP",
        MED => "MULTI_EXIT_DISC",
        LOCAL_PREF => "LOCAL_PREF",
        ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        AGGREGATOR => "AGGREGATOR",
        COMMUNITIES => "COMMUNITIES",
        ORIGINATOR_ID => "ORIGINATOR_ID",
        CLUSTER_LIST => "CLUSTER_LIST",
        MP_REACH => "MP_REACH_NLRI",
        MP_UNREACH => "MP_UNREACH_NLRI",
        AS4_PATH => "AS4_PATH",
        AS4_AGGREGATOR => "AS4_AGGREGATOR",
        LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        _ => return None,
    })
}

/// RFC 7606, 3 and 7; RFC 6793, 6; RFC 8092, 5.
pub fn follows(code: u8) -> Follows {
    match code {
        MP_REACH | MP_UNREACH => Follows::Reset,
        ATOMIC_AGGREGATE | AGGREGATOR | AS4_PATH | AS4_AGGREGATOR => Follows::Discard,
        _ => Follows::Withdraw,
    }
}

pub fn origin(value: &[u8]) -> Result<Origin, Malformed> {
    match fixed(value)? {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        [other] => Err(Malformed::new(error::ORIGIN, &format!("{other} is no origin"))),
    }
}

/// RFC 4271, 6.3: it is to be an address that a host can have.
pub fn next_hop(value: &[u8]) -> Result<Ipv4Addr, Malformed> {
    let addr = Ipv4Addr::from(fixed(value)?);
    if matches!(addr.octets()[0], 0 | 127 | 224..) {
        return Err(Malformed::new(error::NEXT_HOP, &format!("{addr} is no host's address")));
    }
    Ok(addr)
}

pub fn number(value: &[u8]) -> Result<u32, Malformed> {
    fixed(value).map(u32::from_be_bytes)
}

pub fn addr(value: &[u8]) -> Result<Ipv4Addr, Malformed> {
    fixed(value).map(Ipv4Addr::from)
}

pub fn aggregator(value: &[u8], four_octet_as: bool) -> Result<(u32, Ipv4Addr), Malformed> {
    let (asn, addr) = if four_octet_as {
        let [a, b, c, d, addr @ ..] = fixed::<8>(value)?;
        (u32::from_be_bytes([a, b, c, d]), addr)
    } else {
        let [a, b, addr @ ..] = fixed::<6>(value)?;
        (u16::from_be_bytes([a, b]).into(), addr)
    };
    if asn == 0 {
        return Err(Malformed::new(error::OPTIONAL, "AS 0 in it (RFC 7607)"));
    }
    Ok((asn, addr.into()))
}

pub fn communities(value: &[u8]) -> Result<Vec<Community>, Malformed> {
    words(value, |word| Community(u32::from_be_bytes(word)))
}

pub fn cluster_list(value: &[u8]) -> Result<Vec<Ipv4Addr>, Malformed> {
    words(value, Ipv4Addr::from)
}

/// Each once, at its first place (RFC 8092, 5).
pub fn large_communities(value: &[u8]) -> Result<Vec<LargeCommunity>, Malformed> {
    let mut all: Vec<LargeCommunity> = words(value, |word: [u8; 12]| {
        let number =
            |at: usize| u32::from_be_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]);
        LargeCommunity(number(0), number(4), number(8))
    })?;
    if all.len() > 1 {
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|one| seen.insert(*one));
    }
    Ok(all)
}

/// At least one piece of so many bytes, and nothing else.
fn words<const N: usize, T>(
    value: &[u8],
    word: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, Malformed> {
    match value.as_chunks::<N>() {
        (all @ [_, ..], []) => Ok(all.iter().map(|bytes| word(*bytes)).collect()),
        _ => Err(wrong_length(value)),
    }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| wrong_length(value))
}

pub fn wrong_length(value: &[u8]) -> Malformed {
    Malformed::new(error::LENGTH, &format!("a length of {} bytes", value.len()))
}
