//! Objects as netlink requests. One function a kind; what an object means is core's.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::{
    mark,
    name::{IfName, Mac, Mtu},
    state::{Hop, Kind, Link, Route},
};

use crate::{kinds, uapi::*, wire::Batch};

/// What every link of ours has from its first moment.
fn born(batch: &mut Batch, link: &Link) {
    batch
        .attr_str(IFLA_IFNAME, link.dev.as_str())
        .attr_u32(IFLA_MTU, link.mtu.get().into())
        .attr(IFLA_ADDRESS, &link.mac.0)
        .attr_u32(IFLA_GROUP, mark::LINK_GROUP);
}

/// `lower` is the number of the device that it stands on, or by which a group is joined.
pub(crate) fn create_link(batch: &mut Batch, link: &Link, master: u32, lower: u32) {
    batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
    born(batch, link);
    if master != 0 {
        batch.attr_u32(IFLA_MASTER, master);
    }
    kinds::write(batch, &link.kind, lower);
    batch.end();
}

/// A child of a device of this namespace, created in the pod's: it is never seen here. Before Linux
/// 6.15 the kernel looks for its name here too (net/core/rtnetlink.c, `__rtnl_newlink`), where a
/// stranger may have it, but not where an index is given: then for the index alone.
pub(crate) fn create_child(batch: &mut Batch, pod: &Link, index: u32, (parent, netns): (u32, i32)) {
    batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(index, 0, 0));
    born(batch, pod);
    batch.attr_u32(IFLA_LINK, parent).attr(IFLA_NET_NS_FD, &netns.to_ne_bytes());
    kinds::write(batch, &pod.kind, 0);
    batch.end();
}

/// Has a number given to another namespace, by which its links can be asked for from here.
pub(crate) fn number_netns(batch: &mut Batch, netns: i32) {
    batch
        .begin(RTM_NEWNSID, 0, &[0; 4])
        .attr(NETNSA_NSID, &(-1i32).to_ne_bytes())
        .attr(NETNSA_FD, &netns.to_ne_bytes())
        .end();
}

pub(crate) fn get_nsid(batch: &mut Batch, netns: i32) {
    batch.begin(RTM_GETNSID, 0, &[0; 4]).attr(NETNSA_FD, &netns.to_ne_bytes()).end();
}

/// A link by its name, in this namespace or in the one of the number.
pub(crate) fn get_named(batch: &mut Batch, dev: &IfName, nsid: Option<u32>) {
    batch.begin(RTM_GETLINK, 0, &ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, dev.as_str());
    if let Some(nsid) = nsid {
        batch.attr_u32(IFLA_TARGET_NETNSID, nsid);
    }
    batch.end();
}

pub(crate) fn delete_there(batch: &mut Batch, dev: &IfName, nsid: u32) {
    batch
        .begin(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0))
        .attr_str(IFLA_IFNAME, dev.as_str())
        .attr_u32(IFLA_TARGET_NETNSID, nsid)
        .end();
}

pub(crate) fn local_attr(local: IpAddr) -> u16 {
    if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 }
}

/// A veth pair, the pod's end created in its namespace. One queue each way: the default is one per
/// possible CPU and costs four times the time.
pub(crate) fn create_pair(batch: &mut Batch, host: &Link, pod: &Link, netns: i32, master: u32) {
    batch.begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfomsg(0, 0, 0));
    born(batch, host);
    if master != 0 {
        batch.attr_u32(IFLA_MASTER, master);
    }
    batch.attr_u32(IFLA_NUM_TX_QUEUES, 1).attr_u32(IFLA_NUM_RX_QUEUES, 1);
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.attr(IFLA_INFO_KIND, b"veth").nest(IFLA_INFO_DATA, |batch| {
            batch.nest(VETH_INFO_PEER, |batch| {
                batch.raw(&ifinfomsg(0, 0, 0));
                born(batch, pod);
                batch
                    .attr_u32(IFLA_NUM_TX_QUEUES, 1)
                    .attr_u32(IFLA_NUM_RX_QUEUES, 1)
                    .attr(IFLA_NET_NS_FD, &netns.to_ne_bytes());
            });
        });
    });
    batch.end();
}

