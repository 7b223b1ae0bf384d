//! The table's rules as a closed list of shapes, and how each is spelt in expressions.

use weft_core::name::IfName;

use super::super::numbers::*;
use super::{
    super::shape::{
        self as words, CMP_DATA, CMP_OP, META_DREG, META_KEY, REG_1, bitwise, compare, expression,
    },
    elements::jump,
};
use crate::wire::Batch;

const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const CT_SREG: u16 = 4;
const CT_STATE: u32 = 0;
const CT_ZONE: u32 = 17;
/// `NF_CT_STATE_BIT` of `IP_CT_ESTABLISHED` and `IP_CT_RELATED`.
const KNOWN: u32 = 2 | 4;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;
const DESTINATION_PORT: (u32, u32) = (2, 2);
const REG32_00: u32 = 8;
const ACCEPT: i32 = 1;
const ICMPV6: u8 = 58;
/// The index of `lo` in every namespace.
const LOOPBACK: u32 = 1;
/// How the names of links begin by which pods reach their nodes.
const ACCESS: &str = "weft-";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) when: Vec<When>,
    pub(super) then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Part of a connection that was let pass, or an error about one.
    Known,
    Ipv4(bool),
    /// ICMPv6 of these types.
    Icmp6 {
        first: u8,
        last: u8,
    },
    Loopback(Way),
    /// By a link between a pod and its node.
    Access(Way),
    Dev(Way, IfName),
    Among(Vec<Field>, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Source { ipv4: bool },
    Destination { ipv4: bool },
    Protocol,
    Port,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Accept,
    Return,
    /// Counted.
    Drop,
    Jump(String),
    /// Jumps to where the map leads.
    Map(Field, String),
    /// Is tracked, whatever rules behind say: what has a zone is passed over by `notrack`
    /// (`nft_notrack_eval`).
    Track,
    /// Somebody else's, never written.
    #[allow(dead_code)] // Made by whoever reads.
    Strange,
}

impl Rule {
    pub(super) fn new(when: impl Into<Vec<When>>, then: Then) -> Self {
        Self { when: when.into(), then }
    }

    pub(super) fn strange() -> Self {
        Self::new([], Then::Strange)
    }

    pub(super) fn encode(&self, batch: &mut Batch) {
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
                test(batch, NOT_EQUAL, &[0; 4]);
            }
            Self::Ipv4(ipv4) => {
                meta(batch, META_NFPROTO, REG_1);
                compare(batch, &[if *ipv4 { 2 } else { 10 }]);
            }
            Self::Icmp6 { first, last } => {
                meta(batch, META_L4PROTO, REG_1);
                compare(batch, &[ICMPV6]);
                payload(batch, TRANSPORT_HEADER, (0, 1), REG_1);
                test(batch, AT_LEAST, &[*first]);
                test(batch, AT_MOST, &[*last]);
            }
            Self::Loopback(way) => {
                meta(batch, way.choose(META_IIF, META_OIF), REG_1);
                compare(batch, &LOOPBACK.to_ne_bytes());
            }
            Self::Access(way) => {
                meta(batch, way.choose(META_IIFNAME, META_OIFNAME), REG_1);
                compare(batch, ACCESS.as_bytes());
            }
            Self::Dev(way, dev) => {
                meta(batch, way.choose(META_IIFNAME, META_OIFNAME), REG_1);
                let mut name = dev.as_str().as_bytes().to_vec();
                name.resize(16, 0);
                compare(batch, &name);
            }
            Self::Among(fields, set) => {
                load(batch, fields);
                expression(batch, "lookup", |batch| {
                    batch.attr_str(LOOKUP_SET, set).attr_be32(LOOKUP_SREG, REG_1);
                });
            }
        }
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

impl Then {
    fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Accept => words::verdict_of(batch, ACCEPT),
            Self::Return => words::verdict_of(batch, RETURN),
            Self::Drop => {
                expression(batch, "counter", |_| {});
                words::verdict_of(batch, words::DROP);
            }
            Self::Jump(chain) => expression(batch, "immediate", |batch| {
                batch
                    .attr_be32(IMMEDIATE_DREG, REG_VERDICT)
                    .nest(IMMEDIATE_DATA, |batch| jump(batch, chain));
            }),
            Self::Map(field, map) => {
                load(batch, &[*field]);
                expression(batch, "lookup", |batch| {
                    batch
                        .attr_str(LOOKUP_SET, map)
                        .attr_be32(LOOKUP_SREG, REG_1)
                        .attr_be32(LOOKUP_DREG, REG_VERDICT);
                });
            }
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

/// The fields one behind the other, each from a register of four bytes on.
fn load(batch: &mut Batch, fields: &[Field]) {
    let mut word = 0;
    for field in fields {
        // As the kernel calls them when asked.
        let register = if word % 4 == 0 { REG_1 + word / 4 } else { REG32_00 + word };
        let address = |source: u32, length: u32| (NETWORK_HEADER, (source, length));
        let (base, at) = match field {
            Field::Source { ipv4: true } => address(12, 4),
            Field::Destination { ipv4: true } => address(16, 4),
            Field::Source { ipv4: false } => address(8, 16),
            Field::Destination { ipv4: false } => address(24, 16),
            Field::Port => (TRANSPORT_HEADER, DESTINATION_PORT),
            Field::Protocol => {
                meta(batch, META_L4PROTO, register);
                word += 1;
                continue;
            }
        };
        payload(batch, base, at, register);
        word += at.1.div_ceil(4);
    }
}

fn meta(batch: &mut Batch, key: u32, register: u32) {
    expression(batch, "meta", |batch| {
        batch.attr_be32(META_KEY, key).attr_be32(META_DREG, register);
    });
}

fn ct(batch: &mut Batch, key: u32) {
    expression(batch, "ct", |batch| {
        batch.attr_be32(CT_KEY, key).attr_be32(CT_DREG, REG_1);
    });
}

fn payload(batch: &mut Batch, base: u32, (offset, length): (u32, u32), register: u32) {
    expression(batch, "payload", |batch| {
        batch
            .attr_be32(PAYLOAD_DREG, register)
            .attr_be32(PAYLOAD_BASE, base)
            .attr_be32(PAYLOAD_OFFSET, offset)
            .attr_be32(PAYLOAD_LEN, length);
    });
}

fn test(batch: &mut Batch, how: u32, value: &[u8]) {
    expression(batch, "cmp", |batch| {
        batch.attr_be32(CMP_SREG, REG_1).attr_be32(CMP_OP, how).nest(CMP_DATA, |batch| {
            batch.attr(DATA_VALUE, value);
        });
    });
}
