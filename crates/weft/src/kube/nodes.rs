//! What the API server says of Nodes: this one's `podCIDRs`, and which others there are. A Node that
//! is deleted takes with it what its agent had claimed, as `weft node forget` would: one whose going was
//! heard of, or whose record says that it had a Node object, which a full list lacks. A node without an
//! object is not among them, nor one that the server knows again when its time has come.
//!
//! No object of ours has a Node for its owner: the garbage collector would free blocks at once, while pods
//! may still run and the Node come back.

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
    ApiServer, KubeError,
    client::jitter,
    follow::{Bare, Collection, Followed, Meta, Told, Unread, Whole, few, follow},
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
/// How often records are looked through for nodes whose objects went while nobody listened.
const LOOK: Duration = Duration::from_secs(30);
/// Nodes that are asked whether they have podCIDRs.
const SOME: usize = 8;

#[derive(Clone, Debug, Deserialize)]
struct Node {
    metadata: Meta,
    #[serde(default)]
    spec: NodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    /// As they are written: one that is none hides no other.
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

impl NodeSpec {
    fn cidrs(&self) -> Vec<IpNet> {
        self.pod_cidrs.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
    }
    /// One that is no prefix.
    fn odd(&self) -> Option<&String> {
        self.pod_cidrs.iter().flatten().find(|cidr| cidr.parse::<IpNet>().is_err())
    }
}

impl Followed for Node {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Follows this node's own Node.
pub(super) async fn own(agent: Arc<Agent>, server: ApiServer, wanted: PodCidrs) {
    let of = Collection::named(NODES, agent.node.as_str());
    let mut told = follow::<Node>(server.clone(), of.clone());
    let mut listed = Whole::default();
    while let Some(told) = told.recv().await {
        let cidrs = match told {
            Told::Page(page) => {
                let Some((objects, _)) = listed.add(page) else { continue };
                agent.has_object(objects.first().map(|node| node.metadata.uid.clone()));
                objects.first().map(|node| read(&server, &of, node)).unwrap_or_default()
            }
            Told::Put(node) => {
                agent.has_object(Some(node.metadata.uid.clone()));
                read(&server, &of, &node)
            }
            Told::Gone(_) => {
                // Whoever can say so is there: the others do not take it for gone by its record.
                agent.has_object(None);
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

/// This Node's podCIDRs; of one that is none `weft status` tells.
fn read(server: &ApiServer, of: &Collection, node: &Node) -> Vec<IpNet> {
    match node.spec.odd() {
        Some(cidr) => {
            let why = format!("its podCIDR {cidr:?} is no prefix: left out");
            server.watches().unread(of, &Unread::by(node.metadata.clone(), why));
        }
        None => server.watches().read(of, &node.metadata.label()),
    }
    node.spec.cidrs()
}

/// Asked only where this Node has none: whoever deals out gives all of them some. This Node itself, or
/// another that has just come, may be the first of those that are asked for.
async fn others_have(server: &ApiServer) -> bool {
    let mut pause = RETRY / 4;
    loop {
        match few::<Node>(server, &Collection::all(NODES), SOME).await {
            Ok((some, _)) => return some.iter().any(|node| !node.spec.cidrs().is_empty()),
            Err(error) => tracing::debug!(%error, "whether Nodes have podCIDRs is not known yet"),
        }
        tokio::time::sleep(jitter(pause)).await;
        pause = (pause * 2).min(RETRY * 4);
    }
}

/// Which Nodes there are, and which are going.
struct Known {
    /// This node is never forgotten by itself.
    own: NodeName,
    there: BTreeSet<NodeName>,
    /// When what they had is freed.
    going: BTreeMap<NodeName, Instant>,
    /// The list, and the watch since, can be trusted.
    heard: bool,
    listed: Whole<Bare>,
}

/// Follows all Nodes, by name alone, and forgets those that go.
pub(super) async fn others(agent: Arc<Agent>, server: ApiServer) {
    let mut told = follow::<Bare>(server.clone(), Collection::metadata(NODES));
    let mut known = Known::of(agent.node.clone());
    let mut look = tokio::time::interval(jitter(LOOK));
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
                Some(told) => known.take(told),
                None => return,
            },
            () = due, if known.heard => forget_due(&agent, &server, &mut known).await,
            _ = look.tick(), if known.heard => {
                let shown = agent.shown();
                let nodes = shown.view.nodes.iter().filter(|_| shown.synced);
                let had = nodes.filter(|(_, node)| node.record.node_object.is_some());
                known.lacks(had.map(|(name, _)| name));
            }
        }
    }
}

impl Known {
    fn of(own: NodeName) -> Self {
        let (there, going, listed) = Default::default();
        Self { own, there, going, heard: false, listed }
    }

    fn take(&mut self, told: Told<Bare>) {
        match told {
            Told::Page(page) => {
                let Some((objects, _)) = self.listed.add(page) else { return };
                let now: BTreeSet<NodeName> = objects.iter().filter_map(name).collect();
                let gone: Vec<NodeName> = self.there.difference(&now).cloned().collect();
                gone.into_iter().for_each(|node| self.gone(node));
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
                    self.gone(node);
                }
            }
            // It may have come back without our hearing of it.
            Told::Away { .. } => self.heard = false,
            Told::Back => self.heard = true,
            Told::At(_) => {}
        }
    }

    /// Of nodes that had an object, those that the server lacks: it went while nobody listened.
    fn lacks<'a>(&mut self, had: impl Iterator<Item = &'a NodeName>) {
        let gone =
            had.filter(|node| !self.there.contains(*node) && !self.going.contains_key(*node));
        gone.cloned().collect::<Vec<_>>().into_iter().for_each(|node| self.gone(node));
    }

