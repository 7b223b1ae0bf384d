//! What a successor needs to go on with a session where this program left it, as JSON: the other side
//! hears the same discriminators and times as before, and so notices nothing.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Settings, state::State, timing::Pace};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    pub peer: IpAddr,
    pub local: IpAddr,
    pub multihop: bool,
    #[serde(default)]
    pub on_link: bool,
    pub interval: Duration,
    pub multiplier: u8,
    pub discriminator: u32,
    pub source_port: u16,
    pub state: State,
    pub send: Pace,
    pub hear: Pace,
    pub remote: Remote,
}

/// What the other side last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    pub state: State,
    pub discriminator: u32,
    pub desired_tx: Duration,
    pub required_rx: Duration,
    pub multiplier: u8,
    pub demand: bool,
}

impl Default for Remote {
    /// Nothing yet (RFC 5880, 6.8.1).
    fn default() -> Self {
        Self {
            state: State::Down,
            discriminator: 0,
            desired_tx: Duration::ZERO,
            required_rx: Duration::from_micros(1),
            multiplier: 0,
            demand: false,
        }
    }
}

impl Kept {
    pub fn settings(&self) -> Settings {
        Settings {
            local: self.local,
            interval: self.interval,
            multiplier: self.multiplier,
            multihop: self.multihop,
            on_link: self.on_link,
        }
    }

    fn makes_sense(&self) -> bool {
        let complete = self.remote.discriminator != 0 && self.remote.multiplier != 0;
        self.discriminator != 0 && (complete || matches!(self.state, State::Down))
    }
}

pub fn write(sessions: impl Iterator<Item = Kept>) -> Vec<u8> {
    let all: Vec<Kept> = sessions.collect();
    // Numbers, addresses and names alone: nothing of it that JSON could not say.
    serde_json::to_vec_pretty(&all).unwrap_or_default()
}

/// What can't be read is left out: its session begins anew.
pub fn read(bytes: &[u8]) -> Vec<Kept> {
    let all: Vec<serde_json::Value> = serde_json::from_slice(bytes).unwrap_or_default();
    let read = all.into_iter().filter_map(|one| serde_json::from_value(one).ok());
    read.filter(Kept::makes_sense).collect()
}
