//! The CNI verbs. ADD writes the ledger first and answers last; DEL answers as soon as the pod can
//! no longer be reached, and the link is freed behind (`reap.rs`).

use std::{net::IpAddr, sync::atomic::Ordering};

use serde_json::{Map, Value};
use weft_core::{
    attach::{Attach, Ground, access::birth as access_pair},
    attachment::{Attachment, AttachmentId, Phase},
    cni::{AddResult, Call, CniError, Code, Interface, Ip, RouteOut, Verb},
    join::underlay::Underlay,
    name::{IfName, Mac, NetworkName},
    network::{Network, SCHEMA},
    plan::{Change, plan},
    state::Link,
};
use weft_linux::{HostLink, Kernel, Netns};

use super::{
    Agent, NetworkHere, POISONED, Serving, access, children, dhcp, fault,
    lease::{Lease, Turn, lease, network, not_served, serving, wait},
    links::{bring_up, complete, detach, inside},
    ports,
    serve::Caller,
    switch,
    wake::Reasons,
};

/// Carries out a call. Returns what goes to standard output.
pub(super) fn answer(
    agent: &Agent,
    call: &Call,
    netns: Option<Netns>,
    caller: &Caller<'_>,
) -> Result<Option<Value>, CniError> {
    let _turn = call.id.as_ref().map(|id| Turn::take(agent, id)).transpose()?;
    awaited(caller)?;
    let done = match call.verb {
        Verb::Add => {
            add(agent, call, netns, caller).map(|result| Some(result.render(call.version)))
        }
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

fn add(
    agent: &Agent,
    call: &Call,
    netns: Option<Netns>,
    caller: &Caller<'_>,
) -> Result<AddResult, CniError> {
    let id = call.id.clone().ok_or_else(no_container)?;
    let netns = netns.ok_or_else(|| no_namespace(call))?;
    let (there, cookie) = Kernel::enter(&netns).map_err(|error| not_entered(call, &error))?;
    if Some(cookie) == agent.cookie {
        return Err(CniError::new(
            Code::InvalidEnvironment,
            "CNI_NETNS is the host's own namespace",
            format!("{}: a pod needs one of its own", call.netns),
        ));
    }
    if let Some(known) = settle(agent, &id, cookie)? {
        return repeat(agent, call, &known, &there);
    }
    let (name, serving) = network(agent, call)?;
    let parent = match serving.networks.get(&name) {
        Some(here) => {
            ports::can_be_mapped(call, &here.network, &name)?;
            can_be_limited(call, &here.network)?;
            let attach = &here.network.attach;
            let nic = children::parent(agent, attach, &name)?;
            nic.map(|nic| child_of(agent, call, attach, &netns, &nic)).transpose()?
        }
        None => None,
    };
    ports::await_free(agent, call)?;
    let addrs = lease(agent, call, &name, &serving)?;
    // From here on the loop keeps away, until the link is whole.
    let mut gate = Some(agent.gate.read().expect(POISONED));
    let serving = agent.serving();
    let mut lease = Lease { agent, network: &name, addrs: Some(addrs) };
    let here = serving.networks.get(&name).ok_or_else(|| not_served(&name, &serving))?;
    let first = !agent.ledger().has_pods(&name);
    let attachment = open(agent, call, &id, &serving, (&name, here), (cookie, parent), &mut lease)?;
    fault::point("add.after-open");
    let born = Birth { agent, id: &id, done: false };
    let served = here.served(&name);
    let ground = served.ground(&agent.node, &serving.host);
    let link = bring_up(agent, &attachment, &ground, (&netns, &there))?;
    let mut made = (attachment, link);
    if here.network.by_dhcp() {
        let of = (&made.0, &here.network);
        let leased = dhcp::obtain(agent, &mut gate, of, (call, caller), &there)?;
        let link = complete(agent, &leased, &there)?;
        made = (leased, link);
    }
    ports::open(agent, &made.0, &ground)?;
    // From here on a DEL finds it: it waits for its turn.
    awaited(caller)?;
    commit(agent, &id)?;
    agent.tell_addresses(&name);
    born.committed();
    if made.0.is_mapped() {
        // What passes between pods is tracked from now on.
        agent.wake.ring(Reasons::OTHER);
    }
    if first {
        // The others are told that there are pods here.
        agent.wake.ring(Reasons::OTHER);
    }
    Ok(result(&made.0, &ground, &made.1, call))
}

/// Whether what is asked for is in the node's hand.
fn can_be_limited(call: &Call, network: &Network) -> Result<(), CniError> {
    let receives = call.bandwidth.is_some_and(|asked| asked.ingress.is_some());
    if !receives || network.attach.kind().parent().is_none() {
        return Ok(());
    }
    Err(CniError::new(
        Code::UnsupportedField,
        "what the pod receives can't be limited",
        format!(
            "a link of kind {} is in the pod alone, the node has no end of it; leave out \
             `ingressRate` (what the pod sends can be limited), or use a veth or a bridge",
            network.attach.kind().described()
        ),
    ))
}

/// The pod is attached: from here on everybody has to do with it.
fn commit(agent: &Agent, id: &AttachmentId) -> Result<(), CniError> {
    agent
        .ledger()
        .set_phase(id, Phase::Attached)
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    fault::point("add.after-commit");
    agent.leases.keep();
    agent.tell_residents();
    Ok(())
}

/// What is done for a caller that is gone would never be undone: its DEL may have been served
/// already.
pub(super) fn awaited(caller: &Caller<'_>) -> Result<(), CniError> {
    if caller.waits() {
        return Ok(());
    }
    Err(CniError::new(
        Code::TryAgainLater,
        "the call was given up",
        "the plugin ended before the answer; nothing of the call is left",
    ))
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
    there: &Kernel,
) -> Result<AddResult, CniError> {
    let serving = serving(agent, &known.network)?;
    let here =
        serving.networks.get(&known.network).ok_or_else(|| not_served(&known.network, &serving))?;
    if let Some(why) = dhcp::lost(known) {
        return Err(CniError::new(Code::TryAgainLater, "the pod has no address", why));
    }
    let served = here.served(&known.network);
    let ground = served.ground(&agent.node, &serving.host);
    inside(known, &ground)
        .map_err(|why| CniError::new(Code::Refused, "set the pod's link up again", why))?;
    let inside = there.observe_pod(&known.links());
    let inside =
        inside.map_err(|error| CniError::new(Code::Io, "look into the pod", error.to_string()))?;
    let link = inside.link(&known.id.ifname).cloned();
    let link = link.unwrap_or_else(|| known.attach.kind().birth(known, &ground).pod().clone());
    Ok(result(known, &ground, &link, call))
}

fn open(
    agent: &Agent,
    call: &Call,
    id: &AttachmentId,
    serving: &Serving,
    (name, here): (&NetworkName, &NetworkHere),
    (cookie, child): (u64, Option<Child>),
    lease: &mut Lease<'_>,
) -> Result<Attachment, CniError> {
    let addrs = lease.addrs.clone().unwrap_or_default();
    let mut ledger = agent.ledger();
    ports::free(&call.ports, &ledger)?;
    let others = ledger.attachments().filter(|other| other.cookie == cookie && other.id != *id);
    let gives = access::wanted(&here.network, serving, others);
    let attachment = Attachment {
        schema: SCHEMA,
        id: id.clone(),
        phase: Phase::Opened,
        network: name.clone(),
        attach: here.network.attach.clone(),
        runtime: call.runtime.clone(),
        netns: call.netns.clone(),
        cookie,
        host_end: child
            .is_none()
            .then(|| IfName::host_end(&id.cni, &id.container, id.ifname.as_str())),
        access: gives.then(|| access_end(id)),
        nsid: child.as_ref().map(|child| child.nsid),
        mac: call
            .mac
            .or(child.and_then(|child| child.mac))
            .unwrap_or_else(|| mac_of(id, name, here, &addrs)),
        addrs,
        lease: None,
        default_route: leads_out(&here.network)
            && !ledger.attachments().any(|other| {
                other.cookie == cookie && other.default_route && other.phase != Phase::Doomed
            }),
        ports: call.ports.clone(),
        bandwidth: call.bandwidth,
        pod: call.pod.clone(),
        extra: Map::new(),
    };
    ledger
        .record(attachment.clone())
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    lease.addrs = None;
    Ok(attachment)
}

/// On a segment over all nodes it follows from the address: whoever has the address next has the
/// MAC too, and what neighbours know stays true.
fn mac_of(id: &AttachmentId, name: &NetworkName, here: &NetworkHere, addrs: &[IpAddr]) -> Mac {
    match addrs.first().filter(|_| here.network.segment().is_wide()) {
        Some(addr) => Mac::derived(&["pod", name.as_str(), &addr.to_string()]),
        None => Mac::derived(&["pod", &id.cni, &id.container, id.ifname.as_str()]),
    }
}

fn access_end(id: &AttachmentId) -> IfName {
    IfName::access_end(&id.cni, &id.container, id.ifname.as_str())
}

/// What is asked of the kernel before a link is made that will be in the pod's namespace alone.
struct Child {
    nsid: u32,
    /// The one that it must have.
    mac: Option<Mac>,
}

fn child_of(
    agent: &Agent,
    call: &Call,
    attach: &Attach,
    netns: &Netns,
    nic: &HostLink,
) -> Result<Child, CniError> {
    let mac = attach.kind().has_nics_mac().then_some(nic.mac);
    if let (Some(mac), Some(asked)) = (mac, call.mac)
        && mac != asked
    {
        return Err(CniError::new(
            Code::UnsupportedField,
            "the pod can't have the MAC address asked for",
            format!("{asked}: {} has its NIC's, {mac}", attach.kind().described()),
        ));
    }
    let nsid = agent.kernel.number(netns);
    let nsid = nsid.map_err(|error| {
        CniError::new(Code::Io, "number the pod's namespace", error.to_string())
    })?;
    Ok(Child { nsid, mac })
}

/// True if packets for everywhere may leave by a link of the network.
fn leads_out(network: &Network) -> bool {
    // Whether a DHCP server names a router is yet to be heard.
    let router = |shared: &Underlay| network.by_dhcp() || !shared.gateway.is_empty();
    network.join.shared().map_or(network.host_access, router)
}

fn result(pod: &Attachment, ground: &Ground<'_>, link: &Link, call: &Call) -> AddResult {
    let kind = pod.attach.kind();
    let birth = kind.birth(pod, ground);
    let interface = |link: &Link, sandbox: Option<String>| Interface {
        name: link.dev.to_string(),
        mac: link.mac.to_string(),
        mtu: Some(link.mtu.get().into()),
        sandbox,
        more: Map::new(),
    };
    let pair = access_pair(pod, ground).map(|birth| {
        let host = birth.host().map(|host| interface(host, None));
        host.into_iter().chain([interface(birth.pod(), Some(pod.netns.clone()))])
    });
    let ips = pod.addrs.iter().map(|addr| Ip {
        address: pod.attach.pod_addr(pod, *addr, ground),
        gateway: pod.attach.next_hop(pod, *addr, ground).map(|hop| hop.ip),
        interface: Some(usize::from(birth.host().is_some())),
        more: Map::new(),
    });
    let routes = pod.addrs.iter().flat_map(|addr| {
        let mtu = Some(ground.send.get().into());
        let out = move |(dst, gw)| RouteOut { dst, gw, mtu, more: Map::new() };
        pod.attach.routes(pod, *addr, ground).into_iter().map(out)
    });
    let ours = AddResult {
        interfaces: birth
            .host()
            .map(|host| interface(host, None))
            .into_iter()
            .chain([interface(link, Some(pod.netns.clone()))])
            .chain(pair.into_iter().flatten())
            .collect(),
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

fn check(agent: &Agent, call: &Call, netns: Option<Netns>) -> Result<(), CniError> {
    let id = call.id.clone().ok_or_else(no_container)?;
    let netns = netns.ok_or_else(|| no_namespace(call))?;
    let not = |what: &str, details: String| CniError::new(Code::NotAsPromised, what, details);
    let known = agent.ledger().get(&id).cloned().filter(|pod| pod.phase == Phase::Attached);
    let known = known.ok_or_else(|| {
        CniError::new(Code::UnknownContainer, "there is no such attachment", id.to_string())
    })?;
    let serving = serving(agent, &known.network)?;
    let here =
        serving.networks.get(&known.network).ok_or_else(|| not_served(&known.network, &serving))?;
    let served = here.served(&known.network);
    let ground = served.ground(&agent.node, &serving.host);
    if let Some(why) = dhcp::lost(&known) {
        return Err(not("the pod has no address", why));
    }
    if let Some(prev) = &call.prev {
        let had = |addr: &IpAddr| prev.ips.iter().any(|ip| ip.address.addr() == *addr);
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
    let there = Kernel::of(&netns).and_then(|kernel| kernel.observe_pod(&known.links()));
    let there = there.map_err(|error| not("look into the pod", error.to_string()))?;
    let inside = plan(&known.attach.inside(&known, &ground), &there);
    let node = agent.kernel.observe_node(&[]);
    let node = node.map_err(|error| not("look at the node", error.to_string()))?.ours;
    let outside = known.attach.outside(&known, &ground);
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
    if !here.has_blocks() {
        return Err(unable("this node has no block yet".into()));
    }
    let parent = here.network.attach.kind().parent();
    if let (Some(parent), Some(name)) = (parent, name)
        && let Some(why) = children::lacking(agent, name, parent)
            .or_else(|| switch::refuses(agent, here.network.attach.kind()))
    {
        return Err(unable(why));
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

fn not_entered(call: &Call, error: &weft_linux::Error) -> CniError {
    let path = &call.netns;
    match error {
        // What setns(2) says of a descriptor of something else.
        weft_linux::Error::Open(why) if why.raw_os_error() == Some(nix::libc::EINVAL) => {
            CniError::new(
                Code::InvalidEnvironment,
                "CNI_NETNS is no network namespace",
                format!(
                    "{path}: the runtime must pass the pod's, as /run/netns/NAME or /proc/PID/ns/net"
                ),
            )
        }
        _ => CniError::new(
            Code::Io,
            "reach into the namespace",
            format!("CNI_NETNS {path}: {error}"),
        ),
    }
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
