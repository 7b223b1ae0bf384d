//! Strangers on networks that pods share with them: which addresses they have. Addresses are asked
//! for ahead of time (RFC 5227, 2.1; RFC 4862, 5.4), so that ADD finds some that are known to be
//! nobody's; what strangers say meanwhile is heard too (RFC 5227, 2.4). Which to ask for, and what
//! follows, is core's (`ipam`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::{fd::AsFd, unix::net::UnixDatagram},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_core::{
    attach::{Parent, Standing},
    cni::{Call, CniError, Code},
    ipam::{HASTE, NoAddress},
    name::{IfName, NetworkName},
};
use weft_linux::{Neighbour, Says, Solicitor};

use super::{Agent, NetworkHere, Serving, lease::wait_for, switch};

/// PROBE_NUM, and in place of PROBE_MIN, PROBE_MAX and ANNOUNCE_WAIT these: seconds are for a port
/// that has just come up and for hosts that all begin at once. This NIC has been up, what
/// lies ready goes on being listened for, and it is asked for again before it is old.
const PROBES: usize = 3;
const BETWEEN: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_millis(200);
/// How long ADD waits for what is known of an address that it was asked for by name.
const NAMED_MAX: Duration = Duration::from_millis(600);
/// Looked at anew even if nobody rang, where anybody is asked.
const LOOK: Duration = Duration::from_secs(1);
const EVER: Duration = Duration::from_secs(3600);

/// Wakes the thread, which waits for frames too.
pub(super) struct Bell(UnixDatagram);

impl Bell {
    pub(super) fn hang() -> io::Result<(Self, UnixDatagram)> {
        let (bell, rung) = UnixDatagram::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        Ok((Self(bell), rung))
    }

    /// False if nobody is there to hear it.
    pub(super) fn ring(&self) -> bool {
        // One that is full has been rung.
        self.0.send(&[0]).map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |_| true)
    }
}

/// An address that is being asked for.
struct Question {
    network: NetworkName,
    dev: IfName,
    addr: IpAddr,
    sent: usize,
    due: Instant,
}

#[derive(Default)]
struct Asking {
    /// By parent.
    lans: BTreeMap<IfName, Solicitor>,
    /// Where it can't be asked, and why.
    deaf: BTreeMap<IfName, String>,
    questions: Vec<Question>,
}

pub(super) fn spawn(agent: &Arc<Agent>, rung: UnixDatagram) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("strangers".into()).spawn(move || run(&agent, &rung))?;
    Ok(())
}

fn run(agent: &Agent, rung: &UnixDatagram) {
    let mut asking = Asking::default();
    let mut looked = Instant::now();
    let mut called = false;
    loop {
        let serving = agent.serving();
        if looked.elapsed() >= LOOK || called && !asking.knows(agent, &serving) {
            asking.open(agent, &serving);
            looked = Instant::now();
        }
        asking.draw(agent, &serving);
        asking.ask(agent);
        asking.wait(rung);
        asking.hear(agent, &serving);
        called = false;
        while rung.recv(&mut [0]).is_ok() {
            called = true;
        }
    }
}

/// The networks that are asked in, by parent. Whoever has a whole NIC hears the answers himself.
fn shared<'a>(
    agent: &'a Agent,
    serving: &'a Serving,
) -> impl Iterator<Item = (&'a NetworkName, &'a NetworkHere, IfName)> {
    serving.networks.iter().filter_map(|(name, here)| {
        here.network.join.shared()?;
        let kind = here.network.attach.kind();
        let heard = !kind.alone() || !agent.ledger().has_pods(name);
        heard.then_some((name, here, kind.parent()?.dev()))
    })
}

impl Asking {
    /// True if every parent that is there is asked at.
    fn knows(&self, agent: &Agent, serving: &Serving) -> bool {
        let ready = |(parent, nic): (&Parent, &Standing)| nic.ready.then(|| parent.dev());
        let there: BTreeSet<IfName> = serving.host.parents.iter().filter_map(ready).collect();
        shared(agent, serving)
            .all(|(.., dev)| !there.contains(&dev) || self.lans.contains_key(&dev))
    }

    /// Opens what is there and closes what is not, or has become another.
    fn open(&mut self, agent: &Agent, serving: &Serving) {
        let devs: Vec<IfName> = shared(agent, serving).map(|(.., dev)| dev).collect();
        let mut lans = BTreeMap::new();
        for dev in devs {
            let link = agent.kernel.link(&dev).ok().flatten().filter(|link| link.up);
            let Some(link) = link else { continue };
            let same = |lan: &Solicitor| lan.index == link.index && lan.mac == link.mac;
            let lan = match lans.remove(&dev).or_else(|| self.lans.remove(&dev)).filter(same) {
                Some(lan) => Some(lan),
                None => self.opened(agent, &dev),
            };
            lans.extend(lan.map(|lan| (dev, lan)));
        }
        self.lans = lans;
        let lans = &self.lans;
        self.questions.retain(|question| {
            let goes_on = lans.contains_key(&question.dev);
            if !goes_on {
                question.unasked(agent);
            }
            goes_on
        });
    }

