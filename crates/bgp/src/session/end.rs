//! How connections and sessions end, and whether the neighbour's routes are kept then (RFC 4724).
//!
//! Kept: the neighbour's kernel closed TCP, so it lives and its speaker restarts; it has sent
//! another OPEN; or we closed on our side because a setting changed. Not kept: a NOTIFICATION, BFD's
//! word, a hold timer or a TCP connection that ran out. RFC 4724 would keep them for the last, too;
//! but a path on which TCP's own repeats are lost carries no packets either.

use std::{collections::BTreeSet, time::Duration};

use super::{
    connection::{Connection, State},
    neighbour::{Context, Session},
    retry::{TOO_MANY_ROUTES, Why},
    words,
};
use crate::{
    Closed, Conn, Time,
    attrs::Family,
    config::Neighbour,
    wire::{GracefulRestart, Message, Notification, cease, code},
};

/// A neighbour whose speaker restarted may have a new session before BFD has noticed the end of the
/// old one: so long, BFD's word is about that.
pub(super) const BFD_BEHIND: Duration = Duration::from_secs(10);
/// A neighbour that lives has BFD up again by then: a session that begins says little more than a
/// packet a second (RFC 5880, 6.8.3). One that does not is dead.
pub(super) const BFD_BACK: Duration = Duration::from_secs(5);

impl Session {
    /// A mistake of its, or a timer: it is told, and the session ends.
    pub(super) fn fail(&mut self, conn: Conn, why: Notification, words: String, cx: &mut Context) {
        let lasted = self.lasted(conn, cx.now);
        self.last_error.replace(words);
        self.quarrel = true;
        self.end(conn, Some(why), false, cx);
        self.retry.after(Why::Fault, lasted, cx.now);
    }

    /// It has sent a NOTIFICATION.
    pub(super) fn notified(&mut self, conn: Conn, why: &Notification, cx: &mut Context) {
        let lasted = self.lasted(conn, cx.now);
        self.end(conn, None, false, cx);
        if why.code == code::CEASE && why.subcode == cease::COLLISION && !self.conns.is_empty() {
            return;
        }
        self.last_error.replace(format!("it ended the session: {why}"));
        self.quarrel = true;
        // Who ceases on purpose comes back soon, or not at all.
        let quarrel = why.code != code::CEASE
            || matches!(why.subcode, cease::TOO_MANY_PREFIXES | cease::RESOURCES);
        let why = if quarrel { Why::Fault } else { Why::Silence };
        self.retry.after(why, lasted, cx.now);
    }

    /// The connection is gone already, and no longer among ours.
    pub(super) fn has_closed(&mut self, gone: &Connection, why: Closed, cx: &mut Context) {
        let lasted = lasted(gone, cx.now);
        let keep = why == Closed::ByPeer;
        if keep {
            // Its kernel lives, and so it restarts as well.
            self.bfd_back_by = None;
        }
        let before = words::closed(self.addr, &self.config, gone.state, why);
        let kept = self.down(gone, keep, cx);
        let other = self.conns.iter().map(|c| c.state).max().unwrap_or(State::Idle);
        if other >= State::OpenConfirm {
            return;
        }
        let fault = matches!(gone.state, State::OpenSent | State::OpenConfirm) && keep;
        // While another connection is under way, what became of this one is no news.
        if other < State::OpenSent && !(fault && self.quarrel) {
            self.last_error.replace(before + &words::kept(kept));
            self.quarrel = false;
        }
        let why = if fault { Why::Fault } else { Why::Silence };
        self.retry.after(why, lasted, cx.now);
    }

    pub(super) fn heard_nothing(&mut self, conn: Conn, cx: &mut Context) {
        let lasted = self.lasted(conn, cx.now);
        let Some(silent) = self.get(conn) else { return };
        let (state, hold) = (silent.state, silent.hold());
        self.last_error.replace(words::silent(self.addr, &self.config, state, hold));
        let notification = (state > State::Connect).then(|| notification(code::HOLD_TIMER, 0));
        self.end(conn, notification, false, cx);
        self.retry.after(Why::Silence, lasted, cx.now);
    }

    /// RFC 9687.
    pub(super) fn reads_nothing(&mut self, conn: Conn, cx: &mut Context) {
        let hold = self.get(conn).and_then(|c| c.hold()).unwrap_or_default();
        let words = format!("it has read nothing for {} s: does it hang?", hold.as_secs() * 2);
        self.fail(conn, notification(code::SEND_HOLD_TIMER, 0), words, cx);
    }

    /// Without a session, what is kept of it from before our restart goes.
    pub(super) fn dead(&mut self, why: &str, cx: &mut Context) {
        let Some(up) = self.up() else {
            let kept: Vec<Family> = self.stale.keys().copied().collect();
            kept.into_iter().for_each(|family| self.sweep(family, cx));
            self.last_error.replace(format!("BFD: {why}"));
            return;
        };
        let (conn, lasted) = (up.conn, lasted(up, cx.now));
        self.last_error.replace(format!("BFD: {why}"));
        self.end(conn, Some(ceasing(cease::BFD_DOWN)), false, cx);
        // It has noticed.
        self.doubt_bfd_until = Time::ZERO;
        self.retry.after(Why::Silence, lasted, cx.now);
        self.note(cx.now);
    }

    pub(super) fn too_many(&mut self, conn: Conn, family: Family, cx: &mut Context) {
        let most = self.config.routes_max;
        let wait = TOO_MANY_ROUTES.as_secs() / 60;
        let words = format!(
            "it said more than {most} routes of {family}: raise its limit, or filter; tried again in {wait} minutes or when its settings change"
        );
        // RFC 4486, 4: AFI, SAFI and the limit.
        let mut data = vec![0, if family == Family::Ipv4 { 1 } else { 2 }, 1];
        data.extend(most.to_be_bytes());
        self.fail(conn, Notification { data, ..ceasing(cease::TOO_MANY_PREFIXES) }, words, cx);
        self.retry.shut(TOO_MANY_ROUTES, cx.now);
    }

