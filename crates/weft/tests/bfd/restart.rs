//! A program that is killed and is back in time was never away.

use std::{thread, time::Duration};

use crate::{
    ours::{Program, in_its_own_process},
    peer::{Kind, Peer, Session},
    site::{Site, until},
    with_each,
};

with_each!(a_restart_within_the_detection_time_is_not_noticed);

fn a_restart_within_the_detection_time_is_not_noticed(kind: Kind) {
    in_its_own_process();
    let module = if kind == Kind::Frr { "frr" } else { "bird" };
    let test = format!("restart::{module}::a_restart_within_the_detection_time_is_not_noticed");
    let site = Site::new(false);
    let sessions = [false, true].map(|ipv6| Session {
        ends: site.ends(ipv6),
        multihop: false,
        interval_ms: 300,
    });
    let peer = Peer::start(kind, &site.theirs, &sessions);
    let up = |program: &Program| {
        let mut heard = sessions.map(|_| program.hears());
        heard.sort();
        assert_eq!(heard, sessions.map(|session| format!("{} up", session.ends.theirs)));
        for Session { ends, .. } in sessions {
            until("up there", || peer.is_up(ends.ours));
        }
    };
    let downs = || sessions.map(|session| peer.downs(session.ends.ours));
    let mut program = Program::start(&site.ours, &test, &sessions);
    up(&program);
    for _ in 0..3 {
        // Times are agreed, and the file says so.
        thread::sleep(Duration::from_secs(1));
        program.kill();
        thread::sleep(Duration::from_millis(300));
        program = Program::start(&site.ours, &test, &sessions);
        up(&program);
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(downs(), [0, 0], "{}", crate::ours::kept());
    assert!(program.no_news());
    // Longer than the detection time, and it is noticed.
    program.kill();
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(downs(), [1, 1]);
    let program = Program::start(&site.ours, &test, &sessions);
    up(&program);
    assert_eq!(downs(), [1, 1]);
}
