//! What neighbours say and is refused, where next hops lead, and what is kept for a successor.

use std::collections::{BTreeMap, BTreeSet};

use weft_bgp::{
    attrs::Family,
    config::{Filter, Rule},
    rib::{Rib, Taken},
};

use super::world::{OUR_ID, World, learnt_text, net};

fn world() -> World {
    let mut world = World::new();
    world.add("a", "10.0.0.1", 64512).add("b", "10.0.0.2", 64512).add("x", "10.0.1.1", 65001);
    world
}

#[test]
fn routes_that_nobody_may_say_are_refused_with_the_reason_and_take_their_former_with_them() {
    let cases = [
        ("a 10.1.0.0/16 path 1 64512 2", "own AS in path"),
        ("x 10.1.0.0/16 path 65001 set 3 64512", "own AS in path"),
        ("a 10.1.0.0/16 originator 10.0.0.100", "own router id as originator"),
        ("a 10.1.0.0/16 clusters 10.0.0.7 10.0.0.100", "own router id in cluster list"),
        ("a 10.1.0.0/16 via 10.0.0.100", "next hop is our own address"),
        ("a 127.1.0.0/16", "prefix that is never routed"),
        ("a 224.0.0.0/24", "prefix that is never routed"),
        ("a 169.254.1.0/24", "prefix that is never routed"),
        ("a 255.255.255.255/32", "prefix that is never routed"),
        ("a 0.0.0.0/8", "prefix that is never routed"),
        ("a fe80::/64 via fd00::1", "prefix that is never routed"),
        ("a ff02::/16 via fd00::1", "prefix that is never routed"),
        ("a ::1/128 via fd00::1", "prefix that is never routed"),
        ("a 10.66.1.0/24", "import filter"),
    ];
    for (said, reason) in cases {
        let mut world = world();
        let mut config = world.peers["a"].config.clone();
        let within = net("10.66.0.0/16");
        config.import = Filter {
            rules: vec![Rule { within, least: 16, most: 32, pass: false }],
            else_pass: true,
        };
        let a = world.addr("a");
        world.rib.reconfigure(a, &config);
        let (name, words) = said.split_once(' ').unwrap();
        world.say(name, "10.1.0.0/16");
        assert_eq!(world.rib.learnt().len(), 1);
        world.say(name, words);
        let gone = words.starts_with("10.1.0.0/16");
        assert_eq!(world.rib.learnt().is_empty(), gone, "{said}");
        assert_eq!(world.counts(name).refused, BTreeMap::from([(reason.to_owned(), 1)]), "{said}");
    }
}

#[test]
fn an_address_is_ours_as_long_as_a_session_has_it() {
    let mut world = world();
    world.add_with("v", "10.0.2.1", 65009, |peer| {
        peer.config.local_addr = "10.0.2.100".parse().unwrap();
    });
    world.say("a", "10.1.0.0/16 via 10.0.2.100");
    assert_eq!(world.learnt(), Vec::<String>::new());
    let v = world.addr("v");
    world.rib.down(v, &BTreeSet::new());
    world.say("a", "10.1.0.0/16 via 10.0.2.100");
    assert_eq!(world.learnt(), ["10.1.0.0/16 via 10.0.2.100"]);
}

#[test]
fn default_routes_and_what_is_near_the_refused_is_taken() {
    let mut world = world();
    world.say(
        "a",
        "0.0.0.0/0 128.0.0.0/1 0.0.0.0/1 223.0.0.0/8 126.0.0.0/7 224.0.0.0/3 169.254.0.0/15",
    );
    world.say("a", "::/0 2000::/3 via fd00::1");
    assert_eq!(world.rib.learnt().len(), 9);
}

#[test]
fn more_routes_than_the_most_are_not_taken_and_said_to_be_too_many() {
    let mut world = World::new();
    world.add_with("a", "10.0.0.1", 64512, |peer| peer.config.routes_max = 2);
    let fine = Taken { too_many: None };
    assert_eq!(world.say("a", "10.1.0.0/16 10.2.0.0/16"), fine);
    assert_eq!(world.say("a", "10.1.0.0/16 10.2.0.0/16 path 7"), fine, "the same two");
    assert_eq!(world.say("a", "fd01::/64 via fd00::1"), fine, "each family has its own");
    let a = world.addr("a");
    world.rib.down(a, &Family::ALL.into());
    world.up("a", "10.0.0.1");
    assert_eq!(world.say("a", "10.3.0.0/16 10.1.0.0/16"), fine, "stale ones don't count");
    assert_eq!(world.say("a", "10.4.0.0/16"), Taken { too_many: Some(Family::Ipv4) });
    assert_eq!(world.counts("a").taken[&Family::Ipv4], 3);
}

