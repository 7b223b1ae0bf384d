//! Addresses that come and go on many nodes, which die in the middle: nobody has one twice, and none
//! is lost. Claims, pools, the ledger and what ADD does for its addresses are the real ones; the store
//! is a model, of which each node hears late; there is no link in any kernel.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use serde_json::json;
use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    cni::{Call, Request},
    learnt::Learnt,
    name::NetworkName,
    paths::{Sender, Situation, stage},
};
use weft_linux::Kernel;

use super::{
    Agent, Begin, Channels, NetworkHere, POISONED, Serving, claims,
    fixed::wanted,
    lease::{Lease, lease},
    ledger::Ledger,
    strangers,
    watch::take,
};
use crate::store::{
    Event, Store,
    model::{Fuse, ModelStore},
};

const NODES: usize = 20;
const OPERATIONS: usize = 100_000;
/// Names of pods that keep their addresses, more than there are such addresses.
const NAMES: u64 = 90;
/// One in so many operations of a node has it die at a step of the store, or between others.
const DEATHS: u64 = 40;
const REBOOTS: u64 = 400;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
    fn one_in(&mut self, many: u64) -> bool {
        self.roll(many) == 0
    }
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll(end as u64)).unwrap()
    }
}

struct Node {
    agent: Agent,
    claimer: claims::Memory,
    /// Changes of the store that it has heard of.
    heard: usize,
    boot: u32,
}

struct World {
    store: ModelStore,
    runtime: tokio::runtime::Runtime,
    dir: PathBuf,
    network: NetworkName,
    dice: Dice,
    nodes: Vec<Node>,
    /// Who has each address, from its lease until its link is gone.
    owners: BTreeMap<IpAddr, (usize, String)>,
    pods: u64,
    deaths: usize,
    refused: usize,
    /// Addresses taken at once, at most.
    most: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let dir = PathBuf::from("/run").join(format!("weft-churn-{}-{seed}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let mut world = Self {
            store: ModelStore::default(),
            runtime: runtime.unwrap(),
            dir,
            network: "lan".parse().unwrap(),
            dice: Dice(seed),
            nodes: Vec::new(),
            owners: BTreeMap::new(),
            pods: 0,
            deaths: 0,
            refused: 0,
            most: 0,
        };
        let network = json!({
            "attach": {"kind": "macvlan", "parent": "eth1"}, "ranges": ["10.77.0.0/23"],
            "join": {
                "kind": "underlay", "gateway": ["10.77.0.1"], "exclude": ["10.77.0.32/28"],
                "static": ["10.77.1.0/26"], "sticky": true,
            },
        });
        let put = world.store.put("networks/lan", network.to_string().into_bytes());
        world.runtime.block_on(put).unwrap();
        world.nodes = (0..NODES).map(|n| world.begin(n, 0)).collect();
        world
    }

    fn begin(&self, n: usize, boot: u32) -> Node {
        let dir = self.dir.join(n.to_string());
        let config = json!({"store": {"file": {"dir": "/nowhere"}}, "runDir": dir});
        let begin = Begin {
            config: serde_json::from_value(config).unwrap(),
            node: format!("node-{n}").parse().unwrap(),
            boot: boot.to_string(),
            ledger: Ledger::open(&dir).unwrap(),
            kernel: Kernel::here().unwrap(),
            store: Store::Model(self.store.clone()),
            view: weft_core::view::View::default(),
            channels: Channels {
                announcer: std::sync::mpsc::channel().0,
                keeper: std::sync::mpsc::channel().0,
                strangers: strangers::Bell::hang().unwrap().0,
            },
        };
        let agent = Agent::new(begin, self.runtime.handle().clone());
        let (entries, revision) = self.store.entries();
        take(&agent, [Event::Snapshot { entries, revision }].into_iter());
        let node = Node {
            agent,
            claimer: claims::Memory::default(),
            heard: self.store.all_changes(),
            boot,
        };
        node.serve(&self.network);
        // What the loop does of calls that died.
        for pod in node.pods(|phase| phase != Phase::Attached) {
            node.agent.ledger().doom(&pod.id);
            node.agent.ledger().close(&pod.id).unwrap();
        }
        node
    }

