//! A successor goes on where the killed one was, and the other end decides what that is worth.

use std::time::Duration;

use crate::bfd::{
    Bfd, Change, State,
    tests::world::{A, B, World, ms},
};

const FAST: (Duration, u8) = (Duration::from_millis(300), 3);

#[test]
fn a_restart_within_the_detection_time_is_not_noticed() {
    for seed in 0..100 {
        let mut world = World::up(seed, FAST, FAST);
        world.run(ms(seed * 7));
        let kept = world.kill(A);
        world.run(ms(550));
        let (before, discriminator) = (world.sent.len(), world.report(B).remote_discriminator);
        world.restart(A, &kept);
        world.run(ms(10_000));
        // Whoever listens here is told, once it is known.
        let told: Vec<_> =
            world.changes.iter().map(|(_, end, what)| (*end, what.clone())).collect();
        assert_eq!(told, [(A, Change::Up)]);
        let said = world.sent[before..].iter().filter(|(_, by, _)| *by == A);
        assert!(said.clone().all(|(.., said)| said.state == State::Up));
        assert!(said.clone().all(|(.., said)| said.mine == discriminator));
        assert_eq!(world.report(B).downs, 0);
        assert!(!world.report(A).resumed);
    }
}

#[test]
fn a_restart_in_the_midst_of_a_change_of_times_is_not_noticed_either() {
    for seed in 0..100 {
        let mut world = World::up(seed, FAST, FAST);
        world.configure(A, ms([100, 2000][usize::from(seed % 2 == 0)]), 3);
        world.run(ms(seed * 6));
        let kept = world.kill(A);
        world.run(ms(150));
        world.restart(A, &kept);
        world.run(ms(20_000));
        assert_eq!(world.changes.len(), 1, "{seed}: {:?}", world.changes);
        assert_eq!(world.states(), [State::Up, State::Up]);
    }
}

#[test]
fn a_change_that_was_never_heard_is_said_again_and_waits_for_its_answer() {
    let mut world = World::up(5, FAST, FAST);
    world.cut[A] = true;
    world.configure(A, ms(2000), 3);
    world.run(ms(100));
    let kept = world.kill(A);
    world.run(ms(100));
    world.restart(A, &kept);
    // Its first packet is lost as well.
    world.run(ms(100));
    world.cut[A] = false;
    world.run(ms(20_000));
    assert_eq!((world.downs(A), world.downs(B)), (vec![], vec![]));
    assert_eq!(world.report(A).interval_ms, 2000);
}

#[test]
fn who_asked_for_patience_may_be_away_for_that_long() {
    for away in [1000, 29_000] {
        let mut world = World::up(5, FAST, FAST);
        let now = world.now;
        world.end(A).ask_patience(ms(30_000), now);
        world.settle(A);
        assert!(!world.end(A).is_settled());
        world.run(ms(10));
        assert!(world.end(A).is_settled());
        let kept = world.kill(A);
        world.run(ms(away));
        world.restart(A, &kept);
        world.run(ms(1000));
        // It is as watchful as before.
        let times = |end: usize| (world.report(end).interval_ms, world.report(end).detection_ms);
        assert_eq!((times(A), times(B)), ((300, 900), (300, 900)));
        assert_eq!((world.downs(A), world.downs(B)), (vec![], vec![]));
    }
    // Who is not up is asked nothing.
    let mut world = World::new(5, FAST, FAST);
    world.ends[B] = None;
    let now = world.now;
    world.end(A).ask_patience(ms(30_000), now);
    assert!(world.end(A).is_settled());
}

#[test]
fn who_was_given_up_meanwhile_follows_and_tells_nobody_that_the_other_is_dead() {
    let mut world = World::up(5, FAST, FAST);
    let kept = world.kill(A);
    world.run(ms(60_000));
    assert_eq!(world.downs(B).len(), 1);
    world.restart(A, &kept);
    world.run(ms(5000));
    assert_eq!(world.downs(A), []);
    assert_eq!(world.states(), [State::Up, State::Up]);
}

