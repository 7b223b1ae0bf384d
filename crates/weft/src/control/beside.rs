//! The way of a packet from a pod that stands on the physical network itself: no route of the node
//! is asked but by its pair of access (`access.rs`), and what the network does with it is beyond what a node can see.

use std::net::IpAddr;

use weft_core::{
    attach::{Kind, macvlan::Mode},
    attachment::Attachment,
    name::IfName,
};

use super::explain::{Hop, hop};
use crate::agent::{Agent, NetworkHere};

/// The hops behind the pod's own, and whether the packet gets anywhere.
pub(super) fn follow(
    agent: &Agent,
    here: &NetworkHere,
    (pod, parent): (&Attachment, &IfName),
    (addr, local): (IpAddr, Option<&Attachment>),
) -> (Vec<Hop>, bool) {
    let node = format!("node {}", agent.node);
    let mut hops = Vec::new();
    let stands = match stands(agent, pod, parent) {
        Ok(text) => hop(&node, text),
        Err(text) => return (vec![hop(node, text)], false),
    };
    hops.push(stands);
    if let Some(by_node) = super::access::by_node(agent, here, pod, addr) {
        return by_node;
    }
    let inside = here.network.ranges.iter().any(|range| range.contains(&addr));
    if inside && agent.serving().nics.iter().any(|nic| nic.addr.addr() == addr) {
        hops.push(hop(node, super::access::lacking(here, pod, addr.is_ipv4())));
        return (hops, false);
    }
    let mode = match &here.network.attach.0 {
        Kind::Macvlan(attach) => attach.mode,
        Kind::Veth(_) | Kind::Bridge(_) => Mode::Bridge,
    };
    if let Some(local) = local.filter(|local| local.network == pod.network) {
        let (text, works) = sibling(mode, parent);
        hops.push(hop(&node, text));
        if works {
            hops.push(hop(format!("pod {}", local.label()), "received"));
        }
        return (hops, works);
    }
    let gateway = here.network.join.kind().gateways().iter();
    let gateway = gateway.copied().find(|gateway| gateway.is_ipv4() == addr.is_ipv4());
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
    (hops, works)
}

/// What the kernel says of the link.
fn stands(agent: &Agent, pod: &Attachment, parent: &IfName) -> Result<String, String> {
    let dev = &pod.id.ifname;
    let nic = agent.kernel.link(parent).ok().flatten();
    let Some(nic) = nic.filter(|nic| nic.up) else {
        return Err(format!("{parent}, on which {dev} stands, is not there or down: dropped"));
    };
    let link = pod.nsid.and_then(|nsid| agent.kernel.link_there(nsid, dev).ok().flatten());
    match link {
        Some(link) if link.up => Ok(format!(
            "{dev} is {} at {parent} (mtu {}), address {}: the kernel agrees; no route, rule or \
             translation of the node is passed by it",
            link.kind, nic.mtu, link.mac
        )),
        Some(_) => Err(format!("but {dev} is down inside the pod")),
        None => Err(format!("but the pod has no {dev}")),
    }
}

fn sibling(mode: Mode, parent: &IfName) -> (String, bool) {
    match mode {
        Mode::Bridge => (format!("{parent}, mode bridge: handed to the other pod, no wire"), true),
        Mode::Vepa => (
            format!(
                "{parent}, mode vepa: out to the switch, and back only if its port sends back what \
                 came by it (hairpin, 802.1Qbg)"
            ),
            true,
        ),
        Mode::Private => (
            format!(
                "{parent}, mode private: pods of a node are kept apart; dropped as it comes back"
            ),
            false,
        ),
        Mode::Passthru => (format!("{parent}, mode passthru: there is no other pod"), false),
    }
}

fn owner(agent: &Agent, here: &NetworkHere, pod: &Attachment, addr: IpAddr) -> String {
    let shown = agent.shown();
    let claim = shown.view.claims.iter().find(|((network, block), _)| {
        *network == pod.network && block.contains(&addr) && addr.is_ipv4() == block.addr().is_ipv4()
    });
    let asked = if addr.is_ipv4() { "ARP" } else { "neighbour discovery" };
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
