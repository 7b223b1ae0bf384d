//! Static addresses: claimed in the store one at a time by ADD, on whichever node, and given back
//! once the pod's link is gone. A claim of this node that no pod has is what a call that died has
//! left; it goes the same way. Which address is wanted, core says.

use std::{collections::BTreeSet, future::Future, net::IpAddr, sync::mpsc, time::Duration};

use serde_json::Map;
use weft_core::{
    attachment::{Attachment, Phase},
    cni::{Call, CniError, Code},
    ipam::fixed::{FixedClaim, NoFixed, Wanted, sticky},
    name::NetworkName,
    network::SCHEMA,
    view::{fixed_key, network_key},
};

use super::{
    Agent, Serving, fault,
    lease::{Lease, from_blocks, wait_for},
    strangers,
};
use crate::store::{Created, Entry, Replaced, Store, StoreError};

/// How often ADD begins anew because somebody else was quicker.
const TRIES_MAX: usize = 16;
/// How long ADD waits for an address that another node still has: its pod may just be going.
const GOING_MAX: Duration = Duration::from_secs(1);

/// Addresses for the pod: those that are static by a claim in the store, the others from blocks.
pub(super) fn lease(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
) -> Result<Vec<IpAddr>, CniError> {
    let mut lost = BTreeSet::new();
    for _ in 0..TRIES_MAX {
        let wanted = settled(agent, call, name, serving, &lost)?;
        let fixed: Vec<IpAddr> = wanted.iter().map(|wanted| wanted.addr).collect();
        let by_name = |addr: &&IpAddr| !call.ips.contains(addr);
        let chosen: Vec<IpAddr> = fixed.iter().filter(by_name).copied().collect();
        if let Some(addr) = strangers::anothers(agent, name, &chosen) {
            lost.insert(addr);
            continue;
        }
        let addrs = from_blocks(agent, call, name, serving, &fixed)?;
        if wanted.is_empty() {
            return Ok(addrs);
        }
        // Ours alone on this node from here on; given back if the store says no.
        let mut lease = Lease { agent, network: name.clone(), addrs: Some(addrs) };
        match claim_all(agent, call, name, &wanted)? {
            None => {
                fault::point("add.after-claim");
                return Ok(lease.addrs.take().unwrap_or_default());
            }
            Some(addr) => drop(lost.insert(addr)),
        }
    }
    let why = format!("others were quicker on all of {} tried", lost.len());
    Err(no_address(Code::TryAgainLater, name, &why))
}

fn no_address(code: Code, name: &NetworkName, why: &str) -> CniError {
    CniError::new(code, "no address for the pod", format!("network {name}: {why}"))
}

/// What is wanted once nobody else has it, or who still has.
fn settled(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
    lost: &BTreeSet<IpAddr>,
) -> Result<Vec<Wanted>, CniError> {
    let mut last = None;
    let found = wait_for(agent, GOING_MAX, || match wanted(agent, call, name, serving, lost) {
        Err(held @ NoFixed::Held { .. }) => {
            last = Some(held);
            None
        }
        found => Some(found),
    });
    let found = found.or(last.map(Err)).unwrap_or_else(|| Ok(Vec::new()));
    let wanted = found.map_err(|no| no_address(Code::TryAgainLater, name, &no.to_string()))?;
    let shown = agent.shown();
    if let Some(why) = shown.away.as_ref().filter(|_| !wanted.is_empty()) {
        let why = format!("static addresses are claimed in the store, which is away: {why}");
        return Err(no_address(Code::TryAgainLater, name, &why));
    }
    Ok(wanted)
}

/// The static addresses that the pod is to have, as the view shows them.
pub(super) fn wanted(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
    lost: &BTreeSet<IpAddr>,
) -> Result<Vec<Wanted>, NoFixed> {
    let Some(here) = serving.networks.get(name) else { return Ok(Vec::new()) };
    let shown = agent.shown();
    let view = &shown.view;
    let mut wanted = Vec::new();
    for addr in call.ips.iter().filter(|addr| here.reserve.fixes(**addr)) {
        let standing = view.fixed.get(&(name.clone(), *addr));
        if let Some((_, claim)) = standing
            && let Some(node) = claim.elsewhere(&agent.node)
        {
            let (addr, pod, node) = (*addr, claim.pod.clone(), node.clone());
            return Err(NoFixed::Held { addr, pod, node });
        }
        wanted.push(Wanted { addr: *addr, instead: standing.map(|(revision, _)| *revision) });
    }
    let sticks = here.network.join.shared().is_some_and(|shared| shared.sticky);
    let Some(pod) = call.pod.as_ref().filter(|_| sticks) else { return Ok(wanted) };
    let pod = pod.to_string();
    let families = here.network.ranges.iter().map(|range| range.addr().is_ipv4());
    for ipv4 in families.filter(|ipv4| here.reserve.fixed(*ipv4).next().is_some()) {
        if call.ips.iter().all(|addr| addr.is_ipv4() != ipv4) {
            let claims = view.fixed_of(name);
            let lost = |addr: &IpAddr| lost.contains(addr) || others_here(agent, name, &pod, *addr);
            wanted.push(sticky(&here.reserve, claims, (&pod, &agent.node, ipv4), lost)?);
        }
    }
    Ok(wanted)
}

