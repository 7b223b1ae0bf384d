//! GoBGP. It has no routes in the kernel and no BFD.

use std::{fmt::Write, fs, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    peer::{Other, Peer, Routes, Setup, Told},
    site::sh,
};

pub fn begin(peer: &mut Peer, again: bool) {
    fs::write(peer.path("gobgpd.toml"), config(&peer.setup)).unwrap();
    let (config, api) = (peer.path("gobgpd.toml"), target(peer));
    let _ = fs::remove_file(peer.path("api"));
    let mut words = vec!["-f", &config, "--api-hosts", &api, "--pprof-disable", "-l", "debug"];
    if again {
        words.push("-r");
    }
    // Routes are said by command line: nobody is to meet it before it has them.
    let shut = "nft 'add table t; add chain t c { type filter hook input priority 0; }; \
                add rule t c tcp dport 179 drop; add rule t c tcp sport 179 drop'";
    sh(&peer.netns, shut);
    peer.spawn("gobgpd", &words);
    for route in peer.setup.routes.clone() {
        announce(peer, route, true);
    }
    sh(&peer.netns, "nft delete table t");
}

fn target(peer: &Peer) -> String {
    format!("unix://{}", peer.path("api"))
}

fn config(setup: &Setup) -> String {
    let asn = setup.asn;
    let mut all = format!("[global.config]\n as = {asn}\n router-id = \"10.0.0.2\"\n");
    setup.others.iter().for_each(|other| all += &neighbour(setup, other));
    all
}

fn neighbour(setup: &Setup, other: &Other) -> String {
    let (addr, hold) = (other.addr, other.hold);
    let mut all = format!(
        "[[neighbors]]\n[neighbors.config]\n neighbor-address = \"{addr}\"\n peer-as = {}\n",
        other.asn
    );
    let mut add = |line: &str| writeln!(all, "{line}").unwrap();
    if let Some(password) = other.password {
        add(&format!(" auth-password = \"{password}\""));
    }
    add("[neighbors.timers.config]");
    add(" connect-retry = 1\n idle-hold-time-after-reset = 1");
    add(&format!(" hold-time = {hold}\n keepalive-interval = {}", hold / 3));
    add("[neighbors.transport.config]");
    add(&format!(" passive-mode = {}\n local-address = \"{}\"", other.passive, setup.addr));
    if other.security {
        add("[neighbors.ttl-security.config]\n enabled = true\n ttl-min = 255");
    }
    if let Some(seconds) = other.restart {
        add(&format!(
            "[neighbors.graceful-restart.config]\n enabled = true\n restart-time = {seconds}\n \
             deferral-time = 5"
        ));
    }
    for family in ["ipv4", "ipv6"] {
        add("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]");
        add(&format!(" afi-safi-name = \"{family}-unicast\""));
        if other.restart.is_some() {
            add("[neighbors.afi-safis.mp-graceful-restart.config]\n enabled = true");
        }
    }
    add(other.more);
    all
}

pub fn ask(peer: &Peer, words: &[&str]) -> String {
    let target = target(peer);
    let mut all = vec!["--target", &target];
    all.extend(words);
    peer.says("gobgp", &all)
}

pub fn routes(peer: &Peer, from: IpAddr) -> Routes {
    let mut all = Routes::new();
    for family in ["ipv4", "ipv6"] {
        let said = ask(peer, &["-j", "global", "rib", "-a", family]);
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        for (prefix, paths) in said.as_object().into_iter().flatten() {
            let of = |path: &&Value| path["neighbor-ip"] == from.to_string();
            let Some(path) = paths.as_array().and_then(|paths| paths.iter().find(of)) else {
                continue;
            };
            let mut attrs = path["attrs"].as_array().unwrap().iter();
            let hop = attrs.find_map(|attr| attr["nexthop"].as_str()).unwrap();
            let stale = path["stale"] == true;
            all.insert(prefix.parse().unwrap(), Told { next_hop: hop.parse().unwrap(), stale });
        }
    }
    all
}

pub fn announce(peer: &Peer, prefix: IpNet, yes: bool) {
    let (family, own) = if prefix.addr().is_ipv6() {
        ("ipv6", "fd00::2".to_owned())
    } else if peer.setup.addr.is_ipv6() {
        ("ipv4", peer.setup.addr.to_string())
    } else {
        ("ipv4", "10.0.0.2".to_owned())
    };
    let prefix = prefix.to_string();
    let what = if yes { "add" } else { "del" };
    let mut words = vec!["global", "rib", what, "-a", family, &prefix];
    if yes {
        words.extend(["nexthop", &own]);
    }
    ask(peer, &words);
}

pub fn refresh(peer: &Peer, from: IpAddr) {
    ask(peer, &["neighbor", &from.to_string(), "softresetin"]);
}
