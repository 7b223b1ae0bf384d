//! How often a session sends and how often it wants to hear (RFC 5880, 6.8.2, 6.8.3), and the small
//! randomness that keeps sessions from sending all at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is said as desired while a session is not up (6.8.3).
pub const SLOW: Duration = Duration::from_secs(1);
/// No session is asked for more often than this.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// One interval of ours. A change is said at once, but used only once the other side has
/// acknowledged it where using it earlier would let the session expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    pub said: Duration,
    pub used: Duration,
}

impl Pace {
    pub fn new(interval: Duration) -> Self {
        Self { said: interval, used: interval }
    }

    /// Desired Min TX: a longer one waits while the session is up. Returns true if it is a change.
    pub fn send_every(&mut self, interval: Duration, up: bool) -> bool {
        self.change(interval, up && interval > self.used)
    }

    /// Required Min RX: a shorter one waits while the session is up.
    pub fn hear_every(&mut self, interval: Duration, up: bool) -> bool {
        self.change(interval, up && interval < self.used)
    }

    fn change(&mut self, interval: Duration, waits: bool) -> bool {
        if !waits {
            self.used = interval;
        }
        std::mem::replace(&mut self.said, interval) != interval
    }

    pub fn acknowledged(&mut self) {
        self.used = self.said;
    }
}

/// A Poll Sequence (6.5). Only one goes on at a time; what changes meanwhile needs another, since the
/// answer may be to what was said before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Poll {
    #[default]
    Idle,
    Asking,
    AskingThenAgain,
}

impl Poll {
    pub fn begin(&mut self) {
        *self = if *self == Self::Idle { Self::Asking } else { Self::AskingThenAgain };
    }

    /// The other side's Final. Returns true if all that was changed is now known to it.
    pub fn answered(&mut self) -> bool {
        let done = *self == Self::Asking;
        *self = if *self == Self::AskingThenAgain { Self::Asking } else { Self::Idle };
        done
    }
}

/// A sequence of numbers that looks random and is not (splitmix64): what it begins with is the
/// caller's to choose.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: u32, most: u32) -> u32 {
        let span = u64::from(most.saturating_sub(least)) + 1;
        least.saturating_add(u32::try_from(self.roll() % span).unwrap_or(0))
    }

    /// An interval reduced by up to a quarter, and with a multiplier of 1 by a tenth at least, so
    /// that one packet always comes in time (6.8.7).
    pub fn jitter(&mut self, interval: Duration, multiplier: u8) -> Duration {
        let most = if multiplier == 1 { 900 } else { 1000 };
        interval * self.between(750, most) / 1000
    }
}
