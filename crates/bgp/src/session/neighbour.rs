//! The whole of one neighbour, and what happens to it from outside: connections come and go, time
//! passes, BFD speaks, the operator changes its mind.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    connection::{Connection, State},
    end::BFD_BACK,
    links::Links,
    open,
    retry::{Retry, Why},
    words,
};
use crate::{Closed, Conn, Time, attrs::Family, config::Neighbour, rib::Rib};

/// A session older than this is not one of two that were made at the same time: its neighbour has
/// restarted if it sends another OPEN.
const COLLISION: Duration = Duration::from_secs(5);

/// What all sessions share.
pub(crate) struct Context<'a> {
    pub now: Time,
    pub router_id: Ipv4Addr,
    /// This speaker has restarted, and its neighbours' routes are not complete yet.
    pub restarting: bool,
    /// Packets went on being forwarded since the speaker before this one.
    pub preserved: bool,
    pub rib: &'a mut Rib,
    pub links: &'a mut Links,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bfd {
    NeverUp,
    Up,
    Down,
}

pub(crate) struct Session {
    pub(super) addr: IpAddr,
    pub(super) config: Neighbour,
    /// At most three: one that we made, one that it made, and one of these that is established.
    pub(super) conns: Vec<Connection>,
    pub(super) retry: Retry,
    /// Until when routes that it has not said again are kept.
    pub(super) stale: BTreeMap<Family, Time>,
    /// It was we who restarted, or ended the session for a moment.
    pub(super) by_us: bool,
    pub(super) bfd: Bfd,
    /// Until then BFD may be speaking of the session before.
    pub(super) doubt_bfd_until: Time,
    /// It is down, for such a reason, and may come back until then.
    pub(super) bfd_back_by: Option<(Time, String)>,
    pub(super) state: State,
    pub(super) since: Time,
    pub(super) last_error: Option<String>,
    /// That was a NOTIFICATION, and no session stood since: a connection that it merely closes says
    /// less.
    pub(super) quarrel: bool,
    pub(super) faults: u64,
    pub(super) last_fault: Option<String>,
    pub(super) established: u64,
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
}

impl Session {
    /// `stale`: what is kept of its routes from before our restart, and until when.
    pub fn new(addr: IpAddr, config: Neighbour, stale: BTreeMap<Family, Time>, now: Time) -> Self {
        let mut retry = Retry::new(config.local_addr, addr, config.passive);
        retry.at_once(now);
        Self {
            addr,
            config,
            conns: vec![],
            retry,
            by_us: !stale.is_empty(),
            stale,
            bfd: Bfd::NeverUp,
            doubt_bfd_until: Time::ZERO,
            bfd_back_by: None,
            state: State::Active,
            since: now,
            last_error: None,
            quarrel: false,
            faults: 0,
            last_fault: None,
            established: 0,
            messages_in: 0,
            messages_out: 0,
        }
    }

    /// It has connected. None: it is not welcome now.
    pub fn accepted(&mut self, to: IpAddr, cx: &mut Context) -> Option<Conn> {
        if self.retry.idle(cx.now) {
            return None;
        }
        if to != self.config.local_addr {
            self.last_error.replace(words::wrong_address(to, self.config.local_addr));
            return None;
        }
        if self.up().is_some_and(|up| !may_have_restarted(up, cx.now)) {
            return None;
        }
        // It makes one connection at a time: of the older one it knows nothing any more.
        let older = |c: &&Connection| !c.ours && c.state != State::Established;
        if let Some(older) = self.conns.iter().find(older).map(|c| c.conn) {
            self.give_up(older, cx);
        }
        let conn = cx.links.accept(self.addr);
        let mut connection = Connection::accepted(conn, cx.now);
        connection.open(open::ours(&self.config, self.preserved(cx), cx), cx.now);
        self.conns.push(connection);
        if self.up().is_none() {
            self.retry.its_turn(cx.now);
        }
        self.note(cx.now);
        Some(conn)
    }

    pub fn connected(&mut self, conn: Conn, cx: &mut Context) {
        let agreeing = self.conns.iter().any(|c| c.state >= State::OpenConfirm);
        let open = open::ours(&self.config, self.preserved(cx), cx);
        let Some(connection) = self.get(conn).filter(|c| c.state == State::Connect) else {
            return;
        };
        if agreeing {
            // The other one is further: a second OPEN could only be taken for a restart.
            return self.give_up(conn, cx);
        }
        connection.open(open, cx.now);
        self.note(cx.now);
    }

    pub fn closed(&mut self, conn: Conn, why: Closed, cx: &mut Context) {
        let Some(at) = self.conns.iter().position(|c| c.conn == conn) else {
            return;
        };
        let connection = self.conns.remove(at);
        cx.links.ended(conn);
        self.has_closed(&connection, why, cx);
        self.note(cx.now);
    }

    /// BFD's word counts for a session that stands, and from one that was up before: a neighbour need
    /// not have BFD. Where TCP has closed already, the neighbour restarts, and BFD with it: whether it
    /// lives is seen by BFD coming back soon.
    pub fn bfd(&mut self, is: Result<(), String>, cx: &mut Context) {
        let was = std::mem::replace(&mut self.bfd, if is.is_ok() { Bfd::Up } else { Bfd::Down });
        let Err(why) = is else {
            self.bfd_back_by = None;
            return;
        };
        if was == Bfd::NeverUp {
            self.bfd = Bfd::NeverUp;
        }
        let behind = cx.now < std::mem::take(&mut self.doubt_bfd_until);
        if was != Bfd::Up || !self.config.bfd {
            return;
        }
        let up = self.up().is_some();
        if up && !behind {
            self.dead(&why, cx);
        } else if up || self.by_us {
            self.bfd_back_by = Some((cx.now + BFD_BACK, why));
        }
    }

