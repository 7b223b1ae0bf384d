//! The way of a packet from a pod of this node, hop by hop, and why it goes that way. What the
//! records say is set beside what the kernel answers: where they differ, that is the news.

use std::net::IpAddr;

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_core::{
    attach::{Footing, bridge},
    attachment::{Attachment, Phase},
    join::{Receive, Way},
    name::{IfName, Mac, NetworkName, NodeName, Vni},
    paths::Path,
};

use crate::agent::{Agent, NetworkHere};

#[derive(Serialize, Deserialize)]
pub struct Explained {
    pub from: String,
    pub to: String,
    pub hops: Vec<Hop>,
    /// The largest packet that goes all the way.
    pub mtu: Option<u16>,
    /// False if the packet goes nowhere, or elsewhere than the records say.
    pub works: bool,
    /// A policy drops it.
    #[serde(default)]
    pub dropped: bool,
}

impl Explained {
    /// From a pod, as far as no policy was asked.
    fn from_pod(
        pod: &Attachment,
        to: IpAddr,
        (hops, mtu, works): (Vec<Hop>, Option<u16>, bool),
    ) -> Self {
        Self { from: pod.label(), to: to.to_string(), hops, mtu, works, dropped: false }
    }

    pub(super) fn drop(&mut self) {
        (self.mtu, self.works, self.dropped) = (None, false, true);
    }
}

#[derive(Serialize, Deserialize)]
pub struct Hop {
    pub at: String,
    pub text: String,
}

pub(super) fn hop(at: impl Into<String>, text: impl Into<String>) -> Hop {
    Hop { at: at.into(), text: text.into() }
}

/// Without a port: whatever policies leave open.
pub fn explain(
    agent: &Agent,
    from: &str,
    to: &str,
    port: Option<super::policy::Asked>,
) -> anyhow::Result<Explained> {
    let (pod, target) = (find(agent, from), find(agent, to));
    let elsewhere = || super::policy::address(agent, to, pod.as_ref());
    let addr = if target.is_none() { elsewhere() } else { None };
    let mut explained = way(agent, from, &addr.map_or_else(|| to.into(), |addr| addr.to_string()))?;
    super::policy::judge(agent, &mut explained, (pod.as_ref(), target.as_ref()), port);
    Ok(explained)
}

