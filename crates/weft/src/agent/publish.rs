//! What this node tells the others: its record, and up to where it has followed theirs. Said only
//! after the kernel holds it; the loop decides when, this keeps trying.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use weft_core::view::{Ack, NodeRecord, ack_key, node_key};

use super::Agent;

const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication {
    pub record: Option<NodeRecord>,
    pub ack: Option<u64>,
}

pub async fn run(agent: Arc<Agent>) {
    let mut news = agent.publication.subscribe();
    while news.changed().await.is_ok() {
        let publication = news.borrow_and_update().clone();
        while !publish(&agent, &publication).await {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = news.changed() => { news.mark_changed(); break }
            }
        }
    }
}

/// True if the store has all of it.
async fn publish(agent: &Agent, publication: &Publication) -> bool {
    let mut done = true;
    if let Some(record) = &publication.record {
        let known = agent.shown().view.nodes.get(&agent.node).map(|node| node.record.clone());
        if known.as_ref() != Some(record) {
            done &= put(agent, &node_key(&agent.node), record).await;
        }
    }
    if let Some(revision) = publication.ack {
        let known = agent.shown().view.acks.get(&agent.node).copied();
        if known.is_none_or(|known| known < revision) {
            let ack = Ack { schema: weft_core::network::SCHEMA, revision };
            done &= put(agent, &ack_key(&agent.node), &ack).await;
        }
    }
    done
}

async fn put(agent: &Agent, key: &str, value: &impl Serialize) -> bool {
    let Ok(value) = serde_json::to_vec(value) else { return true };
    match agent.store.put(key, value).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, key, "could not publish; will try again");
            false
        }
    }
}
