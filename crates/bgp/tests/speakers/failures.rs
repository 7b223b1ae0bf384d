//! What ends a session, and what becomes of the routes then.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use weft_bgp::attrs::Family;

use crate::{
    net::Net,
    pair::{SECOND, established, knows, pair},
    setting::{RESTART, addr, neighbour, node},
};

const MS: Duration = Duration::from_millis(1);

fn settled(seed: u64) -> Net {
    let mut net = pair(seed);
    assert!(net.until(10 * SECOND, |net| knows(net, 1, 2) && knows(net, 2, 1)));
    net.run(10 * SECOND);
    net
}

fn error(net: &Net) -> String {
    net.report(addr(1), addr(2)).last_error.unwrap_or_default()
}

fn fresh(net: &Net, node: u8) -> bool {
    net.learnt(addr(node)).iter().all(|learnt| !learnt.stale)
}

/// What is true at every moment until the condition holds.
fn always_until(
    net: &mut Net,
    most: Duration,
    always: impl Fn(&Net) -> bool,
    holds: impl Fn(&Net) -> bool,
) {
    let ended = net.until(most, |net| !always(net) || holds(net));
    assert!(ended && always(net), "at {:?}: {}", net.now, error(net));
}

#[test]
fn a_speaker_that_is_killed_and_goes_on_loses_no_route_on_either_side() {
    for seed in 1..30 {
        let mut net = settled(seed);
        net.kill(addr(2));
        net.run(20 * MS + MS * u32::try_from(1 + 300 * seed).unwrap());
        let report = net.report(addr(1), addr(2));
        let why = report.last_error.as_deref().unwrap_or_default();
        let refused = "10.0.0.2 port 179 refused the connection: does BGP run there?";
        assert!(why == refused || why == "it closed the connection; its routes are kept for 60 s");
        assert!(report.restarting && report.stale[&Family::Ipv4] == 1, "{report:?}");
        net.restart(addr(2));
        let both = |net: &Net| knows(net, 1, 2) && knows(net, 2, 1);
        let done = |net: &Net| {
            let settled = !net.speaker_of(addr(2)).settling();
            established(net, 1, 2) && fresh(net, 1) && fresh(net, 2) && settled
        };
        let began = net.now;
        always_until(&mut net, 10 * SECOND, both, done);
        assert!(net.since(began) < SECOND * 3 / 2, "{:?}", net.since(began));
        // BFD notices the restart after the new session stands.
        always_until(&mut net, 15 * SECOND, both, |net| net.since(began) > 14 * SECOND);
        assert_eq!(net.report(addr(1), addr(2)).established, 2);
    }
}

#[test]
fn a_speaker_that_does_not_come_back_loses_its_routes_when_its_time_is_over() {
    let mut net = settled(1);
    net.kill(addr(2));
    let began = net.now;
    always_until(&mut net, 100 * SECOND, |_| true, |net| !knows(net, 1, 2));
    let took = net.since(began);
    assert!(took >= SECOND * u32::try_from(RESTART).unwrap() && took < 61 * SECOND, "{took:?}");
    assert!(!net.report(addr(1), addr(2)).restarting);
}

#[test]
fn what_is_not_said_again_after_a_restart_goes_with_the_end_of_rib() {
    let mut net = settled(1);
    net.kill(addr(2));
    net.nodes.get_mut(&addr(2)).unwrap().config.originated.clear();
    net.restart(addr(2));
    always_until(&mut net, 5 * SECOND, |_| true, |net| net.learnt(addr(1)).is_empty());
    assert!(established(&net, 1, 2) && !net.report(addr(1), addr(2)).restarting);
}

#[test]
fn routes_of_a_node_that_booted_go_at_once() {
    let mut net = settled(1);
    net.kill(addr(2));
    net.nodes.get_mut(&addr(2)).unwrap().config.originated.clear();
    net.run(SECOND / 10);
    net.boot(addr(2));
    assert!(knows(&net, 1, 2) && net.until(5 * SECOND, |net| established(net, 1, 2)));
    assert!(net.learnt(addr(1)).is_empty());
}

