//! The CNI verbs. ADD writes the ledger first and answers last; DEL answers as soon as the pod can
//! no longer be reached, and the link is freed behind (`reap.rs`).

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use weft_core::{
    attach::Ground,
    attachment::{Attachment, AttachmentId, Phase},
    cni::{AddResult, Call, CniError, Code, Interface, Ip, RouteOut, Verb},
    desired::Served,
    ipam::NoAddress,
    name::{IfName, Mac, NetworkName},
    network::SCHEMA,
    plan::{Change, plan},
    state::{Key, Link, Object, State},
};
use weft_linux::{Kernel, Netns, Observed};

use super::{Agent, NetworkHere, POISONED, Serving, fault, wake::Reasons};

/// How long ADD waits for what is on its way: the first view, a block, an address being freed.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Carries out a call. Returns what goes to standard output.
pub fn answer(agent: &Agent, call: &Call, netns: Option<Netns>) -> Result<Option<Value>, CniError> {
    let _turn = call.id.as_ref().map(|id| Turn::take(agent, id)).transpose()?;
    let done = match call.verb {
        Verb::Add => add(agent, call, netns).map(|result| Some(result.render(call.version))),
        Verb::Del => del(agent, call).map(|()| None),
        Verb::Check => check(agent, call, netns).map(|()| None),
        Verb::Gc => gc(agent, call).map(|()| None),
        Verb::Status => status(agent, call).map(|()| None),
        Verb::Version => Ok(None),
    };
    let counter = match (call.verb, &done) {
        (_, Err(_)) => &agent.counters.errors,
        (Verb::Add, _) => &agent.counters.adds,
        (Verb::Del, _) => &agent.counters.dels,
        _ => return done,
    };
    counter.fetch_add(1, Ordering::Relaxed);
    done
}

fn add(agent: &Agent, call: &Call, netns: Option<Netns>) -> Result<AddResult, CniError> {
    let id = call.id.clone().ok_or_else(no_container)?;
    let netns = netns.ok_or_else(|| no_namespace(call))?;
    let cookie = netns.cookie().map_err(|error| io("ask the namespace for its cookie", &error))?;
    if let Some(known) = settle(agent, &id, cookie)? {
        return repeat(agent, call, &known, &netns);
    }
    let (name, serving) = network(agent, call)?;
    let addrs = lease(agent, call, &name, &serving)?;
    // From here on the loop keeps away, until the link is whole.
    let _gate = agent.gate.read().expect(POISONED);
    let serving = agent.serving();
    let mut lease = Lease { agent, network: &name, addrs: Some(addrs) };
    let here = serving.networks.get(&name).ok_or_else(|| not_served(&name, &serving))?;
    let attachment = open(agent, call, &id, &name, here, cookie, &mut lease)?;
    fault::point("add.after-open");
    let born = Birth { agent, id: &id, done: false };
    let served = served(&name, here);
    let ground = served.ground(&agent.node, &serving.host);
    let link = bring_up(agent, &attachment, &ground, &netns)?;
    agent
        .ledger()
        .set_phase(&id, Phase::Attached)
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    fault::point("add.after-commit");
    born.committed();
    Ok(result(&attachment, &ground, &link, call))
}

/// One call at a time for an attachment: a runtime may call again before the first is answered.
struct Turn<'a> {
    agent: &'a Agent,
    id: &'a AttachmentId,
}
impl<'a> Turn<'a> {
    fn take(agent: &'a Agent, id: &'a AttachmentId) -> Result<Self, CniError> {
        let free = || agent.busy.lock().expect(POISONED).insert(id.clone()).then_some(());
        wait(agent, free).map(|()| Self { agent, id }).ok_or_else(|| {
            CniError::new(Code::TryAgainLater, "another call for it is under way", id.to_string())
        })
    }
}
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.agent.busy.lock().expect(POISONED).remove(self.id);
        self.agent.tell_progress();
    }
}

/// Addresses that go back unless the ledger has them.
struct Lease<'a> {
    agent: &'a Agent,
    network: &'a NetworkName,
    addrs: Option<Vec<std::net::IpAddr>>,
}
impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(addrs) = self.addrs.take() {
            self.agent.ledger().release(self.network, &addrs);
        }
    }
}