    /// The agent dies as it is; what lives on is its ledger, unless the node boots.
    fn die(&mut self, n: usize, reboot: bool) {
        self.store.light(None);
        self.deaths += 1;
        let boot = self.nodes[n].boot + u32::from(reboot);
        if reboot {
            let _ = fs::remove_dir_all(self.dir.join(n.to_string()));
        }
        self.nodes[n] = self.begin(n, boot);
        self.owners.retain(|_, (node, _)| *node != n);
        for pod in self.nodes[n].pods(|_| true) {
            self.own(n, &pod.id.container, &pod.addrs);
        }
    }

    /// The invariant: nobody else has them.
    fn own(&mut self, n: usize, container: &str, addrs: &[IpAddr]) {
        for addr in addrs {
            let had = self.owners.insert(*addr, (n, container.to_owned()));
            assert_eq!(had, None, "{addr} is given to {container} of node-{n}");
        }
        self.most = self.most.max(self.owners.len());
    }

    fn disown(&mut self, addrs: &[IpAddr]) {
        for addr in addrs {
            assert!(self.owners.remove(addr).is_some(), "{addr}");
        }
    }

    /// Some, or all, of what the node has not heard yet.
    fn hear(&mut self, n: usize, all: bool) {
        let changes = self.store.changes(self.nodes[n].heard);
        let some = if all { changes.len() } else { self.dice.below(changes.len() + 1) };
        let node = &mut self.nodes[n];
        node.heard += some;
        take(&node.agent, changes.into_iter().take(some));
        node.serve(&self.network);
    }

    /// A pass of the claimer, in which the agent may die.
    fn claim(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let pass = AssertUnwindSafe(|| {
            self.runtime.block_on(claims::pass(&node.agent, &mut node.claimer));
        });
        if catch_unwind(pass).is_err() {
            self.die(n, false);
        }
    }

    /// One ADD as far as addresses go. True if it was done.
    fn allocate(&mut self, n: usize) -> bool {
        self.pods += 1;
        let container = format!("c{}", self.pods);
        let (mut ips, mut name) = (Vec::new(), None);
        match self.dice.roll(10) {
            0 => ips.push(format!("10.77.1.{}", self.dice.roll(64))),
            1 => name = Some(format!("web-{}", self.dice.roll(NAMES))),
            _ => {}
        }
        let call = call(&container, &ips, name.as_deref());
        if !self.may_be_had(n, &call) {
            self.refused += 1;
            return false;
        }
        let (agent, network) = (&self.nodes[n].agent, &self.network);
        let serving = agent.serving();
        let leased = catch_unwind(AssertUnwindSafe(|| lease(agent, &call, network, &serving)));
        let addrs = match leased {
            Ok(Ok(addrs)) => addrs,
            Ok(Err(_)) => {
                self.refused += 1;
                return false;
            }
            Err(_) => {
                self.die(n, false);
                return false;
            }
        };
        self.own(n, &container, &addrs);
        if self.dice.one_in(DEATHS) {
            self.die(n, false);
            return true;
        }
        let (agent, network) = (&self.nodes[n].agent, &self.network);
        if self.dice.one_in(DEATHS) {
            // The kernel refused the link.
            drop(Lease { agent, network: network.clone(), addrs: Some(addrs.clone()) });
            self.disown(&addrs);
            return true;
        }
        let pod = attachment(&call, network, &addrs);
        agent.ledger().record(pod.clone()).unwrap();
        if self.dice.one_in(DEATHS) {
            self.die(n, false);
            return true;
        }
        agent.ledger().set_phase(&pod.id, Phase::Attached).unwrap();
        true
    }

