//! The tables again, as simple as can be: all that was said in one map, and every answer made of it
//! from the beginning each time it is asked for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Segment},
    config::Originated,
    report::{Learnt, LearntHop},
    rib::{Counts, Peer},
    wire::Update,
};

use super::world::{OUR_AS, OUR_ID};

#[derive(Default)]
pub struct Model {
    pub peers: BTreeMap<String, ModelPeer>,
    pub originated: BTreeMap<IpNet, Originated>,
    pub connected: Vec<IpNet>,
    pub paths_max: usize,
    pub said: BTreeMap<(IpNet, String), Said>,
}

pub struct ModelPeer {
    pub addr: IpAddr,
    pub of: Peer,
    pub up: bool,
    pub refused: BTreeMap<String, u32>,
}

#[derive(Clone)]
pub struct Said {
    pub attrs: Attrs,
    pub next_hop: NextHop,
    pub stale: bool,
}

/// Where next hops lead.
type Ways = BTreeMap<IpAddr, Vec<IpAddr>>;

/// A path that takes part in the choice.
#[derive(Clone)]
struct Candidate<'a> {
    name: &'a str,
    peer: &'a ModelPeer,
    said: &'a Said,
}

impl Model {
    /// Answers the family of which it said too many.
    pub fn update(&mut self, name: &str, update: &Update) -> Option<Family> {
        if !self.peers[name].up {
            return None;
        }
        for prefix in &update.withdrawn {
            self.said.remove(&(*prefix, name.to_owned()));
        }
        let attrs = update.attrs.clone()?;
        for reach in &update.reach {
            for prefix in &reach.prefixes {
                let key = (*prefix, name.to_owned());
                if let Some(why) = self.refuses(name, &attrs, reach.next_hop, prefix) {
                    let peer = self.peers.get_mut(name).unwrap();
                    *peer.refused.entry(why.to_owned()).or_default() += 1;
                    self.said.remove(&key);
                    continue;
                }
                let fresh = self.count(name, Family::of(prefix), |said| !said.stale);
                let new = self.said.get(&key).is_none_or(|said| said.stale);
                if new && fresh >= self.peers[name].of.config.routes_max {
                    return Some(Family::of(prefix));
                }
                let said = Said { attrs: attrs.clone(), next_hop: reach.next_hop, stale: false };
                self.said.insert(key, said);
            }
        }
        None
    }

