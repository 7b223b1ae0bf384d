//! The loop: observe, plan, apply, observe, until the plan is empty. An event only wakes it.
//!
//! One round holds the gate alone, so no pod's link is half born while it looks. What it finds
//! besides its work is in `findings.rs`, what it tells the others in `publish.rs`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use weft_core::{
    attachment::Phase,
    join::{Receive, Way},
    moved::moved,
    name::{IfName, NetworkName},
    paths::{Nic, Sender, Situation, stage},
    plan::{Change, plan},
    state::{Kind, Knob, Object, State},
};
use weft_linux::{Event, ForeignRoute, HostLink, Observed, Refusal, Watch, read_knob};

use super::{
    Agent, NetworkHere, POISONED, Serving, bgp, findings, further, host, links,
    policy::Policies,
    publish,
    sight::{Look, Sight},
    sysctls::Found,
    underlay,
    wake::{Gather, Reasons},
    ways,
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
pub(super) struct Memory {
    pub(super) reach: ways::Reaches,
    pub(super) nics: Vec<Nic>,
    /// Why there is none.
    pub(super) no_underlay: Option<String>,
    found: Found,
    sight: Sight,
    /// Foreign routes to what we route too, as last looked for.
    pub(super) clashes: Vec<ForeignRoute>,
    /// Foreign firewalls, and daemons that work against us, as last looked for.
    pub(super) strangers: Vec<String>,
    /// Since when each network waits for acknowledgements of which withdrawal.
    waiting: BTreeMap<NetworkName, (Vec<Receive>, Instant)>,
    /// What is inside pods is to be looked at, from which pod on.
    inside_anew: bool,
    inside_next: usize,
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
            Ok(Event::Policies) => {
                tracing::debug!("policies' table changed");
                agent.policies.iter().for_each(Policies::doubt);
                agent.wake.ring(Reasons::KERNEL);
            }
            // Of pods whose links have an end here, that end tells more.
            Ok(Event::PodGone) if !agent.ledger().has_children() => {}
            Ok(Event::PodGone) => {
                agent.pods_gone.store(true, Ordering::SeqCst);
                agent.wake.ring(Reasons::OTHER);
            }
            Ok(Event::Overrun) => {
                agent.policies.iter().for_each(Policies::doubt);
                agent.wake.ring(Reasons::KERNEL);
            }
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
        inside_anew: false,
        inside_next: 0,
    };
    let mut why = Reasons::KERNEL;
    loop {
        let all_well = turn(agent, &mut memory, why);
        let longest = if all_well { LOOK_ANEW } else { RETRY };
        let gather = |why: Reasons| if why == Reasons::VIEW { GATHER_VIEW } else { GATHER };
        why = agent.wake.wait(longest, gather);
        if !why.any() {
            why = Reasons::KERNEL;
            // What is inside pods tells nobody when it changes.
            memory.inside_anew = true;
        }
    }
}

/// One round, and what follows from it. True if there is nothing to come back for soon.
fn turn(agent: &Agent, memory: &mut Memory, why: Reasons) -> bool {
    // No ADD goes on by what was served before.
    let _gate = agent.gate.write().expect(POISONED);
    let serving = round(agent, memory, why);
    agent.counters.rounds.fetch_add(1, Ordering::Relaxed);
    publish::say(agent, &serving, &memory.nics);
    let known = agent.serving();
    for problem in serving.problems.iter().filter(|new| !known.problems.contains(new)) {
        tracing::warn!(problem, "found");
    }
    let to_retry = agent.pods_gone.load(Ordering::SeqCst);
    let all_well =
        serving.converged && !to_retry && memory.waiting.is_empty() && !agent.bgp.looks_again();
    agent.set_serving(serving);
    agent.tell_residents();
    agent.policies.iter().for_each(Policies::ring);
    agent.strangers.ring();
    agent.switches.look(why);
    all_well
}

