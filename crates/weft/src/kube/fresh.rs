//! A policy that was made before a pod is in force when the pod is attached, though policies are heard of
//! by another watch than pods. No order stands between two kinds of object, so it is asked for: once a pod of
//! this node is heard of, before the kubelet comes with it, the names and revisions of its namespace's
//! policies are read as they are now. The pod waits until all of these were heard. Pods that come
//! together share a read.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{sync::mpsc, time::Duration};
use weft_core::policy::cluster::ObjectName;

use super::{
    ApiServer, KubeError,
    client::jitter,
    follow::{Bare, Collection, list},
};

/// Before the server is asked again what it refused to say.
const RETRY: Duration = Duration::from_secs(1);
/// Namespaces that are read at the same time.
const AT_ONCE: usize = 8;
/// Pods that are asked for in one go.
const TOGETHER: usize = 256;

pub(super) const ASKED: &str = "the API server has yet to say which policies there are";

/// A pod by its name, and which of those that have it: its UID.
type Asking = (ObjectName, String);

/// What the server says of the policies of one namespace, and for which pods it was asked.
pub(super) struct Answer {
    pods: Vec<Asking>,
    policies: Result<Vec<(ObjectName, u64)>, KubeError>,
}

/// Pods of this node, and the policies that they wait for.
#[derive(Default)]
pub(super) struct Fresh {
    asked: Option<mpsc::UnboundedSender<Asking>>,
    /// With their UIDs. None: the server has yet to answer. Nothing: it may be attached.
    pods: BTreeMap<ObjectName, (String, Option<BTreeMap<ObjectName, u64>>)>,
    /// Revisions of policies, as they were heard of.
    heard: BTreeMap<ObjectName, u64>,
}

impl Fresh {
    pub(super) fn new(asked: mpsc::UnboundedSender<Asking>) -> Self {
        Self { asked: Some(asked), ..Self::default() }
    }

    /// True if it is to wait: it was not heard of before.
    pub(super) fn pod(&mut self, name: &ObjectName, uid: &str) -> bool {
        if self.pods.get(name).is_some_and(|(known, _)| known == uid) {
            return false;
        }
        self.pods.insert(name.clone(), (uid.to_owned(), None));
        let asking = (name.clone(), uid.to_owned());
        self.asked.iter().for_each(|asked| drop(asked.send(asking.clone())));
        true
    }

    pub(super) fn pod_gone(&mut self, name: &ObjectName) {
        self.pods.remove(name);
    }

    /// The pods that need not wait any more.
    pub(super) fn policy(&mut self, name: &ObjectName, revision: u64) -> Vec<ObjectName> {
        self.heard.insert(name.clone(), revision);
        self.has(name, revision)
    }

    /// The same: what is gone is not waited for.
    pub(super) fn policy_gone(&mut self, name: &ObjectName) -> Vec<ObjectName> {
        self.heard.remove(name);
        self.has(name, u64::MAX)
    }

    fn has(&mut self, name: &ObjectName, revision: u64) -> Vec<ObjectName> {
        let mut done = Vec::new();
        for (pod, (_, lacks)) in &mut self.pods {
            let Some(lacks) = lacks else { continue };
            if lacks.get(name).is_some_and(|needed| *needed <= revision) {
                lacks.remove(name);
                if lacks.is_empty() {
                    done.push(pod.clone());
                }
            }
        }
        done
    }

    /// What each pod still waits for.
    pub(super) fn answer(&mut self, answer: Answer) -> Vec<(ObjectName, Option<String>)> {
        // A pod may have gone meanwhile, and another have its name.
        let here = |(pod, uid): &Asking| self.pods.get(pod).is_some_and(|(known, _)| known == uid);
        let pods = answer.pods.into_iter().filter(here).map(|(pod, _)| pod).collect::<Vec<_>>();
        let lacks = match &answer.policies {
            Ok(policies) => {
                let unheard = |(name, revision): &&(ObjectName, u64)| {
                    self.heard.get(name).is_none_or(|heard| heard < revision)
                };
                policies.iter().filter(unheard).cloned().collect::<BTreeMap<_, _>>()
            }
            // It is away: what was heard before counts, as for everything else.
            Err(error) if error.code.is_none() => BTreeMap::new(),
            Err(error) => {
                let asked = |pod: ObjectName| (pod, Some(error.to_string()));
                return pods.into_iter().map(asked).collect();
            }
        };
        let why = lacks.keys().next().map(|name| {
            format!(
                "NetworkPolicy {name} is there, and was not heard of yet: their watch is behind"
            )
        });
        for pod in &pods {
            if let Some((_, waits)) = self.pods.get_mut(pod) {
                *waits = Some(lacks.clone());
            }
        }
        pods.into_iter().map(|pod| (pod, why.clone())).collect()
    }
}

