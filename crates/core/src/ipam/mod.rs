//! Which address a pod gets: from the node's own blocks, the one that has been free the longest.
//! Which blocks a node has is in the store; which addresses are taken is in the ledger.

mod block;
pub mod fixed;
mod probed;
mod surplus;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

pub use block::candidates;
pub use probed::{Conflict, FRESH, HASTE, READY};
pub use surplus::{Held, surplus};

use crate::name::Mac;

/// The addresses of one node in one network.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    blocks: Vec<IpNet>,
    taken: BTreeSet<IpAddr>,
    /// Given back, oldest first.
    rested: VecDeque<IpAddr>,
    /// Per block, the first offset that was never given since this pool was made.
    fresh: Vec<u128>,
    reserve: Reserve,
    probed: probed::Probed,
    /// Blocks that are being given back: they give no more addresses.
    leaving: BTreeSet<IpNet>,
}

/// Addresses that no pod is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// The pods share their network with strangers, so no block has addresses of its own to keep;
    /// these are kept instead, none of them inside another.
    shared: Option<Vec<IpNet>>,
    /// Those that are claimed one at a time, and what of them nobody gets.
    fixed: Vec<IpNet>,
    never: Vec<IpNet>,
}

impl Reserve {
    pub fn on_shared(kept: impl IntoIterator<Item = IpNet>) -> Self {
        Self::with_fixed(kept, [])
    }

    /// As `on_shared`, of a network that gives some addresses one at a time.
    pub fn with_fixed(
        kept: impl IntoIterator<Item = IpNet>,
        fixed: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        let (never, fixed): (Vec<_>, Vec<_>) =
            (kept.into_iter().collect(), fixed.into_iter().collect());
        let all = never.iter().chain(&fixed).copied().collect();
        Self { shared: Some(IpNet::aggregate(&all)), fixed, never }
    }