#[test]
fn next_hops_that_are_far_lead_through_the_longest_learnt_route_other_than_themselves() {
    let mut world = world();
    world.say("a", "10.9.0.0/16 via 172.16.5.5");
    let nowhere = "nowhere: next hop 172.16.5.5 is not on-link and no learnt route leads to it";
    assert_eq!(world.learnt(), [format!("10.9.0.0/16 {nowhere}")]);

    world.say("b", "172.16.0.0/12");
    let through = "10.9.0.0/16 via 10.0.0.2 through 172.16.5.5";
    assert_eq!(world.learnt(), [through, "172.16.0.0/12 via 10.0.0.2"]);
    assert_eq!(world.hear("x"), "+10.9.0.0/16 +172.16.0.0/12");

    world.say("a", "172.16.5.0/24");
    assert!(world.learnt().contains(&"10.9.0.0/16 via 10.0.0.1 through 172.16.5.5".to_owned()));

    // A longer one that leads nowhere itself, or through the very next hop, does not count.
    world.say("b", "172.16.5.5/32 via 172.16.5.5");
    assert!(world.learnt().contains(&"10.9.0.0/16 via 10.0.0.1 through 172.16.5.5".to_owned()));

    world.withdraw("a", "172.16.5.0/24");
    world.withdraw("b", "172.16.0.0/12");
    assert_eq!(world.learnt().len(), 2);
    assert_eq!(world.rib.learnt().iter().filter(|learnt| learnt.hops.is_empty()).count(), 2);
    assert_eq!(world.hear("x"), "-10.9.0.0/16 -172.16.0.0/12");
}

#[test]
fn a_chain_of_next_hops_is_followed_and_a_circle_leads_nowhere() {
    let mut world = world();
    world.say("a", "10.9.0.0/16 via 172.16.0.1");
    world.say("a", "172.16.0.0/24 via 172.17.0.1");
    world.say("a", "172.17.0.0/24 via 172.18.0.1");
    world.say("a", "172.18.0.0/24 via 10.0.0.1");
    assert!(world.learnt().contains(&"10.9.0.0/16 via 10.0.0.1 through 172.16.0.1".to_owned()));
    world.say("a", "172.18.0.0/24 via 172.16.0.1");
    assert!(world.rib.learnt().iter().all(|learnt| learnt.hops.is_empty()));
    world.say("b", "0.0.0.0/0");
    assert!(world.rib.learnt().iter().all(|learnt| learnt.hops[0].via == world.addr("b")));
    world.say("b", "0.0.0.0/0 via 172.16.0.1");
    assert!(world.rib.learnt().iter().all(|learnt| learnt.hops.is_empty()), "a default of nothing");
}

#[test]
fn however_long_the_chain_its_order_of_arrival_does_not_matter() {
    let links: Vec<String> = (1..8)
        .map(|link| format!("172.{link}.0.0/16 via 172.{}.0.1", link + 1))
        .chain(["172.8.0.0/16 via 10.0.0.1".to_owned()])
        .collect();
    let mut forward = world();
    links.iter().for_each(|link| {
        forward.say("a", link);
    });
    let mut backward = world();
    links.iter().rev().for_each(|link| {
        backward.say("a", link);
    });
    assert_eq!(forward.learnt(), backward.learnt());
    let far = forward.rib.learnt().iter().filter(|learnt| learnt.hops.is_empty()).count();
    assert_eq!(far, 3, "no deeper than four");
}

#[test]
fn what_is_connected_decides_at_once() {
    let mut world = world();
    world.say("a", "10.9.0.0/16 via 192.168.0.1");
    world.say("b", "10.9.0.0/16 lp 50");
    assert_eq!(world.learnt(), ["10.9.0.0/16 via 10.0.0.2"]);
    world.connected.push(net("192.168.0.0/24"));
    world.configure();
    assert_eq!(world.learnt(), ["10.9.0.0/16 via 192.168.0.1"]);
    world.connected.pop();
    world.configure();
    assert_eq!(world.learnt(), ["10.9.0.0/16 via 10.0.0.2"]);
}

#[test]
fn a_far_next_hop_has_as_many_ways_as_what_it_leads_through() {
    let mut world = world();
    world.paths_max = 4;
    world.configure();
    world.say("a", "172.16.0.0/16");
    world.say("b", "172.16.0.0/16");
    world.say("a", "10.9.0.0/16 via 172.16.0.1");
    let both = "10.9.0.0/16 via 10.0.0.1 through 172.16.0.1 via 10.0.0.2 through 172.16.0.1";
    assert_eq!(world.learnt()[0], both);
}

