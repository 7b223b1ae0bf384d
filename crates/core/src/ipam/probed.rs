//! Which addresses nobody else has, on a network that pods share with strangers. Some are asked for
//! ahead of time and lie ready, so that a pod that comes waits for no answer; whoever answers keeps
//! his. Asking is others' business, and so is the clock: times are since any fixed moment.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{NoAddress, Pool};
use crate::name::Mac;

/// So many of a family lie ready.
pub const READY: usize = 8;
/// How long an address that was found free counts as such; it is asked for again in time.
pub const FRESH: Duration = Duration::from_secs(600);
/// Whoever has an address answers within this, unless he sleeps: for a pod that finds none ready.
pub const HASTE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Default)]
pub(super) struct Probed {
    /// In the order in which pods get them.
    shelf: Vec<Shelved>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// Given without having been asked for: asked for now, since there is time.
    late: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Shelved {
    addr: IpAddr,
    /// When it was found free.
    free: Option<Duration>,
    /// Since when it is being asked for.
    asked: Option<Duration>,
    /// Somebody waits for this very address.
    named: bool,
}

/// Somebody else has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub mac: Mac,
    /// When he was last heard.
    heard: Duration,
    asked: bool,
}

impl Shelved {
    fn is_ready(&self, now: Duration) -> bool {
        self.free.is_some_and(|free| now.saturating_sub(free) < FRESH)
    }
    /// Nobody has answered so far, and had the time to.
    fn is_likely(&self, now: Duration) -> bool {
        self.asked.is_some_and(|asked| now.saturating_sub(asked) >= HASTE)
    }
}

impl Probed {
    pub(super) fn holds(&self, addr: IpAddr) -> bool {
        self.conflicts.contains_key(&addr) || self.shelf.iter().any(|on| on.addr == addr)
    }

    pub(super) fn conflict(&self, addr: IpAddr) -> Option<&Conflict> {
        self.conflicts.get(&addr)
    }

    /// Forgets what is not this node's to give any more, or that nobody expects it to be.
    pub(super) fn retain(&mut self, ours: impl Fn(IpAddr) -> bool, kept: impl Fn(IpAddr) -> bool) {
        self.shelf.retain(|on| on.named || ours(on.addr) && !kept(on.addr));
        self.conflicts.retain(|addr, _| !kept(*addr));
    }

    pub(super) fn take(&mut self, addr: IpAddr) {
        self.shelf.retain(|on| on.addr != addr);
    }

    fn take_first(&mut self, which: impl Fn(&Shelved) -> bool) -> Option<IpAddr> {
        let at = self.shelf.iter().position(|on| !on.named && which(on))?;
        Some(self.shelf.remove(at).addr)
    }

    /// One that is being asked for or was free long ago, where there is no other.
    pub(super) fn take_any(&mut self, ipv4: bool) -> Option<IpAddr> {
        self.take_first(|on| on.addr.is_ipv4() == ipv4)
    }
}

impl Pool {
    /// True if pods stand beside strangers, who may have any address.
    pub fn is_shared(&self) -> bool {
        self.reserve.shared.is_some()
    }

    /// Sees to it that enough lie ready. Returns what is to be asked for now: new ones, those that
    /// were found free a while ago, and those that somebody had when `again` had passed.
    pub fn draw(&mut self, now: Duration, again: Duration) -> Vec<IpAddr> {
        if !self.is_shared() {
            return Vec::new();
        }
        let old = |on: &Shelved| on.free.is_some_and(|free| now.saturating_sub(free) >= FRESH / 2);
        self.probed.shelf.retain(|on| !on.named || !old(on));
        for ipv4 in [true, false] {
            let drawn = self.probed.shelf.iter();
            let drawn = drawn.filter(|on| !on.named && on.addr.is_ipv4() == ipv4).count();
            for _ in drawn..READY {
                let Some(addr) = self.fresh_address(ipv4).or_else(|| self.rested_address(ipv4))
                else {
                    break;
                };
                self.probed.shelf.push(Shelved { addr, free: None, asked: None, named: false });
            }
        }
        let mut ask = self.contested(now, again);
        ask.append(&mut self.probed.late);
        for on in &mut self.probed.shelf {
            if on.asked.is_none() && (on.free.is_none() || old(on)) {
                on.asked = Some(now);
                ask.push(on.addr);
            }
        }
        ask
    }

