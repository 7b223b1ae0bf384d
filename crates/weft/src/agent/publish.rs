//! What this node tells the others: its record, and up to where it has followed theirs. Said only
//! after the kernel holds it; the loop decides when, this keeps trying.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use weft_core::{
    attachment::Phase,
    name::{Mtu, NetworkName, NodeName},
    network::SCHEMA,
    paths::{Nic, acknowledged},
    plan::Change,
    state::{Key, Knob},
    view::{Ack, NodeRecord, Part, Resident, Residents, ack_key, node_key, residents_key},
};

#[cfg(feature = "kubernetes")]
use super::wake::Reasons;
use super::{Agent, POISONED, Serving};

const RETRY: Duration = Duration::from_secs(1);
/// Pods that come and go within this time are one record: no ADD waits for it.
const RESIDENTS_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    pub record: Option<NodeRecord>,
    pub ack: Option<u64>,
    /// This node's pods in the networks where the others must know them.
    pub residents: BTreeMap<NetworkName, Vec<Resident>>,
}

/// What this process wrote last, with the revision that it became. Until the view has come so far
/// it is the newer of the two.
#[derive(Default)]
struct Written {
    record: Option<(NodeRecord, u64)>,
    /// When that was.
    at: Option<Instant>,
    ack: Option<(u64, u64)>,
    residents: BTreeMap<NetworkName, (Vec<Resident>, u64)>,
    /// The view's revision when last looked at.
    seen: u64,
}

pub async fn run(agent: Arc<Agent>) {
    let mut news = agent.publication.subscribe();
    let mut written = Written::default();
    while news.changed().await.is_ok() {
        let publication = news.borrow_and_update().clone();
        while !publish(&agent, &publication, &mut written).await {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = news.changed() => { news.mark_changed(); break }
            }
        }
        match residents(&agent, &publication, &mut written).await {
            Told::Nothing => {}
            Told::All => tokio::time::sleep(RESIDENTS_EVERY).await,
            Told::Failed => {
                tokio::time::sleep(RETRY).await;
                news.mark_changed();
            }
        }
    }
}

/// Says what this node is now, as far as it is in force. What the kernel refuses of a pod or of one
/// peer keeps nothing from the others.
pub(super) fn say(agent: &Agent, serving: &Serving, nics: &[Nic]) {
    let shown = agent.shown();
    if nics.is_empty() || !shown.synced || serving.undone.iter().any(at_stake) {
        return;
    }
    let own = shown.view.nodes.get(&agent.node).map(|node| &node.record);
    let ledger = agent.ledger();
    let mut parts: BTreeMap<NetworkName, Part> = serving
        .networks
        .iter()
        .map(|(name, net)| {
            let pods = ledger.has_pods(name);
            (name.clone(), Part { pods, ..net.stage.part.clone() })
        })
        .collect();
    // Pods of a network that can't be served now are as reachable as they were.
    for (name, part) in own.into_iter().flat_map(|own| own.networks.iter()) {
        if ledger.has_pods(name) {
            parts.entry(name.clone()).or_insert_with(|| part.clone());
        }
    }
    drop(ledger);
    let record = NodeRecord {
        schema: SCHEMA,
        boot: agent.boot.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        underlay: nics.iter().map(|nic| nic.addr.addr()).collect(),
        mtu: nics.iter().map(|nic| nic.mtu).min().unwrap_or(Mtu::ETHERNET),
        networks: parts.into_iter().collect(),
        labels: agent.config.labels.clone(),
        node_object: agent.node_object.lock().expect(POISONED).clone(),
        extra: own.map(|own| own.extra.clone()).unwrap_or_default(),
    };
    let stages = serving.networks.iter().map(|(name, net)| (name, &net.stage));
    let ack = acknowledged(&agent.node, &shown.view, stages, &behind(serving));
    drop(shown);
    agent.publication.send_if_modified(|known| {
        let residents = std::mem::take(&mut known.residents);
        let publication = Publication { record: Some(record), ack, residents };
        let news = (&known.record, known.ack) != (&publication.record, ack);
        *known = publication;
        news
    });
}

/// True of what others rely on once it is published: tunnels, forwarding, rules. Not of pods' own
/// links, the VLANs that those stand on, nor the ways to single peers.
fn at_stake(change: &Change) -> bool {
    match change.key() {
        Key::Link(dev) | Key::Up(dev) | Key::Addr(dev, _) => !dev.is_host_end() && !dev.is_vlan(),
        Key::Sysctl(knob) => !matches!(knob, Knob::RouteLocalnet(_)),
        Key::Table | Key::Apart(..) => true,
        Key::Neigh(..)
        | Key::Proxy(..)
        | Key::Fdb(..)
        | Key::Flood(..)
        | Key::Behind(..)
        | Key::NextHop(..)
        | Key::Group(_)
        | Key::Route(_)
        | Key::Access(_)
        | Key::Hidden(..)
        | Key::Port(_)
        | Key::Sources(_)
        | Key::Shaped(_) => false,
    }
}

/// Peers to whom the way may still be the old one: the kernel refused the new.
fn behind(serving: &Serving) -> BTreeSet<NodeName> {
    let undone: BTreeSet<Key> = serving.undone.iter().map(Change::key).collect();
    if undone.is_empty() {
        return BTreeSet::new();
    }
    let choices = serving.networks.values().flat_map(|here| &here.stage.choices);
    let of = choices.filter(|(_, choice)| choice.objects().any(|o| undone.contains(&o.key())));
    of.map(|(peer, _)| peer.clone()).collect()
}

