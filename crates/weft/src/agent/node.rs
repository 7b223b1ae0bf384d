//! The loop: observe, plan, apply, observe, until the plan is empty. An event only wakes it.
//!
//! One round holds the gate alone, so no pod's link is half born while it looks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use weft_core::{
    attachment::Phase,
    desired::{self, Host},
    join::Receive,
    moved::moved,
    name::{IfName, Mtu, NetworkName},
    network::SCHEMA,
    paths::{Nic, Reach, Sender, Situation, acknowledged, stage},
    plan::{Change, plan},
    state::{Key, Knob, Object, State},
    view::{NodeRecord, Part},
};
use weft_linux::{Event, ForeignRoute, HostLink, Observed, Refusal, Watch, read_knob};

use super::{
    Agent, NetworkHere, POISONED, Serving,
    publish::Publication,
    sight::{Look, Sight},
    sysctls::Found,
    underlay,
    wake::{Gather, Reasons},
};

/// Looked at anew even if nothing was heard.
const LOOK_ANEW: Duration = Duration::from_secs(60);
/// Events that come together are one wake; sabotage is healed well within a second.
const GATHER: Gather = Gather { quiet: Duration::from_millis(2), most: Duration::from_millis(50) };
/// Records alone cost no look: the first are in the kernel while the rest are still being read.
const GATHER_VIEW: Gather =
    Gather { quiet: Duration::from_millis(2), most: Duration::from_millis(10) };
/// How soon to try again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);
/// Looks per round before the rest is left to the next.
const LOOKS_MAX: usize = 4;
/// How long a withdrawn path is held for a peer that does not acknowledge.
const ACK_WAIT_MAX: Duration = Duration::from_secs(60);

/// What the loop remembers between rounds. All of it can be learnt anew.
struct Memory {
    reach: BTreeMap<IpAddr, Option<Reach>>,
    nics: Vec<Nic>,
    /// Why there is none.
    no_underlay: Option<String>,
    found: Found,
    sight: Sight,
    /// Foreign routes to what we route too, as last looked for.
    clashes: Vec<ForeignRoute>,
    /// Foreign firewalls, and daemons that work against us, as last looked for.
    strangers: Vec<String>,
    /// Since when each network waits for acknowledgements.
    waiting: BTreeMap<NetworkName, Instant>,
}

pub fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let watch = Watch::new(&agent.kernel)?;
    let ears = agent.clone();
    std::thread::Builder::new().name("kernel-watch".into()).spawn(move || listen(&ears, watch))?;
    let agent = agent.clone();
    std::thread::Builder::new().name("node".into()).spawn(move || run(&agent))?;
    Ok(())
}

fn listen(agent: &Agent, mut watch: Watch) {
    loop {
        match watch.wait() {
            Ok(Event::Changed(what)) => {
                tracing::debug!(%what, "the kernel changed");
                agent.wake.ring(Reasons::KERNEL);
            }
            Ok(Event::PodGone) => {
                agent.pods_gone.store(true, Ordering::SeqCst);
                agent.wake.ring(Reasons::OTHER);
            }
            Ok(Event::Overrun) => agent.wake.ring(Reasons::KERNEL),
            Err(error) => {
                tracing::warn!(%error, "listening to the kernel failed");
                agent.wake.ring(Reasons::KERNEL);
                std::thread::sleep(RETRY);
            }
        }
    }
}

fn run(agent: &Agent) {
    let mut memory = Memory {
        reach: BTreeMap::new(),
        nics: Vec::new(),
        no_underlay: None,
        found: Found::read(&agent.config.cache_dir, &agent.boot),
        sight: Sight::default(),
        clashes: Vec::new(),
        strangers: Vec::new(),
        waiting: BTreeMap::new(),
    };
    let mut why = Reasons::KERNEL;
    loop {
        let serving = round(agent, &mut memory, why);
        let clean = serving.converged;
        agent.counters.rounds.fetch_add(1, Ordering::Relaxed);
        let waiting = !memory.waiting.is_empty();
        publish(agent, &serving, &memory);
        agent.set_serving(serving);
        agent.tell_residents();
        let longest = if clean && !waiting { LOOK_ANEW } else { RETRY };
        let gather = |why: Reasons| if why == Reasons::VIEW { GATHER_VIEW } else { GATHER };
        why = agent.wake.wait(longest, gather);
        if !why.any() {
            why = Reasons::KERNEL;
        }
    }
}

