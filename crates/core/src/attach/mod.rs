//! How a pod's link is born: one folder each; this file is the only other that names them.
//! A kind says what the pod's side, the host's side and the node should hold. It performs nothing.

pub mod access;
pub mod bridge;
pub mod ipvlan;
pub mod macvlan;
pub mod parent;
pub mod sources;
pub mod veth;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use parent::{Parent, Standing, VlanId};

use crate::{
    attachment::Attachment,
    bandwidth,
    kind::kind_or_map,
    name::{IfName, Mac, Mtu, NetworkName, NodeName},
    paths::Nic,
    ports,
    state::{Hop, Link, Object, Route, State},
};

/// The `attach` of a network. A kind is its own configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    Veth(veth::Veth),
    Bridge(bridge::Bridge),
    Macvlan(macvlan::Macvlan),
    Ipvlan(ipvlan::Ipvlan),
}
kind_or_map!(Attach, Kind);

impl Default for Attach {
    fn default() -> Self {
        Self(Kind::Veth(veth::Veth {}))
    }
}

/// How a pod's link comes to be: in one message, the pod's side in the pod's namespace at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Birth {
    /// Two ends, one of which stays in the node's namespace: deleting it ends both.
    Pair { host: Link, pod: Link },
    /// A child of a device of the node. It is in the pod's namespace alone, and ends with the
    /// device. Its index there tells whose it is.
    Child { parent: IfName, pod: Link, index: u32 },
}

impl Birth {
    pub fn pod(&self) -> &Link {
        match self {
            Self::Pair { pod, .. } | Self::Child { pod, .. } => pod,
        }
    }
    pub fn host(&self) -> Option<&Link> {
        match self {
            Self::Pair { host, .. } => Some(host),
            Self::Child { .. } => None,
        }
    }
}

/// How far pods of one node may meet by way of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meet {
    Freely,
    /// Only where a Service led the one to the other.
    Translated,
    Never,
}

/// Where packets go that leave the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub ip: IpAddr,
    /// None: a stranger, who is asked for it.
    pub mac: Option<Mac>,
}

/// What pods stand on, and so which joins there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footing {
    /// The node: it hands their packets on, by whichever join.
    Node,
    /// The network of the parent, as the node itself does.
    Network,
    /// The node's routing table alone, by the parent; `translates` if its translation of addresses
    /// sees both directions.
    Routed { translates: bool },
}

/// How pods of one node meet, that are children of one parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siblings {
    Meet,
    /// If the network sends back what came from the parent.
    ByNetwork,
    Never,
    /// There is one pod at most.
    None,
}

