//! The node's blocks: claimed in the store for good, one create-if-absent each. Needs a view that
//! was listed in full, so that a block that was ours is taken again and no other beside it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_core::{
    ipam::{Reserve, candidates},
    name::NetworkName,
    network::{Network, SCHEMA, overlap},
    view::{Claim, claim_key},
};

use super::{Agent, POISONED};
use crate::store::Created;

const RETRY: Duration = Duration::from_secs(1);
/// Blocks tried in one go; the view is looked at anew after that.
const TRIES_MAX: usize = 64;
/// How long the view may take to show what was claimed.
const SHOWN_MAX: Duration = Duration::from_secs(30);

/// A block that we have, but that the view does not show yet. Only the watch writes to the view: a
/// list from before the claim would take it out again, and a second block be claimed for it.
struct Pending {
    network: NetworkName,
    block: IpNet,
    revision: u64,
    since: Instant,
}

/// A range that lacks a block.
struct Missing {
    name: NetworkName,
    network: Network,
    range: IpNet,
    reserve: Reserve,
}

pub async fn run(agent: Arc<Agent>) {
    let mut pending: Vec<Pending> = Vec::new();
    // What was said last of each range: once is enough.
    let mut said: BTreeMap<(NetworkName, IpNet), String> = BTreeMap::new();
    loop {
        let missing = missing(&agent, &mut pending);
        said.retain(|(name, range), _| {
            missing.iter().any(|of| of.name == *name && of.range == *range)
        });
        for of in &missing {
            match claim(&agent, of).await {
                Ok(claimed) => {
                    tracing::info!(network = %of.name, block = %claimed.block, "claimed a block");
                    agent.hungry.lock().expect(POISONED).remove(&of.name);
                    pending.push(claimed);
                }
                Err(error) => {
                    let why = error.to_string();
                    let last = said.insert((of.name.clone(), of.range), why.clone());
                    if last.is_none_or(|last| last != why) {
                        tracing::warn!(network = %of.name, %error, "could not claim a block");
                    }
                }
            }
        }
        if said.is_empty() && pending.is_empty() {
            agent.claimer.notified().await;
        } else {
            tokio::select! { () = tokio::time::sleep(RETRY) => {}, () = agent.claimer.notified() => {} }
        }
    }
}

/// Ranges of which this node has no block, or none with a free address.
fn missing(agent: &Agent, pending: &mut Vec<Pending>) -> Vec<Missing> {
    let serving = agent.serving();
    let shown = agent.shown();
    if !shown.synced {
        return Vec::new();
    }
    let view = &shown.view;
    pending.retain(|claimed| {
        view.revision < claimed.revision
            && claimed.since.elapsed() < SHOWN_MAX
            && view.networks.contains_key(&claimed.network)
    });
    let hungry = agent.hungry.lock().expect(POISONED).clone();
    let conflicts = view.conflicts();
    let mut missing = Vec::new();
    for (name, network) in view.networks.iter().filter(|(name, _)| !conflicts.contains_key(*name)) {
        for range in &network.ranges {
            let coming =
                |claimed: &Pending| claimed.network == *name && range.contains(&claimed.block);
            if pending.iter().any(coming) {
                continue;
            }
            let ours: Vec<IpNet> =
                view.claims_of(&agent.node, name).filter(|block| range.contains(block)).collect();
            // A block that the loop has yet to take in is what the pods are waiting for.
            let full = hungry.get(name) == Some(&range.addr().is_ipv4())
                && serving
                    .networks
                    .get(name)
                    .is_some_and(|here| ours.iter().all(|block| here.blocks.contains(block)));
            if full || ours.is_empty() {
                let here = serving.networks.get(name);
                let reserve = here.map_or_else(|| network.reserve([]), |here| here.reserve.clone());
                let (name, network) = (name.clone(), network.clone());
                missing.push(Missing { name, network, range: *range, reserve });
            }
        }
    }
    missing
}

async fn claim(agent: &Agent, of: &Missing) -> anyhow::Result<Pending> {
    let Missing { name, network, range, reserve } = of;
    let taken: Vec<IpNet> = {
        let shown = agent.shown();
        shown.view.claims.keys().filter(|(of, _)| of == name).map(|(_, block)| *block).collect()
    };
    let free: Vec<IpNet> = candidates(*range, network.block_prefix(range), &agent.node)
        .filter(|block| !network.keeps(block) && !taken.iter().any(|other| overlap(block, other)))
        .filter(|block| reserve.usable(block) > 0)
        .take(TRIES_MAX)
        .collect();
    let claim = Claim {
        schema: SCHEMA,
        node: agent.node.clone(),
        boot: agent.boot.clone(),
        extra: serde_json::Map::new(),
    };
    let value = serde_json::to_vec(&claim)?;
    for block in &free {
        let claimed = |revision| Pending {
            network: name.clone(),
            block: *block,
            revision,
            since: Instant::now(),
        };
        match agent.store.create(&claim_key(name, block), value.clone()).await? {
            Created::New(revision) => return Ok(claimed(revision)),
            // Ours already: the answer was lost.
            Created::Exists(entry) if is_ours(agent, &entry.value) => {
                return Ok(claimed(entry.revision));
            }
            // Another was quicker; its claim will be in the view soon.
            Created::Exists(_) => {}
        }
    }
    match free.len() {
        0 => anyhow::bail!(
            "{range} has no free block: widen it, or free the blocks of nodes that are gone \
             with `weft node forget`"
        ),
        tried => anyhow::bail!("others were quicker on all {tried} blocks of {range} tried"),
    }
}

fn is_ours(agent: &Agent, value: &[u8]) -> bool {
    serde_json::from_slice(value).is_ok_and(|claim: Claim| claim.node == agent.node)
}