/// True if another pod of this node has the address, which the view may not show yet.
fn others_here(agent: &Agent, network: &NetworkName, pod: &str, addr: IpAddr) -> bool {
    let ledger = agent.ledger();
    let mut own = ledger.attachments().filter(|own| own.network == *network && own.label() == pod);
    ledger.holds(network, addr) && !own.any(|own| own.addrs.contains(&addr))
}

/// Claims them one after another. Returns the first that somebody else was quicker to claim.
fn claim_all(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    wanted: &[Wanted],
) -> Result<Option<IpAddr>, CniError> {
    for of in wanted {
        let claim = claim_for(agent, call, name);
        let (store, key) = (agent.store.clone(), fixed_key(name, of.addr));
        let asked = call.ips.contains(&of.addr);
        let instead = of.instead;
        let claiming = async move { claim_one(&store, &key, &claim, instead, asked).await };
        let failed = |why: String| {
            Err(no_address(Code::TryAgainLater, name, &format!("{}: {why}", of.addr)))
        };
        match agent.in_runtime(claiming) {
            Ok(Claimed::Done) => {}
            Ok(Claimed::Lost(_)) if !asked => return Ok(Some(of.addr)),
            Ok(Claimed::Lost(why)) => return failed(why),
            Err(error) => return failed(error.to_string()),
        }
    }
    Ok(None)
}

fn claim_for(agent: &Agent, call: &Call, name: &NetworkName) -> FixedClaim {
    let shown = agent.shown();
    let network = shown.view.networks.get(name);
    let sticks = network.and_then(|network| network.join.shared()).is_some_and(|of| of.sticky);
    let container = call.id.as_ref().map(|id| id.container.clone()).unwrap_or_default();
    FixedClaim {
        schema: SCHEMA,
        node: Some(agent.node.clone()),
        boot: agent.boot.clone(),
        pod: call.pod.as_ref().map_or_else(|| container.clone(), ToString::to_string),
        container,
        sticky: sticks && call.pod.is_some(),
        extra: Map::new(),
    }
}

pub(super) enum Claimed {
    Done,
    /// To whom.
    Lost(String),
}

/// One compare-and-set if the view was right. `any`: what is kept for another name may be taken.
pub(super) async fn claim_one(
    store: &Store,
    key: &str,
    claim: &FixedClaim,
    mut instead: Option<u64>,
    any: bool,
) -> Result<Claimed, StoreError> {
    let value = serde_json::to_vec(claim).unwrap_or_default();
    for _ in 0..TRIES_MAX {
        let standing = match instead {
            None => match store.create(key, value.clone()).await? {
                Created::New(_) => return Ok(Claimed::Done),
                Created::Exists(entry) => Some(entry),
            },
            Some(was) => match store.replace(key, value.clone(), was).await? {
                Replaced::Done(_) => return Ok(Claimed::Done),
                Replaced::Conflict(entry) => entry,
            },
        };
        instead = match standing.map(|entry| may_replace(&entry, claim, any)) {
            None => None,
            Some(Ok(revision)) => Some(revision),
            Some(Err(why)) => return Ok(Claimed::Lost(why)),
        };
    }
    Ok(Claimed::Lost("it changes hands all the time".into()))
}

/// The revision of what stands there, if `claim` may take its place.
fn may_replace(entry: &Entry, claim: &FixedClaim, any: bool) -> Result<u64, String> {
    let standing: FixedClaim = serde_json::from_slice(&entry.value)
        .map_err(|error| format!("its claim {} can't be read: {error}", entry.key))?;
    match &standing.node {
        Some(node) if Some(node) != claim.node.as_ref() => {
            Err(format!("{} on node {node} has it", standing.pod))
        }
        // Ours of before: what this node's pods have, the ledger has told already.
        _ if any || standing.pod == claim.pod || standing.node.is_some() => Ok(entry.revision),
        _ => Err(format!("it is kept for {}", standing.pod)),
    }
}

/// Brings this node's claims to what its pods have.
pub(super) async fn tend(agent: &Agent) -> Result<(), StoreError> {
    for (network, addr) in stale(agent) {
        release(agent, &network, addr).await?;
    }
    for (network, addr, pod) in unclaimed(agent) {
        let claim = FixedClaim {
            schema: SCHEMA,
            node: Some(agent.node.clone()),
            boot: agent.boot.clone(),
            pod: pod.label(),
            container: pod.id.container,
            sticky: false,
            extra: Map::new(),
        };
        claim_one(&agent.store, &fixed_key(&network, addr), &claim, None, true).await?;
    }
    Ok(())
}

