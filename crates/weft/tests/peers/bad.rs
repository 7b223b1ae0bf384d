//! Neighbours that are wrong, hang or lie: each has a clear state and reason, and the session with
//! BIRD, which does nothing wrong, never ends.

use std::time::Duration;

use weft_bgp::{
    attrs::Family,
    config::{Neighbour, Originated, Ttl},
    wire::{Agreed, Capability, Message},
};

use crate::{corpus, peer::*, raw::Raw, sessions::*, site::*};

with_each!(of_another_as_than_agreed);

const RAW: &str = "10.0.0.3";
const RAW_AS: u32 = 65003;

/// With BIRD, and another neighbour that is yet to connect.
struct Beside {
    site: Site,
    ours: Ours,
    bird: Peer,
}

impl Beside {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Neighbour)) -> Self {
        let (site, setup, mut ours) = meeting(Kind::Bird);
        let neighbour = ours.neighbour(RAW, RAW_AS);
        neighbour.passive = true;
        change(neighbour);
        ours.apply();
        let bird = Peer::start(&site.hosts[1], setup);
        both_told(&ours, &bird, "fd00::1", "fd00::2");
        Self { site, ours, bird }
    }

    fn raw(&self) -> Raw {
        Raw::connect(&self.site.hosts[2], RAW, "10.0.0.1")
    }

    fn refused(&self, reason: &str) {
        self.ours.until(reason, |ours| ours.error(RAW).contains(reason));
        assert!(!self.ours.is_up(RAW));
        self.unharmed();
    }

    fn unharmed(&self) {
        assert!(self.ours.is_up("10.0.0.2"));
        assert_eq!(self.ours.report("10.0.0.2").established, 1);
        assert!(self.ours.knows("10.2.0.0/24"));
        assert!(self.bird.routes_of(ip("10.0.0.1")).len() >= 2);
    }
}

fn of_another_as_than_agreed(kind: Kind) {
    let (site, setup, mut ours) = meeting(kind);
    ours.neighbour("10.0.0.2", 65099);
    ours.apply();
    let _peer = Peer::start(&site.hosts[1], setup);
    let says = |ours: &Ours| ours.error("10.0.0.2");
    ours.until("told", |ours| says(ours).contains("65002") && says(ours).contains("65099"));
    assert!(!ours.is_up("10.0.0.2"));
}

#[test]
fn hold_time_of_a_second() {
    let beside = Beside::new();
    let mut raw = beside.raw();
    raw.say(&Message::Open(Raw::open(RAW_AS, 1)));
    let why = raw.last_words().unwrap();
    assert_eq!((why.code, why.subcode), (2, 6));
    beside.refused("Hold Time");
}

#[test]
fn our_own_as_in_its_path() {
    let beside = Beside::new();
    let mut raw = beside.raw();
    raw.establish(RAW_AS, 90);
    raw.announce(&[RAW_AS, OUR_AS, 65009], &["10.3.0.0/24".into()]);
    raw.announce(&[RAW_AS], &["10.4.0.0/24".into()]);
    beside.ours.until("the good one", |ours| ours.knows("10.4.0.0/24"));
    assert!(!beside.ours.knows("10.3.0.0/24"));
    let refused = beside.ours.report(RAW).refused;
    assert_eq!(refused.get("own AS in path"), Some(&1), "{refused:?}");
    assert!(beside.ours.is_up(RAW));
    beside.unharmed();
}

#[test]
fn more_routes_than_it_may_say() {
    let beside = Beside::with(|neighbour| neighbour.routes_max = 2);
    let mut raw = beside.raw();
    raw.establish(RAW_AS, 90);
    raw.announce(&[RAW_AS], &["10.3.0.0/24", "10.4.0.0/24", "10.5.0.0/24"].map(String::from));
    let why = raw.last_words().unwrap();
    assert_eq!((why.code, why.subcode), (6, 1));
    beside.refused("more than 2 routes");
}

#[test]
fn silence_longer_than_the_hold_time() {
    let beside = Beside::new();
    let mut raw = beside.raw();
    raw.establish(RAW_AS, 3);
    let why = raw.last_words().unwrap();
    assert_eq!((why.code, why.subcode), (4, 0));
    beside.refused("nothing was heard of it for 3 s");
}

