//! Brings kernels to what policies come to: the node's, and pods' own where others reach them past it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::Ordering,
};

use anyhow::Context;
use weft_core::{
    attachment::{Attachment, Phase},
    cni::{CniError, Code},
    policy::{
        cluster::ObjectName,
        firewall::Open,
        own::{self, Door, Own},
        spec::Protocol,
    },
};
use weft_linux::{Kernel, PolicyTable, Wanted, Was};

use super::{
    super::{Agent, POISONED, Serving, links::namespace, ports},
    Kept, Policies, follow, locals, object_name,
};

/// Pods that are written into at the same time: each waits for its kernel a while.
const AT_ONCE: usize = 8;
/// Pods that are looked into in one round.
const LOOKS: usize = 64;

/// A pod's own table as it was written.
#[derive(Clone)]
pub(super) struct Inside {
    own: Own,
    /// Whose namespace it is.
    pod: Attachment,
    /// Somebody in the pod may have changed it since.
    doubted: bool,
}

/// What is in force before the pod's link is up. The calling thread is in the pod's namespace.
pub fn admit(agent: &Agent, pod: &Attachment) -> Result<(), CniError> {
    let Some(policies) = &agent.policies else { return Ok(()) };
    settle(agent, policies, Some(pod))
        .map_err(|why| CniError::new(Code::Refused, "bring the policies of the pod in force", why))
}

/// Doubts what was written into some pods: others the next time.
pub(super) fn look_again(policies: &Policies) {
    let mut kept = policies.kept.lock().expect(POISONED);
    let from = kept.looked.wrapping_add(1);
    let mut last = 0;
    for (cookie, inside) in kept.inside.range_mut(from..).take(LOOKS) {
        inside.doubted = true;
        last = *cookie;
    }
    kept.looked = last;
}

/// Writes what has changed. Of a pod that is being attached it tells whether all of its is in force; what
/// changes for others on its account is written behind, so that an ADD takes as long however many they are.
pub(super) fn settle(
    agent: &Agent,
    policies: &Policies,
    admitted: Option<&Attachment>,
) -> Result<(), String> {
    let mut kept = policies.kept.lock().expect(POISONED);
    let kept = &mut *kept;
    let (pods, all_read, gone) = {
        let ledger = agent.ledger();
        let all_read = ledger.unread().next().is_none();
        let alone = admitted.filter(|_| all_read && kept.whole);
        let concerned = |pod: &&Attachment| alone.is_none_or(|one| together(one, pod));
        let pods: Vec<Attachment> = ledger.attachments().filter(concerned).cloned().collect();
        let gone = alone.map(|one| succeeded(&kept.locals, one, ledger.attachments()));
        (pods, all_read, gone)
    };
    {
        let mut said = policies.said.lock().expect(POISONED);
        if !said.listed {
            return Ok(());
        }
        let mut locals = locals(pods.iter());
        if !all_read {
            said.stand_in(&mut locals);
        }
        let goes = |name: &ObjectName| gone.as_ref().is_none_or(|gone| gone.contains(name));
        moved(&mut kept.locals, locals, goes, |name, addrs| said.index.local(name, addrs));
        let tracked = ports::tracks_sctp();
        follow(kept, said.index.changes(), |open| tracked || !is_of_sctp(open));
    }
    let alone = gone.is_some();
    if !alone {
        kept.whole = true;
        kept.problems.clear();
    }
    let shut = kept.shut.first().map(|(_, open)| {
        format!(
            "policies open SCTP, as {open}, which stays shut: {}, and one open port would lead to all",
            ports::NO_SCTP
        )
    });
    let shut = shut.filter(|shut| !kept.problems.contains(shut));
    kept.problems.extend(shut);
    let node = write_node(agent, policies, kept);
    let inside = write_inside(agent, kept, &pods, admitted);
    // Of others, and of what failed, the next settling tells.
    if alone && !(kept.inside.is_empty() && kept.problems.is_empty()) {
        policies.ring();
    }
    node.and(inside)
}

/// Of ports that are not tracked the first open one would let packets to every other pass as answers. Where
/// everything is open, they are all the same.
fn is_of_sctp(open: &Open) -> bool {
    open.ports.is_some_and(|ports| ports.protocol == Protocol::Sctp)
}

