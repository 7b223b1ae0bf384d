//! Who is due when. Only what becomes earlier is moved at once: a deadline that moves on with every
//! byte is found to be later when it comes, and costs nothing until then.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::Time;

#[derive(Debug, Default)]
pub struct Deadlines {
    order: BTreeSet<(Time, IpAddr)>,
    of: BTreeMap<IpAddr, Time>,
}

impl Deadlines {
    pub fn set(&mut self, addr: IpAddr, at: Option<Time>) {
        let Some(at) = at else { return };
        if self.of.get(&addr).is_some_and(|planned| *planned <= at) {
            return;
        }
        self.forget(addr);
        self.of.insert(addr, at);
        self.order.insert((at, addr));
    }

    pub fn forget(&mut self, addr: IpAddr) {
        if let Some(at) = self.of.remove(&addr) {
            self.order.remove(&(at, addr));
        }
    }

    pub fn first(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// All that are due, each once; they are planned no more.
    pub fn due(&mut self, now: Time) -> Vec<IpAddr> {
        let due: Vec<_> = self.order.iter().take_while(|(at, _)| *at <= now).map(|d| d.1).collect();
        due.iter().for_each(|addr| self.forget(*addr));
        due
    }
}
