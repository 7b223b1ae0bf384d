//! What leads packets to the lists: on a node by the pods' addresses, where it forwards; in a pod by
//! its links, where packets come in and leave.

use std::{collections::BTreeSet, net::IpAddr};

use weft_core::policy::{
    firewall::Firewall,
    own::{Door, Own},
    spec::Direction,
};

use super::{
    super::{
        FORWARD_HOOK, INPUT_HOOK, OUTPUT, PREROUTING,
        table::{Element, Field, Hook, Key, Name, Part, Rule, Shape, Table, Then, Way, When},
    },
    list::{self, chain},
};

const V4: Part = Part::Address { ipv4: true };
const V6: Part = Part::Address { ipv4: false };
const FAMILIES: [bool; 2] = [true, false];
/// Before others' filters, and behind whatever translates destinations.
const BEFORE_FILTER: i32 = -1;
/// Before our own main table, and others', say `notrack`.
const BEFORE_RAW: i32 = -301;
/// How the names of links begin by which pods reach their nodes.
const ACCESS: &str = "weft-";

fn address(ipv4: bool) -> &'static [Part] {
    if ipv4 { &[V4] } else { &[V6] }
}

fn two(ipv4: bool) -> &'static [Part] {
    if ipv4 { &[V4, V4] } else { &[V6, V6] }
}

fn named(name: &str, ipv4: bool) -> String {
    format!("{name}{}", if ipv4 { 4 } else { 6 })
}

/// What an answer or a neighbour says is nothing new. Multicast listeners' words too: a bridge that
/// snoops them would forget its ports.
fn begin() -> Vec<Rule> {
    let icmp6 = |first, last| Rule::new([When::Icmp6 { first, last }], Then::Accept);
    vec![Rule::new([When::Known], Then::Accept), icmp6(130, 137), icmp6(143, 143)]
}

pub(super) fn node(table: &mut Table, firewall: &Firewall) {
    let (mut track, mut forward) = (Vec::new(), begin());
    for ipv4 in FAMILIES {
        let pods: BTreeSet<IpAddr> = firewall.pods.keys().map(|(_, addr)| *addr).collect();
        let pods = || pods.iter().filter(|addr| addr.is_ipv4() == ipv4).copied();
        let set = named("policed", ipv4);
        if !table.set(&set, Shape::plain(address(ipv4)), pods().map(list::single).collect()) {
            continue;
        }
        for field in [Field::Source { ipv4 }, Field::Destination { ipv4 }] {
            let when = [When::Ipv4(ipv4), When::Among(vec![field], set.clone())];
            track.push(Rule::new(when, Then::Track));
        }
        // A pod that a Service leads to itself.
        let set = named("itself", ipv4);
        let twice = |addr| Element::one(Key::addr(addr).and_addr(addr));
        table.set(&set, Shape::plain(two(ipv4)), pods().map(twice).collect());
        let ends = vec![Field::Source { ipv4 }, Field::Destination { ipv4 }];
        forward.push(Rule::new([When::Ipv4(ipv4), When::Among(ends, set)], Then::Accept));
    }
    // What may leave is judged by where it goes all the same.
    for (direction, name) in [(Direction::Egress, "egress"), (Direction::Ingress, "ingress")] {
        for ipv4 in FAMILIES {
            let of = firewall
                .pods
                .iter()
                .filter(|((of, addr), _)| *of == direction && addr.is_ipv4() == ipv4);
            let to =
                of.map(|((_, addr), list)| Element::to(Key::addr(*addr), chain(direction, *list)));
            let map = named(name, ipv4);
            if table.set(&map, Shape::map(address(ipv4)), to.collect()) {
                let leads = Then::Map(vec![list::own(direction, ipv4)], map);
                forward.push(Rule::new([When::Ipv4(ipv4)], leads));
            }
        }
    }
    table.base("track", Hook::filter(PREROUTING, BEFORE_RAW), track);
    table.base("forward", Hook::filter(FORWARD_HOOK, BEFORE_FILTER), forward);
}

pub(super) fn pod(table: &mut Table, own: &Own) {
    for (hook, name, way) in [(INPUT_HOOK, "input", Way::In), (OUTPUT, "output", Way::Out)] {
        let mut rules = begin();
        rules.push(Rule::new([When::Loopback(way)], Then::Accept));
        // Judged by the node.
        rules.push(Rule::new([When::Link(way, Name::Begins(ACCESS))], Then::Accept));
        for door in &own.doors {
            rules.extend(FAMILIES.iter().flat_map(|ipv4| judged(table, door, way, *ipv4)));
        }
        table.base(name, Hook::filter(hook, BEFORE_FILTER), rules);
    }
}

fn judged(table: &mut Table, door: &Door, way: Way, ipv4: bool) -> Vec<Rule> {
    let (direction, lists, other) = match way {
        Way::In => (Direction::Ingress, &door.ingress, Field::Source { ipv4 }),
        Way::Out => (Direction::Egress, &door.egress, Field::Destination { ipv4 }),
    };
    let Some(list) = (if ipv4 { lists.v4 } else { lists.v6 }) else { return Vec::new() };
    let here = || vec![When::Link(way, Name::Is(door.dev.clone())), When::Ipv4(ipv4)];
    let among = |set: String| {
        let mut when = here();
        when.push(When::Among(vec![other], set));
        when
    };
    let mut rules = Vec::new();
    let set = format!("{}-{}", named("node", ipv4), door.dev);
    let nodes = door.nodes.iter().filter(|addr| addr.is_ipv4() == ipv4).copied();
    if table.set(&set, Shape::plain(address(ipv4)), nodes.map(list::single).collect()) {
        rules.push(Rule::new(among(set), Then::Accept));
    }
    let to = Then::Jump(chain(direction, list));
    // What leaves for other places passes the node, and maybe a Service first.
    match door.near.as_ref().filter(|_| way == Way::Out) {
        None => rules.push(Rule::new(here(), to)),
        Some(near) => {
            let set = format!("{}-{}", named("near", ipv4), door.dev);
            let near = near.iter().filter(|net| net.addr().is_ipv4() == ipv4);
            if table.set(&set, Shape::ranges(address(ipv4)), near.map(list::prefix).collect()) {
                rules.push(Rule::new(among(set), to));
            }
        }
    }
    rules
}
