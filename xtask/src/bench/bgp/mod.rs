//! BGP beside its rivals: a table of many routes fed by one neighbour to our engine, BIRD and GoBGP, and
//! many speakers in one process, in full mesh and with reflectors.

mod feed;
mod mesh;
mod receivers;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Map, Value, json};
use weft_linux::{Netns, rig, sandbox};

use self::{
    feed::{Feed, Session},
    receivers::Receiver,
};
use crate::run::{cargo, step, target};

#[derive(Args)]
pub struct Bgp {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Numbers of routes that are fed
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    routes: Vec<u32>,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Nodes of the simulated cluster; 0: none is simulated
    #[arg(long, default_value_t = 500)]
    nodes: u16,
}

/// The neighbour that feeds, and the one that is fed.
const FEEDER: &str = "192.0.2.1";
const FED: &str = "192.0.2.2";
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

pub fn bgp(asked: &Bgp) -> anyhow::Result<()> {
    let build = ["build", "--release", "--package", "weft", "--example", "speaker"];
    step("build a speaker that stands alone", cargo().args(build))?;
    let speaker = target().join("release/examples/speaker");
    let mut figures = Map::new();
    if !asked.routes.is_empty() {
        sandbox::enter().context("a benchmark touches no namespace but its own")?;
    }
    for routes in &asked.routes {
        tables(*routes, asked.rounds, &speaker, &mut figures)?;
    }
    if asked.nodes > 0 {
        mesh::simulate(asked.nodes, &mut figures)?;
    }
    if asked.json {
        println!("{}", json!({"bench": "bgp", "rounds": asked.rounds, "figures": figures}));
    }
    Ok(())
}

fn tables(
    routes: u32,
    rounds: usize,
    speaker: &std::path::Path,
    figures: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let feed = Feed::new(routes)?;
    let receivers = Receiver::all(speaker);
    let mut seen: Vec<Vec<[f64; 3]>> = vec![Vec::new(); receivers.len()];
    for round in 0..rounds {
        for (receiver, seen) in receivers.iter().zip(&mut seen) {
            let dir = PathBuf::from(format!("/run/bgp-{routes}-{round}-{}", receiver.name()));
            seen.push(measure(&feed, receiver, &dir)?);
        }
    }
    let median = |of: &[[f64; 3]], at: usize| {
        let mut all: Vec<f64> = of.iter().map(|seen| seen[at]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for (receiver, seen) in receivers.iter().zip(&seen) {
        let [seconds, known, resident] = [0, 1, 2].map(|at| median(seen, at));
        let name = receiver.name();
        println!(
            "{routes:>9} routes  {name:<6} taken in {seconds:>6.2} s, told on in {known:>6.2} s  {resident:>8.1} MB resident, {:>5.0} bytes a route",
            resident * 1e6 / f64::from(routes)
        );
        figures.insert(format!("routes{routes}.{name}.seconds"), json!(seconds));
        figures.insert(format!("routes{routes}.{name}.told_on_seconds"), json!(known));
        figures.insert(format!("routes{routes}.{name}.resident_mb"), json!(resident));
    }
    Ok(())
}

/// Seconds until the receiver says that it has all of them with the best chosen, until it has told on
/// all (ours alone does: written to its file, and given to whoever installs routes), and the megabytes
/// that it then has more than before.
fn measure(feed: &Feed, receiver: &Receiver, dir: &std::path::Path) -> anyhow::Result<[f64; 3]> {
    std::fs::create_dir_all(dir)?;
    let (here, there) = (Netns::create()?, Netns::create()?);
    for netns in [&here, &there] {
        netns.run(|| rig::up_here("lo"))??;
    }
    rig::pair(&here, "wire", &there, "wire", 1500)?;
    rig::addr(&here, "wire", format!("{FEEDER}/24").parse()?)?;
    rig::addr(&there, "wire", format!("{FED}/24").parse()?)?;
    let running = receiver.start(&there, dir)?;
    let mut session = here.run(|| Session::establish(FED, PATIENCE))??;
    let before = running.resident()?;
    let start = Instant::now();
    let sending = std::thread::spawn({
        let bytes = feed.bytes.clone();
        move || session.send(&bytes).map(|()| session)
    });
    while running.routes(&there)? < feed.routes {
        ensure!(start.elapsed() < PATIENCE, "{} did not take all routes", receiver.name());
        std::thread::sleep(LOOK);
    }
    let seconds = start.elapsed().as_secs_f64();
    while !running.knows(feed.routes) {
        ensure!(start.elapsed() < PATIENCE, "{} did not tell all routes", receiver.name());
        std::thread::sleep(LOOK);
    }
    let known = start.elapsed().as_secs_f64();
    let resident = running.resident()? - before;
    let session = sending.join().map_err(|_| anyhow::anyhow!("the feeder died"))??;
    drop(session);
    Ok([seconds, known, resident])
}
