//! From one table to the next in one transaction: no packet meets half of it. What is removed goes
//! first, since an element may stand in the way of the one that takes its place; what leads to a
//! chain is written behind it.

use std::collections::BTreeSet;

use super::super::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, HOOK_DEV, HOOK_NUMBER, HOOK_PRIORITY,
    NEWCHAIN, NEWRULE, NEWTABLE, NLM_F_APPEND, NLM_F_CREATE, RULE_CHAIN, RULE_EXPRESSIONS,
    RULE_TABLE, RULE_USERDATA, TABLE_FLAGS, TABLE_NAME, comment, header, numbers::*,
};
use super::{
    Chain, Place, Set, Table,
    element::{self, ELEMENTS, Element},
    shape::Shape,
};
use crate::wire::Batch;

const DELCHAIN: u16 = NEWTABLE + 5;
const DELSET: u16 = NEWTABLE + 11;

fn table(batch: &mut Batch, place: Place, kind: u16) {
    let create = if kind == NEWTABLE { NLM_F_CREATE } else { 0 };
    batch.begin(kind, create, &header(place.family)).attr_str(TABLE_NAME, place.name);
    if kind == NEWTABLE {
        // Awake, whatever somebody made of it.
        batch.attr_be32(TABLE_FLAGS, 0);
    }
    batch.end();
}

/// The table is there, and in force.
pub(super) fn wake(batch: &mut Batch, place: Place) {
    table(batch, place, NEWTABLE);
}

pub(super) fn delete(batch: &mut Batch, place: Place) {
    table(batch, place, NEWTABLE);
    table(batch, place, DELTABLE);
}

pub(super) fn change(batch: &mut Batch, place: Place, was: &Table, is: &Table) {
    table(batch, place, NEWTABLE);
    remove(batch, place, was, is);
    let known = |name: &String, set: &Set| was.sets.get(name).filter(|was| was.shape == set.shape);
    let nothing = BTreeSet::new();
    let fill = |batch: &mut Batch, maps: bool| {
        for (name, set) in is.sets.iter().filter(|(_, set)| set.shape.is_map() == maps) {
            let known = known(name, set).map_or(&nothing, |set| &set.elements);
            add(batch, place, (name, &set.shape), set.elements.difference(known));
        }
    };
    for (name, set) in is.sets.iter().filter(|(name, set)| known(name, set).is_none()) {
        new_set(batch, place, name, &set.shape);
    }
    fill(batch, false);
    let kept =
        |name: &String, chain: &Chain| was.chains.get(name).filter(|was| was.hook == chain.hook);
    for (name, chain) in is.chains.iter().filter(|(name, chain)| kept(name, chain).is_none()) {
        new_chain(batch, place, name, chain);
    }
    // A rule may jump to a chain of a later name: all chains are there before any rule.
    for (name, chain) in is.chains.iter().filter(|(name, chain)| kept(name, chain) != Some(chain)) {
        chain.rules.iter().for_each(|rule| {
            batch
                .begin(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(place.family))
                .attr_str(RULE_TABLE, place.name)
                .attr_str(RULE_CHAIN, name)
                .nest(RULE_EXPRESSIONS, |batch| rule.encode(batch))
                .attr(RULE_USERDATA, &comment("weft"))
                .end();
        });
    }
    fill(batch, true);
}

fn remove(batch: &mut Batch, place: Place, was: &Table, is: &Table) {
    for (name, chain) in &was.chains {
        if is.chains.get(name) != Some(chain) && !chain.rules.is_empty() {
            of_chain(batch, place, DELRULE, name);
        }
    }
    let stays = |name: &String, set: &Set| is.sets.get(name).filter(|is| is.shape == set.shape);
    for (name, set) in &was.sets {
        let Some(next) = stays(name, set) else { continue };
        let gone = set.elements.difference(&next.elements);
        element::write(batch, (place, DELSETELEM), (name, &set.shape), gone);
    }
    // A map holds the chains that it leads to.
    let (maps, others): (Vec<_>, Vec<_>) = was
        .sets
        .iter()
        .filter(|(name, set)| stays(name, set).is_none())
        .partition(|(_, set)| set.shape.is_map());
    maps.into_iter().chain(others).for_each(|(name, _)| of_set(batch, place, DELSET, name));
    let stays = |name, chain: &Chain| is.chains.get(name).is_some_and(|is| is.hook == chain.hook);
    let gone = was.chains.iter().filter(|(name, chain)| !stays(*name, chain));
    gone.for_each(|(name, _)| of_chain(batch, place, DELCHAIN, name));
}

/// What of the change may be in force beforehand: sets that nothing asks yet, and single elements of
/// lists. For a change that is too large for one transaction. Returns the table as it is then.
pub(super) fn ahead(place: Place, was: &Table, is: &Table) -> (Table, Vec<(String, Set)>) {
    let mut then = was.clone();
    let mut steps = Vec::new();
    for (name, set) in is.sets.iter().filter(|(name, _)| (place.ahead)(name)) {
        let known = was.sets.get(name);
        if known.is_some_and(|known| set.shape.interval || known.shape != set.shape) {
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
pub(super) fn step(batch: &mut Batch, place: Place, name: &str, set: &Set) {
    table(batch, place, NEWTABLE);
    new_set(batch, place, name, &set.shape);
    add(batch, place, (name, &set.shape), set.elements.iter());
}

fn of_chain(batch: &mut Batch, place: Place, kind: u16, name: &str) {
    // A rule's table and chain are told as the chain's own table and name are, but for the number.
    let attr = if kind == DELRULE { RULE_CHAIN } else { CHAIN_NAME };
    batch
        .begin(kind, 0, &header(place.family))
        .attr_str(CHAIN_TABLE, place.name)
        .attr_str(attr, name)
        .end();
}

fn of_set(batch: &mut Batch, place: Place, kind: u16, name: &str) {
    batch
        .begin(kind, 0, &header(place.family))
        .attr_str(SET_TABLE, place.name)
        .attr_str(SET_NAME, name)
        .end();
}

fn new_set(batch: &mut Batch, place: Place, name: &str, shape: &Shape) {
    let id = batch.count;
    batch
        .begin(NEWSET, NLM_F_CREATE, &header(place.family))
        .attr_str(SET_TABLE, place.name)
        .attr_str(SET_NAME, name)
        .attr_be32(SET_ID, id);
    shape.encode(batch);
    batch.end();
}

fn new_chain(batch: &mut Batch, place: Place, name: &str, chain: &Chain) {
    batch
        .begin(NEWCHAIN, NLM_F_CREATE, &header(place.family))
        .attr_str(CHAIN_TABLE, place.name)
        .attr_str(CHAIN_NAME, name);
    if let Some(hook) = &chain.hook {
        batch
            .nest(CHAIN_HOOK, |batch| {
                batch
                    .attr_be32(HOOK_NUMBER, hook.number)
                    .attr_be32(HOOK_PRIORITY, hook.priority.cast_unsigned());
                if let Some(dev) = &hook.dev {
                    batch.attr_str(HOOK_DEV, dev.as_str());
                }
            })
            .attr_str(CHAIN_TYPE, hook.kind);
    }
    batch.end();
}

fn add<'a>(
    batch: &mut Batch,
    place: Place,
    set: (&str, &Shape),
    some: impl Iterator<Item = &'a Element>,
) {
    element::write(batch, (place, NEWSETELEM), set, some);
}
