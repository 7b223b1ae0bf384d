//! What large tables take: `routes neighbours 500` has as many neighbours say two routes each, first to
//! one that tells them its own alone, then to one that reflects. `routes 1000000 10` has one neighbour say a million routes, ten with the
//! same attributes each, and prints routes a second (of the processor's time, not of the clock's) and
//! bytes a route. The other half of the wall: the process's time and memory are read here, the tables
//! are told nothing of it.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Segment},
    config::{Filter, Neighbour, Originated, Ttl},
    rib::{Peer, Rib},
    wire::{self, Agreed, Frames, Message, Packer, Reach, Update},
};

const OUT: usize = 65_536;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| match args.get(at) {
        Some(arg) => arg.parse::<u32>().expect("a number"),
        None => default,
    };
    if args.first().is_some_and(|arg| arg == "neighbours") {
        [false, true].into_iter().for_each(|reflects| neighbours(number(1, 500), reflects));
        return;
    }
    let (routes, each) = (number(0, 1_000_000), number(1, 10).max(1));
    for family in Family::ALL {
        measure(family, routes, each);
    }
}

fn measure(family: Family, routes: u32, each: u32) {
    let mut rib = Rib::new();
    let connected = ["10.0.0.0/16", "fd00::/64"].map(|net| net.parse::<IpNet>().expect("a prefix"));
    rib.configure(Ipv4Addr::new(10, 0, 0, 100), &BTreeMap::new(), &connected, 4);
    let (feeder, listener) = (peer(1), peer(2));
    rib.up(addr(1), feeder.clone());
    println!("{routes} routes of {family}, {each} with the same attributes");

    let messages = feed(family, routes, each, &feeder.agreed);
    let resident = memory();
    let begin = cpu();
    let mut frames = Frames::default();
    for chunk in messages.chunks(OUT) {
        frames.push(chunk);
        while let Ok(Some(message)) = frames.cut() {
            if let Ok(Some(Message::Update(update))) = wire::read(&message, &feeder.agreed) {
                rib.update(addr(1), update);
            }
        }
    }
    line("read and taken", routes, cpu() - begin);
    bytes("taken", routes, resident);

    let before = memory();
    rib.up(addr(2), listener);
    let begin = cpu();
    let (mut told, mut longest) = (0, Duration::ZERO);
    while rib.has_outgoing(addr(2)) {
        let mut buffer = Vec::new();
        let begin = cpu();
        told += rib.outgoing(addr(2), &mut buffer, OUT);
        longest = longest.max(cpu() - begin);
    }
    line(
        &format!("told in {told} messages, {longest:.1?} at most at once,"),
        routes,
        cpu() - begin,
    );
    bytes("told", routes, before);

    let begin = cpu();
    let mut changed = 0;
    while let more @ 1.. = rib.changed(4096).len() {
        changed += more;
    }
    line(&format!("learnt by changed, {changed},"), routes, cpu() - begin);

    let begin = cpu();
    let kept = rib.keep();
    line(&format!("kept in {} MB", kept.len() / 1_000_000), routes, cpu() - begin);
    let begin = cpu();
    rib.down(addr(1), &BTreeSet::new());
    line("taken out", routes, cpu() - begin);
    while rib.has_outgoing(addr(2)) {
        rib.outgoing(addr(2), &mut Vec::new(), OUT);
    }
    line("and said to be gone", routes, cpu() - begin);
}

