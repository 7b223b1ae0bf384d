//! The node's blocks: claimed in the store for good, one create-if-absent each. Needs a view that
//! was listed in full, so that a block that was ours is taken again and no other beside it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_core::{
    ipam::{Reserve, candidates},
    name::NetworkName,
    network::{Network, SCHEMA, overlap},
    view::{Claim, View, claim_key, network_key},
};

use super::{
    Agent, POISONED,
    chunks::{self, Idle, give_back},
    dealt::Dealt,
    fixed,
    wake::Reasons,
};
use crate::store::{Created, StoreError};

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

/// Why there is no block.
#[derive(Clone, PartialEq, Eq)]
pub struct Unclaimed {
    pub why: String,
    /// All of the range is claimed.
    pub full: bool,
}

/// What the claimer remembers between passes.
#[derive(Default)]
pub(super) struct Memory {
    pending: Vec<Pending>,
    idle: Idle,
}

pub async fn run(agent: Arc<Agent>) {
    let mut memory = Memory::default();
    loop {
        // What is idle now is so later without anybody saying it.
        let longest = if pass(&agent, &mut memory).await { chunks::LOOK } else { RETRY };
        let _ = tokio::time::timeout(longest, agent.claimer.notified()).await;
    }
}

/// Brings what this node has claimed to what it needs. True if there is nothing to come back for soon.
pub(super) async fn pass(agent: &Agent, memory: &mut Memory) -> bool {
    // What is not needed goes before anything is claimed.
    let returned = give_back(agent, &mut memory.idle).await;
    let orphans = free_orphans(agent).await;
    let tended = fixed::tend(agent).await;
    for error in [&returned, &orphans, &tended].into_iter().filter_map(|done| done.as_ref().err()) {
        tracing::debug!(%error, "could not give back what is not needed");
    }
    let missing = missing(agent, &mut memory.pending);
    agent
        .unclaimed
        .lock()
        .expect(POISONED)
        .retain(|(name, range), _| missing.iter().any(|of| of.name == *name && of.range == *range));
    for of in &missing {
        match claim(agent, of).await {
            Ok(claimed) => {
                tracing::info!(network = %of.name, block = %claimed.block, "claimed a block");
                agent.hungry.lock().expect(POISONED).remove(&of.name);
                if of.network.join.shared().is_some() {
                    // Nothing has to be in the kernel for it: an ADD that waits goes on at once.
                    agent.ledger().pool(&of.name).add_block(claimed.block);
                    agent.tell_progress();
                }
                memory.pending.push(claimed);
            }
            Err(unclaimed) => say(agent, of, unclaimed),
        }
    }
    returned.is_ok()
        && tended.is_ok()
        && memory.pending.is_empty()
        && agent.unclaimed.lock().expect(POISONED).is_empty()
}

/// Said once is enough.
fn say(agent: &Agent, of: &Missing, unclaimed: Unclaimed) {
    let why = unclaimed.why.clone();
    let key = (of.name.clone(), of.range);
    let last = agent.unclaimed.lock().expect(POISONED).insert(key, unclaimed);
    if last.is_none_or(|last| last.why != why) {
        tracing::warn!(network = %of.name, why, "could not claim a block");
        agent.wake.ring(Reasons::VIEW);
        agent.tell_progress();
    }
}

/// A network that was deleted while this node was claiming a block of it.
async fn free_orphans(agent: &Agent) -> Result<(), StoreError> {
    let gone: BTreeSet<NetworkName> = {
        let shown = agent.shown();
        let ours = shown.view.claims.iter().filter(|(_, claim)| claim.node == agent.node);
        let gone = ours.map(|((network, _), _)| network);
        let gone = gone.filter(|name| shown.synced && !shown.view.networks.contains_key(*name));
        // One that this version can't read is there all the same.
        let gone = gone.filter(|name| !shown.view.said.contains_key(&network_key(name)));
        gone.filter(|name| !agent.ledger().has_pods(name)).cloned().collect()
    };
    if gone.is_empty() {
        return Ok(());
    }
    free(agent, |network, claim| claim.node == agent.node && gone.contains(network)).await.map(drop)
}

