//! Brings kernels to what policies come to: the node's, and pods' own where others reach them past it.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Context;
use weft_core::{
    attachment::{Attachment, Phase},
    cni::{CniError, Code},
    policy::{
        cluster::ObjectName,
        own::{self, Own},
    },
};
use weft_linux::{Kernel, PolicyTable, Wanted, Was};

use super::{
    super::{Agent, POISONED, Serving, links::namespace},
    Kept, Policies, follow, locals,
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

/// Writes what has changed. Of a pod that is being attached it tells whether all of its is in force.
pub(super) fn settle(
    agent: &Agent,
    policies: &Policies,
    admitted: Option<&Attachment>,
) -> Result<(), String> {
    let mut kept = policies.kept.lock().expect(POISONED);
    let kept = &mut *kept;
    let pods: Vec<Attachment> = agent.ledger().attachments().cloned().collect();
    {
        let mut said = policies.said.lock().expect(POISONED);
        if !said.listed {
            return Ok(());
        }
        let locals = locals(pods.iter());
        moved(&kept.locals, &locals).for_each(|(name, addrs)| said.index.local(name, addrs));
        kept.locals = locals;
        follow(&mut kept.firewall, said.index.changes());
    }
    kept.problems.clear();
    let node = write_node(agent, policies, kept);
    let inside = write_inside(agent, kept, &pods, admitted);
    node.and(inside)
}

/// Pods whose addresses differ; of those that are gone none.
fn moved<'a>(
    was: &'a BTreeMap<ObjectName, Vec<IpAddr>>,
    is: &'a BTreeMap<ObjectName, Vec<IpAddr>>,
) -> impl Iterator<Item = (&'a ObjectName, &'a [IpAddr])> {
    let gone = was.keys().filter(|name| !is.contains_key(*name)).map(|name| (name, &[][..]));
    let new = is.iter().filter(|(name, addrs)| was.get(*name) != Some(*addrs));
    gone.chain(new.map(|(name, addrs)| (name, &addrs[..])))
}

fn write_node(agent: &Agent, policies: &Policies, kept: &mut Kept) -> Result<(), String> {
    let written = node_table(agent, kept).and_then(|(table, firewall)| {
        let doubted = policies.doubted.swap(false, std::sync::atomic::Ordering::SeqCst);
        if doubted {
            table.doubt();
        }
        let was = table.write(Wanted::Node(firewall)).map_err(|error| error.to_string())?;
        if doubted && was == Was::Otherwise {
            tracing::warn!("the table of policies was not as it was written; it is again");
        }
        Ok(())
    });
    written.map_err(|error| {
        let problem = format!("policies are not in force as they should be: {error}");
        kept.problems.push(problem.clone());
        problem
    })
}

fn node_table<'a>(
    agent: &Agent,
    kept: &'a mut Kept,
) -> Result<(&'a mut PolicyTable, weft_core::policy::firewall::Firewall), String> {
    let firewall = kept.firewall.clone();
    if kept.table.is_none() {
        kept.table = Some(PolicyTable::here(&agent.kernel).map_err(|error| error.to_string())?);
    }
    kept.table.as_mut().map(|table| (table, firewall)).ok_or_else(String::new)
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
}

