//! Tables as text: what each node's speaker is to be, and what an operator may not say.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::json;

use super::*;
use crate::{
    name::{IfName, Mtu, NodeName},
    paths::Nic,
    view::{BGP_KEY, View, node_key},
};

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn labels(rack: &str) -> BTreeMap<String, String> {
    let has = (!rack.is_empty()).then(|| ("rack".to_owned(), rack.to_owned()));
    has.into_iter().collect()
}

/// A node with its addresses, its rack, and whether it is reached by BGP.
fn put(view: &mut View, node: &str, addrs: &[&str], rack: &str, bgp: bool) {
    let way = if bgp { "bgp" } else { "direct" };
    let receives: Vec<_> = addrs.iter().map(|addr| json!({"way": way, "underlay": addr})).collect();
    let part = json!({"blocks": [], "receives": receives, "send": 1500, "accept": 1500});
    let record = json!({
        "schema": 1, "boot": "b", "version": "0", "underlay": addrs, "mtu": 1500,
        "networks": {"net": part}, "labels": labels(rack),
    });
    view.put(&node_key(&name(node)), record.to_string().as_bytes(), 1);
    assert!(view.said.is_empty(), "{:?}", view.said);
}

fn nics(addrs: &[&str]) -> Vec<Nic> {
    let nic = |(n, addr): (usize, &&str)| Nic {
        dev: IfName::new(&format!("eth{}", n / 2)),
        addr: addr.parse().unwrap(),
        mtu: Mtu::ETHERNET,
    };
    addrs.iter().enumerate().map(nic).collect()
}

fn said(view: &View, node: &str, rack: &str, addrs: &[&str]) -> String {
    let (node, labels, nics) = (name(node), labels(rack), nics(addrs));
    let underlay = &nics[..nics.len().min(2)];
    let local = Local { node: &node, labels: &labels, underlay, nics: &nics, view };
    let speaker = speaker(&local);
    let mut out = format!("AS {} id {}\n", speaker.asn, speaker.router_id);
    for (addr, n) in &speaker.neighbours {
        let _ = write!(out, "{} AS {} {addr} from {}", n.name, n.remote_as, n.local_addr);
        let _ = write!(out, " {:?}", n.ttl);
        let hops = n.next_hop4.map(|hop| hop.to_string()).into_iter();
        let hops: Vec<String> = hops.chain(n.next_hop6.map(|hop| hop.to_string())).collect();
        let _ = write!(out, " hop {}", hops.join(","));
        out += if n.client { " client" } else { "" };
        out += if n.own_only { "" } else { " passes on" };
        out += if n.bfd.is_some() { " bfd\n" } else { "\n" };
    }
    speaker.problems.iter().for_each(|problem| out += &format!("problem: {problem}\n"));
    out
}

fn settings(view: &mut View, value: serde_json::Value) {
    view.put(BGP_KEY, value.to_string().as_bytes(), 2);
    assert!(view.said.is_empty(), "{:?}", view.said);
}

const A: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];

#[test]
fn nodes_find_each_other_and_speak_by_the_family_that_both_have() {
    let mut view = View::default();
    put(&mut view, "b", &["192.0.2.2", "2001:db8::2"], "", true);
    put(&mut view, "c", &["2001:db8::3"], "", true);
    put(&mut view, "d", &["192.0.2.4"], "", false);
    assert_eq!(
        said(&view, "a", "", &A),
        "AS 64512 id 192.0.2.1\n\
         b AS 64512 192.0.2.2 from 192.0.2.1 Any hop 192.0.2.1,2001:db8::1 bfd\n\
         c AS 64512 2001:db8::3 from 2001:db8::1 Any hop 2001:db8::1 bfd\n"
    );
    let alone = said(&view, "a", "", &["192.0.2.1/24"]);
    assert!(
        alone
            .ends_with("problem: neighbour c: it and this node have no address family in common\n")
    );
    let by_name = said(&view, "a", "", &["2001:db8::1/64"]);
    assert!(!by_name.contains("id 192.0.2.1"), "from its name: {by_name}");
    settings(&mut view, json!({"mesh": false}));
    assert_eq!(
        said(&view, "a", "", &A),
        "AS 64512 id 192.0.2.1\n\
         problem: this node has no neighbour and learns nothing: `mesh: false` is set, and no peer is for it\n"
    );
}

