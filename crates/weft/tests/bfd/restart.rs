//! A program that is killed and is back in time was never away, and one that did not run for a while
//! blames nobody.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    ours::{Program, in_its_own_process, kept},
    peer::{Kind, Peer, Session},
    site::{Site, until},
    with_each,
};

with_each!(
    a_restart_within_the_detection_time_is_not_noticed,
    a_planned_restart_may_take_longer,
    who_did_not_run_for_longer_than_the_detection_time_reads_before_it_judges,
);

/// The program that a test starts is the test itself once more.
fn name(kind: Kind, test: &str) -> String {
    let module = if kind == Kind::Frr { "frr" } else { "bird" };
    format!("restart::{module}::{test}")
}

fn until_up(program: &Program, peer: &Peer, sessions: &[Session]) {
    let mut heard: Vec<String> = sessions.iter().map(|_| program.hears()).collect();
    heard.sort();
    let up = |session: &Session| format!("{} up", session.ends.theirs);
    assert_eq!(heard, sessions.iter().map(up).collect::<Vec<_>>());
    for Session { ends, .. } in sessions {
        until("up there", || peer.is_up(ends.ours));
    }
}

/// One session of each family, as `of` has them, up on both sides.
fn begun(
    kind: Kind,
    test: &str,
    of: impl Fn(Session) -> Session,
) -> (Site, [Session; 2], Peer, Program) {
    in_its_own_process();
    let site = Site::new(false);
    let sessions = [false, true].map(|ipv6| of(Session::new(site.ends(ipv6), false)));
    let peer = Peer::start(kind, &site.theirs, &sessions);
    let program = Program::start(&site.ours, test, &sessions);
    until_up(&program, &peer, &sessions);
    (site, sessions, peer, program)
}

fn a_restart_within_the_detection_time_is_not_noticed(kind: Kind) {
    let test = name(kind, "a_restart_within_the_detection_time_is_not_noticed");
    let (site, sessions, peer, mut program) = begun(kind, &test, |session| session);
    let downs = || sessions.map(|session| peer.downs(session.ends.ours));
    for _ in 0..3 {
        // Long enough for times to be agreed.
        thread::sleep(Duration::from_secs(1));
        program.kill();
        thread::sleep(Duration::from_millis(300));
        program = Program::start(&site.ours, &test, &sessions);
        until_up(&program, &peer, &sessions);
    }
    thread::sleep(Duration::from_secs(2));
    assert_eq!(downs(), [0, 0], "{}", kept());
    assert!(program.no_news());
    // Away for longer than that it is missed, and welcome again.
    program.kill();
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(downs(), [1, 1]);
    let program = Program::start(&site.ours, &test, &sessions);
    until_up(&program, &peer, &sessions);
    assert_eq!(downs(), [1, 1]);
}

fn a_planned_restart_may_take_longer(kind: Kind) {
    let test = name(kind, "a_planned_restart_may_take_longer");
    let (site, sessions, peer, mut program) = begun(kind, &test, |session| session);
    let downs = || sessions.map(|session| peer.downs(session.ends.ours));
    for _ in 0..2 {
        program.stop();
        thread::sleep(Duration::from_secs(3));
        program = Program::start(&site.ours, &test, &sessions);
        until_up(&program, &peer, &sessions);
    }
    assert_eq!(downs(), [0, 0], "{}", kept());
    // And they are as watchful as before.
    for Session { ends, .. } in sessions {
        until("at 300 ms", || peer.knows_interval(ends.ours, 300));
    }
    let cut = site.cut();
    until("missed", || downs() == [1, 1]);
    assert!(cut.elapsed() < Duration::from_secs(2), "{:?}", cut.elapsed());
}

fn who_did_not_run_for_longer_than_the_detection_time_reads_before_it_judges(kind: Kind) {
    let test =
        name(kind, "who_did_not_run_for_longer_than_the_detection_time_reads_before_it_judges");
    // The other side waits for long, we for 900 ms.
    let (site, sessions, _peer, program) =
        begun(kind, &test, |session| Session { multiplier: 30, ..session });
    thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        program.signal(Signal::SIGSTOP);
        thread::sleep(Duration::from_secs(2));
        program.signal(Signal::SIGCONT);
        thread::sleep(Duration::from_millis(500));
        assert!(program.no_news());
    }
    // It sees what is really silent.
    site.cut();
    program.signal(Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    program.signal(Signal::SIGCONT);
    let theirs = sessions[0].ends.theirs;
    let heard = [program.hears(), program.hears()];
    let gone = format!("{theirs} down: nothing heard of {theirs} for 900 ms");
    assert!(heard.contains(&gone), "{heard:?}");
}
