//! What becomes of our routes at FRR and BIRD, by how their BFD is configured, when we are killed, stop
//! for a while, or die: docs/bgp-peers.md has this table. Times are 100 ms, three of which may be missed.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{peer::*, sessions::*, site::*};

/// Longer than the detection time by far.
const AWAY: Duration = Duration::from_secs(2);
const AT_ONCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum Fate {
    KilledForAMoment,
    KilledForLong,
    StoppedForLong,
    Dead,
    BfdBlocked,
}

fn watched(kind: Kind, more: &'static str) -> (Site, Peer, Ours) {
    let (site, mut setup, mut ours) = meeting(kind);
    (setup.others[0].restart, setup.others[0].bfd) = (Some(30), Some(100));
    setup.others[0].more = more;
    ours.neighbour("10.0.0.2", THEIR_AS).graceful_restart = Some(Duration::from_secs(30));
    ours.watch("10.0.0.2");
    ours.desired.bfd.values_mut().for_each(|settings| settings.interval = AT_ONCE);
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    ours.until("watched", |ours| ours.report("10.0.0.2").bfd.as_deref() == Some("up"));
    // Both say how often they send once they are up, and then how often they will.
    thread::sleep(Duration::from_secs(1));
    (site, peer, ours)
}

/// Looks for so long whether our routes stay.
fn look(peer: &Peer, time: Duration) -> &'static str {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if peer.routes_of(ip("10.0.0.1")).len() < 2 {
            return "gone";
        }
        thread::sleep(Duration::from_millis(10));
    }
    "kept"
}

fn meets(kind: Kind, more: &'static str, fate: Fate) -> &'static str {
    let (site, peer, mut ours) = watched(kind, more);
    let away = match fate {
        Fate::KilledForAMoment => AT_ONCE,
        _ => AWAY,
    };
    match fate {
        Fate::KilledForAMoment | Fate::KilledForLong => ours.crash(),
        Fate::StoppedForLong => ours.stop(false),
        Fate::Dead => site.silence(0),
        Fate::BfdBlocked => drop(sh(
            &site.hosts[0],
            "nft 'add table inet t; add chain inet t out { type filter hook output priority 0; }
             add rule inet t out udp dport 3784 drop'",
        )),
    }
    let from = Instant::now();
    if matches!(fate, Fate::Dead) {
        ours.until("forgotten by us", |ours| ours.known().routes.is_empty());
        assert!(from.elapsed() < Duration::from_secs(1), "{:?}", from.elapsed());
    }
    let seen = look(&peer, away);
    if matches!(fate, Fate::Dead | Fate::BfdBlocked) {
        assert!(seen == "kept" || from.elapsed() < Duration::from_secs(1), "{:?}", from.elapsed());
        return seen;
    }
    ours.begin();
    let back = look(&peer, Duration::from_secs(3));
    ours.until_up("10.0.0.2");
    until("told again", || peer.routes_of(ip("10.0.0.1")).len() == 2);
    if seen == "gone" { seen } else { back }
}

fn fares(kind: Kind, more: &'static str) -> String {
    let fates = [
        Fate::KilledForAMoment,
        Fate::KilledForLong,
        Fate::StoppedForLong,
        Fate::Dead,
        Fate::BfdBlocked,
    ];
    let one = |fate: &Fate| format!("{fate:?}: {}\n", meets(kind, more, *fate));
    fates.iter().map(one).collect()
}

#[test]
fn frr_with_bfd() {
    let expected = "KilledForAMoment: kept\nKilledForLong: kept\nStoppedForLong: kept\n\
                    Dead: gone\nBfdBlocked: gone\n";
    assert_eq!(fares(Kind::Frr, ""), expected);
}

#[test]
fn frr_that_checks_for_a_control_plane_failure() {
    let expected = "KilledForAMoment: kept\nKilledForLong: kept\nStoppedForLong: kept\n\
                    Dead: kept\nBfdBlocked: gone\n";
    assert_eq!(fares(Kind::Frr, "bfd check-control-plane-failure"), expected);
}

#[test]
fn bird_with_bfd_on() {
    let expected = "KilledForAMoment: kept\nKilledForLong: gone\nStoppedForLong: kept\n\
                    Dead: gone\nBfdBlocked: gone\n";
    assert_eq!(fares(Kind::Bird, "bfd on;"), expected);
}

#[test]
fn bird_with_bfd_graceful() {
    let expected = "KilledForAMoment: kept\nKilledForLong: kept\nStoppedForLong: kept\n\
                    Dead: kept\nBfdBlocked: kept\n";
    assert_eq!(fares(Kind::Bird, "bfd graceful;"), expected);
}