    /// Those of others that are to be asked for again. What is none of ours is forgotten: a node
    /// that has it by now answers for it by right.
    fn contested(&mut self, now: Duration, again: Duration) -> Vec<IpAddr> {
        let (blocks, taken) = (&self.blocks, &self.taken);
        let ours =
            |addr: &IpAddr| taken.contains(addr) || blocks.iter().any(|block| block.contains(addr));
        let due = |conflict: &Conflict| now.saturating_sub(conflict.heard) >= again;
        self.probed.conflicts.retain(|addr, conflict| ours(addr) || !due(conflict));
        let due = self.probed.conflicts.iter_mut().filter(|(_, c)| due(c) && !c.asked);
        due.map(|(addr, conflict)| {
            conflict.asked = true;
            *addr
        })
        .collect()
    }

    /// Nobody answered for an address that was asked for.
    pub fn quiet(&mut self, addr: IpAddr, now: Duration) {
        if self.probed.conflicts.remove(&addr).is_some() {
            self.rest(addr);
        }
        if let Some(on) = self.probed.shelf.iter_mut().find(|on| on.addr == addr) {
            (on.free, on.asked) = (Some(now), None);
        }
    }

    /// It could not be asked for; nothing is known of it.
    pub fn unasked(&mut self, addr: IpAddr, now: Duration) {
        if let Some(conflict) = self.probed.conflicts.get_mut(&addr) {
            (conflict.heard, conflict.asked) = (now, false);
        }
        if let Some(on) = self.probed.shelf.iter_mut().find(|on| on.addr == addr) {
            on.asked = None;
        }
    }

    /// Somebody else says that he has it. True if it matters: the address was to be given, or a pod
    /// has it.
    pub fn answered(&mut self, addr: IpAddr, mac: Mac, now: Duration) -> bool {
        if !self.minds(addr) {
            return false;
        }
        self.probed.take(addr);
        self.probed.conflicts.insert(addr, Conflict { mac, heard: now, asked: false });
        true
    }

    /// True if it matters who has the address.
    pub fn minds(&self, addr: IpAddr) -> bool {
        self.taken.contains(&addr) || self.probed.holds(addr)
    }

    pub fn conflicts(&self) -> impl Iterator<Item = (IpAddr, Mac)> {
        self.probed.conflicts.iter().map(|(addr, conflict)| (*addr, conflict.mac))
    }

    /// How many lie ready.
    pub fn ready(&self, now: Duration) -> usize {
        self.probed.shelf.iter().filter(|on| !on.named && on.is_ready(now)).count()
    }

    /// True if an address of the family can be had that is known to be nobody's, or likely so.
    pub fn is_ready(&self, ipv4: bool, now: Duration) -> bool {
        let mut family =
            self.probed.shelf.iter().filter(|on| !on.named && on.addr.is_ipv4() == ipv4);
        family.any(|on| on.is_ready(now) || on.is_likely(now))
    }

    /// The best that there is, and whether it is known to be nobody's.
    pub fn lease_best(&mut self, ipv4: bool, now: Duration) -> Result<(IpAddr, bool), NoAddress> {
        if let Some(addr) = self.lease_ready(ipv4, now) {
            return Ok((addr, true));
        }
        if let Some(addr) = self.lease_likely(ipv4, now) {
            return Ok((addr, false));
        }
        let addr = self.lease(ipv4)?;
        if self.is_shared() {
            self.probed.late.push(addr);
        }
        Ok((addr, false))
    }

