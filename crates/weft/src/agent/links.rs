//! Pods' links: made, resized, made again, taken apart. The calls that lead here are in `pods.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use weft_core::{
    attach::{Birth, Footing, Ground},
    attachment::{Attachment, AttachmentId, Phase},
    cni::{CniError, Code},
    name::IfName,
    plan::{Change, plan},
    state::{Key, Link, Object, Route, State},
};
use weft_linux::{Kernel, Netns, Observed, Refusal};

use super::{
    Agent, Inside, Serving, access, announce::announce, children, dhcp, fault, further, judged,
    lease::not_served, ports, reap::forget_flows, wake::Reasons,
};

/// Makes the link and everything on it, the host's end up last. Returns the pod's end as it is.
pub(super) fn bring_up(
    agent: &Agent,
    pod: &Attachment,
    ground: &Ground<'_>,
    (netns, there): (&Netns, &Kernel),
) -> Result<Link, CniError> {
    let refused = |what: &str, why: String| CniError::new(Code::Refused, what.to_owned(), why);
    if let Some(why) = access::unbounded(&agent.serving(), ground) {
        return Err(refused("give the pod access to its node", why));
    }
    let birth = pod.attach.kind().birth(pod, ground);
    let born = agent.kernel.birth(&birth, netns).or_else(|refusal| {
        // Of a link that has the whole parent the kernel may ask before it looks at the name.
        let whole = pod.attach.kind().alone() && refusal.errno == nix::errno::Errno::EINVAL as i32;
        if refusal.errno != nix::errno::Errno::EEXIST as i32 && !whole {
            return Err(refusal);
        }
        clear(agent, pod, &birth, there);
        agent.kernel.birth(&birth, netns)
    });
    let born = born.or_else(|refusal| children::once_more(agent, pod, refusal, &birth, netns));
    born.map_err(|refusal| {
        let why = match &birth {
            Birth::Child { .. } => children::refused(&pod.attach, &refusal),
            Birth::Pair { .. } if refusal.errno == nix::errno::Errno::EEXIST as i32 => {
                format!("{refusal}; the pod has an interface of this name already")
            }
            Birth::Pair { .. } => refusal.to_string(),
        };
        refused("make the pod's link", why)
    })?;
    fault::point("add.after-birth");
    access::birth(agent, pod, ground, netns).map_err(|refusal| {
        let why = format!("{refusal}; or leave it out by `hostAccess: false` of the network");
        refused("give the pod access to its node", why)
    })?;
    fault::point("add.after-access");
    let dress = || dress(agent, pod, ground, &birth, there);
    if let Some(refusal) = children::dressed(&birth, dress) {
        return Err(refused("set the pod's link up", refusal.to_string()));
    }
    whole(agent, pod, ground, there)
}

/// Writes inside the pod what its record has come to say since its link was made.
pub(super) fn complete(agent: &Agent, pod: &Attachment, there: &Kernel) -> Result<Link, CniError> {
    let serving = agent.serving();
    let here = serving.networks.get(&pod.network);
    let here = here.ok_or_else(|| not_served(&pod.network, &serving))?;
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    inside_by(agent, there, pod, &ground)
        .map_err(|why| CniError::new(Code::Refused, "set the pod's link up", why))?;
    fault::point("add.after-address");
    // The node's way to the pod, and nothing else of it, follows from its address too.
    if let Some(refusal) = access::open(agent, pod, &ground).first() {
        let why = refusal.to_string();
        return Err(CniError::new(Code::Refused, "give the pod access to its node", why));
    }
    whole(agent, pod, &ground, there)
}

