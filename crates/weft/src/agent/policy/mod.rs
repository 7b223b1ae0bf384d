//! NetworkPolicies on this node. What the cluster says comes in by `Policies::hear`; `enforce` brings
//! the node's table and those in pods to what follows, for ADD before the pod's link is up.
//!
//! Nothing is written before the cluster was listed in full: what an agent before this one wrote stays in
//! force, and no pod is attached that may have to be kept from others.

mod enforce;
mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use weft_core::{
    attachment::{Attachment, PodName},
    cni::{CniError, Code},
    name::NodeName,
    policy::{
        cluster::{Labels, ObjectName, Pod},
        firewall::{Change, Firewall, List, ListChange, ListName, Open},
        index::Index,
        spec::PolicySpec,
    },
};
use weft_linux::PolicyTable;

use super::{
    Agent, Config, POISONED,
    lease::wait,
    wake::{Gather, Reasons, Wake},
};
use crate::store::StoreConfig;

pub(super) use enforce::{admit, uninstall};

/// Changes that come together are written together.
const GATHER: Gather = Gather { quiet: Duration::from_millis(2), most: Duration::from_millis(20) };
/// How often tables inside pods are looked at, which tell nobody when they change.
const LOOK_INSIDE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// What is known of policies, and what was written on account of them.
pub struct Policies {
    said: Mutex<Said>,
    kept: Mutex<Kept>,
    bell: Wake,
    /// Somebody else has written into the node's table.
    doubted: AtomicBool,
}

/// What the cluster has said.
pub struct Said {
    pub index: Index,
    node: NodeName,
    listed: bool,
    /// The pods of this node: their UIDs.
    uids: BTreeMap<ObjectName, Arc<str>>,
    /// Pods that may not be attached yet, and why.
    held: BTreeMap<ObjectName, String>,
    /// What can't be read, and why: what it said before stands.
    unread: Vec<String>,
}

/// What was written. Whoever writes holds it.
#[derive(Default)]
struct Kept {
    firewall: Firewall,
    /// What policies open and the kernel can't judge: it is left shut.
    shut: BTreeSet<(ListName, Open)>,
    /// The index was told of all pods of this node since the agent began: until then what is in the
    /// kernel is not known to be of nobody.
    whole: bool,
    /// Pods of this node as the index was told of them.
    locals: BTreeMap<ObjectName, Vec<IpAddr>>,
    table: Option<PolicyTable>,
    /// Pods' own tables, by the cookies of their namespaces.
    inside: BTreeMap<u64, enforce::Inside>,
    /// Where the last look into pods has ended.
    looked: u64,
    /// What could not be written, and why.
    problems: Vec<String>,
}

impl Said {
    pub fn namespace(&mut self, name: &str, labels: Option<Labels>) {
        self.index.namespace(name, labels);
    }

    pub fn policy(&mut self, name: &ObjectName, spec: Option<PolicySpec>) {
        self.index.policy(name, spec);
    }

    pub fn pod(&mut self, name: &ObjectName, pod: Option<Pod>) {
        match pod.as_ref().filter(|pod| pod.node.as_ref() == Some(&self.node)) {
            Some(pod) => self.uids.insert(name.clone(), pod.uid.clone()),
            None => self.uids.remove(name),
        };
        self.index.pod(name, pod);
    }

    /// Namespaces, pods and policies were all listed in full.
    pub fn listed(&mut self) {
        self.listed = true;
    }

    pub fn unread(&mut self, why: Vec<String>) {
        self.unread = why;
    }

    /// The pod may not be attached: what policies say of it may not be known.
    pub fn hold(&mut self, name: &ObjectName, why: String) {
        self.held.insert(name.clone(), why);
    }
    pub fn release(&mut self, name: &ObjectName) {
        self.held.remove(name);
    }

    /// Where records of pods can't be read, the cluster's word tells who is here: a pod that is not known
    /// would be open to everybody.
    fn stand_in(&self, locals: &mut BTreeMap<ObjectName, Vec<IpAddr>>) {
        for name in self.uids.keys() {
            let addrs = self.index.addrs(name);
            if !addrs.is_empty() {
                locals.entry(name.clone()).or_insert_with(|| addrs.to_vec());
            }
        }
    }

    fn knows(&self, pod: &PodName) -> bool {
        let uid = self.uids.get(&object_name(pod));
        uid.is_some_and(|uid| pod.uid.is_empty() || **uid == *pod.uid)
    }
}

