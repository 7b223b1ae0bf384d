//! How a speaker becomes what it is told to be: the difference to what it was, session by session.

use std::net::{IpAddr, Ipv4Addr};

use super::Speaker;
use crate::{
    Time,
    config::{Config, Neighbour},
    session::Session,
};

impl Speaker {
    /// What is to be from now on. Idempotent.
    pub fn configure(&mut self, config: Config, now: Time) {
        if self.stopped {
            return;
        }
        self.be(config.router_id, now);
        self.rib.configure(
            config.router_id,
            &config.originated,
            &config.connected,
            config.paths_max,
        );
        let gone = self.sessions.keys().filter(|addr| !config.neighbours.contains_key(addr));
        for addr in gone.copied().collect::<Vec<_>>() {
            self.with(addr, now, Session::remove);
            self.sessions.remove(&addr);
            self.deadlines.forget(addr);
        }
        self.begin_deferral(&config, now);
        for (addr, neighbour) in config.neighbours {
            self.configure_neighbour(addr, neighbour, now);
        }
        self.check_all_restart(now);
    }

    /// Another identifier is another router: every session begins anew.
    fn be(&mut self, router_id: Ipv4Addr, now: Time) {
        if self.router_id == router_id {
            return;
        }
        self.router_id = router_id;
        for addr in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.with(addr, now, |session, cx| session.anew(None, cx));
        }
    }

    fn configure_neighbour(&mut self, addr: IpAddr, config: Neighbour, now: Time) {
        if self.sessions.contains_key(&addr) {
            self.with(addr, now, |session, cx| session.configure(&config, cx));
            return;
        }
        let stale = self.restart.as_mut().map(|restart| restart.kept_of(addr)).unwrap_or_default();
        self.sessions.insert(addr, Session::new(addr, config, stale, now));
        self.with(addr, now, Session::tick);
    }
}
