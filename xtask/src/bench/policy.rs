//! What policies cost: packets between two pods of one node whose list has few entries or thousands, and
//! the time until a change is in the kernel. Entries of every kind, and the one that matches in the set
//! that is asked last.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use clap::Args;
use ipnet::{IpNet, Ipv4Net};
use serde_json::{Map, Value, json};
use weft_core::policy::{
    firewall::{Firewall, List, ListName, Open, Ports},
    spec::{Direction, Protocol},
};
use weft_linux::{Netns, PolicyTable, Wanted, sandbox};

use super::{
    load::{Load, Taken, measure},
    path::{figures::median, hosts::sh, meter},
};

/// The pod that sends, and the one that is policed.
const FROM: [u8; 4] = [10, 200, 0, 2];
const TO: [u8; 4] = [10, 200, 1, 2];
const LOADS: [Load; 2] = [Load::Packets, Load::Connects];
/// Changes of one entry that are timed.
const CHANGES: usize = 15;

#[derive(Args)]
pub struct Policy {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// How often each contender has its turn; one more warms up and is not counted
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Numbers of rules
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    rules: Vec<usize>,
}

struct Node {
    name: String,
    pods: [Netns; 2],
    table: PolicyTable,
    entries: Option<BTreeSet<Open>>,
}

pub fn policy(asked: &Policy) -> anyhow::Result<()> {
    meter::prepare();
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    std::fs::create_dir_all("/run/netns")?;
    // What all are compared with is first: a pod under policies that has no rule but the one that opens.
    let mut nodes = vec![Node::new("0 rules", Some(0))?, Node::new("no policy", None)?];
    for rules in &asked.rules {
        nodes.push(Node::new(&format!("{rules} rules"), Some(*rules))?);
    }
    let times: Vec<Value> = nodes.iter_mut().map(Node::write).collect::<anyhow::Result<_>>()?;
    let figures = figures(&nodes, &run(&nodes, asked.rounds)?, &times);
    if asked.json {
        println!("{}", json!({"bench": "policy", "rounds": asked.rounds, "figures": figures}));
    }
    Ok(())
}

impl Node {
    fn new(name: &str, rules: Option<usize>) -> anyhow::Result<Self> {
        let node = Netns::create()?;
        let pods = [Netns::create()?, Netns::create()?];
        sh(&node, "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1")?;
        for (pod, [a, b, c, d]) in pods.iter().zip([FROM, TO]) {
            let path = std::path::PathBuf::from("/run/netns/bench-pod");
            pod.bind(&path)?;
            sh(
                &node,
                &format!(
                    "ip link add p{c} type veth peer name eth0 netns bench-pod; ip link set p{c} up; \
                     ip addr add {a}.{b}.{c}.1/24 dev p{c}"
                ),
            )?;
            sh(
                pod,
                &format!(
                    "ip link set lo up; ip link set eth0 up; ip addr add {a}.{b}.{c}.{d}/24 dev eth0; \
                     ip route add default via {a}.{b}.{c}.1"
                ),
            )?;
            nix::mount::umount(&path)?;
        }
        let table = PolicyTable::of(&node)?;
        Ok(Self { name: name.into(), pods, table, entries: rules.map(entries) })
    }

    fn firewall(&self, entries: &BTreeSet<Open>) -> Firewall {
        let list = Arc::new(List { entries: entries.clone() });
        let pod = (Direction::Ingress, IpAddr::from(TO));
        Firewall { lists: [(ListName(1), list)].into(), pods: BTreeMap::from([(pod, ListName(1))]) }
    }

    /// All of it at once, then single entries more and less.
    fn write(&mut self) -> anyhow::Result<Value> {
        let Some(entries) = self.entries.clone() else { return Ok(Value::Null) };
        let mut time = |entries: &BTreeSet<Open>| -> anyhow::Result<f64> {
            let firewall = self.firewall(entries);
            let start = Instant::now();
            self.table.write(Wanted::Node(firewall))?;
            Ok(start.elapsed().as_secs_f64() * 1e3)
        };
        let all = time(&entries)?;
        let mut kinds = [Vec::new(), Vec::new()];
        for change in 0..CHANGES {
            for (times, peer) in kinds.iter_mut().zip(["172.16.0.1/32", "172.17.0.0/16"]) {
                let mut more = entries.clone();
                more.insert(Open { peer: Some(peer.parse()?), ports: tcp(7000, 7010 + change) });
                times.push(time(&more)?);
                times.push(time(&entries)?);
            }
        }
        let [peer, range] = kinds.map(|times| median(times.into_iter()));
        Ok(json!({"all_ms": all, "one_peer_ms": peer, "one_range_ms": range}))
    }
}

