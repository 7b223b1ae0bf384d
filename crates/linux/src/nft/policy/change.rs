//! From one table to the next in one transaction: no packet meets half of it. What is removed goes
//! first, since an element may stand in the way of the one that takes its place; what leads to a
//! chain is written behind it.

use std::collections::BTreeSet;

use weft_core::mark::POLICY_TABLE;

use super::super::numbers::*;
use super::{
    super::{
        CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, HOOK_NUMBER, HOOK_PRIORITY, INET,
        NEWCHAIN, NEWRULE, NEWTABLE, NLM_F_APPEND, NLM_F_CREATE, RULE_CHAIN, RULE_EXPRESSIONS,
        RULE_TABLE, RULE_USERDATA, TABLE_FLAGS, TABLE_NAME, comment, header,
    },
    elements::Element,
    list,
    shape::Shape,
    table::{Chain, Set, Table},
};
use crate::wire::Batch;

const DELCHAIN: u16 = NEWTABLE + 5;
const DELSET: u16 = NEWTABLE + 11;
/// Elements in one message: the length of their list is told in 16 bits.
const ELEMENTS: usize = 400;

fn table(batch: &mut Batch, kind: u16) {
    let create = if kind == NEWTABLE { NLM_F_CREATE } else { 0 };
    batch.begin(kind, create, &header(INET)).attr_str(TABLE_NAME, POLICY_TABLE);
    if kind == NEWTABLE {
        // Awake, whatever somebody made of it.
        batch.attr_be32(TABLE_FLAGS, 0);
    }
    batch.end();
}

pub(super) fn delete(batch: &mut Batch) {
    table(batch, NEWTABLE);
    table(batch, DELTABLE);
}

pub(super) fn change(batch: &mut Batch, was: &Table, is: &Table) {
    table(batch, NEWTABLE);
    remove(batch, was, is);
    let empty = BTreeSet::new();
    let known = |name: &String| was.sets.get(name).map_or(&empty, |set| &set.elements);
    let fills = |map: bool| is.sets.iter().filter(move |(_, set)| set.shape.map == map);
    for (name, set) in &is.sets {
        if !was.sets.contains_key(name) {
            new_set(batch, name, &set.shape);
        }
    }
    for (name, set) in fills(false) {
        add(batch, name, &set.shape, set.elements.difference(known(name)));
    }
    for (name, chain) in &is.chains {
        if !was.chains.contains_key(name) {
            new_chain(batch, name, chain);
        }
    }
    // A rule may jump to a chain of a later name: all chains are there before any rule.
    let same = |name: &String, chain: &Chain| was.chains.get(name).is_some_and(|was| was == chain);
    for (name, chain) in is.chains.iter().filter(|(name, chain)| !same(name, chain)) {
        chain.rules.iter().for_each(|rule| {
            batch
                .begin(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(INET))
                .attr_str(RULE_TABLE, POLICY_TABLE)
                .attr_str(RULE_CHAIN, name)
                .nest(RULE_EXPRESSIONS, |batch| rule.encode(batch))
                .attr(RULE_USERDATA, &comment("weft"))
                .end();
        });
    }
    for (name, set) in fills(true) {
        add(batch, name, &set.shape, set.elements.difference(known(name)));
    }
}

fn remove(batch: &mut Batch, was: &Table, is: &Table) {
    for (name, chain) in &was.chains {
        if is.chains.get(name) != Some(chain) && !chain.rules.is_empty() {
            of_chain(batch, DELRULE, name);
        }
    }
    for (name, set) in &was.sets {
        let Some(next) = is.sets.get(name) else { continue };
        elements(batch, DELSETELEM, name, &set.shape, set.elements.difference(&next.elements));
    }
    // A map holds the chains that it leads to.
    let (maps, others): (Vec<_>, Vec<_>) = was
        .sets
        .iter()
        .filter(|(name, _)| !is.sets.contains_key(*name))
        .partition(|(_, set)| set.shape.map);
    maps.into_iter().chain(others).for_each(|(name, _)| of_set(batch, DELSET, name));
    let gone = was.chains.keys().filter(|name| !is.chains.contains_key(*name));
    gone.for_each(|name| of_chain(batch, DELCHAIN, name));
}

