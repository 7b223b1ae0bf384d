//! A pod's further networks: which one ADD attaches it to beside the one that the runtime asked for,
//! and that they begin and end together. Each is an attachment of its own in the ledger; the first is
//! the last to be called attached, so whatever an ADD that died has left can be told by it.

use std::net::IpAddr;

use weft_core::{
    attach::Ground,
    attachment::{Attachment, AttachmentId, Phase},
    cni::{Call, CniError, Code},
    desired,
    selection::{BadSelection, Element, Further, interfaces},
    state::State,
};

use super::{
    Agent, POISONED, Serving,
    lease::{Turn, wait},
    links::detach,
};

/// The calls that one ADD comes to: its own first.
pub(super) fn asked(agent: &Agent, call: &Call, id: &AttachmentId) -> Result<Vec<Call>, CniError> {
    let mut further = configured(call, id)?;
    let mut first = call.clone();
    annotated(agent, id, &mut first, &mut further)?;
    if let Some(twice) = further.iter().enumerate().find_map(|(at, one)| {
        further[..at].iter().any(|other| other.ifname == one.ifname).then_some(&one.ifname)
    }) {
        let why = format!("{twice} is asked for by `networks` of the configuration and by the pod");
        return Err(bad(why));
    }
    Ok(calls(first, id, &further))
}

fn bad(why: String) -> CniError {
    CniError::new(Code::InvalidConfig, "the list of further networks is not right", why)
}

/// What the pod itself asks for, where Kubernetes knows of it.
#[cfg(feature = "kubernetes")]
fn annotated(
    agent: &Agent,
    id: &AttachmentId,
    first: &mut Call,
    further: &mut Vec<Further>,
) -> Result<(), CniError> {
    let (Some(cluster), Some(pod)) = (&agent.cluster, &first.pod) else { return Ok(()) };
    let (cluster, pod, id) = (cluster.clone(), pod.clone(), id.clone());
    let asked = agent.in_runtime(async move { cluster.networks(pod, id).await })?;
    if let Some((network, request)) = asked.first {
        first.network = Some(network);
        first.ips.extend(request.ips);
        first.mac = request.mac.or(first.mac);
        first.routers = request.default_route;
    }
    further.extend(asked.further);
    Ok(())
}

#[cfg(not(feature = "kubernetes"))]
#[allow(clippy::unnecessary_wraps)]
fn annotated(
    _: &Agent,
    _: &AttachmentId,
    _: &mut Call,
    _: &mut Vec<Further>,
) -> Result<(), CniError> {
    Ok(())
}

/// Tells a pod that asked for networks which it was given, or its user why it was not.
#[cfg(feature = "kubernetes")]
pub(super) fn tell(agent: &Agent, call: &Call, why: Option<&CniError>) {
    use weft_core::selection;

    use crate::kube::status::Status;
    let (Some(cluster), Some(pod), Some(id)) = (&agent.cluster, &call.pod, &call.id) else {
        return;
    };
    let Some((uid, _)) = cluster.asks(pod) else { return };
    if let Some(why) = why {
        return cluster.refused(pod, why);
    }
    let serving = agent.serving();
    let first = agent.ledger().get(id).cloned();
    let pods: Vec<Attachment> = first.into_iter().chain(of(agent, id)).collect();
    let said = pods.iter().filter_map(|pod| {
        let here = serving.networks.get(&pod.network)?;
        let served = here.served(&pod.network);
        let ground = served.ground(&agent.node, &serving.host);
        let hops = pod.addrs.iter().filter_map(|addr| pod.attach.next_hop(pod, *addr, &ground));
        Some((pod, hops.map(|hop| hop.ip).collect(), Some(ground.accept.get().into())))
    });
    let text = selection::status(said);
    let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
    cluster.statuses.tell(Status { namespace, name, uid, text });
}

/// What the configuration itself lists: networks of weft's.
fn configured(call: &Call, id: &AttachmentId) -> Result<Vec<Further>, CniError> {
    let names = interfaces(&id.ifname, &call.networks);
    let names = names.map_err(|BadSelection(why)| bad(format!("`networks`: {why}")))?;
    let resolved = |(element, ifname): (&Element, _)| {
        let network = element.name.parse().map_err(|why| bad(format!("`networks`: {why}")))?;
        let request = element.request.clone();
        Ok(Further { selected: element.name.clone(), network, ifname, request })
    };
    call.networks.iter().zip(names).map(resolved).collect()
}

fn calls(first: Call, id: &AttachmentId, further: &[Further]) -> Vec<Call> {
    let beside: Vec<Call> = further.iter().map(|further| first.beside(id, further)).collect();
    let mut calls: Vec<Call> = std::iter::once(first).chain(beside).collect();
    let led: Vec<bool> = calls.iter().flat_map(|call| &call.routers).map(IpAddr::is_ipv4).collect();
    calls.iter_mut().for_each(|call| call.led.clone_from(&led));
    calls
}

/// Sees that nothing has the further attachments' names, and keeps others from taking them.
pub(super) fn clear<'a>(agent: &'a Agent, calls: &'a [Call]) -> Result<Vec<Turn<'a>>, CniError> {
    let mut turns = Vec::new();
    for id in calls.iter().filter_map(|call| call.id.as_ref()) {
        turns.push(Turn::take(agent, id)?);
        let known = agent.ledger().get(id).cloned();
        let Some(known) = known else { continue };
        if known.further.is_none() && known.phase == Phase::Attached {
            return Err(CniError::new(
                Code::InvalidConfig,
                format!("the pod has an interface {} already", id.ifname),
                format!("in network {}: ask for another name", known.network),
            ));
        }
        ended(agent, id)?;
    }
    Ok(turns)
}

