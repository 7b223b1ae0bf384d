//! STATUS: whether an ADD could be served now, and what stands in the way.

use weft_core::{
    cni::{Call, CniError, Code},
    name::NetworkName,
};

use super::{Agent, children, switch};

pub(super) fn status(agent: &Agent, call: &Call) -> Result<(), CniError> {
    able(agent, call.network.as_ref())
}

/// Can an ADD be served, to this network or to the default one?
pub(super) fn able(agent: &Agent, network: Option<&NetworkName>) -> Result<(), CniError> {
    let serving = agent.serving();
    let shown = agent.shown();
    let unable = |what: String| CniError::new(Code::Unavailable, "weft can't serve ADD", what);
    if serving.rounds == 0 {
        return Err(unable("the agent has just started".into()));
    }
    let name = network.or_else(|| shown.view.default_network());
    let Some(here) = name.and_then(|name| serving.networks.get(name)) else {
        let away =
            shown.away.clone().unwrap_or_else(|| "make one with `weft network apply`".into());
        return Err(unable(format!("the network is not served: {away}")));
    };
    if !here.has_blocks() {
        return Err(unable("this node has no block yet".into()));
    }
    let parent = here.network.attach.kind().parent();
    if let (Some(parent), Some(name)) = (parent, name)
        && let Some(why) = children::lacking(agent, name, parent)
            .or_else(|| switch::refuses(agent, here.network.attach.kind()))
    {
        return Err(unable(why));
    }
    if serving.nics.is_empty() {
        return Err(CniError::new(
            Code::UnavailableLimited,
            "pods may be cut off from other nodes",
            serving.problems.join("; "),
        ));
    }
    Ok(())
}