fn way(agent: &Agent, from: &str, to: &str) -> anyhow::Result<Explained> {
    let target = find(agent, to);
    let pod = find(agent, from);
    if pod.is_none() && super::access::is_node(agent, from) {
        let own = target.as_ref().and_then(|pod| pod.addrs.first().copied());
        let addr = to.parse().ok().or(own).with_context(|| unknown(to))?;
        return Ok(super::access::from_node(agent, target.as_ref(), addr));
    }
    let pod = pod.with_context(|| {
        format!(
            "{from:?} is no pod of node {}: `weft pods` lists them; a packet is followed from the node \
             that has the pod (in the lab: `weft lab exec NODE -- weft explain …`), or is the sender by its \
             name",
            agent.node
        )
    })?;
    let addr = address(&pod, target.as_ref(), to)?;
    if pod.addrs.contains(&addr) || addr.is_loopback() {
        return Ok(itself(&pod, addr));
    }
    let serving = agent.serving();
    let here = serving.networks.get(&pod.network).context("the pod's network is not served")?;
    let mut hops = vec![hop(
        format!("pod {}", pod.label()),
        format!(
            "{} sends to {addr} by dev {} of network {} (attach {}, mtu {})",
            own(&pod, addr),
            pod.id.ifname,
            pod.network,
            pod.attach,
            here.stage.send
        ),
    )];
    let local = target.or_else(|| at(agent, &pod.network, addr));
    // What has no host access shares addresses with others at most.
    let local = local.filter(|to| to.network == pod.network || here.network.host_access);
    let kind = pod.attach.kind();
    let parent = kind.parent().filter(|_| kind.footing() == Footing::Network);
    let beside = parent
        .map(|parent| super::beside::follow(agent, here, (&pod, parent), (addr, local.as_ref())));
    let apart = beside.or_else(|| super::access::by_node(agent, here, &pod, addr));
    if let Some((rest, mtu)) = apart {
        hops.extend(rest);
        let (mtu, works) = (mtu.map(|mtu| mtu.min(here.stage.send).get()), mtu.is_some());
        return Ok(Explained::from_pod(&pod, addr, (hops, mtu, works)));
    }
    let arrives = match kind.parent().map(|parent| super::beside::stands(agent, &pod, parent)) {
        None => format!("arrives on dev {}", pod.host_end()),
        Some(stands) => stands.unwrap_or_else(|why| why),
    };
    hops.push(hop(format!("node {}", agent.node), arrives));
    let ends_alike = |to: &Attachment| to.host_end.is_some() == pod.host_end.is_some();
    let local = local.filter(ends_alike);
    let wide = here.network.segment();
    let (mtu, works) = match local {
        Some(target) if kind.parent().is_some() => {
            let (rest, works) = super::beside::sibling(agent, &pod.attach, &target);
            hops.extend(rest);
            (Some(here.stage.accept.get()), works)
        }
        Some(target) if wide.is_wide() => {
            let port = format!("bridge port {}, lladdr {}", target.host_end(), target.mac);
            hops.push(hop(
                format!("node {}", agent.node),
                format!("{port}: the pod is on this node"),
            ));
            hops.push(hop(format!("pod {}", target.label()), "received"));
            (Some(here.stage.accept.get()), true)
        }
        Some(target) => {
            hops.push(hop(
                format!("node {}", agent.node),
                format!("route {addr} dev {}: the pod is on this node", target.host_end()),
            ));
            hops.push(hop(format!("pod {}", target.label()), "received"));
            (Some(here.stage.accept.get()), true)
        }
        None => remote(agent, &pod.network, here, addr, &mut hops),
    };
    let missing = crate::agent::missing_inside(agent, &pod, here);
    let works = works && missing.is_none();
    if let Some(missing) = missing {
        let text = format!("but inside the pod something is not as it should be: {missing}");
        hops.insert(1, hop(format!("pod {}", pod.label()), text));
    }
    let mtu = mtu.map(|mtu| mtu.min(here.stage.send.get()));
    Ok(Explained::from_pod(&pod, addr, (hops, mtu, works)))
}

fn remote(
    agent: &Agent,
    network: &NetworkName,
    here: &NetworkHere,
    addr: IpAddr,
    hops: &mut Vec<Hop>,
) -> (Option<u16>, bool) {
    let node = format!("node {}", agent.node);
    let peer = here.stage.choices.iter().find_map(|(peer, choice)| {
        let block = choice.blocks.iter().find(|block| block.contains(&addr))?;
        let choice = if addr.is_ipv4() { choice.v4.as_ref()? } else { choice.v6.as_ref()? };
        Some((peer, block, choice))
    });
    let Some((peer, block, choice)) = peer else {
        let inside = here.network.ranges.iter().any(|range| range.contains(&addr));
        if inside && here.network.segment().is_wide() {
            let text = "everybody on the segment is asked, and nobody answers";
            hops.push(hop(
                node,
                format!("no node has a block of network {network} with {addr}: {text}"),
            ));
            return (None, false);
        }
        if inside {
            let text = "no node has a block of network";
            hops.push(hop(node, format!("{text} {network} with {addr}: the packet is dropped")));
            return (None, false);
        }
        if !here.network.host_access {
            let text = "which has no way out (hostAccess: false)";
            hops.push(hop(node, format!("{addr} is outside network {network}, {text}")));
            return (None, false);
        }
        return outside(agent, network, here, addr, hops);
    };
    for (way, why) in &choice.refused {
        hops.push(hop(&node, format!("not {way} to {peer}: {why}")));
    }
    let Some(path) = &choice.path else {
        hops.push(hop(node, format!("no path to {peer}: the packet is dropped")));
        return (None, false);
    };
    let first = if choice.refused.is_empty() { ", the first choice of the join" } else { "" };
    if here.network.segment().is_wide() {
        return bridged(agent, (network, here), (peer, path), addr, hops);
    }
    let leaves = leaves(path, block);
    let route = match here.network.join.kind().group() {
        Some(group) => {
            format!("its range is on-link on dev {}, asked for in group {group}", path.dev)
        }
        None => format!("route {block} {}", ends(&leaves)),
    };
    hops.push(hop(&node, format!("{route} ({}{first})", path.way())));
    if path.way() == Way::Bgp {
        let from = super::bgp::learnt_from(agent, addr);
        hops.push(hop(&node, from.unwrap_or_else(|| "but it is not learnt any more".into())));
    }
    if let Receive::Vxlan { underlay, vni, port, mac }
    | Receive::VxlanLearnt { underlay, vni, port, mac, .. } = &path.receive
    {
        hops.push(hop(
            &node,
            format!(
                "vxlan id {vni} dstport {port} to {underlay}, inner lladdr {mac}: {} bytes more",
                path.overhead
            ),
        ));
    }
    let works = match agent.kernel.route_now(addr) {
        Some(route) if leaves.iter().any(|(dev, _)| *dev == route.dev) => {
            hops.push(hop(&node, format!("the kernel agrees: dev {}", route.dev)));
            true
        }
        Some(route) => {
            hops.push(hop(&node, format!("but the kernel sends it by dev {}", route.dev)));
            false
        }
        None => {
            hops.push(hop(&node, "but the kernel has no route"));
            false
        }
    };
    hops.push(hop(
        format!("node {peer}"),
        format!("receives {} at {}", path.way(), path.receive.underlay()),
    ));
    hops.push(hop(format!("node {peer}"), format!("delivers to {addr}, if it has that pod")));
    (Some(path.mtu.get()), works)
}