/// What a kind of attachment answers.
pub trait Attaching {
    fn birth(&self, pod: &Attachment, on: &Ground<'_>) -> Birth;
    /// What the node's namespace should hold for this pod, the host's end included.
    fn outside(&self, pod: &Attachment, on: &Ground<'_>) -> State;
    /// What the pod's namespace should hold besides its link, addresses and routes.
    fn beside(&self, _pod: &Attachment) -> State {
        State::default()
    }
    /// Where the pod's packets for other places go; none: there are no other places.
    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop>;
    /// The address as the pod holds it: with the prefix that is on-link for it.
    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet;
    /// True if other pods can reach it without a route of the host: its link must go down at once
    /// when the pod goes.
    fn reached_past_routes(&self) -> bool;
    /// What the node holds for the network as long as it has blocks in it, pods or none.
    fn node(&self, on: &Ground<'_>) -> State;
    /// The device of the node that the pods' links are children of.
    fn parent(&self) -> Option<&Parent> {
        None
    }
    fn footing(&self) -> Footing {
        Footing::Node
    }
    fn siblings(&self) -> Siblings {
        Siblings::Meet
    }
    /// True if pods have no MAC address of their own.
    fn has_nics_mac(&self) -> bool {
        false
    }
    /// True if one pod has the whole of the parent.
    fn alone(&self) -> bool {
        false
    }
    /// True if pods are heard on the physical network under MAC addresses of their own.
    fn has_own_macs(&self) -> bool {
        self.footing() == Footing::Network && !self.has_nics_mac()
    }
    /// How far pods of one node may meet by way of the node, where it is a way for them.
    fn meet_by_node(&self) -> Meet {
        match self.siblings() {
            Siblings::Meet | Siblings::None => Meet::Freely,
            Siblings::ByNetwork => Meet::Translated,
            Siblings::Never => Meet::Never,
        }
    }
    /// For people: the kind and what matters of its settings.
    fn described(&self) -> String;
    /// Whether both may have children on one parent; if not, why.
    fn beside_on_parent(&self, _other: &dyn Attaching) -> Result<(), String> {
        Ok(())
    }
}

impl Attach {
    pub fn kind(&self) -> &dyn Attaching {
        match &self.0 {
            Kind::Veth(attach) => attach,
            Kind::Bridge(attach) => attach,
            Kind::Macvlan(attach) => attach,
            Kind::Ipvlan(attach) => attach,
        }
    }

    /// What the pod's own namespace should hold. Its MTU is said twice: by the device, what it may
    /// be sent, and by the route, what it may send; they differ while a network's MTU changes.
    pub fn inside(&self, pod: &Attachment, on: &Ground<'_>) -> State {
        let dev = &pod.id.ifname;
        let lo = IfName::new("lo");
        let mut state: State = [
            Object::Link(self.kind().birth(pod, on).pod().clone()),
            Object::Up { dev: lo },
            Object::Up { dev: dev.clone() },
        ]
        .into_iter()
        .collect();
        for addr in pod.usable() {
            let net = self.pod_addr(pod, *addr, on);
            // A prefix that reaches over the tunnel says what may be sent there, and so is not
            // left to the kernel.
            state.put(if on.segment.is_wide() {
                Object::Member { dev: dev.clone(), addr: net }
            } else {
                Object::Addr { dev: dev.clone(), addr: net }
            });
            if let Some(NextHop { ip, mac: Some(mac) }) = self.next_hop(pod, *addr, on) {
                state.put(Object::Neigh { dev: dev.clone(), ip, mac });
            }
            let routes = self.routes(pod, *addr, on).into_iter();
            state.extend(routes.map(|(dst, via)| {
                let to = via
                    .map_or_else(|| Hop::Link(dev.clone()), |via| Hop::Gateway(dev.clone(), via));
                Object::Route(Route { dst, to, mtu: Some(on.send) })
            }));
        }
        state.merge(self.kind().beside(pod));
        state.merge(bandwidth::inside(pod));
        state.merge(access::inside(pod, on));
        state
    }
}

/// The address by which a pod speaks IPv6 to its neighbours on the link.
fn link_local(pod: &Attachment) -> Option<Object> {
    let addr = pod.addrs.iter().any(IpAddr::is_ipv6).then(|| pod.mac.link_local())?;
    Some(Object::Addr { dev: pod.id.ifname.clone(), addr })
}

/// The pod's end of a veth pair.
fn veth_end(pod: &Attachment, on: &Ground<'_>) -> Link {
    let kind = crate::state::Kind::Veth;
    // A device that is too small for IPv6 loses its addresses of it.
    let least = pod.addrs.iter().any(IpAddr::is_ipv6).then_some(Mtu::IPV6_LEAST);
    let mtu = least.map_or(on.accept, |least| on.accept.max(least));
    Link { dev: pod.id.ifname.clone(), kind, mtu, mac: pod.mac, master: None }
}

impl Attach {
    /// What the node's namespace should hold for this pod.
    pub fn outside(&self, pod: &Attachment, on: &Ground<'_>) -> State {
        let mut state = self.guarded(pod, on);
        state.merge(access::outside(pod, on));
        let ports = ports::outside(pod, &state);
        state.merge(ports);
        state
    }

    /// As that, without the pod's way to the node: by its kind, and by how it is found.
    pub fn guarded(&self, pod: &Attachment, on: &Ground<'_>) -> State {
        let mut state = self.kind().outside(pod, on);
        state.merge(bandwidth::outside(pod));
        for dev in &on.answers {
            let proxy = |ip: &IpAddr| Object::Proxy { dev: dev.clone(), ip: *ip };
            state.extend(pod.addrs.iter().map(proxy));
        }
        state
    }

    /// The address as the pod holds it: as its lease says, where it has one.
    pub fn pod_addr(&self, pod: &Attachment, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        let leased = pod.lease_of(addr).map(|lease| IpNet::new(addr, lease.terms.prefix_len));
        leased.and_then(Result::ok).unwrap_or_else(|| self.kind().pod_addr(addr, on))
    }

    /// Where the pod's packets for other places go, as its lease says, where it has one.
    pub fn next_hop(&self, pod: &Attachment, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        match pod.lease_of(addr) {
            Some(lease) => lease.terms.router.map(|ip| NextHop { ip: ip.into(), mac: None }),
            None => self.kind().next_hop(addr, on),
        }
    }

    /// What the pod reaches by this link with its address, and through which next hop.
    pub fn routes(
        &self,
        pod: &Attachment,
        addr: IpAddr,
        on: &Ground<'_>,
    ) -> Vec<(IpNet, Option<IpAddr>)> {
        if let Footing::Routed { .. } = self.kind().footing() {
            // There is nobody on the link to hand it to.
            return pod.routes_of(addr, on.ranges).into_iter().map(|dst| (dst, None)).collect();
        }
        let range = on.segment.is_wide().then(|| on.range_of(addr)).flatten();
        let hop = self.next_hop(pod, addr, on);
        let own = self.pod_addr(pod, addr, on);
        let through = hop.into_iter().flat_map(|hop| {
            // Where the kernel itself routes what is on the link, nothing is said of it.
            let on_link = move |dst: &IpNet| hop.mac.is_none() && own.contains(dst);
            let dsts = pod.routes_of(addr, on.ranges).into_iter();
            dsts.filter(move |dst| Some(dst) != range && !on_link(dst))
                .map(move |dst| (dst, Some(hop.ip)))
        });
        range.map(|range| (*range, None)).into_iter().chain(through).collect()
    }
}

/// How far the link that a pod is on reaches, below the network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Over its own node.
    Node,
    /// Over all nodes: the whole range is on-link. With `host_access` the nodes are on it too, and
    /// are the way to everything else.
    Network { host_access: bool },
}

impl Segment {
    pub fn is_wide(self) -> bool {
        matches!(self, Self::Network { .. })
    }
    pub fn host_access(self) -> bool {
        !matches!(self, Self::Network { host_access: false })
    }
}

/// The node and network that a pod stands on.
pub struct Ground<'a> {
    pub node: &'a NodeName,
    pub network: &'a NetworkName,
    pub ranges: &'a [IpNet],
    /// This node's blocks in the network.
    pub blocks: &'a [IpNet],
    pub segment: Segment,
    /// Routers of the physical network, where pods stand on it.
    pub gateways: &'a [IpAddr],
    /// Largest packet that a pod may send.
    pub send: Mtu,
    /// Largest packet that a pod may be sent.
    pub accept: Mtu,
    /// The underlay device's MTU.
    pub wire: Mtu,
    pub nics: &'a [Nic],
    /// The NIC on which the pods' links stand, where they do and it is there.
    pub parent: Option<Standing>,
    /// Tunnels on which the node answers for its pods, since nobody tells the others of them.
    pub answers: Vec<IfName>,
    /// What pods reach by the node whose link is no way to it.
    pub access: Option<&'a access::Access>,
}

impl Ground<'_> {
    pub fn block_of(&self, addr: IpAddr) -> Option<&IpNet> {
        self.blocks.iter().find(|block| block.contains(&addr))
    }

    pub fn range_of(&self, addr: IpAddr) -> Option<&IpNet> {
        self.ranges.iter().find(|range| range.contains(&addr))
    }
}
