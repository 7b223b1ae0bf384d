//! What its bytes do: cut into messages, each judged by the state it comes in (RFC 4271, 8.2.2).

use std::time::Duration;

use super::{
    connection::{Connection, State},
    end::{BFD_BEHIND, notification},
    neighbour::{Context, Session},
    open::{self, Terms},
};
use crate::{
    Conn,
    attrs::Family,
    rib,
    wire::{self, Message, Open, Refresh, RouteRefresh, Update, code},
};

/// So long after a session's beginning, or BoRR, what was not said again goes, though its end was not
/// said either.
const STALE_MAX: Duration = Duration::from_secs(360);

impl Session {
    pub fn bytes(&mut self, conn: Conn, bytes: &[u8], cx: &mut Context) {
        if let Some(connection) = self.get(conn).filter(|c| c.state > State::Connect) {
            connection.frames.push(bytes);
        }
        // Any message may be the connection's end.
        while let Some(connection) = self.get(conn) {
            match connection.frames.cut() {
                Ok(None) => break,
                Ok(Some(message)) => self.message(conn, &message, cx),
                Err(why) => {
                    let words = format!("what it sent is no BGP: {why}");
                    self.fail(conn, why, words, cx);
                }
            }
        }
        self.note(cx.now);
    }

    fn message(&mut self, conn: Conn, message: &[u8], cx: &mut Context) {
        self.messages_in += 1;
        let Some(connection) = self.get(conn) else { return };
        if let Some(subcode) = out_of_turn(connection.state, kind(message)) {
            let state = connection.state;
            let words = format!("it sent {} in state {state}", name(kind(message)));
            return self.fail(conn, notification(code::STATE_MACHINE, subcode), words, cx);
        }
        connection.heard(cx.now);
        match wire::read(message, &connection.agreed()) {
            Ok(Some(message)) => self.take(conn, message, cx),
            Ok(None) => {}
            Err(why) => {
                let words = format!("its {} was wrong: {why}", name(kind(message)));
                self.fail(conn, why, words, cx);
            }
        }
    }

    fn take(&mut self, conn: Conn, message: Message, cx: &mut Context) {
        match message {
            Message::Open(open) => self.opened(conn, &open, cx),
            Message::Keepalive => self.confirmed(conn, cx),
            Message::Update(update) => self.update(conn, update, cx),
            Message::RouteRefresh(refresh) => self.refresh(conn, refresh, cx),
            Message::Notification(why) => self.notified(conn, &why, cx),
        }
    }

    fn opened(&mut self, conn: Conn, open: &Open, cx: &mut Context) {
        let terms = match open::judge(&self.config, cx.router_id, open) {
            Ok(terms) => terms,
            Err(refusal) => return self.fail(conn, refusal.notification, refusal.words, cx),
        };
        if !self.prevails(conn, &terms, cx) {
            return self.give_up(conn, cx);
        }
        let Some(at) = self.conns.iter().position(|c| c.conn == conn) else { return };
        self.conns[at].confirm(terms, cx.now, &mut self.retry);
    }

    /// Two connections: the one that the speaker with the higher identifier has made is taken
    /// (RFC 4271, 6.8; RFC 6286, 2.3). Closes the other if it is not that.
    fn prevails(&mut self, conn: Conn, terms: &Terms, cx: &mut Context) -> bool {
        let Some(this) = self.conns.iter().find(|c| c.conn == conn) else { return false };
        let ours = this.ours;
        let further = |c: &&Connection| c.conn != conn && c.state >= State::OpenConfirm;
        let Some(other) = self.conns.iter().find(further) else { return true };
        if other.state == State::Established {
            // None was let in beside it but for this.
            let old = other.conn;
            self.restarted(old, cx);
            return true;
        }
        let us = (cx.router_id, self.config.local_as);
        let we_prevail = us > (terms.router_id, self.config.remote_as);
        let prevails = ours == other.ours || ours == we_prevail;
        let loser = other.conn;
        if prevails {
            self.give_up(loser, cx);
        }
        prevails
    }