    fn gone(&mut self, node: NodeName) {
        if node == self.own {
            return;
        }
        let nodes = u32::try_from(self.there.len()).unwrap_or(u32::MAX);
        let spread = jitter(SPREAD_EACH.saturating_mul(nodes).min(SPREAD_MAX));
        self.going.insert(node, Instant::now() + GRACE + spread);
    }

    fn due(&self, now: Instant) -> Vec<NodeName> {
        self.going.iter().filter(|(_, at)| **at <= now).map(|(node, _)| node.clone()).collect()
    }
}

async fn forget_due(agent: &Agent, server: &ApiServer, known: &mut Known) {
    let now = Instant::now();
    for node in known.due(now) {
        known.going.remove(&node);
        if !has_anything(agent, &node) {
            continue;
        }
        // A connection that broke without a word has not told that it is back.
        match is_there(server, &node).await {
            Ok(false) => {}
            Ok(true) => continue,
            Err(error) => {
                tracing::debug!(%node, %error, "whether its Node object is back is not known yet");
                known.going.insert(node, now + RETRY);
                continue;
            }
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

async fn is_there(server: &ApiServer, node: &NodeName) -> Result<bool, KubeError> {
    let named = Collection { metadata_only: true, ..Collection::named(NODES, node.as_str()) };
    Ok(!few::<Bare>(server, &named, 1).await?.0.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::follow::Page;

    fn known(there: &[&str]) -> Known {
        let mut known = Known::of("own".parse().unwrap());
        known.take(list(there));
        known
    }

    fn object(name: &str) -> Bare {
        Bare { metadata: Meta { name: name.into(), ..Meta::default() } }
    }

    fn list(names: &[&str]) -> Told<Bare> {
        let objects = names.iter().map(|name| object(name)).collect();
        Told::Page(Page { objects, first: true, last: Some(1) })
    }

    fn due(known: &Known) -> Vec<String> {
        let late = Instant::now() + GRACE + SPREAD_MAX;
        known.due(late).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_node_whose_going_was_heard_of_is_due_and_not_at_once() {
        let mut known = known(&["own", "a", "b", "c"]);
        known.take(Told::Gone(object("a")));
        known.take(list(&["own", "c"]));
        assert_eq!(due(&known), ["a", "b"]);
        assert!(known.due(Instant::now()).is_empty(), "it has time to come back");
        // A first list says of nobody that he is gone.
        let mut fresh = Known::of("own".parse().unwrap());
        fresh.take(list(&[]));
        assert_eq!(due(&fresh), [""; 0]);
    }

    #[test]
    fn one_that_comes_back_is_not_due_and_this_node_never_is() {
        let mut known = known(&["own", "a", "b"]);
        for name in ["own", "a", "b"] {
            known.take(Told::Gone(object(name)));
        }
        known.take(Told::Put(object("a")));
        assert_eq!(due(&known), ["b"]);
        known.take(list(&["b"]));
        assert_eq!(due(&known), ["a"], "this one has gone meanwhile");
    }

    #[test]
    fn a_node_whose_object_went_while_nobody_listened_is_due_once() {
        let mut known = known(&["own", "a"]);
        let had: Vec<NodeName> = ["own", "a", "b"].map(|name| name.parse().unwrap()).into();
        known.lacks(had.iter());
        let when = known.going.clone();
        known.lacks(had.iter());
        assert_eq!((due(&known), &known.going), (vec!["b".to_owned()], &when));
        assert!(known.due(Instant::now()).is_empty(), "it has time to come back");
        known.take(Told::Put(object("b")));
        assert_eq!(due(&known), [""; 0]);
    }

    #[test]
    fn nothing_is_forgotten_while_the_server_is_away() {
        let mut known = known(&["a"]);
        assert!(known.heard);
        known.take(Told::Away { why: "gone".into() });
        assert!(!known.heard);
    }
}
