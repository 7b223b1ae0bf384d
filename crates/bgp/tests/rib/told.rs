//! What neighbours are told: attributes as text, to whom, and when.

use weft_bgp::{
    attrs::{Attrs, Community, Family, LargeCommunity, NextHop},
    config::{Filter, Originated, Rule},
};

use super::world::{World, net};

/// Clients c and d, a node n (not a client), external x, y (AS 65001, 65002) and o (own_only).
fn world() -> World {
    let mut world = World::new();
    world
        .add_with("c", "10.0.0.1", 64512, |peer| peer.config.client = true)
        .add_with("d", "10.0.0.2", 64512, |peer| peer.config.client = true)
        .add("n", "10.0.0.3", 64512)
        .add("m", "10.0.0.4", 64512)
        .add("x", "10.0.1.1", 65001)
        .add("y", "10.0.1.2", 65002)
        .add_with("o", "10.0.1.3", 65003, |peer| peer.config.own_only = true);
    world
}

fn text(attrs: &Attrs, next_hop: NextHop) -> String {
    let mut text = format!("via {} path [{}]", next_hop.addr(), attrs.as_path);
    let mut add = |name: &str, value: Option<String>| {
        text += &value.map(|value| format!(" {name} {value}")).unwrap_or_default();
    };
    add("med", attrs.med.map(|med| med.to_string()));
    add("lp", attrs.local_pref.map(|pref| pref.to_string()));
    add("originator", attrs.originator.map(|addr| addr.to_string()));
    let words = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
    add("clusters", words(&attrs.cluster_list.iter().map(ToString::to_string).collect::<Vec<_>>()));
    add(
        "communities",
        words(&attrs.communities.iter().map(ToString::to_string).collect::<Vec<_>>()),
    );
    add(
        "large",
        words(&attrs.large_communities.iter().map(ToString::to_string).collect::<Vec<_>>()),
    );
    text
}

/// `c: via …` for each who was told of 10.1.0.0/16, each different text once.
fn told(world: &mut World) -> Vec<String> {
    let names: Vec<String> = world.peers.keys().cloned().collect();
    let mut lines: Vec<(String, String)> = Vec::new();
    for name in names {
        world.hear(&name);
        let Some((attrs, next_hop)) = world.told[&name].routes.get(&net("10.1.0.0/16")) else {
            continue;
        };
        let text = text(attrs, *next_hop);
        match lines.iter_mut().find(|(_, other)| *other == text) {
            Some((names, _)) => *names += &format!(" {name}"),
            None => lines.push((name, text)),
        }
    }
    lines.into_iter().map(|(names, text)| format!("{names}: {text}")).collect()
}

#[test]
fn each_kind_of_neighbour_hears_what_it_may_in_its_form() {
    let from_client = "originator 10.0.0.1 clusters 10.0.0.100";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "of a client: to all",
            "c 10.1.0.0/16 path 65009 med 5 lp 150 communities 1:2",
            &[
                &format!(
                    "d m n: via 10.0.0.1 path [65009] med 5 lp 150 {from_client} communities 1:2"
                ),
                "x y: via 10.0.0.100 path [64512 65009] communities 1:2",
            ],
        ),
        (
            "of another inside: to clients and outside",
            "n 10.1.0.0/16 via 10.0.0.9 originator 10.9.9.9 clusters 10.8.8.8",
            &[
                "c d: via 10.0.0.9 path [] lp 100 originator 10.9.9.9 clusters 10.0.0.100,10.8.8.8",
                "x y: via 10.0.0.100 path [64512]",
            ],
        ),
        (
            "of an external one: to all others, by ourselves",
            "x 10.1.0.0/16 path 65001 set 7 8 med 5",
            &[
                "c d m n: via 10.0.0.100 path [65001 {7,8}] med 5 lp 100",
                "y: via 10.0.0.100 path [64512 65001 {7,8}]",
            ],
        ),
        (
            "no-export: inside alone",
            "x 10.1.0.0/16 path 65001 communities no-export",
            &["c d m n: via 10.0.0.100 path [65001] lp 100 communities no-export"],
        ),
        (
            "no-export-subconfed: the same, without confederations",
            "x 10.1.0.0/16 path 65001 communities no-export-subconfed",
            &["c d m n: via 10.0.0.100 path [65001] lp 100 communities no-export-subconfed"],
        ),
        ("no-advertise: nobody", "x 10.1.0.0/16 path 65001 communities no-advertise", &[]),
        (
            "confederations stay inside",
            "c 10.1.0.0/16 confed 64900 path 65009",
            &[
                &format!("d m n: via 10.0.0.1 path [(64900) 65009] lp 100 {from_client}"),
                "x y: via 10.0.0.100 path [64512 65009]",
            ],
        ),
    ];
    for (case, said, expected) in cases {
        let mut world = world();
        let (name, words) = said.split_once(' ').unwrap();
        world.say(name, words);
        assert_eq!(told(&mut world), *expected, "{case}");
    }
}

