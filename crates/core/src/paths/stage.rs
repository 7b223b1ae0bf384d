//! Where a node stands in a network right now: what it can be reached by, which path it takes to
//! each peer, how large packets may be. A change of join is a row of such stages; each follows
//! from the records in the store alone, so a node that died in the middle goes on where it was.
//!
//! The order that loses nothing: a way is held before it is advertised; once withdrawn it is held
//! until every peer has acknowledged that it no longer sends by it. What pods may send shrinks
//! before a route moves to a smaller path, and grows only when every peer takes it; what pods
//! take is never less than what any peer's pods may send.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{Choice, Peer, Sender, choose};
use crate::{
    join::{Receive, Receiver, Way, bridged::Domain, vxlan},
    name::{Mtu, NetworkName, NodeName},
    network::Network,
    state::Object,
    view::{Node, Part, Resident, View},
};

/// Everything that the stage of one node in one network follows from.
pub struct Situation<'a> {
    pub node: &'a NodeName,
    pub name: &'a NetworkName,
    pub network: &'a Network,
    pub sender: Sender<'a>,
    /// This node's blocks.
    pub blocks: &'a [IpNet],
    pub view: &'a View,
    /// MTU of the device that the pods' links are children of; none: there is none.
    pub parent: Option<Mtu>,
    /// Addresses of the ranges that this node has itself.
    pub hosts: &'a [IpAddr],
    /// Choices of an earlier stage from the same network, sender and reach: they stand where the
    /// peer's record has not changed since.
    pub known: Option<&'a Choices>,
    /// The bound on waiting for acknowledgements has passed.
    pub patience_over: bool,
}

#[derive(Clone, Debug)]
pub struct Stage {
    /// To be published once everything below is in the kernel; of the pods it knows nothing.
    pub part: Part,
    /// Ways to hold in the kernel: advertised, withdrawn but not yet given up, or used to send.
    pub hold: Vec<Receive>,
    pub choices: Choices,
    /// What pods may send now; never more than was published before.
    pub send: Mtu,
    /// What pods take now.
    pub accept: Mtu,
    /// Peers whose acknowledgement is awaited.
    pub waiting: Vec<NodeName>,
}

/// Kept from round to round where nothing changed that a choice follows from.
pub type Choices = BTreeMap<NodeName, Arc<PeerChoice>>;

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeerChoice {
    /// Revisions of the peer's records that it was made from: its own, and that of its pods; and what
    /// stands for what was learnt of its blocks.
    #[serde(skip)]
    pub revision: (u64, u64, u64),
    pub blocks: Vec<IpNet>,
    /// Blocks that it says are its own, and are not.
    #[serde(skip)]
    pub ignored: Vec<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6: Option<Choice>,
    /// What of the peer is on the same bridged segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Box<Domain>>,
}

impl PeerChoice {
    pub fn each(&self) -> impl Iterator<Item = (bool, &Choice)> {
        let v4 = self.v4.iter().map(|choice| (true, choice));
        v4.chain(self.v6.iter().map(|choice| (false, choice)))
    }

    /// What the kernel must hold so that packets to the peer's blocks take the chosen paths.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        self.each().flat_map(move |(ipv4, choice)| {
            let family = move |block: &&IpNet| block.addr().is_ipv4() == ipv4;
            let path = choice.path.iter();
            path.flat_map(move |path| -> Vec<Object> {
                let blocks = self.blocks.iter().filter(family);
                match &self.domain {
                    Some(domain) => domain.objects(path, blocks),
                    None => path.objects(blocks),
                }
            })
        })
    }
}

pub fn stage(now: &Situation<'_>) -> Stage {
    let addrs: Vec<IpAddr> = now.sender.underlay.iter().map(|nic| nic.addr.addr()).collect();
    let me = Receiver { node: now.node, network: now.name, underlay: &addrs };
    let receives = now.network.join.kind().receives(&me);
    let published = now.view.nodes.get(now.node);
    let part = published.and_then(|node| node.record.part(now.name));

    let choices = choices(now);
    let awaited = part.is_some_and(|part| !part.withdrawing.is_empty());
    let waiting =
        if awaited { waiting(now, published.map_or(0, |node| node.revision)) } else { vec![] };
    let mut withdrawing = withdrawing(part, &receives, waiting.is_empty() || now.patience_over);
    withdrawing.retain(|receive| receive.suits(&now.network.join));
    let hold = hold(&me, &receives, &withdrawing, &choices);

    if now.network.join.shared().is_some() {
        return on_underlay(now, choices);
    }
    let target = target(now, &choices);
    let peers = || peer_parts(now).map(|(_, part, _)| part);
    let least_accepted = peers().map(|part| part.accept).min().unwrap_or(target);
    let narrowest = paths(&choices).map(|path| path.mtu).min().unwrap_or(target);
    let may_send = target.min(least_accepted).min(narrowest);
    let most_sent = peers().chain(part).map(|part| part.send).max().unwrap_or(target);
    let accept = target.max(may_send).max(most_sent);
    let send = part.map_or(may_send, |part| may_send.min(part.send));
    Stage {
        part: Part {
            blocks: now.blocks.to_vec(),
            receives,
            withdrawing,
            send: may_send,
            accept,
            pods: false,
            hosts: Vec::new(),
        },
        hold,
        choices,
        send,
        accept,
        waiting,
    }
}

