//! Sessions come up, notice the other's silence, and are not fooled.

use std::{
    net::UdpSocket,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::Ipv4Ttl};
use weft_bgp::bfd::{Control, Diag, PORT, State};

use crate::{
    ours::{Ours, settings},
    peer::{Kind, Peer, Session},
    site::{Ends, Site, sh, until},
    with_each,
};

/// Of three times 300 ms, with what a busy machine takes to run a thread.
const SOON: Duration = Duration::from_millis(1000);

fn sessions(site: &Site, multihop: bool) -> [Session; 2] {
    [false, true].map(|ipv6| Session::new(site.ends(ipv6), multihop))
}

with_each!(
    one_hop_comes_up_and_silence_is_noticed_by_both,
    two_hops_come_up_and_silence_is_noticed_by_both,
    other_times_are_agreed_while_it_is_up,
    a_goodbye_is_heard_and_is_not_silence,
    a_packet_that_a_router_passed_on_is_not_taken,
    what_is_missing_is_said_and_waited_for,
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

fn other_times_are_agreed_while_it_is_up(kind: Kind) {
    let site = Site::new(false);
    let sessions = sessions(&site, false);
    let peer = Peer::start(kind, &site.theirs, &sessions);
    let ours = Ours::start(&site.ours, &sessions);
    sessions.iter().for_each(|session| ours.until_up(session.ends.theirs));
    // Theirs are 300 ms times 3.
    for (interval_ms, agreed) in [(1000, 1000), (100, 300), (300, 300)] {
        let changed = sessions.map(|session| Session { interval_ms, ..session });
        ours.detector.configure(settings(&changed));
        for Session { ends, .. } in sessions {
            ours.until_reports(ends.theirs, "agreed", |report| {
                let agreed = (agreed, agreed * 3);
                (report.interval_ms, report.detection_ms) == agreed
            });
            until("known there", || peer.knows_interval(ends.ours, interval_ms));
        }
    }
    for Session { ends, .. } in sessions {
        assert_eq!(peer.downs(ends.ours), 0);
    }
    assert!(ours.no_news());
}

fn a_goodbye_is_heard_and_is_not_silence(kind: Kind) {
    let site = Site::new(false);
    let sessions = sessions(&site, false);
    let peer = Peer::start(kind, &site.theirs, &sessions);
    let ours = Ours::start(&site.ours, &sessions);
    sessions.iter().for_each(|session| ours.until_up(session.ends.theirs));
    peer.switch(&sessions, false);
    for Session { ends, .. } in sessions {
        match kind {
            // What is switched off is not dead (RFC 5882, 3.2).
            Kind::Frr => ours.until_reports(ends.theirs, "switched off", |report| {
                report.state == State::Down && report.remote_state == State::AdminDown
            }),
            // It says nothing, and that is what the dead say.
            Kind::Bird => drop(ours.until_down(ends.theirs)),
        }
    }
    assert!(ours.no_news());
    peer.switch(&sessions, true);
    for Session { ends, .. } in sessions {
        ours.until_up(ends.theirs);
        until("up there", || peer.is_up(ends.ours));
    }
    assert!(Path::new("/run/bfd.json").exists());
    ours.detector.stop(true);
    for Session { ends, .. } in sessions {
        until("told", || peer.was_told_goodbye(ends.ours));
    }
    assert!(!Path::new("/run/bfd.json").exists());
}

fn a_packet_that_a_router_passed_on_is_not_taken(kind: Kind) {
    let site = Site::new(false);
    let [session, _] = sessions(&site, false);
    let peer = Peer::start(kind, &site.theirs, &[session]);
    let ours = Ours::start(&site.ours, &[session]);
    let ends = session.ends;
    ours.until_up(ends.theirs);
    until("up there", || peer.is_up(ends.ours));
    let goes_down = Control {
        diag: Diag::None,
        state: State::Down,
        poll: false,
        last: false,
        independent: false,
        demand: false,
        multiplier: 3,
        mine: 1,
        yours: 0,
        desired_tx: Duration::from_millis(300),
        required_rx: Duration::from_millis(300),
        required_echo: Duration::ZERO,
    };
    let send = |ttl: i32| {
        let send = || {
            let socket = UdpSocket::bind((ends.theirs, 0)).unwrap();
            setsockopt(&socket, Ipv4Ttl, &ttl).unwrap();
            socket.send_to(&goes_down.write(), (ends.ours, PORT)).unwrap();
        };
        site.theirs.run(send).unwrap();
    };
    send(254);
    ours.until_reports(ends.theirs, "refused", |report| {
        report.refused.get("TTL below 255: it came through a router") == Some(&1)
    });
    assert_eq!(ours.report(ends.theirs).state, State::Up);
    assert!(ours.no_news());
    // It would have hurt.
    send(255);
    let (why, _) = ours.until_down(ends.theirs);
    assert_eq!(why, format!("{} says that its session is down (no diagnostic)", ends.theirs));
}

fn what_is_missing_is_said_and_waited_for(kind: Kind) {
    let site = Site::new(false);
    let sessions = sessions(&site, false);
    let ends = sessions[0].ends;
    let peer = Peer::start(kind, &site.theirs, &sessions);
    sh(&site.ours, "ip addr del 10.0.0.1/24 dev eth0");
    let taken = site.ours.run(|| UdpSocket::bind(("::", PORT)).unwrap()).unwrap();
    let ours = Ours::start(&site.ours, &sessions);
    let says = |words: &str| {
        let has = || ours.detector.problems().iter().any(|problem| problem.contains(words));
        until(words, has);
    };
    says("UDP port 3784 is taken by another BFD daemon: stop it");
    says("send BFD packets from 10.0.0.1 to 10.0.0.2: Cannot assign requested address");
    drop(taken);
    sh(&site.ours, "ip addr add 10.0.0.1/24 dev eth0");
    for Session { ends, .. } in sessions {
        ours.until_up(ends.theirs);
        until("up there", || peer.is_up(ends.ours));
    }
    until("well", || ours.detector.problems().is_empty());
    assert!(peer.is_up(ends.ours));
}

/// Both ends are ours, with 50 ms times 3, and more threads want to run than can.
#[test]
fn a_busy_machine_does_not_stall_it() {
    let site = Site::new(false);
    let ends = site.ends(false);
    let session = Session { interval_ms: 50, ..Session::new(ends, false) };
    let back = Session { ends: Ends { ours: ends.theirs, theirs: ends.ours }, ..session };
    let (ours, theirs) = (
        Ours::keeping("/run/a.json", &site.ours, &[session]),
        Ours::keeping("/run/b.json", &site.theirs, &[back]),
    );
    ours.until_up(ends.theirs);
    theirs.until_up(ends.ours);
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| while Instant::now() < end {});
        }
    });
    assert!(ours.no_news() && theirs.no_news(), "{:#?}", ours.report(ends.theirs));
    let report = ours.report(ends.theirs);
    assert!(report.packets_in > 80 && report.detection_ms == 150, "{report:#?}");
}