/// Frees the blocks whose claims are meant. Each is looked at in the store: one that another node
/// has claimed meanwhile is not taken from it.
pub async fn free(
    agent: &Agent,
    meant: impl Fn(&NetworkName, &Claim) -> bool,
) -> Result<Vec<String>, StoreError> {
    let claims: Vec<_> = {
        let shown = agent.shown();
        let claims = shown.view.claims.iter().filter(|((network, _), claim)| meant(network, claim));
        claims.map(|(key, _)| key.clone()).collect()
    };
    let mut freed = Vec::new();
    for (network, block) in claims {
        let key = claim_key(&network, &block);
        let Some(entry) = agent.store.get(&key).await? else { continue };
        let still = serde_json::from_slice(&entry.value).is_ok_and(|claim| meant(&network, &claim));
        if still && agent.store.delete_if(&key, entry.revision).await? {
            freed.push(block.to_string());
        }
    }
    Ok(freed)
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
    let served = view.networks.iter().filter(|(name, _)| !conflicts.contains_key(*name));
    for (name, network) in served.filter(|(_, network)| !network.by_dhcp()) {
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
            if full || ours.is_empty() || runs_low(agent, view, (name, network, range), &ours) {
                let here = serving.networks.get(name);
                let reserve = here.map_or_else(|| network.reserve([]), |here| here.reserve.clone());
                let (name, network) = (name.clone(), network.clone());
                missing.push(Missing { name, network, range: *range, reserve });
            }
        }
    }
    missing
}

/// True if few addresses of a shared range are left here: the next block is claimed before an ADD has
/// to wait for it, as long as half of the range is nobody's.
fn runs_low(
    agent: &Agent,
    view: &View,
    (name, network, range): (&NetworkName, &Network, &IpNet),
    ours: &[IpNet],
) -> bool {
    let prefix = network.block_prefix(range);
    let is_default = view.default_network() == Some(name);
    let dealt_out = agent.dealt(name, range, is_default) != Dealt::Free;
    if network.join.shared().is_none() || dealt_out || prefix == range.prefix_len() {
        return false;
    }
    let claimed = view.claims.keys().filter(|(of, block)| of == name && range.contains(block));
    let half = 1u128.checked_shl(u32::from(prefix - range.prefix_len()) - 1).unwrap_or(u128::MAX);
    if claimed.count() as u128 >= half {
        return false;
    }
    let room: u128 = {
        let mut ledger = agent.ledger();
        let pool = ledger.pool(name);
        ours.iter().filter(|block| !pool.leaves(block)).map(|block| pool.use_of(block).1).sum()
    };
    room < ahead(range, prefix)
}

/// Addresses that are to be left before another block is claimed: three quarters of one.
pub(super) fn ahead(range: &IpNet, prefix: u8) -> u128 {
    let bits = u32::from(range.max_prefix_len() - prefix);
    (1u128 << bits.min(8)) * 3 / 4
}

