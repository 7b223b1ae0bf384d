//! A policy that was made before a pod is in force when the pod is attached, though policies are heard of
//! by another watch than pods. No order stands between two kinds of object, so it is asked for: once a pod of
//! this node is heard of, before the kubelet comes with it, the names and revisions of its namespace's
//! policies are read as they are now. The pod waits until all of these were heard. Pods that come
//! together share a read.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};
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

pub(super) const ASKED: &str = "the API server has yet to say which policies there are";

/// A pod by its name, and which of those that have it: its UID.
pub(super) type Asking = (ObjectName, String);

/// What the server says of the policies of one namespace, and for which pods it was asked.
pub(super) struct Answer {
    pods: Vec<Asking>,
    policies: Result<Vec<(ObjectName, u64)>, KubeError>,
}

/// Pods of this node, and the policies that they wait for.
#[derive(Default)]
pub(super) struct Fresh {
    /// For these the server is to be asked; for the others once again, at the time.
    unasked: BTreeSet<ObjectName>,
    refused: BTreeSet<ObjectName>,
    again: Option<Instant>,
    /// With their UIDs. None: the server has yet to answer. Nothing: it may be attached.
    pods: BTreeMap<ObjectName, (String, Option<BTreeMap<ObjectName, u64>>)>,
    /// Revisions of policies up to which they were heard of.
    heard: BTreeMap<ObjectName, u64>,
    /// Of these, those that went while an answer was awaited, which may still have them.
    gone: BTreeSet<ObjectName>,
}

impl Fresh {
    /// True if it is to wait: it was not heard of before.
    pub(super) fn pod(&mut self, name: &ObjectName, uid: &str) -> bool {
        if self.pods.get(name).is_some_and(|(known, _)| known == uid) {
            return false;
        }
        self.pods.insert(name.clone(), (uid.to_owned(), None));
        self.unasked.insert(name.clone());
        true
    }

    pub(super) fn pod_gone(&mut self, name: &ObjectName) {
        self.pods.remove(name);
        self.unasked.remove(name);
        self.refused.remove(name);
        self.forget_gone();
    }

    pub(super) fn is_to_ask(&self) -> bool {
        !(self.unasked.is_empty() && self.refused.is_empty())
    }

    /// Asks once there is room, or makes those that were refused ones to ask for when their time has come.
    pub(super) async fn ask(&mut self, asked: &mpsc::Sender<Vec<Asking>>) {
        if self.unasked.is_empty() {
            tokio::time::sleep_until(self.again.unwrap_or_else(Instant::now)).await;
            self.unasked.append(&mut self.refused);
        }
        let room = asked.reserve().await;
        let unasked = std::mem::take(&mut self.unasked);
        let uid = |pod: ObjectName| self.pods.get(&pod).map(|(uid, _)| (pod, uid.clone()));
        let pods = unasked.into_iter().filter_map(uid).collect();
        // Who reads lives as long as who asks.
        if let Ok(room) = room {
            room.send(pods);
        }
    }

    /// The pods that need not wait any more.
    pub(super) fn policy(&mut self, name: &ObjectName, revision: u64) -> Vec<ObjectName> {
        self.gone.remove(name);
        self.heard.insert(name.clone(), revision);
        self.has(name, revision)
    }

    /// The same: what had gone at the revision is not waited for.
    pub(super) fn policy_gone(&mut self, name: &ObjectName, revision: u64) -> Vec<ObjectName> {
        self.heard.insert(name.clone(), revision);
        self.gone.insert(name.clone());
        self.forget_gone();
        self.has(name, revision)
    }

    /// What an answer that is yet to come lacks need not be known.
    fn forget_gone(&mut self) {
        if self.pods.values().all(|(_, lacks)| lacks.is_some()) {
            let gone = std::mem::take(&mut self.gone);
            gone.iter().for_each(|name| _ = self.heard.remove(name));
        }
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
                if self.refused.is_empty() {
                    self.again = Some(Instant::now() + jitter(RETRY));
                }
                self.refused.extend(pods.iter().cloned());
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
        self.forget_gone();
        pods.into_iter().map(|pod| (pod, why.clone())).collect()
    }
}

/// Reads what is asked for.
pub(super) fn spawn(server: ApiServer) -> (mpsc::Sender<Vec<Asking>>, mpsc::Receiver<Answer>) {
    // What finds no room yet gathers, and shares a read.
    let (asked, pods) = mpsc::channel(1);
    let (told, answers) = mpsc::channel(AT_ONCE);
    tokio::spawn(run(server, pods, told));
    (asked, answers)
}

