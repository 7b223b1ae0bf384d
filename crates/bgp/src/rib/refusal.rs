//! What a neighbour says and is not taken: routes that would lead in a circle, that nobody may say,
//! or that the operator does not want.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::peers::{Known, Peers};
use crate::attrs::{AsPath, Attrs, NextHop, Segment};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    OwnAs,
    OwnOriginator,
    OwnCluster,
    OwnNextHop,
    Martian,
    Filter,
}

impl Refusal {
    pub fn reason(self) -> &'static str {
        match self {
            Self::OwnAs => "own AS in path",
            Self::OwnOriginator => "own router id as originator",
            Self::OwnCluster => "own router id in cluster list",
            Self::OwnNextHop => "next hop is our own address",
            Self::Martian => "prefix that is never routed",
            Self::Filter => "import filter",
        }
    }
}

/// Of all routes that have these attributes (RFC 4271, 9.1.2; RFC 4456, 8).
pub(super) fn of_attrs(attrs: &Attrs, from: &Known, router_id: Ipv4Addr) -> Option<Refusal> {
    if contains(&attrs.as_path, from.who.local_as) {
        Some(Refusal::OwnAs)
    } else if attrs.originator == Some(router_id) {
        Some(Refusal::OwnOriginator)
    } else if attrs.cluster_list.contains(&router_id) {
        Some(Refusal::OwnCluster)
    } else {
        None
    }
}

pub(super) fn of_next_hop(next_hop: NextHop, peers: &Peers) -> Option<Refusal> {
    let own = |addr: IpAddr| peers.own_addrs.contains(&addr);
    let link_local = match next_hop {
        NextHop::V6(_, link_local) => link_local,
        NextHop::V4(_) => None,
    };
    let any_own = own(next_hop.addr()) || link_local.is_some_and(|addr| own(addr.into()));
    any_own.then_some(Refusal::OwnNextHop)
}

pub(super) fn of_prefix(prefix: &IpNet, from: &Known) -> Option<Refusal> {
    if is_martian(prefix) {
        return Some(Refusal::Martian);
    }
    let passes = from.up.as_ref().is_none_or(|peer| peer.config.import.passes(prefix));
    (!passes).then_some(Refusal::Filter)
}

fn contains(path: &AsPath, asn: u32) -> bool {
    path.0.iter().any(|segment| match segment {
        Segment::Set(asns)
        | Segment::Sequence(asns)
        | Segment::ConfedSequence(asns)
        | Segment::ConfedSet(asns) => asns.contains(&asn),
    })
}

/// Not the default route, whose address is unspecified too.
fn is_martian(prefix: &IpNet) -> bool {
    let len = prefix.prefix_len();
    match prefix.network() {
        IpAddr::V4(addr) => {
            addr.is_loopback()
                || addr.is_multicast() && len >= 4
                || addr.is_link_local() && len >= 16
                || addr.octets()[0] == 0 && len >= 8
                || addr.is_broadcast()
        }
        IpAddr::V6(addr) => {
            addr.is_loopback()
                || addr.is_unspecified() && len == 128
                || addr.is_multicast() && len >= 8
                || addr.is_unicast_link_local() && len >= 10
                || addr.to_ipv4_mapped().is_some() && len >= 96
        }
    }
}
