//! What the cluster says of pods, namespaces and policies, heard for as long as the agent runs, and
//! handed to whom it concerns. Pods are followed once for all uses.

use std::{
    collections::BTreeMap,
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
    follow::{Collection, Page, Present, Told, follow},
    fresh::{self, Answer, Asking, Fresh},
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

    fn is_here(&self, pod: &SeenPod) -> bool {
        pod.pod.node.as_ref().is_some_and(|node| node.as_str() == self.node)
    }

    fn note(&self, pod: &SeenPod) {
        let here = self.is_here(pod);
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
        let heard = Heard {
            pods: follow(server.clone(), Collection::all(PODS)),
            namespaces: follow(server.clone(), Collection::all(NAMESPACES)),
            policies: follow(server.clone(), Collection::all(POLICIES)),
        };
        let (asked, answers) = fresh::spawn(server);
        hear(agent, heard, asked, answers).await;
    });
}

struct Heard {
    pods: mpsc::Receiver<Told<SeenPod>>,
    namespaces: mpsc::Receiver<Told<SeenNamespace>>,
    policies: mpsc::Receiver<Told<SeenPolicy>>,
}

/// What came of one kind or another, of several at once.
#[derive(Default)]
struct News {
    pods: Vec<Told<SeenPod>>,
    namespaces: Vec<Told<SeenNamespace>>,
    policies: Vec<Told<SeenPolicy>>,
    answers: Vec<Answer>,
}

async fn hear(
    agent: Arc<Agent>,
    mut from: Heard,
    asked: mpsc::Sender<Vec<Asking>>,
    mut answers: mpsc::Receiver<Answer>,
) {
    let (mut news, mut known) = (News::default(), Known::default());
    loop {
        let fresh = &mut known.fresh;
        let heard = tokio::select! {
            heard = from.pods.recv_many(&mut news.pods, AT_ONCE) => heard,
            heard = from.namespaces.recv_many(&mut news.namespaces, AT_ONCE) => heard,
            heard = from.policies.recv_many(&mut news.policies, AT_ONCE) => heard,
            heard = answers.recv_many(&mut news.answers, AT_ONCE) => heard,
            () = fresh.ask(&asked), if fresh.is_to_ask() => continue,
        };
        if heard == 0 {
            return;
        }
        if take(&agent, &mut news, &mut known) {
            weft_linux::memory::give_back();
        }
        known.complain(&agent);
    }
}

/// What was said of, to tell after a break what is gone.
#[derive(Default)]
struct Known {
    pods: Present<ObjectName>,
    namespaces: Present<String>,
    policies: Present<ObjectName>,
    /// Those with something that can't be: what it is, and what an event on it needs.
    flawed: BTreeMap<ObjectName, (Regarding, String)>,
    fresh: Fresh,
    /// Kinds of which there was a list in full: pods, namespaces, policies.
    listed: [bool; 3],
}

/// True if a list has ended.
fn take(agent: &Agent, news: &mut News, known: &mut Known) -> bool {
    let (Some(policies), Some(cluster)) = (&agent.policies, &agent.cluster) else { return false };
    let mut ended = false;
    policies.hear(agent, |said| {
        news.policies.drain(..).for_each(|told| ended |= known.policy(said, told));
        news.namespaces.drain(..).for_each(|told| ended |= known.namespace(said, told));
        news.pods.drain(..).for_each(|told| ended |= known.pod(said, cluster, told));
        news.answers.drain(..).for_each(|answer| known.answer(said, answer));
        if known.listed == [true; 3] {
            said.listed();
        }
    });
    ended
}

