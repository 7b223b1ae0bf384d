//! Which block of a range a node should claim. The claim itself is one create-if-absent in the
//! store, so two nodes that pick the same are told apart there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::name::{NodeName, fnv1a};

/// Blocks of `range` in the order in which `node` should try them. Nodes begin at places of their
/// own, so that many that come at once seldom meet.
pub fn candidates(range: IpNet, prefix: u8, node: &NodeName) -> impl Iterator<Item = IpNet> {
    let bits = u32::from(prefix.saturating_sub(range.prefix_len())).min(63);
    let count = 1u64 << bits;
    let start = fnv1a(&[node.as_str(), &range.to_string()]) % count;
    (0..count).filter_map(move |step| {
        let index = (start + step) % count;
        let shift = u32::from(range.max_prefix_len() - prefix);
        let base: IpAddr = match range.network() {
            IpAddr::V4(first) => {
                let offset = u32::try_from(u128::from(index) << shift).ok()?;
                Ipv4Addr::from(u32::from(first).checked_add(offset)?).into()
            }
            IpAddr::V6(first) => {
                Ipv6Addr::from(u128::from(first).checked_add(u128::from(index) << shift)?).into()
            }
        };
        IpNet::new(base, prefix).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_block_of_the_range_once() {
        for (range, prefix, count) in
            [("10.0.0.0/22", 24, 4), ("10.0.0.0/24", 24, 1), ("fd00::/108", 112, 16)]
        {
            let range: IpNet = range.parse().unwrap();
            for node in ["a", "b", "node-7.example"] {
                let all: Vec<IpNet> = candidates(range, prefix, &node.parse().unwrap()).collect();
                let different: BTreeSet<&IpNet> = all.iter().collect();
                assert_eq!((all.len(), different.len()), (count, count), "{range}");
                assert!(all.iter().all(|block| range.contains(block) && block.trunc() == *block));
            }
        }
    }

    #[test]
    fn nodes_begin_at_different_places() {
        let range: IpNet = "10.0.0.0/8".parse().unwrap();
        let first = |n: u32| candidates(range, 24, &format!("node-{n}").parse().unwrap()).next();
        let starts: BTreeSet<_> = (0..100).map(first).collect();
        assert!(starts.len() > 95, "{}", starts.len());
    }
}
