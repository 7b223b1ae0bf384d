//! What BGP's neighbours have said, as it comes into deciding: where each prefix leads. Knows nothing of
//! how it was learnt.

mod beside;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use ipnet::IpNet;

pub use beside::{Beside, Ours, beside};
pub(crate) use beside::{on_link, through};

/// Everything that is learnt now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    pub routes: BTreeMap<IpNet, Route>,
    /// After a restart, until all neighbours have said their routes again: what is missing is not
    /// gone yet.
    pub settling: bool,
    /// A peer's block may be reached by a learnt route that covers it.
    pub aggregates: bool,
}

/// Where a prefix leads: on-link addresses; none: nowhere, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    pub hops: Vec<IpAddr>,
    pub why: Option<String>,
}

impl Learnt {
    /// The route that leads to a peer's block. A default route is nobody's block.
    pub fn to(&self, block: &IpNet) -> Option<(IpNet, &Route)> {
        if !self.aggregates {
            return self.routes.get_key_value(block).map(|(dst, route)| (*dst, route));
        }
        self.longest(block.addr(), block.prefix_len(), 1)
    }

    /// The longest prefix that covers an address.
    pub fn covering(&self, addr: IpAddr) -> Option<(IpNet, &Route)> {
        let most = if addr.is_ipv4() { 32 } else { 128 };
        self.longest(addr, most, 0)
    }

    fn longest(&self, addr: IpAddr, most: u8, least: u8) -> Option<(IpNet, &Route)> {
        (least..=most).rev().find_map(|len| {
            let dst = IpNet::new(addr, len).ok()?.trunc();
            self.routes.get_key_value(&dst).map(|(dst, route)| (*dst, route))
        })
    }

    /// A number that is another one when what is learnt of these blocks is.
    pub fn digest(&self, blocks: &[IpNet]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.settling, self.aggregates).hash(&mut hasher);
        blocks.iter().for_each(|block| self.to(block).hash(&mut hasher));
        // 0 is of peers that nothing is to be learnt of.
        hasher.finish() | 1
    }

    /// Every on-link address that something leads to.
    pub fn hops(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes.values().flat_map(|route| route.hops.iter().copied())
    }
}
