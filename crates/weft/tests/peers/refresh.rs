//! Route refresh as it is asked of us. GoBGP never asks: it keeps what it was told and did not take.

use std::time::Duration;

use crate::{peer::*, sessions::*, site::*};

with_frr_and_bird!(is_asked_and_tells_again, is_asked_and_marks_what_it_tells);

fn asked_again(kind: Kind, graceful: Option<u16>) {
    let (site, mut setup, mut ours) = meeting(kind);
    // Without keepalives meanwhile.
    setup.others[0].hold = 240;
    setup.others[0].restart = graceful;
    let neighbour = ours.neighbour("10.0.0.2", THEIR_AS);
    neighbour.hold_time = 240;
    neighbour.graceful_restart = graceful.map(|time| Duration::from_secs(time.into()));
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let said = ours.report("10.0.0.2").messages_out;
    peer.refresh(ip("10.0.0.1"));
    ours.until("said again", |ours| ours.report("10.0.0.2").messages_out >= said + 2);
    assert_eq!(peer.routes_of(ip("10.0.0.1")).len(), 2);
    let report = ours.report("10.0.0.2");
    assert_eq!(report.established, 1);
    let enhanced = report.capabilities.contains(&"enhanced route refresh".into());
    assert_eq!(enhanced, graceful.is_some());
}

fn is_asked_and_tells_again(kind: Kind) {
    asked_again(kind, None);
}

/// RFC 7313.
fn is_asked_and_marks_what_it_tells(kind: Kind) {
    asked_again(kind, Some(30));
}