/// Where pods stand on the physical network nothing is held and no way is withdrawn; a pod may send
/// what every parent takes.
fn on_underlay(now: &Situation<'_>, choices: Choices) -> Stage {
    // A node without the parent has no pods, and narrows nobody.
    let accept = now.parent.unwrap_or(Mtu::MAX);
    let peers = peer_parts(now).map(|(_, part, _)| part.accept);
    let least = peers.chain([accept, now.network.mtu.unwrap_or(Mtu::MAX)]).min();
    let send = least.filter(|mtu| *mtu < Mtu::MAX).unwrap_or(Mtu::ETHERNET);
    let part = Part {
        blocks: now.blocks.to_vec(),
        receives: Vec::new(),
        withdrawing: Vec::new(),
        send,
        accept,
        pods: false,
        hosts: now.hosts.to_vec(),
    };
    let (hold, waiting) = (Vec::new(), Vec::new());
    Stage { part, hold, choices, send, accept, waiting }
}

/// The revision up to which this node no longer sends by anything withdrawn. To be published
/// after the kernel holds the choices; `behind` are peers of whom it refused them.
pub fn acknowledged<'a>(
    node: &NodeName,
    view: &View,
    stages: impl Iterator<Item = (&'a NetworkName, &'a Stage)> + Clone,
    behind: &BTreeSet<NodeName>,
) -> Option<u64> {
    let uses = |peer: &NodeName, withdrawn: &Receive, network: &NetworkName| {
        let mut ours = stages.clone().filter(|(name, _)| *name == network);
        ours.any(|(_, stage)| {
            stage.choices.get(peer).is_some_and(|choice| {
                let mut paths = choice.each().filter_map(|(_, choice)| choice.path.as_ref());
                paths.any(|path| path.receive == *withdrawn)
            })
        })
    };
    let mut clear = None;
    let mut in_use = u64::MAX;
    for (peer, record) in view.nodes.iter().filter(|(peer, _)| *peer != node) {
        for (network, part) in record.record.networks.iter() {
            for withdrawn in &part.withdrawing {
                clear = clear.max(Some(record.revision));
                if behind.contains(peer) || uses(peer, withdrawn, network) {
                    in_use = in_use.min(record.revision);
                }
            }
        }
    }
    clear.map(|revision| revision.min(in_use.saturating_sub(1))).filter(|revision| *revision > 0)
}

/// Every peer's part in the network, and the MTU of its underlay.
fn peer_parts<'a>(
    now: &'a Situation<'_>,
) -> impl Iterator<Item = (&'a NodeName, &'a Part, &'a Node)> + 'a {
    let peers = now.view.nodes.iter().filter(|(name, _)| *name != now.node);
    peers.filter_map(|(name, node)| node.record.part(now.name).map(|part| (name, part, node)))
}

fn choices(now: &Situation<'_>) -> Choices {
    let order = now.network.join.kind().order();
    // Both are in the order of names: walked together, not looked up.
    let mut known = now.known.into_iter().flatten().peekable();
    let chosen = peer_parts(now).map(|(name, part, node)| {
        while known.next_if(|(earlier, _)| *earlier < name).is_some() {}
        let known = known.next_if(|(same, _)| *same == name);
        match known.filter(|(_, choice)| choice.revision == revision(now, name, part, node)) {
            Some((name, choice)) => (name.clone(), choice.clone()),
            None => (name.clone(), Arc::new(choose_for(now, order, name, part, node))),
        }
    });
    chosen.collect()
}

fn choose_for(
    now: &Situation<'_>,
    order: &[Way],
    name: &NodeName,
    part: &Part,
    node: &Node,
) -> PeerChoice {
    // A claim is made before it is published, so where there is none it is yet to be heard of.
    let claims = &now.view.claims;
    let elsewhere = |block: &IpNet| {
        let claim = claims.get(&(now.name.clone(), *block));
        claim.is_some_and(|claim| claim.node != *name) || now.blocks.contains(block)
    };
    let own = |block: &&IpNet| now.network.contains(block) && !elsewhere(block);
    let (blocks, ignored): (Vec<IpNet>, Vec<IpNet>) =
        part.blocks.iter().partition(|block| own(block));
    let peer = Peer {
        name,
        blocks: &blocks,
        mtu: node.record.mtu,
        receives: &part.receives,
        withdrawing: &part.withdrawing,
    };
    let family = |ipv4: bool| {
        if now.network.join.shared().is_some() {
            return None;
        }
        let has = blocks.iter().any(|block| block.addr().is_ipv4() == ipv4);
        has.then(|| choose(order, &now.sender, &peer, ipv4))
    };
    let (v4, v6) = (family(true), family(false));
    let domain = now.network.join.kind().is_bridged().then(|| {
        let pods = residents(now, name).map(|(_, pods)| pods.to_vec()).unwrap_or_default();
        Box::new(Domain::new(now.name, now.network.host_access, pods))
    });
    PeerChoice { revision: revision(now, name, part, node), blocks, ignored, v4, v6, domain }
}

fn residents<'a>(now: &'a Situation<'_>, peer: &NodeName) -> Option<(u64, &'a [Resident])> {
    let (revision, residents) = now.view.residents.get(&(now.name.clone(), peer.clone()))?;
    Some((*revision, &residents.pods))
}