/// The devices and next hops by which a path leaves to one of the peer's blocks.
fn leaves(path: &Path, block: &IpNet) -> Vec<(IfName, IpAddr)> {
    let leg = path.legs.iter().find(|leg| leg.block == *block);
    leg.map_or_else(|| vec![(path.dev.clone(), path.via)], |leg| leg.hops.hops().to_vec())
}

/// As iproute2 has them.
fn ends(leaves: &[(IfName, IpAddr)]) -> String {
    let ends: Vec<String> =
        leaves.iter().map(|(dev, via)| format!("via {via} dev {dev}")).collect();
    ends.join(" or ")
}

/// To an address of none of our networks.
fn outside(
    agent: &Agent,
    network: &NetworkName,
    here: &NetworkHere,
    addr: IpAddr,
    hops: &mut Vec<Hop>,
) -> (Option<u16>, bool) {
    let node = format!("node {}", agent.node);
    if addr.is_loopback() || addr.is_multicast() || addr.is_unspecified() {
        hops.push(hop(node, format!("{addr} is for one link or one host: it is not routed")));
        return (None, false);
    }
    let Some(route) = agent.kernel.route_now(addr) else {
        hops.push(hop(
            node,
            format!("{addr} is outside network {network}: this node's own, or no route"),
        ));
        return (None, agent.serving().nics.iter().any(|nic| nic.addr.addr() == addr));
    };
    let via = route.gateway.map(|via| format!(" via {via}")).unwrap_or_default();
    let source =
        if here.network.masquerades() { ", with this node's address (masqueraded)" } else { "" };
    hops.push(hop(
        node,
        format!("{addr} is outside network {network}: route{via} dev {}{source}", route.dev),
    ));
    let learnt = agent.serving().host.learnt.routes.keys().any(|dst| dst.contains(&addr));
    let from = learnt.then(|| super::bgp::learnt_from(agent, addr)).flatten();
    hops.extend(from.map(|from| hop(format!("node {}", agent.node), from)));
    (Some(route.mtu.get()), true)
}

