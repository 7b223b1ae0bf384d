//! From what one neighbour says to what another is told.

use std::collections::BTreeSet;

use weft_bgp::attrs::Family;

use super::world::World;

#[test]
fn what_an_external_neighbour_says_is_learnt_and_told_to_the_others_until_it_takes_it_back() {
    let mut world = World::new();
    world.add("tor", "10.0.1.1", 65001).add("node", "10.0.0.1", 64512);
    world.rib.end_of_rib(world.addr("node"), Family::Ipv4);
    assert_eq!(world.hear("node"), "end ipv4");

    world.say("tor", "10.1.0.0/16 path 65001 65002");
    assert_eq!(world.learnt(), ["10.1.0.0/16 via 10.0.1.1 path 65001 65002"]);
    assert_eq!(world.hear("node"), "+10.1.0.0/16");
    assert_eq!(world.hear("tor"), "", "nothing goes back to whom it came from");

    world.withdraw("tor", "10.1.0.0/16");
    assert_eq!(world.learnt(), Vec::<String>::new());
    assert_eq!(world.hear("node"), "-10.1.0.0/16");
    assert_eq!(world.counts("tor").taken.len(), 0);
}

#[test]
fn what_changes_ten_times_is_told_once_and_what_is_as_before_not_at_all() {
    let mut world = World::new();
    world.add("tor", "10.0.1.1", 65001).add("node", "10.0.0.1", 64512);
    world.say("tor", "10.1.0.0/16 path 65001");
    assert_eq!(world.hear("node"), "+10.1.0.0/16");
    for med in 0..10 {
        world.say("tor", &format!("10.1.0.0/16 path 65001 65002 med {med}"));
        world.withdraw("tor", "10.1.0.0/16");
    }
    world.say("tor", "10.1.0.0/16 path 65001");
    assert_eq!(world.hear("node"), "");
}

#[test]
fn version_counts_only_what_changes_the_answer() {
    let mut world = World::new();
    world.add("tor", "10.0.1.1", 65001);
    world.say("tor", "10.1.0.0/16 path 65001 med 1");
    let version = world.rib.version();
    world.say("tor", "10.1.0.0/16 path 65001 med 1");
    world.say("tor", "10.1.0.0/16 path 65001 med 2 communities 1:2");
    assert_eq!(world.rib.version(), version);
    world.say("tor", "10.1.0.0/16 path 65001 65002");
    assert!(world.rib.version() > version);
}

#[test]
fn a_restarting_neighbours_routes_are_stale_until_it_says_them_again_and_the_rest_is_swept() {
    let mut world = World::new();
    world.add("a", "10.0.0.1", 64512);
    world.say("a", "10.1.0.0/16 10.2.0.0/16 fd01::/64 via fd00::1");
    world.say("a", "10.1.0.0/16 10.2.0.0/16");
    let a = world.addr("a");
    world.rib.down(a, &BTreeSet::from([Family::Ipv4]));
    let stale = ["10.1.0.0/16 via 10.0.0.1 stale", "10.2.0.0/16 via 10.0.0.1 stale"];
    assert_eq!(world.learnt(), stale, "IPv6 was not kept");

    world.up("a", "10.0.0.1");
    world.say("a", "10.1.0.0/16");
    world.rib.sweep(a, Family::Ipv4);
    assert_eq!(world.learnt(), ["10.1.0.0/16 via 10.0.0.1"]);

    world.rib.down(a, &BTreeSet::from([Family::Ipv4]));
    world.rib.down(a, &BTreeSet::from([Family::Ipv4]));
    assert_eq!(world.learnt(), Vec::<String>::new(), "stale twice is too much");
}
