//! What each way of joining two hosts costs, as a ratio to host to host on the same wire. Rivals'
//! ways are set up beside, by the commands that one would type.

pub mod figures;
pub mod hosts;
mod layers;
pub mod meter;
mod ours;
mod plain;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_linux::sandbox;

use super::load::{Load, measure};
use crate::run::{cargo, plugin, step, target};
use figures::Samples;
use hosts::Pair;

#[derive(Args)]
pub struct Paths {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// How often each contender has its turn; one more warms up and is not counted
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Build the path up one layer at a time, too: what each costs a packet
    #[arg(long)]
    layers: bool,
}

pub fn path(paths: &Paths) -> anyhow::Result<()> {
    let plugin = plugin()?;
    step("build weft", cargo().args(["build", "--release", "--package", "weft"]))?;
    let weft = target().join("release/weft");
    meter::prepare();
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    std::fs::create_dir_all("/run/netns")?;
    let mut pairs = vec![hosts::host_to_host()?];
    pairs.push(plain::flannel("vxlan")?);
    pairs.push(plain::flannel("host-gw")?);
    pairs.extend(ours::all(&weft, &plugin)?);
    let contenders = pairs.len();
    if paths.layers {
        pairs.extend(layers::all()?);
    }
    let samples = run(&pairs, paths.rounds)?;
    let mut all = json!({"bench": "path", "rounds": paths.rounds});
    all["figures"] = figures::table(&pairs[..contenders], &samples);
    if paths.layers {
        all["layers"] = layers::table(&pairs, contenders, &samples);
    }
    all["conditions"] = figures::conditions(&pairs, &samples);
    if paths.json {
        println!("{all}");
    }
    Ok(())
}

/// Contenders take turns within each round and load, each round beginning with another.
fn run(pairs: &[Pair], rounds: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for round in 0..=rounds {
        eprintln!("round {round} of {rounds}");
        let first = round * pairs.len() / (rounds + 1);
        for load in Load::ALL {
            for turn in 0..pairs.len() {
                let at = (first + turn) % pairs.len();
                let pair = &pairs[at];
                let taken = measure(load, &pair.from, &pair.to, pair.addr)
                    .with_context(|| format!("{} {}", pair.name, load.name()))?;
                if round > 0 {
                    samples.entry((at, load)).or_default().push(taken);
                }
            }
        }
    }
    Ok(samples)
}
