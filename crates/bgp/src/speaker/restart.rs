//! The speaker's own restart (RFC 4724, 4.1): what neighbours said to the one before is used until
//! they have said it again. Our own routes are said at once; that these are all is said when every
//! neighbour has done so, or `deferral` is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Speaker;
use crate::{
    Time,
    attrs::Family,
    config::Config,
    session::{Context, Session},
};

pub struct Restart {
    /// Known with the first configuration, from which on neighbours can come back.
    pub until: Option<Time>,
    /// Whose routes are kept, until it is known whether they still are neighbours.
    kept: BTreeMap<IpAddr, BTreeSet<Family>>,
    /// Who has not said its routes again.
    awaited: BTreeSet<IpAddr>,
}

impl Restart {
    pub fn new(kept: BTreeMap<IpAddr, BTreeSet<Family>>) -> Self {
        let awaited = kept.keys().copied().collect();
        Self { until: None, kept, awaited }
    }

    pub fn kept_of(&mut self, addr: IpAddr) -> BTreeMap<Family, Time> {
        let until = self.until.unwrap_or_default();
        let families = self.kept.remove(&addr).unwrap_or_default();
        families.into_iter().map(|family| (family, until)).collect()
    }
}

impl Speaker {
    /// Not all neighbours have said their routes since the restart: nothing that is missing is
    /// gone yet.
    pub fn settling(&self) -> bool {
        self.restart.is_some()
    }

    /// Routes of those that are no neighbours any more go.
    pub(super) fn begin_deferral(&mut self, config: &Config, now: Time) {
        let Some(restart) = &mut self.restart else { return };
        restart.until.get_or_insert(now + config.deferral);
        restart.kept.retain(|addr, _| {
            let stays = config.neighbours.contains_key(addr);
            if !stays {
                self.rib.down(*addr, &BTreeSet::new());
            }
            stays
        });
    }

    pub(super) fn check_restart(&mut self, addr: IpAddr, now: Time) {
        let Some(restart) = &mut self.restart else { return };
        if restart.awaited.contains(&addr)
            && !self.sessions.get(&addr).is_some_and(Session::awaited)
        {
            restart.awaited.remove(&addr);
            self.end_if_complete(now);
        }
    }

    pub(super) fn check_all_restart(&mut self, now: Time) {
        let Some(restart) = &mut self.restart else { return };
        restart.awaited.retain(|addr| self.sessions.get(addr).is_some_and(Session::awaited));
        self.end_if_complete(now);
    }

    fn end_if_complete(&mut self, now: Time) {
        let complete = |restart: &Restart| restart.until.is_some() && restart.awaited.is_empty();
        if self.restart.as_ref().is_some_and(complete) {
            self.end_restart(now);
        }
    }

    pub(super) fn end_deferral(&mut self, now: Time) {
        let over = |restart: &Restart| restart.until.is_some_and(|until| until <= now);
        if self.restart.as_ref().is_some_and(over) {
            self.end_restart(now);
        }
    }

    fn end_restart(&mut self, now: Time) {
        self.restart = None;
        for addr in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.with(addr, now, |session: &mut Session, cx: &mut Context| session.end_of_rib(cx));
        }
    }
}