    /// One of two connections that is not needed.
    pub(super) fn give_up(&mut self, conn: Conn, cx: &mut Context) {
        let said = self.get(conn).is_some_and(|c| c.state > State::Connect);
        self.end(conn, said.then(|| ceasing(cease::COLLISION)), false, cx);
    }

    /// Another connection's OPEN says that it has restarted.
    pub(super) fn restarted(&mut self, conn: Conn, cx: &mut Context) {
        self.last_error.replace("it restarted, and its old connection did not end".to_owned());
        self.end(conn, None, true, cx);
    }

    /// Settings have changed, the neighbour's (`old`) or the whole speaker's. If it is who it was,
    /// its routes are kept by simply closing, and it keeps ours.
    pub fn anew(&mut self, old: Option<&Neighbour>, cx: &mut Context) {
        let same = old.is_none_or(|old| same_neighbour(old, &self.config));
        let graceful = |c: &Connection| c.terms.as_ref().is_some_and(|t| t.graceful.is_some());
        let quiet = same && self.up().is_none_or(graceful);
        let why = (!quiet).then(|| ceasing(cease::CONFIGURATION));
        if !self.conns.is_empty() {
            self.last_error.replace("its settings here have changed".to_owned());
        }
        self.end_all(why.as_ref(), quiet, cx);
        self.by_us = quiet;
        if !same {
            self.stale.clear();
            cx.rib.down(self.addr, &BTreeSet::new());
        }
        self.retry =
            super::retry::Retry::new(self.config.local_addr, self.addr, self.config.passive);
        self.retry.at_once(cx.now);
        self.note(cx.now);
    }

    /// It is not our neighbour any more.
    pub fn remove(&mut self, cx: &mut Context) {
        self.end_all(Some(&ceasing(cease::DECONFIGURED)), false, cx);
        cx.rib.down(self.addr, &BTreeSet::new());
    }

    /// The speaker ends: what it learnt stays as it is.
    pub fn stop(&mut self, for_good: bool, cx: &mut Context) {
        for mut connection in std::mem::take(&mut self.conns) {
            if for_good && connection.state > State::Connect {
                connection.send(&Message::Notification(Notification::cease(
                    cease::SHUTDOWN,
                    "it leaves the network",
                )));
            }
            cx.links.close(connection.conn, connection.take_out().0);
        }
        self.stale.clear();
        self.config.passive = true;
        self.retry.at = None;
        self.note(cx.now);
    }

    fn end_all(&mut self, why: Option<&Notification>, keep: bool, cx: &mut Context) {
        let all: Vec<_> = self.conns.iter().map(|c| c.conn).collect();
        all.into_iter().for_each(|conn| self.end(conn, why.cloned(), keep, cx));
    }

    fn end(&mut self, conn: Conn, why: Option<Notification>, keep: bool, cx: &mut Context) {
        let Some(at) = self.conns.iter().position(|c| c.conn == conn) else { return };
        let mut connection = self.conns.remove(at);
        if let Some(why) = why.filter(|_| connection.state > State::Connect) {
            connection.send(&Message::Notification(why));
        }
        let (last_words, messages) = connection.take_out();
        self.messages_out += messages;
        cx.links.close(conn, last_words);
        self.down(&connection, keep, cx);
    }

    /// If it was established: its routes become stale or go. Says how long they are kept.
    fn down(&mut self, gone: &Connection, keep: bool, cx: &mut Context) -> Option<Duration> {
        if gone.state != State::Established {
            return None;
        }
        self.by_us = false;
        self.bfd_back_by = None;
        self.doubt_bfd_until = cx.now + BFD_BEHIND;
        let terms = gone.terms.as_ref();
        let graceful = terms.and_then(|t| t.graceful.as_ref()).filter(|_| keep);
        let time = graceful.map(|g| kept_for(g, &self.config)).unwrap_or_default();
        let said = graceful.map(|g| g.families.as_slice()).unwrap_or_default();
        let mut families: BTreeSet<_> = said.iter().map(|(family, _)| *family).collect();
        families.retain(|f| terms.is_some_and(|t| t.families.contains(f)) && !time.is_zero());
        cx.rib.down(self.addr, &families);
        self.stale = families.iter().map(|&family| (family, cx.now + time)).collect();
        (!families.is_empty()).then_some(time)
    }

    pub(super) fn sweep(&mut self, family: Family, cx: &mut Context) {
        self.stale.remove(&family);
        cx.rib.sweep(self.addr, family);
    }

    fn lasted(&mut self, conn: Conn, now: Time) -> Duration {
        self.get(conn).map(|c| lasted(c, now)).unwrap_or_default()
    }
}

fn lasted(connection: &Connection, now: Time) -> Duration {
    let up = connection.state == State::Established;
    if up { now.saturating_sub(connection.since) } else { Duration::ZERO }
}

fn kept_for(theirs: &GracefulRestart, config: &Neighbour) -> Duration {
    let ours = config.graceful_restart.unwrap_or_default();
    Duration::from_secs(theirs.seconds.into()).min(ours)
}

fn same_neighbour(old: &Neighbour, new: &Neighbour) -> bool {
    let who = |n: &Neighbour| (n.local_as, n.remote_as, n.local_addr);
    who(old) == who(new) && new.graceful_restart.is_some()
}

fn ceasing(subcode: u8) -> Notification {
    notification(code::CEASE, subcode)
}

pub(super) fn notification(code: u8, subcode: u8) -> Notification {
    Notification { code, subcode, data: vec![] }
}
