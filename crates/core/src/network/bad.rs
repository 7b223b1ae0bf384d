//! What is said of a network that can't be taken.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    attach::Parent,
    join::Join,
    name::{Mtu, NetworkName},
};

/// Why a network can't be taken as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    #[error(
        "network {0}: no range; give `ranges`, such as [10.1.0.0/16] or [10.1.0.0/16, fd01::/64]"
    )]
    NoRange(NetworkName),
    #[error(
        "network {name}: {range} is not for pods: loopback, link-local, multicast or unspecified"
    )]
    Special { name: NetworkName, range: IpNet },
    #[error("network {name}: two {family} ranges; one per address family")]
    TwoRanges { name: NetworkName, family: &'static str },
    #[error("network {name}: {range} has bits set beyond its prefix; write {}", range.trunc())]
    HostBits { name: NetworkName, range: IpNet },
    #[error(
        "network {name}: a block of /{block} does not fit range {range}: {}",
        if range.prefix_len() > *most {
            format!("the range itself is smaller than the smallest block, /{most}")
        } else {
            format!("use a length from {} to {most}", range.prefix_len())
        }
    )]
    Block { name: NetworkName, range: IpNet, block: u8, most: u8 },
    #[error(
        "network {name}: attach {attach} stands on the physical network itself: it goes with join \
         underlay alone, not with {join}"
    )]
    NeedsUnderlay { name: NetworkName, attach: String, join: String },
    #[error(
        "network {name}: join underlay is the physical network itself: it goes with attach macvlan \
         and ipvlan mode l2 alone, not with {attach}"
    )]
    NotOnUnderlay { name: NetworkName, attach: String },
    #[error(
        "network {name}: attach {attach} is routed by the node's own table and NIC: it goes with \
         join host-gw or bgp, not with {join}"
    )]
    NeedsRoutes { name: NetworkName, attach: String, join: String },
    #[error(
        "network {name}: attach {attach} is routed by the node's own NIC, which a VLAN's device is \
         not: leave `vlan` out, or use mode l2"
    )]
    RoutedVlan { name: NetworkName, attach: String },
    #[error(
        "network {name}: `masquerade` can't be with attach {attach}: what comes in passes the node's \
         translation by; use mode l3s"
    )]
    NotTranslated { name: NetworkName, attach: String },
    #[error(
        "network {name}: `{field}` has no meaning with join underlay: no packet passes the node"
    )]
    PastNode { name: NetworkName, field: &'static str },
    #[error("network {name}: gateway {gateway} is in none of its ranges")]
    GatewayOutside { name: NetworkName, gateway: IpAddr },
    #[error("network {name}: two {family} gateways; at most one per address family")]
    TwoGateways { name: NetworkName, family: &'static str },
    #[error(
        "network {name}: {range} can't be served with `addresses: dhcp`, which is IPv4 only; \
         leave it out, or use `addresses: chunks`"
    )]
    DhcpIpv6 { name: NetworkName, range: IpNet },
    #[error(
        "network {name}: `{field}` has no meaning with `addresses: dhcp`: the network's DHCP \
         server says it"
    )]
    DhcpSays { name: NetworkName, field: &'static str },
    #[error("network {name}: {why}")]
    Fixed { name: NetworkName, why: String },
    #[error("network {name}: {range} has no address left for pods")]
    NothingLeft { name: NetworkName, range: IpNet },
    #[error("network {name}: {parent} is network {other}'s parent too: {why}")]
    SameParent { name: NetworkName, parent: Parent, other: NetworkName, why: String },
    #[error("network {name}: MTU {mtu} is too small for IPv6, which needs 1280 (RFC 8200, 5)")]
    Mtu6 { name: NetworkName, mtu: Mtu },
    #[error("network {name}: {range} overlaps {other_range} of network {other}")]
    Overlap { name: NetworkName, range: IpNet, other: NetworkName, other_range: IpNet },
    #[error("network {name}: VNI {vni} is network {other}'s; give each network its own `vni`")]
    SameVni { name: NetworkName, vni: u32, other: NetworkName },
    #[error(
        "network {name}: {other} is the default network already; set its `default` to false first"
    )]
    TwoDefaults { name: NetworkName, other: NetworkName },
    #[error("network {name}: join {join}: {why}")]
    Join { name: NetworkName, join: Join, why: String },
    #[error(
        "network {0}: join vxlan-bridged is one bridge over all nodes and needs `attach: bridge`"
    )]
    BridgedAttach(NetworkName),
    #[error(
        "network {name}: range {range} has one block, and of join vxlan-bridged the first is kept \
         for the gateway; use blocks longer than /{}", range.prefix_len()
    )]
    OneBlock { name: NetworkName, range: IpNet },
    #[error(
        "network {0}: `hostAccess: false` is for joins vxlan-bridged and underlay alone; packets of \
         every other join are routed by the hosts"
    )]
    HostAccess(NetworkName),
    #[error(
        "network {name}: `services` has no meaning with {with}: it is for pods on the physical network \
         (join underlay), whose other packets pass no node; leave it out"
    )]
    Services { name: NetworkName, with: String },
    #[error("network {name}: services {services}: {why}")]
    BadServices { name: NetworkName, services: IpNet, why: String },
    #[error(
        "network {0}: without host access it can't be the default network: pods would have no way \
         to their node"
    )]
    HostlessDefault(NetworkName),
    #[error("network {name}: {range} overlaps {addr}, an address of the underlay")]
    Underlay { name: NetworkName, range: IpNet, addr: IpNet },
}
