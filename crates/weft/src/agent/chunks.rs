//! Blocks of a shared range that this node does not need are given back: those of an earlier boot
//! first thing, others once they were idle for a while. Blocks of routed networks are for good.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_core::{
    ipam::{Held, surplus},
    name::NetworkName,
    view::{Claim, claim_key},
};

use super::{Agent, claims::ahead};
use crate::store::{Replaced, StoreError};

/// How long a block that nobody has an address of is kept where others have room.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked for what has become idle.
pub(super) const LOOK: Duration = Duration::from_secs(30);

/// Since when nobody has an address of a block.
#[derive(Default)]
pub(super) struct Idle(BTreeMap<(NetworkName, IpNet), Instant>);

/// Gives back what is not needed.
pub(super) async fn give_back(agent: &Agent, idle: &mut Idle) -> Result<(), StoreError> {
    let (going, staying) = decide(agent, idle);
    for (network, block) in going {
        // From here on no pod is given an address of it, so it can be another's.
        if !agent.ledger().pool(&network).leave(&block) {
            continue;
        }
        let key = claim_key(&network, &block);
        let Some(entry) = agent.store.get(&key).await? else { continue };
        let ours =
            serde_json::from_slice(&entry.value).is_ok_and(|claim: Claim| claim.node == agent.node);
        if ours && agent.store.delete_if(&key, entry.revision).await? {
            tracing::info!(%network, %block, "gave a block back");
        }
    }
    for (network, block) in staying {
        renew(agent, &claim_key(&network, &block)).await?;
    }
    Ok(())
}

/// A block of an earlier boot that stays is of this one.
async fn renew(agent: &Agent, key: &str) -> Result<(), StoreError> {
    let Some(entry) = agent.store.get(key).await? else { return Ok(()) };
    let Ok(claim) = serde_json::from_slice::<Claim>(&entry.value) else { return Ok(()) };
    if claim.node != agent.node || claim.boot == agent.boot {
        return Ok(());
    }
    let claim = Claim { boot: agent.boot.clone(), ..claim };
    let value = serde_json::to_vec(&claim).unwrap_or_default();
    match agent.store.replace(key, value, entry.revision).await? {
        // Somebody else changed it: the view will tell.
        Replaced::Done(_) | Replaced::Conflict(_) => Ok(()),
    }
}

type Blocks = Vec<(NetworkName, IpNet)>;

/// Blocks to give back, and those of an earlier boot that stay.
fn decide(agent: &Agent, idle: &mut Idle) -> (Blocks, Blocks) {
    let shown = agent.shown();
    let mut ledger = agent.ledger();
    let (mut going, mut staying) = (Blocks::new(), Blocks::new());
    // A record that can't be read may hold any address.
    if !shown.synced || ledger.unread().next().is_some() {
        return (going, staying);
    }
    let mut known = BTreeMap::new();
    let now = Instant::now();
    for (name, network) in &shown.view.networks {
        // Those that are dealt out stay with whom they were dealt to.
        let is_default = shown.view.default_network() == Some(name);
        if network.join.shared().is_none() || agent.is_dealt(name, network, is_default) {
            continue;
        }
        for range in &network.ranges {
            let claims = shown.view.claims.iter().filter(|((of, block), claim)| {
                of == name && range.contains(block) && claim.node == agent.node
            });
            let held: Vec<Held> = claims
                .map(|((_, block), claim)| {
                    let (taken, room) = ledger.pool(name).use_of(block);
                    let key = (name.clone(), *block);
                    let since = idle.0.get(&key).copied().unwrap_or(now);
                    if taken == 0 {
                        known.insert(key, since);
                    }
                    let of_earlier_boot = claim.boot != agent.boot;
                    Held { block: *block, taken, room, of_earlier_boot, idle: now - since }
                })
                .collect();
            let enough = ahead(range, network.block_prefix(range)).max(1);
            let surplus = surplus(&held, enough, PATIENCE);
            for held in held {
                // One that was given up before is another's, as far as is known.
                let goes = surplus.contains(&held.block) || ledger.pool(name).leaves(&held.block);
                if goes {
                    going.push((name.clone(), held.block));
                } else if held.of_earlier_boot {
                    staying.push((name.clone(), held.block));
                }
            }
        }
    }
    idle.0 = known;
    (going, staying)
}
