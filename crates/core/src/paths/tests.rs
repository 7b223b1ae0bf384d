//! A cluster of values: nodes that see the store late and in any order of turns, change their join
//! while packets flow, and die between any two steps. After every single step each node must hold
//! the way by which any other sends to it, and take packets as large as any other may send.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    learnt::{Learnt, Route},
    name::NetworkName,
    network::Network,
    view::{Ack, NodeRecord, Part, View, ack_key, network_key, node_key},
};

const NODES: usize = 3;
const ROUNDS: usize = 400;

/// The store: every change in order. A node's view is a prefix of it.
#[derive(Default)]
struct Store(Vec<(String, Vec<u8>)>);

impl Store {
    fn put(&mut self, key: String, value: &impl Serialize) {
        self.0.push((key, serde_json::to_vec(value).unwrap()));
    }
}

/// What one node's kernel holds.
#[derive(Default)]
struct Kernel {
    hold: Vec<Receive>,
    routes: BTreeMap<NodeName, Path>,
    send: Option<Mtu>,
    accept: Option<Mtu>,
}

struct Machine {
    name: NodeName,
    nic: Nic,
    block: IpNet,
    view: View,
    seen: usize,
    /// What its speaker knows; nothing, while it runs none.
    learnt: Learnt,
    kernel: Kernel,
    /// What a turn has yet to do: a node may die before any of these.
    pending: Vec<Step>,
}

enum Step {
    Shrink(Mtu),
    Hold(Vec<Receive>, Mtu),
    Routes(BTreeMap<NodeName, Path>),
    GiveUp(Vec<Receive>),
    Grow(Mtu, Mtu),
    Publish(Part),
    Ack(u64),
}

impl Machine {
    fn new(n: usize) -> Self {
        let addr: IpNet = format!("192.0.2.{}/24", n + 1).parse().unwrap();
        Self {
            name: format!("node-{n}").parse().unwrap(),
            nic: Nic { dev: IfName::new("eth0"), addr, mtu: Mtu::ETHERNET },
            block: format!("10.1.{n}.0/24").parse().unwrap(),
            view: View::default(),
            seen: 0,
            learnt: Learnt::default(),
            kernel: Kernel::default(),
            pending: Vec::new(),
        }
    }

    fn see(&mut self, store: &Store, upto: usize) {
        for (at, (key, value)) in store.0.iter().enumerate().take(upto).skip(self.seen) {
            self.view.put(key, value, at as u64 + 1);
        }
        self.seen = self.seen.max(upto);
        assert!(self.view.said.is_empty(), "{:?}", self.view.said);
    }

    fn think(&mut self) {
        let name = network();
        let learnt = self.learnt.clone();
        let Some(spec) = self.view.networks.get(&name) else { return };
        let nodes = self.view.nodes.values();
        let reach = nodes.flat_map(|node| &node.record.underlay).map(|addr| {
            let dev = self.nic.dev.clone();
            (*addr, Some(Reach { dev, gateway: None, mtu: Mtu::ETHERNET }))
        });
        let reach = reach.collect();
        let now = Situation {
            node: &self.name,
            name: &name,
            network: spec,
            sender: Sender {
                underlay: std::slice::from_ref(&self.nic),
                reach: &reach,
                only_by: None,
                learnt: &learnt,
            },
            blocks: std::slice::from_ref(&self.block),
            parent: None,
            hosts: &[],
            view: &self.view,
            known: None,
            patience_over: false,
        };
        let stage = stage(&now);
        let routes = stage
            .choices
            .iter()
            .filter_map(|(peer, choice)| Some((peer.clone(), choice.v4.as_ref()?.path.clone()?)));
        let ack =
            acknowledged(&self.name, &self.view, [(&name, &stage)].into_iter(), &BTreeSet::new());
        let routes = routes.collect();
        self.pending = vec![
            Step::Shrink(stage.send),
            Step::Hold(stage.hold.clone(), stage.accept),
            Step::Routes(routes),
            Step::GiveUp(stage.hold),
            Step::Grow(stage.send, stage.accept),
            Step::Publish(stage.part),
        ];
        self.pending.extend(ack.map(Step::Ack));
    }

    fn speaks(&self) -> bool {
        self.kernel.hold.iter().any(|held| held.way() == Way::Bgp)
    }