/// Looks whether the pod's link is as it should be, and tells its network.
fn whole(
    agent: &Agent,
    pod: &Attachment,
    ground: &Ground<'_>,
    there: &Kernel,
) -> Result<Link, CniError> {
    let refused = |what: &str, why: String| CniError::new(Code::Refused, what.to_owned(), why);
    let wanted = pod.attach.inside(pod, ground);
    let inside = there
        .observe_new_pod(&pod.links(), &wanted)
        .map_err(|error| refused("look into the pod", error.to_string()))?;
    let missing = plan(&wanted, &inside);
    let missing = missing.iter().find(|change| matches!(change, Change::Put(_)));
    match (missing, inside.link(&pod.id.ifname)) {
        (None, Some(link)) => {
            // Where the node routes there are no neighbours to tell.
            if pod.attach.kind().footing() == Footing::Network && !pod.usable().is_empty() {
                announce(agent, pod, there);
            }
            Ok(link.clone())
        }
        (missing, _) => Err(refused(
            "the pod's link is not as it was made",
            missing.map_or_else(|| "it is gone".into(), ToString::to_string),
        )),
    }
}

/// What a call for this very attachment that died may have left in the way.
fn clear(agent: &Agent, pod: &Attachment, birth: &Birth, there: &Kernel) {
    match birth {
        Birth::Pair { host, .. } => {
            agent.kernel.apply(&[Change::Drop(Key::Link(host.dev.clone()))]);
        }
        Birth::Child { .. } => {
            children::doom(agent, pod);
            if let Err(error) = there.reap() {
                tracing::warn!(id = %pod.id, %error, "could not free what a call that died has left");
            }
        }
    }
}

/// Everything on a link that was just born. What guards others from the pod is in force before it can
/// be heard. Of a pair the pod's end is up first, then the node's, and then the pod has its addresses
/// and routes: what it sends as soon as it can is not lost in a link, or at a bridge's port, that is
/// not up yet (a question for a neighbour is asked again only after a second).
fn dress(
    agent: &Agent,
    pod: &Attachment,
    ground: &Ground<'_>,
    birth: &Birth,
    there: &Kernel,
) -> Vec<Refusal> {
    let born = |link: Option<&Link>| link.cloned().map(Object::Link).into_iter().collect::<State>();
    let outside = plan(&pod.attach.guarded(pod, ground), &born(birth.host()));
    let mut ends = born(Some(birth.pod()));
    ends.extend(access::pod_end(pod, ground));
    let inside = plan(&pod.attach.inside(pod, ground), &ends);
    let raises = |change: &Change| matches!(change, Change::Put(object) if object.raises());
    let first = if birth.host().is_some() { inside.partition_point(raises) } else { 0 };
    let (first, rest) = inside.split_at(first);
    // What is not judged does not come up.
    let unjudged = judged::outside(agent, pod, ground);
    if !unjudged.is_empty() {
        return unjudged;
    }
    if let Err(what) = judged::inside(agent, pod, there) {
        return vec![Refusal { what, errno: nix::errno::Errno::EIO as i32, text: String::new() }];
    }
    let mut refusals = there.apply(first);
    refusals.extend(agent.kernel.apply(&outside));
    fault::point("add.after-outside");
    if !refusals.is_empty() {
        return refusals;
    }
    // Somebody may be waiting in a pod whose link is made again.
    let routes = |change: &Change| !matches!(change, Change::Put(Object::Route(_)));
    let alive = pod.phase == Phase::Attached;
    let before = if alive { rest.partition_point(routes) } else { 0 };
    let (addrs, rest) = rest.split_at(before);
    refusals.extend(there.apply(addrs));
    let own = pod.addrs.iter().filter(|addr| alive && addr.is_ipv6());
    own.for_each(|addr| there.until_own(*addr));
    refusals.extend(there.apply(rest));
    fault::point("add.after-inside");
    refusals.extend(access::open(agent, pod, ground));
    refusals
}

