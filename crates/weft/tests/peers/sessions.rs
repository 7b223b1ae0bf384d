use crate::{peer::*, site::*};

fn pair(a: Kind, b: Kind) {
    let site = Site::new(2);
    let mk = |kind, addr: &str, asn, o: &str, oasn, routes: &[&str]| Setup {
        kind, asn, addr: ip(addr), others: vec![Other { restart: Some(20), ..Other::new(o, oasn)}],
        routes: routes.iter().map(|r| net(r)).collect(), kernel: false };
    let mut x = Peer::start(&site.hosts[0], mk(a, "10.0.0.1", 65001, "10.0.0.2", 65002, &["10.1.0.0/24", "fd00:1::/112"]));
    let mut y = Peer::start(&site.hosts[1], mk(b, "10.0.0.2", 65002, "10.0.0.1", 65001, &["10.2.0.0/24", "fd00:2::/112"]));
    let t = std::time::Instant::now();
    until("told", || { y.routes_of(ip("10.0.0.1")).len() == 2});
    until("told", || { x.routes_of(ip("10.0.0.2")).len() == 2});
    eprintln!("{:?} {:?} {:?}", t.elapsed(), x.routes_of(ip("10.0.0.2")), y.routes_of(ip("10.0.0.1")));
    x.announce("10.9.0.0/24");
    until("told", || { y.routes_of(ip("10.0.0.1")).len() == 3});
    x.withdraw("10.9.0.0/24");
    until("untold", || { y.routes_of(ip("10.0.0.1")).len() == 2});
    x.refresh(ip("10.0.0.2"));
    x.kill();
    std::thread::sleep(std::time::Duration::from_secs(1));
    eprintln!("{:?} {:?}", t.elapsed(), y.routes_of(ip("10.0.0.1")));
    x.again();
    let t = std::time::Instant::now();
    until("fresh", || { let a = y.routes_of(ip("10.0.0.1")); a.len() == 2 && a.values().all(|t| !t.stale)});
    eprintln!("{:?} {:?}", t.elapsed(), y.routes_of(ip("10.0.0.1")));
    x.kill(); y.kill();
    x.children.clear(); y.children.clear();
    eprintln!("{}", y.log());
}
#[test] fn fb() { pair(Kind::Frr, Kind::Bird) }
#[test] fn bg() { pair(Kind::Bird, Kind::Gobgp) }
#[test] fn gf() { pair(Kind::Gobgp, Kind::Frr) }
