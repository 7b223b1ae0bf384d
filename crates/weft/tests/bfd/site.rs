//! Two hosts and what is between them: a switch, or a router that leaves two hops.

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use weft_linux::{Netns, rig};

/// A condition that does not come within this never comes.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Site {
    pub ours: Netns,
    pub theirs: Netns,
    between: Netns,
    multihop: bool,
}

/// Addresses of us and them.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub ours: IpAddr,
    pub theirs: IpAddr,
}

impl Site {
    pub fn new(multihop: bool) -> Self {
        assert_eq!(std::process::id() / 100, 0, "run in a sandbox (`cargo xtask test`)");
        let [ours, theirs, between] = [(); 3].map(|()| Netns::create().unwrap());
        let site = Self { ours, theirs, between, multihop };
        for (netns, port) in [(&site.ours, "p1"), (&site.theirs, "p2")] {
            rig::pair(netns, "eth0", &site.between, port, 1500).unwrap();
            netns.run(|| rig::up_here("lo")).unwrap().unwrap();
        }
        if multihop {
            site.route()
        } else {
            site.switch()
        }
        site
    }

    fn switch(&self) {
        rig::bridge(&self.between, "br0").unwrap();
        for (netns, port, host) in [(&self.ours, "p1", 1), (&self.theirs, "p2", 2)] {
            rig::port(&self.between, port, "br0").unwrap();
            addr(netns, "eth0", &format!("10.0.0.{host}/24"));
            addr(netns, "eth0", &format!("fd00::{host}/64"));
        }
    }

    fn route(&self) {
        for (netns, port, net) in [(&self.ours, "p1", 1), (&self.theirs, "p2", 2)] {
            addr(netns, "eth0", &format!("10.0.{net}.2/24"));
            addr(netns, "eth0", &format!("fd00:{net}::2/64"));
            addr(&self.between, port, &format!("10.0.{net}.1/24"));
            addr(&self.between, port, &format!("fd00:{net}::1/64"));
            let via = |dst: &str, via: String| {
                rig::route(netns, dst.parse().unwrap(), via.parse().unwrap()).unwrap();
            };
            via("10.0.0.0/16", format!("10.0.{net}.1"));
            via("fd00::/16", format!("fd00:{net}::1"));
        }
        self.forward("1");
    }

    fn forward(&self, yes: &str) {
        for knob in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            rig::sysctl(&self.between, knob, yes).unwrap();
        }
    }

    pub fn ends(&self, ipv6: bool) -> Ends {
        let (ours, theirs) = match (self.multihop, ipv6) {
            (false, false) => ("10.0.0.1", "10.0.0.2"),
            (false, true) => ("fd00::1", "fd00::2"),
            (true, false) => ("10.0.1.2", "10.0.2.2"),
            (true, true) => ("fd00:1::2", "fd00:2::2"),
        };
        Ends { ours: ours.parse().unwrap(), theirs: theirs.parse().unwrap() }
    }

    /// From now on nothing passes between them, and neither's link goes down.
    pub fn cut(&self) -> Instant {
        if self.multihop {
            self.forward("0");
        } else {
            sh(&self.between, "ip link set dev p2 nomaster");
        }
        Instant::now()
    }

    pub fn heal(&self) {
        if self.multihop {
            self.forward("1");
        } else {
            rig::port(&self.between, "p2", "br0").unwrap();
        }
    }
}

fn addr(netns: &Netns, dev: &str, addr: &str) {
    rig::addr(netns, dev, addr.parse().unwrap()).unwrap();
}

pub fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output().unwrap()).unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
