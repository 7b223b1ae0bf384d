//! What the agent says of itself, as values; the command line makes text of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use anyhow::Context;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_core::{
    attach::Parent,
    attachment::{Attachment, AttachmentId, Phase},
    dhcp::{Standing, Terms},
    join::Receive,
    name::{IfName, Mac, NetworkName, NodeName},
    network::Network,
    paths::PeerChoice,
};

use crate::agent::{Agent, NetworkHere, left};

#[derive(Serialize, Deserialize)]
pub struct Status {
    pub node: NodeName,
    pub version: String,
    /// The kernel holds what it should.
    pub converged: bool,
    pub problems: Vec<String>,
    pub store: StoreStatus,
    pub underlay: Vec<UnderlayStatus>,
    pub networks: BTreeMap<NetworkName, NetworkStatus>,
    pub nodes: usize,
    pub pods: usize,
    /// None: this agent reads no NetworkPolicies.
    #[serde(default)]
    pub policies: Option<super::policy::Count>,
    pub rounds: u64,
    pub changes: u64,
    pub refusals: u64,
}

#[derive(Serialize, Deserialize)]
pub struct StoreStatus {
    /// A full list came since the agent began.
    pub synced: bool,
    pub away: Option<String>,
    pub revision: u64,
}

#[derive(Serialize, Deserialize)]
pub struct UnderlayStatus {
    pub dev: IfName,
    pub addr: IpNet,
    pub mtu: u16,
}

#[derive(Serialize, Deserialize)]
pub struct NetworkStatus {
    pub attach: String,
    pub join: String,
    pub blocks: Vec<IpNet>,
    /// Of pods whose addresses a DHCP server gives; nothing in other networks.
    pub leases: Option<Vec<LeaseStatus>>,
    pub mtu: u16,
    pub peers: usize,
    /// Peers to which there is no path, with the reasons.
    pub unreachable: BTreeMap<NodeName, String>,
    /// Ways withdrawn, held until the peers named in `waiting` have acknowledged.
    pub withdrawing: Vec<String>,
    pub waiting: Vec<NodeName>,
    /// What is known of the physical switch, where pods have MAC addresses of their own on it.
    #[serde(default)]
    pub switch: Option<String>,
}

/// What a DHCP server has given a pod.
#[derive(Serialize, Deserialize)]
pub struct LeaseStatus {
    pub pod: String,
    #[serde(flatten)]
    pub terms: Terms,
    pub standing: Standing,
    /// Seconds until it ends; none, of one for ever.
    pub left: Option<u64>,
}

fn lease(pod: &Attachment) -> Option<LeaseStatus> {
    let lease = pod.lease.as_ref()?;
    Some(LeaseStatus {
        pod: pod.label(),
        terms: lease.terms,
        standing: lease.standing.clone(),
        left: left(lease).map(|left| left.as_secs()),
    })
}

fn leases(agent: &Agent, name: &NetworkName) -> Vec<LeaseStatus> {
    let ledger = agent.ledger();
    ledger.attachments().filter(|pod| pod.network == *name).filter_map(lease).collect()
}

fn ways(receives: &[Receive]) -> Vec<String> {
    let ways: BTreeSet<String> = receives.iter().map(|r| r.way().to_string()).collect();
    ways.into_iter().collect()
}

pub fn status(agent: &Agent) -> Status {
    let serving = agent.serving();
    let shown = agent.shown();
    let networks = serving.networks.iter().map(|(name, here)| {
        let unreachable = here.stage.choices.iter().filter_map(|(peer, choice)| {
            let cut = choice.each().filter(|(_, choice)| choice.path.is_none());
            let cut = cut.flat_map(|(_, choice)| &choice.refused);
            let mut cut: Vec<String> = cut.map(|(way, why)| format!("{way}: {why}")).collect();
            cut.dedup();
            (!cut.is_empty()).then(|| (peer.clone(), cut.join("; ")))
        });
        let status = NetworkStatus {
            attach: here.network.attach.kind().described(),
            join: here.network.join.to_string(),
            blocks: here.blocks.clone(),
            leases: here.network.by_dhcp().then(|| leases(agent, name)),
            mtu: here.stage.send.get(),
            peers: here.stage.choices.len(),
            unreachable: unreachable.collect(),
            withdrawing: ways(&here.stage.part.withdrawing),
            waiting: here.stage.waiting.clone(),
            switch: agent.switch(here.network.attach.kind()),
        };
        (name.clone(), status)
    });
    let (policies, impossible) = super::policy::count(agent);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Status {
        node: agent.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        converged: serving.converged,
        problems: serving
            .problems
            .iter()
            .cloned()
            .chain(agent.unheard())
            .chain(agent.unheard_macs())
            .chain(agent.conflicts())
            .chain(agent.leases_in_danger())
            .chain(agent.bgp_problems())
            .chain(agent.watch_problems())
            .chain(agent.install_problem())
            .chain(impossible)
            .collect(),
        store: StoreStatus {
            synced: shown.synced,
            away: shown.away.clone(),
            revision: shown.view.revision,
        },
        underlay: serving
            .nics
            .iter()
            .map(|nic| UnderlayStatus { dev: nic.dev.clone(), addr: nic.addr, mtu: nic.mtu.get() })
            .collect(),
        networks: networks.collect(),
        nodes: shown.view.nodes.len(),
        pods: agent.ledger().attachments().count(),
        policies,
        rounds: count(&agent.counters.rounds),
        changes: count(&agent.counters.changes),
        refusals: count(&agent.counters.refusals),
    }
}

/// What would change in the kernel if a round ran now.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    pub changes: Vec<String>,
}