fn round(agent: &Agent, memory: &mut Memory, why: Reasons) -> Serving {
    let _gate = agent.gate.write().expect(POISONED);
    let mut last = agent.serving();
    let mut serving = Serving {
        host: last.host.clone(),
        nics: last.nics.clone(),
        applied: last.applied.clone(),
        rounds: last.rounds + 1,
        ..Serving::default()
    };
    let mut anew = why.kernel;
    if anew {
        memory.reach.clear();
    }
    for _ in 0..LOOKS_MAX {
        serving.problems.clear();
        let mut look = match memory.sight.look(&agent.kernel, &knobs(&last), anew) {
            Ok(look) => look,
            Err(error) => return blind(agent, &error),
        };
        if anew {
            ask_host(agent, memory, &look.observed, &mut serving);
        }
        decide(agent, memory, &mut serving, &look.observed.links, (!anew).then_some(&last));
        super::links::bury(agent, &look.observed);
        let look_inside = agent.pods_gone.swap(false, Ordering::SeqCst) || anew;
        let tended = !look_inside || super::children::tend(agent, &mut serving);
        let sized = super::links::resize(agent, &mut serving, super::links::Resize::BeforeRoutes);
        let changes = match changes(agent, &last, &serving, &mut look) {
            Ok(changes) => changes,
            Err(error) => return blind(agent, &error),
        };
        if changes.is_empty() {
            serving.converged = tended
                && sized
                && super::links::resize(agent, &mut serving, super::links::Resize::AfterRoutes);
            if !look.as_decided {
                memory.clashes = clashes(&look.observed);
            }
            report(agent, memory, &mut serving);
            // Before the first full list nothing was taken away, so more may be there.
            if agent.shown().synced {
                memory.sight.know(&agent.kernel, look);
            }
            weft_linux::memory::give_back();
            return serving;
        }
        let refusals = apply(agent, memory, &serving, &changes);
        // Only of peers that moved are all consequences known; after the rest a look tells.
        if look.as_decided && refusals.is_empty() && !meets(&changes, &look.observed.foreign) {
            memory.sight.know(&agent.kernel, look);
        }
        anew |= !refusals.is_empty();
        serving.problems.extend(refusals);
        last = Arc::new(serving.clone());
    }
    serving
}

/// What was served goes on being served.
fn blind(agent: &Agent, error: &weft_linux::Error) -> Serving {
    let mut last = Serving::clone(&agent.serving());
    last.converged = false;
    last.problems.push(format!("observe the kernel: {error}"));
    last
}

/// What the host has besides us: its underlay, its sysctls, what its firewall drops or translates.
fn ask_host(agent: &Agent, memory: &mut Memory, observed: &Observed, serving: &mut Serving) {
    let nics = underlay::find(&observed.links, &agent.config.underlay);
    if let Ok(nics) = &nics {
        if memory.nics != *nics {
            memory.reach.clear();
        }
        memory.nics.clone_from(nics);
        serving.nics.clone_from(nics);
    }
    // Without an underlay the paths that are there stay: it may come back.
    memory.no_underlay = nics.err();
    serving.host = host(agent, &observed.links, &serving.nics);
    memory.strangers = super::daemons::find(Path::new("/"));
    if let Ok(findings) = agent.kernel.foreign_firewall() {
        memory.strangers.extend(findings.iter().map(ToString::to_string));
    }
}