    /// True if the address is claimed by itself, not with a block.
    pub fn fixes(&self, addr: IpAddr) -> bool {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&addr));
        within(&self.fixed) && !within(&self.never)
    }

    /// The prefixes of a family of which addresses are claimed by themselves.
    pub fn fixed(&self, ipv4: bool) -> impl Iterator<Item = &IpNet> {
        self.fixed.iter().filter(move |net| net.addr().is_ipv4() == ipv4)
    }

    /// Offset of the first address of a block that may be given, and of the first behind the last.
    fn bounds(&self, block: &IpNet) -> (u128, u128) {
        let bits = u32::from(block.max_prefix_len() - block.prefix_len());
        let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
        match self.shared {
            Some(_) => (0, all),
            None => (RESERVED, all.saturating_sub(u128::from(block.addr().is_ipv4()))),
        }
    }

    /// The prefix by which `addr` is kept.
    pub fn keeps(&self, addr: IpAddr) -> Option<&IpNet> {
        self.shared.iter().flatten().find(|kept| kept.contains(&addr))
    }

    /// How many addresses of a block pods may have: all but the first two and IPv4's broadcast
    /// address, or on a shared network all but what is kept.
    pub fn usable(&self, block: &IpNet) -> u128 {
        let (first, end) = self.bounds(block);
        let size = |net: &IpNet| {
            1u128.checked_shl((net.max_prefix_len() - net.prefix_len()).into()).unwrap_or(u128::MAX)
        };
        let kept = self.shared.iter().flatten().map(|kept| match () {
            () if kept.contains(block) => size(block),
            () if block.contains(kept) => size(kept),
            () => 0,
        });
        end.saturating_sub(first).saturating_sub(kept.sum())
    }
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    #[error("all {} addresses of this node's {} blocks are taken", .size, family(*.ipv4))]
    Exhausted { ipv4: bool, size: u128 },
    #[error("this node has no {} block yet", family(*.ipv4))]
    NoBlock { ipv4: bool },
    #[error("{0} is taken")]
    Taken(IpAddr),
    #[error("{addr} is not in this node's blocks ({})", list(blocks))]
    Elsewhere { addr: IpAddr, blocks: Vec<IpNet> },
    #[error("{addr} is somebody else's: {mac} answers for it")]
    Stranger { addr: IpAddr, mac: Mac },
    #[error("{0} is kept for the tunnel, the gateway, broadcast or a node, or excluded")]
    Reserved(IpAddr),
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "IPv4" } else { "IPv6" }
}
fn list(blocks: &[IpNet]) -> String {
    blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Offsets 0 and 1 of each block: the tunnel's own address and the bridge's.
const RESERVED: u128 = 2;

impl Pool {
    pub fn new(taken: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { taken: taken.into_iter().collect(), ..Self::default() }
    }

    /// Takes the blocks that the node has now. A block that is gone gives no more addresses; those
    /// that it gave stay taken.
    pub fn set_blocks(&mut self, blocks: &[IpNet], reserve: &Reserve) {
        let known = |block: &IpNet| self.blocks.iter().position(|old| old == block);
        let first =
            |block: &IpNet| known(block).map_or(reserve.bounds(block).0, |at| self.fresh[at]);
        self.fresh = blocks.iter().map(first).collect();
        if self.reserve != *reserve {
            // What was passed over may be free now.
            self.fresh = blocks.iter().map(|block| reserve.bounds(block).0).collect();
            self.reserve = reserve.clone();
        }
        self.blocks = blocks.to_vec();
        self.leaving.retain(|block| blocks.contains(block));
        self.rested.retain(|addr| blocks.iter().any(|block| block.contains(addr)));
        let ours = |addr: IpAddr| blocks.iter().any(|block| block.contains(&addr));
        let taken = &self.taken;
        let kept = |addr: IpAddr| reserve.keeps(addr).is_some() && !taken.contains(&addr);
        self.probed.retain(ours, kept);
    }

    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }

    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// How many addresses of the family the blocks hold for pods.
    pub fn size(&self, ipv4: bool) -> u128 {
        let family = self.blocks.iter().filter(|block| block.addr().is_ipv4() == ipv4);
        family.map(|block| self.reserve.usable(block)).sum()
    }

    pub fn lease(&mut self, ipv4: bool) -> Result<IpAddr, NoAddress> {
        let addr = self.fresh_address(ipv4).or_else(|| self.rested_address(ipv4));
        let addr = addr.or_else(|| self.probed.take_any(ipv4));
        let addr = addr.ok_or_else(|| {
            if self.blocks.iter().any(|block| block.addr().is_ipv4() == ipv4) {
                NoAddress::Exhausted { ipv4, size: self.size(ipv4) }
            } else {
                NoAddress::NoBlock { ipv4 }
            }
        })?;
        self.taken.insert(addr);
        Ok(addr)
    }

    /// A certain address, as asked for by the caller.
    pub fn lease_this(&mut self, addr: IpAddr) -> Result<(), NoAddress> {
        let stays = |block: &&IpNet| !self.leaving.contains(*block);
        let Some(block) = self.blocks.iter().filter(stays).find(|block| block.contains(&addr))
        else {
            return Err(NoAddress::Elsewhere { addr, blocks: self.blocks.clone() });
        };
        let (first, end) = self.reserve.bounds(block);
        let inside = (first..end).contains(&offset(block, addr));
        if !inside || self.reserve.keeps(addr).is_some() {
            return Err(NoAddress::Reserved(addr));
        }
        if let Some(conflict) = self.probed.conflict(addr) {
            return Err(NoAddress::Stranger { addr, mac: conflict.mac });
        }
        if !self.taken.insert(addr) {
            return Err(NoAddress::Taken(addr));
        }
        self.rested.retain(|rested| *rested != addr);
        self.probed.take(addr);
        Ok(())
    }

    /// How many addresses of a block pods have, and how many can still be given.
    pub fn use_of(&self, block: &IpNet) -> (usize, u128) {
        let inside = |addr: &&IpAddr| block.contains(*addr);
        let taken: Vec<&IpAddr> = self.taken.iter().filter(inside).collect();
        let given = taken.iter().filter(|addr| self.reserve.keeps(***addr).is_none()).count();
        (taken.len(), self.reserve.usable(block).saturating_sub(given as u128))
    }

    /// One more block, until `set_blocks` says what there is.
    pub fn add_block(&mut self, block: IpNet) {
        if !self.blocks.contains(&block) {
            self.fresh.push(self.reserve.bounds(&block).0);
            self.blocks.push(block);
        }
    }

    /// Gives no more addresses of a block, for good, unless one of them is taken. True if so.
    pub fn leave(&mut self, block: &IpNet) -> bool {
        let free = !self.taken.iter().any(|addr| block.contains(addr));
        if free {
            self.leaving.insert(*block);
        }
        free
    }

    pub fn leaves(&self, block: &IpNet) -> bool {
        self.leaving.contains(block)
    }

    /// An address that is not of a block: the caller sees that no other node gives it.
    pub fn lease_fixed(&mut self, addr: IpAddr) -> Result<(), NoAddress> {
        self.taken.insert(addr).then_some(()).ok_or(NoAddress::Taken(addr))?;
        // When it is free again, others may have it.
        self.probed.take(addr);
        Ok(())
    }

    pub fn holds(&self, addr: IpAddr) -> bool {
        self.taken.contains(&addr)
    }

    /// To be called once the link that had the address is gone.
    pub fn release(&mut self, addr: IpAddr) {
        if self.taken.remove(&addr) {
            self.rest(addr);
        }
    }

    /// It may be given, after all that were free before it.
    fn rest(&mut self, addr: IpAddr) {
        let ours = self.blocks.iter().any(|block| block.contains(&addr));
        if ours && !self.taken.contains(&addr) && !self.probed.holds(addr) {
            self.rested.push_back(addr);
        }
    }

    fn fresh_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        for (block, fresh) in self.blocks.iter().zip(&mut self.fresh) {
            if block.addr().is_ipv4() != ipv4 || self.leaving.contains(block) {
                continue;
            }
            while *fresh < self.reserve.bounds(block).1 {
                let addr = at(block, *fresh);
                *fresh += 1;
                if let Some(kept) = self.reserve.keeps(addr) {
                    *fresh = past(block, kept);
                    continue;
                }
                // One that was leased by name and given back stands among the rested.
                let known = self.rested.contains(&addr) || self.probed.holds(addr);
                if !self.taken.contains(&addr) && !known {
                    return Some(addr);
                }
            }
        }
        None
    }

    fn rested_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        let leaves = |addr: &IpAddr| self.leaving.iter().any(|block| block.contains(addr));
        let may = |addr: &IpAddr| {
            addr.is_ipv4() == ipv4 && self.reserve.keeps(*addr).is_none() && !leaves(addr)
        };
        let oldest = self.rested.iter().position(may)?;
        self.rested.remove(oldest)
    }
}

