//! Rules as a closed list of shapes, and how each is spelt in expressions.

use ipnet::IpNet;
use weft_core::name::IfName;

use super::super::{
    numbers::*,
    words::{
        self, CMP_AT_LEAST, CMP_AT_MOST, CMP_EQ, CMP_NEQ, META_PROTOCOL, REG_1, bitwise, compare,
        ct, expression, lookup, meta, payload, test,
    },
};
use super::element::verdict;
use crate::{uapi::RTN_LOCAL, wire::Batch};

const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const CT_SREG: u16 = 4;
const CT_STATE: u32 = 0;
const CT_ZONE: u32 = 17;
/// `NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
const KNOWN: u32 = 2 | 4;
const FIB_TYPE: u32 = 3;
const FIB_OF_DADDR: u32 = 2;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDR_MIN: u16 = 3;
const NAT_ADDR_MAX: u16 = 4;
const NAT_PROTO_MIN: u16 = 5;
const NAT_PROTO_MAX: u16 = 6;
const NAT_FLAGS: u16 = 7;
const DNAT: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED`.
const ADDRESS_AND_PORT: u32 = 1 | 2;
const REG32_00: u32 = 8;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;
const ICMPV6: u8 = 58;
/// The index of `lo` in every namespace.
const LOOPBACK: u32 = 1;
/// Destinations that no bridge passes on (IEEE 802.1Q, 8.6.3), and how many bits they have in common.
const RESERVED: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
const RESERVED_MASK: [u8; 6] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xf0];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Rule {
    when: Vec<When>,
    then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum When {
    /// Part of a connection that was let pass, or an error about one.
    Known,
    /// Of a connection whose destination was translated.
    Translated,
    Ipv4(bool),
    /// What the kernel takes it for, where it is not the hook that says so.
    EtherType(u16),
    NotEtherType(u16),
    /// What the frame says that it is.
    FrameIs(u16),
    /// ICMPv6 of these types.
    Icmp6 {
        first: u8,
        last: u8,
    },
    NotIcmp6,
    Loopback(Way),
    Link(Way, Name),
    /// Not a link of that name.
    NotLink(Way, Name),
    Within(Field, IpNet),
    Among(Vec<Field>, String),
    NotAmong(Vec<Field>, String),
    /// To an address of this host.
    ToHost,
    /// To a MAC address that bridges keep to themselves.
    ToReserved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Way {
    In,
    Out,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Name {
    Is(IfName),
    Begins(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Field {
    Source {
        ipv4: bool,
    },
    Destination {
        ipv4: bool,
    },
    Protocol,
    Port,
    InLink,
    OutLink,
    SourceMac,
    /// Who says so in an ARP packet.
    ArpMac,
    ArpSource,
    /// Of whom a neighbour advertisement is.
    NdTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Then {
    Accept,
    Return,
    /// Counted.
    Drop,
    Jump(String),
    /// For good.
    Goto(String),
    /// Jumps to where the map leads.
    Map(Vec<Field>, String),
    /// To the address and port that the map leads to.
    Dnat {
        ipv4: bool,
        by: Vec<Field>,
        map: String,
    },
    Masquerade,
    /// Is tracked, whatever rules behind say: what has a zone is passed over by `notrack`
    /// (`nft_notrack_eval`).
    Track,
    /// Somebody else's, never written.
    Strange,
}

impl Rule {
    pub(in crate::nft) fn new(when: impl Into<Vec<When>>, then: Then) -> Self {
        Self { when: when.into(), then }
    }

    pub(in crate::nft) fn strange() -> Self {
        Self::new([], Then::Strange)
    }

    pub(in crate::nft) fn encode(&self, batch: &mut Batch) {
        self.when.iter().for_each(|when| when.encode(batch));
        self.then.encode(batch);
    }
}

impl When {
    fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Known => {
                ct(batch, CT_STATE);
                bitwise(batch, &KNOWN.to_ne_bytes());
                test(batch, CMP_NEQ, &[0; 4]);
            }
            Self::Translated => words::translated(batch, true),
            Self::Ipv4(ipv4) => words::family(batch, *ipv4),
            Self::EtherType(kind) => {
                meta(batch, META_PROTOCOL, REG_1);
                compare(batch, &kind.to_be_bytes());
            }
            Self::NotEtherType(kind) => {
                meta(batch, META_PROTOCOL, REG_1);
                test(batch, CMP_NEQ, &kind.to_be_bytes());
            }
            Self::FrameIs(kind) => {
                payload(batch, LINK_HEADER, (12, 2), REG_1);
                compare(batch, &kind.to_be_bytes());
            }
            Self::Icmp6 { first, last } => {
                meta(batch, META_L4PROTO, REG_1);
                compare(batch, &[ICMPV6]);
                payload(batch, TRANSPORT_HEADER, (0, 1), REG_1);
                test(batch, CMP_AT_LEAST, &[*first]);
                test(batch, CMP_AT_MOST, &[*last]);
            }
            Self::NotIcmp6 => {
                meta(batch, META_L4PROTO, REG_1);
                test(batch, CMP_NEQ, &[ICMPV6]);
            }
            Self::Loopback(way) => {
                meta(batch, way.choose(META_IIF, META_OIF), REG_1);
                compare(batch, &LOOPBACK.to_ne_bytes());
            }
            Self::Link(way, name) => link(batch, *way, CMP_EQ, name),
            Self::NotLink(way, name) => link(batch, *way, CMP_NEQ, name),
            Self::Within(field, net) => {
                let (base, at) = field.place().unwrap_or_default();
                words::within(batch, (base, at), net);
            }
            Self::Among(fields, set) => {
                load(batch, fields);
                lookup(batch, set, None, false);
            }
            Self::NotAmong(fields, set) => {
                load(batch, fields);
                lookup(batch, set, None, true);
            }
            Self::ToHost => {
                expression(batch, "fib", |batch| {
                    batch
                        .attr_be32(FIB_DREG, REG_1)
                        .attr_be32(FIB_RESULT, FIB_TYPE)
                        .attr_be32(FIB_FLAGS, FIB_OF_DADDR);
                });
                compare(batch, &u32::from(RTN_LOCAL).to_ne_bytes());
            }
            Self::ToReserved => {
                payload(batch, LINK_HEADER, (0, 6), REG_1);
                bitwise(batch, &RESERVED_MASK);
                compare(batch, &RESERVED);
            }
        }
    }
}

fn link(batch: &mut Batch, way: Way, how: u32, name: &Name) {
    meta(batch, way.choose(META_IIFNAME, META_OIFNAME), REG_1);
    match name {
        Name::Is(dev) => test(batch, how, &words::whole_name(dev)),
        Name::Begins(with) => test(batch, how, with.as_bytes()),
    }
}

impl Way {
    fn choose(self, input: u32, output: u32) -> u32 {
        match self {
            Self::In => input,
            Self::Out => output,
        }
    }
}

impl Field {
    /// In which header, at which byte, and how many; what is in none: nothing.
    fn place(self) -> Option<(u32, (u32, u32))> {
        Some(match self {
            Self::Source { ipv4: true } => (NETWORK_HEADER, (12, 4)),
            Self::Destination { ipv4: true } => (NETWORK_HEADER, (16, 4)),
            Self::Source { ipv4: false } => (NETWORK_HEADER, (8, 16)),
            Self::Destination { ipv4: false } => (NETWORK_HEADER, (24, 16)),
            Self::Port => (TRANSPORT_HEADER, (2, 2)),
            Self::SourceMac => (LINK_HEADER, (6, 6)),
            Self::ArpMac => (NETWORK_HEADER, (8, 6)),
            Self::ArpSource => (NETWORK_HEADER, (14, 4)),
            Self::NdTarget => (TRANSPORT_HEADER, (8, 16)),
            Self::Protocol | Self::InLink | Self::OutLink => return None,
        })
    }
}

impl Then {
    fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Accept => words::verdict_of(batch, ACCEPT),
            Self::Return => words::verdict_of(batch, RETURN),
            Self::Drop => {
                expression(batch, "counter", |_| {});
                words::verdict_of(batch, words::DROP);
            }
            Self::Jump(chain) => leave(batch, JUMP, chain),
            Self::Goto(chain) => leave(batch, GOTO, chain),
            Self::Map(fields, map) => {
                load(batch, fields);
                lookup(batch, map, Some(REG_VERDICT), false);
            }
            Self::Dnat { ipv4, by, map } => dnat(batch, *ipv4, by, map),
            Self::Masquerade => expression(batch, "masq", |_| {}),
            Self::Track => {
                expression(batch, "immediate", |batch| {
                    batch.attr_be32(IMMEDIATE_DREG, REG_1).nest(IMMEDIATE_DATA, |batch| {
                        batch.attr(DATA_VALUE, &0_u16.to_ne_bytes());
                    });
                });
                expression(batch, "ct", |batch| {
                    batch.attr_be32(CT_KEY, CT_ZONE).attr_be32(CT_SREG, REG_1);
                });
            }
            Self::Strange => {}
        }
    }
}

fn leave(batch: &mut Batch, code: i32, chain: &str) {
    expression(batch, "immediate", |batch| {
        batch
            .attr_be32(IMMEDIATE_DREG, REG_VERDICT)
            .nest(IMMEDIATE_DATA, |batch| verdict(batch, code, chain));
    });
}

fn dnat(batch: &mut Batch, ipv4: bool, by: &[Field], map: &str) {
    load(batch, by);
    lookup(batch, map, Some(REG_1), false);
    let port = register(if ipv4 { 1 } else { 4 });
    expression(batch, "nat", |batch| {
        batch
            .attr_be32(NAT_TYPE, DNAT)
            .attr_be32(NAT_FAMILY, words::nfproto(ipv4).into())
            .attr_be32(NAT_ADDR_MIN, REG_1)
            .attr_be32(NAT_ADDR_MAX, REG_1)
            .attr_be32(NAT_PROTO_MIN, port)
            .attr_be32(NAT_PROTO_MAX, port)
            .attr_be32(NAT_FLAGS, ADDRESS_AND_PORT);
    });
}

/// The register of that word of four bytes, as the kernel calls it when asked.
fn register(word: u32) -> u32 {
    if word.is_multiple_of(4) { REG_1 + word / 4 } else { REG32_00 + word }
}

/// The fields one behind the other.
fn load(batch: &mut Batch, fields: &[Field]) {
    let mut word = 0;
    for field in fields {
        let to = register(word);
        if let Some((base, at)) = field.place() {
            payload(batch, base, at, to);
            word += at.1.div_ceil(4);
        } else if *field == Field::Protocol {
            meta(batch, META_L4PROTO, to);
            word += 1;
        } else {
            let key = if *field == Field::InLink { META_IIFNAME } else { META_OIFNAME };
            meta(batch, key, to);
            word += 4;
        }
    }
}