/// Reads what is asked for.
pub(super) fn spawn(
    server: ApiServer,
) -> (mpsc::UnboundedSender<Asking>, mpsc::UnboundedReceiver<Answer>) {
    let (asked, pods) = mpsc::unbounded_channel();
    let (told, answers) = mpsc::unbounded_channel();
    tokio::spawn(run(server, pods, told));
    (asked, answers)
}

async fn run(
    server: ApiServer,
    mut asked: mpsc::UnboundedReceiver<Asking>,
    told: mpsc::UnboundedSender<Answer>,
) {
    let free = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut pods = Vec::new();
    while asked.recv_many(&mut pods, TOGETHER).await > 0 {
        let mut namespaces = BTreeMap::<_, BTreeSet<Asking>>::new();
        for pod in pods.drain(..) {
            namespaces.entry(pod.0.namespace.clone()).or_default().insert(pod);
        }
        for (namespace, pods) in namespaces {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            let (server, told, pods) = (server.clone(), told.clone(), pods.into_iter().collect());
            tokio::spawn(async move {
                ask(&server, &told, &namespace, pods).await;
                drop(permit);
            });
        }
    }
}

/// A server that refuses to say is asked until it does.
async fn ask(
    server: &ApiServer,
    told: &mpsc::UnboundedSender<Answer>,
    namespace: &str,
    pods: Vec<Asking>,
) {
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    loop {
        let listed = list::<Bare>(server, &Collection::metadata(&path)).await;
        let again = listed.as_ref().is_err_and(|error| error.code.is_some());
        let policies = listed.map(|(policies, _)| {
            let name = |name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
            policies.iter().map(|of| (name(&of.metadata.name), of.metadata.revision())).collect()
        });
        if told.send(Answer { pods: pods.clone(), policies }).is_err() || !again {
            return;
        }
        tokio::time::sleep(jitter(RETRY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "ns".into(), name: name.into() }
    }

    #[test]
    fn a_pod_waits_for_what_was_there_when_it_was_heard_of_and_for_nothing_else() {
        let mut fresh = Fresh::default();
        let answer = |uid: &str, policies: &[(&str, u64)]| Answer {
            pods: vec![(name("p"), uid.to_owned())],
            policies: Ok(policies.iter().map(|(of, revision)| (name(of), *revision)).collect()),
        };
        assert!(fresh.pod(&name("p"), "u") && !fresh.pod(&name("p"), "u"));
        assert!(fresh.policy(&name("a"), 5).is_empty(), "it has yet to be told what to wait for");
        assert_eq!(fresh.answer(answer("u", &[("a", 5)])), [(name("p"), None)]);
        // Another pod of the name.
        assert!(fresh.pod(&name("p"), "v"));
        assert_eq!(fresh.answer(answer("u", &[])), [], "it was asked for the one before");
        let lacks = fresh.answer(answer("v", &[("a", 6), ("b", 7), ("c", 4)]));
        assert!(lacks[0].1.as_ref().unwrap().contains("NetworkPolicy ns/a is there"), "{lacks:?}");
        assert!(fresh.policy(&name("a"), 6).is_empty());
        assert!(fresh.policy(&name("b"), 6).is_empty(), "as it was before");
        assert!(fresh.policy_gone(&name("c")).is_empty());
        assert_eq!(fresh.policy(&name("b"), 8), [name("p")]);
    }

    #[test]
    fn a_server_that_is_away_stops_no_pod_and_one_that_refuses_does() {
        let mut fresh = Fresh::default();
        let answer = |code| {
            let (what, server, why) = Default::default();
            let error = KubeError { what, server, why, code, object: false };
            Answer { pods: vec![(name("p"), "u".to_owned())], policies: Err(error) }
        };
        fresh.pod(&name("p"), "u");
        assert!(fresh.answer(answer(Some(403)))[0].1.is_some());
        assert_eq!(fresh.answer(answer(None)), [(name("p"), None)]);
    }
}
