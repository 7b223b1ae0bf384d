//! A table whose chains are always the same, and of whose sets elements come and go. Written so, one
//! pod's elements cost the same however many there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Mutex,
};

use super::{
    super::{Error, POISONED, transact},
    Place, Set, Table, change,
    element::Element,
    is_absent, remove,
    seen::{Seen, look},
};
use crate::socket;

/// By the names of their sets.
pub(in crate::nft) type Elements = BTreeMap<String, BTreeSet<Element>>;

pub(in crate::nft) struct Fixed {
    place: Place,
    /// Its chains and empty sets.
    frame: fn() -> Table,
    /// Whoever changes the table has it.
    known: Mutex<Known>,
}

/// What it was when last looked at, and changed since by nobody else.
enum Known {
    Nothing,
    Absent,
    Framed(Elements),
}

impl Fixed {
    pub(in crate::nft) fn new(place: Place, frame: fn() -> Table) -> Self {
        Self { place, frame, known: Mutex::new(Known::Nothing) }
    }

    /// What is in force. A table that is not as we write it has nothing.
    pub(in crate::nft) fn observe(&self, socket: &Mutex<socket::Link>) -> Result<Elements, Error> {
        let mut known = self.known.lock().expect(POISONED);
        let mut socket = socket.lock().expect(POISONED);
        let frame = (self.frame)();
        *known = match look(&mut socket, self.place, &frame).map_err(read)? {
            Seen::Absent => Known::Absent,
            Seen::Table(table) if is_framed(&table, &frame) => {
                Known::Framed(elements(table, &frame))
            }
            Seen::Table(_) | Seen::Dormant(_) => Known::Nothing,
        };
        Ok(if let Known::Framed(elements) = &*known { elements.clone() } else { Elements::new() })
    }

    /// Takes out what `gone` finds among what is there, and adds `new`, in one transaction. What stands in
    /// both stays. The table comes with the first element and goes with the last.
    pub(in crate::nft) fn change(
        &self,
        socket: &Mutex<socket::Link>,
        gone: impl Fn(&Elements) -> Elements,
        new: &Elements,
    ) -> Result<(), Error> {
        let mut known = self.known.lock().expect(POISONED);
        let mut socket = socket.lock().expect(POISONED);
        let was = std::mem::replace(&mut *known, Known::Nothing);
        let done = match was {
            Known::Nothing => None,
            Known::Absent => self.begin(&mut socket, new).ok(),
            Known::Framed(elements) => {
                let gone = gone(&elements);
                self.step(&mut socket, elements, gone, new).ok()
            }
        };
        *known = match done {
            Some(known) => known,
            // Nobody has looked yet, or somebody has been at it.
            None => self.look_and_change(&mut socket, gone, new)?,
        };
        Ok(())
    }

    pub(in crate::nft) fn remove(&self, socket: &Mutex<socket::Link>) -> Result<(), Error> {
        let mut known = self.known.lock().expect(POISONED);
        *known = Known::Nothing;
        let mut socket = socket.lock().expect(POISONED);
        // A kernel that has not even the family takes no request to be sure.
        if is_absent(&mut socket, self.place)? { Ok(()) } else { remove(&mut socket, self.place) }
    }

    fn begin(&self, socket: &mut socket::Link, new: &Elements) -> Result<Known, Error> {
        if new.values().all(BTreeSet::is_empty) {
            return Ok(Known::Absent);
        }
        let is = filled((self.frame)(), new);
        change(socket, self.place, &Table::default(), &is)?;
        Ok(Known::Framed(new.clone()))
    }

    /// From one content to the next, in a table that is as we write it.
    fn step(
        &self,
        socket: &mut socket::Link,
        mut elements: Elements,
        gone: Elements,
        new: &Elements,
    ) -> Result<Known, Error> {
        let (mut was, mut is) = (Table::default(), Table::default());
        for (name, Set { shape, .. }) in (self.frame)().sets {
            let of = |some: &Elements| Set {
                shape,
                elements: some.get(&name).cloned().unwrap_or_default(),
            };
            was.sets.insert(name.clone(), of(&gone));
            is.sets.insert(name.clone(), of(new));
        }
        take(&mut elements, &gone);
        put(&mut elements, new);
        if elements.values().all(BTreeSet::is_empty) {
            remove(socket, self.place)?;
            return Ok(Known::Absent);
        }
        if was != is {
            change(socket, self.place, &was, &is)?;
        }
        Ok(Known::Framed(elements))
    }

    /// What of a table that is otherwise than we write it can be kept is kept.
    fn look_and_change(
        &self,
        socket: &mut socket::Link,
        gone: impl Fn(&Elements) -> Elements,
        new: &Elements,
    ) -> Result<Known, Error> {
        let frame = (self.frame)();
        let seen = look(socket, self.place, &frame).map_err(read)?;
        let (was, dormant) = match seen {
            Seen::Absent => return self.begin(socket, new),
            Seen::Table(table) => (table, false),
            Seen::Dormant(table) => (table, true),
        };
        let mut kept = elements(was.clone(), &frame);
        let gone = gone(&kept);
        if !dormant && is_framed(&was, &frame) {
            return self.step(socket, kept, gone, new);
        }
        take(&mut kept, &gone);
        put(&mut kept, new);
        if kept.values().all(BTreeSet::is_empty) {
            remove(socket, self.place)?;
            return Ok(Known::Absent);
        }
        if dormant {
            transact(socket, self.place.name, |batch| change::wake(batch, self.place))?;
        }
        change(socket, self.place, &was, &filled(frame, &kept))?;
        Ok(Known::Framed(kept))
    }
}

fn read(error: io::Error) -> Error {
    Error::Read { what: "sets", error }
}

/// True if it has our chains, rules and sets, and nothing else.
fn is_framed(table: &Table, frame: &Table) -> bool {
    let shapes = |table: &Table| {
        table.sets.iter().map(|(name, set)| (name.clone(), set.shape)).collect::<Vec<_>>()
    };
    table.chains == frame.chains && shapes(table) == shapes(frame)
}

/// Of the sets that are as we make them.
fn elements(table: Table, frame: &Table) -> Elements {
    let ours = |name: &String, set: &Set| {
        frame.sets.get(name).is_some_and(|known| known.shape == set.shape)
    };
    let sets = table.sets.into_iter().filter(|(name, set)| ours(name, set));
    sets.map(|(name, set)| (name, set.elements)).collect()
}

fn filled(mut frame: Table, elements: &Elements) -> Table {
    for (name, some) in elements {
        if let Some(set) = frame.sets.get_mut(name) {
            set.elements.clone_from(some);
        }
    }
    frame
}

fn take(from: &mut Elements, gone: &Elements) {
    for (name, some) in gone {
        let Some(set) = from.get_mut(name) else { continue };
        for element in some {
            set.remove(element);
        }
    }
}

fn put(into: &mut Elements, new: &Elements) {
    for (name, some) in new {
        into.entry(name.clone()).or_default().extend(some.iter().cloned());
    }
}