/// Everything that follows from the view and what was learnt of the host. `last` is what was
/// decided from the same host.
fn decide(
    agent: &Agent,
    memory: &mut Memory,
    serving: &mut Serving,
    links: &[HostLink],
    last: Option<&Arc<Serving>>,
) {
    serving.problems.extend(memory.no_underlay.clone());
    serving.host.parents = parents(agent, links);
    let shown = agent.shown();
    let peers = shown.view.nodes.iter().filter(|(name, _)| **name != agent.node);
    let addrs = peers.flat_map(|(_, node)| node.record.underlay.iter().copied());
    let unknown: Vec<IpAddr> = addrs.filter(|addr| !memory.reach.contains_key(addr)).collect();
    for (addr, route) in unknown.iter().zip(agent.kernel.route_to(&unknown)) {
        let reach = route.filter(|route| !route.dev.is_ours()).map(|route| Reach {
            dev: route.dev,
            gateway: route.gateway,
            mtu: route.mtu,
        });
        memory.reach.insert(*addr, reach);
    }
    let conflicts = shown.view.conflicts();
    let mut networks = BTreeMap::new();
    for (name, network) in &shown.view.networks {
        let beside =
            serving.nics.iter().find_map(|nic| network.check_underlay(name, &nic.addr).err());
        if let Some(why) = conflicts.get(name).cloned().or(beside.map(|bad| bad.to_string())) {
            serving.problems.push(format!("not served: {why}"));
            continue;
        }
        let blocks: Vec<_> = shown.view.claims_of(&agent.node, name).collect();
        let hosts = underlay::hosts(links, network);
        let parent = network.attach.kind().parent();
        let situation = Situation {
            node: &agent.node,
            name,
            network,
            sender: Sender { underlay: &serving.nics, reach: &memory.reach },
            blocks: &blocks,
            view: &shown.view,
            parent: parent.and_then(|parent| serving.host.parents.get(parent).copied()),
            hosts: &hosts,
            known: last
                .and_then(|last| last.networks.get(name))
                .filter(|last| last.network == *network)
                .map(|last| &last.stage.choices),
            patience_over: memory
                .waiting
                .get(name)
                .is_some_and(|since| since.elapsed() > ACK_WAIT_MAX),
        };
        let stage = stage(&situation);
        if stage.waiting.is_empty() {
            memory.waiting.remove(name);
        } else {
            memory.waiting.entry(name.clone()).or_insert_with(Instant::now);
        }
        let reserve = shown.view.reserve(name, network, &hosts);
        agent.ledger().set_blocks(name, &blocks, &reserve);
        let here = NetworkHere { network: network.clone(), blocks, stage, reserve };
        networks.insert(name.clone(), here);
    }
    drop(shown);
    serving.networks = networks;
}

fn host(agent: &Agent, links: &[HostLink], nics: &[Nic]) -> Host {
    let nic_of = |dev: &IfName| nics.iter().any(|nic| nic.dev == *dev);
    let strict = |dev: &IfName| {
        let value = |of: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
            fs::read_to_string(path).ok().and_then(|v| v.trim().parse::<u8>().ok()).unwrap_or(0)
        };
        value("all").max(value(dev.as_str())) == 1
    };
    Host {
        ra_devices: links.iter().filter(|l| l.ra_route).map(|link| link.dev.clone()).collect(),
        strict_devices: links
            .iter()
            .filter(|link| nic_of(&link.dev) && strict(&link.dev))
            .map(|link| link.dev.clone())
            .collect(),
        foreign_nat: agent.kernel.foreign_nat().unwrap_or(true),
        bridge_calls: Path::new("/proc/sys").join(Knob::BridgeCall4.path()).exists(),
        wire: nics.iter().map(|nic| nic.mtu).min(),
        nics: nics.to_vec(),
        parents: BTreeMap::new(),
    }
}