#[test]
fn routers_are_neighbours_of_the_nodes_that_are_meant() {
    let mut view = View::default();
    settings(
        &mut view,
        json!({
            "nodes": [{"labels": {"rack": "r1"}, "asn": 65001}, {"labels": {"rack": "r2"}, "asn": 65002}],
            "peers": [
                {"name": "tor-1", "address": "192.0.2.254", "asn": 65101, "labels": {"rack": "r1"}, "bfd": {}},
                {"name": "tor-1b", "address": "198.51.100.254", "asn": 65101, "labels": {"rack": "r1"},
                 "ttlSecurity": 1},
                {"name": "tor-2", "address": "2001:db8::fe", "asn": 65102, "labels": {"rack": "r2"}},
                {"name": "far", "address": "203.0.113.1", "asn": 65102, "multihop": 4, "nodes": ["z"]},
            ],
        }),
    );
    put(&mut view, "b", &["192.0.2.2"], "r1", true);
    put(&mut view, "c", &["192.0.2.3"], "r2", true);
    let two = ["192.0.2.1/24", "2001:db8::1/64", "198.51.100.1/24"];
    assert_eq!(
        said(&view, "a", "r1", &two),
        "AS 65001 id 192.0.2.1\n\
         b AS 65001 192.0.2.2 from 192.0.2.1 Any hop 192.0.2.1,2001:db8::1 bfd\n\
         tor-1 AS 65101 192.0.2.254 from 192.0.2.1 OneHop hop 192.0.2.1,2001:db8::1 bfd\n\
         tor-1b AS 65101 198.51.100.254 from 198.51.100.1 Security(0) hop 198.51.100.1,2001:db8::1\n"
    );
    assert_eq!(
        said(&view, "a", "r2", &["192.0.2.1/24"]),
        "AS 65002 id 192.0.2.1\n\
         c AS 65002 192.0.2.3 from 192.0.2.1 Any hop 192.0.2.1 bfd\n\
         problem: neighbour tor-2: this node has no IPv6 address to reach it from\n"
    );
    assert_eq!(
        said(&view, "z", "", &["192.0.2.1/24"]),
        "AS 64512 id 192.0.2.1\n\
         far AS 65102 203.0.113.1 from 192.0.2.1 Hops(4) hop 192.0.2.1\n"
    );
}

#[test]
fn reflectors_have_sessions_with_all_and_the_others_with_them_alone() {
    let mut view = View::default();
    for (n, node) in ["b", "c", "d"].iter().enumerate() {
        put(&mut view, node, &[&format!("192.0.2.{}", n + 2)], "", true);
    }
    settings(&mut view, json!({"reflectors": {"nodes": ["b", "c"]}, "bfd": "off"}));
    assert_eq!(
        said(&view, "a", "", &["192.0.2.1/24"]),
        "AS 64512 id 192.0.2.1\n\
         b AS 64512 192.0.2.2 from 192.0.2.1 Any hop 192.0.2.1\n\
         c AS 64512 192.0.2.3 from 192.0.2.1 Any hop 192.0.2.1\n"
    );
    put(&mut view, "a", &["192.0.2.1"], "", true);
    assert_eq!(
        said(&view, "b", "", &["192.0.2.2/24"]),
        "AS 64512 id 192.0.2.2\n\
         a AS 64512 192.0.2.1 from 192.0.2.2 Any hop 192.0.2.2 client passes on\n\
         c AS 64512 192.0.2.3 from 192.0.2.2 Any hop 192.0.2.2 passes on\n\
         d AS 64512 192.0.2.4 from 192.0.2.2 Any hop 192.0.2.2 client passes on\n"
    );
}