/// Has it compared with the store again: somebody may have written or deleted what is ours.
pub fn check(agent: &Agent) {
    agent.publication.send_modify(|_| {});
}

enum Told {
    Nothing,
    All,
    Failed,
}

/// Brings the records of this node's pods up to date.
async fn residents(agent: &Agent, publication: &Publication, written: &mut Written) -> Told {
    let mut told = Told::Nothing;
    for (network, pods) in &publication.residents {
        if written.has(agent, network, pods) {
            continue;
        }
        let record = Residents { schema: SCHEMA, pods: pods.clone() };
        let Some(revision) = put(agent, &residents_key(network, &agent.node), &record).await else {
            return Told::Failed;
        };
        written.residents.insert(network.clone(), (pods.clone(), revision));
        told = Told::All;
    }
    told
}

impl Agent {
    /// The UID of this node's Node object: with it the others know what is free once it is gone.
    #[cfg(feature = "kubernetes")]
    pub fn has_object(&self, uid: Option<String>) {
        let mut known = self.node_object.lock().expect(POISONED);
        if *known != uid {
            *known = uid;
            drop(known);
            self.wake.ring(Reasons::VIEW);
        }
    }

    /// Has the other nodes told which pods are here, in networks where they must know.
    pub(super) fn tell_residents(&self) {
        let serving = self.serving();
        let wide = serving.networks.iter().filter(|(_, here)| here.network.tells_residents());
        let mut residents: BTreeMap<NetworkName, Vec<Resident>> =
            wide.map(|(name, _)| (name.clone(), Vec::new())).collect();
        self.publication.send_if_modified(|known| {
            if residents.is_empty() && known.residents.is_empty() {
                return false;
            }
            // Looked at in here, or the later of two that are told at once might tell less.
            for pod in self.ledger().attachments().filter(|pod| pod.phase == Phase::Attached) {
                if let Some(pods) = residents.get_mut(&pod.network) {
                    pods.push(Resident { mac: pod.mac, addrs: pod.addrs.clone() });
                }
            }
            residents.values_mut().for_each(|pods| pods.sort());
            let news = known.residents != residents;
            known.residents = residents;
            news
        });
    }
}

/// True if the store has all of it.
async fn publish(agent: &Agent, publication: &Publication, written: &mut Written) -> bool {
    let (stands, acked) = written.stands(agent);
    let mut done = true;
    if let Some(record) = &publication.record
        && stands.as_ref() != Some(record)
    {
        if written.record.as_ref().is_some_and(|(ours, _)| ours == record) {
            if written.at.is_some_and(|at| at.elapsed() < RETRY) {
                // Two who write it in turns do so slowly.
                return false;
            }
            tracing::warn!(
                "the record of this node was changed or deleted by another and is written again; \
                 is there a second node named {}?",
                agent.node
            );
        }
        match put(agent, &node_key(&agent.node), record).await {
            Some(revision) => {
                written.record = Some((record.clone(), revision));
                written.at = Some(Instant::now());
            }
            None => done = false,
        }
    }
    if let Some(ack) = publication.ack
        && acked.is_none_or(|acked| acked < ack)
    {
        let record = Ack { schema: SCHEMA, revision: ack };
        match put(agent, &ack_key(&agent.node), &record).await {
            Some(revision) => written.ack = Some((ack, revision)),
            None => done = false,
        }
    }
    done
}

impl Written {
    fn has(&self, agent: &Agent, network: &NetworkName, pods: &[Resident]) -> bool {
        let shown = agent.shown();
        let view = &shown.view;
        if let Some((ours, revision)) = self.residents.get(network)
            && *revision > view.revision
        {
            return ours == pods;
        }
        let stands = view.residents.get(&(network.clone(), agent.node.clone()));
        stands.map_or(pods.is_empty(), |(_, record)| record.pods == pods)
    }

    /// What the store has of us, as far as we know.
    fn stands(&mut self, agent: &Agent) -> (Option<NodeRecord>, Option<u64>) {
        let shown = agent.shown();
        let view = &shown.view;
        if view.revision < self.seen {
            // The store began anew: what we wrote is not in it.
            *self = Self::default();
        }
        self.seen = view.revision;
        let newer = |revision: &u64| *revision > view.revision;
        let record = match &self.record {
            Some((record, revision)) if newer(revision) => Some(record.clone()),
            // What can't be read replaces nothing in the view, but in the store it did.
            _ if view.said.contains_key(&node_key(&agent.node)) => None,
            _ => view.nodes.get(&agent.node).map(|node| node.record.clone()),
        };
        let ack = match &self.ack {
            Some((ack, revision)) if newer(revision) => Some(*ack),
            _ => view.acks.get(&agent.node).copied(),
        };
        (record, ack)
    }
}

/// The revision that it became.
async fn put(agent: &Agent, key: &str, value: &impl Serialize) -> Option<u64> {
    let value = serde_json::to_vec(value).ok()?;
    match agent.store.put(key, value).await {
        Ok(revision) => Some(revision),
        Err(error) => {
            tracing::warn!(%error, key, "could not publish; will try again");
            None
        }
    }
}