#[test]
fn our_own_routes_go_to_all_with_the_communities_of_both() {
    let mut world = world();
    for name in ["x", "c"] {
        let peer = world.peers.get_mut(name).unwrap();
        peer.config.communities = vec![Community(1 << 16 | 1), Community::NO_EXPORT];
        peer.config.large_communities = vec![LargeCommunity(1, 2, 3)];
        let addr = world.addr(name).to_string();
        world.rib.down(world.addr(name), &[].into());
        world.up(name, &addr);
    }
    let own = Originated {
        communities: vec![Community(9 << 16 | 9)],
        med: Some(3),
        ..Originated::default()
    };
    world.originate("10.1.0.0/16", own.clone());
    let expected = [
        "c: via 10.0.0.100 path [] med 3 lp 100 communities 1:1,9:9,no-export large 1:2:3",
        "d m n: via 10.0.0.100 path [] med 3 lp 100 communities 9:9",
        "o y: via 10.0.0.100 path [64512] med 3 communities 9:9",
        "x: via 10.0.0.100 path [64512] med 3 communities 1:1,9:9,no-export large 1:2:3",
    ];
    assert_eq!(told(&mut world), expected);
    world.originate("10.1.0.0/16", Originated { external_only: true, ..own });
    assert_eq!(told(&mut world), [expected[2], expected[3]]);
}

#[test]
fn next_hops_are_of_a_kind_that_the_neighbour_understands() {
    let mut world = World::new();
    world
        .add_with("six", "10.0.1.1", 65001, |peer| {
            peer.config.next_hop4 = None;
            peer.agreed.ipv4_over_ipv6 = true;
        })
        .add_with("none", "10.0.1.2", 65002, |peer| peer.config.next_hop4 = None)
        .add_with("c", "10.0.0.1", 64512, |peer| peer.config.client = true)
        .add("over4", "10.0.0.2", 64512)
        .add_with("over6", "10.0.0.3", 64512, |peer| peer.agreed.ipv4_over_ipv6 = true);
    world.say("c", "10.1.0.0/16 via fd00::1");
    let reflected = "lp 100 originator 10.0.0.1 clusters 10.0.0.100";
    let expected = [
        format!("over6: via fd00::1 path [] {reflected}"),
        "six: via fd00::100 path [64512]".into(),
    ];
    assert_eq!(told(&mut world), expected);
}

#[test]
fn only_families_that_were_agreed_are_said() {
    let mut world = World::new();
    world.add_with("four", "10.0.1.1", 65001, |peer| peer.agreed.ipv6 = false);
    world.originate("fd01::/64", Originated::default());
    world.originate("10.1.0.0/16", Originated::default());
    assert_eq!(world.hear("four"), "+10.1.0.0/16");
}