async fn run(
    server: ApiServer,
    mut asked: mpsc::Receiver<Vec<Asking>>,
    told: mpsc::Sender<Answer>,
) {
    let free = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    while let Some(pods) = asked.recv().await {
        let mut namespaces = BTreeMap::<_, Vec<Asking>>::new();
        for pod in pods {
            namespaces.entry(pod.0.namespace.clone()).or_default().push(pod);
        }
        for (namespace, pods) in namespaces {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            let (server, told) = (server.clone(), told.clone());
            tokio::spawn(async move {
                let policies = policies(&server, &namespace).await;
                // Who no longer listens needs no answer.
                let _ = told.send(Answer { pods, policies }).await;
                drop(permit);
            });
        }
    }
}

async fn policies(
    server: &ApiServer,
    namespace: &str,
) -> Result<Vec<(ObjectName, u64)>, KubeError> {
    let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
    let (policies, _) = list::<Bare>(server, &Collection::metadata(&path)).await?;
    let name = |name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
    Ok(policies.iter().map(|of| (name(&of.metadata.name), of.metadata.revision())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "ns".into(), name: name.into() }
    }

    fn answer(uid: &str, policies: &[(&str, u64)]) -> Answer {
        Answer {
            pods: vec![(name("p"), uid.to_owned())],
            policies: Ok(policies.iter().map(|(of, revision)| (name(of), *revision)).collect()),
        }
    }

    fn refusal(code: Option<u16>) -> Answer {
        let (what, server, why) = Default::default();
        let error = KubeError { what, server, why, code, object: false };
        Answer { pods: vec![(name("p"), "u".to_owned())], policies: Err(error) }
    }

    #[test]
    fn a_pod_waits_for_what_was_there_when_it_was_heard_of_and_for_nothing_else() {
        let mut fresh = Fresh::default();
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
        assert!(fresh.policy_gone(&name("c"), 5).is_empty());
        assert_eq!(fresh.policy(&name("b"), 8), [name("p")]);
    }

    #[test]
    fn what_went_while_the_answer_came_is_not_waited_for_and_what_was_made_anew_is() {
        let mut fresh = Fresh::default();
        fresh.pod(&name("p"), "u");
        fresh.policy(&name("a"), 5);
        fresh.policy(&name("b"), 6);
        assert!(fresh.policy_gone(&name("a"), 8).is_empty());
        assert!(fresh.policy_gone(&name("b"), 9).is_empty());
        // The server said so before `a` went, and after `b` was made anew.
        let lacks = fresh.answer(answer("u", &[("a", 5), ("b", 10)]));
        assert!(lacks[0].1.as_ref().unwrap().contains("NetworkPolicy ns/b is there"), "{lacks:?}");
        assert!(fresh.policy_gone(&name("b"), 9).is_empty(), "the one before went");
        assert_eq!(fresh.policy(&name("b"), 10), [name("p")]);
        assert_eq!(fresh.heard.keys().collect::<Vec<_>>(), [&name("b")], "no answer is awaited");
        assert!(fresh.policy_gone(&name("b"), 11).is_empty());
        assert!(fresh.heard.is_empty() && fresh.gone.is_empty());
    }

    #[test]
    fn a_server_that_is_away_stops_no_pod_and_one_that_refuses_does() {
        let mut fresh = Fresh::default();
        fresh.pod(&name("p"), "u");
        assert!(fresh.answer(refusal(Some(403)))[0].1.is_some());
        assert_eq!(fresh.answer(refusal(None)), [(name("p"), None)]);
    }

    #[tokio::test]
    async fn what_was_refused_is_asked_again_as_long_as_the_pod_is_there() {
        let (asked, mut asks) = mpsc::channel(1);
        let mut fresh = Fresh::default();
        assert!(!fresh.is_to_ask());
        fresh.pod(&name("p"), "u");
        for _ in 0..2 {
            assert!(fresh.is_to_ask());
            fresh.ask(&asked).await;
            assert_eq!(asks.try_recv().unwrap(), [(name("p"), "u".to_owned())]);
            assert!(!fresh.is_to_ask());
            let before = Instant::now();
            fresh.answer(refusal(Some(403)));
            assert!(fresh.again.unwrap() >= before + RETRY / 2);
        }
        fresh.pod_gone(&name("p"));
        assert!(!fresh.is_to_ask());
    }
}