/// An attachment that is taken apart again unless it was committed.
struct Birth<'a> {
    agent: &'a Agent,
    id: &'a AttachmentId,
    done: bool,
}
impl Birth<'_> {
    fn committed(mut self) {
        self.done = true;
    }
}
impl Drop for Birth<'_> {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = detach(self.agent, self.id)
        {
            tracing::warn!(id = %self.id, %error, "could not take a failed ADD back; the loop will");
        }
    }
}

/// What an earlier call left under this name: attached to this very namespace, or nothing.
fn settle(agent: &Agent, id: &AttachmentId, cookie: u64) -> Result<Option<Attachment>, CniError> {
    let known = agent.ledger().get(id).cloned();
    match known {
        None => Ok(None),
        Some(known) if known.phase == Phase::Attached && known.cookie == cookie => Ok(Some(known)),
        Some(_) => {
            {
                let _gate = agent.gate.read().expect(POISONED);
                detach(agent, id)?;
            }
            wait(agent, || agent.ledger().get(id).is_none().then_some(())).ok_or_else(|| {
                CniError::new(
                    Code::TryAgainLater,
                    "the last link of this name is still being freed",
                    id.to_string(),
                )
            })?;
            Ok(None)
        }
    }
}

fn repeat(
    agent: &Agent,
    call: &Call,
    known: &Attachment,
    netns: &Netns,
) -> Result<AddResult, CniError> {
    let serving = agent.serving();
    let here =
        serving.networks.get(&known.network).ok_or_else(|| not_served(&known.network, &serving))?;
    let served = served(&known.network, here);
    let ground = served.ground(&agent.node, &serving.host);
    let inside = Kernel::of(netns).and_then(|kernel| kernel.observe_pod(&known.id.ifname));
    let inside =
        inside.map_err(|error| CniError::new(Code::Io, "look into the pod", error.to_string()))?;
    let link = inside.link(&known.id.ifname).cloned();
    let link = link.unwrap_or_else(|| known.attach.pod_end(known, &ground));
    Ok(result(known, &ground, &link, call))
}

/// The network that is meant, once this node can serve it.
fn network(agent: &Agent, call: &Call) -> Result<(NetworkName, Arc<Serving>), CniError> {
    let ready = wait(agent, || {
        let serving = agent.serving();
        let shown = agent.shown();
        let name = call.network.as_ref().or_else(|| shown.view.default_network())?.clone();
        let here = serving.networks.get(&name)?;
        let complete = here
            .network
            .ranges
            .iter()
            .all(|range| here.blocks.iter().any(|block| range.contains(block)));
        complete.then(|| (name, serving.clone()))
    });
    ready.ok_or_else(|| not_ready(agent, call))
}

fn not_ready(agent: &Agent, call: &Call) -> CniError {
    let serving = agent.serving();
    let shown = agent.shown();
    let known: Vec<&str> = shown.view.networks.keys().map(NetworkName::as_str).collect();
    let Some(name) = call.network.as_ref().or_else(|| shown.view.default_network()) else {
        let what = if known.is_empty() { "none is defined".into() } else { known.join(", ") };
        return CniError::new(
            Code::InvalidConfig,
            "no network is named and the cluster has no default",
            format!("networks: {what}; set `network`, or make one with `weft network apply`"),
        );
    };
    if !shown.view.networks.contains_key(name) && (shown.synced || shown.away.is_none()) {
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        return CniError::new(
            Code::InvalidConfig,
            format!("there is no network {name}"),
            format!("networks: {known}"),
        );
    }
    if serving.networks.contains_key(name) {
        let away = shown.away.clone().unwrap_or_else(|| "its ranges may be full".into());
        return CniError::new(
            Code::TryAgainLater,
            format!("this node has no block in network {name} yet"),
            format!("{away}; see `weft status`"),
        );
    }
    not_served(name, &serving)
}

fn not_served(name: &NetworkName, serving: &Serving) -> CniError {
    CniError::new(
        Code::TryAgainLater,
        format!("network {name} is not served on this node"),
        format!("{}; see `weft status`", serving.problems.join("; ")),
    )
}