#[test]
fn an_export_filter_takes_effect_at_once() {
    let mut world = world();
    world.say("c", "10.1.0.0/16 10.2.0.0/24");
    assert_eq!(world.hear("x"), "+10.1.0.0/16 +10.2.0.0/24");
    let rule = |within: &str, least, most, pass| Rule { within: net(within), least, most, pass };
    let mut config = world.peers["x"].config.clone();
    config.export = Filter {
        rules: vec![rule("10.2.0.0/16", 25, 32, true), rule("10.0.0.0/8", 8, 24, false)],
        else_pass: true,
    };
    let x = world.addr("x");
    world.rib.reconfigure(x, &config);
    world.say("c", "10.2.0.128/25 192.168.0.0/16");
    assert_eq!(world.hear("x"), "-10.1.0.0/16 -10.2.0.0/24 +10.2.0.128/25 +192.168.0.0/16");
}

#[test]
fn so_do_communities_and_whether_it_hears_of_our_own_alone() {
    let mut world = world();
    world.originate("10.1.0.0/16", Originated::default());
    world.say("c", "10.2.0.0/16");
    assert_eq!(world.hear("o"), "+10.1.0.0/16");
    let (o, mut config) = (world.addr("o"), world.peers["o"].config.clone());
    config.own_only = false;
    world.rib.reconfigure(o, &config);
    assert_eq!(world.hear("o"), "+10.2.0.0/16");
    config.communities = vec![Community(5)];
    world.rib.reconfigure(o, &config);
    assert_eq!(world.hear("o"), "+10.1.0.0/16", "what is not ours is as before");
    config.own_only = true;
    world.rib.reconfigure(o, &config);
    assert_eq!(world.hear("o"), "-10.2.0.0/16");
}

#[test]
fn a_refresh_says_all_again_between_its_marks_and_the_end_of_rib_comes_after_what_was_pending() {
    let mut world = world();
    world.say("c", "10.1.0.0/16 10.2.0.0/16");
    world.say("c", "fd01::/64 via fd00::1");
    let x = world.addr("x");
    world.rib.end_of_rib(x, Family::Ipv4);
    world.rib.end_of_rib(x, Family::Ipv6);
    assert_eq!(world.hear("x"), "+10.1.0.0/16 +10.2.0.0/16 end ipv4 +fd01::/64 end ipv6");

    world.rib.refresh(x, Family::Ipv4, true);
    world.withdraw("c", "10.2.0.0/16");
    assert_eq!(world.hear("x"), "begin ipv4 -10.2.0.0/16 +10.1.0.0/16 end ipv4");
    world.told.get_mut("x").unwrap().asked_again();
    world.rib.refresh(x, Family::Ipv4, false);
    assert_eq!(world.hear("x"), "+10.1.0.0/16");
}