/// Claims of this node that no pod of it has.
fn stale(agent: &Agent) -> Vec<(NetworkName, IpAddr)> {
    let shown = agent.shown();
    let ledger = agent.ledger();
    if !shown.synced || ledger.unread().next().is_some() {
        return Vec::new();
    }
    let ours =
        shown.view.fixed.iter().filter(|(_, (_, claim))| claim.node.as_ref() == Some(&agent.node));
    let idle = ours.map(|(key, _)| key).filter(|(network, addr)| !ledger.holds(network, *addr));
    idle.cloned().collect()
}

/// Static addresses that pods have and nobody claims: they were not static when they were given, or
/// somebody deleted the claim.
fn unclaimed(agent: &Agent) -> Vec<(NetworkName, IpAddr, Attachment)> {
    let shown = agent.shown();
    let view = &shown.view;
    if !shown.synced || view.networks.values().all(|network| !network.has_fixed()) {
        return Vec::new();
    }
    let ledger = agent.ledger();
    let pods = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
    let addrs = pods.flat_map(|pod| pod.addrs.iter().map(move |addr| (pod, *addr)));
    let fixed = addrs.filter(|(pod, addr)| {
        view.networks.get(&pod.network).is_some_and(|network| network.is_fixed(*addr))
            && !view.fixed.contains_key(&(pod.network.clone(), *addr))
    });
    fixed.map(|(pod, addr)| (pod.network.clone(), addr, pod.clone())).collect()
}

/// Gives one back. An ADD that takes it meanwhile has it in the ledger before it asks the store,
/// and changes the claim's revision.
async fn release(agent: &Agent, network: &NetworkName, addr: IpAddr) -> Result<(), StoreError> {
    let key = fixed_key(network, addr);
    let Some(entry) = agent.store.get(&key).await? else { return Ok(()) };
    let Ok(claim) = serde_json::from_slice::<FixedClaim>(&entry.value) else { return Ok(()) };
    if claim.node.as_ref() != Some(&agent.node) || agent.ledger().holds(network, addr) {
        return Ok(());
    }
    fault::point("del.before-release");
    let_go(agent, network, &key, claim, entry.revision).await.map(drop)
}

/// Takes the node out of a claim, and the claim away unless it outlives the pod.
async fn let_go(
    agent: &Agent,
    network: &NetworkName,
    key: &str,
    claim: FixedClaim,
    revision: u64,
) -> Result<bool, StoreError> {
    let sticks = {
        let shown = agent.shown();
        let network_here = shown.view.networks.get(network);
        // One that this version can't read is there all the same.
        network_here.is_none() && shown.view.said.contains_key(&network_key(network))
            || network_here
                .and_then(|network| network.join.shared())
                .is_some_and(|shared| shared.sticky)
    };
    if !claim.sticky || !sticks {
        return agent.store.delete_if(key, revision).await;
    }
    let value = serde_json::to_vec(&FixedClaim { node: None, ..claim }).unwrap_or_default();
    Ok(matches!(agent.store.replace(key, value, revision).await?, Replaced::Done(_)))
}

/// What becomes of claims that are freed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// Their network is deleted.
    Whole,
    /// Their node will not come back; what outlives a pod stays.
    FromNode,
}

/// Frees the static addresses that are meant.
pub async fn free(
    agent: &Agent,
    how: Freed,
    meant: impl Fn(&NetworkName, &FixedClaim) -> bool,
) -> Result<Vec<String>, StoreError> {
    let claims: Vec<_> = {
        let shown = agent.shown();
        let claims = shown.view.fixed.iter().filter(|((network, _), (_, of))| meant(network, of));
        claims.map(|(key, _)| key.clone()).collect()
    };
    let mut freed = Vec::new();
    for (network, addr) in claims {
        let key = fixed_key(&network, addr);
        let Some(entry) = agent.store.get(&key).await? else { continue };
        let Ok(claim) = serde_json::from_slice::<FixedClaim>(&entry.value) else { continue };
        if !meant(&network, &claim) {
            continue;
        }
        let done = match how {
            Freed::Whole => agent.store.delete_if(&key, entry.revision).await?,
            Freed::FromNode => let_go(agent, &network, &key, claim, entry.revision).await?,
        };
        if done {
            freed.push(addr.to_string());
        }
    }
    Ok(freed)
}

impl Agent {
    /// Has the runtime's threads do it: the thread of a call may be in a pod's namespace, and what it
    /// made there, a connection or another thread, would stay there.
    pub(super) fn in_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (done, answer) = mpsc::channel();
        self.runtime.spawn(async move { drop(done.send(work.await)) });
        answer.recv().expect("each operation of a store has a bound, and a panic aborts")
    }
}
