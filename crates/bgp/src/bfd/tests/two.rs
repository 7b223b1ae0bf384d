//! Two ends: up, agreed, and down in time.

use std::time::Duration;

use crate::{
    Time,
    bfd::{
        Change, State,
        tests::world::{A, B, DELAY, World, ms},
    },
};

type End = (Duration, u8);

const FAST: End = (Duration::from_millis(300), 3);

/// When an end sent, later than so.
fn sendings(world: &World, end: usize, from: Time) -> Vec<Time> {
    let of = world.sent.iter().filter(|(at, by, _)| *by == end && *at >= from);
    of.map(|(at, ..)| *at).collect()
}

#[test]
fn they_come_up_within_a_second_and_agree_on_the_slower() {
    let cases: [(End, End, u64, u64); 4] = [
        (FAST, FAST, 900, 900),
        (FAST, (ms(100), 5), 1500, 900),
        ((ms(50), 10), (ms(1000), 3), 3000, 10_000),
        // Faster than can be asked for.
        ((ms(1), 3), (ms(10), 1), 10, 30),
    ];
    for (a, b, detection_a, detection_b) in cases {
        let mut world = World::new(3, a, b);
        world.run(ms(1000));
        assert_eq!(world.states(), [State::Up, State::Up]);
        world.run(ms(5000));
        let interval = a.0.max(b.0).max(ms(10));
        for (end, detection) in [(A, detection_a), (B, detection_b)] {
            let report = world.report(end);
            assert_eq!(u128::from(report.interval_ms), interval.as_millis(), "{report:?}");
            assert_eq!(report.detection_ms, detection, "{report:?}");
            assert_eq!((report.ups, report.downs), (1, 0), "{report:?}");
        }
    }
}

#[test]
fn packets_are_three_quarters_to_one_interval_apart() {
    for (multiplier, most) in [(3, 300), (1, 270)] {
        let mut world = World::up(9, (ms(300), multiplier), FAST);
        world.run(ms(300_000));
        let sent = sendings(&world, A, ms(0));
        let gaps: Vec<Duration> =
            sent.windows(2).map(|two| two[1].saturating_sub(two[0])).collect();
        let (least, longest) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*least >= ms(225) && *least < ms(228), "{least:?}");
        assert!(*longest <= ms(most) && *longest > ms(most - 3), "{longest:?}");
    }
    let mut world = World::new(9, FAST, FAST);
    world.kill(B);
    world.lose_all();
    world.run(ms(100_000));
    // Nobody there: once a second at most (6.8.3).
    let sent = sendings(&world, A, ms(0));
    assert!(sent.windows(2).all(|two| two[1].saturating_sub(two[0]) >= ms(750)));
    assert!((100..=134).contains(&sent.len()), "{}", sent.len());
}

#[test]
fn silence_is_noticed_exactly_a_detection_time_after_the_last_packet() {
    for seed in 0..50 {
        let mut world = World::up(seed, FAST, (ms(100), 5));
        world.run(ms(500 + seed * 13));
        let cut = world.now;
        world.cut[A] = true;
        world.run(ms(5000));
        // B hears nothing, and says so, which A hears.
        let [down] = world.downs(B)[..] else { panic!("{:?}", world.changes) };
        assert_eq!(down, world.last_heard(B) + ms(900));
        assert!(down <= cut + DELAY + ms(900));
        assert_eq!(world.downs(A), [down + DELAY]);
        let Some((_, _, Change::Down { why, .. })) = world.changes.last() else { panic!() };
        let signaled = "10.0.0.2 says that its session is down (control detection time expired)";
        assert_eq!(why, signaled);
        world.cut[A] = false;
        world.run(ms(3000));
        assert_eq!(world.states(), [State::Up, State::Up]);
    }
}

#[test]
fn losing_every_fifth_packet_does_no_harm_and_a_cut_is_noticed_all_the_same() {
    for seed in 0..20 {
        let mut world = World::new(seed, (ms(100), 12), (ms(100), 12));
        world.loss = 200;
        world.run(ms(120_000));
        assert_eq!((world.downs(A), world.downs(B)), (vec![], vec![]));
        assert_eq!(world.states(), [State::Up, State::Up]);
        world.cut = [true; 2];
        world.run(ms(1300));
        for end in [A, B] {
            assert_eq!(world.downs(end), [world.last_heard(end) + ms(1200)]);
        }
    }
}

#[test]
fn changed_times_are_agreed_without_harm_even_if_packets_are_lost() {
    for seed in 0..20 {
        let mut world = World::up(seed, (ms(300), 12), (ms(300), 12));
        for (interval, multiplier) in [(2000, 12), (50, 15), (700, 13), (300, 12)] {
            for end in [A, B] {
                world.loss = if seed == 0 { 0 } else { 150 };
                world.configure(end, ms(interval), multiplier);
                world.run(ms(interval * 40));
            }
            world.loss = 0;
            world.run(ms(10_000));
            let report = world.report(A);
            assert_eq!(report.interval_ms, interval, "{report:?}");
        }
        assert_eq!(world.changes, []);
    }
}