    pub fn tick(&mut self, cx: &mut Context) {
        let due: Vec<_> = self.conns.iter().map(|c| c.conn).collect();
        due.into_iter().for_each(|conn| self.tick_connection(conn, cx));
        let stale = self.stale.iter().filter(|(_, until)| **until <= cx.now);
        let stale: Vec<_> = stale.map(|(family, _)| *family).collect();
        stale.into_iter().for_each(|family| self.sweep(family, cx));
        if let Some((_, why)) = self.bfd_back_by.take_if(|(by, _)| *by <= cx.now) {
            self.dead(&why, cx);
        }
        if self.retry.at.is_some_and(|at| at <= cx.now) {
            self.retry.at = None;
            self.connect(cx);
        }
        self.note(cx.now);
    }

    fn tick_connection(&mut self, conn: Conn, cx: &mut Context) {
        let now = cx.now;
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let Some(at) = self.conns.iter().position(|c| c.conn == conn) else { return };
        let connection = &mut self.conns[at];
        if due(connection.hold_at) {
            return self.heard_nothing(conn, cx);
        }
        if due(connection.stuck_at) {
            return self.reads_nothing(conn, cx);
        }
        if due(connection.keepalive_at) {
            connection.keepalive(now, &mut self.retry);
        }
    }

    fn connect(&mut self, cx: &mut Context) {
        let enough = |c: &Connection| c.ours || c.state >= State::OpenConfirm;
        if self.config.passive || self.conns.iter().any(enough) {
            return;
        }
        let conn = cx.links.connect(self.addr, &self.config);
        self.conns.push(Connection::connecting(conn, cx.now));
    }

    pub fn deadline(&self) -> Option<Time> {
        let conns = self.conns.iter().filter_map(Connection::deadline);
        let bfd = self.bfd_back_by.as_ref().map(|(by, _)| *by);
        conns.chain(self.retry.at).chain(self.stale.values().copied()).chain(bfd).min()
    }

    /// What it is to be from now on.
    pub fn configure(&mut self, config: &Neighbour, cx: &mut Context) {
        if *config == self.config {
            return;
        }
        let old = std::mem::replace(&mut self.config, config.clone());
        if !same_session(&old, config) {
            self.anew(Some(&old), cx);
        } else if self.up().is_none() {
            self.retry.at_once(cx.now);
        } else {
            cx.rib.reconfigure(self.addr, config);
            if old.import != config.import || old.routes_max != config.routes_max {
                self.ask_again(cx);
            }
        }
        self.note(cx.now);
    }

    /// What it said is to be judged anew: by a route refresh where it knows that.
    fn ask_again(&mut self, cx: &mut Context) {
        let Some(up) = self.conns.iter_mut().find(|c| c.state == State::Established) else {
            return;
        };
        match &up.terms {
            Some(terms) if terms.route_refresh => up.asks.clone_from(&terms.families),
            _ => self.anew(None, cx),
        }
    }

    /// Whether its routes that are kept from before our restart are waited for.
    pub fn awaited(&self) -> bool {
        // Two that restart at once would wait for each other (RFC 4724, 4.1).
        let it_waits_too = |up: &Connection| {
            let terms = up.terms.as_ref().and_then(|terms| terms.graceful.as_ref());
            terms.is_some_and(|graceful| graceful.restarted)
        };
        !self.stale.is_empty() && !self.up().is_some_and(it_waits_too)
    }

    pub(super) fn up(&self) -> Option<&Connection> {
        self.conns.iter().find(|c| c.state == State::Established)
    }

    pub(super) fn get(&mut self, conn: Conn) -> Option<&mut Connection> {
        self.conns.iter_mut().find(|c| c.conn == conn)
    }

    fn preserved(&self, cx: &Context) -> bool {
        cx.preserved || self.established > 0
    }

    /// Keeps since when the state is what it is; and that something is always under way.
    pub(super) fn note(&mut self, now: Time) {
        if self.conns.is_empty() && self.retry.at.is_none() && !self.config.passive {
            self.retry.after(Why::Silence, Duration::ZERO, now);
        }
        let idle = if self.retry.idle(now) { State::Idle } else { State::Active };
        let state = self.conns.iter().map(|c| c.state).max().unwrap_or(idle);
        if state != self.state {
            (self.state, self.since) = (state, now);
        }
    }
}

/// RFC 4724, 4.2: another OPEN of a neighbour with graceful restart is the end of the session before.
fn may_have_restarted(up: &Connection, now: Time) -> bool {
    let graceful = up.terms.as_ref().is_some_and(|terms| terms.graceful.is_some());
    graceful && now >= up.since + COLLISION
}

/// True if what has changed concerns what is said, and not the session.
fn same_session(old: &Neighbour, new: &Neighbour) -> bool {
    let session = Neighbour {
        name: old.name.clone(),
        routes_max: old.routes_max,
        import: old.import.clone(),
        export: old.export.clone(),
        communities: old.communities.clone(),
        large_communities: old.large_communities.clone(),
        own_only: old.own_only,
        ..new.clone()
    };
    *old == session
}
