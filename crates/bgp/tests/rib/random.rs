//! Tens of thousands of random events, after each of which the tables answer as the model does, which
//! makes every answer from the beginning.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Origin, Segment},
    config::{Filter, Originated, Rule},
    report::Learnt,
    rib::Rib,
    wire::{Reach, Update},
};

use super::{
    model::{Model, ModelPeer},
    world::{OUR_AS, OUR_ID, World, net},
};

const NAMES: [(&str, &str, u32); 4] = [
    ("client", "10.0.0.1", OUR_AS),
    ("node", "10.0.0.2", OUR_AS),
    ("tor", "10.0.1.1", 65001),
    ("other", "10.0.1.2", 65002),
];
const PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.0/25",
    "10.2.0.0/16",
    "172.16.0.0/12",
    "172.16.1.0/24",
    "fd01::/64",
    "fd01:0:0:0:8000::/65",
    "fd02::/16",
    "224.1.0.0/16",
    "192.168.7.0/24",
];
const HOPS4: [&str; 7] =
    ["10.0.0.1", "10.0.0.2", "10.0.1.1", "172.16.1.1", "10.1.2.3", "10.2.0.1", "10.0.0.100"];
const HOPS6: [&str; 5] = ["fd00::1", "fd00::2", "fd01::1", "fd02::1", "fe80::1"];

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

struct Test {
    random: Random,
    world: World,
    model: Model,
    /// As `changed` tells it.
    mirror: BTreeMap<IpNet, Learnt>,
    learnt: Vec<Learnt>,
    version: u64,
}

#[test]
fn the_tables_answer_as_the_model_does() {
    for seed in 1..=12 {
        let mut test = Test::new(0x9e37_79b9_7f4a_7c15 ^ seed);
        for step in 0..2500 {
            let what = test.step();
            test.check(&format!("seed {seed}, step {step}: {what}"));
        }
    }
}

impl Test {
    fn new(seed: u64) -> Self {
        let mut world = World::new();
        let mut model = Model::default();
        for (name, addr, asn) in NAMES {
            world.add_with(name, addr, asn, |peer| match name {
                "client" => {
                    peer.config.client = true;
                    peer.agreed.ipv4_over_ipv6 = true;
                }
                "other" => {
                    peer.config.communities = vec![Community(1 << 16 | 2)];
                    peer.config.routes_max = 5;
                    peer.config.next_hop4 = None;
                    peer.agreed.ipv4_over_ipv6 = true;
                }
                _ => {}
            });
            let addr = addr.parse().unwrap();
            let (of, refused) = (world.peers[name].clone(), BTreeMap::new());
            model.peers.insert(name.to_owned(), ModelPeer { addr, of, up: true, refused });
        }
        let mut test = Self {
            random: Random(seed),
            world,
            model,
            mirror: BTreeMap::new(),
            learnt: Vec::new(),
            version: 0,
        };
        test.configure();
        test
    }

    fn configure(&mut self) {
        self.world.configure();
        self.model.originated = self.world.originated.clone();
        self.model.connected = self.world.connected.clone();
        self.model.paths_max = self.world.paths_max;
    }

    /// Answers what it did.
    fn step(&mut self) -> String {
        let (name, addr, _) = self.random.of(&NAMES);
        let family = self.random.of(&Family::ALL);
        let at: IpAddr = addr.parse().unwrap();
        if !self.model.peers[name].up && self.random.once_in(10) {
            return self.down_or_up(name, addr);
        }
        match self.random.below(40) {
            0..16 => self.say(name),
            16..23 => self.withdraw(name),
            23 => self.down_or_up(name, addr),
            24 => {
                self.world.rib.stale(at, family);
                self.model.stale(name, family);
                format!("{name} stale {family}")
            }
            25 => {
                self.world.rib.sweep(at, family);
                self.model.sweep(name, family);
                format!("{name} sweep {family}")
            }
            26..29 => self.originate(),
            29 => self.reconnect(),
            30 => self.filter(name),
            31 => {
                let marked = self.random.once_in(2);
                if !marked {
                    self.world.told.get_mut(name).unwrap().asked_again();
                }
                self.world.rib.refresh(at, family, marked);
                format!("{name} refresh {family} {marked}")
            }
            32 => {
                self.world.rib.end_of_rib(at, family);
                format!("{name} end of rib {family}")
            }
            33..36 => {
                self.world.hear_some(name, 100);
                format!("{name} hears some")
            }
            36 if self.random.once_in(10) => self.restart(),
            36..38 => {
                self.changed();
                "changed".to_owned()
            }
            _ => self.hear(name),
        }
    }

