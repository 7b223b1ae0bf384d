//! What a pod's own namespace is told of policies: of the links on which others reach it past its
//! node's routing, and of what stands behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::firewall::{List, ListName};
use crate::name::IfName;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    pub doors: Vec<Door>,
    pub lists: BTreeMap<ListName, Arc<List>>,
}

/// One link, and the lists that decide there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub dev: IfName,
    pub ingress: Lists,
    pub egress: Lists,
    /// The node's own addresses on the link: it and its pods are always open to each other.
    pub nodes: BTreeSet<IpAddr>,
    /// What is reached on the link itself; what leaves for other places is judged by the node. None:
    /// everything is.
    pub near: Option<BTreeSet<IpNet>>,
}

/// By family. None: it is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    pub v4: Option<ListName>,
    pub v6: Option<ListName>,
}