/// Offset in the block of the first address behind `kept`.
fn past(block: &IpNet, kept: &IpNet) -> u128 {
    match (block.network(), kept.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            u128::from(u32::from(last)).saturating_sub(u32::from(first).into()) + 1
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            u128::from(last).saturating_sub(u128::from(first)).saturating_add(1)
        }
        _ => u128::MAX,
    }
}

fn at(block: &IpNet, offset: u128) -> IpAddr {
    match block.network() {
        // An offset below `usable` fits the block's family.
        IpAddr::V4(first) => {
            Ipv4Addr::from(u32::from(first) + u32::try_from(offset).unwrap_or(0)).into()
        }
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + offset).into(),
    }
}

fn offset(block: &IpNet, addr: IpAddr) -> u128 {
    match (block.network(), addr) {
        (IpAddr::V4(first), IpAddr::V4(addr)) => u128::from(u32::from(addr) - u32::from(first)),
        (IpAddr::V6(first), IpAddr::V6(addr)) => u128::from(addr) - u128::from(first),
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(blocks: &[&str]) -> Pool {
        let mut pool = Pool::default();
        let blocks: Vec<IpNet> = blocks.iter().map(|block| block.parse().unwrap()).collect();
        pool.set_blocks(&blocks, &Reserve::default());
        pool
    }

    #[test]
    fn every_address_once_then_the_one_free_longest() {
        let mut pool = pool(&["10.0.0.0/29", "fd00::/126"]);
        let all: Vec<String> =
            std::iter::from_fn(|| pool.lease(true).ok()).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(pool.lease(true), Err(NoAddress::Exhausted { ipv4: true, size: 5 }));
        assert_eq!(pool.lease(false).unwrap().to_string(), "fd00::2");
        for back in ["10.0.0.5", "10.0.0.3"] {
            pool.release(back.parse().unwrap());
            pool.release(back.parse().unwrap());
        }
        let again: Vec<String> =
            std::iter::from_fn(|| pool.lease(true).ok()).map(|a| a.to_string()).collect();
        assert_eq!(again, ["10.0.0.5", "10.0.0.3"]);
    }

    #[test]
    fn a_named_address_is_given_once_and_only_from_our_blocks() {
        let mut pool = pool(&["10.0.0.0/29"]);
        let mut ask =
            |addr: &str| pool.lease_this(addr.parse().unwrap()).map_err(|e| e.to_string());
        assert_eq!(ask("10.0.0.4"), Ok(()));
        assert_eq!(ask("10.0.0.4"), Err("10.0.0.4 is taken".into()));
        for reserved in ["10.0.0.0", "10.0.0.1", "10.0.0.7"] {
            assert!(ask(reserved).unwrap_err().contains("kept for"));
        }
        assert!(ask("10.0.0.8").unwrap_err().contains("not in this node's blocks (10.0.0.0/29)"));
        assert!((0..4).all(|_| pool.lease(true).unwrap().to_string() != "10.0.0.4"));
        assert!(pool.lease(true).is_err());
    }

    #[test]
    fn on_a_shared_network_every_address_is_given_but_what_is_kept() {
        let kept = |nets: &[&str]| {
            Reserve::on_shared(nets.iter().map(|net| net.parse::<IpNet>().unwrap()))
        };
        let mut pool = Pool::default();
        let blocks: Vec<IpNet> =
            ["10.0.0.0/29", "fd00::/64"].iter().map(|block| block.parse().unwrap()).collect();
        let reserve = kept(&["10.0.0.0/32", "10.0.0.4/31", "10.0.0.5/32", "fd00::/65"]);
        pool.set_blocks(&blocks, &reserve);
        assert_eq!(pool.size(true), 5);
        let kept_one = pool.lease_this("10.0.0.4".parse().unwrap());
        assert!(matches!(kept_one, Err(NoAddress::Reserved(_))));
        let mut all = || -> Vec<String> {
            std::iter::from_fn(|| pool.lease(true).ok()).map(|a| a.to_string()).collect()
        };
        assert_eq!(all(), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.6", "10.0.0.7"]);
        assert_eq!(pool.lease(false).unwrap().to_string(), "fd00::8000:0:0:0");
        // A host came, another went.
        pool.set_blocks(&blocks, &kept(&["10.0.0.0/32", "10.0.0.7/32"]));
        pool.release("10.0.0.7".parse().unwrap());
        let mut all = || -> Vec<String> {
            std::iter::from_fn(|| pool.lease(true).ok()).map(|a| a.to_string()).collect()
        };
        assert_eq!(all(), ["10.0.0.4", "10.0.0.5"]);
        assert_eq!(kept(&["10.0.0.0/8"]).usable(&"10.0.0.0/28".parse().unwrap()), 0);
    }

    #[test]
    fn a_block_that_leaves_gives_nothing_and_one_that_comes_gives_at_once() {
        let block = |text: &str| text.parse::<IpNet>().unwrap();
        let (first, second) = (block("10.0.0.0/30"), block("10.0.0.4/30"));
        let reserve = Reserve::with_fixed([block("10.0.0.0/32")], [block("10.0.0.4/32")]);
        let mut pool = Pool::default();
        pool.set_blocks(&[first], &reserve);
        let leased = pool.lease(true).unwrap();
        assert_eq!(pool.use_of(&first), (1, 2));
        assert!(!pool.leave(&first), "a pod has an address of it");
        pool.release(leased);
        assert!(pool.leave(&first) && pool.leaves(&first));
        assert!(matches!(pool.lease(true), Err(NoAddress::Exhausted { .. })));
        assert!(matches!(pool.lease_this(leased), Err(NoAddress::Elsewhere { .. })));
        pool.add_block(second);
        pool.add_block(second);
        assert_eq!(
            pool.lease(true).unwrap().to_string(),
            "10.0.0.5",
            "its static one is not given"
        );
        // Once it is gone and comes again it is as any other.
        pool.set_blocks(&[second], &reserve);
        pool.set_blocks(&[first, second], &reserve);
        assert_eq!(pool.lease(true).unwrap(), leased);
        pool.lease_fixed("10.0.0.4".parse().unwrap()).unwrap();
        assert!(pool.lease_fixed("10.0.0.4".parse().unwrap()).is_err());
    }

    #[test]
    fn what_the_ledger_says_is_taken_stays_taken() {
        let mut pool = Pool::new(["10.0.0.2".parse().unwrap()]);
        pool.set_blocks(&["10.0.0.0/29".parse().unwrap()], &Reserve::default());
        assert_eq!(pool.lease(true).unwrap().to_string(), "10.0.0.3");
    }
}
