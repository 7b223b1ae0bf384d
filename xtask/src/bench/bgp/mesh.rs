//! Many speakers in one process, on simulated time: what a cluster costs each node, in full mesh and
//! with reflectors.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Map, Value, json};
use weft_bgp::{
    Action, Closed, Conn, Event, Speaker, Time,
    attrs::Family,
    config::{Config, Filter, Neighbour, Originated, Ttl},
};

use crate::bench::resident_kb;

const ASN: u32 = 64512;
const REFLECTORS: u16 = 3;
/// Bytes that are carried at a time, as a socket would take.
const PIECE: usize = 16 * 1024;
/// Simulated time after which nobody may still be unsettled.
const PATIENCE: Time = Duration::from_secs(120);

pub fn simulate(nodes: u16, figures: &mut Map<String, Value>) -> anyhow::Result<()> {
    // The larger last: what the first frees would be counted for nothing.
    for (name, reflectors) in [("reflectors", REFLECTORS), ("mesh", 0)] {
        let before = resident()?;
        let start = Instant::now();
        let mut cluster = Cluster::new(nodes, reflectors);
        cluster.settle()?;
        let seconds = start.elapsed().as_secs_f64();
        let each = (resident()? - before) / f64::from(nodes);
        let messages: u64 = cluster.messages();
        let sessions = cluster.sessions();
        println!(
            "{nodes:>6} nodes  {name:<11} {seconds:>7.2} s, settled after {:.1} s of their time, {sessions} sessions, {messages} messages, {each:.2} MB a node",
            cluster.now.as_secs_f64()
        );
        let key = |of: &str| format!("nodes{nodes}.{name}.{of}");
        figures.insert(key("seconds"), json!(seconds));
        figures.insert(key("messages"), json!(messages));
        figures.insert(key("mb_per_node"), json!(each));
    }
    Ok(())
}

/// One end of a connection.
type End = (usize, Conn);

struct Cluster {
    speakers: Vec<Speaker>,
    /// The far ends of each node's connections.
    conns: Vec<BTreeMap<Conn, End>>,
    now: Time,
    busy: VecDeque<usize>,
    queued: BTreeSet<usize>,
    nodes: u16,
}

fn addr(node: usize) -> IpAddr {
    let host = u32::try_from(node).unwrap_or(u32::MAX - 1) + 1;
    Ipv4Addr::from(0x0a00_0000 + host).into()
}

fn node_of(addr: IpAddr) -> Option<usize> {
    let IpAddr::V4(addr) = addr else { return None };
    usize::try_from(u32::from(addr) - 0x0a00_0001).ok()
}

fn block(node: usize) -> IpNet {
    let third = u32::try_from(node).unwrap_or(0) << 8;
    Ipv4Net::new(Ipv4Addr::from(0x0b00_0000 + third), 24)
        .map_or_else(|_| IpNet::default(), IpNet::V4)
}

