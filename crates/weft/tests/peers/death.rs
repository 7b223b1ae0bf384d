//! BFD beside graceful restart: a death is noticed at once, a restart costs no packet. Seen through
//! the other router, by a host behind it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use weft_linux::{Netns, rig};

use crate::{peer::*, sessions::*, site::*};

with_frr_and_bird!(
    of_its_link_is_noticed,
    of_ours_is_noticed_by_it,
    is_not_what_a_quick_restart_is,
    is_not_what_a_planned_restart_is,
    is_not_what_its_own_restart_is,
);

/// What BFD's settings promise: 300 ms, three times.
const NOTICED: Duration = Duration::from_secs(1);
/// Longer than BFD needs to notice.
const SLOW: Duration = Duration::from_millis(2500);

pub struct Watched {
    pub site: Site,
    pub world: Netns,
    pub peer: Peer,
    pub ours: Ours,
}

/// BFD and graceful restart on both sides; behind the daemon's router a host, behind ours another.
pub fn watched(kind: Kind) -> Watched {
    watched_by(kind, "", 30, 90)
}

pub fn watched_by(kind: Kind, more: &'static str, restart: u16, hold: u16) -> Watched {
    let (site, mut setup, mut ours) = meeting(kind);
    let (router, world) = (&site.hosts[1], Netns::create().unwrap());
    rig::pair(router, "eth1", &world, "eth0", 1500).unwrap();
    rig::addr(router, "eth1", net("10.9.0.1/24")).unwrap();
    rig::addr(router, "eth1", net("fd00:9::1/64")).unwrap();
    rig::addr(&world, "eth0", net("10.9.0.2/24")).unwrap();
    rig::addr(&world, "eth0", net("fd00:9::2/64")).unwrap();
    for (dst, via) in [("10.1.0.0/16", "10.9.0.1"), ("fd00:1::/64", "fd00:9::1")] {
        rig::route(&world, net(dst), ip(via)).unwrap();
    }
    for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        rig::sysctl(router, &format!("net/{knob}"), "1").unwrap();
    }
    rig::addr(&site.hosts[0], "lo", net("10.1.0.1/32")).unwrap();
    rig::addr(&site.hosts[0], "lo", net("fd00:1::1/128")).unwrap();
    let other = &mut setup.others[0];
    (other.restart, other.bfd, other.hold) = (Some(restart), Some(300), hold);
    other.more = more;
    setup.kernel = true;
    let neighbour = ours.neighbour("10.0.0.2", THEIR_AS);
    neighbour.graceful_restart = Some(Duration::from_secs(restart.into()));
    neighbour.hold_time = hold;
    ours.watch("10.0.0.2");
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let noticed = |ours: &Ours| ours.router().watched()[&ip("10.0.0.2")].detection_ms;
    ours.until("watched", |ours| {
        ours.report("10.0.0.2").bfd.as_deref() == Some("up") && noticed(ours) == 900
    });
    Watched { site, world, peer, ours }
}

impl Watched {
    /// Packets of both families come through, a thousand a second each.
    pub fn load(&self) -> [Load; 2] {
        ["10.1.0.1", "fd00:1::1"].map(|to| Load::start(&self.world, &self.site.hosts[0], to))
    }
}

/// Numbered packets from one host to another.
pub struct Load {
    over: Arc<AtomicBool>,
    sent: JoinHandle<u32>,
    heard: JoinHandle<u32>,
}

impl Load {
    fn start(from: &Netns, to_host: &Netns, to: &str) -> Self {
        let to = SocketAddr::new(ip(to), 9999);
        let ear = to_host.run(|| UdpSocket::bind(to)).unwrap().unwrap();
        ear.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let mouth = from.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        // The way there is known before it counts.
        let mut buffer = [0; 4];
        until("a packet through", || {
            let _ = mouth.send_to(&u32::MAX.to_be_bytes(), to);
            ear.recv(&mut buffer).is_ok()
        });
        let (ends, end) = (over.clone(), over.clone());
        let sent = spawn(move || {
            let (start, mut n) = (Instant::now(), 0);
            while !ends.load(Ordering::Relaxed) {
                // Refused where there is no route: lost.
                let _ = mouth.send_to(&u32::to_be_bytes(n), to);
                n += 1;
                sleep((start + Duration::from_millis(n.into())) - Instant::now());
            }
            n
        });
        let heard = spawn(move || {
            let (mut heard, mut buffer, mut quiet) = (0, [0; 4], 0);
            while quiet < 3 {
                match ear.recv(&mut buffer) {
                    Ok(_) if buffer == u32::MAX.to_be_bytes() => {}
                    Ok(_) => heard += 1,
                    Err(_) if end.load(Ordering::Relaxed) => quiet += 1,
                    Err(_) => {}
                }
            }
            heard
        });
        Self { over, sent, heard }
    }