    /// One that is known to be nobody's, if any lies ready.
    fn lease_ready(&mut self, ipv4: bool, now: Duration) -> Option<IpAddr> {
        let addr = self.probed.take_first(|on| on.addr.is_ipv4() == ipv4 && on.is_ready(now))?;
        self.taken.insert(addr);
        Some(addr)
    }

    /// The next best: one that was asked for just now, and for which nobody has answered so far.
    fn lease_likely(&mut self, ipv4: bool, now: Duration) -> Option<IpAddr> {
        let addr = self.probed.take_first(|on| on.addr.is_ipv4() == ipv4 && on.is_likely(now))?;
        self.taken.insert(addr);
        Some(addr)
    }

    /// This very address is to be asked for, unless that is known or it is a pod's.
    pub fn want(&mut self, addr: IpAddr, now: Duration) {
        if self.known(addr, now) {
            return;
        }
        match self.probed.shelf.iter_mut().find(|on| on.addr == addr) {
            Some(on) if on.asked.is_none() => on.free = None,
            Some(_) => {}
            None => self.probed.shelf.push(Shelved { addr, free: None, asked: None, named: true }),
        }
    }

    /// As `want`, whatever was heard of it before: whoever had it may have given it up.
    pub fn want_anew(&mut self, addr: IpAddr, now: Duration) {
        self.probed.conflicts.remove(&addr);
        self.want(addr, now);
    }

