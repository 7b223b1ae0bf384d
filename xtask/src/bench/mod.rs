//! Measurements: always side by side in one run, interleaved, as ratios.

use clap::Args;

#[derive(Args)]
pub struct Rounds {
    /// Print one JSON object as the last line
    #[arg(long)]
    pub json: bool,
    /// Rounds of each contender
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
}

pub fn cni(_rounds: &Rounds) -> anyhow::Result<()> {
    anyhow::bail!("not measured yet")
}