    fn confirmed(&mut self, conn: Conn, cx: &mut Context) {
        let Some(connection) = self.get(conn).filter(|c| c.state == State::OpenConfirm) else {
            return;
        };
        connection.establish(cx.now);
        let terms = connection.terms.clone();
        let others = self.conns.iter().filter(|c| c.conn != conn).map(|c| c.conn);
        others.collect::<Vec<_>>().into_iter().for_each(|other| self.give_up(other, cx));
        self.retry.at = None;
        self.quarrel = false;
        self.established += 1;
        if let Some(terms) = terms {
            self.tell(&terms, cx);
        }
    }

    fn tell(&mut self, terms: &Terms, cx: &mut Context) {
        let (config, agreed) = (self.config.clone(), terms.agreed.clone());
        cx.rib.up(self.addr, rib::Peer { config, router_id: terms.router_id, agreed });
        self.keep_preserved(terms, cx);
        if !cx.restarting {
            self.end_of_rib(cx);
        }
    }

    /// Stale routes go where it does not say that its packets went on being forwarded
    /// (RFC 4724, 4.2). One that never stopped need not say so.
    fn keep_preserved(&mut self, terms: &Terms, cx: &mut Context) {
        let by_us = std::mem::take(&mut self.by_us);
        if by_us {
            // BFD has yet to notice that we were away.
            self.doubt_bfd_until = cx.now + BFD_BEHIND;
        }
        for family in self.stale.keys().copied().collect::<Vec<_>>() {
            match &terms.graceful {
                _ if !terms.families.contains(&family) => self.sweep(family, cx),
                Some(its) if by_us && !its.restarted || its.families.contains(&(family, true)) => {
                    self.stale.insert(family, cx.now + STALE_MAX);
                }
                // No End-of-RIB will come: until the time that was set for it.
                None if by_us => {}
                _ => self.sweep(family, cx),
            }
        }
    }

    /// Once everything that there is was said, it is told so.
    pub fn end_of_rib(&mut self, cx: &mut Context) {
        let Some(terms) = self.up().and_then(|up| up.terms.as_ref()) else { return };
        for &family in terms.families.iter().filter(|_| terms.end_of_rib) {
            cx.rib.end_of_rib(self.addr, family);
        }
    }

    fn update(&mut self, conn: Conn, mut update: Update, cx: &mut Context) {
        if let Some(fault) = update.faults.pop() {
            self.faults += 1;
            self.last_fault.replace(fault);
        }
        if let Some(family) = update.end_of_rib {
            return self.said_all(family, cx);
        }
        if let Some(family) = cx.rib.update(self.addr, update).too_many {
            self.too_many(conn, family, cx);
        }
    }

    fn said_all(&mut self, family: Family, cx: &mut Context) {
        if self.stale.contains_key(&family) {
            self.sweep(family, cx);
        }
    }

    fn refresh(&mut self, conn: Conn, refresh: RouteRefresh, cx: &mut Context) {
        let Some(terms) = self.get(conn).and_then(|c| c.terms.as_ref()) else { return };
        let (family, marked) = (refresh.family, terms.enhanced_refresh);
        if !terms.families.contains(&family) {
            return;
        }
        match refresh.kind {
            Refresh::Request => cx.rib.refresh(self.addr, family, marked),
            Refresh::Begin if marked => {
                cx.rib.stale(self.addr, family);
                self.stale.insert(family, cx.now + STALE_MAX);
            }
            Refresh::End if marked => self.said_all(family, cx),
            Refresh::Begin | Refresh::End => {}
        }
    }
}

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const ROUTE_REFRESH: u8 = 5;

fn kind(message: &[u8]) -> u8 {
    message.get(18).copied().unwrap_or(0)
}

fn name(kind: u8) -> &'static str {
    match kind {
        OPEN => "OPEN",
        UPDATE => "UPDATE",
        NOTIFICATION => "NOTIFICATION",
        KEEPALIVE => "KEEPALIVE",
        ROUTE_REFRESH => "ROUTE-REFRESH",
        _ => "message",
    }
}

/// The subcode of the error if such a message does not belong into the state (RFC 6608).
fn out_of_turn(state: State, kind: u8) -> Option<u8> {
    match (state, kind) {
        (State::OpenSent, UPDATE | KEEPALIVE | ROUTE_REFRESH) => Some(1),
        (State::OpenConfirm, OPEN | UPDATE | ROUTE_REFRESH) => Some(2),
        (State::Established, OPEN) => Some(3),
        _ => None,
    }
}
