//! The way of a packet from a pod that stands on the physical network itself: no route of the node
//! is asked but by its pair of access (`access.rs`), and what the network does with it is beyond what a node can see.

use std::net::IpAddr;

use weft_core::{
    attach::{Attach, Footing, Parent, Siblings},
    attachment::Attachment,
    dhcp::Standing,
    name::Mtu,
};

use super::explain::{Hop, hop};
use crate::agent::{Agent, NetworkHere, left};

/// The hops behind the pod's own, and the largest packet that they take; none: it gets nowhere.
pub(super) type Onwards = (Vec<Hop>, Option<Mtu>);

pub(super) fn follow(
    agent: &Agent,
    here: &NetworkHere,
    (pod, parent): (&Attachment, &Parent),
    (addr, local): (IpAddr, Option<&Attachment>),
) -> Onwards {
    let node = format!("node {}", agent.node);
    let mut hops = Vec::new();
    let stands = match stands(agent, pod, parent) {
        Ok(text) => hop(&node, text),
        Err(text) => return (vec![hop(node, text)], None),
    };
    hops.push(stands);
    if let Some(by_node) = super::access::by_node(agent, here, pod, addr) {
        return by_node;
    }
    let inside = here.network.ranges.iter().any(|range| range.contains(&addr));
    if inside && agent.serving().nics.iter().any(|nic| nic.addr.addr() == addr) {
        hops.push(hop(node, super::access::lacking(here, pod, addr.is_ipv4())));
        return (hops, None);
    }
    let own = |works: bool| works.then_some(here.stage.send);
    if let Some(local) = local.filter(|local| local.network == pod.network) {
        let (rest, works) = sibling(agent, &here.network.attach, local);
        hops.extend(rest);
        return (hops, own(works));
    }
    hops.extend(leased(pod).map(|text| hop(format!("pod {}", pod.label()), text)));
    let gateways = here.network.join.kind().gateways().iter().copied();
    let leased = pod.lease.as_ref().and_then(|lease| lease.terms.router).map(IpAddr::from);
    let mut gateways = gateways.chain(leased);
    let gateway = gateways.find(|gateway| gateway.is_ipv4() == addr.is_ipv4());
    let (text, works) = match (inside, gateway) {
        (true, _) => (owner(agent, here, pod, addr), true),
        (false, Some(gateway)) if pod.default_route => (
            format!(
                "{addr} is outside the network: by its router {gateway}, which weft does not see"
            ),
            true,
        ),
        (false, Some(_)) => {
            (format!("{addr} is outside the network, and another link is the pod's way out"), false)
        }
        (false, None) if here.network.by_dhcp() => (
            format!(
                "{addr} is outside network {}, whose DHCP server names no router: the pod has no \
                 route",
                pod.network
            ),
            false,
        ),
        (false, None) => (
            format!(
                "{addr} is outside network {}, which names no router (`join: {{gateway: …}}`): \
                 the pod has no route",
                pod.network
            ),
            false,
        ),
    };
    hops.push(hop("the physical network", text));
    (hops, own(works))
}

/// From whom the pod has its address, where that is a DHCP server.
fn leased(pod: &Attachment) -> Option<String> {
    let lease = pod.lease.as_ref()?;
    let until = match left(lease) {
        Some(left) => format!("for {} s yet", left.as_secs()),
        None => "for ever".into(),
    };
    Some(match &lease.standing {
        Standing::Lost(why) => format!("{} was leased and is lost: {why}", lease.terms.addr),
        Standing::Held | Standing::Offered => format!("leased {}, {until}", lease.terms),
    })
}

/// What the kernel says of the link.
pub(super) fn stands(agent: &Agent, pod: &Attachment, parent: &Parent) -> Result<String, String> {
    let dev = &pod.id.ifname;
    let nic = agent.kernel.link(&parent.dev()).ok().flatten();
    let Some(nic) = nic.filter(|nic| nic.up) else {
        return Err(format!("{parent}, on which {dev} stands, is not there or down: dropped"));
    };
    let link = pod.nsid.and_then(|nsid| agent.kernel.link_there(nsid, dev).ok().flatten());
    match link {
        Some(link) if link.up => Ok(format!(
            "{dev} is {} (mtu {}), address {}: the kernel agrees; {}",
            pod.attach.kind().described(),
            nic.mtu,
            link.mac,
            match pod.attach.kind().footing() {
                Footing::Routed { .. } => "the node's table routes what leaves it",
                _ => "no route, rule or translation of the node is passed by it",
            }
        )),
        Some(_) => Err(format!("but {dev} is down inside the pod")),
        None => Err(format!("but the pod has no {dev}")),
    }
}

/// From a pod to another of the same node and network.
pub(super) fn sibling(agent: &Agent, attach: &Attach, to: &Attachment) -> (Vec<Hop>, bool) {
    let (text, works) = match attach.kind().siblings() {
        Siblings::Meet => ("handed to the other pod, no wire", true),
        Siblings::ByNetwork => (
            "out to the switch, and back only if its port sends back what came by it (hairpin, \
             802.1Qbg)",
            true,
        ),
        Siblings::Never => ("pods of a node are kept apart; dropped", false),
        Siblings::None => ("there is no other pod", false),
    };
    let text = format!("{}: {text}", attach.kind().described());
    let mut hops = vec![hop(format!("node {}", agent.node), text)];
    if works {
        hops.push(hop(format!("pod {}", to.label()), "received"));
    }
    (hops, works)
}

fn owner(agent: &Agent, here: &NetworkHere, pod: &Attachment, addr: IpAddr) -> String {
    let shown = agent.shown();
    let claim = shown.view.claims.iter().find(|((network, block), _)| {
        *network == pod.network && block.contains(&addr) && addr.is_ipv4() == block.addr().is_ipv4()
    });
    if here.network.by_dhcp() {
        return format!(
            "on the link: ARP finds {addr}, if anybody has it; addresses are given by DHCP"
        );
    }
    let asked = if addr.is_ipv4() { "ARP" } else { "neighbour discovery" };
    if let Some((_, claim)) = shown.view.fixed.get(&(pod.network.clone(), addr)) {
        return match &claim.node {
            Some(node) => format!(
                "on the link: {asked} finds it; {addr} is static, with pod {} of node {node}",
                claim.pod
            ),
            None => format!("nobody has it now; {addr} is kept for pod {}", claim.pod),
        };
    }
    if here.reserve.fixes(addr) {
        return format!("on the link: nobody has claimed {addr}, a static address");
    }
    match claim {
        Some(((_, block), claim)) => {
            format!(
                "on the link: {asked} finds it; {addr} is of block {block} of node {}",
                claim.node
            )
        }
        None if here.reserve.keeps(addr).is_some() => {
            format!(
                "on the link: {asked} finds it; {addr} is no pod's but a node's, a router's or excluded"
            )
        }
        None => format!("on the link: {asked} finds it, if anybody has it; no node has its block"),
    }
}