/// What it does not read waits in no memory of ours, and holds up nobody else.
#[test]
fn one_that_never_reads() {
    const ROUTES: u32 = 30_000;
    let mut beside = Beside::new();
    let mut raw = beside.raw();
    raw.establish(RAW_AS, 3);
    for n in 0..ROUTES {
        let prefix = format!("172.{}.{}.{}/32", 16 + (n >> 16), (n >> 8) & 255, n & 255);
        let own = Originated { med: Some(n), ..Originated::default() };
        beside.ours.desired.config.originated.insert(net(&prefix), own);
    }
    beside.ours.apply();
    let mut says = raw.stream.try_clone().unwrap();
    let alive = std::thread::spawn(move || {
        let mut keepalive = Vec::new();
        weft_bgp::wire::write(&Message::Keepalive, &Agreed::default(), &mut keepalive);
        // Until it is closed.
        while std::io::Write::write_all(&mut says, &keepalive).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let bird = &beside.bird;
    let counted = || crate::bird::ask(bird, &["show", "route", "count", "protocol", "n0"]);
    until("all told to BIRD", || counted().contains("30001 of"));
    beside.ours.until("given up", |ours| ours.error(RAW).contains("it has read nothing"));
    assert_eq!(beside.ours.report("10.0.0.2").established, 1);
    drop(raw.stream.shutdown(std::net::Shutdown::Both));
    alive.join().unwrap();
}

/// Every malformed UPDATE of the codec's corpus, each on a session of its own.
#[test]
fn malformed_updates() {
    let mut beside = Beside::new();
    let cases = corpus::cases();
    assert!(cases.len() > 50 && cases.len() < 240, "{}", cases.len());
    let addr = |n: usize| format!("10.0.0.{}", 10 + n);
    for (n, case) in cases.iter().enumerate() {
        let host = net(&format!("{}/24", addr(n)));
        weft_linux::rig::addr(&beside.site.hosts[2], "eth0", host).unwrap();
        let neighbour = beside.ours.neighbour(&addr(n), OUR_AS);
        neighbour.local_as = if case.external { 65010 } else { OUR_AS };
        (neighbour.passive, neighbour.ttl) = (true, Ttl::Any);
    }
    beside.ours.apply();
    let mut open = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let mut raw = Raw::connect(&beside.site.hosts[2], &addr(n), "10.0.0.1");
        let mut say = Raw::open(OUR_AS, 90);
        say.capabilities.extend(case.ipv4_over_ipv6.then_some(Capability::Ipv4OverIpv6));
        say.capabilities
            .retain(|of| case.four_octet_as || !matches!(of, Capability::FourOctetAs(_)));
        raw.say(&Message::Open(say));
        assert!(matches!(raw.hear(), Some(Message::Open(_))), "{}", case.name);
        raw.say(&Message::Keepalive);
        assert_eq!(raw.hear(), Some(Message::Keepalive), "{}", case.name);
        raw.bytes(&case.message);
        match case.ends() {
            Some(codes) => {
                let why = raw.last_words().unwrap();
                assert_eq!((why.code, why.subcode), codes, "{}: {why}", case.name);
                let named = |ours: &Ours| !ours.error(&addr(n)).is_empty();
                beside.ours.until(&case.name, |ours| named(ours) && !ours.is_up(&addr(n)));
            }
            None => open.push((raw, n, case)),
        }
    }
    // The rest is still established, after whatever they were told.
    for (raw, n, case) in &mut open {
        raw.bytes(&route_refresh());
        let again = |message: Option<Message>| match message {
            Some(Message::Notification(why)) => panic!("{}: {why}", case.name),
            None => panic!("{}: closed", case.name),
            Some(_) => {}
        };
        again(raw.hear());
        beside.ours.until(&case.name, |ours| ours.is_up(&addr(*n)));
    }
    assert!(beside.ours.is_up("10.0.0.2"));
    assert_eq!(beside.ours.report("10.0.0.2").established, 1);
}

fn route_refresh() -> Vec<u8> {
    use weft_bgp::wire::{Refresh, RouteRefresh, write};
    let ask = RouteRefresh { family: Family::Ipv4, kind: Refresh::Request };
    let mut bytes = Vec::new();
    write(&Message::RouteRefresh(ask), &Agreed::default(), &mut bytes);
    bytes
}

/// GTSM: what was forwarded, as its TTL tells, is not heard.
#[test]
fn farther_away_than_it_may_be() {
    let beside = Beside::with(|neighbour| neighbour.ttl = Ttl::Security(0));
    // Sent with 64.
    let mut raw = beside.raw();
    raw.say(&Message::Open(Raw::open(RAW_AS, 90)));
    beside.ours.until("told", |ours| ours.error(RAW).contains("farther away than it may be"));
    assert_eq!(raw.last_words(), None);
    beside.unharmed();
    // Once it stands, what comes from farther away is as if it were not.
    sh(&beside.site.hosts[2], "sysctl -qw net.ipv4.ip_default_ttl=255");
    let mut raw = beside.raw();
    raw.establish(RAW_AS, 3);
    beside.ours.until_up(RAW);
    let far = weft_linux::tcp::Hops { sent: Some(254), least: None };
    weft_linux::tcp::set_hops(&raw.stream, false, far).unwrap();
    raw.announce(&[RAW_AS], &["10.3.0.0/24".into()]);
    beside.refused("nothing was heard of it for 3 s");
    assert!(!beside.ours.knows("10.3.0.0/24"));
}

/// Another daemon on our port: we still connect, say what is wrong, and listen once it is gone.
#[test]
fn another_daemon_on_our_port() {
    let (site, mut setup, mut ours) = meeting(Kind::Bird);
    let taken = site.hosts[0].run(|| weft_linux::tcp::listen(false, 179)).unwrap().unwrap();
    setup.others[0].passive = true;
    ours.neighbour(RAW, RAW_AS).passive = true;
    ours.apply();
    let bird = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &bird, "fd00::1", "fd00::2");
    let said = ours.router().problems().join("\n");
    assert!(said.contains("TCP port 179 (IPv4)") && said.contains("another BGP daemon"), "{said}");
    drop(taken);
    ours.until("without a problem", |ours| ours.router().problems().is_empty());
    let mut raw = Raw::connect(&site.hosts[2], RAW, "10.0.0.1");
    raw.establish(RAW_AS, 90);
    ours.until_up(RAW);
}
