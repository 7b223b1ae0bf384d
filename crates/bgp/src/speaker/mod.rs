//! The speaker: all neighbours and all routes of one router. Told what happens, it says what to do.
//! Who drives it owns the sockets and the clock; it owns everything that BGP remembers.
//!
//! `event.rs` is what it is told and what it asks for, `settings.rs` how it becomes what it is told to
//! be, `restart.rs` its own restart, `deadlines.rs` who is due when.

mod deadlines;
mod event;
mod restart;
mod settings;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

pub use event::{Action, Closed, Conn, Event};

use crate::{
    Time,
    report::{Learnt, NeighbourReport},
    rib::Rib,
    session::{Context, Links, Session},
};
use deadlines::Deadlines;
use restart::Restart;

pub struct Speaker {
    router_id: Ipv4Addr,
    sessions: BTreeMap<IpAddr, Session>,
    deadlines: Deadlines,
    rib: Rib,
    links: Links,
    /// Until its neighbours have said their routes again.
    restart: Option<Restart>,
    /// Packets went on being forwarded since the speaker before.
    preserved: bool,
    stopped: bool,
}

impl Speaker {
    /// Knows nobody yet.
    pub fn new(_now: Time) -> Self {
        Self {
            router_id: Ipv4Addr::UNSPECIFIED,
            sessions: BTreeMap::new(),
            deadlines: Deadlines::default(),
            rib: Rib::new(),
            links: Links::default(),
            restart: None,
            preserved: false,
            stopped: false,
        }
    }

    /// One that restarts: `kept` is what an earlier one gave by `keep`. Its routes are taken for
    /// good, as stale ones, until their neighbours have said theirs again or `deferral` is over
    /// (RFC 4724, 4.1). What can't be read is left out.
    pub fn restarted(kept: &[u8], now: Time) -> Self {
        let mut rib = Rib::new();
        let restart = Some(Restart::new(rib.restore(kept)));
        Self { rib, restart, preserved: true, ..Self::new(now) }
    }

    /// Everything that a successor needs to keep forwarding as before: neighbours' routes, in the
    /// form of their UPDATE messages.
    pub fn keep(&self) -> Vec<u8> {
        self.rib.keep()
    }

    /// Answers the number of the connection for `Accepted`.
    pub fn handle(&mut self, event: Event<'_>, now: Time) -> Option<Conn> {
        let addr = self.concerned(&event)?;
        let conn = self.with(addr, now, |session, cx| take(session, event, cx)).flatten();
        self.check_restart(addr, now);
        conn
    }

    fn concerned(&self, event: &Event<'_>) -> Option<IpAddr> {
        match event {
            Event::Connected(conn) | Event::Closed(conn, _) | Event::Bytes(conn, _) => {
                self.links.owner(*conn)
            }
            Event::Accepted { from, .. } if !self.stopped => Some(from.to_canonical()),
            Event::Accepted { .. } => None,
            Event::Bfd(addr, _) => Some(addr.to_canonical()),
        }
    }

    /// Whatever is due by now. To be called at `deadline`, and harmless earlier.
    pub fn tick(&mut self, now: Time) {
        for addr in self.deadlines.due(now) {
            self.with(addr, now, Session::tick);
            self.check_restart(addr, now);
        }
        self.end_deferral(now);
    }

    /// When `tick` is to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let deferral = self.restart.as_ref().and_then(|restart| restart.until);
        self.deadlines.first().into_iter().chain(deferral).min()
    }

    /// What is to be done next; none: nothing for now.
    pub fn action(&mut self) -> Option<Action> {
        self.links.action()
    }

    /// Adds to `buffer`, up to about `most` bytes, what is to be sent on the connection next. Asked
    /// only when the socket takes more, so a neighbour that never reads holds no memory: what is not
    /// yet said to it is packed when it is asked for. What was given is taken for sent.
    pub fn outgoing(&mut self, conn: Conn, buffer: &mut Vec<u8>, most: usize, now: Time) {
        if let Some(last_words) = self.links.last_words(conn) {
            return buffer.extend(last_words);
        }
        if let Some(addr) = self.links.owner(conn) {
            self.with(addr, now, |session, cx| session.outgoing(conn, buffer, most, cx));
        }
    }

    /// True if `outgoing` would give something.
    pub fn has_outgoing(&self, conn: Conn) -> bool {
        let session = self.links.owner(conn).and_then(|addr| self.sessions.get(&addr));
        session.is_some_and(|session| session.has_outgoing(conn, &self.rib))
            || self.links.has_last_words(conn)
    }

    /// Counts up whenever `learnt` would answer differently.
    pub fn version(&self) -> u64 {
        self.rib.version()
    }

    /// The best routes of others, our own aside.
    pub fn learnt(&self) -> Vec<Learnt> {
        self.rib.learnt()
    }

    pub fn neighbours(&self, now: Time) -> Vec<NeighbourReport> {
        self.sessions.values().map(|session| session.report(&self.rib, now)).collect()
    }

    /// Says goodbye: CEASE without graceful restart (`for_good`: our routes are withdrawn at once),
    /// or by simply closing, so that neighbours keep our routes.
    pub fn stop(&mut self, for_good: bool, now: Time) {
        self.stopped = true;
        self.restart = None;
        for addr in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.with(addr, now, |session, cx| session.stop(for_good, cx));
        }
        self.deadlines = Deadlines::default();
    }

    /// Does something to a session, and keeps when it is due next.
    fn with<T>(
        &mut self,
        addr: IpAddr,
        now: Time,
        act: impl FnOnce(&mut Session, &mut Context) -> T,
    ) -> Option<T> {
        let session = self.sessions.get_mut(&addr)?;
        let mut cx = Context {
            now,
            router_id: self.router_id,
            restarting: self.restart.is_some(),
            preserved: self.preserved,
            rib: &mut self.rib,
            links: &mut self.links,
        };
        let outcome = act(session, &mut cx);
        self.deadlines.set(addr, session.deadline());
        Some(outcome)
    }
}

fn take(session: &mut Session, event: Event<'_>, cx: &mut Context) -> Option<Conn> {
    match event {
        Event::Connected(conn) => session.connected(conn, cx),
        Event::Closed(conn, why) => session.closed(conn, why, cx),
        Event::Accepted { to, .. } => return session.accepted(to.to_canonical(), cx),
        Event::Bytes(conn, bytes) => session.bytes(conn, bytes, cx),
        Event::Bfd(_, is) => session.bfd(is, cx),
    }
    None
}
