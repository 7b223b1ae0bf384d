//! What the cluster says of pods, namespaces and policies, heard for as long as the agent runs, and
//! handed to whom it concerns. Pods are followed once for all uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use weft_core::{
    attachment::PodName,
    policy::{cluster::ObjectName, impossible},
};

use super::{
    ApiServer,
    events::{Events, Regarding},
    follow::{Collection, Told, follow},
    objects::{Asks, SeenNamespace, SeenPod, SeenPolicy},
    status::Statuses,
};
use crate::agent::{Agent, policy::Said};

pub const PODS: &str = "/api/v1/pods";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
/// Changes that are taken in at once.
const AT_ONCE: usize = 256;

/// The cluster as this node sees it.
pub struct Cluster {
    pub server: ApiServer,
    pub events: Events,
    pub statuses: Statuses,
    node: String,
    /// Pods of this node that ask for networks.
    asking: Mutex<BTreeMap<ObjectName, (String, Arc<Asks>)>>,
}

/// Which kinds were listed in full.
#[derive(Default)]
struct Listed {
    pods: bool,
    namespaces: bool,
    policies: bool,
}

impl Cluster {
    pub fn new(server: ApiServer, node: &str, runtime: &tokio::runtime::Handle) -> Self {
        Self {
            events: Events::spawn(server.clone(), node.to_owned(), runtime),
            statuses: Statuses::spawn(server.clone(), runtime),
            node: node.to_owned(),
            asking: Mutex::default(),
            server,
        }
    }

    fn asking(&self) -> MutexGuard<'_, BTreeMap<ObjectName, (String, Arc<Asks>)>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pod of this node asks for, and its own UID. A pod that is known and asks for nothing is
    /// not among them.
    pub fn asks(&self, pod: &PodName) -> Option<(String, Arc<Asks>)> {
        let name =
            ObjectName { namespace: pod.namespace.as_str().into(), name: pod.name.as_str().into() };
        self.asking().get(&name).cloned()
    }

    fn note(&self, pod: &SeenPod) {
        let here = pod.pod.node.as_ref().is_some_and(|node| node.as_str() == self.node);
        let mut asking = self.asking();
        match pod.asks.as_ref().filter(|_| here) {
            Some(asks) => {
                let asks = (pod.meta.uid.clone(), Arc::new(Asks::clone(asks)));
                asking.insert(pod.name.clone(), asks);
            }
            None => _ = asking.remove(&pod.name),
        }
    }
}

/// Follows the cluster for as long as the agent runs.
pub fn spawn(agent: &Arc<Agent>, runtime: &tokio::runtime::Handle) {
    let Some(cluster) = &agent.cluster else { return };
    let (server, agent) = (cluster.server.clone(), agent.clone());
    runtime.spawn(async move {
        let pods = follow::<SeenPod>(server.clone(), Collection::all(PODS));
        let namespaces = follow::<SeenNamespace>(server.clone(), Collection::all(NAMESPACES));
        let policies = follow::<SeenPolicy>(server.clone(), Collection::all(POLICIES));
        hear(agent, pods, namespaces, policies).await;
    });
}

async fn hear(
    agent: Arc<Agent>,
    mut pods: mpsc::Receiver<Told<SeenPod>>,
    mut namespaces: mpsc::Receiver<Told<SeenNamespace>>,
    mut policies: mpsc::Receiver<Told<SeenPolicy>>,
) {
    let mut listed = Listed::default();
    let mut known = Known::default();
    let (mut of_pods, mut of_namespaces, mut of_policies) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let heard = tokio::select! {
            heard = pods.recv_many(&mut of_pods, AT_ONCE) => heard,
            heard = namespaces.recv_many(&mut of_namespaces, AT_ONCE) => heard,
            heard = policies.recv_many(&mut of_policies, AT_ONCE) => heard,
        };
        if heard == 0 {
            return;
        }
        let whole = [&mut listed.pods, &mut listed.namespaces, &mut listed.policies];
        let lists = [lists(&of_pods), lists(&of_namespaces), lists(&of_policies)];
        whole.into_iter().zip(lists).for_each(|(whole, lists)| *whole |= lists);
        let heard = Heard {
            pods: std::mem::take(&mut of_pods),
            namespaces: std::mem::take(&mut of_namespaces),
            policies: std::mem::take(&mut of_policies),
        };
        take(&agent, heard, &mut known, &listed);
        if lists.contains(&true) {
            weft_linux::memory::give_back();
        }
        known.complain(&agent);
    }
}

fn lists<T>(told: &[Told<T>]) -> bool {
    told.iter().any(|told| matches!(told, Told::List { .. }))
}

struct Heard {
    pods: Vec<Told<SeenPod>>,
    namespaces: Vec<Told<SeenNamespace>>,
    policies: Vec<Told<SeenPolicy>>,
}