/// Addresses for the pod. One that is asked for may still be with a link that is being freed; a
/// block that is full makes the node claim another.
fn lease(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    serving: &Serving,
) -> Result<Vec<std::net::IpAddr>, CniError> {
    let ranges = serving.networks.get(name).map(|here| here.network.ranges.clone());
    let families: Vec<bool> =
        ranges.unwrap_or_default().iter().map(|range| range.addr().is_ipv4()).collect();
    let mut last = None;
    let leased = wait(agent, || {
        let leased = agent.ledger().lease(name, &families, &call.ips);
        match leased {
            Ok(addrs) => Some(Ok(addrs)),
            Err(NoAddress::Taken(addr)) if !being_freed(agent, addr) => {
                Some(Err(NoAddress::Taken(addr)))
            }
            Err(no @ (NoAddress::Elsewhere { .. } | NoAddress::Reserved(_))) => Some(Err(no)),
            Err(no) => {
                if let NoAddress::Exhausted { ipv4, .. } = no {
                    agent.hungry.lock().expect(POISONED).insert(name.clone(), ipv4);
                    agent.claimer.notify_one();
                }
                last = Some(no);
                None
            }
        }
    });
    agent.hungry.lock().expect(POISONED).remove(name);
    let failed = match leased {
        Some(Ok(addrs)) => return Ok(addrs),
        Some(Err(no)) => (Code::InvalidConfig, no.to_string()),
        None => (Code::TryAgainLater, last.map_or_else(String::new, |no| no.to_string())),
    };
    let (code, why) = failed;
    let store = agent.shown().away.clone().map(|why| format!("; the store is away: {why}"));
    let details = format!("network {name}: {why}{}", store.unwrap_or_default());
    Err(CniError::new(code, "no address for the pod", details))
}

fn being_freed(agent: &Agent, addr: std::net::IpAddr) -> bool {
    let ledger = agent.ledger();
    ledger.attachments().any(|a| a.phase == Phase::Doomed && a.addrs.contains(&addr))
}

/// Polls at every sign of progress until there is an answer or the bound is reached.
fn wait<T>(agent: &Agent, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let seen = *agent.progress.0.lock().expect(POISONED);
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let left = end.checked_duration_since(Instant::now())?;
        let progress = agent.progress.0.lock().expect(POISONED);
        if *progress == seen {
            drop(agent.progress.1.wait_timeout(progress, left).expect(POISONED));
        }
    }
}

fn open(
    agent: &Agent,
    call: &Call,
    id: &AttachmentId,
    name: &NetworkName,
    here: &NetworkHere,
    cookie: u64,
    lease: &mut Lease<'_>,
) -> Result<Attachment, CniError> {
    let addrs = lease.addrs.clone().unwrap_or_default();
    let mut ledger = agent.ledger();
    let attachment = Attachment {
        schema: SCHEMA,
        id: id.clone(),
        phase: Phase::Opened,
        network: name.clone(),
        attach: here.network.attach.clone(),
        runtime: call.runtime.clone(),
        netns: call.netns.clone(),
        cookie,
        host_end: IfName::host_end(&id.cni, &id.container, id.ifname.as_str()),
        mac: call
            .mac
            .unwrap_or_else(|| Mac::derived(&["pod", &id.cni, &id.container, id.ifname.as_str()])),
        addrs,
        default_route: !ledger.attachments().any(|other| {
            other.cookie == cookie && other.default_route && other.phase != Phase::Doomed
        }),
        pod: call.pod.clone(),
        extra: Map::new(),
    };
    ledger
        .record(attachment.clone())
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    lease.addrs = None;
    Ok(attachment)
}

