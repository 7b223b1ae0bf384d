//! Rules about links: pods' pairs of access, which are known by how the names of their host's ends
//! begin, and bridges.

use weft_core::{name::IfName, policy::Rule};

pub(super) use super::numbers::*;
use super::shape::{
    self, CMP_DATA, CMP_EQ, CMP_NEQ, CMP_OP, CMP_SREG, DATA_VALUE, DROP, META_DREG, META_KEY,
    REG_1, Reading, compare, expression, number, value, verdict,
};
use crate::wire::{self, Batch};

const RESULT_OIF: u32 = 1;
/// `saddr . iif`, and whether there is a route at all (include/uapi/linux/netfilter/nf_tables.h).
const SADDR_IIF_PRESENT: u32 = 1 | 8 | 32;
const CT_STATUS: u32 = 2;
/// `IPS_DST_NAT`.
const DST_NAT: u32 = 1 << 5;

/// An expression's name and data.
type Part<'a> = (String, &'a [u8]);

pub(super) fn spoofed(batch: &mut Batch) {
    link(batch, META_IIFNAME);
    expression(batch, "fib", |batch| {
        batch
            .attr_be32(FIB_DREG, REG_1)
            .attr_be32(FIB_RESULT, RESULT_OIF)
            .attr_be32(FIB_FLAGS, SADDR_IIF_PRESENT);
    });
    compare(batch, &[0; 4]);
    shape::verdict_of(batch, DROP);
}

/// The links of the one pair and the other, before what is asked of addresses.
pub(super) fn between(batch: &mut Batch) {
    link(batch, META_IIFNAME);
    link(batch, META_OIFNAME);
}

pub(super) fn unless_translated(batch: &mut Batch) {
    translation(batch);
    compare(batch, &[0; 4]);
}

/// Asks for the bit of a connection whose destination was translated.
fn translation(batch: &mut Batch) {
    expression(batch, "ct", |batch| {
        batch.attr_be32(CT_KEY, CT_STATUS).attr_be32(CT_DREG, REG_1);
    });
    shape::bitwise(batch, &DST_NAT.to_ne_bytes());
}

pub(super) fn if_translated(batch: &mut Batch) {
    translation(batch);
    expression(batch, "cmp", |batch| {
        batch.attr_be32(CMP_SREG, REG_1).attr_be32(CMP_OP, CMP_NEQ).nest(CMP_DATA, |batch| {
            batch.attr(DATA_VALUE, &[0; 4]);
        });
    });
}

pub(super) fn masquerade(batch: &mut Batch) {
    link(batch, META_IIFNAME);
    expression(batch, "masq", |_| {});
}

pub(super) fn masquerade_led(batch: &mut Batch) {
    link(batch, META_OIFNAME);
    if_translated(batch);
    expression(batch, "masq", |_| {});
}

pub(super) fn masquerade_back(batch: &mut Batch, dev: &IfName) {
    for key in [META_IIFNAME, META_OIFNAME] {
        named(batch, key, &whole_name(dev));
    }
    if_translated(batch);
    expression(batch, "masq", |_| {});
}

/// A name as the kernel compares it, to its end.
fn whole_name(dev: &IfName) -> [u8; 16] {
    let mut name = [0; 16];
    name[..dev.as_str().len()].copy_from_slice(dev.as_str().as_bytes());
    name
}

fn link(batch: &mut Batch, key: u32) {
    named(batch, key, IfName::ACCESS.as_bytes());
}

/// Asks for a link's name, or for how it begins.
pub(super) fn named(batch: &mut Batch, key: u32, name: &[u8]) {
    expression(batch, "meta", |batch| {
        batch.attr_be32(META_KEY, key).attr_be32(META_DREG, REG_1);
    });
    compare(batch, name);
}

