//! Pods' pairs of access: by which a pod whose link is a child of a NIC reaches its node. What they
//! hold is core's; here is what the node has for them, and their birth.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use nix::errno::Errno;
use weft_core::{
    attach::{
        Birth, Ground,
        access::{self, Access},
    },
    attachment::{Attachment, Phase},
    mark,
    name::Mtu,
    network::Network,
    paths::Nic,
    plan::{Change, plan},
    state::{Key, Object, State},
};
use weft_linux::{HostLink, Kernel, Netns, Refusal};

use super::{Agent, NetworkHere, Serving, children, judged, links};

/// Says of every network that gives access what its pods reach by this node now.
pub(super) fn give(agent: &Agent, serving: &mut Serving, links: &[HostLink]) {
    let ranges = |which: fn(&Network) -> bool| -> Vec<IpNet> {
        let all = serving.networks.values().map(|here| &here.network);
        all.filter(|network| which(network)).flat_map(|network| network.ranges.clone()).collect()
    };
    let routed = ranges(Network::is_routed);
    // Children that the node's table routes reach others of the kind by their own link.
    let behind = ranges(|network| network.is_routed() && !network.gives_access());
    let addrs = addresses(links, &serving.nics);
    let wire = serving.host.wire.unwrap_or(Mtu::ETHERNET);
    let pods = ranges(|_| true);
    for (name, here) in serving.networks.iter_mut().filter(|(_, here)| here.network.gives_access())
    {
        let routed = if here.network.is_routed() { &behind } else { &routed };
        let (services, left_out) = agent.services(&here.network, &pods);
        let why = |(cidr, range): (IpNet, IpNet)| {
            format!(
                "network {name}: ServiceCIDR {cidr} overlaps {range}, a range of pods: its Services are not \
                 reached by the node; list those that are in `services` of the network"
            )
        };
        serving.problems.extend(left_out.into_iter().map(why));
        here.access = Some(Arc::new(Access::new(services, &addrs, routed, wire)));
    }
}

/// The node's own addresses, as others and rules of translation may use them: those of its underlay
/// first. What is on a link of ours lies in a network's range.
fn addresses(links: &[HostLink], nics: &[Nic]) -> Vec<IpAddr> {
    let usable =
        |link: &&HostLink| link.up && ![mark::LINK_GROUP, mark::DOOMED_GROUP].contains(&link.group);
    let addrs = links.iter().filter(usable).flat_map(|link| &link.addrs).map(IpNet::addr);
    let own: BTreeSet<IpAddr> = addrs.filter(|addr| is_global(*addr)).collect();
    let underlay = nics.iter().map(|nic| nic.addr.addr()).filter(|addr| own.contains(addr));
    underlay.chain(own.iter().copied()).collect()
}

fn is_global(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    }
}

/// True if a link of this network is to be its pod's way to the node: the first that is one.
pub(super) fn wanted<'a>(
    network: &Network,
    serving: &Serving,
    mut others: impl Iterator<Item = &'a Attachment>,
) -> bool {
    let leads = |here: &NetworkHere| here.network.is_routed() && !here.network.gives_access();
    let is_way = |other: &Attachment| {
        other.access.is_some() || serving.networks.get(&other.network).is_some_and(leads)
    };
    network.gives_access() && !others.any(|other| other.phase != Phase::Doomed && is_way(other))
}

/// Why a pod must not have access yet: the rules that bound it are not in force.
pub(super) fn unbounded(serving: &Serving, ground: &Ground<'_>) -> Option<String> {
    ground.access?;
    let table = serving.undone.iter().find(|change| change.key() == Key::Table)?;
    Some(format!("the rules that bound what pods send by their node are not in force: {table}"))
}

/// Makes the pair of a pod that has one, down on the node's side.
pub(super) fn birth(
    agent: &Agent,
    pod: &Attachment,
    ground: &Ground<'_>,
    netns: &Netns,
) -> Result<(), Refusal> {
    let Some(birth) = access::birth(pod, ground) else { return Ok(()) };
    let made = agent.kernel.birth(&birth, netns);
    made.or_else(|refusal| match (&birth, Errno::from_raw(refusal.errno)) {
        // What a call that died has left, or what served the pod's link before.
        (Birth::Pair { host, .. }, Errno::EEXIST) => {
            agent.kernel.apply(&[Change::Drop(Key::Link(host.dev.clone()))]);
            agent.kernel.birth(&birth, netns)
        }
        _ => Err(refusal),
    })
}

/// Brings the node's side up, once the pod's is whole.
pub(super) fn open(agent: &Agent, pod: &Attachment, ground: &Ground<'_>) -> Vec<Refusal> {
    let unjudged = judged::outside(agent, pod, ground);
    if !unjudged.is_empty() {
        return unjudged;
    }
    agent.kernel.apply(&plan(&access::outside(pod, ground), &host_end(pod, ground)))
}

fn host_end(pod: &Attachment, ground: &Ground<'_>) -> State {
    let birth = access::birth(pod, ground);
    birth.iter().filter_map(Birth::host).cloned().map(Object::Link).collect()
}

/// The pod's end as it is born.
pub(super) fn pod_end(pod: &Attachment, ground: &Ground<'_>) -> Option<Object> {
    access::birth(pod, ground).map(|birth| Object::Link(birth.pod().clone()))
}

/// A pair that somebody deleted is made again, as long as its pod lives.
pub(super) fn again(agent: &Agent, serving: &Serving, pod: &Attachment) -> Result<(), String> {
    let Some(netns) = links::namespace(pod)? else {
        tracing::info!(id = %pod.id, "the pod's namespace is gone; its address is free");
        return children::bury(agent, pod);
    };
    let Some(here) = serving.networks.get(&pod.network) else { return Ok(()) };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    birth(agent, pod, &ground, &netns).map_err(|refusal| refusal.to_string())?;
    let there = Kernel::of(&netns).map_err(|error| error.to_string())?;
    let held = there.observe_pod(&pod.links()).map_err(|error| error.to_string())?;
    let mut wanted = access::inside(pod, &ground);
    if held.link(&pod.id.ifname).is_none() {
        // Nobody has the address that its routes send from: they come with the pod's own link.
        let is_route = |key: &&Key| matches!(key, Key::Access(_));
        let routes: Vec<Key> = wanted.keys().filter(is_route).cloned().collect();
        routes.iter().for_each(|key| wanted.drop(key));
    }
    let born: State = pod_end(pod, &ground).into_iter().collect();
    let mut refusals = there.apply(&plan(&wanted, &born));
    refusals.extend(open(agent, pod, &ground));
    refusals.first().map_or(Ok(()), |refusal| Err(refusal.to_string()))
}

/// Takes the way by the node from a pod that goes: nobody reaches it by it any more.
pub(super) fn close(agent: &Agent, pod: &Attachment) -> Vec<Refusal> {
    let Some(dev) = &pod.access else { return Vec::new() };
    let routes = pod.addrs.iter().map(|addr| Change::Drop(Key::Route((*addr).into())));
    let mut refusals = agent.kernel.apply(&routes.collect::<Vec<_>>());
    refusals.extend(agent.kernel.doom(std::slice::from_ref(dev), false));
    refusals
}
