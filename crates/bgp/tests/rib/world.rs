//! A router with neighbours by name, routes as words, and what each neighbour was told as it would
//! read it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, LargeCommunity, NextHop, Origin, Segment},
    config::{Filter, Neighbour, Originated, Ttl},
    report::Learnt,
    rib::{Counts, Peer, Rib, Taken},
    wire::{self, Agreed, Frames, Message, Reach, Refresh, Update},
};

pub const OUR_AS: u32 = 64512;
pub const OUR_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

pub struct World {
    pub rib: Rib,
    pub peers: BTreeMap<String, Peer>,
    pub told: BTreeMap<String, Told>,
    pub originated: BTreeMap<IpNet, Originated>,
    pub connected: Vec<IpNet>,
    pub paths_max: usize,
}

/// What a neighbour knows of us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub routes: BTreeMap<IpNet, (Attrs, NextHop)>,
    /// Messages in short: `+10.1.0.0/16`, `-10.1.0.0/16`, `end ipv4`, `begin refresh ipv4`.
    pub log: Vec<String>,
    /// Not said again since the refresh began.
    old: BTreeMap<Family, BTreeSet<IpNet>>,
    /// May be said again, since it asked for that.
    again: BTreeSet<IpNet>,
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap_or_else(|_| panic!("{text} is no prefix"))
}

impl World {
    pub fn new() -> Self {
        let connected = ["10.0.0.0/16", "fd00::/64"].map(net).to_vec();
        let mut world = Self {
            rib: Rib::new(),
            peers: BTreeMap::new(),
            told: BTreeMap::new(),
            originated: BTreeMap::new(),
            connected,
            paths_max: 1,
        };
        world.configure();
        world
    }

    pub fn configure(&mut self) {
        self.rib.configure(OUR_ID, &self.originated, &self.connected, self.paths_max);
    }

    pub fn originate(&mut self, prefix: &str, own: Originated) {
        self.originated.insert(net(prefix), own);
        self.configure();
    }

    /// A neighbour that is at `addr`, which is its router id too.
    pub fn add(&mut self, name: &str, addr: &str, remote_as: u32) -> &mut Self {
        self.add_with(name, addr, remote_as, |_| ())
    }

    pub fn add_with(
        &mut self,
        name: &str,
        addr: &str,
        remote_as: u32,
        with: impl FnOnce(&mut Peer),
    ) -> &mut Self {
        let mut peer = peer(name, addr, remote_as);
        with(&mut peer);
        self.peers.insert(name.to_owned(), peer);
        self.up(name, addr);
        self
    }

    pub fn up(&mut self, name: &str, addr: &str) {
        self.told.insert(name.to_owned(), Told::default());
        self.rib.up(addr.parse().unwrap(), self.peers[name].clone());
    }

    pub fn addr(&self, name: &str) -> IpAddr {
        match self.peers[name].config.name.split_once('@') {
            Some((_, addr)) => addr.parse().unwrap(),
            None => panic!("{name} has no address"),
        }
    }

    /// `say("a", "10.1.0.0/16 10.2.0.0/16 path 65001 med 5")`: prefixes, then attributes.
    pub fn say(&mut self, name: &str, words: &str) -> Taken {
        let update = update(words, self.addr(name));
        self.rib.update(self.addr(name), update)
    }

    pub fn withdraw(&mut self, name: &str, prefixes: &str) {
        let withdrawn = prefixes.split_whitespace().map(net).collect();
        let update = Update { withdrawn, ..Update::default() };
        self.rib.update(self.addr(name), update);
    }

    /// Lets a neighbour read all there is, in pieces of about so many bytes.
    pub fn hear_in(&mut self, name: &str, most: usize) {
        let (addr, agreed) = (self.addr(name), self.peers[name].agreed.clone());
        while self.rib.has_outgoing(addr) {
            let mut bytes = Vec::new();
            let count = self.rib.outgoing(addr, &mut bytes, most);
            assert!(bytes.len() <= most + wire::MESSAGE_MAX, "{} of {most}", bytes.len());
            let told = self.told.get_mut(name).unwrap();
            assert_eq!(told.read(&bytes, &agreed), count);
        }
        let mut nothing = Vec::new();
        assert_eq!(self.rib.outgoing(addr, &mut nothing, most), 0);
        assert!(nothing.is_empty());
    }

    /// Lets it read once.
    pub fn hear_some(&mut self, name: &str, most: usize) {
        let (addr, agreed) = (self.addr(name), self.peers[name].agreed.clone());
        let mut bytes = Vec::new();
        let count = self.rib.outgoing(addr, &mut bytes, most);
        assert_eq!(self.told.get_mut(name).unwrap().read(&bytes, &agreed), count);
    }

    /// What it was told now, in short.
    pub fn hear(&mut self, name: &str) -> String {
        self.hear_in(name, 65_536);
        std::mem::take(&mut self.told.get_mut(name).unwrap().log).join(" ")
    }

    pub fn counts(&self, name: &str) -> Counts {
        self.rib.counts(self.addr(name))
    }

    pub fn learnt(&self) -> Vec<String> {
        self.rib.learnt().iter().map(learnt_text).collect()
    }
}

/// `10.1.0.0/16 via 10.0.0.1 path 65001 stale`
pub fn learnt_text(learnt: &Learnt) -> String {
    let mut text = learnt.prefix.to_string();
    for hop in &learnt.hops {
        text += &format!(" via {}", hop.via);
        text += &hop.through.map(|through| format!(" through {through}")).unwrap_or_default();
    }
    text += &learnt.why.as_ref().map(|why| format!(" nowhere: {why}")).unwrap_or_default();
    if !learnt.as_path.is_empty() {
        text += &format!(" path {}", learnt.as_path);
    }
    text + if learnt.stale { " stale" } else { "" }
}