#[test]
fn who_reflects_is_spread_and_stays_when_others_come_and_go() {
    let settings = Settings::default();
    let node = |n: usize| (name(&format!("node-{n}")), labels(&format!("r{}", n % 4)));
    let chosen = |nodes: &[(NodeName, BTreeMap<String, String>)]| {
        reflectors(&settings, nodes.iter().map(|(name, labels)| (name, labels)))
    };
    let all: Vec<_> = (0..300).map(node).collect();
    assert_eq!(chosen(&all[..100]).len(), 0, "a full mesh");
    let mut changes = 0;
    let mut was = chosen(&all[..101]);
    for count in 102..=300 {
        let now = chosen(&all[..count]);
        let racks: std::collections::BTreeSet<_> = all
            .iter()
            .filter(|(name, _)| now.contains(name))
            .map(|(_, l)| l["rack"].clone())
            .collect();
        assert_eq!((now.len(), racks.len()), (3, 3), "each in a rack of its own");
        let stayed = now.intersection(&was).count();
        assert!(stayed >= 2, "one node that comes moves one at most: {now:?}, {was:?}");
        changes += usize::from(now != was);
        was = now;
    }
    assert!(changes < 12, "{changes} of 199 that came");
    let without: Vec<_> = all.iter().filter(|(name, _)| !was.contains(name)).cloned().collect();
    for (name, labels) in without.iter().take(50) {
        let left: Vec<_> = all.iter().filter(|(other, _)| other != name).cloned().collect();
        assert_eq!(chosen(&left), was, "{name} {labels:?} was none of them");
    }
}

#[test]
fn bad_settings_are_refused_with_what_to_do() {
    let mut view = View::default();
    put(&mut view, "b", &["192.0.2.2"], "r1", true);
    let peer = |more: serde_json::Value| {
        let mut peer = json!({"name": "tor", "address": "192.0.2.254", "asn": 65001});
        more.as_object().unwrap().iter().for_each(|(k, v)| peer[k] = v.clone());
        peer
    };
    let with = |more| json!({"peers": [peer(more)]});
    for (value, want) in [
        (json!({}), ""),
        (with(json!({})), ""),
        (json!({"asn": 0}), "asn: AS 0 is reserved (RFC 7607); private ones are"),
        (json!({"asn": 23456}), "asn: AS 23456 stands for"),
        (json!({"nodes": [{"asn": 65535}]}), "nodes[0].asn: AS 65535 is reserved"),
        (json!({"holdSeconds": 1}), "holdSeconds 1: 0 (never) or 3 and more"),
        (json!({"bfd": {"intervalMs": 5}}), "bfd.intervalMs 5: write 10 to 60000"),
        (json!({"bfd": "on"}), "expected `off`, or a map"),
        (json!({"bfd": false}), ""),
        (
            json!({"gracefulRestart": {"seconds": 5000}}),
            "write 1 to 4095, or `gracefulRestart: off`",
        ),
        (json!({"reflectors": {"nodes": ["x"]}}), "x is no node of this cluster; there are b"),
        (json!({"reflectors": {"count": 0}}), "write `reflectors: off`"),
        (with(json!({"asn": 0})), "peer tor: asn: AS 0"),
        (with(json!({"address": "192.0.2.2"})), "is the address of node b"),
        (with(json!({"address": "fe80::1"})), "write its global address"),
        (with(json!({"holdSeconds": 2})), "peer tor: holdSeconds 2"),
        (with(json!({"ttlSecurity": 1, "multihop": 2})), "write one"),
        (
            with(json!({"import": [{"prefix": "10.0.0.0/8", "least": 7, "action": "accept"}]})),
            "import: 10.0.0.0/8 from 7 to 32: write lengths from 8 to 32",
        ),
        (json!({"peers": [peer(json!({})), peer(json!({}))]}), "two peers are named tor"),
        (
            json!({"peers": [peer(json!({})), peer(json!({"name": "x"}))]}),
            "peers tor and x have one address, 192.0.2.254, for node b",
        ),
        (
            json!({"peers": [peer(json!({"labels": {"rack": "r1"}})), peer(json!({"name": "x", "labels": {"rack": "r2"}}))]}),
            "",
        ),
        (with(json!({"communities": ["1:2:3"]})), "\"1:2:3\" is no community"),
    ] {
        let read: Result<Settings, _> = serde_json::from_value(value.clone());
        let got = read.map_err(|error| error.to_string()).and_then(|read| check(&read, &view));
        let said = got.err().unwrap_or_default();
        assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{value}: {said}");
    }
}

#[test]
fn a_misspelt_field_of_a_peer_is_answered_with_the_choices() {
    let written = json!({"peers": [{"name": "tor", "address": "192.0.2.254", "asn": 1, "as": 2}]});
    let read: Settings = serde_json::from_value(written.clone()).unwrap();
    let unknown = crate::network::unknown_fields(&written, &read);
    assert!(
        unknown[0].starts_with("peers[0].as (known here: acceptDefault, address"),
        "{unknown:?}"
    );
}
