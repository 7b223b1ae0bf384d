//! ADD's part: the pod's link is up without an address, and its network is asked for one.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::RwLockReadGuard,
    time::Duration,
};

use ipnet::IpNet;
use weft_core::{
    attachment::{Attachment, Phase},
    cni::{Call, CniError, Code},
    dhcp::{Exchange, Lease, News, Purpose, Standing, Step, Terms},
    name::Mac,
    network::Network,
};
use weft_linux::{DhcpSocket, Kernel, random, since_boot};

use super::{
    super::{Agent, POISONED, fault, judged, pods::awaited, serve::Caller},
    EVERYBODY, client, conflict,
};

/// How soon it is noticed that nobody waits for the answer any more.
const GLANCE: Duration = Duration::from_millis(100);

/// One of the pods that wait for an address. The loop leaves them alone.
struct Asking<'a> {
    agent: &'a Agent,
    pod: &'a Attachment,
}
impl<'a> Asking<'a> {
    fn begin(agent: &'a Agent, pod: &'a Attachment) -> Self {
        agent.leases.asking.lock().expect(POISONED).insert(pod.id.clone());
        // What was said of an earlier pod of the name is over.
        agent.leases.released.lock().expect(POISONED).remove(&pod.id);
        Self { agent, pod }
    }
}
impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.agent.leases.asking.lock().expect(POISONED).remove(&self.pod.id);
    }
}

/// Has the pod leased an address. That takes as long as the network does: meanwhile the gate is open
/// for the loop, and it is held again whatever comes of it.
pub(in crate::agent) fn obtain<'a>(
    agent: &'a Agent,
    gate: &mut Option<RwLockReadGuard<'a, ()>>,
    (pod, network): (&Attachment, &Network),
    (call, caller): (&Call, &Caller<'_>),
    there: &Kernel,
) -> Result<Attachment, CniError> {
    let _asking = Asking::begin(agent, pod);
    *gate = None;
    let leased = lease(agent, (pod, network), (call, caller), there);
    *gate = Some(agent.gate.read().expect(POISONED));
    leased
}

fn lease(
    agent: &Agent,
    (pod, network): (&Attachment, &Network),
    (call, caller): (&Call, &Caller<'_>),
    there: &Kernel,
) -> Result<Attachment, CniError> {
    let dev = &pod.id.ifname;
    let failed =
        |error: std::io::Error| unserved(pod, &format!("ask its DHCP server by {dev}: {error}"));
    let want = wanted(call)?;
    let Some(IpNet::V4(range)) = network.ranges.iter().find(|range| range.addr().is_ipv4()) else {
        return Err(unserved(pod, "it has no IPv4 range"));
    };
    let socket = there.dhcp_socket(dev).map_err(failed)?;
    let socket = Closing { agent, socket: Some(socket) };
    let xid = random().map_err(failed)?;
    let mut exchange = Exchange::new(client(pod), *range, Purpose::Obtain(want), xid, since_boot());
    let mut pod = pod.clone();
    loop {
        awaited(caller)?;
        let now = since_boot();
        let until = match exchange.step(now, random().map_err(failed)?) {
            Step::Send(packet, _) => {
                socket.open().send(&packet, EVERYBODY).map_err(failed)?;
                continue;
            }
            Step::Over(why) => return Err(unserved(&pod, &unanswered(&pod, &why))),
            Step::Wait(until) => until,
        };
        let longest = until.saturating_sub(now).min(GLANCE);
        DhcpSocket::wait([socket.open()], longest).map_err(failed)?;
        let Some((packet, via)) = socket.open().receive().map_err(failed)? else { continue };
        let Some(mut news) = exchange.hear(&packet, since_boot()) else { continue };
        // Who is known to have it says more than a probe.
        if let News::Leased(terms, since) = news
            && clash(agent, &leased(&pod, terms, since, via)).is_none()
            && let Some(who) = conflict::owner(agent, &pod, there, terms.addr).map_err(failed)?
        {
            let declined = exchange.decline(terms, who, since_boot());
            socket.open().send(&declined, EVERYBODY).map_err(failed)?;
            news = News::Withdrawn;
        }
        take(agent, &mut pod, news, via)?;
        judged::inside(agent, &pod, there).map_err(|why| unserved(&pod, &why))?;
        if !pod.addrs.is_empty() {
            return Ok(pod);
        }
    }
}

/// Writes down what the server said. The pod has an address then, if that was the last of it.
fn take(agent: &Agent, pod: &mut Attachment, news: News, via: Mac) -> Result<(), CniError> {
    let mut point = None;
    match news {
        // Known before it is asked for: it is given back, whatever becomes of us.
        News::Offered(terms) => {
            let since = since_boot().as_secs();
            pod.lease = Some(Lease { terms, since, via, standing: Standing::Offered });
            point = Some("add.after-offer");
        }
        News::Leased(terms, since) => {
            fault::point("add.after-ack");
            *pod = leased(pod, terms, since, via);
            point = Some("add.after-lease");
        }
        News::Withdrawn | News::Refused(_) => pod.lease = None,
    }
    let kept = not_for_pods(agent, pod);
    // Asked and written under one lock: of two that were given the same, one has it.
    let mut ledger = agent.ledger();
    let clash = anothers(ledger.attachments(), pod).or(kept);
    if clash.is_some() {
        // It is not ours to give back.
        pod.lease = None;
    }
    ledger
        .record(pod.clone())
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    drop(ledger);
    point.into_iter().for_each(fault::point);
    match clash {
        Some(why) => Err(unserved(pod, &why)),
        None => Ok(()),
    }
}

fn leased(pod: &Attachment, terms: Terms, since: u64, via: Mac) -> Attachment {
    Attachment {
        lease: Some(Lease { terms, since, via, standing: Standing::Held }),
        addrs: vec![terms.addr.into()],
        default_route: pod.default_route && terms.router.is_some(),
        ..pod.clone()
    }
}

/// Who else has what the pod was given, as far as the agent knows.
fn clash(agent: &Agent, pod: &Attachment) -> Option<String> {
    not_for_pods(agent, pod).or_else(|| anothers(agent.ledger().attachments(), pod))
}

fn unserved(pod: &Attachment, why: &str) -> CniError {
    let details = format!("network {}: {why}", pod.network);
    CniError::new(Code::TryAgainLater, "no address for the pod", details)
}

fn unanswered(pod: &Attachment, why: &str) -> String {
    let parent = pod.attach.kind().parent();
    let on = parent.map_or_else(String::new, |parent| format!(" on the network of {parent}"));
    format!(
        "{why}{on}; look with `tcpdump -eni {} port 67 or port 68`, and whether the switch lets {} \
         through",
        parent.map_or("any".into(), ToString::to_string),
        pod.mac
    )
}

/// The address that the caller asks for by name.
fn wanted(call: &Call) -> Result<Option<Ipv4Addr>, CniError> {
    let mut wanted = None;
    for addr in &call.ips {
        match (addr, wanted) {
            (IpAddr::V4(addr), None) => wanted = Some(*addr),
            _ => {
                return Err(CniError::new(
                    Code::InvalidConfig,
                    "no address for the pod",
                    format!("{addr} is asked for: a DHCP server gives one IPv4 address a pod"),
                ));
            }
        }
    }
    Ok(wanted)
}

/// An address that another pod has as well is none: such a server goes by the MAC address, which pods
/// may share. That two are offered the same is nothing odd: the later to ask for it is refused.
fn anothers<'a>(
    mut pods: impl Iterator<Item = &'a Attachment>,
    pod: &Attachment,
) -> Option<String> {
    let held = |pod: &'a Attachment| {
        let lease = pod.lease.as_ref().filter(|lease| lease.standing == Standing::Held)?;
        (pod.phase != Phase::Doomed).then_some(lease.terms.addr)
    };
    let ours = pod.lease.as_ref().filter(|lease| lease.standing == Standing::Held)?.terms;
    let other = pods.find(|other| {
        other.id != pod.id && other.network == pod.network && held(other) == Some(ours.addr)
    })?;
    Some(format!(
        "server {} gives {}, which pod {} has: it must tell clients apart by their identifier \
         (RFC 4361), not by their MAC address",
        ours.server,
        ours.addr,
        other.label()
    ))
}

