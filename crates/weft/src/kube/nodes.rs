//! What the API server says of Nodes: this one's `podCIDRs`, and which others there are. A Node that
//! is deleted takes with it what its agent had claimed, as `weft node forget` would; only one whose
//! going was heard of, never one that a list lacks because we were told too little.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;
use tokio::time::Instant;
use weft_core::name::NodeName;

use super::{
    ApiServer,
    client::jitter,
    follow::{Bare, Collection, Followed, Meta, Told, first, follow},
};
use crate::{
    agent::{Agent, dealt::NodeCidrs},
    control::forget_node,
    store::PodCidrs,
};

const NODES: &str = "/api/v1/nodes";
/// A Node that comes back within this time was not gone: it is made anew, say, under its name.
const GRACE: Duration = Duration::from_secs(60);
/// Nodes forget one that is gone within this time for each node that there is, and no later than the
/// bound: the first spares the others.
const SPREAD_EACH: Duration = Duration::from_millis(2);
const SPREAD_MAX: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

impl Followed for Node {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Follows this node's own Node.
pub(super) async fn own(agent: Arc<Agent>, server: ApiServer, wanted: PodCidrs) {
    let mut told = follow::<Node>(server.clone(), Collection::named(NODES, agent.node.as_str()));
    while let Some(told) = told.recv().await {
        let cidrs = match told {
            Told::List { objects, .. } => {
                objects.into_iter().next().map(|node| node.spec.pod_cidrs).unwrap_or_default()
            }
            Told::Put(node) => node.spec.pod_cidrs,
            Told::Gone(_) => {
                tracing::warn!(
                    "the Node object of this node was deleted: after {} s others take its blocks; \
                     stop its agent, or let the kubelet register it again",
                    GRACE.as_secs()
                );
                continue;
            }
            Told::At(_) | Told::Away { .. } | Told::Back => continue,
        };
        let others = cidrs.is_empty() && wanted == PodCidrs::Auto && others_have(&server).await;
        let dealt = NodeCidrs { wanted, own: Some(cidrs.clone()), others };
        if agent.deal_out(dealt) && wanted != PodCidrs::Ignored {
            tracing::info!(?cidrs, others, "podCIDRs of this Node");
        }
    }
}

/// Asked only where this Node has none: whoever deals out gives all of them some.
async fn others_have(server: &ApiServer) -> bool {
    let mut pause = RETRY / 4;
    loop {
        match first::<Node>(server, &Collection::all(NODES)).await {
            Ok((found, _)) => return found.is_some_and(|node| !node.spec.pod_cidrs.is_empty()),
            Err(error) => tracing::debug!(%error, "whether Nodes have podCIDRs is not known yet"),
        }
        tokio::time::sleep(jitter(pause)).await;
        pause = (pause * 2).min(RETRY * 4);
    }
}

/// Which Nodes there are, and which are going.
#[derive(Default)]
struct Known {
    there: BTreeSet<NodeName>,
    /// When what they had is freed.
    going: BTreeMap<NodeName, Instant>,
    /// The list, and the watch since, can be trusted.
    heard: bool,
}

/// Follows all Nodes, by name alone, and forgets those that go.
pub(super) async fn others(agent: Arc<Agent>, server: ApiServer) {
    let mut told = follow::<Bare>(server, Collection::metadata(NODES));
    let mut known = Known::default();
    loop {
        let next = known.going.values().min().copied();
        let due = async move {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = told.recv() => match told {
                Some(told) => known.take(&agent, told),
                None => return,
            },
            () = due, if known.heard => forget_due(&agent, &mut known).await,
        }
    }
}

impl Known {
    fn take(&mut self, agent: &Agent, told: Told<Bare>) {
        match told {
            Told::List { objects, .. } => {
                let now: BTreeSet<NodeName> = objects.iter().filter_map(name).collect();
                let gone: Vec<NodeName> = self.there.difference(&now).cloned().collect();
                gone.into_iter().for_each(|node| self.gone(agent, node));
                self.going.retain(|node, _| !now.contains(node));
                (self.there, self.heard) = (now, true);
            }
            Told::Put(node) => {
                if let Some(node) = name(&node) {
                    self.going.remove(&node);
                    self.there.insert(node);
                }
            }
            Told::Gone(node) => {
                if let Some(node) = name(&node) {
                    self.there.remove(&node);
                    self.gone(agent, node);
                }
            }
            // It may have come back without our hearing of it.
            Told::Away { .. } => self.heard = false,
            Told::Back => self.heard = true,
            Told::At(_) => {}
        }
    }

    fn gone(&mut self, agent: &Agent, node: NodeName) {
        if node == agent.node {
            return;
        }
        let nodes = u32::try_from(self.there.len()).unwrap_or(u32::MAX);
        let spread = jitter(SPREAD_EACH.saturating_mul(nodes).min(SPREAD_MAX));
        self.going.insert(node, Instant::now() + GRACE + spread);
    }
}

async fn forget_due(agent: &Agent, known: &mut Known) {
    let now = Instant::now();
    let due: Vec<NodeName> =
        known.going.iter().filter(|(_, at)| **at <= now).map(|(node, _)| node.clone()).collect();
    for node in due {
        known.going.remove(&node);
        if !has_anything(agent, &node) {
            continue;
        }
        match forget_node(agent, &node).await {
            Ok(freed) => {
                tracing::info!(%node, ?freed, "its Node object is gone: what it had is free");
            }
            Err(error) => {
                tracing::warn!(%node, %error, "its Node object is gone, but what it had is not free yet");
                known.going.insert(node, now + RETRY);
            }
        }
    }
}

fn has_anything(agent: &Agent, node: &NodeName) -> bool {
    let shown = agent.shown();
    let view = &shown.view;
    view.nodes.contains_key(node)
        || view.acks.contains_key(node)
        || view.claims.values().any(|claim| claim.node == *node)
        || view.fixed.values().any(|(_, claim)| claim.node.as_ref() == Some(node))
}

fn name(node: &Bare) -> Option<NodeName> {
    node.metadata.name.parse().ok()
}
