//! The CNI verbs. ADD writes the ledger first and answers last; DEL answers as soon as the pod can
//! no longer be reached, and the link is freed behind (`reap.rs`).

use std::{
    net::IpAddr,
    sync::{RwLockReadGuard, atomic::Ordering},
};

use serde_json::{Map, Value};
use weft_core::{
    attach::{Attach, Ground, access::birth as access_pair},
    attachment::{Attachment, AttachmentId, Phase},
    cni::{AddResult, Call, CniError, Code, Interface, Ip, RouteOut, Verb},
    join::underlay::Underlay,
    name::{IfName, Mac, NetworkName},
    network::{Network, SCHEMA},
    state::Link,
};
use weft_linux::{HostLink, Kernel, Netns};

use super::{
    Agent, NetworkHere, POISONED, Serving, able, access,
    check::check,
    children, dhcp, fault,
    further::{self, Births},
    judged,
    lease::{Lease, Turn, lease, network, not_served, serving},
    links::{bring_up, complete, detach, inside, seen},
    policy, ports,
    serve::Caller,
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
            let done = add(agent, call, netns, caller);
            #[cfg(feature = "kubernetes")]
            further::tell(agent, call, done.as_ref().err());
            done.map(|result| Some(result.render(call.version)))
        }
        Verb::Del => del(agent, call).map(|()| None),
        Verb::Check => check(agent, call, netns).map(|()| None),
        Verb::Gc => gc(agent, call).map(|()| None),
        Verb::Status => able::status(agent, call).map(|()| None),
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
    let call = &*ports::not_twice(agent, call, &id);
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
    seen(&call.netns, &netns)?;
    policy::known(agent, call.pod.as_ref())?;
    let calls = further::asked(agent, call, &id)?;
    let _turns = further::clear(agent, &calls[1..])?;
    let ready = |call| ready(agent, call, &netns).map_err(|error| further::named(call, error));
    let ready: Vec<Ready<'_>> = calls.iter().map(ready).collect::<Result<_, _>>()?;
    // From here on the loop keeps away, until the links are whole.
    let mut gate = Some(agent.gate.read().expect(POISONED));
    let mut births = Births::none(agent);
    let mut made = Vec::new();
    for ready in ready {
        let call = ready.call;
        let one = attach(agent, ready, (&netns, &there, cookie), caller, (&mut gate, &mut births));
        made.push(one.map_err(|error| further::named(call, error))?);
    }
    // From here on a DEL finds it: it waits for its turn.
    awaited(caller)?;
    for one in made.iter().rev() {
        commit(agent, &one.pod)?;
        agent.tell_addresses(&one.pod.network);
    }
    births.committed();
    judged::together(agent, cookie, &there);
    if made.iter().any(|one| one.pod.is_mapped()) {
        // What passes between pods is tracked from now on.
        agent.wake.ring(Reasons::OTHER);
    }
    if made.iter().any(|one| one.first) {
        // The others are told that there are pods here.
        agent.wake.ring(Reasons::OTHER);
    }
    let one = made.swap_remove(0);
    let serving = agent.serving();
    let here = here(&serving, &one.pod.network)?;
    let served = here.served(&one.pod.network);
    Ok(result(&one.pod, &served.ground(&agent.node, &serving.host), &one.link, call))
}

/// What is known and held before a link is made.
struct Ready<'a> {
    call: &'a Call,
    lease: Lease<'a>,
    child: Option<Child>,
}

fn ready<'a>(agent: &'a Agent, call: &'a Call, netns: &Netns) -> Result<Ready<'a>, CniError> {
    let (name, serving) = network(agent, call)?;
    let child = match serving.networks.get(&name) {
        Some(here) => {
            ports::can_be_mapped(call, &here.network, &name)?;
            can_be_limited(call, &here.network)?;
            let attach = &here.network.attach;
            let nic = children::parent(agent, attach, &name)?;
            nic.map(|nic| child_of(agent, call, attach, netns, &nic)).transpose()?
        }
        None => None,
    };
    ports::await_free(agent, call)?;
    let addrs = Some(lease(agent, call, &name, &serving)?);
    Ok(Ready { call, lease: Lease { agent, network: name, addrs }, child })
}

