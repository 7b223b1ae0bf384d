//! The way of a packet between a node and its own pods: by a pod's pair of access, where its link is
//! no way to the node, and from the node itself.

use std::net::IpAddr;

use weft_core::{
    attach::access::{self, Access},
    attachment::Attachment,
    name::{IfName, Mtu},
};

use super::{
    beside::Onwards,
    explain::{Explained, hop},
};
use crate::agent::{Agent, NetworkHere};

/// The hops behind the pod's own, of a packet that leaves it by its pair; none if it does not.
pub(super) fn by_node(
    agent: &Agent,
    here: &NetworkHere,
    pod: &Attachment,
    addr: IpAddr,
) -> Option<Onwards> {
    let (given, end) = (here.access.as_deref()?, pod.access.as_ref()?);
    let dst = given.leads_to(addr)?;
    let own = pod.addrs.iter().find(|own| own.is_ipv4() == addr.is_ipv4())?;
    let (via, dev) = (access::gateway(addr.is_ipv4()), access::pod_end(&pod.id.ifname));
    let node = format!("node {}", agent.node);
    let left = format!("route {dst} via {via} dev {dev} src {own}: the way by its own node");
    let mut hops = vec![hop(format!("pod {}", pod.label()), left)];
    let (text, up) = arrives(agent, end);
    hops.push(hop(&node, text));
    let (text, mtu) = onwards(agent, given, addr);
    hops.push(hop(node, text));
    Some((hops, mtu.filter(|_| up).map(|mtu| mtu.min(given.mtu))))
}

/// Why a pod that stands on a NIC has no way to an address of its node.
pub(super) fn lacking(here: &NetworkHere, pod: &Attachment, ipv4: bool) -> String {
    let why = match (&here.access, &pod.access) {
        (None, _) => "the network gives no access (hostAccess: false)".into(),
        (_, None) => {
            "another link is the pod's way to it, or the pod came before access did".into()
        }
        (Some(access), _) if access.source(ipv4).is_none() => {
            format!("the node has no address of IPv{}", if ipv4 { 4 } else { 6 })
        }
        _ => "no route of the pod leads there".to_owned(),
    };
    format!("the NIC hands nothing to the node that it belongs to; and {why}")
}

fn arrives(agent: &Agent, end: &IfName) -> (String, bool) {
    match agent.kernel.link(end).ok().flatten() {
        Some(link) if link.up => (format!("arrives on dev {end}: the kernel agrees"), true),
        Some(_) => (format!("but {end} is down"), false),
        None => (format!("but there is no {end}"), false),
    }
}

fn onwards(agent: &Agent, given: &Access, addr: IpAddr) -> (String, Option<Mtu>) {
    if given.node.contains(&addr) {
        return (format!("{addr} is this node's own: received"), Some(given.mtu));
    }
    let masqueraded = "with an address of this node (masqueraded), so that replies come back by it";
    if given.services.iter().any(|services| services.contains(&addr)) {
        let text = format!("{addr} is a Service's: sent to whom the node's rules translate it");
        return (format!("{text}, {masqueraded}"), Some(given.mtu));
    }
    match agent.kernel.route_now(addr) {
        Some(route) => {
            let via = route.gateway.map(|via| format!(" via {via}")).unwrap_or_default();
            (format!("route {addr}{via} dev {}, {masqueraded}", route.dev), Some(route.mtu))
        }
        None => (format!("{addr}: this node's own, or no route"), None),
    }
}

/// True if a person means the node itself.
pub(super) fn is_node(agent: &Agent, name: &str) -> bool {
    let own = |addr: IpAddr| agent.serving().nics.iter().any(|nic| nic.addr.addr() == addr);
    name == agent.node.as_str() || name.parse().is_ok_and(own)
}

/// From the node to an address, which may be a pod's.
pub(super) fn from_node(agent: &Agent, pod: Option<&Attachment>, addr: IpAddr) -> Explained {
    let node = format!("node {}", agent.node);
    let mut hops = Vec::new();
    let route = agent.kernel.route_now(addr);
    let said = route.as_ref().map_or_else(
        || "no route, or its own address".to_owned(),
        |route| {
            let via = route.gateway.map(|via| format!(" via {via}")).unwrap_or_default();
            let src = route.src.map(|src| format!(" src {src}")).unwrap_or_default();
            format!("route {addr}{via} dev {}{src}", route.dev)
        },
    );
    hops.push(hop(&node, format!("sends to {addr}: {said}")));
    let serving = agent.serving();
    let here = pod.and_then(|pod| serving.networks.get(&pod.network));
    let works = match (pod, here, &route) {
        (Some(pod), Some(here), Some(route)) => {
            let (text, works) = to_pod(here, pod, (addr, &route.dev));
            hops.push(hop(if works { format!("pod {}", pod.label()) } else { node }, text));
            works
        }
        _ => route.is_some(),
    };
    let mtu = route.filter(|_| works).map(|route| route.mtu.get());
    Explained {
        from: agent.node.to_string(),
        to: addr.to_string(),
        hops,
        mtu,
        works,
        dropped: false,
    }
}

fn to_pod(here: &NetworkHere, pod: &Attachment, (addr, dev): (IpAddr, &IfName)) -> (String, bool) {
    if pod.attach.kind().parent().is_none() {
        return (format!("received by dev {}", pod.id.ifname), true);
    }
    let pair = pod.access.as_ref().filter(|_| here.access.is_some());
    match (pair, here.access.as_ref().and_then(|access| access.source(addr.is_ipv4()))) {
        (Some(end), Some(source)) if end == dev => {
            let (via, own) = (access::gateway(addr.is_ipv4()), access::pod_end(&pod.id.ifname));
            (format!("received by dev {own}; answers {source} via {via} dev {own}"), true)
        }
        (Some(end), Some(_)) => (format!("but its way to the pod is dev {end}"), false),
        _ => (format!("pod {}: {}", pod.label(), lacking(here, pod, addr.is_ipv4())), false),
    }
}
