//! When a neighbour is tried again. One that simply restarted is tried in less than a second; one that
//! stays silent, or that we quarrel with, at intervals that double up to a bound
//! (RFC 4271, 8.1.1: ConnectRetryTimer, IdleHoldTimer and DampPeerOscillations).

use std::{net::IpAddr, time::Duration};

use crate::Time;

const FIRST: Duration = Duration::from_millis(500);
/// Between connects to one that does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between connects to one with which every session ends in an error.
const FAULT_MAX: Duration = Duration::from_secs(120);
/// After an error its own connects are not taken for half of the wait, at most this.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// A session that lasted so long ends a row of silences, …
const STEADY: Duration = Duration::from_secs(10);
/// … and a row of errors.
const SOUND: Duration = Duration::from_secs(60);
/// After more routes than it may say.
pub const TOO_MANY_ROUTES: Duration = Duration::from_secs(600);
/// One that has connected itself has so long until we connect nonetheless.
const ITS_TURN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not answer, has closed, or is dead.
    Silence,
    /// A NOTIFICATION, ours or its.
    Fault,
}

#[derive(Debug)]
pub struct Retry {
    /// None: not planned, because of a connection that is under way or because we never connect.
    pub at: Option<Time>,
    /// Until then it is Idle: its connects are not taken.
    pub idle_until: Time,
    passive: bool,
    /// The side with the lower address waits a little longer, so that two that see each other at the
    /// same time seldom make two connections.
    patience: Duration,
    seed: u64,
    turns: u64,
    silences: u32,
    faults: u32,
}

impl Retry {
    pub fn new(local: IpAddr, remote: IpAddr, passive: bool) -> Self {
        let patience = Duration::from_millis(if local < remote { 250 } else { 0 });
        let seed = hash(number(local) ^ hash(number(remote)));
        let idle_until = Time::ZERO;
        Self { at: None, idle_until, passive, patience, seed, turns: 0, silences: 0, faults: 0 }
    }

    /// As if nothing had been.
    pub fn at_once(&mut self, now: Time) {
        (self.silences, self.faults, self.idle_until) = (0, 0, now);
        self.at = (!self.passive).then_some(now + self.patience);
    }

    pub fn its_turn(&mut self, now: Time) {
        let wait = self.jitter(ITS_TURN);
        self.at = (!self.passive).then_some(now + wait);
    }

    /// A session that lasted so long has ended, or one did not begin.
    pub fn after(&mut self, why: Why, lasted: Duration, now: Time) {
        self.silences = if lasted >= STEADY { 0 } else { self.silences };
        self.faults = if lasted >= SOUND { 0 } else { self.faults };
        let silence = doubled(self.silences, SILENCE_MAX);
        let fault = doubled(self.faults, FAULT_MAX);
        let wait = match why {
            Why::Silence => silence,
            Why::Fault => silence.max(fault),
        };
        match why {
            Why::Silence => self.silences = self.silences.saturating_add(1),
            Why::Fault => {
                self.faults = self.faults.saturating_add(1);
                self.idle_until = now + (wait / 2).min(IDLE_MAX);
            }
        }
        let wait = self.jitter(wait) + self.patience;
        self.at = (!self.passive).then_some(now + wait);
    }

    /// Neither we nor it connect for so long.
    pub fn shut(&mut self, wait: Duration, now: Time) {
        self.idle_until = now + wait;
        self.at = (!self.passive).then_some(now + wait);
    }

    pub fn idle(&self, now: Time) -> bool {
        now < self.idle_until
    }

    /// 75 to 100 % of it (RFC 4271, 10).
    pub fn jitter(&mut self, of: Duration) -> Duration {
        self.turns += 1;
        let part = hash(self.seed ^ self.turns) % 256;
        of * 3 / 4 + of / 1024 * u32::try_from(part).unwrap_or(0)
    }
}

fn doubled(times: u32, most: Duration) -> Duration {
    FIRST.saturating_mul(1 << times.min(16)).min(most)
}

fn number(addr: IpAddr) -> u64 {
    let octets = match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    octets.iter().fold(0, |sum, &octet| hash(sum ^ u64::from(octet)))
}

/// splitmix64: scatters without being random.
fn hash(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