    /// What would wait for another pod's end is not tried: nothing ends meanwhile.
    fn may_be_had(&mut self, n: usize, call: &Call) -> bool {
        let node = &self.nodes[n];
        let serving = node.agent.serving();
        let (lost, network) = (std::collections::BTreeSet::new(), self.network.clone());
        let Ok(wanted) = wanted(&node.agent, call, &network, &serving, &lost) else { return false };
        if !wanted.is_empty() {
            return wanted.iter().all(|of| !node.agent.ledger().holds(&network, of.addr));
        }
        if !call.ips.is_empty() {
            return true;
        }
        for _ in 0..2 {
            let node = &self.nodes[n];
            let room = {
                let mut ledger = node.agent.ledger();
                let pool = ledger.pool(&network);
                let stays = pool.blocks().iter().filter(|block| !pool.leaves(block));
                stays.map(|block| pool.use_of(block).1).sum::<u128>()
            };
            if room > 0 {
                return true;
            }
            // As ADD says that it waits.
            node.agent.hungry.lock().expect(POISONED).insert(network.clone(), true);
            self.claim(n);
            self.hear(n, true);
        }
        false
    }

    /// One DEL, and sometimes what is behind it.
    fn release(&mut self, n: usize) -> bool {
        let pods = self.nodes[n].pods(|phase| phase == Phase::Attached);
        if pods.is_empty() {
            return false;
        }
        let pod = &pods[self.dice.below(pods.len())];
        self.nodes[n].agent.ledger().doom(&pod.id);
        if self.dice.one_in(DEATHS) {
            self.die(n, false);
        } else if !self.dice.one_in(4) {
            self.reap(n);
        }
        true
    }

    fn reap(&mut self, n: usize) {
        for pod in self.nodes[n].pods(|phase| phase == Phase::Doomed) {
            self.nodes[n].agent.ledger().close(&pod.id).unwrap();
            self.disown(&pod.addrs);
        }
    }

    fn operate(&mut self, n: usize, more: bool) -> bool {
        if self.dice.one_in(REBOOTS) {
            self.die(n, true);
        }
        if self.dice.one_in(3) {
            self.hear(n, false);
        }
        if self.dice.one_in(DEATHS) {
            let (operations, done) = (self.dice.roll(4) + 1, self.dice.one_in(2));
            let operations = operations.try_into().unwrap();
            self.store.light(Some(Fuse { operations, done }));
        }
        let allocates = self.dice.roll(100) < if more { 65 } else { 35 };
        let done = if allocates { self.allocate(n) } else { self.release(n) };
        if self.dice.one_in(3) {
            self.claim(n);
        }
        self.store.light(None);
        done
    }

    /// Everybody has heard everything and done what follows from it.
    fn settle(&mut self) {
        for _ in 0..3 {
            for n in 0..NODES {
                self.reap(n);
                self.hear(n, true);
                self.claim(n);
            }
        }
        for n in 0..NODES {
            self.hear(n, true);
        }
    }

    /// No address is claimed or taken that no pod has, none is had that is not claimed.
    fn nothing_is_lost(&self) {
        let mut claimed = BTreeMap::new();
        for ((_, addr), (_, claim)) in &self.nodes[0].agent.shown().view.fixed {
            claimed.extend(claim.node.clone().map(|node| (*addr, node)));
        }
        let fixed = self.owners.iter().filter(|(addr, _)| is_fixed(**addr));
        let had: BTreeMap<IpAddr, _> =
            fixed.map(|(addr, (n, _))| (*addr, format!("node-{n}").parse().unwrap())).collect();
        assert_eq!(claimed, had, "claims are what pods have");
        for (n, node) in self.nodes.iter().enumerate() {
            let owned = self.owners.values().filter(|(owner, _)| *owner == n).count();
            assert_eq!(node.agent.ledger().pool(&self.network).taken(), owned, "node-{n}");
        }
    }
}