/// What was said of, to tell after a break what is gone.
#[derive(Default)]
struct Known {
    pods: BTreeSet<ObjectName>,
    namespaces: BTreeSet<String>,
    policies: BTreeSet<ObjectName>,
    /// Those with something that can't be: what it is, and what an event on it needs.
    flawed: BTreeMap<ObjectName, (Regarding, String)>,
}

fn take(agent: &Agent, heard: Heard, known: &mut Known, listed: &Listed) {
    let (Some(policies), Some(cluster)) = (&agent.policies, &agent.cluster) else { return };
    policies.hear(agent, |said| {
        heard.pods.into_iter().for_each(|told| known.pod(said, cluster, told));
        heard.namespaces.into_iter().for_each(|told| known.namespace(said, told));
        heard.policies.into_iter().for_each(|told| known.policy(said, told));
        if listed.pods && listed.namespaces && listed.policies {
            said.listed();
        }
    });
}

impl Known {
    fn pod(&mut self, said: &mut Said, cluster: &Cluster, told: Told<SeenPod>) {
        let gone = |said: &mut Said, name: &ObjectName| {
            said.pod(name, None);
            cluster.asking().remove(name);
        };
        match told {
            Told::List { objects, .. } => {
                let is: BTreeSet<_> = objects.iter().map(|pod| pod.name.clone()).collect();
                self.pods.difference(&is).for_each(|name| gone(said, name));
                self.pods = is;
                objects.into_iter().for_each(|pod| put(said, cluster, pod));
            }
            Told::Put(pod) => {
                self.pods.insert(pod.name.clone());
                put(said, cluster, pod);
            }
            Told::Gone(pod) => {
                self.pods.remove(&pod.name);
                gone(said, &pod.name);
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "pods"),
        }
    }

    fn namespace(&mut self, said: &mut Said, told: Told<SeenNamespace>) {
        match told {
            Told::List { objects, .. } => {
                let is: BTreeSet<_> =
                    objects.iter().map(|object| object.meta.name.clone()).collect();
                self.namespaces.difference(&is).for_each(|name| said.namespace(name, None));
                self.namespaces = is;
                objects.into_iter().for_each(|of| said.namespace(&of.meta.name, Some(of.labels)));
            }
            Told::Put(of) => {
                said.namespace(&of.meta.name, Some(of.labels));
                self.namespaces.insert(of.meta.name);
            }
            Told::Gone(of) => {
                said.namespace(&of.meta.name, None);
                self.namespaces.remove(&of.meta.name);
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "namespaces"),
        }
    }

    fn policy(&mut self, said: &mut Said, told: Told<SeenPolicy>) {
        match told {
            Told::List { objects, .. } => {
                let is: BTreeSet<_> = objects.iter().map(|policy| policy.name.clone()).collect();
                self.policies.difference(&is).for_each(|name| said.policy(name, None));
                self.policies = is;
                self.flawed.clear();
                objects.into_iter().for_each(|policy| self.put_policy(said, policy));
            }
            Told::Put(policy) => self.put_policy(said, policy),
            Told::Gone(policy) => {
                self.policies.remove(&policy.name);
                self.flawed.remove(&policy.name);
                said.policy(&policy.name, None);
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "network policies"),
        }
    }

    fn put_policy(&mut self, said: &mut Said, policy: SeenPolicy) {
        let mut flaws: Vec<String> = impossible(&policy.spec)
            .iter()
            .map(|part| format!("{}: {}", part.at, part.why))
            .collect();
        flaws.extend(policy.unread.iter().map(|why| format!("spec: {why}")));
        if flaws.is_empty() {
            self.flawed.remove(&policy.name);
        } else {
            let note = format!("{}; what can't be opens nothing", flaws.join("; "));
            let flawed = (Regarding::policy(&policy.meta), note);
            self.flawed.insert(policy.name.clone(), flawed);
        }
        self.policies.insert(policy.name.clone());
        said.policy(&policy.name, Some(policy.spec));
    }

    /// Says on policies that select a pod of this node what of them can't be.
    fn complain(&self, agent: &Agent) {
        if self.flawed.is_empty() {
            return;
        }
        let (Some(policies), Some(cluster)) = (&agent.policies, &agent.cluster) else { return };
        let here = policies.selecting();
        for (_, (regarding, note)) in self.flawed.iter().filter(|(name, _)| here.contains(*name)) {
            cluster.events.warn(regarding.clone(), "ImpossibleRule", note);
        }
    }
}

fn put(said: &mut Said, cluster: &Cluster, pod: SeenPod) {
    cluster.note(&pod);
    said.pod(&pod.name, Some(pod.pod));
}

fn away<T>(told: &Told<T>, what: &str) {
    match told {
        Told::Away { why } => tracing::warn!(why, "{what} are not heard of; what is known stays"),
        Told::Back => tracing::info!("{what} are heard of again"),
        _ => {}
    }
}
