//! One thread that keeps all leases: renews them, says so where it can't, and takes an address from a
//! pod that may not use it any more. Where it stands is in the pods' records, so after a restart it
//! goes on as if nothing had been.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::Duration,
};

use ipnet::Ipv4Net;
use weft_core::{
    attachment::{Attachment, AttachmentId, Phase},
    dhcp::{Ask, Due, Exchange, Lease, News, Purpose, Standing, Step, Terms},
    name::Mac,
};
use weft_linux::{DhcpSocket, Kernel, random, since_boot};

use super::{
    super::{
        Agent, POISONED,
        announce::announce,
        links::{inside, namespace},
        wake::Reasons,
    },
    EVERYBODY, Spent, Told, client,
};

/// Leases that are renewed at once; the others wait a moment.
const AT_ONCE: usize = 64;
/// Looked at anew even if nothing is due: a machine may have slept.
const LOOK_ANEW: Duration = Duration::from_secs(30);
/// Packets of one link that are looked at before others have their turn.
const PACKETS_MAX: usize = 64;
/// Between renewals, however short a lease is.
const PAUSE: Duration = Duration::from_secs(1);
/// How long what the thread is told may lie while answers are waited for.
const GLANCE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Keeper {
    held: BTreeMap<AttachmentId, Held>,
    /// Each waits for an RCU grace period as it ends; together they wait for one.
    spent: Vec<Spent>,
}

/// What is being done about a lease.
#[derive(Default)]
struct Held {
    exchange: Option<(Exchange, DhcpSocket)>,
    /// Nothing is tried before, after what was tried came to nothing.
    not_before: Duration,
    /// When it was last tried.
    begun: Duration,
    /// This process has tried to keep it.
    tried: bool,
}

pub(in crate::agent) fn spawn(
    agent: &Arc<Agent>,
    told: mpsc::Receiver<Told>,
) -> anyhow::Result<()> {
    let agent = agent.clone();
    let run = move || Keeper::default().run(&agent, &told);
    std::thread::Builder::new().name("dhcp".into()).spawn(run)?;
    Ok(())
}

impl Keeper {
    fn run(&mut self, agent: &Agent, told: &mpsc::Receiver<Told>) {
        loop {
            let next = self.round(agent);
            let spent = std::mem::take(&mut self.spent);
            std::thread::scope(|scope| {
                spent.into_iter().for_each(|socket| drop(scope.spawn(move || drop(socket))));
            });
            let longest = next.saturating_sub(since_boot()).min(LOOK_ANEW);
            let sockets = self.held.values().filter_map(|held| held.exchange.as_ref());
            let sockets: Vec<&DhcpSocket> = sockets.map(|(_, socket)| socket).collect();
            let mut news = if sockets.is_empty() {
                told.recv_timeout(longest).ok()
            } else {
                if let Err(error) = DhcpSocket::wait(sockets, longest.min(GLANCE)) {
                    tracing::warn!(%error, "could not wait for DHCP servers");
                    std::thread::sleep(GLANCE);
                }
                told.try_recv().ok()
            };
            while let Some(one) = news {
                if let Told::Spent(socket) = one {
                    self.spent.push(socket);
                }
                news = told.try_recv().ok();
            }
        }
    }

    /// Does what is due, and says when to come again.
    fn round(&mut self, agent: &Agent) -> Duration {
        let leases = leases(agent);
        self.forget(agent, &leases);
        let mut busy = self.held.values().filter(|held| held.exchange.is_some()).count();
        let mut next = since_boot() + LOOK_ANEW;
        for (id, lease) in leases {
            let held = self.held.entry(id.clone()).or_default();
            if held.exchange.is_none() {
                let begun = match held.due(agent, &id, &lease) {
                    Ok(_) if busy >= AT_ONCE => Err(since_boot() + GLANCE),
                    Ok(purpose) => held.begin(agent, &id, &lease, purpose),
                    Err(later) => Err(later),
                };
                if let Err(later) = begun {
                    next = next.min(later);
                    continue;
                }
                busy += 1;
            }
            next = next.min(held.go_on(agent, &id, &lease, &mut self.spent));
        }
        next
    }