    fn opened(&mut self, agent: &Agent, dev: &IfName) -> Option<Solicitor> {
        match agent.kernel.solicitor(dev) {
            Ok(lan) => {
                self.deaf.remove(dev);
                lan
            }
            Err(error) => {
                let why = error.to_string();
                // Said once is enough.
                if self.deaf.insert(dev.clone(), why.clone()).is_none_or(|last| last != why) {
                    tracing::warn!(%dev, why, "strangers' addresses can't be asked for");
                }
                None
            }
        }
    }

    fn draw(&mut self, agent: &Agent, serving: &Serving) {
        for (name, _, dev) in shared(agent, serving) {
            let Some(lan) = self.lans.get(&dev) else { continue };
            let mut ledger = agent.ledger();
            let Some((pool, now)) = ledger.timed_pool(name) else { continue };
            for addr in pool.draw(now, agent.config.probe_again()) {
                // Without it one hears who has the address, if not who wants it.
                let _ = lan.listen(addr, true);
                self.questions.push(Question {
                    network: name.clone(),
                    dev: dev.clone(),
                    addr,
                    sent: 0,
                    due: Instant::now(),
                });
            }
        }
    }

    fn ask(&mut self, agent: &Agent) {
        let now = Instant::now();
        let mut broken = Vec::new();
        for question in self.questions.iter_mut().filter(|question| question.due <= now) {
            let Some(lan) = self.lans.get(&question.dev) else { continue };
            if question.sent == PROBES {
                let _ = lan.listen(question.addr, false);
                question.quiet(agent);
            } else if let Err(error) = lan.probe(question.addr) {
                tracing::debug!(dev = %question.dev, %error, "could not ask for an address");
                broken.push(question.dev.clone());
            }
            question.sent += 1;
            question.due = now + if question.sent == PROBES { LAST } else { BETWEEN };
        }
        self.questions.retain(|question| question.sent <= PROBES);
        self.close(agent, &broken);
    }

    /// It is opened again at the next look.
    fn close(&mut self, agent: &Agent, broken: &[IfName]) {
        for dev in broken {
            self.lans.remove(dev);
        }
        for question in self.questions.extract_if(.., |question| broken.contains(&question.dev)) {
            question.unasked(agent);
        }
    }

    fn wait(&self, rung: &UnixDatagram) {
        let due = self.questions.iter().map(|question| question.due).min();
        let longest = if self.lans.is_empty() { EVER } else { LOOK };
        let left = due.map_or(longest, |due| due.saturating_duration_since(Instant::now()));
        let mut ears = vec![PollFd::new(rung.as_fd(), PollFlags::POLLIN)];
        let lans = self.lans.values().flat_map(Solicitor::ears);
        ears.extend(lans.map(|ear| PollFd::new(ear, PollFlags::POLLIN)));
        let left = left.min(longest) + Duration::from_millis(1);
        let _ = poll(&mut ears, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }

    fn hear(&mut self, agent: &Agent, serving: &Serving) {
        let mut broken = Vec::new();
        let mut told = Vec::new();
        for (dev, lan) in &self.lans {
            let own = [lan.mac, switch::voice(&agent.node, dev)];
            match lan.heard() {
                Ok(heard) => {
                    let others = heard.into_iter().filter(|from| !own.contains(&from.mac));
                    told.extend(others.map(|from| (dev.clone(), from)));
                }
                Err(error) => {
                    tracing::debug!(%dev, %error, "could not hear who has addresses");
                    broken.push(dev.clone());
                }
            }
        }
        for (dev, from) in told {
            for (name, here, _) in shared(agent, serving).filter(|(.., on)| *on == dev) {
                // An address of no node's block may be asked for by another node at the same time: which
                // of them gets it the store says.
                let nodes_ask =
                    from.says == Says::Probes && here.reserve.keeps(from.addr).is_some();
                let inside = here.network.ranges.iter().any(|range| range.contains(&from.addr));
                if inside && !nodes_ask {
                    self.told(agent, name, &dev, from);
                }
            }
        }
        self.close(agent, &broken);
    }

    /// Somebody says something of an address of the network's.
    fn told(&mut self, agent: &Agent, name: &NetworkName, dev: &IfName, from: Neighbour) {
        let meant = |question: &Question| question.network == *name && question.addr == from.addr;
        let asked = self.questions.iter().any(meant);
        if from.says == Says::Probes && !asked {
            return;
        }
        let mut ledger = agent.ledger();
        if ledger.timed_pool(name).is_none_or(|(pool, _)| !pool.minds(from.addr)) {
            return;
        }
        let own_pod = ledger.attachments().any(|pod| {
            pod.network == *name && pod.mac == from.mac && pod.addrs.contains(&from.addr)
        });
        if own_pod {
            return;
        }
        let Some((pool, now)) = ledger.timed_pool(name) else { return };
        let known = pool.conflicts().any(|other| other == (from.addr, from.mac));
        if !pool.answered(from.addr, from.mac, now) {
            return;
        }
        drop(ledger);
        if !known {
            tracing::warn!(network = %name, addr = %from.addr, mac = %from.mac, "conflict");
        }
        if let Some(lan) = self.lans.get(dev).filter(|_| asked) {
            let _ = lan.listen(from.addr, false);
        }
        self.questions.retain(|question| !meant(question));
        agent.tell_progress();
    }
}

impl Question {
    fn quiet(&self, agent: &Agent) {
        if let Some((pool, now)) = agent.ledger().timed_pool(&self.network) {
            pool.quiet(self.addr, now);
        }
        agent.tell_progress();
    }