/// The pod can't be reached any more when this returns. Twice is as good as once.
pub(super) fn detach(agent: &Agent, id: &AttachmentId) -> Result<(), CniError> {
    let Some(pod) = agent.ledger().get(id).cloned() else { return detach_unread(agent, id) };
    agent.ledger().doom(id);
    fault::point("del.after-doom");
    let routes = || agent.kernel.apply(&unreachable(agent, &pod));
    let link = || {
        let refusals = match &pod.host_end {
            Some(dev) => {
                let down = pod.attach.kind().reached_past_routes();
                agent.kernel.doom(std::slice::from_ref(dev), down)
            }
            None => children::doom(agent, &pod),
        };
        fault::point("del.after-link");
        refusals
    };
    dhcp::release(agent, &pod);
    let mut refusals = ports::close(agent, &pod);
    // Of a link that is in the pod's namespace alone the node has no route, and what guards others
    // from it goes last, once it is freed.
    refusals.extend(match pod.host_end {
        Some(_) => routes(),
        None => access::close(agent, &pod),
    });
    fault::point("del.after-routes");
    refusals.extend(link());
    agent.doomed.ring(Reasons::OTHER);
    agent.tell_residents();
    agent.tell_addresses(&pod.network);
    match refusals.into_iter().next() {
        Some(refusal) => Err(CniError::new(Code::Refused, "detach the pod", refusal.to_string())),
        None => Ok(()),
    }
}

/// Of a pod whose record can't be read its name still says which link it has: with that it can't be reached.
fn detach_unread(agent: &Agent, id: &AttachmentId) -> Result<(), CniError> {
    if !agent.ledger().is_unread(id) {
        return Ok(());
    }
    let dev = IfName::host_end(&id.cni, &id.container, id.ifname.as_str());
    let failed = |why: String| CniError::new(Code::Refused, "detach the pod", why);
    if agent.kernel.link_exists(&dev).map_err(|error| failed(error.to_string()))? {
        let refusals = agent.kernel.doom(std::slice::from_ref(&dev), true);
        refusals.first().map_or(Ok(()), |refusal| Err(failed(refusal.to_string())))?;
        agent.doomed.ring(Reasons::OTHER);
    }
    agent.ledger().close(id).map_err(|error| failed(error.to_string()))
}

/// What makes the pod unreachable: its routes go, and what stands on other links than its own.
pub(super) fn unreachable(agent: &Agent, pod: &Attachment) -> Vec<Change> {
    let serving = agent.serving();
    let Some(here) = serving.networks.get(&pod.network) else {
        return pod.addrs.iter().map(|addr| Change::Drop(Key::Route((*addr).into()))).collect();
    };
    let served = here.served(&pod.network);
    let outside = pod.attach.guarded(pod, &served.ground(&agent.node, &serving.host));
    let doomed = outside.objects().filter(|object| {
        matches!(object, Object::Route(_) | Object::Apart { .. })
            || pod.host_links().all(|own| object.dev() != Some(own))
    });
    doomed.map(|object| Change::Drop(object.key())).collect()
}

/// Which side of a change of routes a change inside pods stands on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    /// Shrinks what pods send, widens what they take.
    BeforeRoutes,
    /// Brings both to where they should be.
    AfterRoutes,
}

/// How many pods are looked into in one round, where nothing is known to have changed.
const INSIDE_AT_ONCE: usize = 64;

/// Forgets what was written inside some pods, so that they are looked into: others the next time.
pub(super) fn forget_some(applied: &mut BTreeMap<AttachmentId, Inside>, next: &mut usize) {
    let some: Vec<_> = applied.keys().skip(*next).take(INSIDE_AT_ONCE).cloned().collect();
    *next = if some.len() < INSIDE_AT_ONCE { 0 } else { *next + some.len() };
    applied.retain(|id, _| !some.contains(id));
}

/// Brings the inside of every pod to the MTUs of its network. What a pod refuses is said, and held
/// against nobody else.
pub(super) fn resize(agent: &Agent, serving: &mut Serving, when: Resize) {
    let pods: Vec<Attachment> = {
        let ledger = agent.ledger();
        ledger.attachments().filter(|pod| pod.phase == Phase::Attached).cloned().collect()
    };
    let here: BTreeSet<&AttachmentId> = pods.iter().map(|pod| &pod.id).collect();
    serving.applied.retain(|id, _| here.contains(id));
    for pod in &pods {
        let Some(here) = serving.networks.get(&pod.network) else { continue };
        let (send, accept) = (here.stage.send, here.stage.accept);
        let was = serving.applied.get(&pod.id);
        let (send, accept) = match (when, was) {
            (Resize::BeforeRoutes, Some(was)) => (send.min(was.send), accept.max(was.accept)),
            _ => (send, accept),
        };
        let spoof_check = here.network.spoof_check;
        let now = Inside { send, accept, access: here.access.clone(), spoof_check };
        if was == Some(&now) {
            continue;
        }
        let served = here.served(&pod.network);
        let ground = Ground { send, accept, ..served.ground(&agent.node, &serving.host) };
        match inside(agent, pod, &ground) {
            Ok(()) => {
                serving.applied.insert(pod.id.clone(), now);
                serving.refused_inside.remove(&pod.id);
            }
            Err(why) => {
                // As far as it took it: it is tried again when pods are looked into.
                serving.applied.insert(pod.id.clone(), now);
                serving
                    .refused_inside
                    .insert(pod.id.clone(), format!("pod {}: {why}", pod.label()));
            }
        }
    }
    serving.refused_inside.retain(|id, _| serving.applied.contains_key(id));
}