/// What a bridge's port is set to, by the kind of link that it is: attribute and value.
///
/// A pod's sends back what came by it: where br_netfilter is in force, a pod that reaches itself
/// by a translated address is bridged, not routed (br_nf_pre_routing_finish). A tunnel's
/// learns nothing unless it learns itself, is not asked for addresses that are known, and passes
/// nothing on to another tunnel's.
pub(crate) fn port_settings(kind: &Kind) -> &'static [(u16, u8)] {
    match kind {
        Kind::Veth => &[(IFLA_BRPORT_MODE, 1)],
        Kind::Vxlan { .. } => {
            &[(IFLA_BRPORT_LEARNING, 0), (IFLA_BRPORT_NEIGH_SUPPRESS, 1), (IFLA_BRPORT_ISOLATED, 1)]
        }
        Kind::VxlanGroup { .. } => {
            &[(IFLA_BRPORT_LEARNING, 1), (IFLA_BRPORT_NEIGH_SUPPRESS, 1), (IFLA_BRPORT_ISOLATED, 1)]
        }
        Kind::Bridge | Kind::Macvlan { .. } | Kind::Ipvlan { .. } | Kind::Vlan { .. } => &[],
    }
}

/// In a message of its own, since the kernel asks the master that the port had before it.
pub(crate) fn set_port(batch: &mut Batch, dev: &IfName, kind: &Kind) {
    set_port_to(batch, dev, port_settings(kind));
}

pub(crate) fn set_port_to(batch: &mut Batch, dev: &IfName, settings: &[(u16, u8)]) {
    batch.begin(RTM_NEWLINK, 0, &ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, dev.as_str());
    batch.nest(IFLA_LINKINFO, |batch| {
        batch.attr(IFLA_INFO_SLAVE_KIND, b"bridge").nest(IFLA_INFO_SLAVE_DATA, |batch| {
            for (setting, value) in settings {
                batch.attr_u8(*setting, *value);
            }
        });
    });
    batch.end();
}

pub(crate) fn get_link(batch: &mut Batch, index: u32) {
    batch.begin(RTM_GETLINK, 0, &ifinfomsg(index, 0, 0)).end();
}

/// Brings what can be changed on a living link from `was` to what `link` says, and touches nothing
/// else: even the same MAC address written again flushes every neighbour, permanent ones too
/// (net/core/neighbour.c, `neigh_changeaddr`).
pub(crate) fn edit_link(
    batch: &mut Batch,
    link: &Link,
    was: &Link,
    index: u32,
    (master, was_master): (u32, u32),
) {
    batch.begin(RTM_NEWLINK, 0, &ifinfomsg(index, 0, 0));
    if link.dev.is_host_end() {
        batch.attr_u32(IFLA_GROUP, mark::LINK_GROUP);
    }
    if link.mtu != was.mtu {
        batch.attr_u32(IFLA_MTU, link.mtu.get().into());
    }
    if link.mac != was.mac {
        batch.attr(IFLA_ADDRESS, &link.mac.0);
    }
    if master != was_master {
        batch.attr_u32(IFLA_MASTER, master);
    }
    if let Kind::Vxlan { local, .. } = &link.kind
        && link.kind != was.kind
    {
        batch.nest(IFLA_LINKINFO, |batch| {
            batch.attr(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |batch| {
                batch.attr_ip(local_attr(*local), *local);
            });
        });
    }
    if let Kind::Macvlan { .. } | Kind::Ipvlan { .. } = &link.kind
        && link.kind != was.kind
    {
        kinds::write(batch, &link.kind, 0);
    }
    batch.end();
}

pub(crate) fn delete_link(batch: &mut Batch, dev: &IfName) {
    batch.begin(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).attr_str(IFLA_IFNAME, dev.as_str()).end();
}

pub(crate) fn delete_group(batch: &mut Batch, group: u32) {
    batch.begin(RTM_DELLINK, 0, &ifinfomsg(0, 0, 0)).attr_u32(IFLA_GROUP, group).end();
}

/// Marks a link as one whose pod is gone; down, so that no packet crosses it.
pub(crate) fn doom(batch: &mut Batch, dev: &IfName, down: bool) {
    let change = if down { IFF_UP } else { 0 };
    batch
        .begin(RTM_NEWLINK, 0, &ifinfomsg(0, 0, change))
        .attr_str(IFLA_IFNAME, dev.as_str())
        .attr_u32(IFLA_GROUP, mark::DOOMED_GROUP)
        .end();
}

