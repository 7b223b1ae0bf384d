//! Kubernetes' NetworkPolicy in the kernel: a table of its own, `inet weft-policy`, on the node and in
//! the namespaces of pods that others reach past it. `frame` leads packets to lists, `list` says what
//! a list is.

mod frame;
mod list;

use std::{collections::BTreeMap, sync::Arc};

use netlink_sys::protocols;
use weft_core::{
    mark::POLICY_TABLE,
    policy::{
        firewall::{Firewall, List, ListName},
        own::Own,
        spec::Direction,
    },
};

use super::{
    Error, INET,
    table::{self, Place, Table},
};
use crate::{
    kernel::{Kernel, POISONED},
    netns::Netns,
    socket,
};

const PLACE: Place = Place { family: INET, name: POLICY_TABLE, ahead: list::is_lists };

/// The table of one namespace.
pub struct PolicyTable {
    socket: socket::Link,
    /// What was last written, and nobody has touched since.
    known: Option<Wanted>,
}

/// What a namespace's table should say; nothing: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Node(Firewall),
    Pod(Own),
}

/// A list, and what it decides on.
type Decides = (Direction, ListName);

/// What of a list need not be told, since the other table has it; None: it is the same there.
fn beside<'a>(
    other: Option<&&'a Arc<List>>,
    list: &Arc<List>,
    nothing: &'a Arc<List>,
) -> Option<&'a Arc<List>> {
    match other {
        None => Some(nothing),
        Some(other) => (!Arc::ptr_eq(other, list) && *other != list).then_some(*other),
    }
}

/// Whether what was there was what should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    AsWritten,
    Otherwise,
}

impl PolicyTable {
    /// Of the node, whose own writing wakes nobody.
    pub fn here(kernel: &Kernel) -> Result<Self, Error> {
        let policies = Self::of(&kernel.netns)?;
        kernel.ports.write().expect(POISONED).insert((false, policies.socket.port));
        Ok(policies)
    }

    pub fn of(netns: &Netns) -> Result<Self, Error> {
        let open = || socket::Link::open(protocols::NETLINK_NETFILTER);
        let socket = netns.run(open).and_then(|socket| socket).map_err(Error::Open)?;
        Ok(Self { socket, known: None })
    }

    /// As `of`, for a thread that is there.
    pub fn inside() -> Result<Self, Error> {
        let socket = socket::Link::open(protocols::NETLINK_NETFILTER).map_err(Error::Open)?;
        Ok(Self { socket, known: None })
    }

    /// What another of this type has written, and nobody has touched since.
    pub fn trust(&mut self, known: Wanted) {
        self.known = Some(known);
    }

    /// Somebody else may have written: the next time it is looked at what is there.
    pub fn doubt(&mut self) {
        self.known = None;
    }

    /// Brings the table to what is wanted, in one transaction. Nothing wanted: no table.
    pub fn write(&mut self, wanted: Wanted) -> Result<Was, Error> {
        if self.known.as_ref() == Some(&wanted) {
            return Ok(Was::AsWritten);
        }
        let Some(known) = self.known.take() else { return self.write_anew(wanted) };
        if known.is_empty() || wanted.is_empty() {
            return self.write_anew(wanted);
        }
        let (old, new) = (known.used(), wanted.used());
        let nothing = Arc::default();
        let was = known.table(|key, list| beside(new.get(key), list, &nothing));
        let is = wanted.table(|key, list| beside(old.get(key), list, &nothing));
        match table::change(&mut self.socket, PLACE, &was, &is) {
            Ok(()) => {
                self.known = Some(wanted);
                Ok(Was::AsWritten)
            }
            // Somebody has been at it.
            Err(_) => self.write_anew(wanted),
        }
    }

    /// From what is there, whatever that is.
    fn write_anew(&mut self, wanted: Wanted) -> Result<Was, Error> {
        let nothing = Arc::default();
        let is = wanted.table(|_, _| Some(&nothing));
        let as_written = if wanted.is_empty() {
            table::is_absent(&mut self.socket, PLACE)? || {
                table::remove(&mut self.socket, PLACE)?;
                false
            }
        } else {
            table::bring(&mut self.socket, PLACE, &is)?
        };
        self.known = Some(wanted);
        Ok(if as_written { Was::AsWritten } else { Was::Otherwise })
    }
}

impl Wanted {
    fn is_empty(&self) -> bool {
        match self {
            Self::Node(firewall) => firewall.pods.is_empty(),
            Self::Pod(own) => own.doors.is_empty(),
        }
    }

    fn all(&self) -> &BTreeMap<ListName, Arc<List>> {
        match self {
            Self::Node(firewall) => &firewall.lists,
            Self::Pod(own) => &own.lists,
        }
    }

    /// The lists that decide anything, by direction.
    fn used(&self) -> BTreeMap<Decides, &Arc<List>> {
        let used: Vec<Decides> = match self {
            Self::Node(firewall) => {
                firewall.pods.iter().map(|((direction, _), name)| (*direction, *name)).collect()
            }
            Self::Pod(own) => {
                let of = |direction, lists: weft_core::policy::own::Lists| {
                    lists.v4.into_iter().chain(lists.v6).map(move |name| (direction, name))
                };
                let doors = own.doors.iter();
                let each = doors.flat_map(|door| {
                    of(Direction::Ingress, door.ingress).chain(of(Direction::Egress, door.egress))
                });
                each.collect()
            }
        };
        let found = used.into_iter().filter_map(|key| Some((key, self.all().get(&key.1)?)));
        found.collect()
    }

    /// What leads to lists, and the lists that are not the same in another table.
    fn table<'a>(&self, beside: impl Fn(&Decides, &Arc<List>) -> Option<&'a Arc<List>>) -> Table {
        let mut table = Table::default();
        if self.is_empty() {
            return table;
        }
        match self {
            Self::Node(firewall) => frame::node(&mut table, firewall),
            Self::Pod(own) => frame::pod(&mut table, own),
        }
        for (key, list) in self.used() {
            if let Some(known) = beside(&key, list) {
                list::write(&mut table, key, list, known);
            }
        }
        table
    }
}