    fn step(&mut self, store: &mut Store) {
        if self.pending.is_empty() {
            return self.think();
        }
        match self.pending.remove(0) {
            Step::Shrink(send) => {
                self.kernel.send = Some(self.kernel.send.map_or(send, |was| was.min(send)));
            }
            Step::Hold(hold, accept) => {
                self.kernel.hold.extend(hold);
                self.kernel.accept = self.kernel.accept.max(Some(accept));
            }
            Step::Routes(routes) => self.kernel.routes = routes,
            Step::GiveUp(hold) => self.kernel.hold = hold,
            Step::Grow(send, accept) => {
                (self.kernel.send, self.kernel.accept) = (Some(send), Some(accept));
            }
            Step::Publish(part) => {
                let same = self
                    .view
                    .nodes
                    .get(&self.name)
                    .and_then(|node| node.record.part(&network()).map(|known| *known == part));
                if same != Some(true) {
                    store.put(node_key(&self.name), &self.record(part));
                }
            }
            Step::Ack(revision) => {
                if self.view.acks.get(&self.name).is_none_or(|known| *known < revision) {
                    store.put(ack_key(&self.name), &Ack { schema: 1, revision });
                }
            }
        }
    }

    fn record(&self, part: Part) -> NodeRecord {
        NodeRecord {
            schema: 1,
            boot: "boot".into(),
            version: "test".into(),
            underlay: vec![self.nic.addr.addr()],
            mtu: self.nic.mtu,
            networks: [(network(), part)].into_iter().collect(),
            labels: BTreeMap::new(),
            node_object: None,
            extra: serde_json::Map::new(),
        }
    }
}

fn network() -> NetworkName {
    "n".parse().unwrap()
}

