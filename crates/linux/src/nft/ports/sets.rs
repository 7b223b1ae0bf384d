//! The sets and maps of the table, and their elements as objects.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use weft_core::{
    mark,
    policy::spec::Protocol,
    ports::{Client, Door},
    state::Object,
};

pub(super) use super::super::numbers::*;
use super::super::{INET, LIST_ELEM, NLM_F_CREATE, header, text_of, value_of};
use crate::{
    socket,
    wire::{self, Batch},
};

const SET_DATA_LEN: u16 = 7;
pub(super) const IS_MAP: u32 = 8;
/// `nft`'s own numbers for what keys are made of; a concatenation has six bits for each.
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// One family's part of the table.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) ipv4: bool,
    /// `NFPROTO_*`.
    pub(super) number: u8,
    pub(super) kind: u32,
    pub(super) octets: u32,
    pub(super) source: u32,
    pub(super) destination: u32,
    /// Registers behind an address in the first: as the kernel numbers them when it is asked.
    pub(super) second: u32,
    pub(super) third: u32,
}

pub(super) const FAMILIES: [Family; 2] = [
    Family {
        ipv4: true,
        number: 2,
        kind: 7,
        octets: 4,
        source: 12,
        destination: 16,
        second: 9,
        third: 10,
    },
    Family {
        ipv4: false,
        number: 10,
        kind: 8,
        octets: 16,
        source: 8,
        destination: 24,
        second: 2,
        third: 13,
    },
];
pub(super) fn family(ipv4: bool) -> &'static Family {
    &FAMILIES[usize::from(!ipv4)]
}

/// A set or map: what it is of, and the types of its keys.
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) family: &'static Family,
    of: Of,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Ports at one address of the node.
    One,
    /// Ports at any.
    Any,
    Hidden(Client),
}

pub(super) const SETS: [Set; 8] = [
    Set { name: "one4", family: &FAMILIES[0], of: Of::One },
    Set { name: "one6", family: &FAMILIES[1], of: Of::One },
    Set { name: "any4", family: &FAMILIES[0], of: Of::Any },
    Set { name: "any6", family: &FAMILIES[1], of: Of::Any },
    Set { name: "itself4", family: &FAMILIES[0], of: Of::Hidden(Client::Itself) },
    Set { name: "itself6", family: &FAMILIES[1], of: Of::Hidden(Client::Itself) },
    Set { name: "anybody4", family: &FAMILIES[0], of: Of::Hidden(Client::Anybody) },
    Set { name: "anybody6", family: &FAMILIES[1], of: Of::Hidden(Client::Anybody) },
];

pub(super) fn set_of(ipv4: bool, of: Of) -> &'static Set {
    let found = SETS.iter().find(|set| set.family.ipv4 == ipv4 && set.of == of);
    found.expect("there is one of each kind in each family")
}

impl Set {
    /// The type of the key, and its length with each part padded to four bytes.
    pub(super) fn key(&self) -> (u32, u32) {
        let joined = |parts: &[u32]| parts.iter().fold(0, |all, part| all << TYPE_BITS | part);
        let (kind, octets) = (self.family.kind, self.family.octets);
        match self.of {
            Of::One => (joined(&[kind, TYPE_PROTOCOL, TYPE_PORT]), octets + 8),
            Of::Any => (joined(&[TYPE_PROTOCOL, TYPE_PORT]), 8),
            Of::Hidden(Client::Itself) => (joined(&[kind, kind]), 2 * octets),
            Of::Hidden(Client::Anybody) => (kind, octets),
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.of, Of::One | Of::Any)
    }

    pub(super) fn write(&self, batch: &mut Batch, id: u32) {
        let (kind, length) = self.key();
        batch
            .begin(NEWSET, NLM_F_CREATE, &header(INET))
            .attr_str(SET_TABLE, mark::PORTS)
            .attr_str(SET_NAME, self.name)
            .attr_be32(SET_KEY_TYPE, kind)
            .attr_be32(SET_KEY_LEN, length)
            .attr_be32(SET_ID, id);
        if self.is_map() {
            batch
                .attr_be32(SET_FLAGS, IS_MAP)
                .attr_be32(SET_DATA_TYPE, self.family.kind << TYPE_BITS | TYPE_PORT)
                .attr_be32(SET_DATA_LEN, self.family.octets + 4);
        }
        batch.end();
    }