fn neighbour(me: usize, other: usize, client: bool) -> Neighbour {
    Neighbour {
        name: format!("node-{other}"),
        local_as: ASN,
        remote_as: ASN,
        local_addr: addr(me),
        port: 179,
        passive: me > other,
        client,
        families: BTreeSet::from([Family::Ipv4]),
        next_hop4: match addr(me) {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        },
        next_hop6: None,
        hold_time: 90,
        graceful_restart: Some(Duration::from_secs(120)),
        password: None,
        ttl: Ttl::Any,
        bfd: true,
        routes_max: 1_000_000,
        import: Filter::all(),
        export: Filter::all(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    }
}

fn config(me: usize, nodes: u16, reflectors: u16) -> Config {
    let reflects = |node: usize| node < usize::from(reflectors);
    let peers = (0..usize::from(nodes)).filter(|other| *other != me);
    let peers = peers.filter(|other| reflectors == 0 || reflects(me) || reflects(*other));
    let neighbours: BTreeMap<IpAddr, Neighbour> = peers
        .map(|other| (addr(other), neighbour(me, other, reflects(me) && !reflects(other))))
        .collect();
    Config {
        router_id: match addr(me) {
            IpAddr::V4(addr) => addr,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        },
        neighbours,
        originated: BTreeMap::from([(block(me), Originated::default())]),
        connected: vec![Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into()],
        paths_max: 8,
        deferral: Duration::from_secs(120),
    }
}

impl Cluster {
    fn new(nodes: u16, reflectors: u16) -> Self {
        let now = Time::ZERO;
        let speakers = (0..usize::from(nodes)).map(|me| {
            let mut speaker = Speaker::new(now);
            speaker.configure(config(me, nodes, reflectors), now);
            speaker
        });
        Self {
            speakers: speakers.collect(),
            conns: vec![BTreeMap::new(); usize::from(nodes)],
            now,
            busy: (0..usize::from(nodes)).collect(),
            queued: (0..usize::from(nodes)).collect(),
            nodes,
        }
    }

    /// Runs until every node knows the block of every other.
    fn settle(&mut self) -> anyhow::Result<()> {
        while !self.settled() {
            self.work();
            if self.settled() {
                break;
            }
            let deadlines = self.speakers.iter().filter_map(Speaker::deadline);
            self.now = deadlines.min().context("nobody waits for anything")?.max(self.now);
            ensure!(self.now < PATIENCE, "not settled");
            for node in 0..self.speakers.len() {
                if self.speakers[node].deadline().is_some_and(|due| due <= self.now) {
                    self.speakers[node].tick(self.now);
                    self.wake(node);
                }
            }
        }
        Ok(())
    }

    fn settled(&self) -> bool {
        self.speakers.iter().all(|speaker| speaker.learnt().len() + 1 == usize::from(self.nodes))
    }

    fn wake(&mut self, node: usize) {
        if self.queued.insert(node) {
            self.busy.push_back(node);
        }
    }

    fn work(&mut self) {
        while let Some(node) = self.busy.pop_front() {
            self.queued.remove(&node);
            while let Some(action) = self.speakers[node].action() {
                match action {
                    Action::Connect { conn, from, to, .. } => {
                        self.connect((node, conn), from, to.ip())
                    }
                    Action::Close(conn) => self.close((node, conn)),
                }
            }
            let mine: Vec<Conn> = self.conns[node].keys().copied().collect();
            for conn in mine {
                self.carry((node, conn));
            }
        }
    }

    fn connect(&mut self, end: End, from: IpAddr, to: IpAddr) {
        let there = node_of(to).filter(|there| *there < self.speakers.len());
        let taken = there.and_then(|there| {
            let event = Event::Accepted { from, to };
            self.speakers[there].handle(event, self.now).map(|conn| (there, conn))
        });
        let event = match taken {
            Some(other) => {
                self.conns[end.0].insert(end.1, other);
                self.conns[other.0].insert(other.1, end);
                self.wake(other.0);
                Event::Connected(end.1)
            }
            None => Event::Closed(end.1, Closed::Broken("refused".into())),
        };
        self.speakers[end.0].handle(event, self.now);
        self.wake(end.0);
    }

    fn carry(&mut self, end: End) {
        while self.speakers[end.0].has_outgoing(end.1) {
            let mut buffer = Vec::new();
            self.speakers[end.0].outgoing(end.1, &mut buffer, PIECE, self.now);
            let Some(other) = self.conns[end.0].get(&end.1).copied() else { return };
            self.speakers[other.0].handle(Event::Bytes(other.1, &buffer), self.now);
            self.wake(other.0);
        }
    }

    fn close(&mut self, end: End) {
        self.carry(end);
        if let Some(other) = self.conns[end.0].remove(&end.1) {
            self.conns[other.0].remove(&other.1);
            self.speakers[other.0].handle(Event::Closed(other.1, Closed::ByPeer), self.now);
            self.wake(other.0);
        }
    }

    fn messages(&self) -> u64 {
        let all = self.speakers.iter().flat_map(|speaker| speaker.neighbours(self.now));
        all.map(|neighbour| neighbour.messages_out).sum()
    }

    fn sessions(&self) -> usize {
        let all = self.speakers.iter().flat_map(|speaker| speaker.neighbours(self.now));
        all.filter(|neighbour| neighbour.state == "established").count() / 2
    }
}

/// Megabytes of this process.
fn resident() -> anyhow::Result<f64> {
    Ok(resident_kb(std::process::id())? / 1000.0)
}