/// True of attachments of one pod, as its namespace or the cluster tells.
fn together(one: &Attachment, other: &Attachment) -> bool {
    let named = one.pod.as_ref().zip(other.pod.as_ref());
    let same = named.is_some_and(|(a, b)| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    one.cookie == other.cookie || same
}

/// Pods that had an address of this one's, and are no more: it is judged as nobody but itself.
fn succeeded<'a>(
    known: &BTreeMap<ObjectName, Vec<IpAddr>>,
    one: &Attachment,
    all: impl Iterator<Item = &'a Attachment> + Clone,
) -> BTreeSet<ObjectName> {
    let shares = |had: &&Vec<IpAddr>| one.addrs.iter().any(|addr| had.contains(addr));
    let named = |name: &ObjectName| {
        let is = |pod: &Attachment| pod.pod.as_ref().is_some_and(|pod| object_name(pod) == *name);
        all.clone().any(is)
    };
    let those = known.iter().filter(|(_, had)| shares(had)).map(|(name, _)| name);
    those.filter(|name| !named(name)).cloned().collect()
}

/// Follows pods whose addresses differ; of those that `goes` names and that are no more, none.
fn moved(
    known: &mut BTreeMap<ObjectName, Vec<IpAddr>>,
    now: BTreeMap<ObjectName, Vec<IpAddr>>,
    goes: impl Fn(&ObjectName) -> bool,
    mut tell: impl FnMut(&ObjectName, &[IpAddr]),
) {
    known.retain(|name, _| {
        let stays = now.contains_key(name) || !goes(name);
        if !stays {
            tell(name, &[]);
        }
        stays
    });
    for (name, addrs) in now {
        if known.get(&name) != Some(&addrs) {
            tell(&name, &addrs);
            known.insert(name, addrs);
        }
    }
}

fn write_node(agent: &Agent, policies: &Policies, kept: &mut Kept) -> Result<(), String> {
    let written = write_table(agent, policies, kept)
        .map_err(|error| format!("policies are not in force as they should be: {error}"));
    kept.problems.extend(written.as_ref().err().cloned());
    written
}

fn write_table(
    agent: &Agent,
    policies: &Policies,
    kept: &mut Kept,
) -> Result<(), weft_linux::TableError> {
    let table = match &mut kept.table {
        Some(table) => table,
        none => none.insert(PolicyTable::here(&agent.kernel)?),
    };
    let doubted = policies.doubted.swap(false, Ordering::SeqCst);
    if doubted {
        table.doubt();
    }
    let was = table.write(Wanted::Node(kept.firewall.clone()))?;
    if doubted && was == Was::Otherwise {
        tracing::warn!("the table of policies was not as it was written; it is again");
    }
    Ok(())
}

/// One pod's table that is to be written.
struct Step {
    cookie: u64,
    own: Own,
    pod: Attachment,
    /// What is there; not known: it must be looked at.
    was: Option<Own>,
    /// The caller is in its namespace.
    here: bool,
    /// There is no pod any more that could come to need it.
    last: bool,
}

fn write_inside(
    agent: &Agent,
    kept: &mut Kept,
    pods: &[Attachment],
    admitted: Option<&Attachment>,
) -> Result<(), String> {
    let steps = steps(agent, kept, pods, admitted.map(|pod| pod.cookie));
    let mut mine = Ok(());
    for some in steps.chunks(AT_ONCE) {
        for (step, done) in some.iter().zip(write_some(some)) {
            if done.is_err() || step.last {
                kept.inside.remove(&step.cookie);
            } else {
                let (own, pod) = (step.own.clone(), step.pod.clone());
                kept.inside.insert(step.cookie, Inside { own, pod, doubted: false });
            }
            let Err(error) = done else { continue };
            let pod = step.pod.label();
            let problem = format!("pod {pod}: its policies are not in force: {error}");
            kept.problems.push(problem.clone());
            if step.here {
                mine = Err(problem);
            }
        }
    }
    mine
}

