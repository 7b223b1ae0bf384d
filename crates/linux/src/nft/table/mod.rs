//! A table of ours as a value, as it should be or as it is: chains with their rules, sets with their
//! elements. `change` leads from one to the next, `seen` reads, `fixed` is one whose elements alone change.

mod change;
mod element;
mod fixed;
mod rule;
mod seen;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use weft_core::name::IfName;

use super::{Error, tables, transact};
use crate::socket;

pub(super) use element::{Element, Key, To, read, write};
pub(super) use fixed::{Elements, Fixed};
pub(super) use rule::{Field, Name, Rule, Then, Way, When};
use seen::{Seen, look};
pub(super) use shape::{Part, Shape};

/// Which table.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) family: u8,
    pub(super) name: &'static str,
    /// Of which sets elements may be there before the rest is: nothing asks for them alone.
    pub(super) ahead: fn(&str) -> bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) sets: BTreeMap<String, Set>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
    /// Of family netdev: whose packets pass it.
    pub(super) dev: Option<IfName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) shape: Shape,
    pub(super) elements: BTreeSet<Element>,
}

impl Hook {
    pub(super) fn filter(number: u32, priority: i32) -> Self {
        Self { kind: "filter", number, priority, dev: None }
    }
    pub(super) fn egress(dev: IfName, priority: i32) -> Self {
        const EGRESS: u32 = 1;
        Self { dev: Some(dev), ..Self::filter(EGRESS, priority) }
    }
    pub(super) fn nat(number: u32, priority: i32) -> Self {
        Self { kind: "nat", number, priority, dev: None }
    }
}

impl Table {
    pub(super) fn base(&mut self, name: &str, hook: Hook, rules: Vec<Rule>) {
        self.chains.insert(name.to_owned(), Chain { hook: Some(hook), rules });
    }

    /// A set that has elements; of none there is no need.
    pub(super) fn set(&mut self, name: &str, shape: Shape, elements: BTreeSet<Element>) -> bool {
        let needed = !elements.is_empty();
        if needed {
            self.sets.insert(name.to_owned(), Set { shape, elements });
        }
        needed
    }
}

pub(super) fn is_absent(socket: &mut socket::Link, place: Place) -> Result<bool, Error> {
    let all = tables(socket).map_err(|error| Error::Read { what: "tables", error })?;
    Ok(!all.iter().any(|table| table.family == place.family && table.name == place.name))
}

/// The table is gone when this returns, whatever somebody has made of it.
pub(super) fn remove(socket: &mut socket::Link, place: Place) -> Result<(), Error> {
    transact(socket, place.name, |batch| change::delete(batch, place))
}

/// From one to the next. What is too large for one transaction is in part written before, where nothing
/// asks for it yet: packets meet the one or the other.
pub(super) fn change(
    socket: &mut socket::Link,
    place: Place,
    was: &Table,
    is: &Table,
) -> Result<(), Error> {
    match transact(socket, place.name, |batch| change::change(batch, place, was, is)) {
        Err(Error::Write { error, .. }) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            let (then, steps) = change::ahead(place, was, is);
            for (name, set) in steps {
                let step = |batch: &mut _| change::step(batch, place, &name, &set);
                transact(socket, place.name, step)?;
            }
            transact(socket, place.name, |batch| change::change(batch, place, &then, is))
        }
        done => done,
    }
}

/// Brings the table to what it should be, whatever it is. True if it was so.
pub(super) fn bring(socket: &mut socket::Link, place: Place, is: &Table) -> Result<bool, Error> {
    // Somebody may write between a look and a change.
    let brought = bring_once(socket, place, is).or_else(|_| bring_once(socket, place, is));
    // There may be in it what can't be changed, as what is of kinds that we never write.
    brought.or_else(|_| {
        transact(socket, place.name, |batch| {
            change::delete(batch, place);
            change::change(batch, place, &Table::default(), is);
        })?;
        Ok(false)
    })
}

fn bring_once(socket: &mut socket::Link, place: Place, is: &Table) -> Result<bool, Error> {
    let read = |error| Error::Read { what: "table", error };
    let was = match look(socket, place, is).map_err(read)? {
        Seen::Absent => Table::default(),
        Seen::Table(was) if was == *is => return Ok(true),
        Seen::Table(was) => was,
        Seen::Dormant(was) => {
            // By itself: the kernel takes no new chains beside it.
            transact(socket, place.name, |batch| change::wake(batch, place))?;
            was
        }
    };
    change(socket, place, &was, is)?;
    Ok(false)
}
