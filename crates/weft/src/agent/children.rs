//! Pods' links that are children of a device of the node, and are in the pod's namespace alone:
//! whether the device can have another, whether they are still there, and their end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::errno::Errno;
use weft_core::{
    attach::{Attach, Birth},
    attachment::{Attachment, Phase},
    cni::{CniError, Code},
    mark,
    name::{IfName, Mtu, NetworkName},
    plan::Change,
    state::Key,
};
use weft_linux::{HostLink, Kernel, Netns, Refusal};

use super::{
    Agent, Serving, fault,
    lease::wait,
    links::{self, namespace},
};

/// How long a link that had the whole of its parent may take to go with its namespace.
const LAST_ONE_MAX: Duration = Duration::from_secs(2);
const LAST_ONE_LOOK: Duration = Duration::from_millis(10);

/// The devices that networks name as parents, as far as they are there.
pub(super) fn parents(agent: &Agent, links: &[HostLink]) -> BTreeMap<IfName, Mtu> {
    let shown = agent.shown();
    let named = shown.view.networks.values().filter_map(|net| net.attach.kind().parent());
    let there = named.filter_map(|dev| links.iter().find(|link| link.dev == *dev));
    there.map(|link| (link.dev.clone(), Mtu::from_kernel(link.mtu))).collect()
}

/// The device for one more child of this attach, or why there can't be one.
pub(super) fn parent(
    agent: &Agent,
    attach: &Attach,
    network: &NetworkName,
) -> Result<Option<HostLink>, CniError> {
    let kind = attach.kind();
    let Some(dev) = kind.parent() else { return Ok(None) };
    let link = agent.kernel.link(dev).map_err(|error| {
        CniError::new(Code::Io, "look at the parent device", format!("{dev}: {error}"))
    })?;
    let link = link.filter(|link| link.up).ok_or_else(|| {
        let why = lacking(agent, network, dev).unwrap_or_else(|| format!("{dev} has just come"));
        CniError::new(Code::TryAgainLater, "the pod's link has no parent", why)
    })?;
    if kind.alone() {
        let other = |doomed: bool| {
            let ledger = agent.ledger();
            let mut others = ledger.attachments().filter(|pod| {
                pod.attach.kind().parent() == Some(dev) && (pod.phase == Phase::Doomed) == doomed
            });
            others.next().map(Attachment::label)
        };
        if let Some(other) = other(false) {
            return Err(CniError::new(
                Code::Refused,
                "the pod's link has no parent",
                format!(
                    "network {network}: {} gives {dev} whole to one pod, and {other} has it; \
                     delete that pod, or use mode bridge",
                    kind.described()
                ),
            ));
        }
        wait(agent, || other(true).is_none().then_some(()));
    }
    Ok(Some(link))
}

/// What is wrong with the parents of this node's networks.
pub(super) fn missing(agent: &Agent, serving: &Serving) -> Vec<String> {
    let parents = serving.networks.iter().filter_map(|(name, here)| {
        let dev = here.network.attach.kind().parent()?;
        lacking(agent, name, dev)
    });
    parents.collect()
}

pub(super) fn lacking(agent: &Agent, network: &NetworkName, dev: &IfName) -> Option<String> {
    match agent.kernel.link(dev) {
        Ok(Some(link)) if link.up => None,
        Ok(Some(_)) => Some(format!(
            "network {network}: its parent {dev} is down: `ip link set {dev} up`, \
             and have the host's network configuration do so"
        )),
        _ => Some(format!(
            "network {network}: this node has no device {dev}, its parent: plug it in or create \
             it, or name another by `attach: {{parent: …}}` in another network"
        )),
    }
}

/// The link that had the whole of the parent may be going with its namespace, which the kernel does
/// behind (net/core/net_namespace.c, `cleanup_net`): it is tried again for a moment.
pub(super) fn once_more(
    agent: &Agent,
    pod: &Attachment,
    mut refusal: Refusal,
    birth: &Birth,
    netns: &Netns,
) -> Result<(), Refusal> {
    let start = Instant::now();
    let taken = |refusal: &Refusal| refusal.errno == Errno::EINVAL as i32;
    while pod.attach.kind().alone() && taken(&refusal) && start.elapsed() < LAST_ONE_MAX {
        std::thread::sleep(LAST_ONE_LOOK);
        match agent.kernel.birth(birth, netns) {
            Err(again) => refusal = again,
            Ok(()) => return Ok(()),
        }
    }
    Err(refusal)
}