fn round(agent: &Agent, memory: &mut Memory, why: Reasons) -> Serving {
    let mut last = agent.serving();
    let mut serving = Serving {
        host: last.host.clone(),
        nics: last.nics.clone(),
        applied: last.applied.clone(),
        refused_inside: last.refused_inside.clone(),
        rounds: last.rounds + 1,
        ..Serving::default()
    };
    if std::mem::take(&mut memory.inside_anew) {
        links::forget_some(&mut serving.applied, &mut memory.inside_next);
    }
    let mut anew = why.kernel;
    if anew {
        memory.reach.clear();
    }
    let (mut undone, mut refusals) = (Vec::new(), Vec::new());
    for look in 0..=LOOKS_MAX {
        serving.problems.clear();
        let mut seen = match memory.sight.look(&agent.kernel, &knobs(&last), anew) {
            Ok(seen) => seen,
            Err(error) => return blind(agent, &error),
        };
        if anew {
            host::ask(agent, memory, &seen.observed, &mut serving);
        }
        decide(agent, memory, &mut serving, &seen.observed.links, (!anew).then_some(&last));
        reserve(agent, &serving, &seen.observed);
        links::bury(agent, &seen.observed);
        if agent.pods_gone.swap(false, Ordering::SeqCst) || anew {
            super::children::tend(agent, &mut serving);
        }
        links::resize(agent, &mut serving, links::Resize::BeforeRoutes);
        let changes = match changes(agent, &last, &serving, &mut seen) {
            Ok(changes) => changes,
            Err(error) => return blind(agent, &error),
        };
        // What was refused once is not better for being tried again at once.
        if changes.is_empty() || look == LOOKS_MAX || changes == undone {
            serving.problems.append(&mut refusals);
            serving.undone = changes;
            finish(agent, memory, &mut serving, seen);
            return serving;
        }
        refusals = apply(agent, memory, &serving, &changes);
        // Only of peers that moved are all consequences known; after the rest a look tells.
        let meets = findings::meets(&changes, &seen.observed.foreign);
        if seen.as_decided && refusals.is_empty() && !meets {
            memory.sight.know(&agent.kernel, seen);
        }
        anew |= !refusals.is_empty();
        last = Arc::new(serving.clone());
        undone = changes;
    }
    serving
}

fn finish(agent: &Agent, memory: &mut Memory, serving: &mut Serving, seen: Look) {
    serving.converged = serving.undone.is_empty();
    if serving.converged {
        links::resize(agent, serving, links::Resize::AfterRoutes);
        if !seen.as_decided {
            memory.clashes = findings::clashes(&seen.observed);
        }
    }
    let frozen = findings::frozen(agent, serving);
    findings::report(agent, memory, serving, frozen.as_deref());
    // Where nothing is taken away, more may be there than was decided.
    if serving.converged && frozen.is_none() && serving.settling.is_none() {
        memory.sight.know(&agent.kernel, seen);
    }
    weft_linux::memory::give_back();
}

/// What was served goes on being served.
fn blind(agent: &Agent, error: &weft_linux::Error) -> Serving {
    let mut last = Serving::clone(&agent.serving());
    last.converged = false;
    last.problems.push(format!("observe the kernel: {error}"));
    last
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
    serving.host.parents = super::children::parents(agent, links);
    let shown = agent.shown();
    let learnt = bgp::learnt(agent, &shown.view, &agent.serving());
    serving.settling = learnt.settling.then(|| learnt.clone());
    ways::find(agent, &mut memory.reach, &shown.view, &learnt);
    let installed = bgp::installed(agent, &shown.view, &learnt, (links, &memory.reach));
    if *serving.host.learnt != installed {
        serving.host.learnt = Arc::new(installed);
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
            sender: Sender {
                underlay: &serving.nics,
                reach: &memory.reach,
                only_by: network.only_by(),
                learnt: &learnt,
            },
            blocks: &blocks,
            view: &shown.view,
            parent: parent.and_then(|of| serving.host.parents.get(of)).map(|nic| nic.mtu),
            hosts: &hosts,
            known: last
                .and_then(|last| last.networks.get(name))
                .filter(|last| last.network == *network)
                .map(|last| &last.stage.choices),
            patience_over: memory
                .waiting
                .get(name)
                .is_some_and(|(_, since)| since.elapsed() > ACK_WAIT_MAX),
        };
        let stage = stage(&situation);
        let own = shown.view.nodes.get(&agent.node).and_then(|own| own.record.part(name));
        let withdrawing = own.map(|part| part.withdrawing.clone()).unwrap_or_default();
        if stage.waiting.is_empty() {
            memory.waiting.remove(name);
        } else if memory.waiting.get(name).is_none_or(|(of, _)| *of != withdrawing) {
            memory.waiting.insert(name.clone(), (withdrawing, Instant::now()));
        }
        let reserve = shown.view.reserve(name, network, &hosts);
        agent.ledger().set_blocks(name, &blocks, &reserve);
        let here = NetworkHere { network: network.clone(), blocks, stage, reserve, access: None };
        networks.insert(name.clone(), here);
    }
    serving.networks = networks;
    // Nothing is advertised that nobody was told of.
    if !bgp::tell(agent, &shown.view, serving, links) {
        for here in serving.networks.values_mut() {
            here.stage.part.receives.retain(|receive| receive.way() != Way::Bgp);
        }
    }
    drop(shown);
    super::access::give(agent, serving, links);
}

