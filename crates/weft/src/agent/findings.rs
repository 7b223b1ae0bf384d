//! What a round finds besides its work: what stands in our way but is not ours to change, and why
//! nothing may be taken away. Said in `weft status`.

use std::{collections::BTreeSet, net::IpAddr};

use weft_core::{attachment::Phase, desired, plan::Change, state::Key};
use weft_linux::{ForeignRoute, Observed};

use super::{Agent, POISONED, Serving, node::Memory};

/// Why nothing may be taken away: something of ours may be here for a reason that is not known.
pub(super) fn frozen(agent: &Agent, serving: &Serving) -> Option<String> {
    if !agent.shown().synced {
        return Some("the store was not yet listed in full".into());
    }
    let ledger = agent.ledger();
    if let Some((path, _)) = ledger.unread().next() {
        return Some(format!("a pod's record can't be read: {}", path.display()));
    }
    let unserved =
        |network: &&weft_core::name::NetworkName| !serving.networks.contains_key(*network);
    let pods = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
    let network = pods.map(|pod| &pod.network).find(unserved)?;
    Some(format!("there are pods of network {network}, which is not served: delete them first"))
}

/// Blocks that peers say are theirs, and are not.
fn ignored(serving: &Serving) -> Vec<String> {
    let choices = serving.networks.iter().flat_map(|(network, here)| {
        here.stage.choices.iter().map(move |(peer, choice)| (network, peer, choice))
    });
    let odd = choices.filter(|(.., choice)| !choice.ignored.is_empty());
    let say = |(network, peer, choice): (_, _, &std::sync::Arc<weft_core::paths::PeerChoice>)| {
        let blocks: Vec<String> = choice.ignored.iter().map(ToString::to_string).collect();
        format!(
            "node {peer} says that {} of network {network} is its own: left out, since it is outside the \
             network's ranges or claimed by another node",
            blocks.join(", ")
        )
    };
    odd.map(say).collect()
}

/// Foreign routes to destinations of ours. The plan is empty, so what is there is what should be.
/// Which of several default routes serves, the host's metrics say.
pub(super) fn clashes(observed: &Observed) -> Vec<ForeignRoute> {
    let clash = |foreign: &&ForeignRoute| {
        foreign.dst.prefix_len() > 0 && observed.ours.contains(&Key::Route(foreign.dst))
    };
    observed.foreign.iter().filter(clash).cloned().collect()
}

/// True if a change concerns a destination that a foreign route has.
pub(super) fn meets(changes: &[Change], foreign: &[ForeignRoute]) -> bool {
    let foreign: BTreeSet<_> = foreign.iter().map(|route| route.dst).collect();
    let dst = |change: &Change| match change.key() {
        Key::Route(dst) if dst.prefix_len() > 0 => Some(dst),
        _ => None,
    };
    !foreign.is_empty() && changes.iter().filter_map(dst).any(|dst| foreign.contains(&dst))
}

/// Notes what stands in our way but is not ours to change.
pub(super) fn report(agent: &Agent, memory: &Memory, serving: &mut Serving, frozen: Option<&str>) {
    serving.problems.extend(frozen.map(|why| format!("nothing of weft's is taken away: {why}")));
    if let Some(change) = serving.undone.first() {
        let left = format!("the kernel differs by {} changes: {change}", serving.undone.len());
        serving.problems.push(left);
    }
    serving.problems.extend(super::children::missing(agent, serving));
    serving.problems.extend(ignored(serving));
    serving.problems.extend(serving.refused_inside.values().cloned());
    serving.problems.extend(agent.policies.iter().flat_map(super::policy::Policies::problems));
    for foreign in &memory.clashes {
        serving.problems.push(format!(
            "a foreign route stands beside ours and was left: {foreign}; \
             remove it, or packets to {} follow it",
            foreign.dst
        ));
    }
    serving.problems.extend(memory.strangers.iter().cloned());
    if !serving.host.bridge_calls
        && desired::bridged_behind_services(&serving.host, &serving.served())
    {
        serving.problems.push(
            "pods of one bridge see their node in place of each other through Services: \
             br_netfilter is not loaded (`modprobe br_netfilter`, and name it in \
             /etc/modules-load.d)"
                .into(),
        );
    }
    let shown = agent.shown();
    serving
        .problems
        .extend(shown.view.said.iter().map(|(key, said)| format!("store: {key}: {said}")));
    let unclaimed = agent.unclaimed.lock().expect(POISONED);
    let unclaimed = unclaimed.iter().map(|((name, _), why)| format!("network {name}: {}", why.why));
    serving.problems.extend(unclaimed);
    let ledger = agent.ledger();
    for pod in ledger.attachments().filter(|pod| pod.phase == Phase::Attached) {
        let Some(here) = serving.networks.get(&pod.network) else { continue };
        if here.network.by_dhcp() {
            continue;
        }
        // What is static and nobody's by the view was claimed just now, or is claimed anew.
        let claimed = |addr: &IpAddr| match shown.view.fixed.get(&(pod.network.clone(), *addr)) {
            Some((_, claim)) => claim.elsewhere(&agent.node).is_none(),
            None => here.network.is_fixed(*addr),
        };
        let lost = |addr: &&IpAddr| {
            !here.blocks.iter().any(|block| block.contains(*addr)) && !claimed(addr)
        };
        serving.problems.extend(pod.addrs.iter().find(lost).map(|addr| {
            format!("pod {} has {addr}, of a block that this node has lost: delete it", pod.label())
        }));
    }
    let unread = ledger.unread().map(|(path, why)| format!("ledger: {}: {why}", path.display()));
    serving.problems.extend(unread);
}
