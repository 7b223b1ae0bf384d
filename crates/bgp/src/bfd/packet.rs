//! A BFD Control packet (RFC 5880, 4.1), written and read. Whether it is for us is not asked here.

use std::time::Duration;

use super::state::{Diag, State};

pub const LENGTH: usize = 24;
/// With an authentication section, which has at least its type and length.
const LENGTH_AUTHENTICATED: usize = 26;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    pub diag: Diag,
    pub state: State,
    pub poll: bool,
    pub last: bool,
    /// The C bit: the sender's BFD outlives its control plane.
    pub independent: bool,
    pub demand: bool,
    pub multiplier: u8,
    /// The sender's discriminator, and ours as far as it knows it.
    pub mine: u32,
    pub yours: u32,
    pub desired_tx: Duration,
    pub required_rx: Duration,
    pub required_echo: Duration,
}

/// Why a packet is none (RFC 5880, 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Malformed {
    #[error("shorter than a BFD packet")]
    Short,
    #[error("version other than 1")]
    Version,
    #[error("length that can't be")]
    Length,
    #[error("detection multiplier 0")]
    Multiplier,
    #[error("multipoint bit")]
    Multipoint,
    #[error("discriminator 0")]
    Discriminator,
    #[error("authentication, which is not configured")]
    Authentication,
}

impl Control {
    pub fn write(&self) -> [u8; LENGTH] {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = bit(self.poll, POLL)
            | bit(self.last, FINAL)
            | bit(self.independent, INDEPENDENT)
            | bit(self.demand, DEMAND);
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION << 5 | self.diag.code();
        bytes[1] = self.state.code() << 6 | flags;
        bytes[2] = self.multiplier;
        bytes[3] = 24;
        let words = [
            self.mine,
            self.yours,
            micros(self.desired_tx),
            micros(self.required_rx),
            micros(self.required_echo),
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The checks are those of RFC 5880, 6.8.6, as far as they need no session, in its order.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let [first, flags, multiplier, length, ..] = *bytes else { return Err(Malformed::Short) };
        if first >> 5 != VERSION {
            return Err(Malformed::Version);
        }
        let authenticated = flags & AUTHENTICATED != 0;
        let least = if authenticated { LENGTH_AUTHENTICATED } else { LENGTH };
        let length = usize::from(length);
        if length < least || length > bytes.len() {
            return Err(Malformed::Length);
        }
        let word = |at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map_or(0, u32::from_be_bytes)
        };
        let time = |at: usize| Duration::from_micros(word(at).into());
        if multiplier == 0 {
            return Err(Malformed::Multiplier);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        if word(4) == 0 {
            return Err(Malformed::Discriminator);
        }
        if authenticated {
            return Err(Malformed::Authentication);
        }
        Ok(Self {
            diag: Diag::of(first & 0x1f),
            state: State::of(flags >> 6),
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            independent: flags & INDEPENDENT != 0,
            demand: flags & DEMAND != 0,
            multiplier,
            mine: word(4),
            yours: word(8),
            desired_tx: time(12),
            required_rx: time(16),
            required_echo: time(20),
        })
    }
}

/// More than 71 minutes can't be said.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