/// Brings a pod's own namespace to what it should hold. A pod that is gone needs nothing.
pub(super) fn inside(agent: &Agent, pod: &Attachment, ground: &Ground<'_>) -> Result<(), String> {
    let Some(netns) = namespace(pod)? else { return Ok(()) };
    inside_by(agent, &Kernel::of(&netns).map_err(|error| error.to_string())?, pod, ground)
}

fn inside_by(
    agent: &Agent,
    kernel: &Kernel,
    pod: &Attachment,
    ground: &Ground<'_>,
) -> Result<(), String> {
    let there = kernel.observe_pod(&pod.links()).map_err(|error| error.to_string())?;
    if there.link(&pod.id.ifname).is_none() {
        return Ok(());
    }
    judged::inside(agent, pod, kernel)?;
    let mut wanted = pod.attach.inside(pod, ground);
    // A link that is not there is made by who makes its other end.
    for dev in pod.links().into_iter().filter(|dev| there.link(dev).is_none()) {
        wanted.drop(&Key::Link(dev));
    }
    let mut changes = plan(&wanted, &there);
    if changes.iter().any(|change| matches!(change, Change::Put(Object::Link(_)))) {
        changes = held_small(&wanted, &there, changes);
    }
    let refusals = kernel.apply(&changes);
    refusals.first().map_or(Ok(()), |refusal| Err(refusal.to_string()))
}

/// The changes of a device that may grow, so that what the pod sends does not grow with it. Whatever
/// is as large as the device was grows by itself: an IPv6 route (`rt6_mtu_change_route`), and what
/// was learnt of single destinations (`fib_nhc_update_mtu`). A route that is replaced by another
/// forgets the latter, so it becomes a byte smaller for as long as this takes.
fn held_small(wanted: &State, there: &State, changes: Vec<Change>) -> Vec<Change> {
    let routes = |state: &State| -> Vec<Route> {
        let routes = state.objects().filter_map(|object| match object {
            Object::Route(route) => Some(route.clone()),
            _ => None,
        });
        routes.collect()
    };
    let put = |route: Route| Change::Put(Object::Route(route));
    let smaller = routes(there).into_iter().filter(|route| route.mtu.is_some());
    let smaller = smaller.map(|route| {
        let mtu = route.mtu.map(|mtu| mtu.less(1));
        put(Route { mtu, ..route })
    });
    smaller.chain(changes).chain(routes(wanted).into_iter().map(put)).collect()
}

/// What is not as it should be inside a pod, in the words of a plan.
pub fn missing_inside(
    agent: &Agent,
    pod: &Attachment,
    here: &super::NetworkHere,
) -> Option<String> {
    let netns = match namespace(pod) {
        Ok(Some(netns)) => netns,
        Ok(None) => return Some("its namespace is gone".into()),
        Err(why) => return Some(why),
    };
    let (served, serving) = (here.served(&pod.network), agent.serving());
    let ground = served.ground(&agent.node, &serving.host);
    let kernel = Kernel::of(&netns).ok()?;
    let there = kernel.observe_pod(&pod.links()).ok()?;
    let changes = plan(&pod.attach.inside(pod, &ground), &there);
    changes.first().map(ToString::to_string)
}

