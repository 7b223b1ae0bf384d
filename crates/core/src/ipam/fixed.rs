//! Addresses that pods get one at a time, on whichever node. One record each in the store, so that of
//! two nodes that want the same the store says who was first; which one to want is said here.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Reserve, at};
use crate::name::{NodeName, fnv1a};

/// Who has a static address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedClaim {
    pub schema: u32,
    /// The node of the pod that has it; none: it is kept for when `pod` comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    pub boot: String,
    /// NAMESPACE/NAME where the runtime told it, else the container.
    pub pod: String,
    /// The container for which it was claimed.
    pub container: String,
    /// It outlives the pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl FixedClaim {
    /// The node that has it, if that is not `me`: of what was ours the ledger tells more.
    pub fn elsewhere(&self, me: &NodeName) -> Option<&NodeName> {
        self.node.as_ref().filter(|node| *node != me)
    }
}

/// An address to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub addr: IpAddr,
    /// The revision of the claim that is replaced; none: there is none.
    pub instead: Option<u64>,
}

/// Why there is none to be wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFixed {
    #[error("{pod} still has {addr} on node {node}: it moves once that pod is gone there")]
    Held { addr: IpAddr, pod: String, node: NodeName },
    #[error(
        "all {0} static addresses that were tried are with pods or strangers: name more in `static`"
    )]
    Full(usize),
}

/// Addresses looked at for one that nobody ever had, beyond those that are known to be claimed.
const LOOKED_AT_MAX: usize = 4096;

/// The address for a pod's name: the one that it had, else one that nobody had, else the one that
/// has been free the longest. Not one that is `lost`: somebody else was quicker.
pub fn sticky<'a>(
    reserve: &Reserve,
    claims: impl Iterator<Item = (IpAddr, u64, &'a FixedClaim)>,
    (pod, me, ipv4): (&str, &NodeName, bool),
    lost: impl Fn(&IpAddr) -> bool,
) -> Result<Wanted, NoFixed> {
    let of_family = claims.filter(|(addr, ..)| addr.is_ipv4() == ipv4);
    let claims: BTreeMap<IpAddr, (u64, &FixedClaim)> =
        of_family.map(|(addr, revision, claim)| (addr, (revision, claim))).collect();
    let may = |addr: &IpAddr| reserve.fixes(*addr) && !lost(addr);
    let had = claims.iter().filter(|(addr, (_, claim))| claim.pod == pod && may(addr));
    // Two, where it came twice at once: the one that somebody has, else the later.
    let had = had.max_by_key(|(_, (revision, claim))| (claim.node.is_some(), *revision));
    if let Some((addr, (revision, claim))) = had {
        return match claim.elsewhere(me) {
            Some(node) => {
                Err(NoFixed::Held { addr: *addr, pod: pod.to_owned(), node: node.clone() })
            }
            None => Ok(Wanted { addr: *addr, instead: Some(*revision) }),
        };
    }
    let mut fresh = each(reserve, ipv4, pod).take(claims.len() + LOOKED_AT_MAX);
    if let Some(addr) = fresh.find(|addr| may(addr) && !claims.contains_key(addr)) {
        return Ok(Wanted { addr, instead: None });
    }
    let free = claims.iter().filter(|(addr, (_, claim))| claim.node.is_none() && may(addr));
    let oldest = free.min_by_key(|(_, (revision, _))| *revision);
    match oldest {
        Some((addr, (revision, _))) => Ok(Wanted { addr: *addr, instead: Some(*revision) }),
        None => Err(NoFixed::Full(claims.len())),
    }
}

/// Static addresses once each, from a place that follows from the pod's name: many that come at
/// once seldom meet.
fn each<'a>(reserve: &'a Reserve, ipv4: bool, pod: &str) -> impl Iterator<Item = IpAddr> + 'a {
    let start = fnv1a(&[pod]);
    reserve.fixed(ipv4).flat_map(move |span| {
        let size = size(span);
        let start = u128::from(start) % size;
        (0..size).map(move |step| at(span, (start + step) % size))
    })
}

fn size(span: &IpNet) -> u128 {
    1u128.checked_shl((span.max_prefix_len() - span.prefix_len()).into()).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn reserve() -> Reserve {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        Reserve::with_fixed([net("10.0.0.0/32"), net("10.0.0.15/32")], [net("10.0.0.12/30")])
    }

    fn claim(pod: &str, node: Option<&str>) -> FixedClaim {
        FixedClaim {
            schema: 1,
            node: node.map(|node| node.parse().unwrap()),
            boot: String::new(),
            pod: pod.into(),
            container: String::new(),
            sticky: true,
            extra: Map::new(),
        }
    }

    /// What `pod` on node `a` wants beside these claims: address, revision, pod, node.
    fn wanted(pod: &str, claims: &[(&str, u64, &str, Option<&str>)], lost: &[&str]) -> String {
        let claims: Vec<_> = claims
            .iter()
            .map(|(addr, revision, pod, node)| {
                (addr.parse().unwrap(), *revision, claim(pod, *node))
            })
            .collect();
        let lost = |addr: &IpAddr| lost.contains(&addr.to_string().as_str());
        let claims = claims.iter().map(|(addr, revision, claim)| (*addr, *revision, claim));
        match sticky(&reserve(), claims, (pod, &"a".parse().unwrap(), true), lost) {
            Ok(Wanted { addr, instead }) => format!("{addr} instead of {instead:?}"),
            Err(no) => no.to_string(),
        }
    }

    #[test]
    fn a_name_gets_what_it_had_then_what_nobody_had_then_what_is_free_longest() {
        let (x, y, z) = ("10.0.0.12", "10.0.0.13", "10.0.0.14");
        assert_eq!(wanted("n/w", &[(x, 3, "n/w", None)], &[]), format!("{x} instead of Some(3)"));
        let ours = [(x, 3, "n/w", Some("a"))];
        assert_eq!(wanted("n/w", &ours, &[]), format!("{x} instead of Some(3)"));
        let theirs = [(x, 3, "n/w", Some("b")), (y, 4, "n/w", None)];
        assert!(wanted("n/w", &theirs, &[]).starts_with("n/w still has 10.0.0.12 on node b"));
        let two = [(x, 3, "n/w", None), (y, 4, "n/w", None)];
        assert_eq!(wanted("n/w", &two, &[]), format!("{y} instead of Some(4)"));
        let fresh = [(x, 9, "n/v", None), (y, 4, "n/u", Some("a"))];
        assert_eq!(wanted("n/w", &fresh, &[]), format!("{z} instead of None"));
        let full = [(x, 9, "n/v", None), (y, 4, "n/u", None), (z, 5, "n/t", Some("b"))];
        assert_eq!(wanted("n/w", &full, &[]), format!("{y} instead of Some(4)"));
        assert_eq!(wanted("n/w", &full, &[y]), format!("{x} instead of Some(9)"));
        assert!(wanted("n/w", &full, &[x, y]).contains("all 3 static addresses"));
    }

    #[test]
    fn every_static_address_once_but_what_is_kept() {
        let mut given = BTreeSet::new();
        for n in 0..3 {
            let claims: Vec<_> = given.iter().map(|addr: &String| addr.as_str()).collect();
            let claims: Vec<_> = claims.iter().map(|addr| (*addr, 1, "other", Some("b"))).collect();
            let said = wanted(&format!("n/{n}"), &claims, &[]);
            given.insert(said.split(' ').next().unwrap().to_owned());
        }
        assert_eq!(given.into_iter().collect::<Vec<_>>(), ["10.0.0.12", "10.0.0.13", "10.0.0.14"]);
    }
}
