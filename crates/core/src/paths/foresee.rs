//! Whom a node would no longer reach if a network were joined otherwise: what it will choose once
//! every peer receives by the new join, beside what it chooses now.

use std::collections::BTreeMap;

use super::{Choice, Peer, Refusal, Sender, choose, stage::Choices};
use crate::{
    join::Receiver,
    name::{NetworkName, NodeName},
    network::Network,
    view::View,
};

/// Peers that would be cut off, each with the reasons. What only neighbours' words by BGP can tell is not
/// foreseen.
pub fn cut_off(
    (name, network): (&NetworkName, &Network),
    sender: &Sender<'_>,
    view: &View,
    now: &Choices,
) -> BTreeMap<NodeName, String> {
    let cut = now.iter().filter_map(|(peer, chosen)| {
        let record = &view.nodes.get(peer)?.record;
        let me = Receiver { node: peer, network: name, underlay: &record.underlay };
        let receives = network.join.kind().receives(&me);
        let to = Peer {
            name: peer,
            blocks: &chosen.blocks,
            mtu: record.mtu,
            receives: &receives,
            withdrawing: &[],
        };
        let reached = chosen.each().filter(|(_, choice)| choice.path.is_some());
        let then = reached
            .map(|(ipv4, _)| choose(network.join.kind().order(), sender, &to, ipv4))
            .filter(|choice| choice.path.is_none() && !choice.refused.iter().any(by_neighbours));
        let mut why: Vec<String> = then.flat_map(reasons).collect();
        why.dedup();
        (!why.is_empty()).then(|| (peer.clone(), why.join("; ")))
    });
    cut.collect()
}

fn reasons(choice: Choice) -> impl Iterator<Item = String> {
    choice.refused.into_iter().map(|(way, why)| format!("{way}: {why}"))
}

fn by_neighbours((_, refusal): &(crate::join::Way, Refusal)) -> bool {
    matches!(
        refusal,
        Refusal::NotLearnt { .. } | Refusal::JustLearnt { .. } | Refusal::LeadsNowhere { .. }
    )
}
