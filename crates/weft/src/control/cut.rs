//! What a change of a network would cut off, as far as this node can see.

use weft_core::{
    learnt::Learnt,
    name::NetworkName,
    network::Network,
    paths::{Sender, cut_off},
};

use crate::agent::Agent;

/// Why the change is not made unless somebody insists; none: nobody is cut off.
pub(super) fn why_not(agent: &Agent, name: &NetworkName, network: &Network) -> Option<String> {
    let serving = agent.serving();
    let here = serving.networks.get(name).filter(|here| here.network.join != network.join)?;
    let shown = agent.shown();
    let sender = Sender {
        underlay: &serving.nics,
        reach: &agent.reaches(&shown.view),
        only_by: network.only_by(),
        learnt: &Learnt::default(),
    };
    let cut = cut_off((name, network), &sender, &shown.view, &here.stage.choices);
    let (peer, why) = cut.first_key_value()?;
    let others = match cut.len() - 1 {
        0 => String::new(),
        n => format!(", nor those of {n} more"),
    };
    Some(format!(
        "network {name}: by join {} pods of node {peer} would not be reached from {} any more ({why}){others}; \
         `--force` changes it all the same",
        network.join, agent.node
    ))
}