/// On a segment over all nodes: by the bridge and its tunnel's FDB.
fn bridged(
    agent: &Agent,
    (network, here): (&NetworkName, &NetworkHere),
    (peer, path): (&NodeName, &Path),
    addr: IpAddr,
    hops: &mut Vec<Hop>,
) -> (Option<u16>, bool) {
    let (node, dev) = (format!("node {}", agent.node), &path.dev);
    let underlay = path.receive.underlay();
    let told = {
        let shown = agent.shown();
        let there = shown.view.residents.get(&(network.clone(), peer.clone()));
        let pods = there.into_iter().flat_map(|(_, record)| &record.pods);
        pods.clone().find(|pod| pod.addrs.contains(&addr)).map(|pod| pod.mac)
    };
    let group = here.network.join.kind().group();
    let everybody = match group {
        Some(group) => format!("to group {group}"),
        None => "to every peer".into(),
    };
    let known = told.and_then(|mac| Some((mac, vtep(agent, dev, mac)?)));
    let (text, works) = match (told, known) {
        (_, Some((mac, vtep))) if vtep == underlay => {
            (format!("fdb {mac} dev {dev} dst {vtep}: the kernel agrees"), true)
        }
        (_, Some((mac, vtep))) => {
            (format!("but the kernel sends {mac} to {vtep} by dev {dev}"), false)
        }
        (Some(mac), None) if group.is_none() => {
            (format!("but the kernel has no fdb entry of {mac}: the frame goes {everybody}"), true)
        }
        (_, None) => (format!("its MAC is not known yet: the frame goes {everybody}"), true),
    };
    let asked = told.map_or_else(
        || format!("asks the segment for {addr}, {everybody}"),
        |mac| format!("answers for {addr}: lladdr {mac}"),
    );
    hops.push(hop(&node, format!("bridge {} {asked}", bridge::device(network))));
    hops.push(hop(&node, text));
    let (vni, port) = (here.network.join.vni(), path.receive.port().unwrap_or(0));
    let vni = vni.map_or(0, Vni::get);
    hops.push(hop(
        &node,
        format!("vxlan id {vni} dstport {port} to {underlay}: {} bytes more", path.overhead),
    ));
    hops.push(hop(format!("node {peer}"), format!("receives {} at {underlay}", path.way())));
    hops.push(hop(format!("node {peer}"), format!("its bridge has the pod {addr}")));
    (Some(path.mtu.get()), works)
}

/// Where the kernel sends frames for a MAC, if it does not send them to all.
fn vtep(agent: &Agent, dev: &IfName, mac: Mac) -> Option<IpAddr> {
    let heard = agent.kernel.heard(dev).unwrap_or_default();
    heard.into_iter().find(|heard| heard.mac == mac).map(|heard| heard.vtep)
}

/// By pod name (`namespace/name` or `name`), container or address.
fn find(agent: &Agent, name: &str) -> Option<Attachment> {
    let ledger = agent.ledger();
    let is = |pod: &&Attachment| {
        pod.phase == Phase::Attached
            && (pod.label() == name
                || pod.id.container == name
                || pod.pod.as_ref().is_some_and(|pod| pod.name == name)
                || pod.addrs.iter().any(|addr| addr.to_string() == name))
    };
    ledger.attachments().find(is).cloned()
}

/// The pod that has the address: of the same network, or one that hosts route to.
fn at(agent: &Agent, network: &NetworkName, addr: IpAddr) -> Option<Attachment> {
    let ledger = agent.ledger();
    let mut there = ledger
        .attachments()
        .filter(|pod| pod.phase == Phase::Attached && pod.addrs.contains(&addr));
    let same = there.clone().find(|pod| pod.network == *network);
    same.or_else(|| there.next()).cloned()
}

fn address(from: &Attachment, to: Option<&Attachment>, name: &str) -> anyhow::Result<IpAddr> {
    if let Ok(addr) = name.parse() {
        return Ok(addr);
    }
    let Some(to) = to else { bail!(unknown(name)) };
    let common =
        to.addrs.iter().find(|addr| from.addrs.iter().any(|f| f.is_ipv4() == addr.is_ipv4()));
    common.copied().context("the two pods have no address family in common")
}

/// What is its own never leaves it.
fn itself(pod: &Attachment, addr: IpAddr) -> Explained {
    let text = format!("sends to {addr} by dev lo: itself");
    let hops = vec![hop(format!("pod {}", pod.label()), text)];
    Explained::from_pod(pod, addr, (hops, None, true))
}

fn unknown(name: &str) -> String {
    format!(
        "{name:?} is neither a pod of this node nor an address; a pod elsewhere, or a node, is named by its \
         address, and on Kubernetes a pod elsewhere as NAMESPACE/NAME too"
    )
}

fn own(pod: &Attachment, addr: IpAddr) -> String {
    let own = pod.addrs.iter().find(|own| own.is_ipv4() == addr.is_ipv4());
    own.map_or_else(|| "no address".into(), ToString::to_string)
}
