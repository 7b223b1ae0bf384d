//! BIRD 2.

use std::{fmt::Write, fs, net::IpAddr};

use crate::peer::{Other, Peer, Routes, Setup, Told};

pub fn begin(peer: &mut Peer, again: bool) {
    fs::write(peer.path("bird.conf"), config(&peer.setup)).unwrap();
    let (config, ctl, pid) = (peer.path("bird.conf"), peer.path("ctl"), peer.path("pid"));
    let mut words = vec!["-f", "-c", &config, "-s", &ctl, "-P", &pid];
    if again {
        words.push("-R");
    }
    peer.spawn("bird", &words);
    peer.says("birdc", &["-s", &ctl, "show", "status"]);
}

fn config(setup: &Setup) -> String {
    let mut all = String::from("log stderr all;\nrouter id 10.0.0.2;\nprotocol device {}\n");
    for (channel, ipv6) in [("ipv4", false), ("ipv6", true)] {
        let routes = setup.routes.iter().filter(|route| route.addr().is_ipv6() == ipv6);
        let routes: String = routes.map(|route| format!(" route {route} unreachable;")).collect();
        writeln!(all, "protocol static s_{channel} {{ {channel}; {routes} }}").unwrap();
        if setup.kernel {
            writeln!(
                all,
                "protocol kernel k_{channel} {{ graceful restart on; merge paths on; {channel} {{ import \
                 none; export where source = RTS_BGP; }}; }}"
            )
            .unwrap();
        }
    }
    if setup.others.iter().any(|other| other.bfd.is_some()) {
        let interval = setup.others.iter().find_map(|other| other.bfd).unwrap();
        let timers =
            format!("interval {interval} ms; idle tx interval {interval} ms; multiplier 3;");
        writeln!(all, "protocol bfd {{ interface \"*\" {{ {timers} }}; }}").unwrap();
    }
    for (n, other) in setup.others.iter().enumerate() {
        all += &neighbour(n, setup, other);
    }
    all
}

fn neighbour(n: usize, setup: &Setup, other: &Other) -> String {
    let mut all = format!(
        "protocol bgp n{n} {{\n local {} as {};\n neighbor {} as {};\n hold time {};\n \
         connect delay time 1;\n connect retry time 1;\n error wait time 1, 2;\n",
        setup.addr, setup.asn, other.addr, other.asn, other.hold
    );
    let mut add = |line: &str| writeln!(all, " {line}").unwrap();
    if other.passive {
        add("passive on;");
    }
    if let Some(password) = other.password {
        add(&format!("password \"{password}\";"));
    }
    if other.security {
        add("ttl security on;");
    }
    match other.restart {
        Some(seconds) => add(&format!("graceful restart on; graceful restart time {seconds};")),
        None => add("graceful restart off;"),
    }
    if other.bfd.is_some() && !other.more.contains("bfd") {
        add("bfd on;");
    }
    add(other.more);
    let hop = if other.addr.is_ipv6() { "extended next hop on;" } else { "" };
    add(&format!("ipv4 {{ import all; export all; {hop} }};"));
    add("ipv6 { import all; export all; };");
    all + "}\n"
}

pub fn ask(peer: &Peer, words: &[&str]) -> String {
    let ctl = peer.path("ctl");
    let mut all = vec!["-s", &ctl];
    all.extend(words);
    peer.says("birdc", &all)
}

fn protocol(peer: &Peer, from: IpAddr) -> String {
    let at = peer.setup.others.iter().position(|other| other.addr == from).unwrap();
    format!("n{at}")
}

pub fn routes(peer: &Peer, from: IpAddr) -> Routes {
    let mut all = Routes::new();
    let said = ask(peer, &["show", "route", "all", "protocol", &protocol(peer, from)]);
    let (mut prefix, mut stale) = (None, false);
    for line in said.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if let Ok(found) = first.parse() {
            (prefix, stale) = (Some(found), line.contains(" (100s"));
        } else if first == "BGP.next_hop:" {
            let next_hop = words.next().unwrap().parse().unwrap();
            all.insert(prefix.unwrap(), Told { next_hop, stale });
        }
    }
    all
}

pub fn announce(peer: &Peer) {
    fs::write(peer.path("bird.conf"), config(&peer.setup)).unwrap();
    ask(peer, &["configure"]);
}

pub fn refresh(peer: &Peer, from: IpAddr) {
    ask(peer, &["reload", "in", &protocol(peer, from)]);
}
