//! One session over IPv6 that carries both families, and asking for all of it again.

use weft_bgp::config::{Filter, Rule};

use crate::{peer::*, sessions::*, site::*};

with_each!(carries_ipv4_over_ipv6, asks_and_is_told_again);

/// IPv4 routes with IPv6 next hops (RFC 8950).
fn carries_ipv4_over_ipv6(kind: Kind) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.addr = ip("fd00::2");
    setup.others[0].addr = ip("fd00::1");
    ours.desired.config.neighbours.clear();
    ours.neighbour("fd00::2", THEIR_AS).next_hop4 = None;
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let said = ours.report("fd00::2").capabilities.join(", ");
    assert!(said.contains("IPv4 over IPv6"), "{said}");
}

/// A filter that no longer lets a route pass, and then does again: what was refused comes back, by
/// route refresh alone.
fn asks_and_is_told_again(kind: Kind) {
    let (site, setup, mut ours) = meeting(kind);
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let none = Rule { within: net("10.2.0.0/16"), least: 0, most: 32, pass: false };
    let refuse = Filter { rules: vec![none], else_pass: true };
    let all = std::mem::replace(&mut ours.neighbour("10.0.0.2", THEIR_AS).import, refuse);
    ours.apply();
    ours.until("refused", |ours| !ours.knows("10.2.0.0/24"));
    assert!(ours.knows("fd00:2::/112"));
    ours.neighbour("10.0.0.2", THEIR_AS).import = all;
    ours.apply();
    ours.until("told again", |ours| ours.knows("10.2.0.0/24"));
    assert_eq!(ours.report("10.0.0.2").established, 1, "by no new session");
}