pub(super) fn decode(parts: &[Part<'_>]) -> Option<Rule> {
    back(parts).or_else(|| led(parts)).or_else(|| by_access(parts))
}

fn led(parts: &[Part<'_>]) -> Option<Rule> {
    masquerades_translated(behind_link(parts, META_OIFNAME)?)?.then_some(Rule::MasqueradeLed)
}

fn masquerades_translated(parts: &[Part<'_>]) -> Option<bool> {
    let [(ct, key), (bits, mask), (cmp, none), (masq, data)] = parts else { return None };
    Some(
        is_translation(ct, key, bits, mask)?
            && cmp == "cmp"
            && number(none, CMP_OP)? == CMP_NEQ
            && value(none, CMP_DATA)? == [0; 4]
            && masq == "masq"
            && data.is_empty(),
    )
}

fn back(parts: &[Part<'_>]) -> Option<Rule> {
    let (_, name) = parts.get(1)?;
    let dev: IfName = wire::text(value(name, CMP_DATA)?).parse().ok()?;
    let rest = behind_name(parts, META_IIFNAME, &whole_name(&dev))?;
    let rest = behind_name(rest, META_OIFNAME, &whole_name(&dev))?;
    masquerades_translated(rest)?.then_some(Rule::MasqueradeBack { dev })
}

fn is_translation(ct: &str, key: &[u8], bits: &str, mask: &[u8]) -> Option<bool> {
    Some(
        ct == "ct"
            && number(key, CT_KEY)? == CT_STATUS
            && bits == "bitwise"
            && value(mask, shape::BITWISE_MASK)? == DST_NAT.to_ne_bytes()
            && value(mask, shape::BITWISE_XOR)? == [0; 4],
    )
}

fn by_access(parts: &[Part<'_>]) -> Option<Rule> {
    let rest = behind_link(parts, META_IIFNAME)?;
    match rest {
        [(masq, data)] => (masq == "masq" && data.is_empty()).then_some(Rule::MasqueradeAccess),
        [(fib, asked), none, last] => {
            let whole = fib == "fib"
                && number(asked, FIB_RESULT)? == RESULT_OIF
                && number(asked, FIB_FLAGS)? == SADDR_IIF_PRESENT
                && is_zero(none)
                && drops(last);
            whole.then_some(Rule::Spoofed)
        }
        _ => apart(behind_link(rest, META_OIFNAME)?),
    }
}

fn apart(parts: &[Part<'_>]) -> Option<Rule> {
    let (_, asked) = parts.split_last().filter(|(last, _)| drops(last))?;
    let (addresses, unless_translated) = match asked {
        [addresses @ .., (ct, key), (bits, mask), none] if ct == "ct" => {
            let dnat = is_translation(ct, key, bits, mask)? && is_zero(none);
            dnat.then_some((addresses, true))?
        }
        addresses => (addresses, false),
    };
    let mut reading = Reading::default();
    addresses.iter().try_for_each(|(name, data)| reading.take(name, data))?;
    let (from, to) = reading.addresses()?;
    (from == to).then_some(Rule::Apart { range: from, unless_translated })
}

/// What stands behind the question for a pair's name.
fn behind_link<'a, 'b>(parts: &'a [Part<'b>], key: u32) -> Option<&'a [Part<'b>]> {
    behind_name(parts, key, IfName::ACCESS.as_bytes())
}

fn behind_name<'a, 'b>(parts: &'a [Part<'b>], key: u32, of: &[u8]) -> Option<&'a [Part<'b>]> {
    let [(meta, asked), (cmp, name), rest @ ..] = parts else { return None };
    let whole = meta == "meta"
        && number(asked, META_KEY)? == key
        && cmp == "cmp"
        && number(name, CMP_OP)? == CMP_EQ
        && value(name, CMP_DATA)? == of;
    whole.then_some(rest)
}

fn is_zero((name, data): &Part<'_>) -> bool {
    let zero = || value(data, CMP_DATA).is_some_and(|value| value.iter().all(|byte| *byte == 0));
    name == "cmp" && number(data, CMP_OP) == Some(CMP_EQ) && zero()
}

fn drops((name, data): &Part<'_>) -> bool {
    name == "immediate" && verdict(data) == Some(DROP)
}
