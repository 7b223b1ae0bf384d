//! A switch with hosts on it, and our router on the first of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft::bgp::{Desired, Known, Router};
use weft_bgp::{
    attrs::Family,
    bfd,
    config::{Config, Filter, Neighbour, Originated, Ttl},
    report::NeighbourReport,
};
use weft_linux::{Netns, rig};

pub const OUR_AS: u32 = 65001;
pub const THEIR_AS: u32 = 65002;
/// A condition that does not come within this never comes.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// Hosts 10.0.0.N/24 and fd00::N/64, `eth0` each, on a switch with ports `p1`, `p2`, ….
pub struct Site {
    pub switch: Netns,
    pub hosts: Vec<Netns>,
}

impl Site {
    pub fn new(hosts: usize) -> Self {
        assert_eq!(std::process::id() / 100, 0, "run in a sandbox (`cargo xtask test`)");
        let switch = Netns::create().unwrap();
        rig::bridge(&switch, "br0").unwrap();
        let host = |n: usize| {
            let host = Netns::create().unwrap();
            let port = format!("p{n}");
            rig::pair(&host, "eth0", &switch, &port, 1500).unwrap();
            rig::port(&switch, &port, "br0").unwrap();
            host.run(|| rig::up_here("lo")).unwrap().unwrap();
            rig::addr(&host, "eth0", net(&format!("10.0.0.{n}/24"))).unwrap();
            rig::addr(&host, "eth0", net(&format!("fd00::{n}/64"))).unwrap();
            host
        };
        Self { hosts: (1..=hosts).map(host).collect(), switch }
    }

    /// What the host sends or is sent goes nowhere, and its link stays up.
    pub fn silence(&self, host: usize) {
        sh(&self.switch, &format!("ip link set p{} nomaster", host + 1));
    }

    pub fn heal(&self, host: usize) {
        sh(&self.switch, &format!("ip link set p{} master br0", host + 1));
    }
}

/// Our router.
pub struct Ours {
    netns: Netns,
    keep: PathBuf,
    router: Option<Router>,
    pub desired: Desired,
    /// How often there were news.
    pub news: Arc<AtomicU64>,
}

impl Ours {
    pub fn new(site: &Site) -> Self {
        let config = Config {
            router_id: "10.0.0.1".parse().unwrap(),
            neighbours: BTreeMap::new(),
            originated: BTreeMap::new(),
            connected: vec![net("10.0.0.0/24"), net("fd00::/64")],
            paths_max: 8,
            deferral: Duration::from_secs(20),
        };
        let mut ours = Self {
            netns: site.hosts[0].try_clone().unwrap(),
            keep: "/run/bgp.keep".into(),
            router: None,
            desired: Desired { config, port: weft_bgp::wire::PORT, bfd: BTreeMap::new() },
            news: Arc::default(),
        };
        ours.originate("10.1.0.0/24");
        ours.originate("fd00:1::/112");
        ours.begin();
        ours
    }

    pub fn originate(&mut self, prefix: &str) {
        self.desired.config.originated.insert(net(prefix), Originated::default());
    }

    /// A neighbour to be, as most tests want it.
    pub fn neighbour(&mut self, addr: &str, asn: u32) -> &mut Neighbour {
        let addr = ip(addr);
        let of = neighbour(addr, asn);
        self.desired.config.neighbours.insert(addr, of);
        self.desired.config.neighbours.get_mut(&addr).unwrap()
    }

    pub fn watch(&mut self, addr: &str) {
        let addr = ip(addr);
        self.desired.config.neighbours.get_mut(&addr).unwrap().bfd = true;
        let interval = Duration::from_millis(300);
        let local = if addr.is_ipv6() { ip("fd00::1") } else { ip("10.0.0.1") };
        let settings =
            bfd::Settings { local, interval, multiplier: 3, multihop: false, on_link: false };
        self.desired.bfd.insert(addr, settings);
    }

    /// And waits until all neighbours are known.
    pub fn apply(&self) {
        self.router().configure(self.desired.clone());
        let wanted: BTreeSet<IpAddr> = self.desired.config.neighbours.keys().copied().collect();
        self.until("configured", |ours| {
            let there = ours.router().neighbours();
            there.iter().filter_map(|report| report.addr).collect::<BTreeSet<_>>() == wanted
        });
    }

    pub fn begin(&mut self) {
        let (news, keep) = (self.news.clone(), self.keep.clone());
        let told = Box::new(move || {
            news.fetch_add(1, Ordering::Relaxed);
        });
        self.router = Some(self.netns.run(|| Router::start(keep, told)).unwrap().unwrap());
        self.apply();
    }

    /// Dies without a goodbye.
    pub fn crash(&mut self) {
        drop(self.router.take());
    }

    pub fn stop(&mut self, for_good: bool) {
        self.router.take().unwrap().stop(for_good);
    }

    pub fn router(&self) -> &Router {
        self.router.as_ref().unwrap()
    }

    pub fn report(&self, addr: &str) -> NeighbourReport {
        let all = self.router().neighbours();
        let mut of = all.into_iter().filter(|report| report.addr == Some(ip(addr)));
        of.next().unwrap_or_default()
    }

    pub fn known(&self) -> Arc<Known> {
        self.router().known()
    }

    pub fn error(&self, addr: &str) -> String {
        self.report(addr).last_error.unwrap_or_default()
    }

    pub fn is_up(&self, addr: &str) -> bool {
        self.report(addr).state == "established"
    }

    /// The prefixes learnt.
    pub fn prefixes(&self) -> BTreeSet<String> {
        self.known().routes.keys().map(ToString::to_string).collect()
    }

    pub fn knows(&self, prefix: &str) -> bool {
        self.known().routes.contains_key(&net(prefix))
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "not {what} within {PATIENCE:?}: {:#?} {:#?} {:?}",
                self.router().neighbours(),
                self.known(),
                self.router().problems()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn until_up(&self, addr: &str) {
        self.until(&format!("up with {addr}"), |ours| ours.is_up(addr));
    }
}

pub fn neighbour(addr: IpAddr, asn: u32) -> Neighbour {
    let all = Filter::all();
    Neighbour {
        name: "peer".into(),
        local_as: OUR_AS,
        remote_as: asn,
        local_addr: if addr.is_ipv6() { ip("fd00::1") } else { ip("10.0.0.1") },
        port: 179,
        passive: false,
        client: false,
        families: Family::ALL.into(),
        next_hop4: Some("10.0.0.1".parse().unwrap()),
        next_hop6: Some("fd00::1".parse().unwrap()),
        hold_time: 9,
        graceful_restart: None,
        password: None,
        ttl: if asn == OUR_AS { Ttl::Any } else { Ttl::OneHop },
        bfd: false,
        routes_max: 1_000_000,
        import: all.clone(),
        export: all,
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn sh(netns: &Netns, command: &str) -> String {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-ec", command]);
    let out = netns.run(|| shell.output()).unwrap().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}
