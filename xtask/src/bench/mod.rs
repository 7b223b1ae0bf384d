//! Measurements: always side by side in one run, interleaved, as ratios.

mod addresses;
mod bgp;
mod cluster;
mod cni;
mod contender;
mod cri;
mod load;
mod path;
mod policy;
mod scale;

use anyhow::Context;
use clap::Args;

pub use addresses::{Addresses, addresses};
pub use bgp::{Bgp, bgp};
pub use cluster::{Cluster, cluster};
pub use cni::cni;
pub use cri::cri;
pub use path::{Paths, path};
pub use policy::{Policy, policy};
pub use scale::{Scale, scale};

#[derive(Args)]
pub struct Rounds {
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
    /// How often each contender has its turn, with each number of pods present
    #[arg(long = "rounds", default_value_t = 5)]
    pub turns: u32,
    /// Numbers of pods present
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 500])]
    pub present: Vec<usize>,
}

/// Kilobytes (of 1,024 bytes) of memory that a process has to itself or shares; an error once it has ended.
fn resident_kb(pid: u32) -> anyhow::Result<f64> {
    memory_kb(pid, "VmRSS:")
}

/// The most that it ever had.
fn resident_most_kb(pid: u32) -> anyhow::Result<f64> {
    memory_kb(pid, "VmHWM:")
}

fn memory_kb(pid: u32, which: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(which));
    let line = line.with_context(|| format!("{which} it has ended"))?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}
