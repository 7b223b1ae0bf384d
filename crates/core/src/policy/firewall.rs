//! What policies come to for the pods of one node: to whom each is open. The kernel crate spells it in
//! sets and verdict maps. A pod that no policy selects is not in it; one that is and may do nothing has
//! an empty list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::spec::{Direction, Protocol};

/// By address, in each direction: the list that decides. What a pod sends to itself is open whatever
/// they say, and so is what the node and its own pods send each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    pub lists: BTreeMap<ListName, Arc<List>>,
    pub pods: BTreeMap<(Direction, IpAddr), ListName>,
}

/// Pods to which the same is open share a list. It keeps its name while it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(pub u64);

/// Whatever matches an entry is open. No two entries with ports have a packet in common, and no two without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    pub entries: BTreeSet<Open>,
}

/// The other side (ingress: the source, egress: the destination), and the destination's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Open {
    /// None: everybody.
    pub peer: Option<IpNet>,
    /// None: everything of any protocol.
    pub ports: Option<Ports>,
}

/// From the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// What leads from one firewall to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub lists: BTreeMap<ListName, ListChange>,
    /// None: the address is open from now on.
    pub pods: BTreeMap<(Direction, IpAddr), Option<ListName>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListChange {
    New(Arc<List>),
    Entries { added: BTreeSet<Open>, removed: BTreeSet<Open> },
    Gone,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty() && self.pods.is_empty()
    }
}

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// As `10.0.0.0/8 tcp 80-90`.
impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            None => f.write_str("all")?,
            Some(peer) if peer.prefix_len() == peer.max_prefix_len() => peer.addr().fmt(f)?,
            Some(peer) => peer.fmt(f)?,
        }
        self.ports.map_or(Ok(()), |ports| write!(f, " {ports}"))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = self;
        match (first, last) {
            (0, &u16::MAX) => protocol.fmt(f),
            _ if first == last => write!(f, "{protocol} {first}"),
            _ => write!(f, "{protocol} {first}-{last}"),
        }
    }
}
