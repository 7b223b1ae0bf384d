//! Graceful restart, in both roles: whoever restarts, no route is lost meanwhile.

use std::time::{Duration, Instant};

use crate::{peer::*, sessions::*, site::*};

with_each!(
    keeps_ours_while_we_restart,
    is_kept_while_it_restarts,
    forgets_us_when_we_leave,
    keeps_ours_when_we_stop_for_a_while,
);

/// How long it is looked at whether something stays as it is.
const LOOK: Duration = Duration::from_millis(1500);

fn graceful(kind: Kind) -> (Site, Peer, Ours) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.others[0].restart = Some(30);
    let neighbour = ours.neighbour("10.0.0.2", THEIR_AS);
    neighbour.graceful_restart = Some(Duration::from_secs(30));
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    (site, peer, ours)
}

fn all_kept(peer: &Peer) {
    let told = peer.routes_of(ip("10.0.0.1"));
    assert_eq!(told.len(), 2, "{told:?}");
}

fn all_known(ours: &Ours) {
    let known = ours.prefixes();
    assert_eq!(known.len(), 2, "{known:?} {:?}", ours.router().neighbours());
}

fn keeps_ours_while_we_restart(kind: Kind) {
    let (_site, peer, mut ours) = graceful(kind);
    ours.crash();
    let end = Instant::now() + LOOK;
    while Instant::now() < end {
        all_kept(&peer);
    }
    ours.begin();
    // The first thing that it knows is what the one before knew.
    ours.until("kept", |ours| !ours.known().routes.is_empty());
    all_known(&ours);
    let known = ours.known();
    assert!(known.settling && known.routes.values().all(|route| route.stale), "{known:?}");
    ours.until("settled", |ours| {
        all_known(ours);
        all_kept(&peer);
        !ours.known().settling
    });
    ours.until_up("10.0.0.2");
    ours.until("fresh", |ours| ours.known().routes.values().all(|route| !route.stale));
    until("fresh there", || {
        all_kept(&peer);
        peer.routes_of(ip("10.0.0.1")).values().all(|told| !told.stale)
    });
}

fn is_kept_while_it_restarts(kind: Kind) {
    let (_site, mut peer, ours) = graceful(kind);
    peer.kill();
    ours.until("restarting", |ours| ours.report("10.0.0.2").restarting);
    let end = Instant::now() + LOOK;
    while Instant::now() < end {
        all_known(&ours);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ours.known().routes.values().all(|route| route.stale));
    let news = ours.news.load(std::sync::atomic::Ordering::Relaxed);
    peer.again();
    ours.until("back", |ours| {
        all_known(ours);
        ours.is_up("10.0.0.2") && ours.known().routes.values().all(|route| !route.stale)
    });
    assert!(ours.news.load(std::sync::atomic::Ordering::Relaxed) > news);
    until("told again", || peer.routes_of(ip("10.0.0.1")).len() == 2);
}

fn forgets_us_when_we_leave(kind: Kind) {
    let (_site, peer, mut ours) = graceful(kind);
    ours.stop(true);
    let start = Instant::now();
    until("forgotten", || peer.routes_of(ip("10.0.0.1")).is_empty());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

fn keeps_ours_when_we_stop_for_a_while(kind: Kind) {
    let (_site, peer, mut ours) = graceful(kind);
    ours.stop(false);
    let end = Instant::now() + LOOK;
    while Instant::now() < end {
        all_kept(&peer);
    }
}
