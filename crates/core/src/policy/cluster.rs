//! Pods and namespaces, as far as policies ask for them. Where that is learnt is not known here.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::spec::Protocol;
use crate::name::NodeName;

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// A pod as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub uid: Arc<str>,
    pub labels: Arc<Labels>,
    /// None where it has none of its own: before it runs, after it has ended, in the node's network.
    pub addrs: Vec<IpAddr>,
    pub node: Option<NodeName>,
    /// Ports of its containers that have a name.
    pub ports: Vec<NamedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