/// Blocks of the range that are free and may be this node's, the best first.
fn free_blocks(agent: &Agent, of: &Missing) -> Result<Vec<IpNet>, Unclaimed> {
    let Missing { name, network, range, reserve } = of;
    let shown = agent.shown();
    let taken = || shown.view.claims.iter().filter(|((of, _), _)| of == name);
    let holder = |block: &IpNet| taken().find(|((_, other), _)| overlap(block, other));
    let usable = |block: &IpNet| !network.keeps(block) && reserve.usable(block) > 0;
    let refused = |why: String, full| Err(Unclaimed { why, full });
    match agent.dealt(name, range, shown.view.default_network() == Some(name)) {
        Dealt::Free => {}
        Dealt::Wait(why) => return refused(why, false),
        Dealt::Given(given, by) => {
            let given = given_blocks(agent, &shown.view, of, (given, by));
            return given.or_else(|why| refused(why, true));
        }
    }
    let prefix = network.block_prefix(range);
    // One that was taken from this node under its pods comes first.
    let held: BTreeSet<IpNet> = {
        let ledger = agent.ledger();
        let pods = ledger.attachments().filter(|pod| pod.network == *name);
        let addrs = pods.flat_map(|pod| &pod.addrs).filter(|addr| range.contains(*addr));
        addrs.filter_map(|addr| Some(IpNet::new(*addr, prefix).ok()?.trunc())).collect()
    };
    let others = candidates(*range, prefix, &agent.node).filter(|block| !held.contains(block));
    let all = held.iter().copied().chain(others);
    Ok(all.filter(|block| usable(block) && holder(block).is_none()).take(TRIES_MAX).collect())
}

/// What is left of the blocks that were dealt to this node.
fn given_blocks(
    agent: &Agent,
    view: &View,
    of: &Missing,
    (given, by): (Vec<IpNet>, &str),
) -> Result<Vec<IpNet>, String> {
    let Missing { name, network, range, reserve } = of;
    let taken = || view.claims.iter().filter(|((of, _), _)| of == name);
    let holder = |block: &IpNet| taken().find(|((_, other), _)| overlap(block, other));
    let usable = |block: &IpNet| !network.keeps(block) && reserve.usable(block) > 0;
    if given.is_empty() {
        return Err(format!("{by} gives no block of {range}"));
    }
    if let Some(block) = given.iter().find(|block| !usable(block)) {
        return Err(format!("{block}, of {by}, has no address for pods"));
    }
    let others = given.iter().filter_map(|block| holder(block).map(|of| (block, of)));
    let mut others = others.filter(|(_, (_, claim))| claim.node != agent.node);
    if let Some((block, ((_, other), claim))) = others.next() {
        return Err(format!("{block}, of {by}, overlaps {other}, which is node {}'s", claim.node));
    }
    let free: Vec<IpNet> = given.into_iter().filter(|block| holder(block).is_none()).collect();
    if free.is_empty() {
        return Err(format!("the blocks of {range} that {by} gives have no address left"));
    }
    Ok(free)
}

async fn claim(agent: &Agent, of: &Missing) -> Result<Pending, Unclaimed> {
    let Missing { name, range, .. } = of;
    let failed = |error: StoreError| Unclaimed { why: error.to_string(), full: false };
    let free = free_blocks(agent, of)?;
    let claim = Claim {
        schema: SCHEMA,
        node: agent.node.clone(),
        boot: agent.boot.clone(),
        extra: serde_json::Map::new(),
    };
    let value = serde_json::to_vec(&claim)
        .map_err(|error| Unclaimed { why: error.to_string(), full: false })?;
    for block in &free {
        let claimed = |revision| Pending {
            network: name.clone(),
            block: *block,
            revision,
            since: Instant::now(),
        };
        match agent.store.create(&claim_key(name, block), value.clone()).await.map_err(failed)? {
            Created::New(revision) => return Ok(claimed(revision)),
            // Ours already: the answer was lost.
            Created::Exists(entry) if is_ours(agent, &entry.value) => {
                return Ok(claimed(entry.revision));
            }
            // Another was quicker; its claim will be in the view soon.
            Created::Exists(_) => {}
        }
    }
    let full = free.is_empty();
    let why = if full {
        format!(
            "{range} has no free block: free the blocks of nodes that are gone with `weft node \
             forget`, or make another network with a wider range"
        )
    } else {
        format!("others were quicker on all {} blocks of {range} tried", free.len())
    };
    Err(Unclaimed { why, full })
}

fn is_ours(agent: &Agent, value: &[u8]) -> bool {
    serde_json::from_slice(value).is_ok_and(|claim: Claim| claim.node == agent.node)
}
