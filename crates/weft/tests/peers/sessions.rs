//! How sessions come to be, whoever connects.

use crate::{peer::*, site::*};

with_each!(
    comes_up_when_we_connect,
    comes_up_when_it_connects,
    is_one_when_both_connect,
    comes_up_inside_one_as,
    gets_our_new_routes_and_forgets_old_ones,
);

/// Both with two routes; nothing is started yet.
pub fn meeting(kind: Kind) -> (Site, Setup, Ours) {
    let site = Site::new(3);
    let setup = Setup {
        kind,
        asn: THEIR_AS,
        addr: ip("10.0.0.2"),
        others: vec![Other::new("10.0.0.1", OUR_AS)],
        routes: vec![net("10.2.0.0/24"), net("fd00:2::/112")],
        kernel: false,
    };
    let mut ours = Ours::new(&site);
    ours.neighbour("10.0.0.2", THEIR_AS);
    (site, setup, ours)
}

/// Each has the other's routes, and sends packets where it should.
pub fn both_told(ours: &Ours, peer: &Peer, own6: &str, their6: &str) {
    let at = peer.setup.addr.to_string();
    ours.until_up(&at);
    ours.until("told", |ours| ours.knows("10.2.0.0/24") && ours.knows("fd00:2::/112"));
    for (prefix, hop) in [("10.2.0.0/24", at.as_str()), ("fd00:2::/112", their6)] {
        let route = ours.known().routes[&net(prefix)].clone();
        assert_eq!(route.hops.len(), 1, "{route:?}");
        assert_eq!((route.hops[0].via, route.hops[0].from), (ip(hop), ip(&at)), "{route:?}");
        assert!(!route.stale);
    }
    let from = peer.setup.others[0].addr;
    until("told them", || peer.routes_of(from).len() == 2);
    let told = peer.routes_of(from);
    assert_eq!(told[&net("10.1.0.0/24")].next_hop, from);
    assert_eq!(told[&net("fd00:1::/112")].next_hop, ip(own6));
    let report = ours.report(&at);
    assert_eq!((report.routes_in.values().sum::<u32>(), report.routes_out.values().sum()), (2, 2));
}

fn comes_up_when_we_connect(kind: Kind) {
    let (site, mut setup, ours) = meeting(kind);
    setup.others[0].passive = true;
    let peer = Peer::start(&site.hosts[1], setup);
    ours.apply();
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    assert_eq!(ours.known().routes[&net("10.2.0.0/24")].as_path, THEIR_AS.to_string().into());
}

fn comes_up_when_it_connects(kind: Kind) {
    let (site, setup, mut ours) = meeting(kind);
    ours.neighbour("10.0.0.2", THEIR_AS).passive = true;
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
}

/// Both have said SYN, and get an answer in the same moment.
fn is_one_when_both_connect(kind: Kind) {
    let (site, setup, ours) = meeting(kind);
    site.silence(1);
    let peer = Peer::start(&site.hosts[1], setup);
    ours.apply();
    let trying = |host: usize| !sh(&site.hosts[host], "ss -Htn state syn-sent").trim().is_empty();
    until("both trying", || trying(0) && trying(1));
    site.heal(1);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let connections = || sh(&site.hosts[0], "ss -Htn state established").lines().count();
    until("one connection", || connections() == 1);
    assert!(ours.is_up("10.0.0.2"));
    assert!(ours.report("10.0.0.2").established <= 2);
}

fn comes_up_inside_one_as(kind: Kind) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.asn = OUR_AS;
    ours.neighbour("10.0.0.2", OUR_AS);
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    assert_eq!(ours.known().routes[&net("10.2.0.0/24")].as_path, "".into());
}

fn gets_our_new_routes_and_forgets_old_ones(kind: Kind) {
    let (site, setup, mut ours) = meeting(kind);
    ours.apply();
    let mut peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let from = ip("10.0.0.1");
    for prefix in ["10.1.7.0/24", "fd00:1:0:7::/64"] {
        ours.originate(prefix);
        ours.apply();
        until("told them", || peer.routes_of(from).contains_key(&net(prefix)));
        ours.desired.config.originated.remove(&net(prefix));
        ours.apply();
        until("forgotten by them", || !peer.routes_of(from).contains_key(&net(prefix)));
    }
    for prefix in ["10.2.7.0/24", "fd00:2:0:7::/64"] {
        peer.announce(prefix);
        ours.until("told us", |ours| ours.knows(prefix));
        peer.withdraw(prefix);
        ours.until("forgotten by us", |ours| !ours.knows(prefix));
    }
    assert_eq!(ours.report("10.0.0.2").established, 1, "one session all the time");
}