fn spec(join: &str) -> Network {
    serde_json::from_str(&format!(r#"{{"ranges":["10.1.0.0/16"],"join":"{join}"}}"#)).unwrap()
}

struct Cluster {
    store: Store,
    machines: Vec<Machine>,
    dice: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let machines = (0..NODES).map(Machine::new).collect();
        Self { store: Store::default(), machines, dice: seed | 1 }
    }

    /// xorshift64*: the same turns for the same seed.
    fn roll(&mut self, sides: usize) -> usize {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn turn(&mut self) {
        let who = self.roll(NODES);
        let what = self.roll(20);
        let upto = self.machines[who].seen + self.roll(3);
        let machine = &mut self.machines[who];
        match what {
            7 => self.speak(),
            0 => machine.pending.clear(), // Killed, and started again.
            1..=6 => machine.see(&self.store, upto.min(self.store.0.len())),
            _ => machine.step(&mut self.store),
        }
        self.forget();
    }

    /// Whoever holds the way of BGP hears at some time what another says that holds it, and at once that
    /// it says it no more.
    fn speak(&mut self) {
        let pair = (self.roll(NODES), self.roll(NODES));
        if pair.0 != pair.1 {
            self.hear(pair.0, pair.1);
        }
    }

    fn hear(&mut self, who: usize, whom: usize) {
        let other = &self.machines[whom];
        let (block, via) = (other.block, other.nic.addr.addr());
        if self.machines[who].speaks() && other.speaks() {
            let route = Route { hops: vec![via], ..Route::default() };
            self.machines[who].learnt.routes.insert(block, route);
        }
    }

    /// What is said no more is known no more.
    fn forget(&mut self) {
        let silent: Vec<IpNet> =
            self.machines.iter().filter(|m| !m.speaks()).map(|m| m.block).collect();
        for machine in &mut self.machines {
            let speaks = machine.speaks();
            machine.learnt.routes.retain(|block, _| speaks && !silent.contains(block));
        }
    }

    /// Everybody sees everything and has time to finish.
    fn settle(&mut self) {
        for _ in 0..20 {
            for (who, whom) in (0..NODES * NODES).map(|n| (n / NODES, n % NODES)) {
                if who != whom {
                    self.hear(who, whom);
                }
            }
            self.forget();
            for machine in &mut self.machines {
                machine.see(&self.store, self.store.0.len());
                machine.pending.clear();
                for _ in 0..9 {
                    machine.step(&mut self.store);
                }
            }
        }
    }

    fn check(&self, context: &str) {
        for from in &self.machines {
            for to in self.machines.iter().filter(|to| to.name != from.name) {
                let Some(path) = from.kernel.routes.get(&to.name) else { continue };
                let direct = path.way() == Way::Direct;
                let receivable = direct || to.kernel.hold.contains(&path.receive);
                if path.way() == Way::Bgp {
                    let known = from.learnt.routes.contains_key(&to.block);
                    assert!(known, "{context}: {} sends {path}, and forgot it", from.name);
                    continue;
                }
                assert!(receivable, "{context}: {} sends {path} to {}", from.name, to.name);
                let sendable =
                    direct || from.kernel.hold.iter().any(|held| held.way() == Way::Vxlan);
                assert!(sendable, "{context}: {} sends {path} without the device", from.name);
                assert!(from.kernel.send <= Some(path.mtu), "{context}: {} over {path}", from.name);
                assert!(
                    from.kernel.send <= to.kernel.accept,
                    "{context}: {} sends {:?}, {} takes {:?}",
                    from.name,
                    from.kernel.send,
                    to.name,
                    to.kernel.accept
                );
            }
        }
    }

    fn ways(&self) -> Vec<Way> {
        self.machines.iter().flat_map(|m| m.kernel.routes.values().map(Path::way)).collect()
    }
}

#[test]
fn a_change_of_join_cuts_no_path_whatever_the_order_of_events() {
    let joins = ["vxlan", "host-gw", "auto", "bgp"];
    for seed in 1..=120u64 {
        let mut cluster = Cluster::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        cluster
            .store
            .put(network_key(&network()), &spec(joins[usize::try_from(seed % 4).unwrap()]));
        cluster.settle();
        assert_eq!(cluster.ways().len(), NODES * (NODES - 1), "seed {seed}: everybody has a path");
        for change in 0..4 {
            let join = joins[cluster.roll(4)];
            cluster.store.put(network_key(&network()), &spec(join));
            for turn in 0..ROUNDS {
                cluster.turn();
                cluster.check(&format!("seed {seed}, change {change} to {join}, turn {turn}"));
                assert_eq!(
                    cluster.ways().len(),
                    NODES * (NODES - 1),
                    "seed {seed}: a path is lost"
                );
            }
        }
    }
}

#[test]
fn once_settled_only_what_the_join_wants_is_held() {
    for (from, to, way, mtu) in [
        ("vxlan", "host-gw", Way::Direct, 1500),
        ("host-gw", "vxlan", Way::Vxlan, 1450),
        ("auto", "host-gw", Way::Direct, 1500),
        ("vxlan", "auto", Way::Direct, 1450),
        ("vxlan", "bgp", Way::Bgp, 1500),
        ("bgp", "vxlan", Way::Vxlan, 1450),
        ("host-gw", "bgp", Way::Bgp, 1500),
        ("bgp", "auto", Way::Direct, 1450),
    ] {
        let mut cluster = Cluster::new(7);
        cluster.store.put(network_key(&network()), &spec(from));
        cluster.settle();
        cluster.store.put(network_key(&network()), &spec(to));
        cluster.settle();
        assert!(cluster.ways().iter().all(|chosen| *chosen == way), "{from} to {to}");
        for machine in &cluster.machines {
            let tunnels = machine.kernel.hold.iter().filter(|h| h.way() == Way::Vxlan).count();
            assert_eq!(
                tunnels,
                usize::from(!["host-gw", "bgp"].contains(&to)),
                "{from} to {to}: {}",
                machine.name
            );
            let sizes = (machine.kernel.send.unwrap().get(), machine.kernel.accept.unwrap().get());
            assert_eq!(sizes, (mtu, mtu), "{from} to {to}");
        }
    }
}

#[test]
fn what_is_refused_is_said_in_the_order_of_preference() {
    let reach = [(
        "198.51.100.2".parse().unwrap(),
        Some(Reach {
            dev: IfName::new("eth0"),
            gateway: Some("192.0.2.254".parse().unwrap()),
            mtu: Mtu::ETHERNET,
        }),
    )];
    let reach: BTreeMap<IpAddr, Option<Reach>> = reach.into();
    let nic =
        Nic { dev: IfName::new("eth0"), addr: "192.0.2.1/24".parse().unwrap(), mtu: Mtu::ETHERNET };
    let sender =
        Sender { underlay: &[nic], reach: &reach, only_by: None, learnt: &Learnt::default() };
    let direct = r#"{"way":"direct","underlay":"198.51.100.2"}"#;
    let vxlan = r#"{"way":"vxlan","underlay":"198.51.100.2","vni":7,"port":4789,"mac":"02:00:00:00:00:02"}"#;
    let cases: [(&[&str], &[Way], &str); 3] = [
        (
            &[direct],
            &[Way::Direct],
            "none; direct: 198.51.100.2 is not on-link: it is reached through 192.0.2.254",
        ),
        (
            &[direct, vxlan],
            &[Way::Direct, Way::Vxlan],
            "vxlan dev weftx4-7 via 10.1.2.0 mtu 1450; direct: 198.51.100.2 is not on-link: it is reached through 192.0.2.254",
        ),
        (
            &[vxlan],
            &[Way::Direct],
            "vxlan dev weftx4-7 via 10.1.2.0 mtu 1450; direct: the peer does not receive direct",
        ),
    ];
    for (receives, order, want) in cases {
        let receives: Vec<Receive> =
            receives.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let peer = Peer {
            name: &"node-2".parse().unwrap(),
            blocks: &["10.1.2.0/24".parse().unwrap()],
            mtu: Mtu::ETHERNET,
            receives: &receives,
            withdrawing: &[],
        };
        let choice = choose(order, &sender, &peer, true);
        let chosen = choice.path.map_or("none".into(), |path| path.to_string());
        let refused = choice.refused.iter().map(|(way, why)| format!("; {way}: {why}"));
        assert_eq!(chosen + &refused.collect::<String>(), want);
    }
}