#[test]
fn a_node_that_dies_is_noticed_by_bfd_and_its_routes_go_at_once() {
    let mut net = settled(1);
    net.power_off(addr(2));
    let began = net.now;
    assert!(net.until(5 * SECOND, |net| !knows(net, 1, 2)));
    assert!(net.since(began) < 1600 * MS, "{:?}", net.since(began));
    assert_eq!(error(&net), "BFD: no packet for 900 ms");
    let report = net.report(addr(1), addr(2));
    assert_eq!(report.bfd.as_deref(), Some("down"));
    assert!(!report.restarting && report.routes_in.values().all(|n| *n == 0));
    // And it is found again when it is back.
    net.run(40 * SECOND);
    assert!(error(&net).starts_with("no answer from 10.0.0.2 in 10 s: is the password"));
    net.boot(addr(2));
    assert!(net.until(3 * SECOND, |net| knows(net, 1, 2) && knows(net, 2, 1)));
}

/// Within the time in which BFD may be speaking of the session before: it is given a little longer, and
/// not until the hold timer ends.
#[test]
fn a_death_soon_after_a_session_began_anew_is_noticed_too() {
    let mut net = settled(1);
    for local in [1, 2] {
        let mut config = node(local, [3 - local]);
        config.neighbours.values_mut().for_each(|n| n.hold_time = 600);
        net.configure(addr(local), config);
    }
    assert!(net.until(5 * SECOND, |net| established(net, 1, 2) && established(net, 2, 1)));
    net.power_off(addr(2));
    let began = net.now;
    assert!(net.until(20 * SECOND, |net| !knows(net, 1, 2)));
    assert!(net.since(began) < 6600 * MS, "{:?}", net.since(began));
    assert_eq!(error(&net), "BFD: no packet for 900 ms");
}

/// What BFD tells a speaker that begins of a neighbour that an earlier one had seen, and that is silent.
fn seen_no_more(net: &mut Net) {
    let now = net.now;
    for is in [Ok(()), Err("silent".to_owned())] {
        net.speaker(addr(1)).handle(weft_bgp::Event::Bfd(addr(2), is), now);
    }
}

#[test]
fn who_died_while_we_were_away_is_told_from_who_restarts_by_whether_its_kernel_answers() {
    let mut net = settled(1);
    net.kill(addr(1));
    net.power_off(addr(2));
    net.restart(addr(1));
    seen_no_more(&mut net);
    let began = net.now;
    assert!(knows(&net, 1, 2) && net.until(20 * SECOND, |net| !knows(net, 1, 2)));
    assert!(net.since(began) <= 5 * SECOND, "{:?}", net.since(began));
    assert_eq!(error(&net), "BFD: silent");

    let mut net = settled(1);
    net.kill(addr(1));
    net.kill(addr(2));
    net.restart(addr(1));
    net.run(SECOND);
    seen_no_more(&mut net);
    let began = net.now;
    let long = |net: &Net| net.since(began) > 20 * SECOND;
    always_until(&mut net, 21 * SECOND, |net| knows(net, 1, 2), long);
}

#[test]
fn without_bfd_on_the_other_side_a_session_stands() {
    let mut net = pair(1);
    let mut config = node(1, [2]);
    config.neighbours.insert("10.0.0.9".parse().unwrap(), neighbour(1, 9));
    net.configure(addr(1), config);
    assert!(net.until(5 * SECOND, |net| knows(net, 1, 2)));
    let now = net.now;
    let down = weft_bgp::Event::Bfd("10.0.0.9".parse().unwrap(), Err("never up".into()));
    net.speaker(addr(1)).handle(down, now);
    let report = net.report(addr(1), "10.0.0.9".parse().unwrap());
    assert_eq!(report.bfd.as_deref(), Some("down, never up: the session stands without it"));
}

#[test]
fn an_end_for_good_takes_the_routes_at_once() {
    let mut net = settled(1);
    net.stop(addr(2), true);
    assert!(net.until(SECOND / 10, |net| !knows(net, 1, 2)));
    assert_eq!(
        error(&net),
        "it ended the session: Cease: Administrative Shutdown: \"it leaves the network\""
    );
    net.restart(addr(2));
    assert!(net.until(3 * SECOND, |net| knows(net, 1, 2)));

    net.run(15 * SECOND);
    net.stop(addr(2), false);
    net.run(SECOND);
    assert!(knows(&net, 1, 2) && net.report(addr(1), addr(2)).restarting);
}

#[test]
fn a_neighbour_that_is_removed_is_told_and_its_routes_go() {
    let mut net = settled(1);
    net.configure(addr(2), node(2, []));
    assert!(net.learnt(addr(2)).is_empty());
    assert!(net.until(SECOND, |net| !knows(net, 1, 2)));
    assert_eq!(error(&net), "it ended the session: Cease: Peer De-configured");
    net.run(30 * SECOND);
    net.configure(addr(2), node(2, [1]));
    assert!(net.until(2 * SECOND, |net| knows(net, 1, 2)));
}