impl Policies {
    /// None where nobody says anything of policies.
    pub(super) fn new(config: &Config, node: &NodeName) -> Option<Self> {
        let by_api = matches!(config.store, StoreConfig::Kubernetes(_));
        if config.policies.is_none() && !by_api {
            return None;
        }
        let (index, uids, held, unread) = Default::default();
        Some(Self {
            said: Mutex::new(Said { index, node: node.clone(), listed: false, uids, held, unread }),
            kept: Mutex::default(),
            bell: Wake::default(),
            doubted: AtomicBool::new(false),
        })
    }

    /// Looks at what the index says, and whether everything was listed.
    pub fn ask<T>(&self, look: impl FnOnce(&Index, bool) -> T) -> T {
        let said = self.said.lock().expect(POISONED);
        look(&said.index, said.listed)
    }

    pub fn unread(&self) -> Vec<String> {
        self.said.lock().expect(POISONED).unread.clone()
    }

    /// Takes in what the cluster says: as much as is known at once.
    pub fn hear(&self, agent: &Agent, tell: impl FnOnce(&mut Said)) {
        tell(&mut self.said.lock().expect(POISONED));
        self.bell.ring(Reasons::VIEW);
        // An ADD may wait for its pod.
        agent.tell_progress();
    }

    /// Pods came or went.
    pub(super) fn ring(&self) {
        self.bell.ring(Reasons::OTHER);
    }

    /// A stranger was at the node's table, or may have been.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Ordering::SeqCst);
        self.bell.ring(Reasons::KERNEL);
    }

    /// Policies that select a pod of this node.
    pub fn selecting(&self) -> BTreeSet<ObjectName> {
        self.said.lock().expect(POISONED).index.in_force()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.kept.lock().expect(POISONED).problems.clone()
    }
}

pub(super) fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    if agent.policies.is_none() {
        return Ok(());
    }
    let by_api = matches!(agent.config.store, StoreConfig::Kubernetes(_));
    anyhow::ensure!(
        agent.config.policies.is_none() || !by_api,
        "`policies` is set, and the API server says what they are: remove it from the configuration"
    );
    if let Some(dir) = agent.config.policies.clone() {
        files::spawn(agent, dir)?;
    }
    let agent = agent.clone();
    std::thread::Builder::new().name("policies".into()).spawn(move || run(&agent))?;
    Ok(())
}

fn run(agent: &Agent) {
    let Some(policies) = &agent.policies else { return };
    let mut well = true;
    loop {
        let why = policies.bell.wait(if well { LOOK_INSIDE } else { RETRY }, |_| GATHER);
        if !why.any() && well {
            enforce::look_again(policies);
        }
        let known = policies.problems();
        well = enforce::settle(agent, policies, None).is_ok();
        let problems = policies.problems();
        problems.iter().filter(|new| !known.contains(new)).for_each(|problem| {
            tracing::warn!(problem, "found");
        });
        if problems != known {
            agent.wake.ring(Reasons::VIEW);
        }
    }
}

/// Waits until the cluster knows the pod that is to be attached: what it may be kept from depends on
/// its labels.
pub(super) fn known(agent: &Agent, pod: Option<&PodName>) -> Result<(), CniError> {
    let pod = pod.filter(|pod| pod.is_in_cluster());
    let (Some(policies), Some(pod)) = (&agent.policies, pod) else { return Ok(()) };
    let said = || policies.said.lock().expect(POISONED);
    let ready = || {
        let said = said();
        (said.listed && said.knows(pod) && !said.held.contains_key(&object_name(pod))).then_some(())
    };
    wait(agent, ready).ok_or_else(|| {
        let said = said();
        let why = match (said.listed, said.held.get(&object_name(pod))) {
            (false, _) => {
                "pods, namespaces and policies have not been read since the agent began".into()
            }
            (true, Some(why)) if said.knows(pod) => why.clone(),
            (true, _) => format!("pod {pod} ({}) is not known to the cluster yet", pod.uid),
        };
        CniError::new(Code::TryAgainLater, "what policies say of the pod is not known", why)
    })
}

fn object_name(pod: &PodName) -> ObjectName {
    ObjectName { namespace: pod.namespace.as_str().into(), name: pod.name.as_str().into() }
}

/// The pods that policies speak of, with the addresses that they have.
fn locals<'a>(pods: impl Iterator<Item = &'a Attachment>) -> BTreeMap<ObjectName, Vec<IpAddr>> {
    let mut locals = BTreeMap::<ObjectName, Vec<IpAddr>>::new();
    // On further networks it has none of the addresses by which the cluster knows it.
    for pod in pods.filter(|pod| pod.further.is_none()) {
        if let Some(name) = &pod.pod {
            locals.entry(object_name(name)).or_default().extend(&pod.addrs);
        }
    }
    locals
}