    fn say(&mut self, name: &str) -> String {
        let update = self.update(name);
        let at = self.world.addr(name);
        let taken = self.world.rib.update(at, update.clone());
        let expected = self.model.update(name, &update);
        assert_eq!(taken.too_many, expected, "{name} {update:?}");
        format!("{name} {update:?}")
    }

    fn withdraw(&mut self, name: &str) -> String {
        let withdrawn = (0..=self.random.below(2)).map(|_| net(self.random.of(&PREFIXES)));
        let update = Update { withdrawn: withdrawn.collect(), ..Update::default() };
        self.world.rib.update(self.world.addr(name), update.clone());
        self.model.update(name, &update);
        format!("{name} {update:?}")
    }

    fn update(&mut self, name: &str) -> Update {
        let external = self.model.peers[name].of.agreed.external;
        let random = &mut self.random;
        let family = random.of(&Family::ALL);
        let of_family = |prefix: &&str| Family::of(&net(prefix)) == family;
        let prefixes: Vec<&str> = PREFIXES.iter().copied().filter(of_family).collect();
        let count = random.below(3);
        let prefixes = (0..=count).map(|_| net(random.of(&prefixes))).collect();
        let over_ipv6 = random.once_in(8);
        let next_hop = if family == Family::Ipv4 && !over_ipv6 {
            NextHop::V4(random.of(&HOPS4).parse().unwrap())
        } else {
            let link_local = random.of(&[None, Some("fe80::9".parse().unwrap())]);
            NextHop::V6(random.of(&HOPS6).parse().unwrap(), link_local)
        };
        let attrs = attrs(random, external);
        let reach = vec![Reach { next_hop, prefixes }];
        Update { attrs: Some(attrs), reach, ..Update::default() }
    }

    fn down_or_up(&mut self, name: &str, addr: &str) -> String {
        if !self.model.peers[name].up {
            self.world.up(name, addr);
            let peer = self.model.peers.get_mut(name).unwrap();
            peer.up = true;
            peer.refused.clear();
            return format!("{name} up");
        }
        let keep = Family::ALL.into_iter().filter(|_| !self.random.once_in(3)).collect();
        self.world.rib.down(self.world.addr(name), &keep);
        self.model.down(name, &keep);
        format!("{name} down {keep:?}")
    }

    /// A successor takes over, with what was kept, and nobody is up.
    fn restart(&mut self) -> String {
        let kept = self.world.rib.keep();
        self.world.rib = Rib::new();
        let whose = self.world.rib.restore(&kept);
        for (name, _, _) in NAMES {
            Family::ALL.into_iter().for_each(|family| self.model.stale(name, family));
            self.model.peers.get_mut(name).unwrap().up = false;
            let has = |family: &Family| self.model.counts(name).taken.contains_key(family);
            let families: BTreeSet<Family> = Family::ALL.into_iter().filter(has).collect();
            let expected = Some(families).filter(|families| !families.is_empty());
            assert_eq!(whose.get(&self.world.addr(name)), expected.as_ref());
            self.model.peers.get_mut(name).unwrap().refused.clear();
        }
        self.mirror.clear();
        (self.learnt, self.version) = (Vec::new(), 0);
        self.configure();
        "restart".to_owned()
    }

    fn originate(&mut self) -> String {
        let prefix = net(self.random.of(&PREFIXES[..10]));
        if self.random.once_in(2) {
            self.world.originated.remove(&prefix);
        } else {
            let own = Originated {
                communities: vec![Community(8); self.random.below(2)],
                large_communities: Vec::new(),
                med: Some(7).filter(|_| self.random.once_in(2)),
                external_only: self.random.once_in(3),
            };
            self.world.originated.insert(prefix, own);
        }
        self.configure();
        format!("originate {:?}", self.world.originated)
    }