/// The namespaces whose tables are not known to be as they should be.
fn steps(agent: &Agent, kept: &Kept, pods: &[Attachment], here: Option<u64>) -> Vec<Step> {
    let serving = agent.serving();
    let mut wanted = BTreeMap::<u64, (Vec<Door>, &Attachment)>::new();
    for pod in pods {
        if let Some(doors) = doors(agent, &serving, kept, pod) {
            wanted.entry(pod.cookie).or_insert((Vec::new(), pod)).0.extend(doors);
        }
    }
    // Of a pod that is being attached others are not known to be gone.
    let gone = kept.inside.iter().filter(|(at, _)| here.is_none() && !wanted.contains_key(*at));
    let gone: Vec<_> = gone.map(|(cookie, inside)| (*cookie, (Vec::new(), &inside.pod))).collect();
    let last: Vec<u64> = gone.iter().map(|(cookie, _)| *cookie).collect();
    let mut steps = Vec::new();
    for (cookie, (doors, pod)) in wanted.into_iter().chain(gone) {
        let own = own::own(doors, &kept.firewall);
        let (here, last) = (here == Some(cookie), last.contains(&cookie));
        let known = kept.inside.get(&cookie).filter(|known| !known.doubted && !here);
        if last || known.is_none_or(|known| known.own != own) {
            let was = known.map(|known| known.own.clone());
            steps.push(Step { cookie, own, pod: pod.clone(), was, here, last });
        }
    }
    steps
}

/// Each on a thread of its own, but for the one that the caller is in.
fn write_some(some: &[Step]) -> Vec<Result<(), String>> {
    std::thread::scope(|scope| {
        let begun: Vec<_> = some
            .iter()
            .map(|step| (step, (!step.here).then(|| scope.spawn(|| write_pod(step)))))
            .collect();
        let end = |(step, thread): (&Step, Option<std::thread::ScopedJoinHandle<'_, _>>)| {
            let Some(thread) = thread else { return write_pod(step) };
            thread.join().unwrap_or_else(|_| Err("writing them panicked".into()))
        };
        begun.into_iter().map(end).collect()
    })
}

/// The pod's doors; None: what comes to it is its node's business alone.
fn doors(agent: &Agent, serving: &Serving, kept: &Kept, pod: &Attachment) -> Option<Vec<Door>> {
    let concerned = pod.pod.is_some() && pod.further.is_none();
    if !concerned || !own::is_reached_past_node(pod) {
        return None;
    }
    let here = serving.networks.get(&pod.network).filter(|_| pod.phase != Phase::Doomed);
    let Some(here) = here else {
        // As it was, until its network is served, or its link is freed.
        let inside = kept.inside.get(&pod.cookie);
        return inside.map(|inside| inside.own.doors.clone());
    };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    Some(own::door(pod, &ground, &kept.firewall).into_iter().collect())
}

fn write_pod(step: &Step) -> Result<(), String> {
    let table = if step.here {
        PolicyTable::inside()
    } else {
        let Some(netns) = namespace(&step.pod)? else { return Ok(()) };
        PolicyTable::of(&netns)
    };
    let written = table.and_then(|mut table| {
        if let Some(was) = step.was.clone() {
            table.trust(Wanted::Pod(was));
        }
        table.write(Wanted::Pod(step.own.clone()))
    });
    written.map(drop).map_err(|error| error.to_string())
}

/// Takes the tables away, the node's and those in pods; one that stays keeps no other.
pub fn uninstall(kernel: &Kernel, pods: &[Attachment]) -> anyhow::Result<()> {
    let nothing = || Wanted::Pod(Own::default());
    let node = PolicyTable::here(kernel).and_then(|mut table| table.write(nothing()));
    let node = node.map(drop).context("the node's table of policies");
    let inside = pods.iter().filter_map(|pod| {
        let netns = namespace(pod).ok().flatten()?;
        let table = PolicyTable::of(&netns).and_then(|mut table| table.write(nothing()));
        table.err().map(|error| format!("pod {}: {error}", pod.label()))
    });
    let failed: Vec<String> = inside.collect();
    anyhow::ensure!(failed.is_empty(), "policies inside pods: {}", failed.join("; "));
    node
}