fn peer(name: &str, addr: &str, remote_as: u32) -> Peer {
    let config = Neighbour {
        name: format!("{name}@{addr}"),
        local_as: OUR_AS,
        remote_as,
        local_addr: OUR_ID.into(),
        port: 179,
        passive: false,
        client: false,
        families: Family::ALL.into(),
        next_hop4: Some(OUR_ID),
        next_hop6: Some("fd00::100".parse().unwrap()),
        hold_time: 90,
        graceful_restart: None,
        password: None,
        ttl: Ttl::Any,
        bfd: false,
        routes_max: 1_000_000,
        import: Filter::all(),
        export: Filter::all(),
        communities: Vec::new(),
        large_communities: Vec::new(),
        own_only: false,
    };
    let agreed = Agreed {
        four_octet_as: true,
        ipv4: true,
        ipv6: true,
        ipv4_over_ipv6: false,
        external: remote_as != OUR_AS,
    };
    let router_id = match addr.parse().unwrap() {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(_) => Ipv4Addr::new(10, 0, 6, 6),
    };
    Peer { config, router_id, agreed }
}

impl Told {
    /// As the neighbour reads it; answers the number of messages.
    fn read(&mut self, bytes: &[u8], agreed: &Agreed) -> u64 {
        let mut frames = Frames::default();
        frames.push(bytes);
        let mut count = 0;
        while let Some(message) = frames.cut().unwrap() {
            count += 1;
            match wire::read(&message, agreed).unwrap().unwrap() {
                Message::Update(update) => self.update(update),
                Message::RouteRefresh(refresh) => self.refresh(refresh.family, refresh.kind),
                other => panic!("{other:?}"),
            }
        }
        count
    }

    fn update(&mut self, update: Update) {
        assert_eq!(update.faults, Vec::<String>::new());
        for prefix in &update.withdrawn {
            self.log.push(format!("-{prefix}"));
            assert!(self.routes.remove(prefix).is_some(), "{prefix} was not told");
        }
        let attrs = update.attrs.unwrap_or_default();
        for Reach { next_hop, prefixes } in update.reach {
            for prefix in prefixes {
                self.log.push(format!("+{prefix}"));
                let old = self.old.get_mut(&Family::of(&prefix));
                let again = old.is_some_and(|old| old.remove(&prefix));
                let again = self.again.remove(&prefix) || again;
                let before = self.routes.insert(prefix, (attrs.clone(), next_hop));
                let same = before.is_some_and(|before| before == (attrs.clone(), next_hop));
                assert!(again || !same, "{prefix} was told twice");
            }
        }
        if let Some(family) = update.end_of_rib {
            self.log.push(format!("end {family}"));
        }
    }

    fn refresh(&mut self, family: Family, kind: Refresh) {
        self.log.push(format!("{kind:?} {family}").to_lowercase());
        if kind == Refresh::Begin {
            let of_it = |prefix: &&IpNet| Family::of(prefix) == family;
            self.old.insert(family, self.routes.keys().filter(of_it).copied().collect());
        } else {
            let old = self.old.remove(&family).unwrap();
            self.routes.retain(|prefix, _| !old.contains(prefix));
        }
    }

    /// It asked for a refresh without marks: equal routes may come again.
    pub fn asked_again(&mut self) {
        self.again = self.routes.keys().copied().collect();
    }
}

/// Words of attributes: `path 65001 65002`, `set 1 2`, `confed 3`, `lp`, `med`, `origin egp`, `via`,
/// `originator`, `clusters`, `communities`, `large`.
pub fn update(words: &str, from: IpAddr) -> Update {
    let mut attrs = Attrs::default();
    let mut next_hop = from;
    let mut prefixes = Vec::new();
    let mut about = "";
    for word in words.split_whitespace() {
        if word.starts_with(|first: char| first.is_ascii_lowercase()) && !word.contains([':', '-'])
        {
            match (about, word) {
                ("origin", "egp") => attrs.origin = Origin::Egp,
                ("origin", "incomplete") => attrs.origin = Origin::Incomplete,
                _ => about = word,
            }
            continue;
        }
        match about {
            "" => prefixes.push(net(word)),
            "via" => next_hop = word.parse().unwrap(),
            _ => attribute(&mut attrs, about, word),
        }
    }
    let next_hop = match next_hop {
        IpAddr::V4(addr) => NextHop::V4(addr),
        IpAddr::V6(addr) => NextHop::V6(addr, None),
    };
    Update { attrs: Some(attrs), reach: vec![Reach { next_hop, prefixes }], ..Update::default() }
}

fn attribute(attrs: &mut Attrs, about: &str, word: &str) {
    let number = || word.parse::<u32>().unwrap_or_else(|_| panic!("{about} {word}"));
    match about {
        "path" => attrs.as_path.append(Segment::Sequence(vec![number()])),
        "set" => add_to_set(&mut attrs.as_path, number()),
        "confed" => attrs.as_path.append(Segment::ConfedSequence(vec![number()])),
        "lp" => attrs.local_pref = Some(number()),
        "med" => attrs.med = Some(number()),
        "originator" => attrs.originator = Some(word.parse().unwrap()),
        "clusters" => attrs.cluster_list.push(word.parse().unwrap()),
        "communities" => attrs.communities.push(word.parse::<Community>().unwrap()),
        "large" => attrs.large_communities.push(word.parse::<LargeCommunity>().unwrap()),
        _ => panic!("{about} {word}"),
    }
}

fn add_to_set(path: &mut AsPath, asn: u32) {
    match path.0.last_mut() {
        Some(Segment::Set(set)) => set.push(asn),
        _ => path.0.push(Segment::Set(vec![asn])),
    }
}
