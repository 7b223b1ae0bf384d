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
    attach::{Attach, Birth, Parent, Standing},
    attachment::{Attachment, Phase},
    cni::{CniError, Code},
    mark,
    name::{Mac, Mtu, NetworkName},
    plan::Change,
    state::Key,
};
use weft_linux::{HostLink, Kernel, Netns, Refusal};

use super::{
    Agent, Serving, dhcp, fault,
    lease::wait,
    links::{self, namespace},
    reap::forget_flows,
    switch,
    wake::Reasons,
};

/// How long a link that had the whole of its parent may take to go with its namespace.
const LAST_ONE_MAX: Duration = Duration::from_secs(2);
const LAST_ONE_LOOK: Duration = Duration::from_millis(10);

/// What networks name as parents, as far as its NIC is there.
pub(super) fn parents(agent: &Agent, links: &[HostLink]) -> BTreeMap<Parent, Standing> {
    let shown = agent.shown();
    let named = shown.view.networks.values().filter_map(|net| net.attach.kind().parent());
    let stands = named.filter_map(|parent| {
        let nic = links.iter().find(|link| link.dev == parent.nic)?;
        let ready = parent.vlan.is_none() || links.iter().any(|link| link.dev == parent.dev());
        let mtu = Mtu::from_kernel(nic.mtu);
        Some((parent.clone(), Standing { mtu, mac: nic.mac, up: nic.up, ready }))
    });
    stands.collect()
}

