//! How many MAC addresses the physical switch admits at a parent's port, measured: somebody who
//! answers the NIC's own MAC address is asked by another. Nothing but this tells; a switch that
//! admits one drops the rest without a word. What follows from it is core's (`join/underlay`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use weft_core::{
    attach::{Attaching, Parent},
    join::underlay::{Switch, Try},
    name::{IfName, Mac, NodeName},
};
use weft_linux::{HostLink, Says, Solicitor};

use super::{
    Agent, POISONED, Serving,
    lease::wait_for,
    wake::{Gather, Reasons, Wake},
};

/// Whoever is there answers within this.
const ANSWER: Duration = Duration::from_millis(200);
/// How long ADD waits for what was never measured yet, once after the agent began.
const FIRST_MAX: Duration = Duration::from_secs(1);
/// Measured no more often than this, whoever asks for it.
const LEAST: Duration = Duration::from_secs(5);
/// So many are asked at once.
const ASKED_MAX: usize = 8;
const GATHER: Gather = Gather { quiet: Duration::ZERO, most: Duration::ZERO };

#[derive(Default)]
pub(super) struct Switches {
    known: Mutex<BTreeMap<IfName, Known>>,
    wake: Wake,
}

/// What was measured at a NIC.
struct Known {
    index: u32,
    mac: Mac,
    /// Who could be asked.
    asked: BTreeSet<IpAddr>,
    switch: Switch,
    when: Instant,
}

impl Known {
    fn is_of(&self, nic: &HostLink) -> bool {
        self.index == nic.index && self.mac == nic.mac
    }
}

impl Switches {
    /// A round of the loop was done: there may be other parents, and where the kernel told of a
    /// change, another switch.
    pub(super) fn look(&self, why: Reasons) {
        self.wake.ring(if why.kernel { Reasons::KERNEL } else { Reasons::OTHER });
    }

    /// When a NIC is to be measured; none: now.
    fn due(
        &self,
        nic: &HostLink,
        asked: &BTreeSet<IpAddr>,
        changed: Instant,
        again: Duration,
    ) -> Option<Instant> {
        let known = self.known.lock().expect(POISONED);
        let known = known.get(&nic.dev).filter(|known| known.is_of(nic))?;
        match known.switch {
            // There are others to be asked.
            Switch::Unknown if known.asked != *asked => None,
            _ if known.when < changed => Some(known.when + LEAST.min(again)),
            _ => Some(known.when + again),
        }
    }

    fn at(&self, dev: &IfName) -> Option<Switch> {
        self.known.lock().expect(POISONED).get(dev).map(|known| known.switch)
    }
}

/// The MAC address that the question is asked by: of this node's NIC, and always the same, so that
/// switches learn one more and not many.
pub(super) fn voice(node: &NodeName, dev: &IfName) -> Mac {
    Mac::derived(&["switch", node.as_str(), dev.as_str()])
}

/// Why a pod of this attach would be heard by nobody.
pub(super) fn refuses(agent: &Agent, kind: &dyn Attaching) -> Option<String> {
    let dev = parent(kind)?;
    let switch = agent.switches.at(&dev)?;
    if !matches!(switch, Switch::One(_)) {
        return None;
    }
    Some(format!(
        "the switch at {dev} {switch}; use attach ipvlan, or mode passthru for one pod, or have the \
         port admit more"
    ))
}

/// Waits for the first measurement. It takes milliseconds where somebody answers.
pub(super) fn measured_once(agent: &Agent, kind: &dyn Attaching) {
    if let Some(dev) = parent(kind) {
        wait_for(agent, FIRST_MAX, || agent.switches.at(&dev));
    }
}

/// The device by which a network's pods are heard under MAC addresses of their own.
fn parent(kind: &dyn Attaching) -> Option<IfName> {
    kind.parent().filter(|_| kind.has_own_macs()).map(Parent::dev)
}

impl Agent {
    /// What is known of the switch that a network's pods need to admit their MAC addresses.
    pub fn switch(&self, kind: &dyn Attaching) -> Option<String> {
        let dev = parent(kind)?;
        let said = self.switches.at(&dev).map_or("not yet measured".into(), |s| s.to_string());
        Some(format!("switch at {dev}: {said}"))
    }

    /// Networks whose pods nobody hears.
    pub fn unheard_macs(&self) -> Vec<String> {
        let serving = self.serving();
        let networks = serving.networks.iter();
        let refused = networks.filter_map(|(name, here)| {
            let why = refuses(self, here.network.attach.kind())?;
            Some(format!("network {name}: {why}"))
        });
        refused.collect()
    }
}