impl Known {
    fn pod(&mut self, said: &mut Said, cluster: &Cluster, told: Told<SeenPod>) -> bool {
        match told {
            Told::Page(Page { objects, first, last }) => {
                if first {
                    self.pods.begin();
                }
                objects.into_iter().for_each(|pod| self.put_pod(said, cluster, pod));
                if last.is_some() {
                    self.pods.end().iter().for_each(|name| self.pod_gone(said, cluster, name));
                    self.listed[0] = true;
                }
                return last.is_some();
            }
            Told::Put(pod) => self.put_pod(said, cluster, pod),
            Told::Gone(pod) => {
                self.pods.gone(&pod.name);
                self.pod_gone(said, cluster, &pod.name);
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "pods"),
        }
        false
    }

    fn put_pod(&mut self, said: &mut Said, cluster: &Cluster, pod: SeenPod) {
        cluster.note(&pod);
        if cluster.is_here(&pod) {
            let waits = pod.pod.addrs.is_empty() && self.fresh.pod(&pod.name, &pod.meta.uid);
            if waits {
                said.hold(&pod.name, fresh::ASKED.into());
            }
        }
        self.pods.put(pod.name.clone());
        said.pod(&pod.name, Some(pod.pod));
    }

    fn pod_gone(&mut self, said: &mut Said, cluster: &Cluster, name: &ObjectName) {
        self.fresh.pod_gone(name);
        said.release(name);
        said.pod(name, None);
        cluster.asking().remove(name);
    }

    fn namespace(&mut self, said: &mut Said, told: Told<SeenNamespace>) -> bool {
        match told {
            Told::Page(Page { objects, first, last }) => {
                if first {
                    self.namespaces.begin();
                }
                objects.into_iter().for_each(|of| self.put_namespace(said, of));
                if last.is_some() {
                    self.namespaces.end().iter().for_each(|name| said.namespace(name, None));
                    self.listed[1] = true;
                }
                return last.is_some();
            }
            Told::Put(of) => self.put_namespace(said, of),
            Told::Gone(of) => {
                said.namespace(&of.meta.name, None);
                self.namespaces.gone(&of.meta.name);
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "namespaces"),
        }
        false
    }

    fn put_namespace(&mut self, said: &mut Said, of: SeenNamespace) {
        said.namespace(&of.meta.name, Some(of.labels));
        self.namespaces.put(of.meta.name);
    }

    fn policy(&mut self, said: &mut Said, told: Told<SeenPolicy>) -> bool {
        match told {
            Told::Page(Page { objects, first, last }) => {
                if first {
                    self.policies.begin();
                }
                objects.into_iter().for_each(|policy| self.put_policy(said, policy));
                if let Some(revision) = last {
                    let gone = self.policies.end();
                    gone.iter().for_each(|name| self.policy_gone(said, name, revision));
                    self.listed[2] = true;
                }
                return last.is_some();
            }
            Told::Put(policy) => self.put_policy(said, policy),
            Told::Gone(policy) => {
                self.policies.gone(&policy.name);
                self.policy_gone(said, &policy.name, policy.meta.revision());
            }
            Told::Away { .. } | Told::Back | Told::At(_) => away(&told, "network policies"),
        }
        false
    }

    fn policy_gone(&mut self, said: &mut Said, name: &ObjectName, revision: u64) {
        self.flawed.remove(name);
        self.fresh.policy_gone(name, revision).iter().for_each(|pod| said.release(pod));
        said.policy(name, None);
    }

    /// What the server has of policies of a namespace, as it was after some pods were made.
    fn answer(&mut self, said: &mut Said, answer: Answer) {
        for (pod, lacks) in self.fresh.answer(answer) {
            match lacks {
                Some(why) => said.hold(&pod, why),
                None => said.release(&pod),
            }
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
        let known = self.fresh.policy(&policy.name, policy.meta.revision());
        known.iter().for_each(|pod| said.release(pod));
        self.policies.put(policy.name.clone());
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

fn away<T>(told: &Told<T>, what: &str) {
    match told {
        Told::Away { why } => tracing::warn!(why, "{what} are not heard of; what is known stays"),
        Told::Back => tracing::info!("{what} are heard of again"),
        _ => {}
    }
}
