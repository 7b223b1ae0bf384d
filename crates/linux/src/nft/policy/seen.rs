//! The table as it is. A rule that is not what we write there is a stranger's, and whatever has a name
//! that we do not give: all of that goes with the next change.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use weft_core::mark::POLICY_TABLE;

use super::super::numbers::*;
use super::{
    super::{
        ACCEPT, CHAIN_TABLE, GETRULE, INET, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, chains,
        header, tables, text_of, value_of,
    },
    elements::{self, Told},
    rule::Rule,
    shape::{Numbers, Shape},
    table::{Chain, Hook, Set, Table},
};
use crate::{
    socket,
    wire::{self, Batch},
};

const NESTED: u16 = 1 << 15;

pub(super) enum Seen {
    Absent,
    Table(Table),
    /// Something in it can't be changed into what it should be: it must be made anew.
    Altered,
}

/// What is there, beside what should be: what equals it is not looked into any further.
pub(super) fn look(socket: &mut socket::Link, wanted: &Table) -> io::Result<Seen> {
    let all = tables(socket)?;
    match all.iter().find(|table| table.family == INET && table.name == POLICY_TABLE) {
        None => return Ok(Seen::Absent),
        Some(table) if table.flags != 0 => return Ok(Seen::Altered),
        Some(_) => {}
    }
    let mut seen = Table::default();
    for base in chains(socket)? {
        if base.family != INET || base.table != POLICY_TABLE {
            continue;
        }
        let hook = base.hook.zip(base.priority);
        let hook = hook.map(|(number, priority)| Hook { number, priority });
        let known = wanted.chains.get(&base.name);
        let passes = hook.is_none() || base.policy == Some(ACCEPT) && base.kind == "filter";
        if known.is_some_and(|known| known.hook != hook) || !passes {
            return Ok(Seen::Altered);
        }
        seen.chains.insert(base.name, Chain { hook, rules: Vec::new() });
    }
    rules(socket, wanted, &mut seen)?;
    Ok(if sets(socket, wanted, &mut seen)? { Seen::Table(seen) } else { Seen::Altered })
}

fn rules(socket: &mut socket::Link, wanted: &Table, seen: &mut Table) -> io::Result<()> {
    let rules = socket.dump(
        GETRULE,
        &header(INET),
        |batch| {
            batch.attr_str(RULE_TABLE, POLICY_TABLE);
        },
        |message| {
            (text_of(message, RULE_TABLE)? == POLICY_TABLE).then(|| {
                let expressions = value_of(message, RULE_EXPRESSIONS).unwrap_or_default();
                (text_of(message, RULE_CHAIN).unwrap_or_default(), expressions.to_vec())
            })
        },
    )?;
    for (name, expressions) in rules {
        let Some(chain) = seen.chains.get_mut(&name) else { continue };
        let known = wanted.chains.get(&name).and_then(|known| known.rules.get(chain.rules.len()));
        let known = known.filter(|rule| is(rule, &expressions)).cloned();
        chain.rules.push(known.unwrap_or_else(Rule::strange));
    }
    Ok(())
}

/// True if these are the expressions of that rule.
fn is(rule: &Rule, expressions: &[u8]) -> bool {
    let mut batch = Batch::default();
    batch.nest(RULE_EXPRESSIONS, |batch| rule.encode(batch));
    let ours = batch.bytes().get(4..).unwrap_or_default();
    says(ours, expressions)
}

/// True if what we write is what was told, where the kernel adds what it takes for granted. A list
/// has as many members.
fn says(ours: &[u8], told: &[u8]) -> bool {
    let kinds = |bytes, of: u16| wire::attrs(bytes).filter(move |(kind, _)| *kind == of).count();
    let mut taken = BTreeMap::<u16, usize>::new();
    nested(ours).all(|(kind, is_nest, value)| {
        let at = taken.entry(kind).or_default();
        let found = wire::attrs(told).filter(|(of, _)| *of == kind).nth(*at);
        *at += 1;
        kinds(ours, kind) == kinds(told, kind)
            && found
                .is_some_and(|(_, found)| if is_nest { says(value, found) } else { value == found })
    })
}

/// Attributes of our own writing: whether each is a nest.
fn nested(bytes: &[u8]) -> impl Iterator<Item = (u16, bool, &[u8])> {
    let mut at = 0;
    wire::attrs(bytes).map(move |(kind, value)| {
        let flags = wire::u16_at(bytes, at + 2).unwrap_or(0);
        at += (4 + value.len()).next_multiple_of(4);
        (kind, flags & NESTED != 0, value)
    })
}

/// False if one of our name is of another shape.
fn sets(socket: &mut socket::Link, wanted: &Table, seen: &mut Table) -> io::Result<bool> {
    let sets = socket.dump(
        GETSET,
        &header(INET),
        |batch| {
            batch.attr_str(SET_TABLE, POLICY_TABLE);
        },
        |message| {
            let number = |of| value_of(message, of)?.try_into().ok().map(u32::from_be_bytes);
            let ours = text_of(message, CHAIN_TABLE)? == POLICY_TABLE;
            ours.then_some((text_of(message, SET_NAME)?, Numbers::read(number)))
        },
    )?;
    for (name, numbers) in sets {
        let Some(known) = wanted.sets.get(&name) else {
            let shape =
                Shape { map: numbers.is_some_and(|n| n.data_type.is_some()), ..Shape::plain(&[]) };
            seen.sets.insert(name, Set { shape, elements: BTreeSet::new() });
            continue;
        };
        let shape = known.shape;
        if numbers != Some(shape.numbers()) {
            return Ok(false);
        }
        let told = told(socket, &name)?;
        let elements = elements::gather(&shape, told);
        seen.sets.insert(name, Set { shape, elements });
    }
    Ok(true)
}

fn told(socket: &mut socket::Link, set: &str) -> io::Result<Vec<Told>> {
    let lists = socket.dump(
        GETSETELEM,
        &header(INET),
        |batch| {
            batch.attr_str(ELEMS_TABLE, POLICY_TABLE).attr_str(ELEMS_SET, set);
        },
        |message| {
            let list = wire::attrs(value_of(message, ELEMS)?);
            let each = list.filter(|(kind, _)| *kind == LIST_ELEM);
            Some(each.filter_map(|(_, element)| elements::read(element)).collect::<Vec<_>>())
        },
    )?;
    Ok(lists.into_iter().flatten().collect())
}