/// What the kernel's refusal of a child means.
pub(super) fn refused(attach: &Attach, dev: &IfName, refusal: &Refusal) -> String {
    let hint = match Errno::from_raw(refusal.errno) {
        Errno::EBUSY => format!(
            "; {dev} serves a bridge, a bond or ipvlan, and a device serves one of these or \
             macvlan: `ip -d link show` tells which"
        ),
        Errno::EINVAL if attach.kind().alone() => {
            format!("; {dev} has another macvlan link, and passthru shares with none")
        }
        Errno::EINVAL => format!(
            "; {dev} is taken whole by a macvlan link in mode passthru, or is no Ethernet device"
        ),
        Errno::ENODEV => format!("; {dev} is gone"),
        Errno::EEXIST => "; the pod has an interface of this name already".into(),
        _ => String::new(),
    };
    format!("{refusal}{hint}")
}

/// True of a link that we made for a pod, still wanted or not.
fn is_ours(link: &HostLink) -> bool {
    link.is_child() && [mark::LINK_GROUP, mark::DOOMED_GROUP].contains(&link.group)
}

/// The pod's link, as seen from the node: also where no path leads to the namespace any more.
fn there(agent: &Agent, pod: &Attachment) -> io::Result<Option<HostLink>> {
    let Some(nsid) = pod.nsid else { return Ok(None) };
    Ok(agent.kernel.link_there(nsid, &pod.id.ifname)?.filter(is_ours))
}

/// As `there`, of a number that may have come to mean another pod's namespace.
fn still_there(agent: &Agent, pod: &Attachment) -> io::Result<Option<HostLink>> {
    Ok(there(agent, pod)?.filter(|link| link.mac == pod.mac))
}

/// Takes the pod's addresses from it and marks the link: it answers nobody any more. Setting it down
/// would make the caller wait for an RCU grace period (drivers/net/macvlan.c, `macvlan_hash_del`).
/// What no path leads to is freed at once.
pub(super) fn doom(agent: &Agent, pod: &Attachment) -> Vec<Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal {
        what: format!("set {} of {} down: {error}", pod.id.ifname, pod.label()),
        errno: Errno::EIO as i32,
        text: String::new(),
    };
    let netns = match namespace(pod) {
        Ok(Some(netns)) => netns,
        Ok(None) => {
            let freed = still_there(agent, pod).and_then(|link| match (link, pod.nsid) {
                (Some(link), Some(nsid)) => agent.kernel.free_there(nsid, &link.dev),
                _ => Ok(()),
            });
            return freed.err().map(|error| failed(&error)).into_iter().collect();
        }
        Err(why) => return vec![failed(&why)],
    };
    let doomed = Kernel::of(&netns).map_err(|error| failed(&error)).and_then(|inside| {
        let link = inside.link(&pod.id.ifname).map_err(|error| failed(&error))?;
        let may =
            |link: &HostLink| is_ours(link) && (link.mac == pod.mac || !contested(agent, pod));
        let Some(link) = link.filter(may) else { return Ok(Vec::new()) };
        let addrs = addresses(agent, pod);
        let mut refusals = inside.doom(std::slice::from_ref(&link.dev), addrs.is_empty());
        let drops: Vec<Change> =
            addrs.into_iter().map(|addr| Change::Drop(Key::Addr(link.dev.clone(), addr))).collect();
        refusals.extend(inside.apply(&drops));
        Ok(refusals)
    });
    doomed.unwrap_or_else(|failure| vec![failure])
}

/// True if the interface's name is another attachment's too: then its MAC tells whose it is.
fn contested(agent: &Agent, pod: &Attachment) -> bool {
    agent.ledger().attachments().any(|other| {
        other.id != pod.id && other.cookie == pod.cookie && other.id.ifname == pod.id.ifname
    })
}

/// The pod's addresses as its link has them; none where its network is not known any more.
fn addresses(agent: &Agent, pod: &Attachment) -> Vec<IpNet> {
    let serving = agent.serving();
    let Some(here) = serving.networks.get(&pod.network) else { return Vec::new() };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    pod.addrs.iter().map(|addr| pod.attach.kind().pod_addr(*addr, &ground)).collect()
}

/// Frees the link of a pod that is doomed, and waits until it is gone.
pub(super) fn free(agent: &Agent, pod: &Attachment) -> io::Result<()> {
    if let Some(refusal) = doom(agent, pod).into_iter().next() {
        return Err(io::Error::other(refusal));
    }
    if let Some(netns) = namespace(pod).map_err(io::Error::other)? {
        Kernel::of(&netns).map_err(io::Error::other)?.reap()?;
    }
    Ok(())
}

