//! The best path (RFC 4271, 9.1.2.2), rule by rule, and the paths that are as good. Each case is told
//! in every order in which its paths can come.

use super::world::World;

/// Internal: a, b, c at 10.0.0.1, .2, .3. External: x and y of AS 65001, z of 65002, at 10.0.1.1, …
fn world(paths_max: usize) -> World {
    let mut world = World::new();
    world.paths_max = paths_max;
    world.configure();
    world
        .add("a", "10.0.0.1", 64512)
        .add("b", "10.0.0.2", 64512)
        .add("c", "10.0.0.3", 64512)
        .add("x", "10.0.1.1", 65001)
        .add("y", "10.0.1.2", 65001)
        .add("z", "10.0.1.3", 65002);
    world
}

fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |at: usize| {
        let mut rest = items.to_vec();
        let first = rest.remove(at);
        orders(&rest).into_iter().map(move |order| [vec![first.clone()], order].concat())
    };
    (0..items.len()).flat_map(with_first).collect()
}

/// Whom the hops to 10.1.0.0/16 come from.
fn from(world: &World) -> String {
    let learnt = world.rib.learnt();
    let Some(learnt) = learnt.iter().find(|learnt| learnt.prefix.to_string() == "10.1.0.0/16")
    else {
        return "nobody".to_owned();
    };
    let name = |addr| world.peers.keys().find(|name| world.addr(name) == addr).unwrap().clone();
    let mut names: Vec<String> = learnt.hops.iter().map(|hop| name(hop.from)).collect();
    names.sort();
    names.join(" ")
}

fn check(rule: &str, paths_max: usize, before: &str, said: &[&str], best: &str) {
    for order in orders(said) {
        let mut world = world(paths_max);
        tell(&mut world, before);
        order.iter().for_each(|said| tell(&mut world, said));
        assert_eq!(from(&world), best, "{rule}: {order:?}");
        // The same after each was taken back and said again.
        for said in &order {
            let (name, _) = said.split_once(' ').unwrap_or((said, ""));
            world.withdraw(name, "10.1.0.0/16");
            tell(&mut world, said);
            assert_eq!(from(&world), best, "{rule}: {order:?}, {name} again");
        }
    }
}

fn tell(world: &mut World, said: &str) {
    for line in said.split(';').filter(|line| !line.is_empty()) {
        let (name, words) = line.trim().split_once(' ').unwrap_or((line, ""));
        let prefix =
            if words.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "10.1.0.0/16 " };
        world.say(name, &format!("{prefix}{words}"));
    }
}

#[test]
fn each_rule_decides_where_all_before_it_are_equal() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("LOCAL_PREF", &["a lp 200 path 1 2 3", "b lp 100 path 1"], "a"),
        ("none is 100", &["a lp 99 path 1", "b path 1"], "b"),
        ("length of the AS path", &["a path 1 2 origin igp", "b path 1 origin incomplete"], "b"),
        ("a set is one AS", &["a path 1 set 2 3 4", "b path 1 2 3"], "a"),
        ("a confederation is none", &["a confed 7 8 path 1", "b path 1 2"], "a"),
        ("origin", &["a path 1 origin egp med 1", "b path 1 med 9"], "b"),
        ("origin: EGP", &["a path 1 origin incomplete", "b path 1 origin egp"], "b"),
        ("MED of the same AS", &["a path 1 2 med 9", "b path 1 3 med 1"], "b"),
        ("no MED is the lowest", &["a path 1 med 1", "b path 1"], "b"),
        ("MED of two ASes does not matter", &["a path 1 med 9", "b path 2 med 1"], "a"),
        ("MED inside our AS", &["a med 9", "b med 1"], "b"),
        ("external", &["a path 65001 med 0", "y path 65001 med 0"], "y"),
        ("MED before external", &["a path 65001", "y path 65001 med 1"], "a"),
        ("on-link before far", &["a path 1 via 172.16.0.1", "b path 1"], "b"),
        ("router id", &["b path 1", "a path 1", "c path 1"], "a"),
        ("originator in its place", &["a path 1 originator 10.0.0.9", "b path 1"], "b"),
        (
            "clusters",
            &[
                "a path 1 originator 10.0.0.9 clusters 10.0.0.8 10.0.0.7",
                "b path 1 originator 10.0.0.9 clusters 10.0.0.8",
            ],
            "b",
        ),
        ("address", &["a path 1 originator 10.0.0.9", "b path 1 originator 10.0.0.9"], "a"),
        (
            "MED leaves out before router ids decide",
            &["a path 1 2 med 10", "b path 2 2 med 5", "c path 1 3 med 5"],
            "b",
        ),
        (
            "and does not depend on who came first",
            &["a path 1 med 20", "b path 2 med 15", "c path 1 med 10", "x path 65001 65009 65008"],
            "b",
        ),
    ];
    for (rule, said, best) in cases {
        // A way to the next hop that is not on-link.
        check(rule, 1, "c 172.16.0.0/16", said, best);
    }
}