/// Makes the link and everything on it, the host's end up last. Returns the pod's end as it is.
fn bring_up(
    agent: &Agent,
    pod: &Attachment,
    ground: &Ground<'_>,
    netns: &Netns,
) -> Result<Link, CniError> {
    let refused = |what: &str, why: String| CniError::new(Code::Refused, what.to_owned(), why);
    let kind = pod.attach.kind();
    let (host_end, pod_end) = (kind.host_end(pod, ground), pod.attach.pod_end(pod, ground));
    let there =
        Kernel::of(netns).map_err(|error| refused("reach the namespace", error.to_string()))?;
    let birth = agent.kernel.birth(&host_end, &pod_end, netns).or_else(|refusal| {
        // A link of this very attachment, from a call that died.
        if refusal.errno != nix::errno::Errno::EEXIST as i32 {
            return Err(refusal);
        }
        agent.kernel.apply(&[Change::Drop(Key::Link(host_end.dev.clone()))]);
        agent.kernel.birth(&host_end, &pod_end, netns)
    });
    birth.map_err(|refusal| {
        let exists = refusal.errno == nix::errno::Errno::EEXIST as i32;
        let hint = if exists { "; the pod has an interface of this name already" } else { "" };
        refused("make the pod's link", format!("{refusal}{hint}"))
    })?;
    fault::point("add.after-birth");
    let born = |link: &Link| [Object::Link(link.clone())].into_iter().collect::<State>();
    let refusals = there.apply(&plan(&pod.attach.inside(pod, ground), &born(&pod_end)));
    fault::point("add.after-inside");
    let outside = kind.outside(pod, ground);
    let refusals =
        refusals.into_iter().chain(agent.kernel.apply(&plan(&outside, &born(&host_end))));
    if let Some(refusal) = refusals.into_iter().next() {
        return Err(refused("set the pod's link up", refusal.to_string()));
    }
    fault::point("add.after-outside");
    let inside = there
        .observe_pod(&pod.id.ifname)
        .map_err(|error| refused("look into the pod", error.to_string()))?;
    let missing = plan(&pod.attach.inside(pod, ground), &inside);
    let missing = missing.iter().find(|change| matches!(change, Change::Put(_)));
    match (missing, inside.link(&pod.id.ifname)) {
        (None, Some(link)) => Ok(link.clone()),
        (missing, _) => Err(refused(
            "the pod's link is not as it was made",
            missing.map_or_else(|| "it is gone".into(), ToString::to_string),
        )),
    }
}

fn result(pod: &Attachment, ground: &Ground<'_>, link: &Link, call: &Call) -> AddResult {
    let kind = pod.attach.kind();
    let host = kind.host_end(pod, ground);
    let interface = |link: &Link, sandbox: Option<String>| Interface {
        name: link.dev.to_string(),
        mac: link.mac.to_string(),
        mtu: Some(link.mtu.get().into()),
        sandbox,
        more: Map::new(),
    };
    let ips = pod.addrs.iter().map(|addr| Ip {
        address: kind.pod_addr(*addr, ground),
        gateway: Some(kind.gateway(*addr, ground).0),
        interface: Some(1),
        more: Map::new(),
    });
    let routes = pod.addrs.iter().flat_map(|addr| {
        let gw = kind.gateway(*addr, ground).0;
        let mtu = Some(ground.send.get().into());
        let out = move |dst| RouteOut { dst, gw: Some(gw), mtu, more: Map::new() };
        pod.routes_of(*addr, ground.ranges).into_iter().map(out)
    });
    let ours = AddResult {
        interfaces: vec![interface(&host, None), interface(link, Some(pod.netns.clone()))],
        ips: ips.collect(),
        routes: routes.collect(),
        dns: call.dns.clone(),
        more: Map::new(),
    };
    match &call.prev {
        Some(earlier) => ours.behind(earlier.clone()),
        None => ours,
    }
}

fn del(agent: &Agent, call: &Call) -> Result<(), CniError> {
    let _gate = agent.gate.read().expect(POISONED);
    detach(agent, call.id.as_ref().ok_or_else(no_container)?)
}

/// The pod can't be reached any more when this returns. Twice is as good as once.
fn detach(agent: &Agent, id: &AttachmentId) -> Result<(), CniError> {
    let Some(pod) = agent.ledger().get(id).cloned() else { return Ok(()) };
    let failed = |error: super::ledger::LedgerError| {
        CniError::new(Code::Io, "write the ledger", error.to_string())
    };
    agent.ledger().set_phase(id, Phase::Doomed).map_err(failed)?;
    fault::point("del.after-doom");
    let refusals = agent.kernel.apply(&unreachable(agent, &pod));
    fault::point("del.after-routes");
    let bridged = pod.attach.to_string() == "bridge";
    let refusals =
        refusals.into_iter().chain(agent.kernel.doom(std::slice::from_ref(&pod.host_end), bridged));
    fault::point("del.after-link");
    agent.doomed.ring(Reasons::OTHER);
    match refusals.into_iter().next() {
        Some(refusal) => Err(CniError::new(Code::Refused, "detach the pod", refusal.to_string())),
        None => Ok(()),
    }
}

