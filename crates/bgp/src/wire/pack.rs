//! UPDATE, written: attributes once, then as many prefixes as there is room for.

use ipnet::IpNet;

use super::{
    Agreed, MESSAGE_MAX, Update,
    attribute::{self as attr, flag},
    message::{header, kind, patch},
    prefix, put, reach,
};
use crate::attrs::{Attrs, Family, NextHop};

/// Bytes of the longest prefix.
const PREFIX_MAX: usize = 17;
/// Where an UPDATE's two lengths begin, when nothing is withdrawn.
const LENGTHS: usize = 19;

/// The attributes leave no room for a prefix: such a route can't be said (RFC 4271, 9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path attributes of {0} bytes leave no room for a prefix in a message of {MESSAGE_MAX}")]
pub struct TooLong(pub usize);

/// Fills UPDATE messages of one family with prefixes that share attributes and next hop. There is
/// room for at least one prefix in a new one.
#[derive(Debug)]
pub struct Packer {
    family: Family,
    /// The message, as far as it is known.
    bytes: Vec<u8>,
    /// Where prefixes begin in it.
    begin: usize,
    /// What follows the prefixes.
    tail: Vec<u8>,
    form: Form,
}

/// Where the prefixes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Behind all.
    Nlri,
    /// In the field in front.
    Withdrawn,
    /// In the first attribute.
    Mp,
}

impl Packer {
    /// IPv4 routes with IPv4 next hops stand in the message's own field, all others in
    /// MP_REACH_NLRI. Nothing that an external neighbour must not see is written to one: LOCAL_PREF,
    /// ORIGINATOR_ID, CLUSTER_LIST.
    pub fn announce(
        attrs: &Attrs,
        next_hop: NextHop,
        family: Family,
        agreed: &Agreed,
    ) -> Result<Self, TooLong> {
        let classic = match (family, next_hop) {
            (Family::Ipv4, NextHop::V4(addr)) => Some(addr),
            _ => None,
        };
        let mut bytes = begin();
        let mut tail = Vec::new();
        let form = if classic.is_some() {
            put::attrs(attrs, classic, agreed, &mut bytes);
            let length = bytes.len() - LENGTHS - 4;
            patch(&mut bytes, LENGTHS + 2, length);
            Form::Nlri
        } else {
            mp(attr::MP_REACH, &mut bytes);
            reach::write_reach(family, next_hop, &mut bytes);
            put::attrs(attrs, None, agreed, &mut tail);
            Form::Mp
        };
        if bytes.len() + tail.len() + PREFIX_MAX > MESSAGE_MAX {
            return Err(TooLong(bytes.len() + tail.len() - LENGTHS - 4));
        }
        Ok(Self { family, begin: bytes.len(), bytes, tail, form })
    }

    pub fn withdraw(family: Family) -> Self {
        let mut bytes = begin();
        let (form, tail) = match family {
            Family::Ipv4 => {
                bytes.truncate(LENGTHS + 2);
                (Form::Withdrawn, vec![0, 0])
            }
            Family::Ipv6 => {
                mp(attr::MP_UNREACH, &mut bytes);
                bytes.extend_from_slice(&[0, reach::afi(family), reach::UNICAST]);
                (Form::Mp, Vec::new())
            }
        };
        Self { family, begin: bytes.len(), bytes, tail, form }
    }

    /// False if there is no room for it: then `finish`, and begin another. One of the other family is
    /// a mistake of the caller; it is not written.
    pub fn add(&mut self, prefix: &IpNet) -> bool {
        if Family::of(prefix) != self.family {
            debug_assert!(false, "{prefix} among routes of {}", self.family);
            return true;
        }
        if self.bytes.len() + prefix::size(prefix) + self.tail.len() > MESSAGE_MAX {
            return false;
        }
        prefix::write(prefix, &mut self.bytes);
        true
    }

    /// Adds the message to the buffer; nothing where no prefix was added.
    pub fn finish(mut self, buffer: &mut Vec<u8>) {
        if self.bytes.len() == self.begin {
            return;
        }
        let prefixes_end = self.bytes.len();
        self.bytes.extend_from_slice(&self.tail);
        let length = self.bytes.len();
        match self.form {
            Form::Nlri => {}
            Form::Withdrawn => patch(&mut self.bytes, LENGTHS, prefixes_end - self.begin),
            Form::Mp => {
                patch(&mut self.bytes, LENGTHS + 2, length - LENGTHS - 4);
                patch(&mut self.bytes, LENGTHS + 6, prefixes_end - LENGTHS - 8);
            }
        }
        patch(&mut self.bytes, 16, length);
        buffer.extend_from_slice(&self.bytes);
    }
}

/// Header and both lengths, which are yet to be known.
fn begin() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    header(kind::UPDATE, &mut bytes);
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Header of the attribute with the prefixes: it is the first one (RFC 7606, 5.1).
fn mp(code: u8, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED, code, 0, 0]);
}

/// As many messages as it takes.
pub fn write(update: &Update, agreed: &Agreed, buffer: &mut Vec<u8>) {
    for family in Family::ALL {
        withdrawals(family, &update.withdrawn, buffer);
    }
    let none = Attrs::default();
    let attrs = update.attrs.as_ref().unwrap_or(&none);
    for reach in &update.reach {
        for family in Family::ALL {
            let packer = || Packer::announce(attrs, reach.next_hop, family, agreed);
            match packer() {
                Ok(first) => fill(family, &reach.prefixes, first, packer, buffer),
                Err(TooLong(_)) => withdrawals(family, &reach.prefixes, buffer),
            }
        }
    }
    if let Some(family) = update.end_of_rib {
        end_of_rib(family, buffer);
    }
}

fn withdrawals(family: Family, prefixes: &[IpNet], buffer: &mut Vec<u8>) {
    let packer = || Ok(Packer::withdraw(family));
    fill(family, prefixes, Packer::withdraw(family), packer, buffer);
}

fn fill(
    family: Family,
    prefixes: &[IpNet],
    first: Packer,
    next: impl Fn() -> Result<Packer, TooLong>,
    buffer: &mut Vec<u8>,
) {
    let mut packer = first;
    for prefix in prefixes.iter().filter(|prefix| Family::of(prefix) == family) {
        if packer.add(prefix) {
            continue;
        }
        let Ok(another) = next() else { return };
        std::mem::replace(&mut packer, another).finish(buffer);
        packer.add(prefix);
    }
    packer.finish(buffer);
}

/// RFC 4724, 2: an UPDATE without anything, or with an MP_UNREACH_NLRI without anything.
fn end_of_rib(family: Family, buffer: &mut Vec<u8>) {
    let mut bytes = begin();
    if family == Family::Ipv6 {
        let attribute =
            [flag::OPTIONAL, attr::MP_UNREACH, 3, 0, reach::afi(family), reach::UNICAST];
        patch(&mut bytes, LENGTHS + 2, attribute.len());
        bytes.extend_from_slice(&attribute);
    }
    let length = bytes.len();
    patch(&mut bytes, 16, length);
    buffer.extend_from_slice(&bytes);
}
