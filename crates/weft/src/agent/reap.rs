//! Frees the links of pods that are gone, many in one message: most of a deletion is one wait for
//! an RCU grace period, however many links it frees. Their addresses are free only after that.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    name::IfName,
    plan::Change,
    state::Key,
};

use super::{
    Agent, POISONED,
    children::{free_all, unguard},
    wake::{Gather, Reasons},
};

/// Deletions that come together are one.
const GATHER: Gather = Gather { quiet: Duration::from_millis(5), most: Duration::from_millis(20) };
const RETRY: Duration = Duration::from_secs(1);
const EVER: Duration = Duration::from_secs(3600);

pub fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("reap".into()).spawn(move || run(&agent))?;
    Ok(())
}

fn run(agent: &Agent) {
    // What an agent before us left doomed.
    let mut wait = Duration::ZERO;
    loop {
        agent.doomed.wait(wait, |_| GATHER);
        wait = match reap(agent) {
            Ok(()) => EVER,
            Err(error) => {
                tracing::warn!(%error, "could not free links; will try again");
                RETRY
            }
        };
    }
}

/// What connection tracking knows of the addresses would be taken for their next owners'. Nobody waits
/// for it, and nobody has them yet.
pub(super) fn forget_flows(agent: &Agent, gone: &[AttachmentId]) {
    let addrs: BTreeSet<IpAddr> = {
        let ledger = agent.ledger();
        let pods = gone.iter().filter_map(|id| ledger.get(id));
        let addrs: BTreeSet<IpAddr> = pods.flat_map(|pod| pod.addrs.iter().copied()).collect();
        // Networks without host access may have the same, and another pod's flows are not ended.
        let has = |pod: &&Attachment| pod.addrs.iter().any(|addr| addrs.contains(addr));
        let others = ledger.attachments().filter(has).filter(|pod| !gone.contains(&pod.id));
        let theirs: BTreeSet<IpAddr> = others.flat_map(|pod| pod.addrs.iter().copied()).collect();
        addrs.difference(&theirs).copied().collect()
    };
    match agent.kernel.forget_flows(&addrs) {
        Ok(0) => {}
        Ok(flows) => tracing::debug!(flows, "forgotten with the pods that are gone"),
        Err(error) => tracing::warn!(%error, "could not end the flows of pods that are gone"),
    }
}

/// What their links might send as is no longer asked: they are gone.
fn unjudge(agent: &Agent, gone: &[AttachmentId]) {
    let changes: Vec<Change> = {
        let ledger = agent.ledger();
        let pods = gone.iter().filter_map(|id| ledger.get(id));
        let devs = pods.flat_map(Attachment::host_links).cloned();
        devs.map(|dev| Change::Drop(Key::Sources(dev))).collect()
    };
    for refusal in agent.kernel.apply(&changes) {
        tracing::warn!(%refusal, "what is left of pods that are gone goes with the next look");
    }
}

fn reap(agent: &Agent) -> anyhow::Result<()> {
    let gone: Vec<Attachment> = {
        let ledger = agent.ledger();
        ledger.attachments().filter(|pod| pod.phase == Phase::Doomed).cloned().collect()
    };
    let networks: BTreeSet<_> = gone.iter().map(|pod| pod.network.clone()).collect();
    let (pairs, children): (Vec<_>, Vec<_>) =
        gone.into_iter().partition(|pod| pod.host_end.is_some());
    // One that died between its ledger's word and the kernel's is marked now.
    let devs = pairs.iter().chain(&children).flat_map(Attachment::host_links);
    let devs: Vec<IfName> = devs.cloned().collect();
    agent.kernel.doom(&devs, false);
    agent.kernel.reap()?;
    if !pairs.is_empty() {
        super::fault::point("del.after-reap");
    }
    let ended = |dev: &IfName| agent.kernel.link_exists(dev).is_ok_and(|exists| !exists);
    let mut ids: Vec<AttachmentId> = pairs
        .iter()
        .filter(|pod| pod.host_end.as_ref().is_none_or(ended))
        .map(|pod| pod.id.clone())
        .collect();
    let freed = free_all(agent, &children);
    let left = children.len() - freed.len();
    let going = freed.iter().map(|at| children[*at].id.clone());
    forget_flows(agent, &ids.iter().cloned().chain(going).collect::<Vec<_>>());
    // The loop must not write again what is taken away before the record is.
    let gate = agent.gate.read().expect(POISONED);
    let freed = freed.into_iter().map(|at| &children[at]);
    let freed = freed.filter(|pod| pod.access.as_ref().is_none_or(ended));
    ids.extend(freed.filter(|pod| unguard(agent, pod)).map(|pod| pod.id.clone()));
    unjudge(agent, &ids);
    let closed = {
        let mut ledger = agent.ledger();
        let closed = ids.iter().try_for_each(|id| ledger.close(id));
        agent.claimer.notify_one();
        if networks.iter().any(|network| !ledger.has_pods(network)) {
            // The others are told that there are no more pods here.
            agent.wake.ring(Reasons::OTHER);
        }
        closed
    };
    drop(gate);
    agent.policies.iter().for_each(super::policy::Policies::ring);
    agent.tell_progress();
    closed?;
    anyhow::ensure!(left == 0, "{left} links inside pods are left");
    Ok(())
}