fn write_inside(
    agent: &Agent,
    kept: &mut Kept,
    pods: &[Attachment],
    admitted: Option<&Attachment>,
) -> Result<(), String> {
    let serving = agent.serving();
    let mut wanted = BTreeMap::<u64, (Own, Attachment)>::new();
    for pod in pods {
        let Some(doors) = doors(agent, &serving, kept, pod) else { continue };
        let entry = wanted.entry(pod.cookie).or_insert_with(|| (Own::default(), pod.clone()));
        let all = std::mem::take(&mut entry.0.doors).into_iter().chain(doors).collect();
        entry.0 = own::own(all, &kept.firewall);
    }
    let gone = kept.inside.iter().filter(|(cookie, _)| !wanted.contains_key(*cookie));
    let gone = gone.map(|(cookie, inside)| (*cookie, (Own::default(), inside.pod.clone())));
    let gone: Vec<_> = gone.collect();
    let here = admitted.map(|pod| pod.cookie);
    let mut steps = Vec::new();
    for (cookie, (own, pod)) in wanted.into_iter().chain(gone) {
        let known = kept.inside.get(&cookie);
        if known.is_some_and(|known| known.own == own && !known.doubted) && here != Some(cookie) {
            continue;
        }
        let was = known.filter(|known| !known.doubted).map(|known| known.own.clone());
        steps.push(Step { cookie, own, pod, was, here: here == Some(cookie) });
    }
    let mut mine = Ok(());
    for some in steps.chunks(AT_ONCE) {
        let done: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let (own, others): (Vec<_>, Vec<_>) =
                some.iter().enumerate().partition(|(_, s)| s.here);
            let threads: Vec<_> = others
                .into_iter()
                .map(|(at, step)| (at, scope.spawn(|| write_pod(step))))
                .collect();
            let mut done: Vec<_> =
                own.into_iter().map(|(at, step)| (at, write_pod(step))).collect();
            let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err("writing policies panicked".into()))
            };
            done.extend(threads.into_iter().map(|(at, thread)| (at, ended(thread))));
            done.sort_by_key(|(at, _)| *at);
            done.into_iter().map(|(_, done)| done).collect()
        });
        for (step, done) in some.iter().zip(done) {
            match done {
                Ok(())
                    if step.own == Own::default()
                        && !pods.iter().any(|pod| pod.cookie == step.cookie) =>
                {
                    kept.inside.remove(&step.cookie);
                }
                Ok(()) => {
                    let (own, pod) = (step.own.clone(), step.pod.clone());
                    kept.inside.insert(step.cookie, Inside { own, pod, doubted: false });
                }
                Err(error) => {
                    kept.inside.remove(&step.cookie);
                    let problem =
                        format!("pod {}: its policies are not in force: {error}", step.pod.label());
                    kept.problems.push(problem.clone());
                    if step.here {
                        mine = Err(problem);
                    }
                }
            }
        }
    }
    mine
}

/// The pod's doors; None: what comes to it is its node's business alone.
fn doors(
    agent: &Agent,
    serving: &Serving,
    kept: &Kept,
    pod: &Attachment,
) -> Option<Vec<own::Door>> {
    if pod.pod.is_none() || pod.phase == Phase::Doomed || !own::is_reached_past_node(pod) {
        return None;
    }
    let Some(here) = serving.networks.get(&pod.network) else {
        // As it was, until its network is served.
        let inside = kept.inside.get(&pod.cookie);
        return inside.map(|inside| inside.own.doors.clone());
    };
    let served = here.served(&pod.network);
    let ground = served.ground(&agent.node, &serving.host);
    Some(own::door(pod, &ground, &kept.firewall).into_iter().collect())
}

fn write_pod(step: &Step) -> Result<(), String> {
    let failed = |error: weft_linux::Error| error.to_string();
    let table = if step.here {
        PolicyTable::inside()
    } else {
        let Some(netns) = namespace(&step.pod)? else { return Ok(()) };
        PolicyTable::of(&netns)
    };
    let mut table = table.map_err(|error| error.to_string())?;
    if let Some(was) = step.was.clone() {
        table.trust(Wanted::Pod(was));
    }
    let _ = failed;
    table.write(Wanted::Pod(step.own.clone())).map(drop).map_err(|error| error.to_string())
}

/// Takes the tables away, the node's and those in pods.
pub fn uninstall(kernel: &Kernel, pods: &[Attachment]) -> anyhow::Result<()> {
    let nothing = || Wanted::Pod(Own::default());
    for pod in pods {
        let Ok(Some(netns)) = namespace(pod) else { continue };
        let mut table = PolicyTable::of(&netns)?;
        table.write(nothing()).with_context(|| format!("policies of pod {}", pod.label()))?;
    }
    PolicyTable::here(kernel)?.write(nothing()).context("the node's table of policies")?;
    Ok(())
}