pub(super) fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("switch".into()).spawn(move || run(&agent))?;
    Ok(())
}

fn run(agent: &Agent) {
    let again = agent.config.probe_again();
    // When the kernel last told of a change.
    let mut changed = Instant::now();
    loop {
        let parents = parents(agent, &agent.serving());
        agent.switches.known.lock().expect(POISONED).retain(|dev, _| parents.contains_key(dev));
        let mut next = Instant::now() + again;
        for (dev, asked) in parents {
            // What is not there is not measured, and is told of when it comes.
            let Some(nic) = agent.kernel.link(&dev).ok().flatten().filter(|nic| nic.up) else {
                agent.switches.known.lock().expect(POISONED).remove(&dev);
                continue;
            };
            match agent.switches.due(&nic, &asked, changed, again) {
                Some(due) if due > Instant::now() => next = next.min(due),
                _ => measure(agent, &nic, asked),
            }
        }
        let left = next.saturating_duration_since(Instant::now());
        if agent.switches.wake.wait(left, |_| GATHER).kernel {
            changed = Instant::now();
        }
    }
}

/// The parents of pods with MAC addresses of their own, and who may be there to be asked: routers,
/// other nodes, strangers.
fn parents(agent: &Agent, serving: &Serving) -> BTreeMap<IfName, BTreeSet<IpAddr>> {
    let mut parents = BTreeMap::<IfName, BTreeSet<IpAddr>>::new();
    let shown = agent.shown();
    let mut ledger = agent.ledger();
    for (name, here) in &serving.networks {
        let kind = here.network.attach.kind();
        let Some(dev) = parent(kind) else { continue };
        let asked = parents.entry(dev).or_default();
        asked.extend(here.network.join.kind().gateways());
        let others = shown.view.nodes.iter().filter(|(node, _)| **node != agent.node);
        asked.extend(others.filter_map(|(_, node)| node.record.part(name)).flat_map(|p| &p.hosts));
        if let Some((pool, _)) = ledger.timed_pool(name) {
            asked.extend(pool.conflicts().map(|(addr, _)| addr));
        }
    }
    parents
}

fn measure(agent: &Agent, nic: &HostLink, asked: BTreeSet<IpAddr>) {
    let targets: Vec<IpAddr> = asked.iter().copied().take(ASKED_MAX).collect();
    let measured = self::asked(agent, &nic.dev, &targets).unwrap_or_else(|error| {
        tracing::debug!(dev = %nic.dev, %error, "could not ask by another MAC address");
        Switch::Unknown
    });
    let mut known = agent.switches.known.lock().expect(POISONED);
    let last = known.get(&nic.dev).filter(|known| known.is_of(nic)).map(|known| known.switch);
    let last = last.unwrap_or_default();
    let switch = measured.after(last);
    if switch != last {
        tracing::info!(dev = %nic.dev, "the switch {switch}");
    }
    let (index, mac, when) = (nic.index, nic.mac, Instant::now());
    known.insert(nic.dev.clone(), Known { index, mac, asked, switch, when });
    drop(known);
    agent.tell_progress();
}

fn asked(agent: &Agent, dev: &IfName, targets: &[IpAddr]) -> io::Result<Switch> {
    if targets.is_empty() {
        return Ok(Switch::Unknown);
    }
    let Some(lan) = agent.kernel.solicitor(dev)? else { return Ok(Switch::Unknown) };
    let voice = voice(&agent.node, dev);
    lan.take_in(voice)?;
    let mut tries = Vec::new();
    loop {
        if let Some(switch) = Switch::judge(&tries) {
            return Ok(switch);
        }
        let own = answer(&lan, lan.mac, targets, &[lan.mac, voice])?;
        tries.push(match own {
            // Late, from the try before.
            Some((by, to)) if to == voice => Try { own: None, foreign: Some(by) },
            Some((by, _)) => {
                let foreign = answer(&lan, voice, &[by], &[voice])?.map(|(by, _)| by);
                Try { own: Some(by), foreign }
            }
            None => Try::default(),
        });
    }
}

/// Asks by a MAC address. Returns who answered, and to which of those that count.
fn answer(
    lan: &Solicitor,
    mac: Mac,
    targets: &[IpAddr],
    to: &[Mac],
) -> io::Result<Option<(IpAddr, Mac)>> {
    let IpAddr::V6(local) = mac.link_local().addr() else { return Ok(None) };
    for target in targets {
        lan.ask(mac, local, *target)?;
    }
    lan.wait(ANSWER, |from| {
        let answers = from.says == Says::Answers && to.contains(&from.to);
        (answers && targets.contains(&from.addr)).then_some((from.addr, from.to))
    })
}