/// What guarded others from a pod whose link is gone is needed no more.
pub(super) fn unguard(agent: &Agent, pod: &Attachment) -> bool {
    agent.kernel.apply(&links::unreachable(agent, pod)).is_empty()
}

/// Links that went though their pods are there are made again; where the pod's namespace went too,
/// its address is free. Called by the loop; what failed is to be tried again soon.
pub(super) fn tend(agent: &Agent, serving: &mut Serving) {
    let pods: Vec<Attachment> = {
        let ledger = agent.ledger();
        let attached = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
        attached.filter(|pod| pod.host_end.is_none()).cloned().collect()
    };
    for pod in pods {
        if still_there(agent, &pod).is_ok_and(|link| link.is_some()) {
            continue;
        }
        let parent = pod.attach.kind().parent();
        let netns = namespace(&pod);
        let gone = netns.as_ref().is_ok_and(Option::is_none);
        // Whoever may inside a pod may give its link another MAC.
        if !gone && there(agent, &pod).is_ok_and(|link| link.is_some()) {
            continue;
        }
        let done = if let Err(why) = netns {
            Err(why)
        } else if gone {
            tracing::info!(id = %pod.id, "the pod's namespace is gone; its address is free");
            bury(agent, &pod)
        } else if parent.is_some_and(|dev| !serving.host.parents.contains_key(dev)) {
            // There is nothing to make it of; what is missing is said.
            Ok(())
        } else {
            reborn(agent, serving, pod.clone())
        };
        if let Err(why) = done {
            serving.problems.push(format!("pod {}: {why}", pod.label()));
            agent.pods_gone.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

pub(super) fn bury(agent: &Agent, pod: &Attachment) -> Result<(), String> {
    let refusals = agent.kernel.apply(&links::unreachable(agent, pod));
    refusals.first().map_or(Ok(()), |refusal| Err(refusal.to_string()))?;
    agent.ledger().close(&pod.id).map_err(|error| error.to_string())
}

/// A pod that has a whole NIC has its address, and the NIC may be another now.
fn reborn(agent: &Agent, serving: &mut Serving, mut pod: Attachment) -> Result<(), String> {
    let kind = pod.attach.kind();
    if let Some(dev) = kind.parent().filter(|_| kind.alone())
        && let Ok(Some(nic)) = agent.kernel.link(dev)
        && nic.mac != pod.mac
    {
        pod.mac = nic.mac;
        agent.ledger().record(pod.clone()).map_err(|error| error.to_string())?;
    }
    // What was last written inside it went with it.
    serving.applied.remove(&pod.id);
    links::again(agent, serving, &pod)
}

/// Frees the links of doomed pods, many at once, since each waits for the kernel. Returns which.
pub(super) fn free_all(agent: &Agent, pods: &[Attachment]) -> BTreeSet<usize> {
    const AT_ONCE: usize = 64;
    let mut freed = BTreeSet::new();
    for (chunk, first) in pods.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
        std::thread::scope(|scope| {
            let freeing: Vec<_> =
                chunk.iter().map(|pod| scope.spawn(move || free(agent, pod))).collect();
            for ((at, pod), thread) in (first..).zip(chunk).zip(freeing) {
                match thread.join() {
                    Ok(Ok(())) => drop(freed.insert(at)),
                    Ok(Err(error)) => {
                        tracing::warn!(id = %pod.id, %error, "could not free a link; will try again");
                    }
                    Err(_) => {}
                }
            }
        });
    }
    if !freed.is_empty() {
        fault::point("del.after-reap");
    }
    freed
}

/// For the end of it all: whatever records tell of, agent or no agent.
pub(super) fn uninstall(kernel: &Kernel, pods: &[Attachment]) -> Result<(), weft_linux::Error> {
    for pod in pods.iter().filter(|pod| pod.host_end.is_none()) {
        let Some(nsid) = pod.nsid else { continue };
        let there = kernel.link_there(nsid, &pod.id.ifname).ok().flatten();
        if there.is_some_and(|link| is_ours(&link) && link.mac == pod.mac) {
            println!("- link {} of {}", pod.id.ifname, pod.label());
            let _ = kernel.free_there(nsid, &pod.id.ifname);
        }
    }
    kernel.remove_apart()
}
