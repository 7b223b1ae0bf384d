//! Rules about links: pods' pairs of access, which are known by how the names of their host's ends
//! begin, and bridges.

use weft_core::{name::IfName, policy::Rule};

use super::{
    numbers::*,
    shape::{Reading, number, value, verdict},
    words::{
        self, BITWISE_MASK, BITWISE_XOR, CMP_DATA, CMP_EQ, CMP_NEQ, CMP_OP, CT_STATUS, DROP,
        DST_NAT, META_KEY, REG_1, compare, expression, meta,
    },
};
use crate::wire::{self, Batch};

/// An expression's name and data.
type Part<'a> = (String, &'a [u8]);

/// The links of the one pair and the other, before what is asked of addresses.
pub(super) fn between(batch: &mut Batch) {
    link(batch, META_IIFNAME);
    link(batch, META_OIFNAME);
}

pub(super) fn masquerade(batch: &mut Batch) {
    link(batch, META_IIFNAME);
    expression(batch, "masq", |_| {});
}

pub(super) fn masquerade_led(batch: &mut Batch) {
    link(batch, META_OIFNAME);
    words::translated(batch, true);
    expression(batch, "masq", |_| {});
}

pub(super) fn masquerade_back(batch: &mut Batch, dev: &IfName) {
    for key in [META_IIFNAME, META_OIFNAME] {
        named(batch, key, &words::whole_name(dev));
    }
    words::translated(batch, true);
    expression(batch, "masq", |_| {});
}

fn link(batch: &mut Batch, key: u32) {
    named(batch, key, IfName::ACCESS.as_bytes());
}

/// Asks for a link's name, or for how it begins.
fn named(batch: &mut Batch, key: u32, name: &[u8]) {
    meta(batch, key, REG_1);
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
    let rest = behind_name(parts, META_IIFNAME, &words::whole_name(&dev))?;
    let rest = behind_name(rest, META_OIFNAME, &words::whole_name(&dev))?;
    masquerades_translated(rest)?.then_some(Rule::MasqueradeBack { dev })
}

fn is_translation(ct: &str, key: &[u8], bits: &str, mask: &[u8]) -> Option<bool> {
    Some(
        ct == "ct"
            && number(key, CT_KEY)? == CT_STATUS
            && bits == "bitwise"
            && value(mask, BITWISE_MASK)? == DST_NAT.to_ne_bytes()
            && value(mask, BITWISE_XOR)? == [0; 4],
    )
}

fn by_access(parts: &[Part<'_>]) -> Option<Rule> {
    let rest = behind_link(parts, META_IIFNAME)?;
    match rest {
        [(masq, data)] => (masq == "masq" && data.is_empty()).then_some(Rule::MasqueradeAccess),
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
