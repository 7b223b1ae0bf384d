//! What we may own in a kernel, keyed as the kernel keys it. The same type says what should be
//! (desired) and what is (actual), for a node's own namespace and for the inside of a pod's.
//!
//! Who owns what, and how one tells, is in `mark.rs`; how one state becomes another, in `plan/`.

mod group;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use group::Group;

use crate::{
    attach::{VlanId, ipvlan, macvlan::Mode},
    bandwidth::Limit,
    name::{IfName, Mac, Mtu, Vni},
    policy::Ruleset,
    ports::{Client, Door},
};

/// The name of an object. Variants stand in dependency order: an object refers only to kinds
/// above its own, so ascending order builds and descending order tears down. Existing and being
/// up are two keys, so that what guards a link is in force before a packet can cross it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    Link(IfName),
    Sysctl(Knob),
    /// From which addresses the pod behind this link may send: before whatever counts on it.
    Sources(IfName),
    /// Our one nftables table, written whole in one transaction.
    Table,
    /// A pod's MAC address whose frames are not taken in by that device of the node.
    Apart(IfName, Mac),
    /// How much the link sends.
    Shaped(IfName),
    Up(IfName),
    Addr(IfName, IpNet),
    Neigh(IfName, IpAddr),
    /// An address that the node answers ARP or ND for on this link, in another's stead.
    Proxy(IfName, IpAddr),
    Fdb(IfName, Mac),
    /// Where a tunnel sends what it knows no better place for; one of several.
    Flood(IfName, IpAddr),
    /// The port by which a bridge reaches this MAC.
    Behind(IfName, Mac),
    /// A nexthop object; its number is the kernel crate's own business.
    NextHop(IfName, IpAddr),
    /// Several nexthop objects as one.
    Group(Group),
    Route(IpNet),
    /// A route to what lies by the pod's node, beside another link's to the same.
    Access(IpNet),
    /// Connections to an address by a mapped port that take an address of the node.
    Hidden(IpAddr, Client),
    /// A port of the node's that leads to a pod.
    Port(Door),
}