/// What makes the pod unreachable: its routes go, and what stands on other links than its own.
fn unreachable(agent: &Agent, pod: &Attachment) -> Vec<Change> {
    let serving = agent.serving();
    let Some(here) = serving.networks.get(&pod.network) else {
        return pod.addrs.iter().map(|addr| Change::Drop(Key::Route((*addr).into()))).collect();
    };
    let served = served(&pod.network, here);
    let outside = pod.attach.kind().outside(pod, &served.ground(&agent.node, &serving.host));
    let doomed = outside
        .objects()
        .filter(|object| matches!(object, Object::Route(_)) || object.dev() != Some(&pod.host_end));
    doomed.map(|object| Change::Drop(object.key())).collect()
}

fn check(agent: &Agent, call: &Call, netns: Option<Netns>) -> Result<(), CniError> {
    let id = call.id.clone().ok_or_else(no_container)?;
    let netns = netns.ok_or_else(|| no_namespace(call))?;
    let not = |what: &str, details: String| CniError::new(Code::NotAsPromised, what, details);
    let known = agent.ledger().get(&id).cloned().filter(|pod| pod.phase == Phase::Attached);
    let known = known.ok_or_else(|| {
        CniError::new(Code::UnknownContainer, "there is no such attachment", id.to_string())
    })?;
    let serving = agent.serving();
    let here =
        serving.networks.get(&known.network).ok_or_else(|| not_served(&known.network, &serving))?;
    let served = served(&known.network, here);
    let ground = served.ground(&agent.node, &serving.host);
    if let Some(prev) = &call.prev {
        let had = |addr: &std::net::IpAddr| prev.ips.iter().any(|ip| ip.address.addr() == *addr);
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
    let there = Kernel::of(&netns).and_then(|kernel| kernel.observe_pod(&id.ifname));
    let there = there.map_err(|error| not("look into the pod", error.to_string()))?;
    let inside = plan(&known.attach.inside(&known, &ground), &there);
    let node = agent.kernel.observe_node(&[]);
    let node = node.map_err(|error| not("look at the node", error.to_string()))?.ours;
    let outside = known.attach.kind().outside(&known, &ground);
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

fn gc(agent: &Agent, call: &Call) -> Result<(), CniError> {
    let garbage: Vec<AttachmentId> = {
        let ledger = agent.ledger();
        let theirs = ledger.attachments().filter(|pod| {
            pod.id.cni == call.name && pod.runtime == call.runtime && pod.phase == Phase::Attached
        });
        let valid = |id: &AttachmentId| {
            call.valid.iter().any(|(container, ifname)| {
                *container == id.container && ifname == id.ifname.as_str()
            })
        };
        theirs.map(|pod| pod.id.clone()).filter(|id| !valid(id)).collect()
    };
    // One that can't be freed must not keep the others.
    let failed: Vec<String> = garbage
        .iter()
        .filter_map(|id| {
            tracing::info!(%id, "garbage by the runtime's word");
            let _gate = agent.gate.read().expect(POISONED);
            detach(agent, id).err().map(|error| format!("{id}: {error}"))
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(CniError::new(Code::Refused, "some garbage could not be freed", failed.join("; ")))
}

fn status(agent: &Agent, call: &Call) -> Result<(), CniError> {
    let serving = agent.serving();
    let shown = agent.shown();
    let unable = |what: String| CniError::new(Code::Unavailable, "weft can't serve ADD", what);
    if serving.rounds == 0 {
        return Err(unable("the agent has just started".into()));
    }
    let name = call.network.as_ref().or_else(|| shown.view.default_network());
    let Some(here) = name.and_then(|name| serving.networks.get(name)) else {
        let away =
            shown.away.clone().unwrap_or_else(|| "make one with `weft network apply`".into());
        return Err(unable(format!("the network is not served: {away}")));
    };
    let has = |range: &ipnet::IpNet| here.blocks.iter().any(|block| range.contains(block));
    if !here.network.ranges.iter().all(has) {
        return Err(unable("this node has no block yet".into()));
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

/// Which side of a change of routes a change inside pods stands on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Shrinks what pods send, widens what they take.
    BeforeRoutes,
    /// Brings both to where they should be.
    AfterRoutes,
}

/// Brings the inside of every pod to the MTUs of its network.
pub fn resize(agent: &Agent, serving: &mut Serving, when: Resize) {
    let pods: Vec<Attachment> = {
        let ledger = agent.ledger();
        ledger.attachments().filter(|pod| pod.phase == Phase::Attached).cloned().collect()
    };
    serving.applied.retain(|id, _| pods.iter().any(|pod| pod.id == *id));
    for pod in pods {
        let Some(here) = serving.networks.get(&pod.network) else { continue };
        let (send, accept) = (here.stage.send, here.stage.accept);
        let was = serving.applied.get(&pod.id).copied();
        let (send, accept) = match (when, was) {
            (Resize::BeforeRoutes, Some(was)) => (send.min(was.0), accept.max(was.1)),
            _ => (send, accept),
        };
        if was == Some((send, accept)) {
            continue;
        }
        let served = served(&pod.network, here);
        let ground = Ground { send, accept, ..served.ground(&agent.node, &serving.host) };
        match inside(&pod, &ground) {
            Ok(()) => drop(serving.applied.insert(pod.id.clone(), (send, accept))),
            Err(why) => serving.problems.push(format!("pod {}: {why}", pod.label())),
        }
    }
}

/// Brings a pod's own namespace to what it should hold. A pod that is gone needs nothing.
fn inside(pod: &Attachment, ground: &Ground<'_>) -> Result<(), String> {
    let Some(netns) = namespace(pod) else { return Ok(()) };
    let kernel = Kernel::of(&netns).map_err(|error| error.to_string())?;
    let there = kernel.observe_pod(&pod.id.ifname).map_err(|error| error.to_string())?;
    if there.link(&pod.id.ifname).is_none() {
        return Ok(());
    }
    let refusals = kernel.apply(&plan(&pod.attach.inside(pod, ground), &there));
    refusals.first().map_or(Ok(()), |refusal| Err(refusal.to_string()))
}

/// The pod's namespace, if its path still leads to the one that it was.
fn namespace(pod: &Attachment) -> Option<Netns> {
    let netns = Netns::open(Path::new(&pod.netns)).ok()?;
    netns.cookie().ok().filter(|cookie| *cookie == pod.cookie).map(|_| netns)
}

/// A pod's link that somebody deleted is made again, as long as the pod lives.
pub fn rebirth(agent: &Agent, serving: &Serving, host_end: &IfName) -> Result<(), String> {
    let pod = {
        let ledger = agent.ledger();
        ledger.attachments().find(|pod| pod.host_end == *host_end).cloned()
    };
    let Some(pod) = pod else { return Ok(()) };
    let Some(netns) = namespace(&pod) else {
        tracing::info!(id = %pod.id, "the pod's namespace is gone; its address is free");
        return agent.ledger().close(&pod.id).map_err(|error| error.to_string());
    };
    let Some(here) = serving.networks.get(&pod.network) else { return Ok(()) };
    let served = served(&pod.network, here);
    let ground = served.ground(&agent.node, &serving.host);
    bring_up(agent, &pod, &ground, &netns).map(drop).map_err(|error| error.to_string())
}

/// Ends what an ADD or DEL that died has left. Called by the loop, which holds the gate alone: no
/// ADD is under way.
pub fn bury(agent: &Agent, observed: &Observed) {
    let dead: Vec<Attachment> = {
        let ledger = agent.ledger();
        ledger.attachments().filter(|pod| pod.phase == Phase::Opened).cloned().collect()
    };
    for pod in dead {
        let there = observed.links.iter().any(|link| link.dev == pod.host_end);
        tracing::info!(id = %pod.id, link = there, "an ADD that died is taken back");
        if let Err(error) = detach(agent, &pod.id) {
            tracing::warn!(id = %pod.id, %error, "could not take it back");
        }
    }
}

fn served<'a>(name: &'a NetworkName, here: &'a NetworkHere) -> Served<'a> {
    Served { name, network: &here.network, blocks: &here.blocks, stage: &here.stage }
}

fn no_container() -> CniError {
    CniError::new(Code::InvalidEnvironment, "invalid environment variable", "CNI_CONTAINERID")
}
fn no_namespace(call: &Call) -> CniError {
    CniError::new(
        Code::UnknownContainer,
        "the network namespace does not exist",
        format!("CNI_NETNS {:?}", call.netns),
    )
}
fn io(what: &str, error: &std::io::Error) -> CniError {
    CniError::new(Code::Io, what, error.to_string())
}