    fn unasked(&self, agent: &Agent) {
        if let Some((pool, now)) = agent.ledger().timed_pool(&self.network) {
            pool.unasked(self.addr, now);
        }
    }
}

/// Waits, never for long, for what is known of the addresses that a call is about: those that it
/// names are asked for, of the others one that lies ready is the rule. False: no stranger is there.
pub(super) fn ahead(
    agent: &Agent,
    call: &Call,
    name: &NetworkName,
    families: &[bool],
) -> Result<bool, CniError> {
    let open = || {
        let mut ledger = agent.ledger();
        let (pool, now) = ledger.timed_pool(name).filter(|(pool, _)| pool.is_shared())?;
        call.ips.iter().for_each(|addr| pool.want_anew(*addr, now));
        Some(())
    };
    if open().is_none() {
        return Ok(false);
    }
    let known = |which: &dyn Fn(&weft_core::ipam::Pool, Duration) -> bool| {
        let mut ledger = agent.ledger();
        ledger.timed_pool(name).is_none_or(|(pool, now)| which(pool, now)).then_some(())
    };
    let named = || known(&|pool, now| call.ips.iter().all(|addr| pool.known(*addr, now)));
    if named().is_none() {
        let heard = agent.strangers.ring();
        if !heard || wait_for(agent, NAMED_MAX, named).is_none() {
            agent.ledger().note_unprobed();
        }
    }
    let stranger = agent
        .ledger()
        .timed_pool(name)
        .and_then(|(pool, _)| pool.conflicts().find(|(addr, _)| call.ips.contains(addr)));
    if let Some((addr, mac)) = stranger {
        let why = NoAddress::Stranger { addr, mac };
        let details = format!("network {name}: {why}");
        return Err(CniError::new(Code::InvalidConfig, "no address for the pod", details));
    }
    let named = |ipv4: bool| call.ips.iter().any(|addr| addr.is_ipv4() == ipv4);
    let rest: Vec<bool> = families.iter().copied().filter(|ipv4| !named(*ipv4)).collect();
    let ready = || known(&|pool, now| rest.iter().all(|ipv4| pool.is_ready(*ipv4, now)));
    if ready().is_none() && agent.strangers.ring() {
        wait_for(agent, HASTE, ready);
    }
    Ok(true)
}

/// The first of these addresses that a stranger answers for. Nobody waits for them by name, so the
/// wait is that of a pod that comes in haste; they go on being asked for.
pub(super) fn anothers(agent: &Agent, name: &NetworkName, addrs: &[IpAddr]) -> Option<IpAddr> {
    if addrs.is_empty() {
        return None;
    }
    {
        let mut ledger = agent.ledger();
        let (pool, now) = ledger.timed_pool(name)?;
        addrs.iter().for_each(|addr| pool.want_anew(*addr, now));
    }
    if !agent.strangers.ring() {
        return None;
    }
    let found = wait_for(agent, HASTE, || {
        let mut ledger = agent.ledger();
        let (pool, now) = ledger.timed_pool(name)?;
        let taken = pool.conflicts().map(|(addr, _)| addr).find(|addr| addrs.contains(addr));
        (taken.is_some() || addrs.iter().all(|addr| pool.known(*addr, now))).then_some(taken)
    });
    found.flatten()
}

impl Agent {
    /// Addresses of pods' networks that strangers have.
    pub fn conflicts(&self) -> Vec<String> {
        let ledger = self.ledger();
        let of = |network: &NetworkName, addr: IpAddr| {
            let mut pods = ledger.attachments();
            pods.find(|pod| pod.network == *network && pod.addrs.contains(&addr))
        };
        let all = ledger
            .pools()
            .flat_map(|(name, pool)| pool.conflicts().map(move |(addr, mac)| (name, addr, mac)));
        let say = |(name, addr, mac)| match of(name, addr) {
            Some(pod) => format!(
                "network {name}: conflict: pod {} has {addr}, and {mac} says that it is his: \
                 delete the pod, or take the address from that host",
                pod.label()
            ),
            None => format!(
                "network {name}: conflict: {addr} is at {mac}: no pod is given it; have `exclude` \
                 name it, if its owner is to keep it"
            ),
        };
        all.map(say).collect()
    }

    /// How many addresses lie ready, by network that is shared with strangers.
    pub fn ready(&self) -> Vec<(NetworkName, usize)> {
        let ledger = self.ledger();
        let now = ledger.now();
        let shared = ledger.pools().filter(|(_, pool)| pool.is_shared());
        shared.map(|(name, pool)| (name.clone(), pool.ready(now))).collect()
    }
}