    fn reconnect(&mut self) -> String {
        let all = ["10.0.0.0/24", "10.0.1.0/24", "fd00::/64", "172.16.1.0/24"].map(net);
        let kept = all.into_iter().filter(|_| !self.random.once_in(4));
        self.world.connected = kept.collect();
        self.world.paths_max = 1 + self.random.below(3);
        self.configure();
        format!("connected {:?}, {} paths", self.world.connected, self.world.paths_max)
    }

    fn filter(&mut self, name: &str) -> String {
        let mut rules = Vec::new();
        for _ in 0..self.random.below(3) {
            let within = net(self.random.of(&PREFIXES));
            let least = within.prefix_len();
            let most = least + u8::try_from(self.random.below(9)).unwrap();
            rules.push(Rule { within, least, most, pass: self.random.once_in(2) });
        }
        let filter = Filter { rules, else_pass: !self.random.once_in(4) };
        let mut config = self.world.peers[name].config.clone();
        if self.random.once_in(3) {
            config.import = filter
        } else {
            config.export = filter
        }
        self.world.rib.reconfigure(self.world.addr(name), &config);
        self.world.peers.get_mut(name).unwrap().config = config.clone();
        self.model.peers.get_mut(name).unwrap().of.config = config;
        format!("{name} filters")
    }

    fn hear(&mut self, name: &str) -> String {
        if self.model.peers[name].up {
            let most = self.random.of(&[50, 4096, 65_536]);
            self.world.hear_in(name, most);
            let told = &self.world.told[name].routes;
            assert_eq!(*told, self.model.told(name), "{name} was told");
            let told: u32 = self.world.counts(name).told.values().sum();
            assert_eq!(told as usize, self.world.told[name].routes.len());
        }
        format!("{name} hears")
    }

    fn changed(&mut self) {
        let most = 1 + self.random.below(4);
        loop {
            let changed = self.world.rib.changed(most);
            assert!(changed.len() <= most);
            if changed.is_empty() {
                break;
            }
            for (prefix, learnt) in changed {
                match learnt {
                    Some(learnt) => self.mirror.insert(prefix, learnt),
                    None => self.mirror.remove(&prefix),
                };
            }
        }
        let mirror: Vec<Learnt> = self.mirror.values().cloned().collect();
        assert_eq!(mirror, self.model.learnt());
    }

    fn check(&mut self, what: &str) {
        let learnt = self.world.rib.learnt();
        assert_eq!(learnt, self.model.learnt(), "{what}");
        let version = self.world.rib.version();
        assert!(learnt == self.learnt || version > self.version, "{what}: no new version");
        (self.learnt, self.version) = (learnt, version);
        for (name, _, _) in NAMES {
            let mut counts = self.world.counts(name);
            counts.told.clear();
            assert_eq!(counts, self.model.counts(name), "{name}: {what}");
        }
    }
}

fn attrs(random: &mut Random, external: bool) -> Attrs {
    let mut path = AsPath::default();
    for _ in 0..random.below(3) {
        path.append(Segment::Sequence(vec![random.of(&[65001, 65002, 65003])]));
    }
    if random.once_in(8) {
        path.append(Segment::Set(vec![1, 2]));
    }
    if random.once_in(20) {
        path.append(Segment::Sequence(vec![OUR_AS]));
    }
    let communities = [
        Community::NO_EXPORT,
        Community::NO_ADVERTISE,
        Community::NO_EXPORT_SUBCONFED,
        Community(9),
    ];
    let mut attrs = Attrs {
        origin: random.of(&[Origin::Igp, Origin::Igp, Origin::Egp]),
        as_path: path,
        med: random.of(&[None, Some(0), Some(5)]),
        communities: Vec::new(),
        ..Attrs::default()
    };
    if random.once_in(5) {
        attrs.communities.push(random.of(&communities));
    }
    if !external {
        let other = [9, 0, 0, 9].into();
        attrs.local_pref = random.of(&[None, Some(100), Some(100), Some(50)]);
        attrs.originator = random.of(&[None, None, None, None, None, Some(other), Some(OUR_ID)]);
        if random.once_in(6) {
            attrs.cluster_list.push(random.of(&[other, other, other, OUR_ID]));
        }
    }
    attrs
}