#[test]
fn a_setting_of_the_session_that_changes_loses_no_route() {
    for seed in 1..10 {
        let mut net = settled(seed);
        let both = |net: &Net| knows(net, 1, 2) && knows(net, 2, 1);
        for (local, hold_time) in [(1, 30), (2, 30)] {
            let mut config = node(local, [3 - local]);
            config.neighbours.values_mut().for_each(|n| n.hold_time = hold_time);
            net.configure(addr(local), config);
            let done = |net: &Net| established(net, 1, 2) && established(net, 2, 1);
            always_until(&mut net, 5 * SECOND, both, |net| !done(net));
            always_until(&mut net, 5 * SECOND, both, done);
            always_until(&mut net, SECOND, both, |net| fresh(net, 1) && fresh(net, 2));
        }
        always_until(&mut net, 100 * SECOND, both, |net| {
            net.report(addr(1), addr(2)).hold_time == 30
        });
        net.run(100 * SECOND);
        assert!(both(&net));
    }
}

#[test]
fn a_filter_that_changes_disturbs_nothing_and_takes_effect() {
    let mut net = settled(1);
    let mut config = node(1, [2]);
    config.neighbours.values_mut().for_each(|n| n.import.else_pass = false);
    let before = net.report(addr(1), addr(2)).messages_out;
    net.configure(addr(1), config.clone());
    net.run(SECOND / 10);
    let report = net.report(addr(1), addr(2));
    assert_eq!(
        (report.established, report.messages_out),
        (1, before + 2),
        "asked for both families"
    );
    assert!(!knows(&net, 1, 2) && knows(&net, 2, 1));
    config.neighbours.values_mut().for_each(|n| n.import.else_pass = true);
    config.neighbours.values_mut().for_each(|n| n.export.else_pass = false);
    net.configure(addr(1), config);
    net.run(SECOND);
    assert!(knows(&net, 1, 2) && !knows(&net, 2, 1));
    assert_eq!(net.report(addr(1), addr(2)).established, 1);
}

#[test]
fn too_many_routes_end_the_session_for_long_or_until_the_settings_change() {
    let mut net = settled(1);
    let mut config = node(2, [1]);
    config.originated.extend((20..40).flat_map(crate::setting::originated));
    config.originated.extend((20..40).flat_map(crate::setting::originated));
    let mut less = node(1, [2]);
    less.neighbours.values_mut().for_each(|n| n.routes_max = 10);
    net.configure(addr(1), less.clone());
    net.run(SECOND);
    net.configure(addr(2), config);
    net.run(100 * SECOND);
    assert_eq!(net.report(addr(1), addr(2)).state, "idle");
    assert_eq!(
        error(&net),
        "it said more than 10 routes of ipv4: raise its limit, or filter; \
         tried again in 10 minutes or when its settings change"
    );
    assert!(
        net.report(addr(2), addr(1)).last_error.unwrap().contains("10"),
        "{:?}",
        net.report(addr(2), addr(1))
    );
    assert_eq!(net.report(addr(1), addr(2)).established, 1);
    less.neighbours.values_mut().for_each(|n| n.routes_max = 100);
    net.configure(addr(1), less);
    assert!(net.until(5 * SECOND, |net| knows(net, 1, 39)));
}

#[test]
fn who_is_wrong_is_told_why_and_does_not_storm() {
    type Change = fn(&mut weft_bgp::config::Config);
    // What each of them says, and what it says if the other was faster to see it.
    let cases: [(Change, &str, &str); 3] = [
        (
            |config| config.neighbours.values_mut().for_each(|n| n.local_as = 65002),
            "wrong AS: expected 64512, it says 65002",
            "it ended the session: OPEN Message Error: Bad Peer AS",
        ),
        (
            |config| {
                let ipv6 = BTreeSet::from([Family::Ipv6]);
                config.neighbours.values_mut().for_each(|n| n.families.clone_from(&ipv6));
            },
            "no address family in common: here ipv4, there ipv6",
            "it ended the session: OPEN Message Error: Unsupported Capability (010400010001)",
        ),
        (
            |config| config.router_id = node(1, []).router_id,
            "it has the router id of this node, 10.0.0.1: change one of them",
            "it ended the session: OPEN Message Error: Bad BGP Identifier",
        ),
    ];
    for (change, seen, told) in cases {
        let (mut one, mut two) = (node(1, [2]), node(2, [1]));
        one.neighbours.values_mut().for_each(|n| n.families = BTreeSet::from([Family::Ipv4]));
        two.neighbours.values_mut().for_each(|n| n.families = BTreeSet::from([Family::Ipv4]));
        change(&mut two);
        let mut net = Net::new(7, vec![(addr(1), one), (addr(2), two)]);
        net.run(SECOND);
        for _ in 0..60 {
            net.run(10 * SECOND);
            let error = error(&net);
            assert!(error == seen || error == told, "{error}");
        }
        let messages = net.report(addr(1), addr(2)).messages_out;
        assert!(messages < 100, "{messages} messages in ten minutes");
    }
}

