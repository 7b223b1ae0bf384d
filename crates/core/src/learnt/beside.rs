//! Learnt routes that are no peer's block: installed as they are, unless they contradict what is known
//! here for sure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Learnt, Route};
use crate::{
    name::{IfName, NetworkName},
    paths::Reach,
    state::{self, Hop, Object},
};

/// What they may not contradict.
pub struct Ours<'a> {
    /// The ranges of every network, served or not.
    pub ranges: &'a [(NetworkName, IpNet)],
    /// Blocks of any node.
    pub blocks: &'a BTreeSet<IpNet>,
    /// This node's.
    pub own: &'a BTreeSet<IpNet>,
    /// Prefixes that are on-link here.
    pub connected: &'a [IpNet],
    /// How each next hop is reached.
    pub reach: &'a BTreeMap<IpAddr, Option<Reach>>,
}

/// Where each of them leads, and which were refused, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    pub routes: BTreeMap<IpNet, state::Group>,
    /// They contradict what is known here: the operator should know.
    pub refused: BTreeMap<IpNet, String>,
    /// They lead nowhere for now.
    pub unresolved: BTreeMap<IpNet, String>,
}

impl Beside {
    /// What the kernel must hold of them.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        self.routes.iter().flat_map(|(dst, hops)| through(*dst, hops))
    }
}

/// A route through these next hops, and what it stands on.
pub(crate) fn through(dst: IpNet, hops: &state::Group) -> Vec<Object> {
    let single = |(dev, via): &(IfName, IpAddr)| Object::NextHop { dev: dev.clone(), via: *via };
    let mut objects: Vec<Object> = hops.hops().iter().map(single).collect();
    let to = match hops.hops() {
        [] => return objects,
        [(dev, via)] => Hop::NextHop(dev.clone(), *via),
        _ => {
            objects.push(Object::Group { hops: hops.clone() });
            Hop::Group(hops.clone())
        }
    };
    objects.push(Object::Route(state::Route { dst, to, mtu: None }));
    objects
}

pub fn beside(learnt: &Learnt, ours: &Ours<'_>) -> Beside {
    let mut beside = Beside::default();
    for (dst, route) in &learnt.routes {
        match ours.judge(dst) {
            Judged::Known => {}
            Judged::Refused(why) => drop(beside.refused.insert(*dst, why)),
            Judged::Taken => match resolve(dst, route, ours.reach) {
                Ok(hops) => drop(beside.routes.insert(*dst, hops)),
                Err(why) => drop(beside.unresolved.insert(*dst, why)),
            },
        }
    }
    beside
}

enum Judged {
    Taken,
    /// A node's block, or a part of one: paths are chosen for it.
    Known,
    Refused(String),
}

impl Ours<'_> {
    fn judge(&self, dst: &IpNet) -> Judged {
        if self.own.iter().any(|own| own.contains(dst)) {
            let why = "it is this node's own block, or a part of it: somebody else says it too";
            return Judged::Refused(why.into());
        }
        let inside = self.ranges.iter().find(|(_, range)| range.contains(dst));
        if let Some((network, _)) = inside {
            // A block contains only its own parts, so it is the next before or the same.
            let has = |block: &IpNet| block.contains(dst);
            return if self.blocks.range(..=*dst).next_back().is_some_and(has)
                || self.blocks.iter().any(has)
            {
                Judged::Known
            } else {
                Judged::Refused(format!("inside network {network}, and no node has that block"))
            };
        }
        // What is shorter loses against the link's own route anyway.
        match self.connected.iter().find(|on_link| on_link.contains(dst)) {
            Some(on_link) => Judged::Refused(format!("{on_link} is on-link here")),
            None => Judged::Taken,
        }
    }
}

fn resolve(
    dst: &IpNet,
    route: &Route,
    reach: &BTreeMap<IpAddr, Option<Reach>>,
) -> Result<state::Group, String> {
    let nowhere = || route.why.clone().unwrap_or_else(|| "it leads nowhere".into());
    let mut why = None;
    let mut hops = Vec::new();
    for via in &route.hops {
        match on_link(*via, dst.addr().is_ipv4(), reach) {
            Ok(reach) => hops.push((reach.dev.clone(), *via)),
            Err(bad) => why = why.or(Some(bad)),
        }
    }
    if hops.is_empty() { Err(why.unwrap_or_else(nowhere)) } else { Ok(hops.into()) }
}

