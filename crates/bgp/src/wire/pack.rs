//! UPDATE, written: attributes once, then as many prefixes as there is room for.

use ipnet::IpNet;

use super::{
    Agreed, MESSAGE_MAX, Update, as_path,
    attribute::{self as attr, flag},
    message::{header, kind, patch},
    prefix, reach,
};
use crate::attrs::{Attrs, Family, NextHop, Origin, Other};

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
            write_attrs(attrs, classic, agreed, &mut bytes);
            let length = bytes.len() - LENGTHS - 4;
            patch(&mut bytes, LENGTHS + 2, length);
            Form::Nlri
        } else {
            mp(attr::MP_REACH, &mut bytes);
            reach::write_reach(family, next_hop, &mut bytes);
            write_attrs(attrs, None, agreed, &mut tail);
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
    pub fn finish(self, buffer: &mut Vec<u8>) {
        if self.bytes.len() > self.begin {
            self.end(buffer);
        }
    }

    fn end(mut self, buffer: &mut Vec<u8>) {
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

/// RFC 4724, 2: an UPDATE without anything.
fn end_of_rib(family: Family, buffer: &mut Vec<u8>) {
    Packer::withdraw(family).end(buffer);
}

/// In ascending order of their codes (RFC 4271, 5).
fn write_attrs(
    attrs: &Attrs,
    next_hop: Option<std::net::Ipv4Addr>,
    agreed: &Agreed,
    out: &mut Vec<u8>,
) {
    let mut list = List::new(attrs, out);
    let four = agreed.four_octet_as;
    let origin = match attrs.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    list.add(attr::ORIGIN, |out| out.push(origin));
    list.add(attr::AS_PATH, |out| as_path::write(&attrs.as_path, four, out));
    list.some(attr::NEXT_HOP, next_hop.map(|addr| addr.octets()));
    list.some(attr::MED, attrs.med.map(u32::to_be_bytes));
    if !agreed.external {
        list.some(attr::LOCAL_PREF, attrs.local_pref.map(u32::to_be_bytes));
    }
    if attrs.atomic_aggregate {
        list.add(attr::ATOMIC_AGGREGATE, |_| ());
    }
    write_aggregator(attrs, four, &mut list);
    list.each(attr::COMMUNITIES, &attrs.communities, |one, out| {
        out.extend_from_slice(&one.0.to_be_bytes());
    });
    if !agreed.external {
        list.some(attr::ORIGINATOR_ID, attrs.originator.map(|id| id.octets()));
        list.each(attr::CLUSTER_LIST, &attrs.cluster_list, |one, out| {
            out.extend_from_slice(&one.octets());
        });
    }
    if !four {
        write_as4(attrs, &mut list);
    }
    list.each(attr::LARGE_COMMUNITIES, &attrs.large_communities, |one, out| {
        for number in [one.0, one.1, one.2] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    });
    list.others_below(u16::MAX);
}

fn write_aggregator(attrs: &Attrs, four_octet_as: bool, list: &mut List<'_>) {
    let Some((asn, addr)) = attrs.aggregator else { return };
    list.add(attr::AGGREGATOR, |out| {
        if four_octet_as {
            out.extend_from_slice(&asn.to_be_bytes());
        } else {
            out.extend_from_slice(&as_path::two_octet(asn).to_be_bytes());
        }
        out.extend_from_slice(&addr.octets());
    });
}

/// What a neighbour that knows two bytes passes on to one that knows four (RFC 6793, 4.2.2).
fn write_as4(attrs: &Attrs, list: &mut List<'_>) {
    if as_path::needs_four(&attrs.as_path) {
        let path = as_path::without_confed(&attrs.as_path);
        list.add(attr::AS4_PATH, |out| as_path::write(&path, true, out));
    }
    if let Some((asn, addr)) = attrs.aggregator.filter(|(asn, _)| u16::try_from(*asn).is_err()) {
        list.add(attr::AS4_AGGREGATOR, |out| {
            out.extend_from_slice(&asn.to_be_bytes());
            out.extend_from_slice(&addr.octets());
        });
    }
}

/// A list of attributes under way. Those that are not known stand among the others by their codes.
struct List<'a> {
    out: &'a mut Vec<u8>,
    others: Vec<&'a Other>,
}

impl<'a> List<'a> {
    fn new(attrs: &'a Attrs, out: &'a mut Vec<u8>) -> Self {
        let mut others: Vec<&Other> =
            attrs.others.iter().filter(|other| attr::flags(other.code).is_none()).collect();
        others.sort_by_key(|other| std::cmp::Reverse(other.code));
        Self { out, others }
    }

    fn add(&mut self, code: u8, value: impl FnOnce(&mut Vec<u8>)) {
        self.others_below(code.into());
        let flags = attr::flags(code).unwrap_or(flag::OPTIONAL);
        self.put(flags, code, value);
    }

    fn some<const N: usize>(&mut self, code: u8, value: Option<[u8; N]>) {
        if let Some(value) = value {
            self.add(code, |out| out.extend_from_slice(&value));
        }
    }

    fn each<T>(&mut self, code: u8, values: &[T], one: impl Fn(&T, &mut Vec<u8>)) {
        if !values.is_empty() {
            self.add(code, |out| values.iter().for_each(|value| one(value, out)));
        }
    }

    fn others_below(&mut self, code: u16) {
        while let Some(other) = self.others.pop_if(|other| u16::from(other.code) < code) {
            let partial = if other.partial { flag::PARTIAL } else { 0 };
            let flags = flag::OPTIONAL | flag::TRANSITIVE | partial;
            self.put(flags, other.code, |out| out.extend_from_slice(&other.value));
        }
    }

    /// The length takes two bytes where one is not enough.
    fn put(&mut self, flags: u8, code: u8, value: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.len();
        self.out.extend_from_slice(&[flags, code, 0]);
        value(self.out);
        let length = self.out.len() - begin - 3;
        if let Ok(short) = u8::try_from(length) {
            self.out[begin + 2] = short;
            return;
        }
        self.out[begin] |= flag::EXTENDED;
        self.out.insert(begin + 3, 0);
        patch(self.out, begin + 2, length);
    }
}