    /// What was to be done for pods that are gone.
    fn forget(&mut self, agent: &Agent, leases: &BTreeMap<AttachmentId, Lease>) {
        let spent = &mut self.spent;
        self.held.retain(|id, held| {
            let stays = leases.contains_key(id);
            if !stays {
                spent.extend(held.exchange.take().map(|(_, socket)| Spent::from(Box::new(socket))));
            }
            stays
        });
        agent.leases.hindered.lock().expect(POISONED).retain(|id, _| leases.contains_key(id));
        let ledger = agent.ledger();
        let goes = |id: &AttachmentId| ledger.get(id).is_some();
        agent.leases.released.lock().expect(POISONED).retain(goes);
    }
}

/// Of pods that stay.
fn leases(agent: &Agent) -> BTreeMap<AttachmentId, Lease> {
    let ledger = agent.ledger();
    let attached = ledger.attachments().filter(|pod| pod.phase == Phase::Attached);
    attached.filter_map(|pod| Some((pod.id.clone(), pod.lease.clone()?))).collect()
}

impl Held {
    /// What is to be tried now, or when there will be something.
    fn due(
        &mut self,
        agent: &Agent,
        id: &AttachmentId,
        lease: &Lease,
    ) -> Result<Purpose, Duration> {
        let now = since_boot();
        if now < self.not_before {
            return Err(self.not_before);
        }
        match lease.due(now) {
            Due::Not(at) => Err(at),
            Due::Now(purpose) => Ok(purpose),
            // While no agent ran: the server may still have it for us.
            Due::Expired if !self.tried => {
                Ok(Purpose::Keep(Ask::Reboot { addr: lease.terms.addr }))
            }
            Due::Expired => {
                let why = hindrance(agent, id).unwrap_or_else(|| "nobody renewed it".into());
                self.lose(agent, id, &format!("its lease ran out: {why}"));
                Err(now)
            }
        }
    }

    fn begin(
        &mut self,
        agent: &Agent,
        id: &AttachmentId,
        lease: &Lease,
        purpose: Purpose,
    ) -> Result<(), Duration> {
        (self.tried, self.begun) = (true, since_boot());
        let Terms { addr, prefix_len, .. } = lease.terms;
        let opened = open(agent, id).and_then(|(pod, socket)| {
            let net = Ipv4Net::new(addr, prefix_len).map_err(|error| error.to_string())?.trunc();
            let xid = random().map_err(|error| error.to_string())?;
            Ok((Exchange::new(client(&pod), net, purpose.clone(), xid, since_boot()), socket))
        });
        match opened {
            Ok(exchange) => {
                self.exchange = Some(exchange);
                Ok(())
            }
            Err(why) => Err(self.failed(agent, id, lease, (&purpose, &why))),
        }
    }

    /// Takes what came in and sends what is due. Returns when to come again.
    fn go_on(
        &mut self,
        agent: &Agent,
        id: &AttachmentId,
        lease: &Lease,
        spent: &mut Vec<Spent>,
    ) -> Duration {
        let Some((mut exchange, socket)) = self.exchange.take() else { return since_boot() };
        for (packet, via) in std::iter::from_fn(|| socket.receive().ok()?).take(PACKETS_MAX) {
            match exchange.hear(&packet, since_boot()) {
                Some(News::Leased(terms, since)) => {
                    spent.push(Box::new(socket));
                    self.leased(agent, id, Lease { terms, since, via, standing: Standing::Held });
                    return since_boot();
                }
                Some(News::Refused(why)) => {
                    spent.push(Box::new(socket));
                    self.lose(agent, id, &why);
                    return since_boot();
                }
                Some(News::Offered(_) | News::Withdrawn) | None => {}
            }
        }
        let over = match exchange.step(since_boot(), random().unwrap_or(0)) {
            Step::Send(packet, to) => {
                let to = if to.is_broadcast() { EVERYBODY } else { lease.via };
                say(agent, id, &socket, &packet, to).err()
            }
            Step::Wait(until) => {
                self.exchange = Some((exchange, socket));
                return until;
            }
            Step::Over(why) => Some(why),
        };
        if let Some(why) = over {
            spent.push(Box::new(socket));
            let purpose = exchange.purpose().clone();
            return self.failed(agent, id, lease, (&purpose, &why));
        }
        self.exchange = Some((exchange, socket));
        since_boot()
    }