fn revision(now: &Situation<'_>, peer: &NodeName, part: &Part, node: &Node) -> (u64, u64, u64) {
    let pods = now.network.join.kind().is_bridged().then(|| residents(now, peer)).flatten();
    let mut ways = part.receives.iter().chain(&part.withdrawing).map(Receive::way);
    let by_bgp = ways.any(|way| way == Way::Bgp);
    let learnt = if by_bgp { now.sender.learnt.digest(&part.blocks) } else { 0 };
    (node.revision, pods.map_or(0, |(revision, _)| revision), learnt)
}

fn paths(choices: &Choices) -> impl Iterator<Item = &super::Path> {
    choices.values().flat_map(|peer| peer.each().filter_map(|(_, choice)| choice.path.as_ref()))
}

/// Peers that have not yet said that they saw our record as it stands.
fn waiting(now: &Situation<'_>, revision: u64) -> Vec<NodeName> {
    let peers = now.view.nodes.keys().filter(|peer| *peer != now.node);
    peers
        .filter(|peer| now.view.acks.get(*peer).is_none_or(|ack| *ack < revision))
        .cloned()
        .collect()
}

/// What was advertised and is wanted no more. It stays until a record that calls it withdrawn was
/// acknowledged; one that was only advertised so far has yet to be called so.
fn withdrawing(part: Option<&Part>, wanted: &[Receive], acknowledged: bool) -> Vec<Receive> {
    let Some(part) = part else { return Vec::new() };
    let unwanted = |receive: &&Receive| !wanted.contains(receive);
    let fresh = part.receives.iter().filter(unwanted);
    let called = part.withdrawing.iter().filter(unwanted).filter(|_| !acknowledged);
    let mut withdrawing: Vec<Receive> = fresh.chain(called).cloned().collect();
    withdrawing.sort();
    withdrawing.dedup();
    withdrawing
}

/// What is to be held: advertised, withdrawn but not given up, and what chosen paths leave by.
fn hold(
    me: &Receiver<'_>,
    receives: &[Receive],
    withdrawing: &[Receive],
    choices: &Choices,
) -> Vec<Receive> {
    // Thousands of peers are sent to in a handful of ways.
    let mut used: Vec<&Receive> = Vec::new();
    for path in paths(choices) {
        if !used.iter().any(|other| other.same_way_back(&path.receive)) {
            used.push(&path.receive);
        }
    }
    let used = used.into_iter().filter_map(|receive| receive.counterpart(me));
    let mut hold: Vec<Receive> = receives.iter().chain(withdrawing).cloned().chain(used).collect();
    hold.sort();
    hold.dedup();
    // An address that this node no longer has can't be held.
    hold.retain(|receive| me.underlay.contains(&receive.underlay()));
    hold
}

/// The smallest MTU over the ways that the network may use now.
fn target(now: &Situation<'_>, choices: &Choices) -> Mtu {
    let nics = now.sender.underlay.iter().map(|nic| nic.mtu);
    let wire = nics
        .chain(peer_parts(now).map(|(_, _, node)| node.record.mtu))
        .min()
        .unwrap_or(Mtu::ETHERNET);
    let tunnelled = now.network.join.kind().order().iter().any(|way| way.is_tunnel());
    let group = now.network.join.kind().group();
    let over_ipv6 = group.is_some_and(|group| group.is_ipv6())
        || now.sender.underlay.iter().all(|nic| nic.addr.addr().is_ipv6())
        || paths(choices).any(|path| path.way().is_tunnel() && path.receive.underlay().is_ipv6());
    let unspecified: IpAddr = if over_ipv6 {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    };
    let mtu = if tunnelled { wire.less(vxlan::overhead(unspecified)) } else { wire };
    now.network.mtu.map_or(mtu, |most| mtu.min(most))
}