fn is_fixed(addr: IpAddr) -> bool {
    "10.77.1.0/26".parse::<ipnet::IpNet>().unwrap().contains(&addr)
}

impl Node {
    fn pods(&self, phase: impl Fn(Phase) -> bool) -> Vec<Attachment> {
        self.agent.ledger().attachments().filter(|pod| phase(pod.phase)).cloned().collect()
    }

    /// What the loop decides of addresses.
    fn serve(&self, name: &NetworkName) {
        let shown = self.agent.shown();
        let network = &shown.view.networks[name];
        let blocks: Vec<_> = shown.view.claims_of(&self.agent.node, name).collect();
        let reserve = shown.view.reserve(name, network, &[]);
        self.agent.ledger().set_blocks(name, &blocks, &reserve);
        let stage = stage(&Situation {
            node: &self.agent.node,
            name,
            network,
            sender: Sender {
                underlay: &[],
                reach: &BTreeMap::new(),
                only_by: None,
                learnt: &Learnt::default(),
            },
            blocks: &blocks,
            view: &shown.view,
            parent: None,
            hosts: &[],
            known: None,
            patience_over: false,
        });
        let here = NetworkHere { network: network.clone(), blocks, stage, reserve, access: None };
        drop(shown);
        let networks = [(name.clone(), here)].into();
        *self.agent.serving.write().expect(POISONED) =
            Arc::new(Serving { networks, ..Serving::default() });
    }
}

fn call(container: &str, ips: &[String], name: Option<&str>) -> Call {
    let config = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "weft-cni", "network": "lan",
        "runtimeConfig": {"ips": ips},
    });
    let args = name.map(|name| format!("K8S_POD_NAMESPACE=lab;K8S_POD_NAME={name}"));
    let request = Request {
        command: "ADD".into(),
        container: container.into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: args.unwrap_or_default(),
        config: config.to_string(),
        runtime: "churn".into(),
    };
    request.parse().unwrap()
}

fn attachment(call: &Call, network: &NetworkName, addrs: &[IpAddr]) -> Attachment {
    let AttachmentId { cni, container, ifname } = call.id.clone().unwrap();
    serde_json::from_value(json!({
        "schema": 1, "cni": cni, "container": container, "ifname": ifname, "phase": "opened",
        "network": network, "attach": {"kind": "macvlan", "parent": "eth1"}, "runtime": "churn",
        "netns": "/run/netns/x", "cookie": 1, "mac": "02:00:00:00:00:01", "addrs": addrs,
        "default_route": true,
    }))
    .unwrap()
}

/// A death is no failure of the test, and says nothing.
fn quiet() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.to_string().contains("each operation of a store") {
            loud(panic);
        }
    }));
}

fn churn(seed: u64, operations: usize) {
    let mut world = World::new(seed);
    world.settle();
    let (mut done, mut turns) = (0, 0);
    while done < operations {
        turns += 1;
        let n = world.dice.below(NODES);
        // The range fills and empties in turn.
        let more = (done / 2000).is_multiple_of(2);
        done += usize::from(world.operate(n, more));
        if turns % 5000 == 0 {
            world.settle();
            world.nothing_is_lost();
        }
    }
    for n in 0..NODES {
        while world.release(n) {}
    }
    world.settle();
    world.nothing_is_lost();
    assert_eq!(world.owners.len(), 0);
    // After a reboot each keeps one block, and all others are to be had.
    for n in 0..NODES {
        world.die(n, true);
    }
    world.settle();
    let blocks = world.nodes[0].agent.shown().view.claims.len();
    assert_eq!(blocks, NODES, "one each");
    println!(
        "{done} operations, {} deaths, {} refused, at most {} addresses taken at once",
        world.deaths, world.refused, world.most
    );
    fs::remove_dir_all(&world.dir).unwrap();
}

#[test]
fn no_address_is_given_twice_or_lost_by_nodes_that_die() {
    quiet();
    churn(7, OPERATIONS);
}