/// The device for one more child of this attach, or why there can't be one.
pub(super) fn parent(
    agent: &Agent,
    attach: &Attach,
    network: &NetworkName,
) -> Result<Option<HostLink>, CniError> {
    let kind = attach.kind();
    let Some(parent) = kind.parent() else { return Ok(None) };
    let dev = parent.dev();
    let look = || agent.kernel.link(&dev).map(|link| link.filter(|link| link.up));
    // A VLAN's device is made by the loop, as soon as it hears of the network or of the NIC.
    let made = parent.vlan.and_then(|_| wait(agent, || look().ok().flatten()));
    let link = made.map_or_else(look, |link| Ok(Some(link))).map_err(|error| {
        CniError::new(Code::Io, "look at the parent device", format!("{dev}: {error}"))
    })?;
    let link = link.ok_or_else(|| {
        let why = lacking(agent, network, parent).unwrap_or_else(|| format!("{dev} has just come"));
        CniError::new(Code::TryAgainLater, "the pod's link has no parent", why)
    })?;
    switch::measured_once(agent, kind);
    if let Some(why) = switch::refuses(agent, kind) {
        // By now it may be another.
        agent.switches.look(Reasons::KERNEL);
        return Err(CniError::new(
            Code::Refused,
            "the physical network would not hear the pod",
            format!("network {network}: {why}"),
        ));
    }
    if let Some(why) = cuts_off(&agent.serving(), network, attach) {
        return Err(CniError::new(Code::Refused, "the pod's link has no parent", why));
    }
    if kind.alone() {
        let other = |doomed: bool| {
            let ledger = agent.ledger();
            let mut others = ledger.attachments().filter(|pod| {
                pod.attach.kind().parent() == Some(parent) && (pod.phase == Phase::Doomed) == doomed
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

/// Why no pod may have the whole of its parent: it is the node's own way to the others.
fn cuts_off(serving: &Serving, network: &NetworkName, attach: &Attach) -> Option<String> {
    let dev = attach.kind().parent().filter(|_| attach.kind().alone())?.dev();
    serving.nics.iter().any(|nic| nic.dev == dev).then(|| {
        format!(
            "network {network}: {} would take {dev}, by which this node reaches the others, from \
             the node: name another NIC, or use mode bridge",
            attach.kind().described()
        )
    })
}

/// What is wrong with the parents of this node's networks.
pub(super) fn missing(agent: &Agent, serving: &Serving) -> Vec<String> {
    let parents = serving.networks.iter().filter_map(|(name, here)| {
        let parent = here.network.attach.kind().parent()?;
        lacking(agent, name, parent).or_else(|| cuts_off(serving, name, &here.network.attach))
    });
    parents.collect()
}

pub(super) fn lacking(agent: &Agent, network: &NetworkName, parent: &Parent) -> Option<String> {
    let (dev, device) = (&parent.nic, parent.dev());
    match agent.kernel.link(dev) {
        Ok(Some(link)) if link.up => match agent.kernel.link(&device) {
            Ok(Some(_)) => None,
            _ => Some(format!(
                "network {network}: there is no device {device} yet for {parent}: `weft status` \
                 says what the kernel refuses; where `ip -d link show type vlan` has another of this \
                 VLAN, name that by `attach: {{parent: …}}`, without `vlan`"
            )),
        },
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

/// Sets a link up that was just born. Another with its MAC address, such as the last of a pod of the
/// same name, may be going with its namespace likewise.
pub(super) fn dressed(birth: &Birth, dress: impl Fn() -> Vec<Refusal>) -> Option<Refusal> {
    let start = Instant::now();
    loop {
        let mut refusal = dress().into_iter().next()?;
        let Birth::Child { parent, pod, .. } = birth else { return Some(refusal) };
        if refusal.errno != Errno::EADDRINUSE as i32 {
            return Some(refusal);
        }
        if start.elapsed() >= LAST_ONE_MAX {
            refusal.text = format!("another link on {parent} has the MAC address {}", pod.mac);
            return Some(refusal);
        }
        std::thread::sleep(LAST_ONE_LOOK);
    }
}

/// What the kernel's refusal of a child means.
pub(super) fn refused(attach: &Attach, refusal: &Refusal) -> String {
    let dev = attach.kind().parent().map(Parent::dev).map_or(String::new(), |dev| dev.to_string());
    let hint = match Errno::from_raw(refusal.errno) {
        Errno::EOPNOTSUPP => format!(
            "; this node's kernel has no {attach}: load its module (`modprobe {attach}`), or use a \
             kernel built with CONFIG_{}",
            attach.to_string().to_uppercase()
        ),
        Errno::EBUSY => format!(
            "; {dev} serves a bridge, a bond or other children, and a device serves one of these or \
             {attach}: `ip -d link show` tells which"
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

/// True of the link that we made for this pod, still wanted or not, whatever was done to its name
/// or address inside.
fn is_its(link: &HostLink, pod: &Attachment) -> bool {
    link.is_child()
        && [mark::LINK_GROUP, mark::DOOMED_GROUP].contains(&link.group)
        && link.index == pod.child_index()
}

/// The pod's link, as seen from the node: also where no path leads to the namespace any more, and
/// its number may have come to mean another pod's.
fn there(agent: &Agent, pod: &Attachment) -> io::Result<Option<HostLink>> {
    let Some(nsid) = pod.nsid else { return Ok(None) };
    Ok(agent.kernel.link_there(nsid, &pod.id.ifname)?.filter(|link| is_its(link, pod)))
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
            let freed = there(agent, pod).and_then(|link| match (link, pod.nsid) {
                (Some(link), Some(nsid)) => agent.kernel.free_there(nsid, &link.dev),
                _ => Ok(()),
            });
            return freed.err().map(|error| failed(&error)).into_iter().collect();
        }
        Err(why) => return vec![failed(&why)],
    };
    let doomed = Kernel::of(&netns).map_err(|error| failed(&error)).and_then(|inside| {
        let link = inside.link(&pod.id.ifname).map_err(|error| failed(&error))?;
        let Some(link) = link.filter(|link| is_its(link, pod)) else { return Ok(Vec::new()) };
        let addrs = addresses(agent, pod);
        let mut refusals = inside.doom(std::slice::from_ref(&link.dev), addrs.is_empty());
        let drops: Vec<Change> =
            addrs.into_iter().map(|addr| Change::Drop(Key::Addr(link.dev.clone(), addr))).collect();
        refusals.extend(inside.apply(&drops));
        Ok(refusals)
    });
    doomed.unwrap_or_else(|failure| vec![failure])
}

/// The pod's addresses as its link has them; none where its network is not known any more.
fn addresses(agent: &Agent, pod: &Attachment) -> Vec<IpNet> {
    let serving = agent.serving();
    let Some(here) = serving.networks.get(&pod.network) else { return Vec::new() };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    pod.usable().iter().map(|addr| pod.attach.pod_addr(pod, *addr, &ground)).collect()
}

/// Frees the link of a pod that is doomed, and waits until it is gone.
pub(super) fn free(agent: &Agent, pod: &Attachment) -> io::Result<()> {
    // Unless its DEL has.
    dhcp::release(agent, pod);
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
        if let Ok(Some(link)) = there(agent, &pod) {
            if pod.attach.kind().has_nics_mac()
                && let Err(why) = follow_nic(agent, serving, pod, link.mac)
            {
                serving.problems.push(why);
            }
            continue;
        }
        let parent = pod.attach.kind().parent();
        let netns = namespace(&pod);
        let gone = netns.as_ref().is_ok_and(Option::is_none);
        let done = if let Err(why) = netns {
            Err(why)
        } else if gone {
            tracing::info!(id = %pod.id, "the pod's namespace is gone; its address is free");
            bury(agent, &pod)
        } else if !parent.is_some_and(|parent| ready(serving, parent)) {
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
    dhcp::release(agent, pod);
    let refusals = agent.kernel.apply(&links::unreachable(agent, pod));
    refusals.first().map_or(Ok(()), |refusal| Err(refusal.to_string()))?;
    forget_flows(agent, std::slice::from_ref(&pod.id));
    agent.ledger().close(&pod.id).map_err(|error| error.to_string())?;
    agent.claimer.notify_one();
    Ok(())
}

fn ready(serving: &Serving, parent: &Parent) -> bool {
    serving.host.parents.get(parent).is_some_and(|nic| nic.ready)
}

/// A pod that has its NIC's MAC address has the one that the NIC has now, and sends by it.
fn follow_nic(
    agent: &Agent,
    serving: &mut Serving,
    mut pod: Attachment,
    mac: Mac,
) -> Result<Attachment, String> {
    if pod.mac != mac {
        serving.applied.remove(&pod.id);
        let mut ledger = agent.ledger();
        // Its lease may have been renewed since it was looked at.
        pod = Attachment { mac, ..ledger.get(&pod.id).cloned().unwrap_or(pod) };
        ledger.record(pod.clone()).map_err(|error| error.to_string())?;
    }
    Ok(pod)
}

fn reborn(agent: &Agent, serving: &mut Serving, mut pod: Attachment) -> Result<(), String> {
    let kind = pod.attach.kind();
    if let Some(parent) = kind.parent().filter(|_| kind.has_nics_mac())
        && let Ok(Some(nic)) = agent.kernel.link(&parent.dev())
    {
        pod = follow_nic(agent, serving, pod, nic.mac)?;
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
        if let Some(netns) = namespace(pod).ok().flatten() {
            let _ = Kernel::of(&netns).and_then(|there| there.judge(&[]));
        }
        let Some(nsid) = pod.nsid else { continue };
        let there = kernel.link_there(nsid, &pod.id.ifname).ok().flatten();
        if there.is_some_and(|link| is_its(&link, pod)) {
            println!("- link {} of {}", pod.id.ifname, pod.label());
            dhcp::release_alone(pod);
            let _ = kernel.free_there(nsid, &pod.id.ifname);
        }
    }
    kernel.remove_apart()
}