/// What the kernel holds for pods whose records can't be read is not given to others.
fn reserve(agent: &Agent, serving: &Serving, observed: &Observed) {
    let mut ledger = agent.ledger();
    if ledger.unread().next().is_none() {
        return;
    }
    let single = |object: &Object| match object {
        Object::Route(route) if route.dst.prefix_len() == route.dst.max_prefix_len() => {
            Some(route.dst.addr())
        }
        _ => None,
    };
    let held: Vec<IpAddr> = observed.ours.objects().filter_map(single).collect();
    for (name, here) in &serving.networks {
        let ours = |addr: &&IpAddr| here.blocks.iter().any(|block| block.contains(*addr));
        ledger.reserve(name, held.iter().filter(ours).copied());
    }
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

/// What is to be done: for the peers that moved since `last` where the kernel holds just that, else
/// for everything.
fn changes(
    agent: &Agent,
    last: &Serving,
    serving: &Serving,
    look: &mut Look,
) -> Result<Vec<Change>, weft_linux::Error> {
    if look.as_decided && serving.settling.is_none() {
        let learnt = (&*last.host.learnt, &*serving.host.learnt);
        let same = last.host.same_but_learnt(&serving.host);
        let moved = same.then(|| moved(&last.served(), &serving.served(), learnt)).flatten();
        if let Some(changes) = moved {
            return Ok(changes);
        }
    }
    if look.as_decided {
        let observed = agent.kernel.observe_node(&knobs(serving))?;
        *look = Look { observed, as_decided: false };
    }
    Ok(everything(agent, serving, &mut look.observed))
}

/// Where not all is known that something may be here for, it may be added to, but nothing is taken
/// away.
fn everything(agent: &Agent, serving: &Serving, observed: &mut Observed) -> Vec<Change> {
    let desired = further::desired(agent, serving);
    know_new_knobs(&desired, &mut observed.ours);
    let mut changes = plan(&desired, &observed.ours);
    let frozen = findings::frozen(agent, serving).is_some();
    changes.retain(|change| !frozen || !matches!(change, Change::Drop(_)));
    if let Some(learnt) = &serving.settling {
        changes.retain(|change| !bgp::may_be_said_again(serving, learnt, change));
    }
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
            problems.extend(links::rebirth(agent, serving, &link.dev).err());
        }
    }
    agent.counters.changes.fetch_add(rest.len() as u64, Ordering::Relaxed);
    let refusals = agent.kernel.apply(&rest);
    agent.counters.refusals.fetch_add(refusals.len() as u64, Ordering::Relaxed);
    problems.extend(refusals.iter().map(|refusal| said(refusal, &rest)));
    problems
}

/// What was refused and why, with the remedy where a module is missing.
fn said(refusal: &Refusal, changes: &[Change]) -> String {
    let missing = refusal.errno == nix::errno::Errno::EOPNOTSUPP as i32;
    let is_vlan = |change: &Change| {
        matches!(change, Change::Put(Object::Link(link)) if matches!(link.kind, Kind::Vlan { .. }))
            && change.to_string() == refusal.what
    };
    if missing && changes.iter().any(is_vlan) {
        return format!(
            "{refusal}; this node's kernel has no VLANs: load its module (`modprobe 8021q`), or use a kernel \
             built with CONFIG_VLAN_8021Q"
        );
    }
    refusal.to_string()
}

/// A pod's link that is not there can only be born together with its other end.
fn pod_link(agent: &Agent, change: &Change) -> bool {
    let Change::Put(Object::Link(link)) = change else { return false };
    let attached = |dev: &IfName| {
        let ledger = agent.ledger();
        let mut attached = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
        attached.any(|pod| pod.host_links().any(|own| own == dev))
    };
    link.kind == Kind::Veth
        && attached(&link.dev)
        && agent.kernel.link_exists(&link.dev).is_ok_and(|exists| !exists)
}

impl Agent {
    /// What a round would do now.
    pub fn planned(&self) -> Result<Vec<Change>, weft_linux::Error> {
        // Between what pods' links are made of there is no plan to be seen.
        let _gate = self.gate.write().expect(POISONED);
        let serving = self.serving();
        let mut observed = self.kernel.look_at_node(&knobs(&serving))?;
        Ok(everything(self, &serving, &mut observed))
    }
}