/// Internal ones, as the nodes of a mesh or the clients of a reflector.
fn neighbours(count: u32, reflects: bool) {
    let (resident, begin) = (memory(), cpu());
    let mut rib = Rib::new();
    let connected = ["10.0.0.0/8".parse::<IpNet>().expect("a prefix")];
    let own = BTreeMap::from([("172.16.0.0/26".parse().expect("a prefix"), Originated::default())]);
    rib.configure(Ipv4Addr::new(10, 255, 0, 1), &own, &connected, 4);
    let addr = |number: u32| IpAddr::from(Ipv4Addr::from_bits(10 << 24 | number));
    for number in 1..=count {
        let mut peer = peer(100);
        peer.config.remote_as = peer.config.local_as;
        peer.config.client = reflects;
        peer.config.own_only = !reflects;
        peer.agreed.external = false;
        peer.router_id = Ipv4Addr::from_bits(number);
        rib.up(addr(number), peer);
    }
    for number in 1..=count {
        let prefixes = (0..2).map(|block| prefix(Family::Ipv4, number * 2 + block)).collect();
        let IpAddr::V4(next_hop) = addr(number) else { return };
        let reach = vec![Reach { next_hop: NextHop::V4(next_hop), prefixes }];
        let attrs = Some(Attrs { local_pref: Some(100), ..Attrs::default() });
        rib.update(addr(number), Update { attrs, reach, ..Update::default() });
    }
    let what = if reflects { "clients" } else { "neighbours" };
    println!("{count} {what} have said two routes each: {:.1?}", cpu() - begin);
    let mut told = 0;
    for number in 1..=count {
        while rib.has_outgoing(addr(number)) {
            told += rib.outgoing(addr(number), &mut Vec::new(), OUT);
        }
    }
    println!("  and were told all, {told} messages: {:.1?}", cpu() - begin);
    bytes("each", count, resident);
    (1..=count).for_each(|number| rib.down(addr(number), &BTreeSet::new()));
    println!("  and went away: {:.1?}", cpu() - begin);
}

fn line(what: &str, routes: u32, took: Duration) {
    println!("  {what} {took:.1?}: {:.2} M/s", f64::from(routes) / took.as_secs_f64() / 1e6);
}

#[allow(clippy::cast_precision_loss)]
fn bytes(what: &str, routes: u32, before: usize) {
    let bytes = memory().saturating_sub(before) as f64;
    println!("  {what}: {:.1} MB, {:.1} bytes of each", bytes / 1e6, bytes / f64::from(routes));
}

/// What this thread has had of the processor.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Resident, in bytes.
fn memory() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn feed(family: Family, routes: u32, each: u32, agreed: &Agreed) -> Vec<u8> {
    let mut messages = Vec::new();
    let next_hop = match family {
        Family::Ipv4 => NextHop::V4(Ipv4Addr::new(10, 0, 0, 1)),
        Family::Ipv6 => NextHop::V6("fd00::1".parse().expect("an address"), None),
    };
    for first in (0..routes).step_by(each as usize) {
        let group = first / each;
        let attrs = Attrs {
            as_path: AsPath(vec![Segment::Sequence(vec![65001, 3000 + group % 1000, group])]),
            communities: vec![Community(65001 << 16 | group % 100)],
            med: Some(0),
            ..Attrs::default()
        };
        let packer = || Packer::announce(&attrs, next_hop, family, agreed).expect("short");
        let mut message = packer();
        for number in first..(first + each).min(routes) {
            let prefix = prefix(family, number);
            if !message.add(&prefix) {
                std::mem::replace(&mut message, packer()).finish(&mut messages);
                message.add(&prefix);
            }
        }
        message.finish(&mut messages);
    }
    messages
}

/// Scattered, as a real table is.
fn prefix(family: Family, number: u32) -> IpNet {
    let scattered = number.wrapping_mul(0x9e37_79b1) & 0xff_ffff;
    match family {
        Family::Ipv4 => {
            let addr = Ipv4Addr::from_bits((scattered << 7).wrapping_add(11 << 24));
            Ipv4Net::new(addr, 25).expect("25 bits").trunc().into()
        }
        Family::Ipv6 => {
            let addr = Ipv6Addr::from_bits(0x2001 << 112 | u128::from(scattered) << 80);
            Ipv6Net::new(addr, 48).expect("48 bits").trunc().into()
        }
    }
}

fn addr(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn peer(last: u8) -> Peer {
    let pass = Filter { rules: Vec::new(), else_pass: true };
    let config = Neighbour {
        name: format!("peer {last}"),
        local_as: 64512,
        remote_as: 65000 + u32::from(last),
        local_addr: addr(100),
        port: wire::PORT,
        passive: false,
        client: false,
        families: Family::ALL.into(),
        next_hop4: Some(Ipv4Addr::new(10, 0, 0, 100)),
        next_hop6: Some("fd00::100".parse().expect("an address")),
        hold_time: 90,
        graceful_restart: None,
        password: None,
        ttl: Ttl::Any,
        bfd: false,
        routes_max: u32::MAX,
        import: pass.clone(),
        export: pass,
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    };
    let agreed = Agreed {
        four_octet_as: true,
        ipv4: true,
        ipv6: true,
        ipv4_over_ipv6: false,
        external: true,
    };
    Peer { config, router_id: Ipv4Addr::new(10, 0, 0, last), agreed }
}
