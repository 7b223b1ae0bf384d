//! From which addresses pods may send: written where their links begin, and in the pod where the node does
//! not see what leaves. Core's `attach/sources` says which those are.

use weft_core::{
    attach::{
        Ground,
        sources::{self, Together},
    },
    attachment::{Attachment, Phase},
    name::IfName,
    plan::Change,
    state::Object,
};
use weft_linux::{Kernel, Refusal};

use super::{Agent, wake::Reasons};

/// From which addresses the pod may send by its links.
pub(super) fn sources(agent: &Agent, pod: &Attachment, ground: &Ground<'_>) -> Vec<Object> {
    let (serving, ledger) = (agent.serving(), agent.ledger());
    let all = ledger.attachments().filter(|other| other.cookie == pod.cookie);
    let network = |pod: &Attachment| serving.networks.get(&pod.network).map(|here| &here.network);
    if !sources::checked(network(pod)) {
        return Vec::new();
    }
    sources::outside(pod, ground, Together::of(all, network).others(pod))
}

pub(super) fn outside(agent: &Agent, pod: &Attachment, ground: &Ground<'_>) -> Vec<Refusal> {
    let sources = sources(agent, pod, ground).into_iter();
    agent.kernel.apply(&sources.map(Change::Put).collect::<Vec<_>>())
}

/// By each link of a pod that has several it may answer under all its addresses. What fails is the loop's to
/// mend: less passes than may.
pub(super) fn together(agent: &Agent, cookie: u64, there: &Kernel) {
    let pods: Vec<Attachment> = {
        let ledger = agent.ledger();
        ledger.attachments().filter(|pod| pod.cookie == cookie).cloned().collect()
    };
    if pods.len() == 1 {
        return;
    }
    let serving = agent.serving();
    for pod in &pods {
        let Some(here) = serving.networks.get(&pod.network) else { continue };
        let served = here.served(&pod.network);
        let mut refused: Vec<String> =
            outside(agent, pod, &served.ground(&agent.node, &serving.host))
                .iter()
                .map(ToString::to_string)
                .collect();
        refused.extend(inside(agent, pod, there).err());
        if !refused.is_empty() {
            tracing::warn!(id = %pod.id, why = refused.join("; "), "it may not answer by each link yet");
            agent.wake.ring(Reasons::OTHER);
        }
    }
}

/// In the pod, where the node does not see what leaves: its links of that kind send under the pod's own
/// addresses alone.
pub(super) fn inside(agent: &Agent, pod: &Attachment, there: &Kernel) -> Result<(), String> {
    if pod.host_end.is_some() {
        return Ok(());
    }
    let serving = agent.serving();
    let network = |pod: &Attachment| serving.networks.get(&pod.network).map(|here| &here.network);
    let mut links: Vec<Object> = {
        let ledger = agent.ledger();
        let own = |other: &&Attachment| other.cookie == pod.cookie && other.phase != Phase::Doomed;
        let all: Vec<&Attachment> = ledger.attachments().filter(own).collect();
        let others = Together::of(all.iter().copied(), network);
        let checked = all.iter().filter(|pod| sources::checked(network(pod)));
        checked.filter_map(|pod| sources::inside(pod, others.others(pod))).collect()
    };
    // One that the pod itself has deleted keeps no other from being judged.
    let there_is = |dev: &IfName| there.link_exists(dev).unwrap_or(true);
    links.retain(|link| matches!(link, Object::Sources { dev, .. } if there_is(dev)));
    match there.judge(&links) {
        // Its policies hold as far as it sends as itself.
        Err(error) if error.is_unsupported() => {
            tracing::warn!(id = %pod.id, "the kernel has no egress hook: the pod may send as another");
            Ok(())
        }
        judged => judged.map_err(|error| format!("what it may send as: {error}")),
    }
}
