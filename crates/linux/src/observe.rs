//! Reading the kernel: dumps of what is ours, and of what the host has besides.

use std::{collections::BTreeMap, fmt, io, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;
use weft_core::{
    mark,
    name::{IfName, Mac, Mtu},
    state::{Group, Hop, Kind, Link, Object, Route, State},
};

use crate::{
    encode::{self, Hold},
    kinds, socket,
    uapi::*,
    wire::{self, Message, u16_at, u32_at},
};

/// A node's namespace at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub ours: State,
    /// Links whose pod is gone and that are about to be freed.
    pub doomed: Vec<IfName>,
    /// Routes of the main table that are not ours.
    pub foreign: Vec<ForeignRoute>,
    pub links: Vec<HostLink>,
}

/// A link of the host, ours included.
#[derive(Clone, Debug, Serialize)]
pub struct HostLink {
    pub dev: IfName,
    pub index: u32,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    pub group: u32,
    pub mac: Mac,
    pub kind: String,
    pub addrs: Vec<IpNet>,
    /// A default route leaves by it.
    pub default_route: bool,
    /// Its default route came by a router advertisement.
    pub ra_route: bool,
    #[serde(skip)]
    pub(crate) ours: Option<Link>,
    /// The device that it stands on, by number.
    #[serde(skip)]
    lower: Option<u32>,
}

/// Kinds of links that are children of a NIC, as the kernel names them.
pub(crate) const CHILDREN: [&str; 2] = ["macvlan", "ipvlan"];

impl HostLink {
    /// A child of a NIC, which may be in another namespace than this.
    pub fn is_child(&self) -> bool {
        CHILDREN.contains(&self.kind.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignRoute {
    pub dst: IpNet,
    pub protocol: u8,
    pub metric: u32,
    pub dev: Option<IfName>,
    pub via: Option<IpAddr>,
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}", self.dst)?;
        self.via.iter().try_for_each(|via| write!(f, " via {via}"))?;
        self.dev.iter().try_for_each(|dev| write!(f, " dev {dev}"))?;
        write!(f, " proto {} metric {}", self.protocol, self.metric)
    }
}

/// Nexthop objects: ours by device and address, groups of ours by what they are of, and every number
/// in use.
#[derive(Default)]
pub(crate) struct Hops {
    pub(crate) ids: BTreeMap<(IfName, IpAddr), u32>,
    pub(crate) groups: BTreeMap<Group, u32>,
    pub(crate) used: std::collections::BTreeSet<u32>,
}

impl Hops {
    pub(crate) fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let single =
            |(dev, via): &(IfName, IpAddr)| Object::NextHop { dev: dev.clone(), via: *via };
        let group = |hops: &Group| Object::Group { hops: hops.clone() };
        self.ids.keys().map(single).chain(self.groups.keys().map(group))
    }

    /// What a route leads to by the number that it names.
    fn by_id(&self) -> BTreeMap<u32, Through<'_>> {
        let single = self.ids.iter().map(|(hop, id)| (*id, Through::One(hop)));
        single.chain(self.groups.iter().map(|(hops, id)| (*id, Through::Several(hops)))).collect()
    }
}

enum Through<'a> {
    One(&'a (IfName, IpAddr)),
    Several(&'a Group),
}

impl Through<'_> {
    fn hop(&self) -> Hop {
        match self {
            Self::One((dev, via)) => Hop::NextHop(dev.clone(), *via),
            Self::Several(hops) => Hop::Group((*hops).clone()),
        }
    }
}

pub(crate) fn links(socket: &mut socket::Link) -> io::Result<Vec<HostLink>> {
    let links = socket.dump(RTM_GETLINK, &ifinfomsg(0, 0, 0), |_| {}, link)?;
    let names: BTreeMap<u32, IfName> =
        links.iter().map(|(link, _)| (link.index, link.dev.clone())).collect();
    let named = links.into_iter().map(|(mut link, master)| {
        if let Some(Kind::VxlanGroup { lower, .. } | Kind::Vlan { lower, .. }) =
            link.ours.as_mut().map(|ours| &mut ours.kind)
            && let Some(name) = link.lower.and_then(|index| names.get(&index))
        {
            lower.clone_from(name);
        }
        if let Some(ours) = &mut link.ours {
            ours.master = master.and_then(|index| names.get(&index).cloned());
        }
        link
    });
    Ok(named.collect())
}