#[test]
fn a_new_number_of_paths_takes_effect_on_all_routes() {
    let mut world = world();
    world.say("a", "172.16.0.0/16");
    world.say("b", "172.16.0.0/16");
    world.say("a", "10.9.0.0/16 via 172.16.0.1");
    while !world.rib.changed(10).is_empty() {}
    let one = ["10.9.0.0/16 via 10.0.0.1 through 172.16.0.1", "172.16.0.0/16 via 10.0.0.1"];
    let both = [
        "10.9.0.0/16 via 10.0.0.1 through 172.16.0.1 via 10.0.0.2 through 172.16.0.1",
        "172.16.0.0/16 via 10.0.0.1 via 10.0.0.2",
    ];
    for (paths_max, learnt) in [(2, both), (1, one), (3, both)] {
        let version = world.rib.version();
        world.paths_max = paths_max;
        world.configure();
        assert_eq!(world.learnt(), learnt);
        assert!(world.rib.version() > version);
        let mut changed = world.rib.changed(10);
        changed.sort_by_key(|(prefix, _)| *prefix);
        let changed: Vec<_> = changed.iter().flat_map(|(_, learnt)| learnt).collect();
        assert_eq!(changed.into_iter().map(learnt_text).collect::<Vec<_>>(), learnt);
    }
}

/// Two neighbours with routes of both families, many attributes, one next hop of IPv6 for IPv4.
fn full() -> World {
    let mut world = world();
    for number in 0..500 {
        let words = format!("path {} med {number} communities 1:{}", number % 7 + 1, number % 3);
        world.say("a", &format!("10.{}.{}.0/24 {words} lp 70", 1 + number / 250, number % 250));
        world.say("x", &format!("fd01:{number:x}::/32 {words} via fd00::1"));
    }
    world.say("b", "10.9.0.0/16 via fd00::9 path 1 set 2 3 originator 10.0.0.9 clusters 10.0.0.8");
    world
}

fn successor() -> World {
    let mut world = World::new();
    world.peers = full().peers;
    world
}

#[test]
fn a_successor_has_the_same_routes_as_stale_ones_until_they_are_swept() {
    let before = full();
    let mut after = successor();
    let whose = after.rib.restore(&before.rib.keep());
    let one = |family| BTreeSet::from([family]);
    let expected = [("a", Family::Ipv4), ("b", Family::Ipv4), ("x", Family::Ipv6)];
    let expected = expected.map(|(name, family)| (before.addr(name), one(family)));
    assert_eq!(whose, BTreeMap::from(expected));
    let mut learnt = after.rib.learnt();
    assert!(learnt.iter().all(|learnt| learnt.stale));
    for learnt in &mut learnt {
        std::sync::Arc::make_mut(&mut learnt.course).stale = false;
    }
    assert_eq!(learnt, before.rib.learnt());
    assert_eq!(after.counts("a").stale[&Family::Ipv4], 500);

    assert_eq!(after.rib.keep(), before.rib.keep(), "what is kept does not change by it");

    after.up("a", "10.0.0.1");
    after.say("a", "10.1.0.0/24");
    for (name, family) in [("a", Family::Ipv4), ("b", Family::Ipv4), ("x", Family::Ipv6)] {
        after.rib.sweep(after.addr(name), family);
    }
    assert_eq!(after.learnt(), ["10.1.0.0/24 via 10.0.0.1"]);
    assert_eq!(after.counts("x"), weft_bgp::rib::Counts::default());
}

#[test]
fn what_is_damaged_of_what_was_kept_is_left_out() {
    let before = full();
    let kept = before.rib.keep();
    let all: BTreeSet<String> = before.learnt().into_iter().map(|text| text + " stale").collect();
    let mut least = usize::MAX;
    for at in (0..kept.len()).step_by(997) {
        for damaged in [flipped(&kept, at), kept[..at].to_vec()] {
            let mut rib = Rib::new();
            rib.configure(OUR_ID, &BTreeMap::new(), &before.connected, 1);
            rib.restore(&damaged);
            let learnt: Vec<String> = rib.learnt().iter().map(learnt_text).collect();
            assert!(learnt.iter().all(|one| all.contains(one)), "byte {at}: nothing is made up");
            assert!(learnt.len() < all.len(), "byte {at}: the damage went unnoticed");
            least = least.min(learnt.len());
        }
    }
    assert_eq!(least, 0);
    assert_eq!(Rib::new().restore(b"").len(), 0);
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}