/// A link of ours has just the addresses that we give it: before it comes up it is told to make
/// none of its own. (The message that creates a link can't say so: EAFNOSUPPORT.)
pub(crate) fn no_own_addresses(batch: &mut Batch, dev: &IfName) {
    batch
        .begin(RTM_NEWLINK, 0, &ifinfomsg(0, 0, 0))
        .attr_str(IFLA_IFNAME, dev.as_str())
        .nest(IFLA_AF_SPEC, |batch| {
            batch.nest(AF_INET6, |batch| {
                batch.attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        })
        .end();
}

pub(crate) fn set_up(batch: &mut Batch, dev: &IfName, up: bool) {
    let flags = if up { IFF_UP } else { 0 };
    batch
        .begin(RTM_NEWLINK, 0, &ifinfomsg(0, flags, IFF_UP))
        .attr_str(IFLA_IFNAME, dev.as_str())
        .end();
}

/// How an address is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Plain,
    /// Its prefix has no route by it.
    Member,
    /// As that, and it is never chosen to send from: of the host's own scope (IPv4, which
    /// inet_select_addr passes over), or no longer preferred (RFC 6724, rule 3).
    Anycast,
}

pub(crate) fn addr(batch: &mut Batch, index: u32, addr: &IpNet, hold: Hold) {
    let ip = addr.addr();
    let mut body = ifaddrmsg(family(ip), addr.prefix_len(), index);
    if hold == Hold::Anycast && ip.is_ipv4() {
        body[3] = RT_SCOPE_HOST;
    }
    batch
        .begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
        .attr_ip(IFA_LOCAL, ip)
        .attr_ip(IFA_ADDRESS, ip);
    let alone = if hold == Hold::Plain { 0 } else { IFA_F_NOPREFIXROUTE };
    let flags = alone | if ip.is_ipv6() { IFA_F_NODAD } else { 0 };
    if flags != 0 {
        batch.attr_u32(IFA_FLAGS, flags);
    }
    if hold == Hold::Anycast && ip.is_ipv6() {
        // `struct ifa_cacheinfo`: preferred for no time, valid for ever.
        let mut lifetimes = [0; 16];
        lifetimes[4..8].fill(0xff);
        batch.attr(IFA_CACHEINFO, &lifetimes);
    }
    batch.end();
}

pub(crate) fn delete_addr(batch: &mut Batch, index: u32, addr: &IpNet) {
    let ip = addr.addr();
    batch
        .begin(RTM_DELADDR, 0, &ifaddrmsg(family(ip), addr.prefix_len(), index))
        .attr_ip(IFA_LOCAL, ip)
        .attr_ip(IFA_ADDRESS, ip)
        .end();
}

pub(crate) fn neigh(batch: &mut Batch, index: u32, ip: IpAddr, mac: Option<&Mac>) {
    let (kind, flags) = match mac {
        Some(_) => (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
        None => (RTM_DELNEIGH, 0),
    };
    batch.begin(kind, flags, &ndmsg(family(ip), index, NUD_PERMANENT, 0)).attr_ip(NDA_DST, ip);
    if let Some(mac) = mac {
        batch.attr(NDA_LLADDR, &mac.0);
    }
    batch.end();
}

/// An address answered for in another's stead.
pub(crate) fn proxy(batch: &mut Batch, add: bool, index: u32, ip: IpAddr) {
    let (kind, flags) =
        if add { (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE) } else { (RTM_DELNEIGH, 0) };
    let body = ndmsg(family(ip), index, NUD_PERMANENT, NTF_PROXY);
    batch.begin(kind, flags, &body).attr_ip(NDA_DST, ip).end();
}

pub(crate) fn fdb(batch: &mut Batch, index: u32, mac: &Mac, dst: Option<IpAddr>) {
    let (kind, flags) = match dst {
        Some(_) => (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE),
        None => (RTM_DELNEIGH, 0),
    };
    let body = ndmsg(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF);
    batch.begin(kind, flags, &body).attr(NDA_LLADDR, &mac.0);
    if let Some(dst) = dst {
        batch.attr_ip(NDA_DST, dst);
    }
    batch.end();
}

/// One of several places for what no better place is known for (vxlan's entry of zeros).
pub(crate) fn flood(batch: &mut Batch, add: bool, index: u32, dst: IpAddr) {
    let (kind, flags) =
        if add { (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_APPEND) } else { (RTM_DELNEIGH, 0) };
    let body = ndmsg(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF);
    batch.begin(kind, flags, &body).attr(NDA_LLADDR, &[0; 6]).attr_ip(NDA_DST, dst).end();
}

/// The port by which the bridge reaches a MAC. Permanent would mean the host itself.
pub(crate) fn behind(batch: &mut Batch, add: bool, index: u32, mac: &Mac) {
    let (kind, flags) =
        if add { (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE) } else { (RTM_DELNEIGH, 0) };
    let body = ndmsg(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER);
    batch.begin(kind, flags, &body).attr(NDA_LLADDR, &mac.0).end();
}

/// A number that is new to us must be new to everybody: a stranger's is not taken over.
pub(crate) fn nexthop(
    batch: &mut Batch,
    (id, new): (u32, bool),
    index: u32,
    via: IpAddr,
    onlink: bool,
) {
    let how = if new { NLM_F_EXCL } else { NLM_F_REPLACE };
    let flags = if onlink { RTNH_F_ONLINK } else { 0 };
    batch
        .begin(RTM_NEWNEXTHOP, NLM_F_CREATE | how, &nhmsg(family(via), mark::PROTOCOL, flags))
        .attr_u32(NHA_ID, id)
        .attr_ip(NHA_GATEWAY, via)
        .attr_u32(NHA_OIF, index)
        .end();
}

/// Of `struct nexthop_grp` the weight counts from 0: all weigh the same.
pub(crate) fn group(batch: &mut Batch, (id, new): (u32, bool), members: &[u32]) {
    let how = if new { NLM_F_EXCL } else { NLM_F_REPLACE };
    let entries: Vec<u8> =
        members.iter().flat_map(|id| id.to_ne_bytes().into_iter().chain([0; 4])).collect();
    batch
        .begin(RTM_NEWNEXTHOP, NLM_F_CREATE | how, &nhmsg(0, mark::PROTOCOL, 0))
        .attr_u32(NHA_ID, id)
        .attr(NHA_GROUP, &entries)
        .end();
}

pub(crate) fn delete_nexthop(batch: &mut Batch, id: u32) {
    batch.begin(RTM_DELNEXTHOP, 0, &nhmsg(0, 0, 0)).attr_u32(NHA_ID, id).end();
}

/// `through` is the number of the nexthop object or the device's index, by the kind of hop.
pub(crate) fn route(batch: &mut Batch, route: &Route, through: u32) {
    let ip = route.dst.addr();
    let (kind, scope, flags) = match &route.to {
        Hop::Blackhole => (RTN_BLACKHOLE, 0, 0),
        Hop::Link(_) | Hop::From(..) => (RTN_UNICAST, RT_SCOPE_LINK, 0),
        Hop::NextHop(..) | Hop::Group(_) => (RTN_UNICAST, 0, 0),
        Hop::Gateway(..) | Hop::GatewayFrom(..) => (RTN_UNICAST, 0, RTNH_F_ONLINK),
    };
    let metric = match &route.to {
        Hop::GatewayFrom(..) => mark::ACCESS_METRIC,
        _ => mark::METRIC,
    };
    // IPv6 knows no scopes.
    let scope = if ip.is_ipv4() { scope } else { 0 };
    batch
        .begin(
            RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            &rtmsg(family(ip), route.dst.prefix_len(), mark::PROTOCOL, scope, kind, flags),
        )
        .attr_ip(RTA_DST, ip)
        .attr_u32(RTA_PRIORITY, metric);
    match &route.to {
        Hop::Blackhole => {}
        Hop::Link(_) => {
            batch.attr_u32(RTA_OIF, through);
        }
        Hop::From(_, src) => {
            batch.attr_u32(RTA_OIF, through).attr_ip(RTA_PREFSRC, *src);
        }
        Hop::NextHop(..) | Hop::Group(_) => {
            batch.attr_u32(RTA_NH_ID, through);
        }
        Hop::GatewayFrom(_, via, src) => {
            batch.attr_ip(RTA_GATEWAY, *via).attr_ip(RTA_PREFSRC, *src).attr_u32(RTA_OIF, through);
        }
        Hop::Gateway(_, via) => {
            if via.is_ipv4() == ip.is_ipv4() {
                batch.attr_ip(RTA_GATEWAY, *via);
            } else {
                // `struct rtvia`: an IPv6 next hop of an IPv4 route.
                let mut value = u16::from(family(*via)).to_ne_bytes().to_vec();
                if let IpAddr::V6(via) = via {
                    value.extend_from_slice(&via.octets());
                }
                batch.attr(RTA_VIA, &value);
            }
            batch.attr_u32(RTA_OIF, through);
        }
    }
    metrics(batch, route.mtu);
    batch.end();
}

fn metrics(batch: &mut Batch, mtu: Option<Mtu>) {
    if let Some(mtu) = mtu {
        batch.nest(RTA_METRICS, |batch| {
            batch.attr_u32(RTAX_MTU, mtu.get().into());
        });
    }
}

pub(crate) fn delete_route(batch: &mut Batch, dst: &IpNet, metric: u32) {
    let ip = dst.addr();
    batch
        .begin(
            RTM_DELROUTE,
            0,
            &rtmsg(family(ip), dst.prefix_len(), mark::PROTOCOL, RT_SCOPE_NOWHERE, 0, 0),
        )
        .attr_ip(RTA_DST, ip)
        .attr_u32(RTA_PRIORITY, metric)
        .end();
}

/// "Any scope" in a deletion (net/ipv4/fib_trie.c, `fib_table_delete`).
const RT_SCOPE_NOWHERE: u8 = 255;

pub(crate) fn route_lookup(batch: &mut Batch, ip: IpAddr) {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let mut body = rtmsg(family(ip), bits, 0, 0, 0, 0);
    body[4] = 0;
    batch.begin(RTM_GETROUTE, 0, &body).attr_ip(RTA_DST, ip).end();
}