    /// True if nothing is to be learnt of the address by waiting.
    pub fn known(&self, addr: IpAddr, now: Duration) -> bool {
        self.taken.contains(&addr)
            || self.probed.conflicts.contains_key(&addr)
            || self.probed.shelf.iter().any(|on| on.addr == addr && on.is_ready(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Reserve;

    const AGAIN: Duration = Duration::from_secs(60);
    const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    fn ip(host: u8) -> IpAddr {
        [10, 0, 0, host].into()
    }
    fn pool(block: &str) -> Pool {
        let mut pool = Pool::default();
        pool.set_blocks(&[block.parse().unwrap()], &Reserve::on_shared([]));
        pool
    }
    fn hosts(addrs: &[IpAddr]) -> Vec<u8> {
        let last = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        };
        addrs.iter().map(last).collect()
    }

    /// What is asked for, and of that what is answered by a stranger or by nobody.
    fn ask(pool: &mut Pool, now: Duration, strangers: &[u8]) -> Vec<u8> {
        let drawn = pool.draw(now, AGAIN);
        for addr in &drawn {
            if strangers.contains(&hosts(&[*addr])[0]) {
                assert!(pool.answered(*addr, STRANGER, now));
            } else {
                pool.quiet(*addr, now);
            }
        }
        hosts(&drawn)
    }
    fn leased(pool: &mut Pool, now: Duration) -> Option<u8> {
        pool.lease_ready(true, now).map(|addr| hosts(&[addr])[0])
    }

    #[test]
    fn some_are_asked_for_ahead_of_time_and_given_in_order() {
        let mut pool = pool("10.0.0.0/28");
        assert_eq!(leased(&mut pool, at(0)), None);
        assert_eq!(ask(&mut pool, at(0), &[]), (0..8).collect::<Vec<_>>());
        assert_eq!(pool.ready(at(0)), READY);
        assert_eq!(ask(&mut pool, at(0), &[]), [0; 0], "all lie ready");
        assert_eq!((leased(&mut pool, at(0)), leased(&mut pool, at(0))), (Some(0), Some(1)));
        pool.release(ip(0));
        assert_eq!(ask(&mut pool, at(1), &[]), [8, 9]);
        // What was given back comes last.
        let all: Vec<u8> = (0..20)
            .filter_map(|n| {
                ask(&mut pool, at(2 + n), &[]);
                leased(&mut pool, at(2 + n))
            })
            .collect();
        assert_eq!(all, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0]);
        let none = pool.lease(true);
        assert_eq!(none, Err(NoAddress::Exhausted { ipv4: true, size: 16 }));
    }

    #[test]
    fn a_strangers_is_held_back_until_nobody_answers_for_it() {
        let mut pool = pool("10.0.0.0/30");
        assert_eq!(ask(&mut pool, at(0), &[1, 2]), [0, 1, 2, 3]);
        assert_eq!(pool.conflicts().collect::<Vec<_>>(), [(ip(1), STRANGER), (ip(2), STRANGER)]);
        let held = |pool: &mut Pool| pool.lease_this(ip(1));
        assert_eq!(held(&mut pool), Err(NoAddress::Stranger { addr: ip(1), mac: STRANGER }));
        assert_eq!((leased(&mut pool, at(0)), leased(&mut pool, at(0))), (Some(0), Some(3)));
        assert!(pool.lease(true).is_err(), "nor without having been asked for");
        assert_eq!(ask(&mut pool, at(59), &[2]), [0; 0]);
        assert_eq!(ask(&mut pool, at(60), &[2]), [1, 2], "a minute later");
        assert_eq!(pool.conflicts().collect::<Vec<_>>(), [(ip(2), STRANGER)]);
        assert_eq!(ask(&mut pool, at(61), &[]), [1], "as every address");
        assert_eq!(leased(&mut pool, at(61)), Some(1));
        // He who comes while it lies ready is heard too.
        assert_eq!(ask(&mut pool, at(120), &[]), [2]);
        assert_eq!(ask(&mut pool, at(121), &[]), [2]);
        assert!(pool.answered(ip(2), STRANGER, at(121)));
        assert!(pool.lease(true).is_err());
        assert!(!pool.answered(ip(9), STRANGER, at(121)), "none of ours");
    }

    #[test]
    fn what_lay_ready_for_long_is_asked_for_again_and_never_given_when_too_old() {
        let mut pool = pool("10.0.0.0/31");
        assert_eq!(ask(&mut pool, at(0), &[]), [0, 1]);
        assert_eq!(ask(&mut pool, at(299), &[]), [0; 0]);
        let asked = pool.draw(at(300), AGAIN);
        assert_eq!(hosts(&asked), [0, 1]);
        assert_eq!(leased(&mut pool, at(301)), Some(0), "it counts while it is asked for");
        assert_eq!(leased(&mut pool, at(600)), None);
        assert!(pool.is_ready(true, at(600)), "but nobody has answered");
        assert_eq!(pool.lease_likely(true, at(600)), Some(ip(1)));
    }

    #[test]
    fn a_pod_that_finds_none_ready_gets_one_that_nobody_answered_for_so_far() {
        let mut pool = pool("10.0.0.0/28");
        let asked = pool.draw(at(1), AGAIN);
        assert!(!pool.is_ready(true, at(1)));
        pool.answered(asked[0], STRANGER, at(1));
        let now = at(1) + HASTE;
        assert!(pool.is_ready(true, now) && !pool.is_ready(false, now));
        assert_eq!(pool.lease_ready(true, now), None);
        assert_eq!(pool.lease_likely(true, now), Some(asked[1]));
        // The answer that comes after all is said of the pod that has it.
        assert!(pool.answered(asked[1], STRANGER, now));
        pool.release(asked[1]);
        assert!(pool.lease_this(asked[1]).is_err());
        // Where nothing else is left, whatever there is.
        for _ in 2..16 {
            assert!(pool.lease(true).is_ok());
        }
        assert!(pool.lease(true).is_err());
    }

    #[test]
    fn one_that_was_never_asked_for_is_asked_for_once_it_is_given() {
        let mut pool = pool("10.0.0.0/28");
        assert_eq!(pool.lease_best(true, at(0)), Ok((ip(0), false)));
        assert_eq!(hosts(&pool.draw(at(0), AGAIN))[..2], [0, 1]);
        pool.quiet(ip(0), at(0));
        assert!(!hosts(&pool.draw(at(0), AGAIN)).contains(&0), "once");
        assert!(pool.answered(ip(0), STRANGER, at(1)));
        assert_eq!(pool.conflicts().count(), 1, "and he who has it is known, whenever he speaks");
        assert_eq!(ask(&mut pool, at(61), &[]), [0]);
        assert_eq!(pool.conflicts().count(), 0);
        assert_eq!(pool.lease_this(ip(0)), Err(NoAddress::Taken(ip(0))), "it is the pod's still");
    }

    #[test]
    fn a_strangers_address_that_is_excluded_is_no_conflict_any_more() {
        let mut pool = pool("10.0.0.0/30");
        ask(&mut pool, at(0), &[1, 2, 3]);
        pool.lease_best(true, at(0)).unwrap();
        pool.answered(ip(0), STRANGER, at(0));
        let kept = ["10.0.0.0/31".parse().unwrap(), "10.0.0.3/32".parse().unwrap()];
        pool.set_blocks(&["10.0.0.0/30".parse().unwrap()], &Reserve::on_shared(kept));
        let left: Vec<IpAddr> = pool.conflicts().map(|(addr, _)| addr).collect();
        assert_eq!(left, [ip(0), ip(2)], "a pod has the first");
    }

    #[test]
    fn a_named_address_is_asked_for_alone_and_given_to_nobody_else() {
        let mut pool = pool("10.0.0.0/28");
        ask(&mut pool, at(0), &[]);
        for named in [3, 12] {
            pool.want(ip(named), at(1));
        }
        assert!(pool.known(ip(3), at(1)) && !pool.known(ip(12), at(1)));
        assert_eq!(ask(&mut pool, at(1), &[]), [12], "the other lies ready");
        assert!(pool.known(ip(12), at(1)));
        assert_eq!(leased(&mut pool, at(1)), Some(0));
        assert_eq!((pool.lease_this(ip(3)), pool.lease_this(ip(12))), (Ok(()), Ok(())));
        // One of no block of this node's, that somebody has.
        let elsewhere: IpAddr = "10.0.9.9".parse().unwrap();
        pool.want(elsewhere, at(2));
        pool.draw(at(2), AGAIN);
        pool.answered(elsewhere, STRANGER, at(2));
        assert!(pool.known(elsewhere, at(2)) && pool.conflicts().count() == 1);
        pool.draw(at(63), AGAIN);
        assert_eq!(pool.conflicts().count(), 0, "others' business");
    }

    #[test]
    fn what_is_not_this_nodes_any_more_lies_ready_no_more() {
        let mut pool = pool("10.0.0.0/30");
        ask(&mut pool, at(0), &[]);
        let kept = Reserve::on_shared(["10.0.0.2/32".parse().unwrap()]);
        pool.set_blocks(&["10.0.0.0/30".parse().unwrap()], &kept);
        assert_eq!(pool.ready(at(0)), 3);
        pool.set_blocks(&["10.0.1.0/30".parse().unwrap()], &kept);
        assert_eq!((pool.ready(at(0)), leased(&mut pool, at(0))), (0, None));
        // A network that no stranger is in has nobody to be asked.
        pool.set_blocks(&["10.0.1.0/30".parse().unwrap()], &Reserve::default());
        assert!(pool.draw(at(1), AGAIN).is_empty());
    }

    #[test]
    fn what_could_not_be_asked_for_is_asked_for_later() {
        let mut pool = pool("10.0.0.0/31");
        for addr in pool.draw(at(0), AGAIN) {
            pool.unasked(addr, at(0));
        }
        assert!(!pool.is_ready(true, at(1)));
        assert_eq!(ask(&mut pool, at(1), &[0]), [0, 1]);
        for addr in pool.draw(at(61), AGAIN) {
            pool.unasked(addr, at(61));
        }
        assert_eq!(pool.conflicts().count(), 1, "as long as nobody knows better");
    }
}