    fn failed(
        &mut self,
        agent: &Agent,
        id: &AttachmentId,
        lease: &Lease,
        (purpose, why): (&Purpose, &str),
    ) -> Duration {
        if matches!(purpose, Purpose::Keep(Ask::Reboot { .. })) {
            self.lose(agent, id, &format!("its lease ran out while no agent ran: {why}"));
            return self.not_before;
        }
        tracing::warn!(%id, addr = %lease.terms.addr, why, "a lease is not renewed yet");
        agent.leases.hindered.lock().expect(POISONED).insert(id.clone(), why.to_owned());
        self.not_before = lease.again(self.begun);
        self.not_before
    }

    fn leased(&mut self, agent: &Agent, id: &AttachmentId, lease: Lease) {
        let terms = lease.terms;
        let Some(was) = stand(agent, id, lease) else { return };
        agent.leases.hindered.lock().expect(POISONED).remove(id);
        self.not_before = since_boot() + PAUSE;
        tracing::debug!(%id, %terms, time = terms.time, "leased again");
        let as_it_was = |old: &Lease| {
            !old.is_lost()
                && (old.terms.prefix_len, old.terms.router) == (terms.prefix_len, terms.router)
        };
        if !was.lease.as_ref().is_some_and(as_it_was) {
            tracing::info!(%id, %terms, "the pod's address is as it is leased now");
            put_right(agent, id);
        }
    }

    /// The pod may not use the address any more (RFC 2131, 4.4.5).
    fn lose(&mut self, agent: &Agent, id: &AttachmentId, why: &str) {
        let lease = agent.ledger().get(id).and_then(|pod| pod.lease.clone());
        let Some(lease) = lease else { return };
        tracing::warn!(%id, addr = %lease.terms.addr, why, "a pod has lost its address");
        let standing = Standing::Lost(why.to_owned());
        if stand(agent, id, Lease { standing, ..lease }).is_some() {
            put_right(agent, id);
        }
        self.not_before = Duration::ZERO;
    }
}

fn hindrance(agent: &Agent, id: &AttachmentId) -> Option<String> {
    agent.leases.hindered.lock().expect(POISONED).get(id).cloned()
}

fn open(agent: &Agent, id: &AttachmentId) -> Result<(Attachment, DhcpSocket), String> {
    let pod = agent.ledger().get(id).cloned().ok_or("it is no more")?;
    let netns = namespace(&pod)?.ok_or("its namespace is gone")?;
    let there = Kernel::of(&netns).map_err(|error| error.to_string())?;
    let socket = there.dhcp_socket(&pod.id.ifname);
    let socket = socket.map_err(|error| format!("by {}: {error}", pod.id.ifname))?;
    Ok((pod, socket))
}

/// Sends for a pod that stays: one that goes has given the lease back, and must not have it again.
fn say(
    agent: &Agent,
    id: &AttachmentId,
    socket: &DhcpSocket,
    packet: &[u8],
    to: Mac,
) -> Result<(), String> {
    let ledger = agent.ledger();
    match ledger.get(id) {
        Some(pod) if pod.phase == Phase::Attached => {
            socket.send(packet, to).map_err(|error| format!("by {}: {error}", id.ifname))
        }
        _ => Err("it goes".into()),
    }
}

/// Writes down how the lease of a pod that stays stands now. Returns the record as it was.
fn stand(agent: &Agent, id: &AttachmentId, lease: Lease) -> Option<Attachment> {
    let mut ledger = agent.ledger();
    let was = ledger.get(id).filter(|pod| pod.phase == Phase::Attached)?.clone();
    ledger.stand(Attachment { lease: Some(lease), ..was.clone() });
    Some(was)
}

/// Brings the pod's inside to what its lease says. What fails is found again when pods are looked
/// into.
fn put_right(agent: &Agent, id: &AttachmentId) {
    // The node's way to the pod comes and goes with its address.
    agent.wake.ring(Reasons::KERNEL);
    let _gate = agent.gate.read().expect(POISONED);
    let serving = agent.serving();
    let Some(pod) = agent.ledger().get(id).filter(|pod| pod.phase == Phase::Attached).cloned()
    else {
        return;
    };
    let Some(here) = serving.networks.get(&pod.network) else { return };
    let served = here.served(&pod.network);
    if let Err(why) = inside(agent, &pod, &served.ground(&agent.node, &serving.host)) {
        tracing::warn!(%id, why, "could not bring the pod to its lease; the loop will");
        return;
    }
    if !pod.usable().is_empty()
        && let Ok(Some(netns)) = namespace(&pod)
        && let Ok(there) = Kernel::of(&netns)
    {
        announce(agent, &pod, &there);
    }
}