/// The link and its master's index.
pub(crate) fn link(message: &Message<'_>) -> Option<(HostLink, Option<u32>)> {
    let (index, flags) = (u32_at(message.body, 4)?, u32_at(message.body, 8)?);
    let mut link = HostLink {
        dev: IfName::new("lo"),
        index,
        mtu: 0,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        group: 0,
        mac: Mac([0; 6]),
        kind: String::new(),
        addrs: Vec::new(),
        default_route: false,
        ra_route: false,
        ours: None,
        lower: None,
    };
    let (mut master, mut data) = (None, &[][..]);
    let mut port = &[][..];
    for (kind, value) in wire::attrs(message.body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.dev = wire::text(value).parse().ok()?,
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_GROUP => link.group = u32_at(value, 0)?,
            IFLA_ADDRESS => link.mac = value.try_into().map_or(link.mac, Mac),
            IFLA_MASTER => master = u32_at(value, 0),
            IFLA_LINK => link.lower = u32_at(value, 0),
            IFLA_LINKINFO => {
                for (kind, value) in wire::attrs(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = wire::text(value),
                        IFLA_INFO_DATA => data = value,
                        IFLA_INFO_SLAVE_DATA => port = value,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let (kind, lower) = kinds::read(&link.kind, data);
    link.lower = lower.or(link.lower);
    let (dev, mtu, mac) = (link.dev.clone(), Mtu::from_kernel(link.mtu), link.mac);
    link.ours = kind.map(|kind| Link { dev, kind, mtu, mac, master: None });
    // A port that is set otherwise is not yet the port that it should be.
    let settings = link.ours.as_ref().map_or(&[][..], |link| encode::port_settings(&link.kind));
    let set = |of: &(u16, u8)| wire::attrs(port).any(|(k, v)| k == of.0 && v == [of.1]);
    let as_it_should = settings.iter().all(set);
    Some((link, master.filter(|_| as_it_should)))
}

/// An address, the number of its link, and how it is held.
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) addr: IpNet,
    /// Of IPv6, and good on its link alone.
    pub(crate) link_local: bool,
    hold: Hold,
}

impl Address {
    pub(crate) fn object(&self, dev: &IfName) -> Object {
        let (dev, addr) = (dev.clone(), self.addr);
        match self.hold {
            Hold::Plain => Object::Addr { dev, addr },
            Hold::Member => Object::Member { dev, addr },
            Hold::Anycast => Object::Anycast { dev, addr },
        }
    }
}

/// Every address of the namespace.
pub(crate) fn addrs(socket: &mut socket::Link) -> io::Result<Vec<Address>> {
    socket.dump(
        RTM_GETADDR,
        &ifaddrmsg(0, 0, 0),
        |_| {},
        |message| {
            let (prefix, index) = (*message.body.get(1)?, u32_at(message.body, 4)?);
            let (mut addr, mut flags) = (None, 0);
            for (kind, value) in wire::attrs(message.body.get(8..)?) {
                match kind {
                    IFA_LOCAL => addr = wire::ip(value),
                    IFA_FLAGS => flags = u32_at(value, 0)?,
                    IFA_ADDRESS if addr.is_none() => addr = wire::ip(value),
                    _ => {}
                }
            }
            let link_local = matches!(addr?, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let addr = IpNet::new(addr?, prefix).ok()?;
            let shy = flags & IFA_F_DEPRECATED != 0
                || addr.addr().is_ipv4() && message.body.get(3) == Some(&RT_SCOPE_HOST);
            let hold = match (flags & IFA_F_NOPREFIXROUTE != 0, shy) {
                (false, _) => Hold::Plain,
                (true, false) => Hold::Member,
                (true, true) => Hold::Anycast,
            };
            Some(Address { index, addr, link_local, hold })
        },
    )
}

pub(crate) fn neighbours(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
) -> io::Result<Vec<Object>> {
    socket.dump(RTM_GETNEIGH, &ndmsg(0, 0, 0, 0), |_| {}, |message| neighbour(message, names))
}

/// Of the neighbours that are wanted those that are there. The kernel has the neighbours of all namespaces
/// in one table, and walks all of it to tell those of one.
pub(crate) fn wanted_neighbours(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
    wanted: &State,
) -> io::Result<Vec<Object>> {
    let mut batch = socket.batch();
    for object in wanted.objects() {
        let Object::Neigh { dev, ip, .. } = object else { continue };
        let Some((index, _)) = names.iter().find(|(_, name)| *name == dev) else { continue };
        let body = ndmsg(family(*ip), *index, 0, 0);
        batch.begin(RTM_GETNEIGH, 0, &body).attr_ip(NDA_DST, *ip).end();
    }
    let found = socket.ask(&batch, |message| neighbour(message, names))?;
    Ok(found.into_iter().flatten().collect())
}

/// Addresses answered for on links that `names` knows.
pub(crate) fn proxies(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
) -> io::Result<Vec<Object>> {
    let mut proxies = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let body = ndmsg(u8::try_from(family).unwrap_or(0), 0, 0, NTF_PROXY);
        proxies.extend(socket.dump(
            RTM_GETNEIGH,
            &body,
            |_| {},
            |message| {
                let dev = names.get(&u32_at(message.body, 4)?)?.clone();
                let mut attrs = wire::attrs(message.body.get(12..)?);
                let ip =
                    attrs.find(|(kind, _)| *kind == NDA_DST).and_then(|(_, ip)| wire::ip(ip))?;
                (*message.body.get(10)? & NTF_PROXY != 0).then_some(Object::Proxy { dev, ip })
            },
        )?);
    }
    Ok(proxies)
}

/// A permanent entry on a link that `names` knows.
pub(crate) fn neighbour(message: &Message<'_>, names: &BTreeMap<u32, IfName>) -> Option<Object> {
    let dev = names.get(&u32_at(message.body, 4)?)?;
    if u16_at(message.body, 8)? & NUD_PERMANENT == 0 {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for (kind, value) in wire::attrs(message.body.get(12..)?) {
        match kind {
            NDA_DST => ip = wire::ip(value),
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(Object::Neigh { dev: dev.clone(), ip: ip?, mac: mac? })
}

/// Entries of tunnels and of bridges' ports, of links that `names` knows. What a bridge learnt is
/// not among them, nor the group that a tunnel floods to by itself.
pub(crate) fn fdb(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
) -> io::Result<Vec<Object>> {
    socket.dump(
        RTM_GETNEIGH,
        &ndmsg(AF_BRIDGE, 0, 0, 0),
        |_| {},
        |message| {
            let dev = names.get(&u32_at(message.body, 4)?)?.clone();
            let state = u16_at(message.body, 8)?;
            let (mut dst, mut mac, mut bridged) = (None, None, false);
            for (kind, value) in wire::attrs(message.body.get(12..)?) {
                match kind {
                    NDA_DST => dst = wire::ip(value),
                    NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                    NDA_MASTER => bridged = true,
                    _ => {}
                }
            }
            let mac = mac?;
            if bridged {
                let fixed = state & NUD_NOARP != 0 && state & NUD_PERMANENT == 0;
                return fixed.then_some(Object::Behind { dev, mac });
            }
            let dst = dst.filter(|dst| !dst.is_multicast() && state & NUD_PERMANENT != 0)?;
            Some(match mac.0 {
                [0, 0, 0, 0, 0, 0] => Object::Flood { dev, dst },
                _ => Object::Fdb { dev, mac, dst },
            })
        },
    )
}

pub(crate) fn hops(socket: &mut socket::Link, names: &BTreeMap<u32, IfName>) -> io::Result<Hops> {
    let mut hops = Hops::default();
    let read = |message: &Message<'_>| {
        let protocol = *message.body.get(2)?;
        let (mut id, mut oif, mut via, mut members) = (None, None, None, Vec::new());
        for (kind, value) in wire::attrs(message.body.get(8..)?) {
            match kind {
                // `struct nexthop_grp`: a number, and what does not matter here.
                NHA_GROUP => members = value.chunks(8).filter_map(|at| u32_at(at, 0)).collect(),
                NHA_ID => id = u32_at(value, 0),
                NHA_OIF => oif = u32_at(value, 0),
                NHA_GATEWAY => via = wire::ip(value),
                _ => {}
            }
        }
        let ours = protocol == mark::PROTOCOL;
        Some((id?, (oif.filter(|_| ours), via), if ours { members } else { Vec::new() }))
    };
    let mut groups = Vec::new();
    let mut single = BTreeMap::new();
    for (id, hop, members) in socket.dump(RTM_GETNEXTHOP, &nhmsg(0, 0, 0), |_| {}, read)? {
        hops.used.insert(id);
        if let (Some(oif), Some(via)) = hop
            && let Some(dev) = names.get(&oif)
        {
            single.insert(id, (dev.clone(), via));
            hops.ids.insert((dev.clone(), via), id);
        } else if !members.is_empty() {
            groups.push((id, members));
        }
    }
    // Of whom the kernel has taken some away is a smaller one: the kernel's own business, too.
    for (id, members) in groups {
        let members: Vec<_> = members.iter().filter_map(|id| single.get(id).cloned()).collect();
        hops.groups.insert(members.into(), id);
    }
    Ok(hops)
}

/// A route of the main table: ours, or somebody else's.
pub(crate) enum Found {
    Ours(Route),
    Foreign(ForeignRoute),
}

pub(crate) fn routes(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
    hops: &Hops,
) -> io::Result<Vec<Found>> {
    let by_id = hops.by_id();
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let body = rtmsg(u8::try_from(family).unwrap_or(0), 0, 0, 0, 0, 0);
        let read = |message: &Message<'_>| route(message, names, &by_id);
        routes.extend(socket.dump(RTM_GETROUTE, &body, |_| {}, read)?);
    }
    Ok(routes)
}

fn route(
    message: &Message<'_>,
    names: &BTreeMap<u32, IfName>,
    hops: &BTreeMap<u32, Through<'_>>,
) -> Option<Found> {
    let [family, prefix, _, _, table, protocol, _, kind] =
        <[u8; 8]>::try_from(message.body.get(..8)?).ok()?;
    if table != RT_TABLE_MAIN || protocol == RTPROT_KERNEL {
        return None;
    }
    let any: IpAddr = if i32::from(family) == libc::AF_INET {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let (mut dst, mut dev, mut via, mut metric, mut mtu, mut hop) =
        (any, None, None, 0, None, None);
    let mut src = None;
    for (kind, value) in wire::attrs(message.body.get(12..)?) {
        match kind {
            RTA_DST => dst = wire::ip(value)?,
            RTA_OIF => dev = names.get(&u32_at(value, 0)?).cloned(),
            RTA_GATEWAY => via = wire::ip(value),
            RTA_PREFSRC => src = wire::ip(value),
            RTA_VIA => via = wire::ip(value.get(2..)?),
            RTA_PRIORITY => metric = u32_at(value, 0)?,
            // Of several next hops (`struct rtnexthop`) the first names the device.
            RTA_MULTIPATH => dev = names.get(&u32_at(value, 4)?).cloned(),
            RTA_NH_ID => hop = u32_at(value, 0),
            RTA_METRICS => {
                let found = wire::attrs(value).find(|(kind, _)| *kind == RTAX_MTU);
                mtu = found.and_then(|(_, value)| u32_at(value, 0)).map(Mtu::from_kernel);
            }
            _ => {}
        }
    }
    let dst = IpNet::new(dst, prefix).ok()?;
    if protocol != mark::PROTOCOL || ![mark::METRIC, mark::ACCESS_METRIC].contains(&metric) {
        return Some(Found::Foreign(ForeignRoute { dst, protocol, metric, dev, via }));
    }
    let to = match (kind, hop, via) {
        (RTN_BLACKHOLE, ..) => Hop::Blackhole,
        (_, Some(id), _) => hops.get(&id).map(Through::hop)?,
        // IPv6 forgets an address that went; the route stays.
        (_, None, Some(via)) if metric == mark::ACCESS_METRIC => {
            Hop::GatewayFrom(dev?, via, src.unwrap_or(any))
        }
        (_, None, Some(via)) => Hop::Gateway(dev?, via),
        (_, None, None) => match src {
            Some(src) => Hop::From(dev?, src),
            None => Hop::Link(dev?),
        },
    };
    Some(Found::Ours(Route { dst, to, mtu }))
}

/// What the kernel answers when asked for the way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTo {
    pub dev: IfName,
    /// None: on-link.
    pub gateway: Option<IpAddr>,
    pub src: Option<IpAddr>,
    pub mtu: Mtu,
}

pub(crate) fn route_to(
    message: &Message<'_>,
    links: &BTreeMap<u32, (IfName, Mtu)>,
) -> Option<RouteTo> {
    if *message.body.get(7)? != RTN_UNICAST {
        return None;
    }
    let (mut found, mut gateway, mut src, mut mtu) = (None, None, None, None);
    for (kind, value) in wire::attrs(message.body.get(12..)?) {
        match kind {
            RTA_OIF => found = links.get(&u32_at(value, 0)?).cloned(),
            RTA_GATEWAY => gateway = wire::ip(value),
            RTA_VIA => gateway = wire::ip(value.get(2..)?),
            RTA_PREFSRC => src = wire::ip(value),
            RTA_METRICS => {
                let found = wire::attrs(value).find(|(kind, _)| *kind == RTAX_MTU);
                mtu = found.and_then(|(_, value)| u32_at(value, 0)).map(Mtu::from_kernel);
            }
            _ => {}
        }
    }
    let (dev, link_mtu) = found?;
    Some(RouteTo { dev, gateway, src, mtu: mtu.map_or(link_mtu, |mtu| mtu.min(link_mtu)) })
}