#[test]
fn the_end_does_not_wait_for_what_changes_after_it_was_asked_for() {
    let mut world = world();
    let prefixes: Vec<String> =
        (0..2000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    world.say("c", &prefixes.join(" "));
    assert_eq!(world.hear("x").split(' ').count(), 2000);
    let x = world.addr("x");
    world.say("c", &format!("{} path 7", prefixes[..1500].join(" ")));
    world.rib.end_of_rib(x, Family::Ipv4);
    for med in 0..400 {
        // Of what was said already, some changes again and again.
        world.say("c", &format!("{} path 8 9 communities 1:{med}", prefixes[1900..].join(" ")));
        world.hear_some("x", 150);
        if world.told["x"].log.contains(&"end ipv4".to_owned()) {
            assert!(med > 0, "the end came before what was pending");
            return;
        }
    }
    panic!("no end in sight");
}

#[test]
fn what_changes_all_the_time_does_not_hold_up_the_others() {
    let mut world = world();
    let prefixes: Vec<String> = (0..100).map(|n| format!("10.1.{n}.0/24")).collect();
    world.say("c", &prefixes.join(" "));
    world.hear("x");
    world.say("c", &format!("{} path 7", prefixes.join(" ")));
    for round in 0..10 {
        world.hear_some("x", 150);
        world.say("c", &format!("{} path 8 communities 1:{round}", prefixes[..40].join(" ")));
    }
    let (attrs, _) = &world.told["x"].routes[&net("10.1.99.0/24")];
    assert_eq!(attrs.as_path.to_string(), "64512 7");
}

#[test]
fn neither_family_waits_for_all_of_the_other() {
    let mut world = world();
    let prefixes: Vec<String> =
        (0..5000).map(|n| format!("10.{}.{}.0/24", n / 250, n % 250)).collect();
    world.say("c", &prefixes.join(" "));
    world.say("c", "fd01::/64 via fd00::1");
    world.hear_some("x", 1000);
    world.hear_some("x", 1000);
    assert!(world.told["x"].routes.contains_key(&net("fd01::/64")));
    assert!(world.told["x"].routes.len() < 1000);
}

#[test]
fn who_comes_back_as_another_has_its_routes_told_as_of_the_other() {
    let mut world = world();
    world.say("n", "10.1.0.0/16");
    assert_eq!(told(&mut world).len(), 2);
    assert_eq!(world.hear("m"), "");
    let n = world.addr("n");
    world.rib.down(n, &Family::ALL.into());
    world.peers.get_mut("n").unwrap().config.client = true;
    world.up("n", "10.0.0.3");
    assert_eq!(world.hear("m"), "+10.1.0.0/16", "it is a client now");
}

#[test]
fn an_as_path_that_fills_its_first_segment_gets_longer_all_the_same() {
    let mut world = world();
    let asns: Vec<String> = (1..=255).map(|asn| asn.to_string()).collect();
    world.say("c", &format!("10.1.0.0/16 path {}", asns.join(" ")));
    world.hear("x");
    let (attrs, _) = &world.told["x"].routes[&net("10.1.0.0/16")];
    assert_eq!(attrs.as_path.length(), 256);
    assert!(attrs.as_path.to_string().starts_with("64512 1 2 3 "));
}

#[test]
fn a_new_router_id_of_ours_stands_in_cluster_lists_at_once() {
    let mut world = world();
    world.say("c", "10.1.0.0/16");
    assert_eq!(world.hear("n"), "+10.1.0.0/16");
    world.rib.configure([10, 0, 0, 77].into(), &world.originated, &world.connected, 1);
    world.hear("n");
    let (attrs, _) = &world.told["n"].routes[&net("10.1.0.0/16")];
    assert_eq!(attrs.cluster_list, [std::net::Ipv4Addr::new(10, 0, 0, 77)]);
}

#[test]
fn who_reads_little_is_told_little_at_once_and_everything_in_the_end() {
    let mut world = world();
    for number in 0..3000 {
        let path = 1 + number % 700;
        world.say("c", &format!("10.{}.{}.0/24 path {path}", number / 250, number % 250));
    }
    world.hear_in("x", 100);
    assert_eq!(world.told["x"].routes.len(), 3000);
    assert_eq!(world.counts("x").told[&Family::Ipv4], 3000);
    // Those with the same attributes share messages.
    let mut bytes = Vec::new();
    let y = world.addr("y");
    assert_eq!(world.rib.outgoing(y, &mut bytes, 1 << 20), 700);
    // The same of what is gone.
    let prefixes: Vec<String> = (1..=5000).map(|n| format!("fd01:{n:x}::/64")).collect();
    world.say("c", &format!("{} via fd00::1", prefixes.join(" ")));
    world.hear("x");
    world.withdraw("c", &prefixes.join(" "));
    world.hear_in("x", 8192);
    assert_eq!(world.told["x"].routes.len(), 3000);
}

#[test]
fn what_does_not_fit_into_a_message_is_not_said() {
    let mut world = world();
    let long: Vec<String> = (1..=1000).map(|asn| asn.to_string()).collect();
    world.say("c", "10.1.0.0/16");
    assert_eq!(world.hear("x"), "+10.1.0.0/16");
    world.say("c", &format!("10.1.0.0/16 path {}", long.join(" ")));
    assert_eq!(world.hear("x"), "+10.1.0.0/16");
    let longer: Vec<String> = (1..=1014).map(|asn| asn.to_string()).collect();
    world.say("c", &format!("10.1.0.0/16 path {}", longer.join(" ")));
    assert_eq!(world.hear("x"), "-10.1.0.0/16");
}