/// The way to a next hop, which must be on-link; or why it can't be one.
pub(crate) fn on_link(
    via: IpAddr,
    ipv4: bool,
    reach: &BTreeMap<IpAddr, Option<Reach>>,
) -> Result<&Reach, String> {
    if !ipv4 && via.is_ipv4() {
        return Err(format!("an IPv6 route cannot go through the IPv4 next hop {via}"));
    }
    match reach.get(&via).and_then(Option::as_ref) {
        None => Err(format!("next hop {via}: no route to it")),
        Some(Reach { gateway: Some(gateway), .. }) => {
            Err(format!("next hop {via} is not on-link: it is reached through {gateway}"))
        }
        Some(reach) => Ok(reach),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Mtu;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_no_block_is_installed_unless_it_contradicts() {
        let ranges = [("blue".parse().unwrap(), net("10.1.0.0/16"))];
        let blocks = [net("10.1.2.0/24"), net("10.1.7.0/24")].into();
        let own = [net("10.1.9.0/24")].into();
        let at = |gateway: Option<&str>| {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            Some(Reach { dev: IfName::new("eth0"), gateway, mtu: Mtu::ETHERNET })
        };
        let reach: BTreeMap<IpAddr, Option<Reach>> = [
            ("192.0.2.253".parse().unwrap(), at(None)),
            ("192.0.2.254".parse().unwrap(), at(None)),
            ("203.0.113.1".parse().unwrap(), at(Some("192.0.2.254"))),
        ]
        .into();
        let connected = [net("192.0.2.0/24")];
        let ours = Ours {
            ranges: &ranges,
            blocks: &blocks,
            own: &own,
            connected: &connected,
            reach: &reach,
        };
        let two = ["192.0.2.254", "192.0.2.253"];
        for (dst, hops, want) in [
            (
                "203.0.113.0/24",
                &["192.0.2.254"][..],
                "route 203.0.113.0/24 via 192.0.2.254 dev eth0",
            ),
            (
                "203.0.113.0/24",
                &two,
                "route 203.0.113.0/24 nexthop via 192.0.2.253 dev eth0 nexthop via 192.0.2.254 dev eth0",
            ),
            ("0.0.0.0/0", &["192.0.2.254"], "route 0.0.0.0/0 via 192.0.2.254 dev eth0"),
            ("10.0.0.0/8", &["192.0.2.254"], "route 10.0.0.0/8 via 192.0.2.254 dev eth0"),
            ("192.0.0.0/16", &["192.0.2.254"], "route 192.0.0.0/16 via 192.0.2.254 dev eth0"),
            ("10.1.2.0/24", &["192.0.2.254"], ""),
            ("10.1.7.5/32", &["192.0.2.254"], ""),
            ("10.1.3.0/24", &["192.0.2.254"], "inside network blue, and no node has that block"),
            ("10.1.2.0/23", &["192.0.2.254"], "inside network blue, and no node has that block"),
            ("10.1.9.0/24", &["192.0.2.254"], "it is this node's own block"),
            ("192.0.2.0/24", &["192.0.2.254"], "192.0.2.0/24 is on-link here"),
            ("192.0.2.7/32", &["192.0.2.254"], "192.0.2.0/24 is on-link here"),
            ("203.0.113.0/24", &[], "it leads nowhere"),
            (
                "203.0.113.0/24",
                &["203.0.113.1"],
                "next hop 203.0.113.1 is not on-link: it is reached through 192.0.2.254",
            ),
            ("2001:db8:9::/48", &["192.0.2.254"], "an IPv6 route cannot go through"),
        ] {
            let hops = hops.iter().map(|hop| hop.parse().unwrap()).collect();
            let route = Route { hops, why: None };
            let learnt = Learnt { routes: [(net(dst), route)].into(), ..Learnt::default() };
            let beside = beside(&learnt, &ours);
            let said = beside.refused.values().chain(beside.unresolved.values()).next();
            let got = beside.objects().last().map(|object| object.to_string());
            let got = got.or(said.cloned()).unwrap_or_default();
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{dst}: {got}");
        }
    }
}
