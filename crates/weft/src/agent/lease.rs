//! What a call waits for and holds: its turn, the network it means, addresses.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    cni::{Call, CniError, Code},
    ipam::NoAddress,
    name::NetworkName,
};

use super::{Agent, POISONED, Serving, fixed, ledger::Ledger, strangers};

/// How long ADD waits for what is on its way: the first view, a block, an address being freed.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The same where there is no block left to claim: an address may come back.
const FULL_MAX: Duration = Duration::from_secs(2);
/// The same for a network that a full view does not know: it may have been written just now.
const UNKNOWN_MAX: Duration = Duration::from_secs(1);

/// One call at a time for an attachment: a runtime may call again before the first is answered.
pub(super) struct Turn<'a> {
    agent: &'a Agent,
    id: &'a AttachmentId,
}
impl<'a> Turn<'a> {
    pub(super) fn take(agent: &'a Agent, id: &'a AttachmentId) -> Result<Self, CniError> {
        let free = || agent.busy.lock().expect(POISONED).insert(id.clone()).then_some(());
        wait(agent, free).map(|()| Self { agent, id }).ok_or_else(|| {
            CniError::new(Code::TryAgainLater, "another call for it is under way", id.to_string())
        })
    }
}
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.agent.busy.lock().expect(POISONED).remove(self.id);
        self.agent.tell_progress();
    }
}

/// Addresses that go back unless the ledger has them.
pub(super) struct Lease<'a> {
    pub(super) agent: &'a Agent,
    pub(super) network: NetworkName,
    pub(super) addrs: Option<Vec<IpAddr>>,
}
impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(addrs) = self.addrs.take() {
            self.agent.ledger().release(&self.network, &addrs);
            // What was claimed of them by itself is to be given back.
            self.agent.claimer.notify_one();
        }
    }
}

/// The network that is meant, once this node can serve it.
pub(super) fn network(agent: &Agent, call: &Call) -> Result<(NetworkName, Arc<Serving>), CniError> {
    let unknown = {
        let shown = agent.shown();
        let name = call.network.as_ref().or_else(|| shown.view.default_network());
        shown.synced && !name.is_some_and(|name| shown.view.networks.contains_key(name))
    };
    let ready = wait_for(agent, if unknown { UNKNOWN_MAX } else { WAIT_MAX }, || {
        let serving = agent.serving();
        let shown = agent.shown();
        let name = call.network.as_ref().or_else(|| shown.view.default_network())?.clone();
        let here = serving.networks.get(&name)?;
        here.has_blocks().then(|| (name, serving.clone()))
    });
    ready.ok_or_else(|| not_ready(agent, call))
}

fn not_ready(agent: &Agent, call: &Call) -> CniError {
    let serving = agent.serving();
    let shown = agent.shown();
    let known: Vec<&str> = shown.view.networks.keys().map(NetworkName::as_str).collect();
    let Some(name) = call.network.as_ref().or_else(|| shown.view.default_network()) else {
        let what = if known.is_empty() { "none is defined".into() } else { known.join(", ") };
        return CniError::new(
            Code::InvalidConfig,
            "no network is named and the cluster has no default",
            format!("networks: {what}; set `network`, or make one with `weft network apply`"),
        );
    };
    if !shown.view.networks.contains_key(name) && (shown.synced || shown.away.is_none()) {
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return CniError::new(
            Code::InvalidConfig,
            format!("there is no network {name}"),
            format!("networks: {known}"),
        );
    }
    if serving.networks.contains_key(name) {
        let away = shown.away.clone().unwrap_or_else(|| "its ranges may be full".into());
        return CniError::new(
            Code::TryAgainLater,
            format!("this node has no block in network {name} yet"),
            format!("{away}; see `weft status`"),
        );
    }
    not_served(name, &serving)
}

/// What is served, once `name` is: an agent that has just begun knows its pods before its networks.
pub(super) fn serving(agent: &Agent, name: &NetworkName) -> Result<Arc<Serving>, CniError> {
    let served = wait(agent, || {
        let serving = agent.serving();
        serving.networks.contains_key(name).then_some(serving)
    });
    served.ok_or_else(|| not_served(name, &agent.serving()))
}

pub(super) fn not_served(name: &NetworkName, serving: &Serving) -> CniError {
    CniError::new(
        Code::TryAgainLater,
        format!("network {name} is not served on this node"),
        format!("{}; see `weft status`", serving.problems.join("; ")),
    )
}

/// Addresses for the pod, and how long they took.
pub(super) fn lease(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
) -> Result<Vec<IpAddr>, CniError> {
    if serving.networks.get(name).is_some_and(|here| here.network.by_dhcp()) {
        // Its network is asked once it has a link.
        return Ok(Vec::new());
    }
    let start = Instant::now();
    let leased = fixed::lease(agent, call, name, serving);
    // It looks whether few are left.
    agent.claimer.notify_one();
    agent.counters.addresses.note(start.elapsed());
    leased
}

