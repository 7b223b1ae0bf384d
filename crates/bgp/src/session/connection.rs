//! One TCP connection: its state, its timers, and what waits to be sent on it. Routes do not wait
//! here: they are packed when the socket takes them.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{open::Terms, retry::Retry};
use crate::{
    Conn, Time,
    attrs::Family,
    wire::{self, Agreed, Frames, Message},
};

/// So long it may take until TCP stands.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Until the OPEN has come (RFC 4271, 8.2.2: "a large value").
const OPEN_MAX: Duration = Duration::from_secs(240);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Idle,
    Active,
    Connect,
    OpenSent,
    OpenConfirm,
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Connect => "connect",
            Self::OpenSent => "opensent",
            Self::OpenConfirm => "openconfirm",
            Self::Established => "established",
        })
    }
}

#[derive(Debug)]
pub struct Connection {
    pub conn: Conn,
    /// We made it, not the neighbour.
    pub ours: bool,
    pub state: State,
    /// Since when it is there, and from Established on, since then.
    pub since: Time,
    pub frames: Frames,
    pub terms: Option<Terms>,
    /// Families that it is to be asked for again.
    pub asks: BTreeSet<Family>,
    /// OPEN, KEEPALIVE and NOTIFICATION; at most one of each.
    out: Vec<u8>,
    queued: u64,
    /// The end of whatever we wait for: the connect, the OPEN, a sign of life.
    pub hold_at: Option<Time>,
    pub keepalive_at: Option<Time>,
    /// It does not read: what waits since long before is not taken (RFC 9687).
    pub stuck_at: Option<Time>,
}

impl Connection {
    pub fn connecting(conn: Conn, now: Time) -> Self {
        Self {
            conn,
            ours: true,
            state: State::Connect,
            since: now,
            frames: Frames::default(),
            terms: None,
            asks: BTreeSet::new(),
            out: vec![],
            queued: 0,
            hold_at: Some(now + CONNECT_MAX),
            keepalive_at: None,
            stuck_at: None,
        }
    }

    pub fn accepted(conn: Conn, now: Time) -> Self {
        Self { ours: false, ..Self::connecting(conn, now) }
    }

    pub fn open(&mut self, open: wire::Open, now: Time) {
        self.state = State::OpenSent;
        self.since = now;
        self.hold_at = Some(now + OPEN_MAX);
        self.send(&Message::Open(open));
    }

    /// Its OPEN is taken.
    pub fn confirm(&mut self, terms: Terms, now: Time, retry: &mut Retry) {
        self.state = State::OpenConfirm;
        let hold = hold(&terms);
        self.terms = Some(terms);
        self.hold_at = Some(now + hold.unwrap_or(OPEN_MAX));
        self.send(&Message::Keepalive);
        self.plan_keepalive(now, retry);
    }

    pub fn establish(&mut self, now: Time) {
        self.state = State::Established;
        self.since = now;
        self.heard(now);
    }

    /// A sign of life. Before the session stands it does not prolong the wait.
    pub fn heard(&mut self, now: Time) {
        if self.state == State::Established {
            self.hold_at = self.hold().map(|hold| now + hold);
        }
    }

    /// It is due. While one waits there is no second; if it is not taken for twice the hold time, the
    /// session ends.
    pub fn keepalive(&mut self, now: Time, retry: &mut Retry) {
        if self.out.is_empty() {
            self.send(&Message::Keepalive);
        }
        self.stuck_at = self.stuck_at.or(self.hold().map(|hold| now + hold * 2));
        self.plan_keepalive(now, retry);
    }

    /// Something was sent: the next keepalive is due a third of the hold time later.
    pub fn plan_keepalive(&mut self, now: Time, retry: &mut Retry) {
        self.keepalive_at = self.hold().map(|hold| now + retry.jitter(hold / 3));
    }

    pub fn send(&mut self, message: &Message) {
        wire::write(message, &self.agreed(), &mut self.out);
        self.queued += 1;
    }

    /// Everything that waits, and how many messages that is: it is taken for sent.
    pub fn take_out(&mut self) -> (Vec<u8>, u64) {
        self.stuck_at = None;
        (std::mem::take(&mut self.out), std::mem::take(&mut self.queued))
    }

    pub fn has_out(&self) -> bool {
        !self.out.is_empty() || !self.asks.is_empty()
    }

    pub fn agreed(&self) -> Agreed {
        self.terms.as_ref().map(|terms| terms.agreed.clone()).unwrap_or_default()
    }

    pub fn hold(&self) -> Option<Duration> {
        self.terms.as_ref().and_then(hold)
    }

    pub fn deadline(&self) -> Option<Time> {
        [self.hold_at, self.keepalive_at, self.stuck_at].into_iter().flatten().min()
    }
}

fn hold(terms: &Terms) -> Option<Duration> {
    (terms.hold_time > 0).then(|| Duration::from_secs(terms.hold_time.into()))
}
