//! FRR: bgpd with zebra, and bfdd where it is asked for.

use std::{fmt::Write, fs, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use crate::peer::{Other, Peer, Routes, Setup, Told};

/// Without zebra, bgpd knows none of its own addresses, and IPv6 routes get a next hop of IPv4.
pub fn begin(peer: &mut Peer) {
    fs::write(peer.path("bgpd.conf"), config(&peer.setup)).unwrap();
    if peer.children.is_empty() {
        groups();
        fs::write(peer.path("zebra.conf"), "log stdout\n").unwrap();
        daemon(peer, "zebra", &[]);
        runs(peer, "zebra");
        if peer.setup.others.iter().any(|other| other.bfd.is_some()) {
            fs::write(peer.path("bfdd.conf"), bfd(&peer.setup)).unwrap();
            let socket = format!("unix:{}", peer.path("bfdd.sock"));
            daemon(peer, "bfdd", &["--bfdctl", &socket]);
            runs(peer, "bfdd");
        }
    }
    daemon(peer, "bgpd", if peer.setup.kernel { &[] } else { &["-n"] });
    runs(peer, "bgpd");
}

/// Where one user is all there is, zebra asks for his being in its group.
fn groups() {
    let groups = "/run/groups";
    if fs::exists(groups).unwrap() {
        return;
    }
    fs::write(groups, "root:x:0:\nfrr:x:0:root\nfrrvty:x:0:root\n").unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(groups), "/etc/group", None::<&str>, bind, None::<&str>).unwrap();
}

fn runs(peer: &Peer, daemon: &str) {
    peer.says("vtysh", &["--vty_socket", &peer.path(""), "-d", daemon, "-c", "show version"]);
}

fn daemon(peer: &mut Peer, name: &str, more: &[&str]) {
    let (dir, zserv) = (peer.path(""), peer.path("zserv.api"));
    let (pid, config) = (peer.path(&format!("{name}.pid")), peer.path(&format!("{name}.conf")));
    let mut words = vec!["-u", "root", "-g", "root", "-P", "0", "--vty_socket", &dir];
    words.extend((name == "bgpd").then_some("-S"));
    words.extend(["-z", &zserv, "-i", &pid, "-f", &config]);
    words.extend(more);
    peer.spawn(&format!("/usr/lib/frr/{name}"), &words);
}

fn config(setup: &Setup) -> String {
    let mut all = String::from("frr defaults traditional\nlog stdout\n");
    let mut add = |line: &str| writeln!(all, "{line}").unwrap();
    add(&format!("router bgp {}", setup.asn));
    add(" bgp router-id 10.0.0.2");
    add(" no bgp ebgp-requires-policy");
    add(" no bgp network import-check");
    add(" no bgp default ipv4-unicast");
    if let Some(seconds) = setup.others.iter().find_map(|other| other.restart) {
        add(" bgp graceful-restart");
        add(" bgp graceful-restart preserve-fw-state");
        add(&format!(" bgp graceful-restart restart-time {seconds}"));
    }
    setup.others.iter().for_each(|other| neighbour(other, &mut add));
    for (family, ipv6) in [("ipv4", false), ("ipv6", true)] {
        add(&format!(" address-family {family} unicast"));
        for other in &setup.others {
            add(&format!("  neighbor {} activate", other.addr));
        }
        for route in setup.routes.iter().filter(|route| route.addr().is_ipv6() == ipv6) {
            add(&format!("  network {route}"));
        }
        add(" exit-address-family");
    }
    all
}

fn neighbour(other: &Other, add: &mut impl FnMut(&str)) {
    let Other { addr, asn, hold, .. } = other;
    let mut say = |what: &str| add(&format!(" neighbor {addr} {what}"));
    say(&format!("remote-as {asn}"));
    say(&format!("timers {} {hold}", hold / 3));
    say("timers connect 1");
    say("advertisement-interval 0");
    if addr.is_ipv6() {
        say("capability extended-nexthop");
    }
    if other.passive {
        say("passive");
    }
    if let Some(password) = other.password {
        say(&format!("password {password}"));
    }
    if other.security {
        say("ttl-security hops 1");
    }
    if other.bfd.is_some() {
        say("bfd");
        say("bfd profile fast");
    }
    other.more.lines().for_each(say);
}

fn bfd(setup: &Setup) -> String {
    let interval = setup.others.iter().find_map(|other| other.bfd).unwrap_or(300);
    format!(
        "log stdout\nbfd\n profile fast\n  detect-multiplier 3\n  receive-interval {interval}\n  \
         transmit-interval {interval}\n exit\nexit\n"
    )
}

pub fn ask(peer: &Peer, lines: &[&str]) -> String {
    let dir = peer.path("");
    let mut words = vec!["--vty_socket", &dir, "-d", "bgpd"];
    lines.iter().for_each(|line| words.extend(["-c", line]));
    peer.says("vtysh", &words)
}

pub fn routes(peer: &Peer, from: IpAddr) -> Routes {
    let mut all = Routes::new();
    for family in ["ipv4", "ipv6"] {
        let said = ask(peer, &[&format!("show bgp {family} unicast json")]);
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        for (prefix, paths) in said["routes"].as_object().into_iter().flatten() {
            let of = |path: &&Value| path["peerId"] == from.to_string();
            let Some(path) = paths.as_array().and_then(|paths| paths.iter().find(of)) else {
                continue;
            };
            let hop = path["nexthops"][0]["ip"].as_str().unwrap();
            let stale = path["stale"] == true;
            all.insert(prefix.parse().unwrap(), Told { next_hop: hop.parse().unwrap(), stale });
        }
    }
    all
}

pub fn announce(peer: &Peer, prefix: IpNet, yes: bool) {
    let family = if prefix.addr().is_ipv6() { "ipv6" } else { "ipv4" };
    let no = if yes { "" } else { "no " };
    ask(
        peer,
        &[
            "configure terminal",
            &format!("router bgp {}", peer.setup.asn),
            &format!("address-family {family} unicast"),
            &format!("{no}network {prefix}"),
        ],
    );
}

pub fn refresh(peer: &Peer, from: IpAddr) {
    for family in ["ipv4", "ipv6"] {
        ask(peer, &[&format!("clear bgp {family} {from} soft in")]);
    }
}
