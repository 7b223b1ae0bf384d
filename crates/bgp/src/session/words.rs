//! What people read of a neighbour: its report, and why a session ended, with who and what to do.

use std::{net::IpAddr, time::Duration};

use super::{
    connection::{CONNECT_MAX, State},
    neighbour::{Bfd, Session},
    open::Terms,
};
use crate::{Closed, Time, config::Neighbour, report::NeighbourReport, rib::Rib};

impl Session {
    pub fn report(&self, rib: &Rib, now: Time) -> NeighbourReport {
        let counts = rib.counts(self.addr);
        let terms = self.up().and_then(|up| up.terms.as_ref());
        let (state, since) = self.state_now(now);
        NeighbourReport {
            name: self.config.name.clone(),
            addr: Some(self.addr),
            local_as: self.config.local_as,
            remote_as: self.config.remote_as,
            state: state.to_string(),
            since_ms: millis(now.saturating_sub(since)),
            restarting: terms.is_none() && !self.stale.is_empty(),
            routes_in: counts.taken,
            stale: counts.stale,
            routes_out: counts.told,
            refused: counts.refused,
            hold_time: terms.map_or(self.config.hold_time, |terms| terms.hold_time),
            capabilities: terms.map(capabilities).unwrap_or_default(),
            last_error: self.last_error.clone(),
            faults: self.faults,
            last_fault: self.last_fault.clone(),
            established: self.established,
            messages_in: self.messages_in,
            messages_out: self.messages_out,
            bfd: self.config.bfd.then(|| bfd(&self.bfd).to_owned()),
        }
    }

    /// Idle ends by itself.
    fn state_now(&self, now: Time) -> (State, Time) {
        if self.state == State::Idle && !self.retry.idle(now) {
            return (State::Active, self.retry.idle_until);
        }
        (self.state, self.since)
    }
}

fn bfd(bfd: &Bfd) -> &'static str {
    match bfd {
        Bfd::Up => "up",
        Bfd::Down => "down",
        Bfd::NeverUp => "down, never up: the session stands without it",
    }
}

fn capabilities(terms: &Terms) -> Vec<String> {
    let mut words: Vec<_> =
        terms.families.iter().map(|family| format!("{family} unicast")).collect();
    let mut add = |has: bool, name: &str| has.then(|| words.push(name.to_owned()));
    add(terms.agreed.four_octet_as, "4-octet AS");
    add(terms.route_refresh, "route refresh");
    add(terms.enhanced_refresh, "enhanced route refresh");
    add(terms.agreed.ipv4_over_ipv6, "IPv4 over IPv6 next hops");
    if let Some(graceful) = &terms.graceful {
        let families: Vec<_> = graceful.families.iter().map(|(f, _)| f.to_string()).collect();
        let families =
            if families.is_empty() { "helper only".to_owned() } else { families.join(", ") };
        words.push(format!("graceful restart {} s ({families})", graceful.seconds));
    }
    words
}

pub fn wrong_address(to: IpAddr, expected: IpAddr) -> String {
    format!(
        "it connects to {to}, and this session's address here is {expected}: change its neighbour there"
    )
}

pub fn closed(addr: IpAddr, config: &Neighbour, state: State, why: Closed) -> String {
    let port = config.port;
    match (state, why) {
        (State::Connect, Closed::ByPeer) => {
            format!("{addr} port {port} refused the connection: does BGP run there?")
        }
        (State::Connect, Closed::Broken(why)) => {
            format!("could not connect to {addr} port {port}: {why}{}", hint(&why))
        }
        (State::OpenSent | State::OpenConfirm, Closed::ByPeer) => format!(
            "it closed the connection instead of agreeing: is {}, AS {}, a neighbour there?",
            config.local_addr, config.local_as
        ),
        (_, Closed::ByPeer) => "it closed the connection".to_owned(),
        (_, Closed::Broken(why)) => format!("the connection broke: {why}"),
    }
}

fn hint(why: &str) -> &'static str {
    if why.to_lowercase().contains("timed out") { PASSWORD } else { "" }
}

const PASSWORD: &str = ": is the password the same, is the TCP port open?";

pub fn kept(time: Option<Duration>) -> String {
    time.map(|time| format!("; its routes are kept for {} s", time.as_secs())).unwrap_or_default()
}

pub fn silent(addr: IpAddr, config: &Neighbour, state: State, hold: Option<Duration>) -> String {
    let port = config.port;
    match (state, hold) {
        (State::Connect, _) => format!(
            "no answer from {addr} in {} s: is the password the same, is TCP port {port} open?",
            CONNECT_MAX.as_secs()
        ),
        (State::OpenSent, _) => format!("{addr} took the connection and sent no OPEN"),
        (_, Some(hold)) => format!("nothing was heard of it for {} s (hold time)", hold.as_secs()),
        (_, None) => "it did not confirm the session".to_owned(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
