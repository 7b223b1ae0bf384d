//! A lease as a pod's record keeps it, and what is to be done about it at a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    exchange::Purpose,
    message::{Ask, Terms},
};
use crate::name::Mac;

/// Between tries at most (RFC 2131, 4.4.5, has it the least): of a short lease not so long.
const PAUSE_MAX: u64 = 60;
/// "Infinity" (RFC 2131, 3.3).
const FOR_EVER: u32 = u32::MAX;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    #[serde(flatten)]
    pub terms: Terms,
    /// When it was asked for: seconds since boot, which its record does not outlive.
    pub since: u64,
    /// Where the server's answers came from: its own MAC address, or its relay's.
    pub via: Mac,
    pub standing: Standing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The server may hold it for us; we have no word that we may use it.
    Offered,
    Held,
    /// The pod may not use it any more, and has it no more.
    Lost(String),
}

/// What time it is for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this, since boot.
    Not(Duration),
    Now(Purpose),
    /// It ran out.
    Expired,
}

impl Lease {
    pub fn is_lost(&self) -> bool {
        matches!(self.standing, Standing::Lost(_))
    }

    /// When it ends, since boot; never, of one for ever.
    pub fn end(&self) -> Option<Duration> {
        (self.terms.time != FOR_EVER).then(|| self.after(self.terms.time))
    }

    fn after(&self, seconds: u32) -> Duration {
        Duration::from_secs(self.since.saturating_add(seconds.into()))
    }

    pub fn due(&self, now: Duration) -> Due {
        let Terms { addr, server, t1, t2, .. } = self.terms;
        if self.is_lost() {
            return Due::Now(Purpose::Regain(addr));
        }
        let Some(end) = self.end() else { return Due::Not(Duration::MAX) };
        match () {
            () if now >= end => Due::Expired,
            () if now < self.after(t1) => Due::Not(self.after(t1)),
            () if now < self.after(t2) => Due::Now(Purpose::Keep(Ask::Renew { addr, server })),
            () => Due::Now(Purpose::Keep(Ask::Rebind { addr })),
        }
    }

    /// When to try again what failed: halfway to where more is at stake, though not all the time.
    pub fn again(&self, now: Duration) -> Duration {
        let pause = Duration::from_secs((u64::from(self.terms.time) / 8).clamp(1, PAUSE_MAX));
        let limits = [Some(self.after(self.terms.t2)), self.end()];
        let limit = limits.into_iter().flatten().find(|limit| *limit > now && !self.is_lost());
        match limit {
            Some(limit) => (now + pause.max(limit.saturating_sub(now) / 2)).min(limit),
            None => now + pause,
        }
    }

    /// Says to the server that it is needed no more.
    pub fn release(&self) -> Ask {
        Ask::Release { addr: self.terms.addr, server: self.terms.server }
    }
}
