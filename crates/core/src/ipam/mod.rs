//! Which address a pod gets: from the node's own blocks, the one that has been free the longest.
//! Which blocks a node has is in the store; which addresses are taken is in the ledger.

mod block;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

pub use block::candidates;

/// The addresses of one node in one network.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    blocks: Vec<IpNet>,
    taken: BTreeSet<IpAddr>,
    /// Given back, oldest first.
    rested: VecDeque<IpAddr>,
    /// Per block, the first offset that was never given since this pool was made.
    fresh: Vec<u128>,
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
    #[error("{0} is kept for the tunnel, the gateway or broadcast")]
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
    pub fn set_blocks(&mut self, blocks: &[IpNet]) {
        let known = |block: &IpNet| self.blocks.iter().position(|old| old == block);
        self.fresh =
            blocks.iter().map(|block| known(block).map_or(RESERVED, |at| self.fresh[at])).collect();
        self.blocks = blocks.to_vec();
        self.rested.retain(|addr| blocks.iter().any(|block| block.contains(addr)));
    }

    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }

    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// How many addresses of the family the blocks hold for pods.
    pub fn size(&self, ipv4: bool) -> u128 {
        self.blocks.iter().filter(|block| block.addr().is_ipv4() == ipv4).map(usable).sum()
    }

    pub fn lease(&mut self, ipv4: bool) -> Result<IpAddr, NoAddress> {
        let addr = self.fresh_address(ipv4).or_else(|| self.rested_address(ipv4));
        let addr = addr.ok_or_else(|| match self.size(ipv4) {
            0 => NoAddress::NoBlock { ipv4 },
            size => NoAddress::Exhausted { ipv4, size },
        })?;
        self.taken.insert(addr);
        Ok(addr)
    }

    /// A certain address, as asked for by the caller.
    pub fn lease_this(&mut self, addr: IpAddr) -> Result<(), NoAddress> {
        let Some(block) = self.blocks.iter().find(|block| block.contains(&addr)) else {
            return Err(NoAddress::Elsewhere { addr, blocks: self.blocks.clone() });
        };
        if !(RESERVED..RESERVED + usable(block)).contains(&offset(block, addr)) {
            return Err(NoAddress::Reserved(addr));
        }
        if !self.taken.insert(addr) {
            return Err(NoAddress::Taken(addr));
        }
        self.rested.retain(|rested| *rested != addr);
        Ok(())
    }

    /// To be called once the link that had the address is gone.
    pub fn release(&mut self, addr: IpAddr) {
        if self.taken.remove(&addr) && self.blocks.iter().any(|block| block.contains(&addr)) {
            self.rested.push_back(addr);
        }
    }

    fn fresh_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        for (block, fresh) in self.blocks.iter().zip(&mut self.fresh) {
            if block.addr().is_ipv4() != ipv4 {
                continue;
            }
            while *fresh < RESERVED + usable(block) {
                let addr = at(block, *fresh);
                *fresh += 1;
                // One that was leased by name and given back stands among the rested.
                if !self.taken.contains(&addr) && !self.rested.contains(&addr) {
                    return Some(addr);
                }
            }
        }
        None
    }

    fn rested_address(&mut self, ipv4: bool) -> Option<IpAddr> {
        let oldest = self.rested.iter().position(|addr| addr.is_ipv4() == ipv4)?;
        self.rested.remove(oldest)
    }
}

/// Addresses of a block that pods may have: not the first two, and not IPv4's broadcast address.
fn usable(block: &IpNet) -> u128 {
    let bits = u32::from(block.max_prefix_len() - block.prefix_len());
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    all.saturating_sub(RESERVED + u128::from(block.addr().is_ipv4()))
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
        pool.set_blocks(&blocks.iter().map(|block| block.parse().unwrap()).collect::<Vec<_>>());
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
    fn what_the_ledger_says_is_taken_stays_taken() {
        let mut pool = Pool::new(["10.0.0.2".parse().unwrap()]);
        pool.set_blocks(&["10.0.0.0/29".parse().unwrap()]);
        assert_eq!(pool.lease(true).unwrap().to_string(), "10.0.0.3");
    }
}
