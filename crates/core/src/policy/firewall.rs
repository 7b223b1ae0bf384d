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

/// By address, in each direction: the list that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    pub lists: BTreeMap<ListName, Arc<List>>,
    pub pods: BTreeMap<(Direction, IpAddr), ListName>,
}

/// Pods to which the same is open share a list. It keeps its name while it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListName(pub u64);

/// Whatever matches an entry is open.
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

impl fmt::Display for ListName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