/// Addresses from this node's blocks, beside those that are `fixed`. One that is asked for may still
/// be with a link that is being freed; a block that is full makes the node claim another.
pub(super) fn from_blocks(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
    fixed: &[IpAddr],
) -> Result<Vec<IpAddr>, CniError> {
    let asked: Vec<_> = call.ips.iter().filter(|addr| !fixed.contains(addr)).copied().collect();
    let ranges = serving.networks.get(name).map(|here| here.network.ranges.clone());
    let families: Vec<bool> =
        ranges.unwrap_or_default().iter().map(|range| range.addr().is_ipv4()).collect();
    let shared = strangers::ahead(agent, call, name, &families)?;
    let mut last = None;
    let mut ask = || match lease_now(agent, name, &families, (&asked, fixed)) {
        Ok(addrs) => Some(Ok(addrs)),
        Err((NoAddress::Taken(addr), false)) => Some(Err(NoAddress::Taken(addr))),
        Err((
            no
            @ (NoAddress::Elsewhere { .. } | NoAddress::Reserved(_) | NoAddress::Stranger { .. }),
            _,
        )) => Some(Err(no)),
        Err((no, _)) => {
            if let NoAddress::Exhausted { ipv4, .. } = no {
                agent.hungry.lock().expect(POISONED).insert(name.clone(), ipv4);
                agent.claimer.notify_one();
            }
            last = Some(no);
            None
        }
    };
    let mut leased = wait_for(agent, FULL_MAX, &mut ask);
    let full = no_more(agent, name);
    if leased.is_none() && full.is_none() {
        leased = wait_for(agent, WAIT_MAX, &mut ask);
    }
    agent.hungry.lock().expect(POISONED).remove(name);
    if shared {
        // What was taken from the shelf is replaced.
        agent.strangers.ring();
    }
    let failed = match leased {
        Some(Ok(addrs)) => return Ok(addrs),
        Some(Err(NoAddress::Taken(addr))) => {
            let holder = holder(agent, name, addr);
            let moves = fixed.contains(&addr);
            let code = if moves { Code::TryAgainLater } else { Code::InvalidConfig };
            (code, format!("{addr} is taken by {holder} on this node"))
        }
        Some(Err(no)) => (Code::InvalidConfig, no.to_string()),
        None => {
            let no = last.map_or_else(String::new, |no| no.to_string());
            let full = full.map(|full| format!(", and {full}")).unwrap_or_default();
            (Code::TryAgainLater, no + &full)
        }
    };
    let (code, why) = failed;
    let store = agent.shown().away.clone().map(|why| format!("; the store is away: {why}"));
    let details = format!("network {name}: {why}{}", store.unwrap_or_default());
    Err(CniError::new(code, "no address for the pod", details))
}

/// Why there is none, and whether what is asked for is being freed: by the same ledger, as it may be free
/// the next moment.
fn lease_now(
    agent: &Agent,
    name: &NetworkName,
    families: &[bool],
    (asked, fixed): (&[IpAddr], &[IpAddr]),
) -> Result<Vec<IpAddr>, (NoAddress, bool)> {
    let mut ledger = agent.ledger();
    ledger.lease(name, families, asked, fixed).map_err(|no| {
        let freed = matches!(no, NoAddress::Taken(addr) if being_freed(&ledger, addr));
        (no, freed)
    })
}

/// Why there will be no address soon: no block to claim, and none that is being freed.
fn no_more(agent: &Agent, name: &NetworkName) -> Option<String> {
    let unclaimed = agent.unclaimed.lock().expect(POISONED);
    let (_, why) = unclaimed.iter().find(|((of, _), why)| of == name && why.full)?;
    let doomed = |pod: &Attachment| pod.network == *name && pod.phase == Phase::Doomed;
    (!agent.ledger().attachments().any(doomed)).then(|| why.why.clone())
}

fn holder(agent: &Agent, name: &NetworkName, addr: IpAddr) -> String {
    let ledger = agent.ledger();
    let mut pods = ledger.attachments().filter(|pod| pod.network == *name);
    let holder = pods.find(|pod| pod.addrs.contains(&addr)).map(Attachment::label);
    holder.unwrap_or_else(|| "a pod that is being added".into())
}

fn being_freed(ledger: &Ledger, addr: IpAddr) -> bool {
    ledger.attachments().any(|a| a.phase == Phase::Doomed && a.addrs.contains(&addr))
}

/// Polls at every sign of progress until there is an answer or the bound is reached.
pub(super) fn wait<T>(agent: &Agent, ask: impl FnMut() -> Option<T>) -> Option<T> {
    wait_for(agent, WAIT_MAX, ask)
}

pub(super) fn wait_for<T>(
    agent: &Agent,
    longest: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + longest;
    loop {
        let seen = *agent.progress.0.lock().expect(POISONED);
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let left = end.checked_duration_since(Instant::now())?;
        let progress = agent.progress.0.lock().expect(POISONED);
        if *progress == seen {
            drop(agent.progress.1.wait_timeout(progress, left).expect(POISONED));
        }
    }
}
