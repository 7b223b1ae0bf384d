//! Which further networks a pod asks for: the annotation `k8s.v1.cni.cncf.io/networks`, what its names
//! stand for (NetworkAttachmentDefinitions), and the status that is written back. Pure.
//!
//! Source: the Network Plumbing Working Group's "Kubernetes Network Custom Resource Definition
//! De-facto Standard", version 1.3, and what Multus 4 accepts.

mod annotation;
mod definition;
mod status;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use annotation::{read, read_one};
pub use definition::network;
pub use status::status;

use crate::name::{IfName, Mac, NetworkName};

/// Where a pod names further networks.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Where it names the one that is its first, in place of the cluster's default.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// Where it is told what it was given.
pub const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// More than any pod has use for.
pub const FURTHER_MAX: usize = 32;

/// One element of a list of networks, as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// None: the pod's own.
    pub namespace: Option<String>,
    pub name: String,
    pub request: Request,
}

/// What is asked of one attachment beside its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub ifname: Option<IfName>,
    pub ips: Vec<IpAddr>,
    pub mac: Option<Mac>,
    /// The routers by which everything else is to be reached; none: not by this network.
    pub default_route: Vec<IpAddr>,
}

/// One further attachment that is to be made, all names resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Further {
    /// As the pod's user wrote it.
    pub selected: String,
    pub network: NetworkName,
    pub ifname: IfName,
    pub request: Request,
}

/// What was written and can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSelection(pub String);

/// The interfaces' names, in the list's order: what was asked for, else `net1`, `net2` and so on by the
/// place in the list. `first` is the one that the runtime itself asked for.
pub fn interfaces(first: &IfName, elements: &[Element]) -> Result<Vec<IfName>, BadSelection> {
    let mut names: Vec<IfName> = Vec::new();
    for (at, element) in elements.iter().enumerate() {
        let by_place = || IfName::new(&format!("net{}", at + 1));
        let name = element.request.ifname.clone().unwrap_or_else(by_place);
        if name == *first || names.contains(&name) || name.as_str() == "lo" {
            return Err(BadSelection(format!(
                "{}: the pod has an interface {name} already; ask for another name by \
                 `{}@NAME` or `\"interface\"`",
                at_place(at),
                element.name
            )));
        }
        names.push(name);
    }
    let asked = elements.iter().filter(|element| !element.request.default_route.is_empty());
    let asked: Vec<String> = asked.map(ToString::to_string).collect();
    if asked.len() > 1 {
        return Err(BadSelection(format!(
            "`default-route` is asked of {}: only one network can lead everywhere",
            asked.join(" and ")
        )));
    }
    Ok(names)
}

fn at_place(at: usize) -> String {
    format!("network {} of the list", at + 1)
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}