    fn refuses(
        &self,
        name: &str,
        attrs: &Attrs,
        next_hop: NextHop,
        prefix: &IpNet,
    ) -> Option<&'static str> {
        let ours = [IpAddr::from(OUR_ID), "fd00::100".parse().unwrap()];
        let martian = ["127.0.0.0/8", "224.0.0.0/4", "fe80::/10", "ff00::/8"]
            .iter()
            .any(|net| net.parse::<IpNet>().unwrap().contains(prefix));
        let reasons = [
            (attrs.as_path.to_string().contains(&OUR_AS.to_string()), "own AS in path"),
            (attrs.originator == Some(OUR_ID), "own router id as originator"),
            (attrs.cluster_list.contains(&OUR_ID), "own router id in cluster list"),
            (ours.contains(&next_hop.addr()), "next hop is our own address"),
            (martian, "prefix that is never routed"),
            (!self.peers[name].of.config.import.passes(prefix), "import filter"),
        ];
        reasons.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
    }

    pub fn down(&mut self, name: &str, keep: &BTreeSet<Family>) {
        self.said.retain(|(prefix, who), said| {
            who != name || keep.contains(&Family::of(prefix)) && !said.stale
        });
        for family in keep {
            self.stale(name, *family);
        }
        self.peers.get_mut(name).unwrap().up = false;
    }

    pub fn stale(&mut self, name: &str, family: Family) {
        let of_it = self
            .said
            .iter_mut()
            .filter(|((prefix, who), _)| who == name && Family::of(prefix) == family);
        of_it.for_each(|(_, said)| said.stale = true);
    }

    pub fn sweep(&mut self, name: &str, family: Family) {
        self.said.retain(|(prefix, who), said| {
            who != name || Family::of(prefix) != family || !said.stale
        });
    }

    fn count(&self, name: &str, family: Family, which: impl Fn(&Said) -> bool) -> u32 {
        let of_it = self.said.iter().filter(|((prefix, who), said)| {
            who == name && Family::of(prefix) == family && which(said)
        });
        u32::try_from(of_it.count()).unwrap()
    }

    /// `told` is known only once all was heard.
    pub fn counts(&self, name: &str) -> Counts {
        let by_family = |which: fn(&Said) -> bool| {
            let counts = Family::ALL.map(|family| (family, self.count(name, family, which)));
            counts.into_iter().filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
        };
        let taken = by_family(|_| true);
        let peer = &self.peers[name];
        let is_known = peer.up || !taken.is_empty();
        Counts {
            stale: by_family(|said| said.stale),
            taken,
            told: BTreeMap::new(),
            refused: if is_known { peer.refused.clone() } else { BTreeMap::new() },
        }
    }

    pub fn learnt(&self) -> Vec<Learnt> {
        let ways = self.ways();
        let prefixes: BTreeSet<IpNet> = self.said.keys().map(|(prefix, _)| *prefix).collect();
        let foreign = |prefix: &IpNet| !self.originated.contains_key(prefix);
        let prefixes = prefixes.into_iter().filter(foreign);
        prefixes.filter_map(|prefix| self.learnt_of(prefix, &ways)).collect()
    }

    fn learnt_of(&self, prefix: IpNet, ways: &Ways) -> Option<Learnt> {
        let all = self.candidates(&prefix);
        let usable = usable(&all, ways);
        let equal = self.equal(if usable.is_empty() { all } else { usable });
        let best = equal.first()?;
        let mut hops: Vec<LearntHop> = Vec::new();
        for one in &equal {
            let said = one.said.next_hop.addr();
            let through = Some(said).filter(|_| !self.is_onlink(said));
            for via in &ways[&said] {
                if hops.iter().all(|hop| hop.via != *via) {
                    hops.push(LearntHop { via: *via, from: one.peer.addr, through });
                }
            }
        }
        hops.truncate(self.paths_max);
        hops.sort();
        let next_hop = best.said.next_hop.addr();
        let why = format!("next hop {next_hop} is not on-link and no learnt route leads to it");
        Some(Learnt {
            prefix,
            why: hops.is_empty().then(|| why.into()),
            hops: hops.into(),
            stale: best.said.stale,
            as_path: best.said.attrs.as_path.to_string().into(),
        })
    }

    fn candidates(&self, prefix: &IpNet) -> Vec<Candidate<'_>> {
        let of_prefix = self.said.range((*prefix, String::new())..);
        let of_prefix = of_prefix.take_while(|((other, _), _)| other == prefix);
        of_prefix
            .map(|((_, name), said)| Candidate { name, peer: &self.peers[name], said })
            .collect()
    }

    fn is_onlink(&self, addr: IpAddr) -> bool {
        let link_local = matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
        link_local || self.connected.iter().any(|net| net.contains(&addr))
    }

    /// Each far next hop leads where the longest prefix around it leads that leads anywhere, as that
    /// was found in the round before.
    fn ways(&self) -> Ways {
        let hops: BTreeSet<IpAddr> = self.said.values().map(|said| said.next_hop.addr()).collect();
        let at_once = |hop: &IpAddr| if self.is_onlink(*hop) { vec![*hop] } else { Vec::new() };
        let mut ways: Ways = hops.iter().map(|hop| (*hop, at_once(hop))).collect();
        for _ in 0..4 {
            let next = |hop: &IpAddr| {
                if self.is_onlink(*hop) { vec![*hop] } else { self.way(*hop, &ways) }
            };
            ways = hops.iter().map(|hop| (*hop, next(hop))).collect();
        }
        ways
    }

    fn way(&self, hop: IpAddr, ways: &Ways) -> Vec<IpAddr> {
        let around: BTreeSet<IpNet> =
            self.said.keys().map(|(prefix, _)| *prefix).filter(|net| net.contains(&hop)).collect();
        let mut around: Vec<IpNet> = around.into_iter().collect();
        around.sort_by_key(|net| Reverse(net.prefix_len()));
        for net in around {
            let mut candidates = self.candidates(&net);
            candidates.retain(|one| one.said.next_hop.addr() != hop);
            let mut vias = Vec::new();
            for one in self.equal(usable(&candidates, ways)) {
                for via in &ways[&one.said.next_hop.addr()] {
                    if !vias.contains(via) {
                        vias.push(*via);
                    }
                }
            }
            vias.truncate(self.paths_max);
            if !vias.is_empty() {
                return vias;
            }
        }
        Vec::new()
    }

    /// The best ones, the very best first.
    fn equal<'a>(&self, mut left: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        least(&mut left, |one| Reverse(one.said.attrs.local_pref.unwrap_or(100)));
        least(&mut left, |one| one.said.attrs.as_path.length());
        least(&mut left, |one| one.said.attrs.origin);
        let all = left.clone();
        left.retain(|one| {
            let med = |one: &Candidate<'_>| one.said.attrs.med.unwrap_or(0);
            let same =
                |other: &&Candidate<'_>| first_as(&other.said.attrs) == first_as(&one.said.attrs);
            all.iter().filter(same).all(|other| med(other) >= med(one))
        });
        least(&mut left, |one| !one.peer.of.agreed.external);
        least(&mut left, |one| !self.is_onlink(one.said.next_hop.addr()));
        left.sort_by_key(|one| {
            let attrs = &one.said.attrs;
            let id = attrs.originator.unwrap_or(one.peer.of.router_id);
            (one.said.stale, id, attrs.cluster_list.len(), one.peer.addr)
        });
        left
    }

    /// All that the neighbour is to know.
    pub fn told(&self, to: &str) -> BTreeMap<IpNet, (Attrs, NextHop)> {
        let ways = self.ways();
        let said = self.said.keys().map(|(prefix, _)| *prefix);
        let prefixes: BTreeSet<IpNet> = said.chain(self.originated.keys().copied()).collect();
        let peer = &self.peers[to];
        let told = |prefix: IpNet| {
            let route = match self.originated.get(&prefix) {
                Some(own) => own_route(own, prefix, &peer.of),
                None => self.others_route(&prefix, to, &ways),
            };
            let passes = peer.of.config.export.passes(&prefix);
            route.filter(|_| passes).map(|route| (prefix, route))
        };
        prefixes.into_iter().filter_map(told).collect()
    }

    fn others_route(&self, prefix: &IpNet, to: &str, ways: &Ways) -> Option<(Attrs, NextHop)> {
        let equal = self.equal(usable(&self.candidates(prefix), ways));
        let best = equal.first()?;
        let (from, to_peer) = (&best.peer.of, &self.peers[to].of);
        let mut attrs = best.said.attrs.clone();
        let has = |community| attrs.communities.contains(&community);
        let (ext_from, ext_to) = (from.agreed.external, to_peer.agreed.external);
        if best.name == to
            || to_peer.config.own_only
            || has(Community::NO_ADVERTISE)
            || ext_to && (has(Community::NO_EXPORT) || has(Community::NO_EXPORT_SUBCONFED))
            || !ext_from && !ext_to && !from.config.client && !to_peer.config.client
        {
            return None;
        }
        if ext_to {
            attrs.med = None;
            return Some((to_outside(attrs), next_hop_self(prefix, to_peer)?));
        }
        attrs.local_pref = attrs.local_pref.or(Some(100));
        if ext_from {
            return Some((attrs, next_hop_self(prefix, to_peer)?));
        }
        attrs.originator = attrs.originator.or(Some(from.router_id));
        attrs.cluster_list.insert(0, OUR_ID);
        let next_hop = match best.said.next_hop {
            NextHop::V6(addr, _) if addr.segments()[0] == 0xfe80 => {
                return Some((attrs, next_hop_self(prefix, to_peer)?));
            }
            NextHop::V6(addr, _) => NextHop::V6(addr, None),
            next_hop @ NextHop::V4(_) => next_hop,
        };
        let mixed = prefix.addr().is_ipv4() && !next_hop.addr().is_ipv4();
        (!mixed || to_peer.agreed.ipv4_over_ipv6).then_some((attrs, next_hop))
    }
}

