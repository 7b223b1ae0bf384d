//! What BGP's neighbours have said, as it comes into deciding: where each prefix leads. Knows nothing of
//! how it was learnt.

mod beside;

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// Said and taken back since then: gone all the same.
    pub withdrawn: BTreeSet<IpNet>,
    /// A peer's block may be reached by a learnt route that covers it.
    pub aggregates: bool,
}

/// Where a prefix leads: on-link addresses; none: nowhere, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    pub hops: Vec<IpAddr>,
    pub why: Option<String>,
    /// Learnt a moment ago: routers say a route before they forward by it.
    pub fresh: bool,
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

    /// A route to it may be missing only as it was not said again yet.
    pub fn may_come(&self, dst: &IpNet) -> bool {
        self.settling && !self.withdrawn.iter().any(|gone| gone.contains(dst))
    }

    /// A number that is another one when what is learnt of these blocks is.
    pub fn digest(&self, blocks: &[IpNet]) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.aggregates.hash(&mut hasher);
        for block in blocks {
            (self.to(block), self.may_come(block)).hash(&mut hasher);
        }
        // 0 is of peers that nothing is to be learnt of.
        hasher.finish() | 1
    }

    /// Every on-link address that something leads to.
    pub fn hops(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes.values().flat_map(|route| route.hops.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_back_is_not_waited_for_any_more() {
        let [one, two, all] =
            ["10.1.1.0/24", "10.1.2.0/24", "10.1.0.0/23"].map(|dst| dst.parse::<IpNet>().unwrap());
        let mut learnt = Learnt { settling: true, ..Learnt::default() };
        let before = learnt.digest(&[one]);
        assert!(learnt.may_come(&one) && learnt.may_come(&two));
        learnt.withdrawn.insert(all);
        assert!(!learnt.may_come(&one) && learnt.may_come(&two));
        assert_ne!(learnt.digest(&[one]), before);
        learnt.settling = false;
        assert!(!learnt.may_come(&two));
    }
}
