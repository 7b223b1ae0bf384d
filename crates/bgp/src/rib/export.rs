//! What of a best path a neighbour is told: whether at all, and with which attributes (RFC 4271, 5
//! and 9.1.3; RFC 4456, 8; RFC 1997).

use std::net::Ipv4Addr;

use super::{
    Peer,
    best::Known,
    path::Path,
    peers::Who,
    routes::{LOCAL_PREF, Reach},
};
use crate::attrs::{AsPath, Attrs, Family, NextHop, Segment};

/// Whether the neighbour may hear of a path, its prefix aside; `from` said it, none: it is our own.
pub(super) fn may_tell(
    path: Path,
    from: Option<&Who>,
    reach: Reach,
    to: &Who,
    own_only: bool,
) -> bool {
    let Some(from) = from else { return to.external || !path.is_external_only() };
    let reach = match reach {
        Reach::Anybody => true,
        Reach::Inside => !to.external,
        Reach::Nobody => false,
    };
    // RFC 4456, 6: what an internal neighbour said goes to others only if one of both is a client.
    let inside = !from.external && !to.external;
    let reflects = from.client || to.client;
    reach && from.addr != to.addr && !own_only && (!inside || reflects)
}

/// None where there is no next hop of a kind that the neighbour understands.
pub(super) fn route_for(
    known: &Known<'_>,
    path: Path,
    family: Family,
    to: &Who,
    peer: &Peer,
    router_id: Ipv4Addr,
) -> Option<(Attrs, NextHop)> {
    let (attrs, next_hop) = known.routes.get(path.route);
    match known.who(path) {
        _ if to.external => {
            let attrs = outside(attrs, path.is_own(), peer);
            Some((attrs, own_next_hop(family, peer)?))
        }
        Some(from) if !from.external => {
            let next_hop = reflected_next_hop(family, next_hop, peer)?;
            Some((reflected(attrs, from, router_id), next_hop))
        }
        _ => {
            let local_pref = attrs.local_pref.or(Some(LOCAL_PREF));
            let attrs = Attrs { local_pref, ..with_communities(attrs, path.is_own(), peer) };
            Some((attrs, own_next_hop(family, peer)?))
        }
    }
}

/// To an external neighbour. MED is said of our own routes alone (RFC 4271, 5.1.4).
fn outside(attrs: Attrs, own: bool, peer: &Peer) -> Attrs {
    let attrs = with_communities(attrs, own, peer);
    Attrs {
        as_path: prepended(attrs.as_path, peer.config.local_as),
        med: attrs.med.filter(|_| own),
        local_pref: None,
        originator: None,
        cluster_list: Vec::new(),
        ..attrs
    }
}

/// RFC 4456, 8.
fn reflected(mut attrs: Attrs, from: &Who, router_id: Ipv4Addr) -> Attrs {
    attrs.originator = attrs.originator.or(Some(from.router_id));
    attrs.cluster_list.insert(0, router_id);
    attrs.local_pref = attrs.local_pref.or(Some(LOCAL_PREF));
    attrs
}

fn with_communities(mut attrs: Attrs, own: bool, peer: &Peer) -> Attrs {
    if own {
        let config = &peer.config;
        attrs.communities.extend(&config.communities);
        attrs.large_communities.extend(&config.large_communities);
        attrs.communities.sort_unstable();
        attrs.communities.dedup();
        attrs.large_communities.sort_unstable();
        attrs.large_communities.dedup();
    }
    attrs
}

/// Confederations are left out on the way to the outside (RFC 5065, 5.2). A sequence that is too long
/// for one segment is the codec's to cut.
fn prepended(path: AsPath, asn: u32) -> AsPath {
    let plain = |segment: &Segment| matches!(segment, Segment::Sequence(_) | Segment::Set(_));
    let mut segments: Vec<Segment> = path.0.into_iter().filter(plain).collect();
    match segments.first_mut() {
        Some(Segment::Sequence(asns)) => asns.insert(0, asn),
        _ => segments.insert(0, Segment::Sequence(vec![asn])),
    }
    AsPath(segments)
}

fn own_next_hop(family: Family, peer: &Peer) -> Option<NextHop> {
    let config = &peer.config;
    let hop6 = config.next_hop6.map(|addr| NextHop::V6(addr, None));
    match family {
        Family::Ipv6 => hop6,
        Family::Ipv4 => {
            let over_ipv6 = hop6.filter(|_| peer.agreed.ipv4_over_ipv6);
            config.next_hop4.map(NextHop::V4).or(over_ipv6)
        }
    }
}

/// The same, if the neighbour understands it; a link-local address means nothing on other links
/// (RFC 2545, 3), so we stand in for one that has no other.
fn reflected_next_hop(family: Family, next_hop: NextHop, peer: &Peer) -> Option<NextHop> {
    match next_hop {
        NextHop::V6(addr, _) if addr.is_unicast_link_local() => own_next_hop(family, peer),
        NextHop::V6(..) if family == Family::Ipv4 && !peer.agreed.ipv4_over_ipv6 => None,
        NextHop::V6(addr, _) => Some(NextHop::V6(addr, None)),
        NextHop::V4(_) => Some(next_hop),
    }
}