    /// How many were sent and how many lost.
    pub fn stop(self) -> (u32, u32) {
        self.over.store(true, Ordering::Relaxed);
        let (sent, heard) = (self.sent.join().unwrap(), self.heard.join().unwrap());
        (sent, sent - heard)
    }
}

fn none_lost(load: [Load; 2]) {
    for (load, family) in load.into_iter().zip(["IPv4", "IPv6"]) {
        let (sent, lost) = load.stop();
        eprintln!("{family}: {lost} of {sent} lost");
        assert_eq!(lost, 0, "{family}: of {sent}");
    }
}

fn of_its_link_is_noticed(kind: Kind) {
    let Watched { site, ours, peer: _peer, world: _world } = watched(kind);
    let start = Instant::now();
    site.silence(1);
    while !ours.known().routes.is_empty() {
        assert!(start.elapsed() < NOTICED, "{:?}", start.elapsed());
        sleep(Duration::from_millis(2));
    }
    eprintln!("noticed after {:?}", start.elapsed());
    ours.until("told why", |ours| ours.error("10.0.0.2").contains("BFD"));
}

fn of_ours_is_noticed_by_it(kind: Kind) {
    let Watched { site, peer, ours: _ours, world: _world } = watched(kind);
    let start = Instant::now();
    site.silence(0);
    until("gone", || peer.routes_of(ip("10.0.0.1")).is_empty());
    eprintln!("noticed after {:?}", start.elapsed());
    assert!(start.elapsed() < NOTICED + Duration::from_millis(500), "{:?}", start.elapsed());
}

/// What is lost while we are away.
fn restart(mut all: Watched, end: impl FnOnce(&mut Ours), away: Duration) {
    let load = all.load();
    end(&mut all.ours);
    sleep(away);
    all.ours.begin();
    all.ours.until("settled", |ours| !ours.known().settling && ours.is_up("10.0.0.2"));
    until("told again", || {
        let told = all.peer.routes_of(ip("10.0.0.1"));
        told.len() == 2 && told.values().all(|told| !told.stale)
    });
    sleep(Duration::from_millis(1500));
    none_lost(load);
    assert_eq!(all.ours.prefixes().len(), 2);
}

/// BFD goes on before it is missed.
fn is_not_what_a_quick_restart_is(kind: Kind) {
    restart(watched(kind), Ours::crash, Duration::ZERO);
}

/// BFD asks for patience before.
fn is_not_what_a_planned_restart_is(kind: Kind) {
    restart(watched(kind), |ours| ours.stop(false), SLOW);
}

/// BFD is missed, but not before TCP was closed: for FRR that is a restart.
#[test]
fn is_not_what_a_slow_restart_is_to_frr() {
    restart(watched(Kind::Frr), Ours::crash, SLOW);
}

/// BIRD has to be told so, and then takes a death for a restart too.
#[test]
fn is_not_what_a_slow_restart_is_to_bird_with_bfd_graceful() {
    restart(watched_by(Kind::Bird, "bfd graceful;", 30, 90), Ours::crash, SLOW);
}

/// Its daemon is killed and started again: what we learnt of it stays.
fn is_not_what_its_own_restart_is(kind: Kind) {
    let mut all = watched(kind);
    all.peer.kill();
    all.ours.until("restarting", |ours| ours.report("10.0.0.2").restarting);
    let start = Instant::now();
    while start.elapsed() < SLOW {
        assert_eq!(all.ours.prefixes().len(), 2, "{:?}", all.ours.report("10.0.0.2"));
        sleep(Duration::from_millis(5));
    }
    all.peer.again();
    all.ours.until("back", |ours| {
        assert_eq!(ours.prefixes().len(), 2);
        ours.is_up("10.0.0.2") && ours.known().routes.values().all(|route| !route.stale)
    });
}
