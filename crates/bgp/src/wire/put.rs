//! Path attributes, written.

use std::{cmp::Reverse, net::Ipv4Addr};

use super::{
    Agreed, as_path,
    attribute::{self as attr, flag},
    message::patch,
};
use crate::attrs::{Attrs, Origin, Other};

/// In ascending order of their codes (RFC 4271, 5).
pub fn attrs(attrs: &Attrs, next_hop: Option<Ipv4Addr>, agreed: &Agreed, out: &mut Vec<u8>) {
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
        others.sort_by_key(|other| Reverse(other.code));
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