#[test]
fn an_other_that_died_meanwhile_is_noticed_after_a_detection_time() {
    let mut world = World::up(5, FAST, FAST);
    let kept = world.kill(A);
    world.kill(B);
    world.run(ms(400));
    world.restart(A, &kept);
    let began = world.now;
    assert!(world.report(A).resumed);
    world.run(ms(5000));
    assert_eq!(world.downs(A), [began + ms(900)]);
    // That it was up before, nobody else knows any more.
    assert_eq!(world.changes[0], (began + ms(900), A, Change::Up));
    assert_eq!(world.changes.len(), 2);
}

#[test]
fn both_may_restart_at_once() {
    let mut world = World::up(6, FAST, FAST);
    let kept = [world.kill(A), world.kill(B)];
    world.run(ms(500));
    world.restart(A, &kept[A]);
    world.restart(B, &kept[B]);
    world.run(ms(10_000));
    assert_eq!((world.downs(A), world.downs(B)), (vec![], vec![]));
    assert_eq!(world.states(), [State::Up, State::Up]);
}

#[test]
fn what_a_successor_needs_is_known_before_it_is_said() {
    // Wherever it dies, as long as it was up, its successor is not noticed.
    for step in 0..400 {
        let mut world = World::new(8, FAST, FAST);
        world.run(ms(step * 5));
        let up = world.states() == [State::Up, State::Up];
        let kept = world.kill(A);
        world.run(ms(100));
        world.restart(A, &kept);
        world.run(ms(10_000));
        assert_eq!(world.states(), [State::Up, State::Up]);
        assert!(!up || world.downs(B).is_empty(), "{step}: {:?}", world.changes);
    }
}

#[test]
fn a_file_that_is_spoilt_costs_its_sessions_alone() {
    let mut world = World::up(5, FAST, FAST);
    let kept = String::from_utf8(world.end(A).keep()).unwrap();
    let sessions = |bytes: &[u8]| Bfd::restored(bytes, 1, ms(0)).reports(ms(0)).len();
    let bad = kept.replace("\"discriminator\"", "\"diskriminator\"");
    let inside = |text: &str| text.trim().trim_matches(['[', ']']).to_owned();
    let both = format!("[{},{}]", inside(&bad), inside(&kept));
    let twice = format!("[{},{}]", inside(&kept), inside(&kept));
    let of_nobody = kept.replace("\"multiplier\": 3", "\"multiplier\": 0");
    let cases = [
        (kept.as_str(), 1),
        ("", 0),
        ("[", 0),
        (&kept[..kept.len() / 2], 0),
        ("{\"a\": 1}", 0),
        (&bad, 0),
        (&both, 1),
        (&twice, 1),
        (&of_nobody, 0),
    ];
    for (text, expected) in cases {
        assert_eq!(sessions(text.as_bytes()), expected, "{text}");
    }
}

#[test]
fn whatever_happens_they_end_up_up() {
    for seed in 0..300 {
        let mut world = World::new(seed, FAST, FAST);
        let mut kept: [Option<Vec<u8>>; 2] = [None, None];
        for _ in 0..60 {
            let end = usize::try_from(world.dice.between(0, 1)).unwrap();
            let some = ms(world.dice.between(1, 1500).into());
            match (world.dice.between(0, 5), kept[end].take()) {
                (_, Some(bytes)) => {
                    let lost = world.dice.between(0, 3) == 0;
                    world.restart(end, if lost { &[] } else { &bytes });
                    world.configure(end, FAST.0, FAST.1);
                }
                (0, None) => kept[end] = Some(world.kill(end)),
                (1, None) => world.cut[end] ^= true,
                (2, None) => world.loss = world.dice.between(0, 500),
                (3, None) => world.configure(end, some.max(ms(20)), 3),
                (4, None) => {
                    let now = world.now;
                    world.end(end).configure([].into(), now);
                    world.configure(end, FAST.0, FAST.1);
                }
                _ => {}
            }
            world.run(some);
        }
        for end in [A, B] {
            if let Some(bytes) = kept[end].take() {
                world.restart(end, &bytes);
            }
            world.configure(end, FAST.0, FAST.1);
        }
        (world.cut, world.loss) = ([false; 2], 0);
        world.run(ms(10_000));
        assert_eq!(world.states(), [State::Up, State::Up], "{seed}");
        for end in [A, B] {
            assert_eq!(world.report(end).detection_ms, 900, "{seed}");
        }
    }
}
