//! The node's blocks: claimed in the store for good, one create-if-absent each. Needs a view that
//! was listed in full, so that a block that was ours is taken again and no other beside it.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;
use weft_core::{
    ipam::candidates,
    name::NetworkName,
    network::{Network, SCHEMA, overlap},
    view::{Claim, claim_key},
};

use super::{Agent, POISONED, wake::Reasons};
use crate::store::Created;

const RETRY: Duration = Duration::from_secs(1);
/// Blocks tried in one go; the view is looked at anew after that.
const TRIES_MAX: usize = 64;

pub async fn run(agent: Arc<Agent>) {
    loop {
        let missing = missing(&agent);
        let mut failed = false;
        for (name, network, range) in &missing {
            match claim(&agent, name, network, *range).await {
                Ok(Some(block)) => {
                    tracing::info!(network = %name, %block, "claimed a block");
                    agent.hungry.lock().expect(POISONED).remove(name);
                    agent.wake.ring(Reasons::VIEW);
                }
                Ok(None) => {
                    tracing::warn!(network = %name, %range, "no free block in the range");
                    failed = true;
                }
                Err(error) => {
                    tracing::warn!(network = %name, %error, "could not claim a block");
                    failed = true;
                }
            }
        }
        if failed {
            tokio::select! { () = tokio::time::sleep(RETRY) => {}, () = agent.claimer.notified() => {} }
        } else {
            agent.claimer.notified().await;
        }
    }
}

/// Ranges of which this node has no block, or none with a free address.
fn missing(agent: &Agent) -> Vec<(NetworkName, Network, IpNet)> {
    let shown = agent.shown();
    if !shown.synced {
        return Vec::new();
    }
    let hungry = agent.hungry.lock().expect(POISONED).clone();
    let conflicts = shown.view.conflicts();
    let mut missing = Vec::new();
    for (name, network) in
        shown.view.networks.iter().filter(|(name, _)| !conflicts.contains_key(*name))
    {
        for range in &network.ranges {
            let ipv4 = range.addr().is_ipv4();
            let has = shown.view.claims_of(&agent.node, name).any(|block| range.contains(&block));
            if !has || hungry.get(name) == Some(&ipv4) {
                missing.push((name.clone(), network.clone(), *range));
            }
        }
    }
    missing
}

async fn claim(
    agent: &Agent,
    name: &NetworkName,
    network: &Network,
    range: IpNet,
) -> anyhow::Result<Option<IpNet>> {
    let taken: Vec<IpNet> = {
        let shown = agent.shown();
        shown.view.claims.keys().filter(|(of, _)| of == name).map(|(_, block)| *block).collect()
    };
    let free = candidates(range, network.block_prefix(&range), &agent.node)
        .filter(|block| !taken.iter().any(|other| overlap(block, other)));
    let claim = Claim {
        schema: SCHEMA,
        node: agent.node.clone(),
        boot: agent.boot.clone(),
        extra: serde_json::Map::new(),
    };
    let value = serde_json::to_vec(&claim)?;
    for block in free.take(TRIES_MAX) {
        match agent.store.create(&claim_key(name, &block), value.clone()).await? {
            Created::New(revision) => {
                let mut shown = agent.shown_mut();
                shown.view.put(&claim_key(name, &block), &value, revision);
                return Ok(Some(block));
            }
            // Another was quicker; its claim will be in the view soon.
            Created::Exists(_) => {}
        }
    }
    Ok(None)
}