/// An attachment that is whole and nobody was told of.
struct Made {
    pod: Attachment,
    link: Link,
    /// It is the first of its network on this node.
    first: bool,
}

fn attach<'a>(
    agent: &'a Agent,
    ready: Ready<'_>,
    (netns, there, cookie): (&Netns, &Kernel, u64),
    caller: &Caller<'_>,
    (gate, births): (&mut Option<RwLockReadGuard<'a, ()>>, &mut Births<'_>),
) -> Result<Made, CniError> {
    let Ready { call, mut lease, child } = ready;
    let id = call.id.as_ref().ok_or_else(no_container)?;
    let (serving, name) = (agent.serving(), lease.network.clone());
    let here = here(&serving, &name)?;
    let first = !agent.ledger().has_pods(&name);
    let pod = open(agent, call, id, &serving, (&name, here), (cookie, child), &mut lease)?;
    births.opened(id);
    fault::point("add.after-open");
    let served = here.served(&name);
    let ground = served.ground(&agent.node, &serving.host);
    policy::admit(agent, &pod)?;
    fault::point("add.after-policies");
    let link = bring_up(agent, &pod, &ground, (netns, there))?;
    let mut made = Made { pod, link, first };
    if here.network.by_dhcp() {
        let of = (&made.pod, &here.network);
        let leased = dhcp::obtain(agent, gate, of, (call, caller), there)?;
        policy::admit(agent, &leased)?;
        made.link = complete(agent, &leased, there)?;
        made.pod = leased;
    }
    further::routers(call, &made.pod, &ground)?;
    ports::open(agent, &made.pod, &ground)?;
    births.whole(id);
    Ok(made)
}

pub(super) fn here<'a>(
    serving: &'a Serving,
    name: &NetworkName,
) -> Result<&'a NetworkHere, CniError> {
    serving.networks.get(name).ok_or_else(|| not_served(name, serving))
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
fn commit(agent: &Agent, pod: &Attachment) -> Result<(), CniError> {
    agent
        .ledger()
        .set_phase(&pod.id, Phase::Attached)
        .map_err(|error| CniError::new(Code::Io, "write the ledger", error.to_string()))?;
    fault::point("add.after-commit");
    if pod.lease.is_some() {
        agent.leases.keep();
    }
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

/// What an earlier call left under this name: attached to this very namespace, or nothing.
fn settle(agent: &Agent, id: &AttachmentId, cookie: u64) -> Result<Option<Attachment>, CniError> {
    let known = agent.ledger().get(id).cloned();
    match known {
        None => Ok(None),
        Some(known) if known.phase == Phase::Attached && known.cookie == cookie => Ok(Some(known)),
        Some(_) => further::ended(agent, id).map(|()| None),
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
    let again = |why| CniError::new(Code::Refused, "set the pod's link up again", why);
    inside(agent, known, &ground).map_err(again)?;
    for pod in further::of(agent, &known.id) {
        let Some(here) = serving.networks.get(&pod.network) else { continue };
        let served = here.served(&pod.network);
        inside(agent, &pod, &served.ground(&agent.node, &serving.host)).map_err(again)?;
    }
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
    let (default_route, default_only) =
        further::leads(call, leads_out(&here.network), others.clone());
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
        default_route,
        default_only,
        ports: call.ports.clone(),
        bandwidth: call.bandwidth,
        pod: call.pod.clone(),
        further: call.further.clone(),
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
    further::detach_all(agent, call.id.as_ref().ok_or_else(no_container)?)
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
        // Of what was attached beside another the runtime does not know.
        theirs.filter(|pod| !valid(&pod.first())).map(|pod| pod.id.clone()).collect()
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
pub(super) fn no_container() -> CniError {
    CniError::new(Code::InvalidEnvironment, "invalid environment variable", "CNI_CONTAINERID")
}
pub(super) fn no_namespace(call: &Call) -> CniError {
    CniError::new(
        Code::UnknownContainer,
        "the network namespace does not exist",
        format!("CNI_NETNS {:?}", call.netns),
    )
}