#[test]
fn a_longer_interval_is_used_once_the_other_knows_it() {
    let mut world = World::up(4, FAST, FAST);
    let began = world.now;
    world.cut[B] = true;
    world.configure(A, ms(2000), 3);
    world.run(ms(700));
    // Said with P, at the old interval, since nothing came back.
    let said: Vec<_> = world.sent.iter().filter(|(at, by, _)| *by == A && *at >= began).collect();
    assert!(said.len() >= 3 && said.iter().all(|(.., control)| control.poll), "{said:?}");
    assert!(said.iter().all(|(.., control)| control.desired_tx == ms(2000)));
    world.cut[B] = false;
    world.run(ms(10_000));
    let (at, ..) = world.sent.iter().rev().find(|(_, by, sent)| *by == B && sent.last).unwrap();
    let later = sendings(&world, A, *at + DELAY);
    assert!(later.windows(2).all(|two| two[1].saturating_sub(two[0]) >= ms(1500)), "{later:?}");
    assert_eq!(world.changes, []);
}

#[test]
fn what_the_other_says_by_itself_is_no_acknowledgement() {
    let mut world = World::up(4, (ms(300), 10), FAST);
    world.cut[A] = true;
    let began = world.now;
    world.configure(A, ms(2000), 10);
    world.run(ms(800));
    assert!(world.heard.iter().any(|(_, end)| *end == A));
    assert!(sendings(&world, A, began).len() >= 3, "still at the old interval");
    world.cut[A] = false;
    world.run(ms(10_000));
    assert_eq!((world.changes.len(), world.report(A).interval_ms), (0, 2000));
}

#[test]
fn an_answer_to_an_earlier_change_is_none_to_a_later_one() {
    let mut world = World::up(4, (ms(300), 10), FAST);
    world.configure(A, ms(400), 10);
    // Asked, and the answer is on its way.
    world.run(DELAY);
    world.cut[A] = true;
    world.configure(A, ms(2000), 10);
    world.run(ms(500));
    assert_eq!(world.report(A).interval_ms, 300, "the second change is not known there");
    world.cut[A] = false;
    world.run(ms(10_000));
    assert_eq!((world.changes.len(), world.report(A).interval_ms), (0, 2000));
}

#[test]
fn the_same_settings_again_say_nothing_and_change_nothing() {
    let mut world = World::up(4, FAST, FAST);
    let (version, kept) = (world.end(A).version(), world.end(A).keep());
    let before = world.sent.len();
    for _ in 0..5 {
        world.configure(A, FAST.0, FAST.1);
    }
    assert_eq!((world.end(A).version(), world.end(A).keep()), (version, kept));
    assert_eq!(world.sent.len(), before);
}

#[test]
fn who_is_no_longer_watched_hears_it_and_takes_nobody_for_dead() {
    let mut world = World::up(4, FAST, FAST);
    let now = world.now;
    world.end(A).configure([].into(), now);
    world.run(ms(5000));
    assert_eq!(world.changes, []);
    let report = world.report(B);
    assert_eq!((report.state, report.remote_diag.as_str()), (State::Down, "administratively down"));
    assert!(report.last_down.unwrap().contains("admindown"));
    // It was said for a detection time, and then no more.
    let said = sendings(&world, A, now);
    assert!((1..=2).contains(&said.len()) && said[0] == now, "{said:?}");
    assert_eq!(world.end(A).deadline(), None);
    world.configure(A, FAST.0, FAST.1);
    world.run(ms(3000));
    let up: Vec<usize> = world.changes.iter().map(|(_, end, _)| *end).collect();
    assert_eq!((up.len(), world.states()), (2, [State::Up, State::Up]));
}

#[test]
fn another_local_address_or_kind_begins_anew() {
    let mut world = World::up(4, FAST, FAST);
    let before = world.report(A);
    let mut settings = crate::bfd::tests::world::watch(A, FAST.0, FAST.1);
    settings.values_mut().for_each(|settings| settings.multihop = true);
    let now = world.now;
    world.end(A).configure(settings, now);
    let after = world.report(A);
    assert_eq!(after.state, State::Down);
    assert!(after.discriminator != before.discriminator && after.multihop);
    let listens: Vec<String> = world.end(A).listens().iter().map(ToString::to_string).collect();
    assert_eq!(listens, ["0.0.0.0:4784"]);
}

#[test]
fn who_slept_through_a_detection_time_does_not_take_others_for_dead() {
    let mut world = World::up(4, FAST, FAST);
    let woken = world.now + ms(5000);
    world.end(A).tick(woken);
    assert_eq!(world.end(A).event(), None);
    // Still nothing, and now it was awake.
    for now in 1..=900 {
        world.end(A).tick(woken + ms(now));
    }
    assert!(matches!(world.end(A).event(), Some((_, Change::Down { .. }))));
}

#[test]
fn five_hundred_sessions_differ_in_discriminator_and_port() {
    let mut bfd = crate::bfd::Bfd::new(0);
    let [(_, settings)] =
        Vec::from_iter(crate::bfd::tests::world::watch(A, FAST.0, FAST.1)).try_into().unwrap();
    let peer = |n: u16| std::net::IpAddr::from([10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
    bfd.configure((0..500).map(|n| (peer(n), settings.clone())).collect(), ms(0));
    let reports = bfd.reports(ms(0));
    let mut seen = std::collections::BTreeSet::new();
    for report in reports.values() {
        assert!(report.discriminator != 0 && report.source_port >= 49152);
        assert!(seen.insert(u64::from(report.discriminator) << 16));
        assert!(seen.insert(report.source_port.into()));
    }
}