/// A member is an address whose prefix has a route of its own (`noprefixroute`). An anycast one is
/// a member that other nodes have too: answered for, and never chosen to send from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "object")]
pub enum Object {
    Link(Link),
    Sysctl {
        knob: Knob,
        value: u8,
    },
    Table {
        ruleset: Ruleset,
    },
    Apart {
        dev: IfName,
        mac: Mac,
    },
    /// `mac`: the pod's, where the link is a port of a bridge.
    Sources {
        dev: IfName,
        mac: Option<Mac>,
        addrs: BTreeSet<IpAddr>,
    },
    Shaped {
        dev: IfName,
        limit: Limit,
    },
    Up {
        dev: IfName,
    },
    Addr {
        dev: IfName,
        addr: IpNet,
    },
    Member {
        dev: IfName,
        addr: IpNet,
    },
    Anycast {
        dev: IfName,
        addr: IpNet,
    },
    Neigh {
        dev: IfName,
        ip: IpAddr,
        mac: Mac,
    },
    Proxy {
        dev: IfName,
        ip: IpAddr,
    },
    Fdb {
        dev: IfName,
        mac: Mac,
        dst: IpAddr,
    },
    Flood {
        dev: IfName,
        dst: IpAddr,
    },
    Behind {
        dev: IfName,
        mac: Mac,
    },
    NextHop {
        dev: IfName,
        via: IpAddr,
    },
    Group {
        hops: Group,
    },
    Route(Route),
    Hidden {
        addr: IpAddr,
        from: Client,
    },
    Port {
        door: Door,
        to: SocketAddr,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub dev: IfName,
    pub kind: Kind,
    pub mtu: Mtu,
    pub mac: Mac,
    /// The bridge it is a port of.
    pub master: Option<IfName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Vxlan {
        vni: Vni,
        port: u16,
        local: IpAddr,
    },
    /// One that floods to a multicast group and learns from what it hears.
    VxlanGroup {
        vni: Vni,
        port: u16,
        local: IpAddr,
        group: IpAddr,
        ttl: u8,
        /// The device by which the group is joined.
        lower: IfName,
    },
    Bridge,
    /// One end of a pod's link. Only `attach` makes it, together with its other end.
    Veth,
    /// A pod's link. Only `attach` makes it, in the pod's namespace.
    Macvlan {
        mode: Mode,
    },
    /// As that.
    Ipvlan {
        mode: ipvlan::Mode,
        flag: ipvlan::Flag,
    },
    /// A VLAN of a NIC, on which pods' links stand.
    Vlan {
        lower: IfName,
        id: VlanId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    pub to: Hop,
    /// Largest packet for this destination; none: the device's MTU.
    pub mtu: Option<Mtu>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hop {
    /// The destination itself is on this link.
    Link(IfName),
    /// The destination itself is on this link; what the host sends there comes from this address.
    From(IfName, IpAddr),
    /// Through the nexthop object of that device and address.
    NextHop(IfName, IpAddr),
    /// Through one of these nexthop objects, by flow.
    Group(Group),
    /// Through a gateway written into the route itself (inside pods).
    Gateway(IfName, IpAddr),
    /// As that, behind routes of other links; what is sent there comes from the last address.
    GatewayFrom(IfName, IpAddr, IpAddr),
    /// Nowhere: the packet is dropped without an answer.
    Blackhole,
}

impl Hop {
    pub fn dev(&self) -> Option<&IfName> {
        match self {
            Self::Link(dev)
            | Self::From(dev, _)
            | Self::NextHop(dev, _)
            | Self::Gateway(dev, _)
            | Self::GatewayFrom(dev, ..) => Some(dev),
            // None of their devices is a link of ours, which alone take things with them.
            Self::Group(_) | Self::Blackhole => None,
        }
    }
}

/// The sysctls we may set. Variants stand in the order in which they are safe to set: a node that
/// has its route from a router advertisement loses it when IPv6 forwarding comes first
/// (Documentation/networking/ip-sysctl.rst, `accept_ra`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Knob {
    AcceptRa(IfName),
    RpFilter(IfName),
    RouteLocalnet(IfName),
    ProxyNdp(IfName),
    ProxyDelay4(IfName),
    ProxyDelay6(IfName),
    Forward4,
    Forward6,
    /// What passes a bridge passes the rules of IPv4 too (br_netfilter).
    BridgeCall4,
    BridgeCall6,
}

impl Knob {
    /// The file below `/proc/sys`.
    pub fn path(&self) -> String {
        match self {
            Self::AcceptRa(dev) => format!("net/ipv6/conf/{dev}/accept_ra"),
            Self::RpFilter(dev) => format!("net/ipv4/conf/{dev}/rp_filter"),
            Self::RouteLocalnet(dev) => format!("net/ipv4/conf/{dev}/route_localnet"),
            Self::ProxyNdp(dev) => format!("net/ipv6/conf/{dev}/proxy_ndp"),
            Self::ProxyDelay4(dev) => format!("net/ipv4/neigh/{dev}/proxy_delay"),
            Self::ProxyDelay6(dev) => format!("net/ipv6/neigh/{dev}/proxy_delay"),
            Self::Forward4 => "net/ipv4/ip_forward".into(),
            Self::Forward6 => "net/ipv6/conf/all/forwarding".into(),
            Self::BridgeCall4 => "net/bridge/bridge-nf-call-iptables".into(),
            Self::BridgeCall6 => "net/bridge/bridge-nf-call-ip6tables".into(),
        }
    }

    /// The interface whose knob it is.
    pub fn dev(&self) -> Option<&IfName> {
        match self {
            Self::AcceptRa(dev)
            | Self::RpFilter(dev)
            | Self::RouteLocalnet(dev)
            | Self::ProxyNdp(dev)
            | Self::ProxyDelay4(dev)
            | Self::ProxyDelay6(dev) => Some(dev),
            Self::Forward4 | Self::Forward6 | Self::BridgeCall4 | Self::BridgeCall6 => None,
        }
    }
}

impl Object {
    pub fn key(&self) -> Key {
        match self.clone() {
            Self::Link(link) => Key::Link(link.dev),
            Self::Sysctl { knob, .. } => Key::Sysctl(knob),
            Self::Table { .. } => Key::Table,
            Self::Apart { dev, mac } => Key::Apart(dev, mac),
            Self::Sources { dev, .. } => Key::Sources(dev),
            Self::Shaped { dev, .. } => Key::Shaped(dev),
            Self::Up { dev } => Key::Up(dev),
            Self::Addr { dev, addr } | Self::Member { dev, addr } | Self::Anycast { dev, addr } => {
                Key::Addr(dev, addr)
            }
            Self::Neigh { dev, ip, .. } => Key::Neigh(dev, ip),
            Self::Proxy { dev, ip } => Key::Proxy(dev, ip),
            Self::Fdb { dev, mac, .. } => Key::Fdb(dev, mac),
            Self::Flood { dev, dst } => Key::Flood(dev, dst),
            Self::Behind { dev, mac } => Key::Behind(dev, mac),
            Self::NextHop { dev, via } => Key::NextHop(dev, via),
            Self::Group { hops } => Key::Group(hops),
            Self::Route(Route { dst, to: Hop::GatewayFrom(..), .. }) => Key::Access(dst),
            Self::Route(route) => Key::Route(route.dst),
            Self::Hidden { addr, from } => Key::Hidden(addr, from),
            Self::Port { door, .. } => Key::Port(door),
        }
    }

    /// The link it stands on; for a link, itself.
    pub fn dev(&self) -> Option<&IfName> {
        match self {
            Self::Link(Link { dev, .. })
            | Self::Up { dev }
            | Self::Shaped { dev, .. }
            | Self::Addr { dev, .. }
            | Self::Member { dev, .. }
            | Self::Anycast { dev, .. }
            | Self::Neigh { dev, .. }
            | Self::Proxy { dev, .. }
            | Self::Fdb { dev, .. }
            | Self::Flood { dev, .. }
            | Self::Behind { dev, .. }
            | Self::NextHop { dev, .. } => Some(dev),
            Self::Route(route) => route.to.dev(),
            Self::Sysctl { knob, .. } => knob.dev(),
            // These stand on a link of the host's, and are to outlive it.
            Self::Apart { .. } | Self::Sources { .. } => None,
            // The last two ask for addresses alone.
            Self::Table { .. } | Self::Group { .. } | Self::Hidden { .. } | Self::Port { .. } => {
                None
            }
        }
    }

    /// Where its kind stands in the order of dependencies: as its key does.
    pub fn class(&self) -> u8 {
        match self {
            Self::Link(_) => 0,
            Self::Sysctl { .. } => 1,
            Self::Table { .. }
            | Self::Apart { .. }
            | Self::Sources { .. }
            | Self::Shaped { .. } => 2,
            Self::Up { .. } => 3,
            Self::Addr { .. } | Self::Member { .. } | Self::Anycast { .. } => 4,
            Self::Neigh { .. } | Self::Proxy { .. } => 5,
            Self::Fdb { .. } | Self::Flood { .. } | Self::Behind { .. } => 6,
            Self::NextHop { .. } => 7,
            Self::Group { .. } => 8,
            Self::Route(_) => 9,
            Self::Hidden { .. } => 10,
            Self::Port { .. } => 11,
        }
    }

    /// True if it is a link, up, or what must be set before it is.
    pub fn raises(&self) -> bool {
        matches!(self, Self::Link(_) | Self::Sysctl { .. } | Self::Shaped { .. } | Self::Up { .. })
    }

    /// How many links must exist before this one: a port comes after its bridge.
    pub fn depth(&self) -> u8 {
        match self {
            Self::Link(link) => u8::from(link.master.is_some()),
            _ => 0,
        }
    }

    /// True if the kernel can turn `was` into `self` in place.
    pub fn edits(&self, was: &Self) -> bool {
        match (self, was) {
            (Self::Link(new), Self::Link(old)) => match (&new.kind, &old.kind) {
                // `local` can be changed on a living VXLAN device (within its family), `id` and
                // `dstport` can not (drivers/net/vxlan/vxlan_core.c, vxlan_nl2conf).
                (
                    Kind::Vxlan { vni, port, local },
                    Kind::Vxlan { vni: old_vni, port: old_port, local: old_local },
                ) => vni == old_vni && port == old_port && local.is_ipv4() == old_local.is_ipv4(),
                // What has the whole NIC can't come to share it, nor the other way
                // (drivers/net/macvlan.c, macvlan_changelink).
                (Kind::Macvlan { mode: new }, Kind::Macvlan { mode: old }) => {
                    new == old || ![new, old].contains(&&Mode::Passthru)
                }
                // (drivers/net/ipvlan/ipvlan_main.c, ipvlan_nl_changelink).
                (Kind::Ipvlan { .. }, Kind::Ipvlan { .. }) => true,
                (new, old) => new == old,
            },
            _ => true,
        }
    }
}

/// Objects by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<Key, Object>);

impl State {
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.0.get(key)
    }
    pub fn contains(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }
    pub fn link(&self, dev: &IfName) -> Option<&Link> {
        match self.0.get(&Key::Link(dev.clone())) {
            Some(Object::Link(link)) => Some(link),
            _ => None,
        }
    }
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> {
        self.0.keys()
    }
    pub fn objects(&self) -> impl DoubleEndedIterator<Item = &Object> {
        self.0.values()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn put(&mut self, object: Object) {
        self.0.insert(object.key(), object);
    }
    /// Forgets `key`; a link takes everything that stood on it.
    pub fn drop(&mut self, key: &Key) {
        match key {
            Key::Link(gone) => self.0.retain(|_, object| object.dev() != Some(gone)),
            _ => drop(self.0.remove(key)),
        }
    }
    /// Everything that stands on `dev`, the link itself left out.
    pub fn standing_on<'a>(&'a self, dev: &'a IfName) -> impl Iterator<Item = &'a Key> {
        let link = Key::Link(dev.clone());
        self.0
            .iter()
            .filter(move |(key, object)| **key != link && object.dev() == Some(dev))
            .map(|(key, _)| key)
    }
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

impl FromIterator<Object> for State {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        Self(objects.into_iter().map(|object| (object.key(), object)).collect())
    }
}
impl Extend<Object> for State {
    fn extend<I: IntoIterator<Item = Object>>(&mut self, objects: I) {
        objects.into_iter().for_each(|object| self.put(object));
    }
}
impl IntoIterator for State {
    type Item = Object;
    type IntoIter = std::collections::btree_map::IntoValues<Key, Object>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_values()
    }
}