fn own_route(own: &Originated, prefix: IpNet, to: &Peer) -> Option<(Attrs, NextHop)> {
    if own.external_only && !to.agreed.external {
        return None;
    }
    let both = [&own.communities[..], &to.config.communities].concat();
    let communities: BTreeSet<Community> = both.into_iter().collect();
    let attrs = Attrs {
        med: own.med,
        local_pref: Some(100),
        communities: communities.into_iter().collect(),
        ..Attrs::default()
    };
    let attrs = if to.agreed.external { to_outside(attrs) } else { attrs };
    Some((attrs, next_hop_self(&prefix, to)?))
}

fn to_outside(attrs: Attrs) -> Attrs {
    let mut path = AsPath(vec![Segment::Sequence(vec![OUR_AS])]);
    attrs.as_path.0.iter().for_each(|segment| path.append(segment.clone()));
    Attrs { as_path: path, local_pref: None, originator: None, cluster_list: Vec::new(), ..attrs }
}

fn next_hop_self(prefix: &IpNet, to: &Peer) -> Option<NextHop> {
    let config = &to.config;
    let hop6 = config.next_hop6.map(|addr| NextHop::V6(addr, None));
    if !prefix.addr().is_ipv4() {
        return hop6;
    }
    let hop4: Option<Ipv4Addr> = config.next_hop4;
    hop4.map(NextHop::V4).or(hop6.filter(|_| to.agreed.ipv4_over_ipv6))
}

fn usable<'a>(candidates: &[Candidate<'a>], ways: &Ways) -> Vec<Candidate<'a>> {
    let leads = |one: &&Candidate<'_>| !ways[&one.said.next_hop.addr()].is_empty();
    candidates.iter().filter(leads).cloned().collect()
}

fn least<'a, T: Ord>(left: &mut Vec<Candidate<'a>>, of: impl Fn(&Candidate<'a>) -> T) {
    let least = left.iter().map(&of).min();
    left.retain(|one| Some(of(one)) == least);
}

fn first_as(attrs: &Attrs) -> Option<u32> {
    match attrs.as_path.0.first()? {
        Segment::Sequence(asns) => asns.first().copied(),
        _ => None,
    }
}
