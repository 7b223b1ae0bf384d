//! A large table told by one neighbour: how long it takes until all of it is learnt, and what that
//! costs, for weft's router, BIRD and GoBGP. The same bytes for all three, one after the other.

mod feeder;
mod receiver;

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, json};
use weft_linux::{Netns, rig, sandbox};

use crate::run::{cargo, find, step, target};
use feeder::Feeder;
use receiver::{Kind, Receiver};

#[derive(Args)]
pub struct Bgp {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Numbers of routes
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    routes: Vec<u32>,
    /// How often each is measured; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

const PATIENCE: Duration = Duration::from_secs(300);
/// What it keeps is the question, not what the burst needed for a moment.
const SETTLE: Duration = Duration::from_secs(3);
const FIGURES: [&str; 4] = ["seconds", "cpu_seconds", "resident_mb", "resident_peak_mb"];

pub fn bgp(bgp: &Bgp) -> anyhow::Result<()> {
    let example = ["build", "--release", "--package", "weft", "--example", "bgp-receiver"];
    step("build a router alone", cargo().args(example))?;
    find("gobgpd").context("apt-get install gobgpd bird2")?;
    let ours = target().join("release/examples/bgp-receiver");
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    let mut figures = Map::new();
    for &routes in &bgp.routes {
        let feed = feeder::updates(routes)?;
        println!("\n{routes} routes, {} MB of UPDATEs", feed.len() / 1_000_000);
        let mut all = Kind::ALL.map(|_| Vec::new());
        for round in 0..bgp.rounds {
            for (kind, of) in Kind::ALL.into_iter().zip(&mut all) {
                let dir = PathBuf::from(format!("/run/bgp-{routes}-{round}-{kind:?}"));
                of.push(measure(kind, &ours, &dir, routes, &feed)?);
            }
        }
        for (kind, of) in Kind::ALL.into_iter().zip(&all) {
            for (at, figure) in FIGURES.into_iter().enumerate() {
                let median = median(of.iter().map(|round| round[at]).collect());
                println!("{:<6} {figure:<18} {median:>9.2}", kind.name());
                figures.insert(format!("{routes}.{}.{figure}", kind.name()), json!(median));
            }
        }
    }
    if bgp.json {
        println!("{}", json!({"bench": "bgp", "rounds": bgp.rounds, "figures": figures}));
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure(
    kind: Kind,
    ours: &Path,
    dir: &Path,
    routes: u32,
    feed: &[u8],
) -> anyhow::Result<[f64; 4]> {
    fs::create_dir_all(dir)?;
    let (here, there) = (Netns::create()?, Netns::create()?);
    rig::pair(&here, "eth0", &there, "eth0", 1500)?;
    rig::addr(&here, "eth0", format!("{}/24", feeder::ADDR).parse()?)?;
    rig::addr(&there, "eth0", format!("{}/24", receiver::ADDR).parse()?)?;
    let mut receiver = Receiver::start(kind, ours, &there, dir, routes)?;
    let feeder = Feeder::connect(&here)?;
    let start = Instant::now();
    let feeding = feeder.say(feed);
    until(|| receiver.has_all(routes))?;
    let seconds = start.elapsed().as_secs_f64();
    sleep(SETTLE);
    let costs = receiver.costs()?;
    drop((receiver, feeding));
    let [cpu, resident, peak] = costs;
    println!("  {:<6} {seconds:>7.2} s, CPU {cpu:.2} s, {resident:.0} MB", kind.name());
    Ok([seconds, cpu, resident, peak])
}

fn until(mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > end {
            bail!("not done within {} s", PATIENCE.as_secs());
        }
        // What is asked costs whom is asked a little.
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