    /// The object that an element is.
    fn object(&self, key: &[u8], data: Option<&[u8]>) -> Option<Object> {
        let octets = usize::try_from(self.family.octets).ok()?;
        let ipv4 = self.family.ipv4;
        let first = || wire::ip(key.get(..octets)?);
        match self.of {
            Of::Hidden(from) => Some(Object::Hidden { addr: first()?, from }),
            Of::One | Of::Any => {
                let (ip, rest) = match self.of {
                    Of::One => (Some(first()?), key.get(octets..)?),
                    _ => (None, key),
                };
                let protocol = protocol(*rest.first()?)?;
                let port = port_at(rest, 4)?;
                let data = data?;
                let to = SocketAddr::new(wire::ip(data.get(..octets)?)?, port_at(data, octets)?);
                Some(Object::Port { door: Door { ipv4, ip, protocol, port }, to })
            }
        }
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().find(|protocol| protocol.number() == number)
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The set of a door and its key there.
pub(super) fn door_key(door: &Door) -> (&'static Set, Vec<u8>) {
    let set = set_of(door.ipv4, if door.ip.is_some() { Of::One } else { Of::Any });
    let mut key = door.ip.map(octets).unwrap_or_default();
    key.extend([door.protocol.number(), 0, 0, 0]);
    key.extend(door.port.to_be_bytes());
    key.extend([0, 0]);
    (set, key)
}

pub(super) fn hidden_key(addr: IpAddr, from: Client) -> (&'static Set, Vec<u8>) {
    let times = if from == Client::Itself { 2 } else { 1 };
    (set_of(addr.is_ipv4(), Of::Hidden(from)), octets(addr).repeat(times))
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn element(
    batch: &mut Batch,
    kind: u16,
    flags: u16,
    (set, key, data): (&Set, &[u8], Option<&[u8]>),
) {
    batch
        .begin(kind, flags, &header(INET))
        .attr_str(ELEMS_TABLE, mark::PORTS)
        .attr_str(ELEMS_SET, set.name)
        .nest(ELEMS, |batch| {
            batch.nest(LIST_ELEM, |batch| {
                let value = |value: &[u8]| {
                    let value = value.to_vec();
                    move |batch: &mut Batch| {
                        batch.attr(DATA_VALUE, &value);
                    }
                };
                batch.nest(ELEM_KEY, value(key));
                if let Some(data) = data {
                    batch.nest(ELEM_DATA, value(data));
                }
            });
        })
        .end();
}

/// Each set's name, key and flags.
pub(super) fn sets(socket: &mut socket::Link) -> io::Result<Vec<(String, (u32, u32), u32)>> {
    socket.dump(
        GETSET,
        &header(INET),
        |batch| {
            batch.attr_str(SET_TABLE, mark::PORTS);
        },
        |message| {
            let number = |of| {
                let value = value_of(message, of)?.try_into().ok();
                value.map(u32::from_be_bytes)
            };
            let key = (number(SET_KEY_TYPE)?, number(SET_KEY_LEN)?);
            let ours = text_of(message, SET_TABLE)? == mark::PORTS;
            ours.then(|| {
                let name = text_of(message, SET_NAME).unwrap_or_default();
                (name, key, number(SET_FLAGS).unwrap_or(0))
            })
        },
    )
}

pub(super) fn elements(socket: &mut socket::Link) -> io::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for set in &SETS {
        let lists = socket.dump(
            GETSETELEM,
            &header(INET),
            |batch| {
                batch.attr_str(ELEMS_TABLE, mark::PORTS).attr_str(ELEMS_SET, set.name);
            },
            |message| {
                let value = |elem: &[u8], of| {
                    let (_, nested) = wire::attrs(elem).find(|(kind, _)| *kind == of)?;
                    let (_, value) = wire::attrs(nested).find(|(kind, _)| *kind == DATA_VALUE)?;
                    Some(value.to_vec())
                };
                let elems = wire::attrs(value_of(message, ELEMS)?).filter_map(|(_, elem)| {
                    set.object(&value(elem, ELEM_KEY)?, value(elem, ELEM_DATA).as_deref())
                });
                Some(elems.collect::<Vec<_>>())
            },
        );
        objects.extend(lists?.into_iter().flatten());
    }
    Ok(objects)
}
