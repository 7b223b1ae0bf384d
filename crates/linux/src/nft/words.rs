//! Expressions, of which rules are made (include/uapi/linux/netfilter/nf_tables.h).

use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::name::IfName;

use super::{LIST_ELEM, numbers::*};
use crate::wire::Batch;

pub(super) const META_DREG: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const META_PROTOCOL: u32 = 1;
pub(super) const META_IIFTYPE: u32 = 8;
pub(super) const CMP_OP: u16 = 2;
pub(super) const CMP_DATA: u16 = 3;
pub(super) const CMP_EQ: u32 = 0;
pub(super) const CMP_NEQ: u32 = 1;
pub(super) const CMP_AT_MOST: u32 = 3;
pub(super) const CMP_AT_LEAST: u32 = 5;
pub(super) const BITWISE_SREG: u16 = 1;
pub(super) const BITWISE_DREG: u16 = 2;
pub(super) const BITWISE_LEN: u16 = 3;
pub(super) const BITWISE_MASK: u16 = 4;
pub(super) const BITWISE_XOR: u16 = 5;
pub(super) const LOOKUP_FLAGS: u16 = 5;
const LOOKUP_INVERSE: u32 = 1;
pub(super) const CT_STATUS: u32 = 2;
/// `IPS_DST_NAT`.
pub(super) const DST_NAT: u32 = 1 << 5;
pub(super) const REG_1: u32 = 1;
pub(super) const DROP: i32 = 0;
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

pub(super) fn expression(batch: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    batch.nest(LIST_ELEM, |batch| {
        batch.attr_str(EXPR_NAME, name).nest(EXPR_DATA, data);
    });
}

pub(super) fn meta(batch: &mut Batch, key: u32, register: u32) {
    expression(batch, "meta", |batch| {
        batch.attr_be32(META_KEY, key).attr_be32(META_DREG, register);
    });
}

pub(super) fn ct(batch: &mut Batch, key: u32) {
    expression(batch, "ct", |batch| {
        batch.attr_be32(CT_KEY, key).attr_be32(CT_DREG, REG_1);
    });
}

pub(super) fn payload(batch: &mut Batch, base: u32, (offset, length): (u32, u32), register: u32) {
    expression(batch, "payload", |batch| {
        batch
            .attr_be32(PAYLOAD_DREG, register)
            .attr_be32(PAYLOAD_BASE, base)
            .attr_be32(PAYLOAD_OFFSET, offset)
            .attr_be32(PAYLOAD_LEN, length);
    });
}

/// Whether what is loaded is in the set, or is not; `to`: where what it leads to goes.
pub(super) fn lookup(batch: &mut Batch, set: &str, to: Option<u32>, inverse: bool) {
    expression(batch, "lookup", |batch| {
        batch.attr_str(LOOKUP_SET, set).attr_be32(LOOKUP_SREG, REG_1);
        if let Some(register) = to {
            batch.attr_be32(LOOKUP_DREG, register);
        }
        if inverse {
            batch.attr_be32(LOOKUP_FLAGS, LOOKUP_INVERSE);
        }
    });
}

pub(super) fn test(batch: &mut Batch, how: u32, value: &[u8]) {
    expression(batch, "cmp", |batch| {
        batch.attr_be32(CMP_SREG, REG_1).attr_be32(CMP_OP, how).nest(CMP_DATA, |batch| {
            batch.attr(DATA_VALUE, value);
        });
    });
}

pub(super) fn compare(batch: &mut Batch, value: &[u8]) {
    test(batch, CMP_EQ, value);
}

pub(super) fn bitwise(batch: &mut Batch, mask: &[u8]) {
    let length = u32::try_from(mask.len()).unwrap_or(16);
    expression(batch, "bitwise", |batch| {
        batch
            .attr_be32(BITWISE_SREG, REG_1)
            .attr_be32(BITWISE_DREG, REG_1)
            .attr_be32(BITWISE_LEN, length)
            .nest(BITWISE_MASK, |batch| {
                batch.attr(DATA_VALUE, mask);
            })
            .nest(BITWISE_XOR, |batch| {
                batch.attr(DATA_VALUE, &vec![0; mask.len()]);
            });
    });
}

pub(super) fn verdict_of(batch: &mut Batch, code: i32) {
    expression(batch, "immediate", |batch| {
        batch.attr_be32(IMMEDIATE_DREG, REG_VERDICT).nest(IMMEDIATE_DATA, |batch| {
            batch.nest(DATA_VERDICT, |batch| {
                batch.attr_be32(VERDICT_CODE, code.cast_unsigned());
            });
        });
    });
}

pub(super) fn nfproto(ipv4: bool) -> u8 {
    if ipv4 { IPV4 } else { IPV6 }
}

pub(super) fn family(batch: &mut Batch, ipv4: bool) {
    meta(batch, META_NFPROTO, REG_1);
    compare(batch, &[nfproto(ipv4)]);
}

/// The address that stands there is in the prefix. The whole family is not asked for.
pub(super) fn within(batch: &mut Batch, (base, at): (u32, (u32, u32)), net: &IpNet) {
    if net.prefix_len() == 0 {
        return;
    }
    payload(batch, base, at, REG_1);
    if net.prefix_len() < net.max_prefix_len() {
        bitwise(batch, &octets(net.netmask()));
    }
    compare(batch, &octets(net.network()));
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Whether the connection's destination was translated.
pub(super) fn translated(batch: &mut Batch, is: bool) {
    ct(batch, CT_STATUS);
    bitwise(batch, &DST_NAT.to_ne_bytes());
    test(batch, if is { CMP_NEQ } else { CMP_EQ }, &[0; 4]);
}

/// A name as the kernel compares it, to its end.
pub(super) fn whole_name(dev: &IfName) -> [u8; 16] {
    let mut name = [0; 16];
    name[..dev.as_str().len()].copy_from_slice(dev.as_str().as_bytes());
    name
}
