//! One agent given thousands of peers by the store, beside the bare netlink work for as many.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use weft_core::{
    name::{IfName, Mac, Mtu},
    plan::plan,
    state::{Hop, Kind, Link, Object, Route, State},
    view::View,
};
use weft_linux::{Kernel, Netns, rig, sandbox};

use super::contender::{Agent, ask, nic, start_agent};
use crate::run::{cargo, step, target};

#[derive(Args)]
pub struct Scale {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Numbers of peers
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    peers: Vec<u16>,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(5);

pub fn scale(scale: &Scale) -> anyhow::Result<()> {
    step("build weft", cargo().args(["build", "--release", "--package", "weft"]))?;
    let weft = target().join("release/weft");
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    nic()?;
    let mut figures = Map::new();
    for peers in &scale.peers {
        let mut all: Vec<[f64; 7]> = Vec::new();
        for round in 0..scale.rounds {
            let dir = PathBuf::from(format!("/run/scale-{peers}-{round}"));
            all.push(measure(&weft, &dir, *peers)?);
        }
        let names = [
            "floor_ms",
            "read_ms",
            "program_ms",
            "ratio_to_floor",
            "one_change_ms",
            "change_of_join_ms",
            "resident_mb",
        ];
        for (at, name) in names.into_iter().enumerate() {
            let mut values: Vec<f64> = all.iter().map(|round| round[at]).collect();
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            println!("{peers:>6} peers  {name:<18} {median:>10.1}");
            figures.insert(format!("peers{peers}.{name}"), json!(median));
        }
    }
    if scale.json {
        println!("{}", json!({"bench": "scale", "rounds": scale.rounds, "figures": figures}));
    }
    Ok(())
}

fn measure(weft: &Path, dir: &Path, peers: u16) -> anyhow::Result<[f64; 7]> {
    let floor = floor(peers)?;
    let agent = start_agent(weft, dir, &json!({"ranges": ["10.0.0.0/8"], "default": true}))?;
    let kernel = Kernel::here()?;
    until(|| Ok(kernel.link_exists(&IfName::new("weftx4-1"))?))?;
    kernel.observe_node(&[])?;
    // The agent is stopped while the records are written, so that it meets them all at once.
    agent.stop()?;
    let nodes = dir.join("store/nodes");
    for n in 0..peers {
        fs::write(
            nodes.join(format!("peer-{n}")),
            format!("{}\n{}", 1000 + u32::from(n), record(n, n)),
        )?;
    }
    fs::write(dir.join("store/.revision"), (1000 + u32::from(peers)).to_string())?;
    let read = read(&nodes)?;
    let start = Instant::now();
    agent.go_on()?;
    let mut done = 0;
    until(|| Ok(all_by(&kernel, "weftx4-1", peers, &mut done)))?;
    let program = millis(start);
    until(|| Ok(ask(weft, dir, &["plan"])))?;
    // One peer's block moves.
    let (moved, revision) = (30_000, 2000 + u32::from(peers));
    let start = Instant::now();
    let tmp = dir.join("store/.bench");
    fs::write(&tmp, format!("{revision}\n{}", record(0, moved)))?;
    fs::rename(&tmp, nodes.join("peer-0"))?;
    let target = [IpAddr::from(pod(moved))];
    until(|| {
        Ok(kernel.route_to(&target)[0]
            .as_ref()
            .is_some_and(|to| to.gateway.is_some() && to.dev.is_ours()))
    })?;
    let one = millis(start);
    let start = Instant::now();
    if !ask(weft, dir, &["network", "join", "default", "host-gw"]) {
        bail!("the change of join was refused");
    }
    // The first is elsewhere now.
    let mut done = 1;
    until(|| Ok(all_by(&kernel, "eth0", peers, &mut done)))?;
    let join = millis(start);
    // What it keeps is the question, not what the burst needed for a moment.
    std::thread::sleep(SETTLE);
    let resident = agent.resident_mb()?;
    drop(agent);
    clear(&kernel)?;
    Ok([floor, read, program, program / floor, one, join, resident])
}

/// The other part of what is measured: the records read from their files into a view, and no more.
fn read(nodes: &Path) -> anyhow::Result<f64> {
    let (start, mut view) = (Instant::now(), View::default());
    for entry in fs::read_dir(nodes)? {
        let text = fs::read_to_string(entry?.path())?;
        let (revision, record) = text.split_once('\n').context("a record without a revision")?;
        let node = view.nodes.len();
        view.put(&format!("nodes/peer-{node}"), record.as_bytes(), revision.parse()?);
    }
    Ok(millis(start))
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Polls; what is polled costs a little, and counts against us.
fn until(mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > end {
            bail!("not done within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// True if the routes to all peers leave by `dev`. Those of the first `done` were seen to: each is
/// asked for once, so that what is measured is not held up by being watched.
fn all_by(kernel: &Kernel, dev: &str, peers: u16, done: &mut u16) -> bool {
    const ASKED: u16 = 128;
    while *done < peers {
        let some: Vec<IpAddr> = (*done..peers.min(*done + ASKED)).map(|n| pod(n).into()).collect();
        let ways = kernel.route_to(&some);
        let by =
            ways.iter().take_while(|way| way.as_ref().is_some_and(|to| to.dev.as_str() == dev));
        let there = u16::try_from(by.count()).unwrap_or(0);
        *done += there;
        if usize::from(there) < some.len() {
            return false;
        }
    }
    true
}

fn clear(kernel: &Kernel) -> anyhow::Result<()> {
    let changes = plan(&State::default(), &kernel.observe_node(&[])?.ours);
    match kernel.apply(&changes).first() {
        Some(refusal) => bail!("{refusal}"),
        None => Ok(()),
    }
}

pub(super) fn block(n: u16) -> Ipv4Addr {
    let [a, b] = n.to_be_bytes();
    Ipv4Addr::new(10, 64 + a, b, 0)
}
fn pod(n: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block(n)) + 9)
}
fn underlay(n: u16) -> Ipv4Addr {
    let [a, b] = n.to_be_bytes();
    Ipv4Addr::new(100, 64 + a, b, 1)
}

/// What a node would publish: it can be reached both ways.
pub(super) fn record(n: u16, at: u16) -> Value {
    let underlay = underlay(n);
    json!({
        "schema": 1, "boot": "bench", "version": "0", "underlay": [underlay], "mtu": 1500,
        "networks": {"default": {
            "blocks": [format!("{}/24", block(at))],
            "receives": [
                {"way": "direct", "underlay": underlay},
                {"way": "vxlan", "underlay": underlay, "vni": 1, "port": 4789, "mac": mac(n)},
            ],
            "send": 1450, "accept": 1500,
        }},
    })
}

fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([2, 0, 0, 1, a, b])
}

/// The bare work: neighbour, FDB entry, nexthop and route of each peer, in a namespace of its own.
fn floor(peers: u16) -> anyhow::Result<f64> {
    let took = Netns::create()?.run(|| -> anyhow::Result<f64> {
        rig::up_here("lo")?;
        let kernel = Kernel::here()?;
        let dev = IfName::new("weftx4-1");
        let local = Ipv4Addr::LOCALHOST.into();
        let kind = Kind::Vxlan { vni: 1.try_into()?, port: 4789, local };
        let link =
            Link { dev: dev.clone(), kind, mtu: Mtu::ETHERNET, mac: Mac([2; 6]), master: None };
        let device: State =
            [Object::Link(link), Object::Up { dev: dev.clone() }].into_iter().collect();
        kernel.apply(&plan(&device, &State::default()));
        let mut wanted = device.clone();
        for n in 0..peers {
            let via = IpAddr::from(block(n));
            wanted.extend([
                Object::Neigh { dev: dev.clone(), ip: via, mac: mac(n) },
                Object::Fdb { dev: dev.clone(), mac: mac(n), dst: underlay(n).into() },
                Object::NextHop { dev: dev.clone(), via },
                Object::Route(Route {
                    dst: IpNet::new(via, 24)?,
                    to: Hop::NextHop(dev.clone(), via),
                    mtu: None,
                }),
            ]);
        }
        let changes = plan(&wanted, &device);
        let start = Instant::now();
        let refusals = kernel.apply(&changes);
        let took = millis(start);
        refusals.first().map_or(Ok(took), |refusal| bail!("{refusal}"))
    })??;
    Ok(took)
}

impl Agent {
    fn stop(&self) -> anyhow::Result<()> {
        self.signal(nix::sys::signal::Signal::SIGSTOP)
    }
    fn go_on(&self) -> anyhow::Result<()> {
        self.signal(nix::sys::signal::Signal::SIGCONT)
    }
    fn resident_mb(&self) -> anyhow::Result<f64> {
        Ok(super::resident_kb(self.id())? / 1024.0)
    }
}
