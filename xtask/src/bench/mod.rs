//! Measurements: always side by side in one run, interleaved, as ratios.

mod addresses;
mod bgp;
mod cni;
mod contender;
mod load;
mod path;
mod scale;

use clap::Args;

pub use addresses::{Addresses, addresses};
pub use bgp::{Bgp, bgp};
pub use cni::cni;
pub use path::{Paths, path};
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