#[test]
fn a_neighbour_at_another_address_is_named() {
    let mut two = node(2, [1]);
    two.neighbours.values_mut().for_each(|n| (n.local_addr, n.passive) = (addr(9), true));
    let mut net = Net::new(7, vec![(addr(1), node(1, [2])), (addr(2), two)]);
    net.run(SECOND);
    let says = net.report(addr(2), addr(1)).last_error.unwrap();
    assert_eq!(
        says,
        "it connects to 10.0.0.2, and this session's address here is 10.0.0.9: change its neighbour there"
    );
}

#[test]
fn a_speaker_that_restarts_forgets_who_does_not_come_back() {
    let mut net = Net::new(3, (1..=3).map(|n| (addr(n), node(n, 1..=3))).collect());
    assert!(net.until(10 * SECOND, |net| knows(net, 1, 2) && knows(net, 1, 3)));
    net.run(10 * SECOND);
    net.kill(addr(1));
    net.power_off(addr(2));
    net.run(SECOND);
    net.restart(addr(1));
    net.run(15 * SECOND);
    assert!(
        net.speaker_of(addr(1)).settling() && knows(&net, 1, 2),
        "kept until the deferral is over"
    );
    assert!(knows(&net, 3, 1));
    net.run(16 * SECOND);
    assert!(!net.speaker_of(addr(1)).settling() && !knows(&net, 1, 2) && knows(&net, 1, 3));
    // One that is no neighbour any more is forgotten at once.
    net.boot(addr(2));
    assert!(net.until(15 * SECOND, |net| knows(net, 1, 2)));
    net.kill(addr(1));
    net.nodes.get_mut(&addr(1)).unwrap().config = node(1, [3]);
    net.restart(addr(1));
    assert!(!knows(&net, 1, 2) && knows(&net, 1, 3));
    assert!(net.until(5 * SECOND, |net| !net.speaker_of(addr(1)).settling()));
}

#[test]
fn two_that_restart_at_once_do_not_wait_for_each_other() {
    for seed in 1..20 {
        let mut net = settled(seed);
        net.kill(addr(1));
        net.kill(addr(2));
        net.run(SECOND);
        net.restart(addr(1));
        net.restart(addr(2));
        let both = |net: &Net| knows(net, 1, 2) && knows(net, 2, 1);
        let done = |net: &Net| [1, 2].iter().all(|n| !net.speaker_of(addr(*n)).settling());
        always_until(&mut net, 5 * SECOND, both, done);
    }
}

#[test]
fn a_neighbour_whose_old_connection_hangs_is_known_by_its_new_open() {
    let mut net = settled(1);
    for local in [1, 2] {
        let mut config = node(local, [3 - local]);
        config.neighbours.values_mut().for_each(|n| (n.bfd, n.hold_time) = (false, 600));
        net.configure(addr(local), config);
    }
    net.run(20 * SECOND);
    net.power_off(addr(2));
    net.run(2 * SECOND);
    assert!(established(&net, 1, 2));
    net.boot(addr(2));
    assert!(net.until(2 * SECOND, |net| established(net, 2, 1) && knows(net, 1, 2)));
    assert_eq!(error(&net), "it restarted, and its old connection did not end");
}

/// What comes to a listening node from whom it does not know.
#[test]
fn strangers_are_not_welcome() {
    let mut net = settled(1);
    let stranger: IpAddr = "10.0.0.66".parse().unwrap();
    let now = net.now;
    let event = weft_bgp::Event::Accepted { from: stranger, to: addr(1) };
    assert_eq!(net.speaker(addr(1)).handle(event, now), None);
}
