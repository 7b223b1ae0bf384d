//! The table as it is. A rule that is not what we write there is a stranger's, and whatever has a name
//! that we do not give, or is of another shape: all of that goes with the next change.

use std::{collections::BTreeSet, io};

use super::super::{
    ACCEPT, GETRULE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, alike::alike, chains, header,
    numbers::*, tables, text_of, value_of,
};
use super::{
    Chain, Hook, Place, Set, Table, element,
    rule::Rule,
    shape::{Numbers, Shape},
};
use crate::{
    socket,
    wire::{self, Batch},
};

const ANONYMOUS: u32 = 1;
/// Of hooks that are none of ours: what a chain does that drops by its policy, or is of another kind.
const STRANGE: &str = "strange";

pub(in crate::nft) enum Seen {
    Absent,
    Table(Table),
    /// It is there, and not in force.
    Dormant(Table),
}

/// What is there, beside what should be: what equals it is not looked into any further.
pub(in crate::nft) fn look(
    socket: &mut socket::Link,
    place: Place,
    wanted: &Table,
) -> io::Result<Seen> {
    let all = tables(socket)?;
    let ours = all.iter().find(|table| table.family == place.family && table.name == place.name);
    let Some(ours) = ours else { return Ok(Seen::Absent) };
    let mut seen = Table::default();
    for base in chains(socket)? {
        if base.family != place.family || base.table != place.name {
            continue;
        }
        let passes = base.policy.is_none_or(|policy| policy == ACCEPT);
        let kind = ["filter", "nat"].into_iter().find(|kind| passes && *kind == base.kind);
        let kind = kind.unwrap_or(STRANGE);
        let hook = base.hook.zip(base.priority);
        let hook = hook.map(|(number, priority)| Hook { kind, number, priority, dev: base.dev });
        seen.chains.insert(base.name, Chain { hook, rules: Vec::new() });
    }
    rules(socket, place, wanted, &mut seen)?;
    sets(socket, place, wanted, &mut seen)?;
    Ok(if ours.flags == 0 { Seen::Table(seen) } else { Seen::Dormant(seen) })
}

fn rules(
    socket: &mut socket::Link,
    place: Place,
    wanted: &Table,
    seen: &mut Table,
) -> io::Result<()> {
    let rules = socket.dump(
        GETRULE,
        &header(place.family),
        |batch| {
            batch.attr_str(RULE_TABLE, place.name);
        },
        |message| {
            (text_of(message, RULE_TABLE)? == place.name).then(|| {
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
    wire::attrs(batch.bytes()).all(|(_, ours)| alike(ours, expressions))
}

fn sets(
    socket: &mut socket::Link,
    place: Place,
    wanted: &Table,
    seen: &mut Table,
) -> io::Result<()> {
    let sets = socket.dump(
        GETSET,
        &header(place.family),
        |batch| {
            batch.attr_str(SET_TABLE, place.name);
        },
        |message| {
            let number = |of| value_of(message, of)?.try_into().ok().map(u32::from_be_bytes);
            let ours = text_of(message, SET_TABLE)? == place.name;
            // What has no name of its own goes with its rule.
            let named = number(SET_FLAGS).unwrap_or(0) & ANONYMOUS == 0;
            (ours && named).then_some((text_of(message, SET_NAME)?, Numbers::read(number)))
        },
    )?;
    for (name, numbers) in sets {
        let known = wanted.sets.get(&name).map(|known| known.shape);
        let set = match known.filter(|shape| numbers == Some(shape.numbers())) {
            Some(shape) => Set { shape, elements: element::read(socket, place, (&name, &shape))? },
            None => Set {
                shape: Shape::strange(numbers.is_some_and(|n| n.data_type.is_some())),
                elements: BTreeSet::new(),
            },
        };
        seen.sets.insert(name, set);
    }
    Ok(())
}
