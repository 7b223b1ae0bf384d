//! Sessions come up, notice the other's silence, and are not fooled.

use std::{net::UdpSocket, time::Duration};

use weft_bgp::bfd::{PORT, State};

use crate::{
    ours::Ours,
    peer::{Kind, Peer, Session},
    site::{Site, until},
    with_each,
};

/// Of three times 300 ms, with what a busy machine takes to run a thread.
const SOON: Duration = Duration::from_millis(1000);

fn sessions(site: &Site, multihop: bool) -> [Session; 2] {
    [false, true].map(|ipv6| Session { ends: site.ends(ipv6), multihop, interval_ms: 300 })
}

with_each!(
    one_hop_comes_up_and_silence_is_noticed_by_both,
    two_hops_come_up_and_silence_is_noticed_by_both,
);

fn one_hop_comes_up_and_silence_is_noticed_by_both(kind: Kind) {
    comes_up_and_silence_is_noticed(kind, false);
}

fn two_hops_come_up_and_silence_is_noticed_by_both(kind: Kind) {
    comes_up_and_silence_is_noticed(kind, true);
}

fn comes_up_and_silence_is_noticed(kind: Kind, multihop: bool) {
    let site = Site::new(multihop);
    let sessions = sessions(&site, multihop);
    let peer = Peer::start(kind, &site.theirs, &sessions);
    let ours = Ours::start(&site.ours, &sessions);
    for Session { ends, .. } in sessions {
        ours.until_up(ends.theirs);
        until("up there", || peer.is_up(ends.ours));
        ours.until_reports(ends.theirs, "at 300 ms", |report| {
            (report.interval_ms, report.remote_interval_ms, report.detection_ms) == (300, 300, 900)
        });
    }
    assert_eq!(ours.detector.problems(), Vec::<String>::new());
    let cut = site.cut();
    for Session { ends, .. } in sessions {
        let (why, when) = ours.until_down(ends.theirs);
        assert_eq!(why, format!("nothing heard of {} for 900 ms", ends.theirs));
        assert!(when - cut < SOON, "{:?} {:?}", when - cut, ours.report(ends.theirs));
    }
    for Session { ends, .. } in sessions {
        until("down there", || !peer.is_up(ends.ours));
        assert_eq!(peer.downs(ends.ours), 1, "{}", peer.shows(ends.ours));
    }
    assert!(cut.elapsed() < SOON * 2, "they take {:?}", cut.elapsed());
    site.heal();
    for Session { ends, .. } in sessions {
        ours.until_up(ends.theirs);
        until("up there", || peer.is_up(ends.ours));
        let report = ours.report(ends.theirs);
        assert_eq!((report.ups, report.downs), (2, 1), "{report:#?}");
    }
}