fn tcp(first: u16, last: usize) -> Option<Ports> {
    let last = u16::try_from(last).unwrap_or(u16::MAX);
    Some(Ports { protocol: Protocol::Tcp, first, last })
}

/// A quarter each of peers, peers with a port, prefixes, and prefixes with ports.
fn entries(rules: usize) -> BTreeSet<Open> {
    let addr = |net: u8, n: usize| {
        let [.., a, b] = n.to_be_bytes();
        Ipv4Addr::new(10, net, a, b)
    };
    let single = |net, n| Some(IpAddr::from(addr(net, n)).into());
    let prefix = |net, n: usize| Ipv4Net::new(addr(net, n * 4), 30).ok().map(IpNet::from);
    let kind = |n: usize| match n % 4 {
        0 => Open { peer: single(1, n), ports: None },
        1 => Open { peer: single(2, n), ports: tcp(80, 80) },
        2 => Open { peer: prefix(3, n), ports: None },
        _ => Open { peer: prefix(4, n), ports: tcp(8000, 8000 + n % 100) },
    };
    let opens = [Protocol::Tcp, Protocol::Udp].map(|protocol| Open {
        peer: Ipv4Net::new(FROM.into(), 24).ok().map(|net| net.trunc().into()),
        ports: Some(Ports { protocol, first: 1, last: u16::MAX }),
    });
    (0..rules).map(kind).chain(opens).collect()
}

type Samples = BTreeMap<(usize, Load), Vec<Taken>>;

/// Contenders take turns within each round and load, each round beginning with another.
fn run(nodes: &[Node], rounds: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::new();
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        for load in LOADS {
            for turn in 0..nodes.len() {
                let at = (round + turn) % nodes.len();
                let Node { name, pods: [from, to], .. } = &nodes[at];
                let taken = measure(load, from, to, TO.into())
                    .with_context(|| format!("{name} {}", load.name()))?;
                if round > 0 {
                    samples.entry((at, load)).or_default().push(taken);
                }
            }
        }
    }
    Ok(samples)
}

fn figures(nodes: &[Node], samples: &Samples, times: &[Value]) -> Value {
    let mut figures = Map::new();
    println!(
        "{:<12} {:>24} {:>24} {:>12} {:>14} {:>14}",
        "",
        "ns a packet (ratio)",
        "ns a connection (ratio)",
        "all, ms",
        "one peer, ms",
        "one range, ms"
    );
    for (at, node) in nodes.iter().enumerate() {
        let mut row = json!({"apply": times[at]});
        let mut line = format!("{:<12}", node.name);
        for load in LOADS {
            let of = |at: usize| samples[&(at, load)].iter().map(|taken| taken.cost);
            let ratios: Vec<f64> = of(at).zip(of(0)).map(|(one, floor)| one / floor).collect();
            let (cost, ratio) = (median(of(at)), median(ratios.iter().copied()));
            let pick = |pick: fn(f64, f64) -> f64| ratios.iter().copied().fold(f64::NAN, pick);
            let spread = [pick(f64::min), pick(f64::max)];
            row[load.name()] = json!({"ns": cost, "ratio": ratio, "spread": spread});
            line += &format!(" {:>24}", format!("{cost:.0} ({ratio:.2})"));
        }
        for (what, width) in [("all_ms", 12), ("one_peer_ms", 14), ("one_range_ms", 14)] {
            let text = times[at][what].as_f64().map_or("-".into(), |ms| format!("{ms:.2}"));
            line += &format!(" {text:>width$}");
        }
        println!("{line}");
        figures.insert(node.name.replace(' ', "_"), row);
    }
    Value::Object(figures)
}