/// What of the change may be in force beforehand: sets that nothing asks yet, and single elements of
/// lists. For a change that is too large for one transaction. Returns the table as it is then.
pub(super) fn ahead(was: &Table, is: &Table) -> (Table, Vec<(String, Set)>) {
    let mut then = was.clone();
    let mut steps = Vec::new();
    for (name, set) in is.sets.iter().filter(|(name, _)| list::is_lists(name)) {
        let known = was.sets.get(name);
        if set.shape.interval && known.is_some() {
            continue;
        }
        let held = |element: &&Element| known.is_some_and(|set| set.elements.contains(element));
        let added: Vec<&Element> = set.elements.iter().filter(|element| !held(element)).collect();
        for some in added.chunks(ELEMENTS * 10) {
            let elements = some.iter().map(|element| (*element).clone()).collect();
            steps.push((name.clone(), Set { shape: set.shape, elements }));
        }
        let entry = then.sets.entry(name.clone());
        let entry = entry.or_insert_with(|| Set { shape: set.shape, elements: BTreeSet::new() });
        entry.elements.extend(set.elements.iter().cloned());
    }
    (then, steps)
}

/// One step of those, whether its set is there or not.
pub(super) fn step(batch: &mut Batch, name: &str, set: &Set) {
    table(batch, NEWTABLE);
    new_set(batch, name, &set.shape);
    add(batch, name, &set.shape, set.elements.iter());
}

fn of_chain(batch: &mut Batch, kind: u16, name: &str) {
    // A rule's table and chain are told as the chain's own table and name are, but for the number.
    let attr = if kind == DELRULE { RULE_CHAIN } else { CHAIN_NAME };
    batch
        .begin(kind, 0, &header(INET))
        .attr_str(CHAIN_TABLE, POLICY_TABLE)
        .attr_str(attr, name)
        .end();
}

fn of_set(batch: &mut Batch, kind: u16, name: &str) {
    batch
        .begin(kind, 0, &header(INET))
        .attr_str(SET_TABLE, POLICY_TABLE)
        .attr_str(SET_NAME, name)
        .end();
}

fn new_set(batch: &mut Batch, name: &str, shape: &Shape) {
    let id = batch.count;
    batch
        .begin(NEWSET, NLM_F_CREATE, &header(INET))
        .attr_str(SET_TABLE, POLICY_TABLE)
        .attr_str(SET_NAME, name)
        .attr_be32(SET_ID, id);
    shape.encode(batch);
    batch.end();
}

fn new_chain(batch: &mut Batch, name: &str, chain: &Chain) {
    batch
        .begin(NEWCHAIN, NLM_F_CREATE, &header(INET))
        .attr_str(CHAIN_TABLE, POLICY_TABLE)
        .attr_str(CHAIN_NAME, name);
    if let Some(hook) = chain.hook {
        batch
            .nest(CHAIN_HOOK, |batch| {
                batch
                    .attr_be32(HOOK_NUMBER, hook.number)
                    .attr_be32(HOOK_PRIORITY, hook.priority.cast_unsigned());
            })
            .attr_str(CHAIN_TYPE, "filter");
    }
    batch.end();
}

fn add<'a>(batch: &mut Batch, name: &str, shape: &Shape, some: impl Iterator<Item = &'a Element>) {
    elements(batch, NEWSETELEM, name, shape, some);
}

fn elements<'a>(
    batch: &mut Batch,
    kind: u16,
    name: &str,
    shape: &Shape,
    some: impl Iterator<Item = &'a Element>,
) {
    let create = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
    let mut some = some.peekable();
    while some.peek().is_some() {
        batch
            .begin(kind, create, &header(INET))
            .attr_str(ELEMS_TABLE, POLICY_TABLE)
            .attr_str(ELEMS_SET, name)
            .nest(ELEMS, |batch| {
                some.by_ref().take(ELEMENTS).for_each(|element| element.encode(batch, shape));
            })
            .end();
    }
}