/// The pod's namespace; none if its path no longer leads to the one that it was. That it can't be
/// told is an error, and no reason to take the pod for gone.
pub(super) fn namespace(pod: &Attachment) -> Result<Option<Netns>, String> {
    let path = Path::new(&pod.netns);
    let failed = |error: std::io::Error| format!("open its namespace {}: {error}", pod.netns);
    let netns = match Netns::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return visible(path),
        opened => opened.map_err(failed)?,
    };
    match netns.cookie() {
        Ok(cookie) => Ok((cookie == pod.cookie).then_some(netns)),
        // A file that is there, but no namespace: what was bound to it is gone.
        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Runtimes delete a pod's file and leave the directory: where that is missing, it is we who do not see
/// it. What is below /proc goes with a process.
fn visible(path: &Path) -> Result<Option<Netns>, String> {
    let dir = path.parent().unwrap_or(path);
    if dir.starts_with("/proc") || dir.is_dir() {
        return Ok(None);
    }
    Err(format!(
        "can't tell whether its namespace {} is there: the agent does not see the directory {}; {MOUNT}",
        path.display(),
        dir.display()
    ))
}

const MOUNT: &str =
    "an agent in a container needs it mounted from the node, with propagation HostToContainer";

/// Whoever does not see a pod's namespace by its path can't keep the pod as it should be, nor tell whether
/// it is gone.
pub(super) fn seen(path: &str, netns: &Netns) -> Result<(), CniError> {
    match Netns::open(Path::new(path)).and_then(|there| there.is(netns)) {
        Ok(true) => Ok(()),
        Ok(false) => Err("another one, or none, is there for the agent".to_owned()),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|why| {
        let what = format!("the agent does not see the pod's namespace at {path}");
        CniError::new(Code::Refused, what, format!("{why}; {MOUNT}"))
    })
}

/// A pod's link that somebody deleted is made again, as long as the pod lives.
pub(super) fn rebirth(agent: &Agent, serving: &Serving, host_end: &IfName) -> Result<(), String> {
    let pod = {
        let ledger = agent.ledger();
        ledger.attachments().find(|pod| pod.host_links().any(|own| own == host_end)).cloned()
    };
    let Some(pod) = pod else { return Ok(()) };
    if pod.access.as_ref() == Some(host_end) {
        return access::again(agent, serving, &pod);
    }
    if namespace(&pod)?.is_none() {
        tracing::info!(id = %pod.id, "the pod's namespace is gone; its address is free");
        forget_flows(agent, std::slice::from_ref(&pod.id));
        return agent.ledger().close(&pod.id).map_err(|error| error.to_string());
    }
    again(agent, serving, &pod)
}

/// Makes the link of a pod that lives once more.
pub(super) fn again(agent: &Agent, serving: &Serving, pod: &Attachment) -> Result<(), String> {
    let Some(netns) = namespace(pod)? else { return Ok(()) };
    let Some(here) = serving.networks.get(&pod.network) else { return Ok(()) };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    let there = Kernel::of(&netns).map_err(|error| error.to_string())?;
    let made = bring_up(agent, pod, &ground, (&netns, &there));
    made.map(drop).map_err(|error| error.to_string())
}

/// Ends what an ADD or DEL that died has left. Called by the loop, which holds the gate alone: no
/// ADD is under way but those that wait for an address.
pub(super) fn bury(agent: &Agent, observed: &Observed) {
    let dead: Vec<Attachment> = {
        let whole = agent.as_attached();
        let waits = |pod: &&Attachment| {
            agent.leases.is_asking(&pod.id) || whole.iter().any(|whole| whole.id == pod.id)
        };
        let ledger = agent.ledger();
        let opened = ledger.attachments().filter(|pod| pod.phase == Phase::Opened);
        opened.filter(|pod| !waits(pod)).cloned().collect()
    };
    for pod in dead.into_iter().chain(further::orphans(agent)) {
        let there = observed.links.iter().any(|link| Some(&link.dev) == pod.host_end.as_ref());
        tracing::info!(id = %pod.id, link = there, "an ADD that died is taken back");
        if let Err(error) = detach(agent, &pod.id) {
            tracing::warn!(id = %pod.id, %error, "could not take it back");
        }
    }
}