/// The devices that networks name as parents, as far as they are there.
fn parents(agent: &Agent, links: &[HostLink]) -> BTreeMap<IfName, Mtu> {
    let shown = agent.shown();
    let named = shown.view.networks.values().filter_map(|net| net.attach.kind().parent());
    let there = named.filter_map(|dev| links.iter().find(|link| link.dev == *dev));
    there.map(|link| (link.dev.clone(), Mtu::from_kernel(link.mtu))).collect()
}

/// The sysctls whose values the next look must read.
fn knobs(serving: &Serving) -> Vec<Knob> {
    let mut knobs = vec![Knob::Forward4, Knob::Forward6];
    let host = &serving.host;
    if host.bridge_calls {
        knobs.extend([Knob::BridgeCall4, Knob::BridgeCall6]);
    }
    knobs.extend(host.ra_devices.iter().cloned().map(Knob::AcceptRa));
    knobs.extend(host.strict_devices.iter().cloned().map(Knob::RpFilter));
    let tunnels = serving.networks.values().flat_map(|net| &net.stage.hold);
    knobs.extend(tunnels.flat_map(Receive::knobs));
    knobs
}

fn desired(agent: &Agent, serving: &Serving) -> State {
    let ledger = agent.ledger();
    desired::node(&agent.node, &serving.host, &serving.served(), ledger.attachments())
}

/// What is to be done: for the peers that moved since `last` where the kernel holds just that, else
/// for everything.
fn changes(
    agent: &Agent,
    last: &Serving,
    serving: &Serving,
    look: &mut Look,
) -> Result<Vec<Change>, weft_linux::Error> {
    if look.as_decided {
        let same = last.host == serving.host;
        let moved = same.then(|| moved(&last.served(), &serving.served())).flatten();
        if let Some(changes) = moved {
            return Ok(changes);
        }
        let observed = agent.kernel.observe_node(&knobs(serving))?;
        *look = Look { observed, as_decided: false };
    }
    Ok(everything(agent, serving, &mut look.observed))
}

/// A view that was never listed in full may add, but takes nothing away.
fn everything(agent: &Agent, serving: &Serving, observed: &mut Observed) -> Vec<Change> {
    let desired = desired(agent, serving);
    know_new_knobs(&desired, &mut observed.ours);
    let mut changes = plan(&desired, &observed.ours);
    let synced = agent.shown().synced;
    changes.retain(|change| synced || !matches!(change, Change::Drop(_)));
    changes
}

/// What a sysctl of a link of ours is can be read only once the link is there.
fn know_new_knobs(desired: &State, actual: &mut State) {
    for object in desired.objects() {
        if let Object::Sysctl { knob, value } = object
            && !actual.contains(&object.key())
            && knob.dev().is_some_and(|dev| actual.link(dev).is_some())
            && read_knob(knob) == Some(*value)
        {
            actual.put(object.clone());
        }
    }
}

fn apply(agent: &Agent, memory: &mut Memory, serving: &Serving, changes: &[Change]) -> Vec<String> {
    let mut problems = Vec::new();
    for change in changes {
        tracing::debug!(%change, "apply");
        if let Change::Put(Object::Sysctl { knob, .. }) = change
            && let Err(error) = memory.found.note(&agent.config.cache_dir, knob)
        {
            problems.push(format!("record the old value of {knob}: {error}"));
        }
    }
    let (births, rest): (Vec<_>, Vec<_>) =
        changes.iter().cloned().partition(|change| pod_link(agent, change));
    for birth in births {
        if let Change::Put(Object::Link(link)) = birth {
            problems.extend(super::links::rebirth(agent, serving, &link.dev).err());
        }
    }
    agent.counters.changes.fetch_add(rest.len() as u64, Ordering::Relaxed);
    let refusals = agent.kernel.apply(&rest);
    agent.counters.refusals.fetch_add(refusals.len() as u64, Ordering::Relaxed);
    problems.extend(refusals.iter().map(Refusal::to_string));
    problems
}

