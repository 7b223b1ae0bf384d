//! CHECK: is what ADD made still there?

use std::net::IpAddr;

use weft_core::{
    attachment::{Attachment, Phase},
    cni::{Call, CniError, Code, Interface},
    plan::{Change, plan},
};
use weft_linux::{Kernel, Netns};

use super::{
    Agent, dhcp, further, judged,
    lease::serving,
    pods::{here, no_container, no_namespace},
};

pub(super) fn check(agent: &Agent, call: &Call, netns: Option<Netns>) -> Result<(), CniError> {
    let id = call.id.clone().ok_or_else(no_container)?;
    let netns = netns.ok_or_else(|| no_namespace(call))?;
    let not = |what: &str, details: String| CniError::new(Code::NotAsPromised, what, details);
    let known = agent.ledger().get(&id).cloned().filter(|pod| pod.phase == Phase::Attached);
    let known = known.ok_or_else(|| {
        CniError::new(Code::UnknownContainer, "there is no such attachment", id.to_string())
    })?;
    as_made(agent, &known, &netns)?;
    further::of(agent, &id).iter().try_for_each(|pod| as_made(agent, pod, &netns))?;
    if let Some(prev) = &call.prev {
        let had = |addr: &IpAddr| prev.ips.iter().any(|ip| ip.address.addr() == *addr);
        if let Some(addr) = known.addrs.iter().find(|addr| !had(addr)) {
            return Err(not("prevResult is not what ADD answered", format!("{addr} is not in it")));
        }
        let mac = known.mac.to_string();
        let had = |i: &Interface| i.name == id.ifname.as_str() && i.mac.eq_ignore_ascii_case(&mac);
        if !prev.interfaces.iter().any(had) {
            let details = format!("interface {} with {mac} is not in it", id.ifname);
            return Err(not("prevResult is not what ADD answered", details));
        }
    }
    Ok(())
}

/// Looks whether one attachment is as ADD made it.
fn as_made(agent: &Agent, known: &Attachment, netns: &Netns) -> Result<(), CniError> {
    let not = |what: &str, details: String| CniError::new(Code::NotAsPromised, what, details);
    let serving = serving(agent, &known.network)?;
    let here = here(&serving, &known.network)?;
    let served = here.served(&known.network);
    let ground = served.ground(&agent.node, &serving.host);
    if let Some(why) = dhcp::lost(known) {
        return Err(not("the pod has no address", why));
    }
    let there = Kernel::of(netns).and_then(|kernel| kernel.observe_pod(&known.links()));
    let there = there.map_err(|error| not("look into the pod", error.to_string()))?;
    let inside = plan(&known.attach.inside(known, &ground), &there);
    let node = agent.kernel.observe_node(&[]);
    let node = node.map_err(|error| not("look at the node", error.to_string()))?.ours;
    let mut outside = known.attach.outside(known, &ground);
    outside.extend(judged::sources(agent, known, &ground));
    let outside = plan(&outside, &node).into_iter();
    let missing: Vec<String> = inside
        .into_iter()
        .chain(outside.filter(|change| !matches!(change, Change::Drop(_))))
        .map(|change| change.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(not("the pod's network is not as it was made", missing.join("; ")))
}