/// Takes an attachment apart and waits until its link is gone and its addresses are free.
pub(super) fn ended(agent: &Agent, id: &AttachmentId) -> Result<(), CniError> {
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
    })
}

/// The attachments that the ADD of `first` made beside it.
pub(super) fn of(agent: &Agent, first: &AttachmentId) -> Vec<Attachment> {
    let ledger = agent.ledger();
    let theirs = ledger.attachments().filter(|pod| pod.further.is_some() && pod.first() == *first);
    theirs.cloned().collect()
}

/// Takes apart what one ADD made. What one link refuses keeps nothing from the others.
pub(super) fn detach_all(agent: &Agent, first: &AttachmentId) -> Result<(), CniError> {
    let further = of(agent, first).into_iter().map(|pod| pod.id);
    let ends = further.chain([first.clone()]).map(|id| detach(agent, &id));
    ends.fold(Ok(()), Result::and)
}

/// Further attachments that are there without their first: of an ADD or a DEL that died.
pub(super) fn orphans(agent: &Agent) -> Vec<Attachment> {
    let ledger = agent.ledger();
    let attached =
        |id: &AttachmentId| ledger.get(id).is_some_and(|pod| pod.phase == Phase::Attached);
    let further = ledger.attachments().filter(|pod| pod.further.is_some());
    let orphans = further.filter(|pod| pod.phase == Phase::Attached && !attached(&pod.first()));
    orphans.cloned().collect()
}

/// What went wrong, and with which of the networks.
pub(super) fn named(call: &Call, error: CniError) -> CniError {
    let (Some(further), Some(id)) = (&call.further, &call.id) else { return error };
    let msg = format!("further network {} as {}: {}", further.selected, id.ifname, error.msg);
    CniError { msg, ..error }
}

/// The families in which the pod's default route is by this attachment: whether it is at all, and
/// whether in one alone.
pub(super) fn leads<'a>(
    call: &Call,
    leads_out: bool,
    mut others: impl Iterator<Item = &'a Attachment>,
) -> (bool, Option<bool>) {
    let taken = others.any(|other| other.default_route && other.phase != Phase::Doomed);
    let leads = |ipv4: bool| {
        let by_itself = || leads_out && !taken && !call.led.contains(&ipv4);
        let asked = call.routers.iter().any(|by| by.is_ipv4() == ipv4);
        asked || call.routers.is_empty() && by_itself()
    };
    match (leads(true), leads(false)) {
        (true, true) => (true, None),
        (false, false) => (false, None),
        (ipv4, _) => (true, Some(ipv4)),
    }
}

/// Routers that were asked for must be the network's own: no other is known to lead anywhere.
pub(super) fn routers(call: &Call, pod: &Attachment, ground: &Ground<'_>) -> Result<(), CniError> {
    let hops = pod.addrs.iter().filter_map(|addr| pod.attach.next_hop(pod, *addr, ground));
    let hops: Vec<_> = hops.map(|hop| hop.ip).collect();
    let Some(other) = call.routers.iter().find(|asked| !hops.contains(asked)) else {
        return Ok(());
    };
    let own: Vec<String> = hops.iter().map(ToString::to_string).collect();
    let own = if own.is_empty() { "no router".into() } else { own.join(" and ") };
    Err(CniError::new(
        Code::InvalidConfig,
        "the default route can't be as it is asked for",
        format!("`default-route` {other}: network {} has {own}", pod.network),
    ))
}

/// Attachments of one ADD that are whole, and taken apart again unless it was committed. While the gate
/// is open for another of them, the loop holds what they hold.
pub(super) struct Births<'a> {
    agent: &'a Agent,
    made: Vec<AttachmentId>,
    committed: bool,
}

impl<'a> Births<'a> {
    pub(super) fn none(agent: &'a Agent) -> Self {
        Self { agent, made: Vec::new(), committed: false }
    }

    /// It is in the ledger from here on.
    pub(super) fn opened(&mut self, id: &AttachmentId) {
        self.made.push(id.clone());
    }

    pub(super) fn whole(&self, id: &AttachmentId) {
        self.agent.whole.lock().expect(POISONED).insert(id.clone());
    }

    pub(super) fn committed(mut self) {
        self.committed = true;
    }
}

impl Drop for Births<'_> {
    fn drop(&mut self) {
        for id in self.made.iter().rev().filter(|_| !self.committed) {
            if let Err(error) = detach(self.agent, id) {
                tracing::warn!(%id, %error, "could not take a failed ADD back; the loop will");
            }
        }
        let mut whole = self.agent.whole.lock().expect(POISONED);
        whole.retain(|id| !self.made.contains(id));
    }
}

impl Agent {
    /// Attachments of an ADD that waits for another of its own: they are as good as attached.
    pub(super) fn as_attached(&self) -> Vec<Attachment> {
        let whole = self.whole.lock().expect(POISONED).clone();
        let ledger = self.ledger();
        let pods = whole.iter().filter_map(|id| ledger.get(id));
        pods.map(|pod| Attachment { phase: Phase::Attached, ..pod.clone() }).collect()
    }
}

/// What the node should hold. Attachments whose ADD waits for another of its own are held too.
pub(super) fn desired(agent: &Agent, serving: &Serving) -> State {
    let whole = agent.as_attached();
    let ledger = agent.ledger();
    let others = ledger.attachments().filter(|pod| whole.iter().all(|whole| whole.id != pod.id));
    desired::node(&agent.node, &serving.host, &serving.served(), others.chain(&whole))
}
