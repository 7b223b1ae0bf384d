//! Ports of the node that lead to pods, as calls ask for them. What the node holds for them is
//! core's, and the loop's to heal.

use std::{borrow::Cow, collections::BTreeSet, path::Path};

use weft_core::{
    attach::Ground,
    attachment::{Attachment, AttachmentId, Phase},
    cni::{Call, CniError, Code},
    name::NetworkName,
    network::Network,
    plan::{Change, plan},
    policy::spec::Protocol,
    ports::{self, PortMapping},
    state::{Knob, Object, State},
};
use weft_linux::Refusal;

use super::{Agent, lease::wait, ledger::Ledger};

const TRACKS: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const TRACKS_SCTP: &str = "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established";
pub(super) const NO_SCTP: &str = "this node's kernel does not track SCTP (CONFIG_NF_CT_PROTO_SCTP)";

/// Whether ports of the node can lead to pods of this network.
pub(super) fn can_be_mapped(
    call: &Call,
    network: &Network,
    name: &NetworkName,
) -> Result<(), CniError> {
    let Some(first) = call.ports.first() else { return Ok(()) };
    let no = |why: String| {
        Err(CniError::new(Code::UnsupportedField, format!("port {first} can't be mapped"), why))
    };
    if !network.host_access {
        return no(format!(
            "pods of network {name} are not reached by nodes (`hostAccess: false`)"
        ));
    }
    let sctp = call.ports.iter().any(|port| port.protocol == Protocol::Sctp);
    if sctp && !tracks_sctp() {
        return no(NO_SCTP.into());
    }
    Ok(())
}

/// A kernel may be built without it, which then knows of SCTP the addresses alone.
pub(super) fn tracks_sctp() -> bool {
    !Path::new(TRACKS).exists() || Path::new(TRACKS_SCTP).exists()
}

/// A runtime that calls once for each network asks for the same ports each time: they lead to the pod's
/// address in the network that came first.
pub(super) fn not_twice<'a>(agent: &Agent, call: &'a Call, id: &AttachmentId) -> Cow<'a, Call> {
    let ledger = agent.ledger();
    let beside = |pod: &&Attachment| {
        pod.id.container == id.container && pod.id != *id && pod.phase != Phase::Doomed
    };
    let beside: Vec<&Attachment> = ledger.attachments().filter(beside).collect();
    let has = |port: &PortMapping| beside.iter().any(|pod| pod.ports.contains(port));
    if !call.ports.iter().any(has) {
        return Cow::Borrowed(call);
    }
    let mut call = call.clone();
    call.ports.retain(|port| !has(port));
    Cow::Owned(call)
}

/// Waits until a pod that goes has let go of what is asked for.
pub(super) fn await_free(agent: &Agent, call: &Call) -> Result<(), CniError> {
    if call.ports.is_empty() {
        return Ok(());
    }
    let held = || {
        let ledger = agent.ledger();
        let doomed = ledger.attachments().filter(|pod| pod.phase == Phase::Doomed);
        ports::taken(&call.ports, doomed).map(|(pod, port)| (pod.label(), port.clone()))
    };
    if wait(agent, || held().is_none().then_some(())).is_some() {
        return Ok(());
    }
    let (pod, port) = held().map_or_else(Default::default, |(pod, port)| (pod, port.to_string()));
    let why = format!("pod {pod} is still being freed");
    Err(CniError::new(Code::TryAgainLater, format!("port {port} of the node is taken"), why))
}

/// Whether nobody has what is asked for. To be asked with the ledger in hand that is then written.
pub(super) fn free(asked: &[PortMapping], ledger: &Ledger) -> Result<(), CniError> {
    let Some((pod, port)) = ports::taken(asked, ledger.attachments()) else { return Ok(()) };
    Err(CniError::new(
        Code::Refused,
        format!("port {port} of the node is taken"),
        format!("by pod {} ({})", pod.label(), pod.id),
    ))
}

/// From here on the ports lead to the pod.
pub(super) fn open(agent: &Agent, pod: &Attachment, ground: &Ground<'_>) -> Result<(), CniError> {
    if !pod.is_mapped() {
        return Ok(());
    }
    let refused = |why: String| CniError::new(Code::Refused, "map the pod's ports", why);
    let outside = pod.attach.outside(pod, ground).into_iter();
    let own = |object: &Object| {
        let localnet =
            matches!(object, Object::Sysctl { knob, .. } if matches!(knob, Knob::RouteLocalnet(_)));
        localnet || matches!(object, Object::Port { .. } | Object::Hidden { .. })
    };
    let held: State = outside.filter(own).collect();
    let refusals = agent.kernel.apply(&plan(&held, &State::default()));
    if let Some(refusal) = refusals.first() {
        return Err(refused(refusal.to_string()));
    }
    // Of a client that goes on asking the kernel remembers that nobody answered him.
    let udp = pod.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let udp: BTreeSet<u16> = udp.map(|port| port.host_port).collect();
    let forgotten = agent.kernel.forget_udp_to(&udp, &pod.addrs);
    forgotten.map(drop).map_err(|error| refused(format!("forget old UDP flows: {error}")))
}

/// The ports lead nowhere any more.
pub(super) fn close(agent: &Agent, pod: &Attachment) -> Vec<Refusal> {
    if pod.ports.is_empty() {
        return Vec::new();
    }
    let deaf = ports::deaf(pod, agent.ledger().attachments());
    // A bridge that is gone refuses, and carries nothing.
    deaf.into_iter().for_each(|object| drop(agent.kernel.apply(&[Change::Put(object)])));
    let changes: Vec<Change> = ports::keys(pod).into_iter().map(Change::Drop).collect();
    agent.kernel.apply(&changes)
}