pub fn plan(agent: &Agent) -> anyhow::Result<Plan> {
    let changes = agent.planned().context("observe the kernel")?;
    Ok(Plan { changes: changes.iter().map(ToString::to_string).collect() })
}

#[derive(Serialize, Deserialize)]
pub struct Pod {
    pub pod: String,
    #[serde(flatten)]
    pub id: AttachmentId,
    pub network: NetworkName,
    pub attach: String,
    /// None: the link is in the pod's namespace alone.
    pub host_end: Option<IfName>,
    /// The host's end of the pair by which it reaches its node beside its link.
    pub access: Option<IfName>,
    /// The device that it is a child of.
    pub parent: Option<IfName>,
    pub mac: Mac,
    pub addrs: Vec<std::net::IpAddr>,
    pub lease: Option<LeaseStatus>,
    pub phase: Phase,
    pub netns: String,
}

pub fn pods(agent: &Agent) -> Vec<Pod> {
    let ledger = agent.ledger();
    ledger
        .attachments()
        .map(|pod| Pod {
            pod: pod.label(),
            id: pod.id.clone(),
            network: pod.network.clone(),
            attach: pod.attach.kind().described(),
            host_end: pod.host_end.clone(),
            access: pod.access.clone(),
            parent: pod.attach.kind().parent().map(Parent::dev),
            mac: pod.mac,
            addrs: pod.addrs.clone(),
            lease: lease(pod),
            phase: pod.phase,
            netns: pod.netns.clone(),
        })
        .collect()
}

#[derive(Serialize, Deserialize)]
pub struct Block {
    pub network: NetworkName,
    pub block: IpNet,
    /// None: nobody has the address now.
    pub node: Option<NodeName>,
    /// Of an address that was claimed by itself: who has it, or for whom it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Addresses taken and in all; known of this node's blocks alone.
    pub taken: Option<usize>,
    pub size: Option<u128>,
}

pub fn ipam(agent: &Agent) -> Vec<Block> {
    let serving = agent.serving();
    let shown = agent.shown();
    let ledger = agent.ledger();
    let blocks = shown.view.claims.iter().map(|((network, block), claim)| {
        let ours = claim.node == agent.node;
        let held = || {
            let pods = ledger.attachments().filter(|pod| pod.network == *network);
            let addrs = pods.flat_map(|pod| &pod.addrs);
            addrs.filter(|addr| block.contains(*addr)).count()
        };
        let size = || {
            let mut pool = weft_core::ipam::Pool::default();
            let reserve = serving.networks.get(network).map(|here| here.reserve.clone());
            pool.set_blocks(std::slice::from_ref(block), &reserve.unwrap_or_default());
            pool.size(block.addr().is_ipv4())
        };
        Block {
            network: network.clone(),
            block: *block,
            node: Some(claim.node.clone()),
            pod: None,
            taken: ours.then(held),
            size: ours.then(size),
        }
    });
    let fixed = shown.view.fixed.iter().map(|((network, addr), (_, claim))| Block {
        network: network.clone(),
        block: IpNet::from(*addr),
        node: claim.node.clone(),
        pod: Some(claim.pod.clone()),
        taken: None,
        size: None,
    });
    blocks.chain(fixed).collect()
}

#[derive(Serialize, Deserialize)]
pub struct PeerPath {
    pub network: NetworkName,
    pub peer: NodeName,
    pub family: String,
    pub path: String,
    pub way: String,
    pub mtu: u16,
    pub why: String,
}

/// Which path this node takes to each peer.
pub fn paths(agent: &Agent) -> Vec<PeerPath> {
    let serving = agent.serving();
    let mut paths = Vec::new();
    for (network, here) in &serving.networks {
        for (peer, choice) in &here.stage.choices {
            paths.extend(beside(network, here, peer, choice));
            for (ipv4, choice) in choice.each() {
                let refused: Vec<String> =
                    choice.refused.iter().map(|(way, why)| format!("not {way}: {why}")).collect();
                let path = choice.path.as_ref();
                paths.push(PeerPath {
                    network: network.clone(),
                    peer: peer.clone(),
                    family: if ipv4 { "ipv4" } else { "ipv6" }.into(),
                    path: path.map_or_else(|| "none".into(), ToString::to_string),
                    way: path.map_or_else(|| "none".into(), |path| path.way().to_string()),
                    mtu: path.map_or(0, |path| path.mtu.get()),
                    why: if refused.is_empty() {
                        format!("first choice of join {}", here.network.join)
                    } else {
                        refused.join("; ")
                    },
                });
            }
        }
    }
    paths
}

/// Where pods stand on the physical network, the way to a peer's pods is that network.
fn beside<'a>(
    network: &'a NetworkName,
    here: &'a NetworkHere,
    peer: &'a NodeName,
    choice: &'a PeerChoice,
) -> impl Iterator<Item = PeerPath> + 'a {
    let shared = here.network.join.shared().is_some();
    let parent = here.network.attach.kind().parent().filter(|_| shared).map(Parent::dev);
    parent.into_iter().flat_map(move |parent| {
        let has = |ipv4: &bool| choice.blocks.iter().any(|block| block.addr().is_ipv4() == *ipv4);
        [true, false].into_iter().filter(has).map(move |ipv4| PeerPath {
            network: network.clone(),
            peer: peer.clone(),
            family: if ipv4 { "ipv4" } else { "ipv6" }.into(),
            path: format!("underlay dev {parent} mtu {}", here.stage.send),
            way: "underlay".into(),
            mtu: here.stage.send.get(),
            why: "the physical network itself; no node is passed".into(),
        })
    })
}

pub fn networks(agent: &Agent) -> BTreeMap<NetworkName, Network> {
    agent.shown().view.networks.clone()
}