#[test]
fn paths_that_lead_nowhere_take_no_part_unless_there_is_no_other() {
    check("reachable", 1, "", &["a lp 200 via 172.16.0.1", "b lp 50"], "b");
    let mut world = world(1);
    world.say("a", "10.1.0.0/16 lp 200 via 172.16.0.1");
    world.say("b", "10.1.0.0/16 lp 50 via 172.16.0.2");
    let nowhere = "10.1.0.0/16 nowhere: next hop 172.16.0.1 is not on-link and no learnt route leads \
                   to it";
    assert_eq!(world.learnt(), [nowhere]);
    assert_eq!(world.hear("x"), "", "what leads nowhere is told to nobody");
}

#[test]
fn stale_paths_lose_only_where_nothing_but_names_would_decide() {
    for (said, best) in [(["a path 1", "b path 1"], "b"), (["a path 1", "b path 1 2"], "a")] {
        let mut world = world(1);
        said.iter().for_each(|said| tell(&mut world, said));
        world.rib.stale(world.addr("a"), weft_bgp::attrs::Family::Ipv4);
        assert_eq!(from(&world), best, "{said:?}");
    }
}

#[test]
fn our_own_wins_and_what_others_said_of_it_is_there_when_it_goes() {
    let mut world = world(4);
    world.say("a", "10.1.0.0/16 lp 900");
    world.originate("10.1.0.0/16", weft_bgp::config::Originated::default());
    assert_eq!(from(&world), "nobody");
    assert_eq!(world.hear("b"), "+10.1.0.0/16");
    world.originated.clear();
    world.configure();
    assert_eq!(from(&world), "a");
    assert_eq!(world.hear("b"), "-10.1.0.0/16", "it is not ours to tell");
}

#[test]
fn equal_paths_share_the_traffic() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("of several ASes", &["x path 65001 7", "y path 65001 8", "z path 65002 7"], "x y z"),
        ("LOCAL_PREF differs", &["a lp 101", "b", "c lp 101"], "a c"),
        ("length differs", &["x path 65001", "y path 65001 7", "z path 65002"], "x z"),
        ("origin differs", &["x path 65001 origin egp", "z path 65002"], "z"),
        ("MED of the same AS", &["x path 65001 med 1", "y path 65001", "z path 65002"], "y z"),
        ("not internal with external", &["a path 1", "z path 65002"], "z"),
        ("not far with on-link", &["a via 172.16.0.1", "b"], "b"),
        ("once by next hop", &["a via 10.0.0.9", "b via 10.0.0.9", "c"], "a c"),
    ];
    for (rule, said, all) in cases {
        check(rule, 3, "c 172.16.0.0/16", said, all);
    }
    check("two of three", 2, "", &["a", "b", "c"], "a b");
    check("fresh first", 1, "", &["a", "b", "c"], "a");
}
