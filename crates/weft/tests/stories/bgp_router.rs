//! Nodes with a router that is none of them: what it is told, what is taken of it, and what is not. The router
//! is weft's own speaker, at the place where the lab has its way out.

use std::{collections::BTreeMap, fs, time::Duration};

use weft::bgp::{Desired, Known, Router};
use weft_bgp::{
    attrs::Family,
    config::{Config, Filter, Neighbour, Originated, Ttl},
};

use crate::story::*;

/// A router at 192.0.2.254 in AS 65001 that says these prefixes to two nodes.
fn desired(said: &[&str]) -> Desired {
    let pass = || Filter::all();
    let neighbour = |n: u8| Neighbour {
        name: format!("node {n}"),
        local_as: 65001,
        remote_as: 64512,
        local_addr: "192.0.2.254".parse().unwrap(),
        port: 179,
        passive: false,
        client: false,
        families: Family::ALL.into(),
        next_hop4: Some("192.0.2.254".parse().unwrap()),
        next_hop6: Some("2001:db8:1::fe".parse().unwrap()),
        hold_time: 90,
        graceful_restart: Some(Duration::from_secs(120)),
        password: Some("secret".into()),
        ttl: Ttl::OneHop,
        bfd: false,
        routes_max: 1000,
        import: pass(),
        export: pass(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: true,
    };
    let config = Config {
        router_id: "192.0.2.254".parse().unwrap(),
        neighbours: (1..=2u8).map(|n| (IpAddr::from([192, 0, 2, n]), neighbour(n))).collect(),
        originated: said.iter().map(|dst| (dst.parse().unwrap(), Originated::default())).collect(),
        connected: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        paths_max: 8,
        deferral: Duration::from_secs(120),
    };
    Desired { config, port: weft_bgp::wire::PORT, bfd: BTreeMap::new() }
}

const SAID: [&str; 5] =
    ["0.0.0.0/0", "203.0.113.0/24", "2001:db8:ffff::/48", "10.1.0.0/25", "192.0.2.128/25"];

fn hops(known: &Known) -> BTreeMap<String, String> {
    let said = |hops: &[weft_bgp::report::LearntHop]| {
        let hops: Vec<String> = hops.iter().map(|hop| hop.via.to_string()).collect();
        hops.join(",")
    };
    known.routes.iter().map(|(dst, learnt)| (dst.to_string(), said(&learnt.hops))).collect()
}

/// Article: BGP, with routers | routers learn where pods are, and nodes what is behind routers
/// Negative: what a router says inside the pods' range or of the nodes' own link; what lies elsewhere is taken, by filter
#[test]
fn a_routers_routes_are_used_unless_they_contradict_and_it_hears_of_pods() {
    let site = cluster(2, "veth", "bgp");
    let (pods, _echo) = answering(&site);
    let keep = site.plan.dir.join("router.keep");
    let router = site.wire.world.run(|| Router::start(keep, Box::new(|| {})).unwrap()).unwrap();
    router.configure(desired(&SAID));
    let password = site.plan.dir.join("password");
    fs::write(&password, "secret\n").unwrap();
    let settings = |more: &Value| {
        let mut peer = json!({
            "name": "tor", "address": "192.0.2.254", "asn": 65001, "passwordFile": password,
            "communities": ["64512:7"],
        });
        more.as_object().unwrap().iter().for_each(|(key, value)| peer[key] = value.clone());
        site.nodes[0].ask("PUT", "/v1/bgp/settings", Some(json!({"peers": [peer]}))).unwrap();
    };
    settings(&json!({}));
    for node in &site.nodes {
        let routes = || sh(&node.netns, "ip route show proto 119; ip -6 route show proto 119");
        until("learnt", || {
            let routes = routes();
            routes.contains("203.0.113.0/24") && routes.contains("2001:db8:ffff::/48")
        });
        let routes = routes();
        for no in ["default", "10.1.0.0/25", "192.0.2.128/25"] {
            assert!(!routes.contains(no), "{no}: {routes}");
        }
        assert!(sh(&node.netns, "ip route get 203.0.113.7").contains("via 192.0.2.254"));
        node.wait_until("telling what it left out", |node| {
            let said = node.status()?["problems"].to_string();
            Ok(said.contains("10.1.0.0/25 is left out: inside network net, and no node has")
                && said.contains("192.0.2.128/25 is left out: 192.0.2.0/24 is on-link here"))
        })
        .unwrap();
        empty_plan(node);
    }
    let explained = site.nodes[0].ask("GET", "/v1/explain?from=a1&to=203.0.113.7", None).unwrap();
    let said = explained.to_string();
    assert!(said.contains("learnt from tor (AS 65001, 192.0.2.254), AS path 65001"), "{said}");
    // Each pod's block leads to its node.
    until("told of every block", || {
        let known = hops(&router.known());
        known.len() == 4
            && known.values().filter(|hop| hop.starts_with("192.0.2.")).count() == 2
            && known.values().filter(|hop| hop.starts_with("2001:db8:1::")).count() == 2
    });
    // Its default route is taken once that is said, and a filter takes the rest away.
    settings(&json!({
        "acceptDefault": true,
        "import": [{"prefix": "203.0.113.0/24", "most": 24, "action": "accept"}],
    }));
    let node = &site.nodes[0];
    until("filtered", || {
        let routes = sh(&node.netns, "ip route show proto 119; ip -6 route show proto 119");
        routes.contains("default nhid")
            && routes.contains("203.0.113.0/24")
            && !routes.contains("2001:db8:ffff::/48")
    });
    node.wait_until("well", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
    // Pods one by one, to those that are no nodes alone.
    let mut network = site.network("veth", "bgp", 1);
    network["join"] =
        json!({"kind": "bgp", "advertise": "addresses", "communities": ["no-export"]});
    site.apply("net", &network).unwrap();
    let pod = format!("{}/32", pods[0].addr(true).unwrap());
    until("told of the pod", || hops(&router.known()).contains_key(&pod));
    let inside = site.nodes[1].ask("GET", "/v1/bgp/routes", None).unwrap().to_string();
    assert!(!inside.contains(&pod), "not said to nodes: {inside}");
    let late = site.nodes[1].add_pod("late", "net").unwrap();
    let addr = format!("{}/32", late.addr(true).unwrap());
    until("told of the next", || hops(&router.known()).contains_key(&addr));
    site.nodes[1].delete_pod(late).unwrap();
    until("told that it went", || !hops(&router.known()).contains_key(&addr));
    // Another password on one side: the session ends or never begins again, with the reason, and no
    // other is harmed.
    fs::write(&password, "another\n").unwrap();
    settings(&json!({"holdSeconds": 30}));
    node.wait_until("telling that it is down", |node| {
        let said = node.status()?["problems"].to_string();
        Ok(said.contains("the session with tor (AS 65001, 192.0.2.254) is down for"))
    })
    .unwrap();
    assert!(reaches(&pods[0], &pods[1]));
    site.nodes[0].ask("DELETE", "/v1/bgp/settings", None).unwrap();
    router.stop(true);
    for node in &site.nodes {
        let routes = || sh(&node.netns, "ip route show proto 119");
        until("without its routes", || !routes().contains("203.0.113.0/24"));
        node.wait_until("well", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
        empty_plan(node);
    }
}