/// A node's own address is none either: a server that goes by the MAC address gives it to every pod
/// that has its NIC's.
fn not_for_pods(agent: &Agent, pod: &Attachment) -> Option<String> {
    let terms = pod.lease.as_ref().filter(|lease| lease.standing == Standing::Held)?.terms;
    let serving = agent.serving();
    serving.networks.get(&pod.network)?.reserve.keeps(terms.addr.into())?;
    Some(format!(
        "server {} gives {}, which is a node's own or no host's: it must tell clients apart by their \
         identifier (RFC 4361), not by their MAC address",
        terms.server, terms.addr
    ))
}

/// A socket that another closes: that waits for the kernel.
struct Closing<'a> {
    agent: &'a Agent,
    socket: Option<DhcpSocket>,
}
impl Closing<'_> {
    fn open(&self) -> &DhcpSocket {
        self.socket.as_ref().expect("taken out only as this ends")
    }
}
impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            self.agent.leases.close(socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_that_another_pod_has_is_none() {
        let pod = |container: &str, network: &str, phase: &str, standing: &str| -> Attachment {
            serde_json::from_value(json!({
                "schema": 1, "cni": "net", "container": container, "ifname": "eth0",
                "phase": phase, "network": network, "attach": {"kind": "macvlan", "parent": "eth1"},
                "runtime": "test", "netns": "/run/netns/x", "cookie": 1, "mac": "02:00:00:00:00:01",
                "addrs": [], "default_route": true, "lease": {
                    "addr": "10.77.0.9", "prefix_len": 24, "server": "10.77.0.2", "time": 9, "t1": 4,
                    "t2": 7, "since": 1, "via": "02:00:00:00:00:02", "standing": standing,
                },
            }))
            .unwrap()
        };
        let taken = |ours: &Attachment, other: &Attachment| {
            anothers(std::iter::once(other), ours).is_some()
        };
        let (ours, asks) =
            (pod("c1", "lan", "opened", "held"), pod("c1", "lan", "opened", "offered"));
        for phase in ["opened", "attached"] {
            assert!(taken(&ours, &pod("c2", "lan", phase, "held")), "{phase}");
            assert!(!taken(&asks, &pod("c2", "lan", phase, "held")), "it may be refused yet");
            assert!(!taken(&ours, &pod("c2", "lan", phase, "offered")), "{phase}");
        }
        assert!(!taken(&ours, &pod("c1", "lan", "opened", "held")), "its own");
        assert!(!taken(&ours, &pod("c2", "blue", "attached", "held")), "another network's");
        assert!(!taken(&ours, &pod("c2", "lan", "doomed", "held")), "given back");
    }
}
