//! One pod's link in one network, as the ledger keeps it. Where it is kept, and the namespace
//! itself, are others' business.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    attach::{Attach, access},
    bandwidth::Bandwidth,
    dhcp::Lease,
    name::{IfName, Mac, NetworkName, fnv1a},
    ports::PortMapping,
};

/// What names an attachment for the runtime that asked for it (CNI spec, section 2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// `name` of the CNI configuration.
    pub cni: String,
    pub container: String,
    pub ifname: IfName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub schema: u32,
    #[serde(flatten)]
    pub id: AttachmentId,
    pub phase: Phase,
    pub network: NetworkName,
    pub attach: Attach,
    /// The program that called: it alone may collect this as garbage.
    pub runtime: String,
    pub netns: String,
    /// `SO_NETNS_COOKIE`: tells whether `netns` still is the namespace that it was.
    pub cookie: u64,
    /// None: the link is in the pod's namespace alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_end: Option<IfName>,
    /// The host's end of the pair by which the pod reaches its node, where its link does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<IfName>,
    /// The number that the node's namespace has for the pod's, where the link is there alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
    pub mac: Mac,
    pub addrs: Vec<IpAddr>,
    /// From whom it has its IPv4 address, where a DHCP server gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Its routes cover everything, not only the network's ranges.
    pub default_route: bool,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// But only in this family (true: IPv4): another of the pod's networks has the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_only: Option<bool>,
    /// How much it may send and receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Where the runtime did not ask for it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub further: Option<Further>,
    /// Fields of a newer version, kept when this one rewrites the record.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An attachment that another's ADD made beside its own: it is there for as long as that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Further {
    /// The interface that the runtime asked for.
    pub first: IfName,
    /// How the pod's user called the network.
    pub selected: String,
}

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// ADD has begun; nobody was told of it yet.
    Opened,
    /// ADD was answered.
    Attached,
    /// DEL has begun; the address is free once the link is gone.
    Doomed,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub uid: String,
}

impl Attachment {
    /// The attachment that the runtime knows: this, or the one whose ADD made this.
    pub fn first(&self) -> AttachmentId {
        let ifname = self.further.as_ref().map_or(&self.id.ifname, |further| &further.first);
        AttachmentId { ifname: ifname.clone(), ..self.id.clone() }
    }

    /// What the host's end is called, of a link that has one.
    pub fn host_end(&self) -> IfName {
        let derived =
            || IfName::host_end(&self.id.cni, &self.id.container, self.id.ifname.as_str());
        self.host_end.clone().unwrap_or_else(derived)
    }

    /// The index, in the pod's namespace, of a link that is there alone: no other attachment's has it,
    /// and no number that a kernel gives out by itself is as high.
    pub fn child_index(&self) -> u32 {
        let hash = fnv1a(&[&self.id.cni, &self.id.container, self.id.ifname.as_str()]);
        1 << 30 | u32::try_from(hash >> 34).unwrap_or(0)
    }

    /// The addresses that it may use now: all, but for those of a lease that was lost.
    pub fn usable(&self) -> &[IpAddr] {
        if self.lease.as_ref().is_some_and(Lease::is_lost) { &[] } else { &self.addrs }
    }

    /// The lease that the address is of.
    pub fn lease_of(&self, addr: IpAddr) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| IpAddr::from(lease.terms.addr) == addr)
    }

    /// The links in the pod's namespace that are this attachment's.
    pub fn links(&self) -> Vec<IfName> {
        let access = self.access.as_ref().map(|_| access::pod_end(&self.id.ifname));
        [self.id.ifname.clone()].into_iter().chain(access).collect()
    }

    /// The links in the node's namespace that are.
    pub fn host_links(&self) -> impl Iterator<Item = &IfName> {
        self.host_end.iter().chain(&self.access)
    }

    /// True if the pod's default route of the family is by this link.
    pub fn leads(&self, ipv4: bool) -> bool {
        self.default_route && self.default_only.is_none_or(|only| only == ipv4)
    }

    /// What the pod sends by this link for destinations of the family of `addr`.
    pub fn routes_of(&self, addr: IpAddr, ranges: &[IpNet]) -> Vec<IpNet> {
        if self.leads(addr.is_ipv4()) {
            let everything = if addr.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            return everything.parse().into_iter().collect();
        }
        ranges.iter().filter(|range| range.addr().is_ipv4() == addr.is_ipv4()).copied().collect()
    }

    /// True if ports of the node lead to it.
    pub fn is_mapped(&self) -> bool {
        !self.ports.is_empty() && self.phase != Phase::Doomed
    }

    /// As people call it: the pod's name where the runtime told it, else the container.
    pub fn label(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => self.id.container.clone(),
        }
    }
}

impl PodName {
    /// Runtimes of containers alone give a name without a namespace: no cluster knows of such a pod.
    pub fn is_in_cluster(&self) -> bool {
        !self.namespace.is_empty()
    }
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let separator = if self.is_in_cluster() { "/" } else { "" };
        write!(f, "{}{separator}{}", self.namespace, self.name)
    }
}

impl std::fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} of container {}", self.cni, self.ifname, self.container)
    }
}