fn follow(kept: &mut Kept, change: Change, judged: impl Fn(&Open) -> bool) {
    for (name, list) in change.lists {
        let (added, removed) = match list {
            ListChange::New(list) if list.entries.iter().all(&judged) => {
                kept.firewall.lists.insert(name, list);
                continue;
            }
            ListChange::New(list) => (list.entries.clone(), BTreeSet::new()),
            ListChange::Entries { added, removed } => (added, removed),
            ListChange::Gone => {
                kept.firewall.lists.remove(&name);
                kept.shut.retain(|(list, _)| *list != name);
                continue;
            }
        };
        let (added, shut): (Vec<Open>, Vec<Open>) = added.into_iter().partition(&judged);
        let List { entries } = Arc::make_mut(kept.firewall.lists.entry(name).or_default());
        entries.retain(|open| !removed.contains(open));
        entries.extend(added);
        kept.shut.retain(|(list, open)| *list != name || !removed.contains(open));
        kept.shut.extend(shut.into_iter().map(|open| (name, open)));
    }
    for (key, list) in change.pods {
        match list {
            Some(list) => kept.firewall.pods.insert(key, list),
            None => kept.firewall.pods.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::policy::{
        firewall::Ports,
        spec::{Direction, Protocol},
    };

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "lab".into(), name: name.into() }
    }

    #[test]
    fn a_pod_whose_record_can_not_be_read_is_policed_by_the_clusters_word() {
        let node: NodeName = "node-a".parse().unwrap();
        let (index, uids, held) = Default::default();
        let mut said = Said { index, node, listed: true, uids, held, unread: Vec::new() };
        let addr = |last: u8| IpAddr::from([10, 1, 0, last]);
        for (pod, at, node) in [("a", 1, "node-a"), ("b", 2, "node-a"), ("c", 3, "node-b")] {
            let (addrs, node) = (vec![addr(at)], node.parse().ok());
            said.pod(&name(pod), Some(Pod { addrs, node, ..Pod::default() }));
        }
        said.policy(&name("closed"), Some(PolicySpec::default()));
        // Of `a` there is a record, with the address that it was given since.
        let mut here = BTreeMap::from([(name("a"), vec![addr(7)])]);
        said.stand_in(&mut here);
        assert_eq!(here, BTreeMap::from([(name("a"), vec![addr(7)]), (name("b"), vec![addr(2)])]));
        here.iter().for_each(|(name, addrs)| said.index.local(name, addrs));
        let policed = |at| said.index.firewall().pods.contains_key(&(Direction::Ingress, addr(at)));
        assert_eq!([7, 2, 3].map(policed), [true, true, false]);
    }

    #[test]
    fn what_the_kernel_can_not_judge_stays_shut_until_it_is_asked_for_no_more() {
        let open = |text: &str| -> Open {
            let (protocol, port) = text.split_once(' ').unwrap();
            let protocol = if protocol == "sctp" { Protocol::Sctp } else { Protocol::Tcp };
            let port = port.parse().unwrap();
            Open { peer: None, ports: Some(Ports { protocol, first: port, last: port }) }
        };
        let set = |all: &[&str]| -> BTreeSet<Open> { all.iter().map(|text| open(text)).collect() };
        let list = ListName(1);
        let (new, gone) =
            (|all| ListChange::New(Arc::new(List { entries: set(all) })), ListChange::Gone);
        let entries =
            |added, removed| ListChange::Entries { added: set(added), removed: set(removed) };
        let steps: [(ListChange, &[&str], &[&str]); 5] = [
            (new(&["tcp 1", "sctp 1"]), &["tcp 1"], &["sctp 1"]),
            (entries(&["sctp 2", "tcp 2"], &["tcp 1"]), &["tcp 2"], &["sctp 1", "sctp 2"]),
            (entries(&[], &["sctp 1"]), &["tcp 2"], &["sctp 2"]),
            (gone, &[], &[]),
            (new(&["tcp 3"]), &["tcp 3"], &[]),
        ];
        let mut kept = Kept::default();
        for (step, opened, shut) in steps {
            let change = Change { lists: [(list, step)].into(), ..Change::default() };
            follow(&mut kept, change, |open| {
                open.ports.is_some_and(|ports| ports.protocol != Protocol::Sctp)
            });
            let held = kept.firewall.lists.get(&list).map(|list| list.entries.clone());
            assert_eq!(held.unwrap_or_default(), set(opened));
            let is_shut: BTreeSet<Open> = kept.shut.iter().map(|(_, open)| *open).collect();
            assert_eq!(is_shut, set(shut));
        }
    }
}