/// A pod's link that is not there can only be born together with its other end.
fn pod_link(agent: &Agent, change: &Change) -> bool {
    let Change::Put(Object::Link(link)) = change else { return false };
    let attached = |dev: &IfName| {
        let ledger = agent.ledger();
        ledger
            .attachments()
            .any(|pod| pod.host_end.as_ref() == Some(dev) && pod.phase == Phase::Attached)
    };
    link.kind == weft_core::state::Kind::Veth
        && attached(&link.dev)
        && agent.kernel.link_exists(&link.dev).is_ok_and(|exists| !exists)
}

/// Foreign routes to destinations of ours. The plan is empty, so what is there is what should be.
fn clashes(observed: &Observed) -> Vec<ForeignRoute> {
    let clash = |foreign: &&ForeignRoute| observed.ours.contains(&Key::Route(foreign.dst));
    observed.foreign.iter().filter(clash).cloned().collect()
}

/// True if a change concerns a destination that a foreign route has.
fn meets(changes: &[Change], foreign: &[ForeignRoute]) -> bool {
    let foreign: BTreeSet<_> = foreign.iter().map(|route| route.dst).collect();
    let dst = |change: &Change| match change.key() {
        Key::Route(dst) => Some(dst),
        _ => None,
    };
    !foreign.is_empty() && changes.iter().filter_map(dst).any(|dst| foreign.contains(&dst))
}

/// Notes what stands in our way but is not ours to change.
fn report(agent: &Agent, memory: &Memory, serving: &mut Serving) {
    for foreign in &memory.clashes {
        serving.problems.push(format!(
            "a foreign route stands beside ours and was left: {foreign}; \
             remove it, or packets to {} follow it",
            foreign.dst
        ));
    }
    serving.problems.extend(memory.strangers.iter().cloned());
    if !serving.host.bridge_calls
        && desired::bridged_behind_services(&serving.host, &serving.served())
    {
        serving.problems.push(
            "pods of one bridge do not reach each other through Services: br_netfilter is not \
             loaded (`modprobe br_netfilter`, and name it in /etc/modules-load.d)"
                .into(),
        );
    }
    serving.problems.extend(super::children::missing(agent, serving));
    let shown = agent.shown();
    serving
        .problems
        .extend(shown.view.said.iter().map(|(key, said)| format!("store: {key}: {said}")));
    let ledger = agent.ledger();
    let unread = ledger.unread().map(|(path, why)| format!("ledger: {}: {why}", path.display()));
    serving.problems.extend(unread);
}

fn publish(agent: &Agent, serving: &Serving, memory: &Memory) {
    if !serving.converged || memory.nics.is_empty() {
        return;
    }
    let shown = agent.shown();
    let own = shown.view.nodes.get(&agent.node);
    let ledger = agent.ledger();
    let parts = serving.networks.iter().map(|(name, net)| {
        let pods = ledger.has_pods(name);
        (name.clone(), Part { pods, ..net.stage.part.clone() })
    });
    let record = NodeRecord {
        schema: SCHEMA,
        boot: agent.boot.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        underlay: memory.nics.iter().map(|nic| nic.addr.addr()).collect(),
        mtu: memory.nics.iter().map(|nic| nic.mtu).min().unwrap_or(Mtu::ETHERNET),
        networks: parts.collect(),
        extra: own.map(|node| node.record.extra.clone()).unwrap_or_default(),
    };
    drop(ledger);
    let stages = serving.networks.iter().map(|(name, net)| (name, &net.stage));
    let ack = acknowledged(&agent.node, &shown.view, stages);
    drop(shown);
    agent.publication.send_if_modified(|known| {
        let residents = std::mem::take(&mut known.residents);
        let publication = Publication { record: Some(record), ack, residents };
        let news = (&known.record, known.ack) != (&publication.record, ack);
        *known = publication;
        news
    });
}

impl Agent {
    /// What a round would do now.
    pub fn planned(&self) -> Result<Vec<Change>, weft_linux::Error> {
        let serving = self.serving();
        let mut observed = self.kernel.observe_node(&knobs(&serving))?;
        Ok(everything(self, &serving, &mut observed))
    }
}
