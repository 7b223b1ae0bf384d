//! Tells pods which networks they were given, by their annotation. No ADD waits for it. One pod is told
//! one thing at a time, and the last word is the last.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_core::selection::STATUS;

use super::{ApiServer, KubeError, client::jitter};

/// More that wait are dropped, and said in the log.
const WAITING_MAX: usize = 512;
const TRIES_MAX: usize = 6;
/// Before the second try; doubles, with jitter.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Pods that are told at the same time.
const AT_ONCE: usize = 8;

/// What one pod was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub namespace: String,
    pub name: String,
    /// Another pod of the name is not told.
    pub uid: String,
    pub text: String,
}

/// Namespace and name.
type Pod = (String, String);

/// Where it is handed in.
#[derive(Clone)]
pub struct Statuses {
    latest: Arc<Latest>,
    pods: mpsc::Sender<Pod>,
}

/// What each pod is yet to be told.
#[derive(Default)]
struct Latest(Mutex<BTreeMap<Pod, Status>>);

impl Latest {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Pod, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if there is nothing newer, and this need not be told any more.
    fn settled(&self, pod: &Pod, told: &Status) -> bool {
        let mut all = self.all();
        let last = all.get(pod).is_none_or(|latest| latest == told);
        if last {
            all.remove(pod);
        }
        last
    }
}

impl Statuses {
    pub fn spawn(server: ApiServer, runtime: &tokio::runtime::Handle) -> Self {
        let (pods, waiting) = mpsc::channel(WAITING_MAX);
        let latest = Arc::new(Latest::default());
        runtime.spawn(run(server, latest.clone(), waiting));
        Self { latest, pods }
    }

    pub fn tell(&self, status: Status) {
        let pod = (status.namespace.clone(), status.name.clone());
        let mut all = self.latest.all();
        // Whoever is at it already tells this next.
        if all.insert(pod.clone(), status).is_none()
            && let Err(error) = self.pods.try_send(pod.clone())
        {
            all.remove(&pod);
            tracing::warn!(%error, "a pod is not told of its networks: too many wait");
        }
    }
}

async fn run(server: ApiServer, latest: Arc<Latest>, mut waiting: mpsc::Receiver<Pod>) {
    let free = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    while let Some(pod) = waiting.recv().await {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let (server, latest) = (server.clone(), latest.clone());
        tokio::spawn(async move {
            tell(&server, &latest, &pod).await;
            drop(permit);
        });
    }
}

async fn tell(server: &ApiServer, latest: &Latest, pod: &Pod) {
    let (mut last, mut tries, mut wait) = (None, 0, RETRY_FIRST);
    loop {
        let Some(status) = latest.all().get(pod).cloned() else { return };
        if last.replace(status.clone()).as_ref() != Some(&status) {
            (tries, wait) = (0, RETRY_FIRST);
        }
        tries += 1;
        let failed = write(server, &status).await.err();
        let again = failed.as_ref().is_some_and(|error| tries < TRIES_MAX && passes(error));
        if again {
            tokio::time::sleep(jitter(wait)).await;
            wait *= 2;
            continue;
        }
        // It is gone, or another has its name: a UID that differs is taken for one that is to be changed.
        let gone =
            |error: &KubeError| error.is_missing_object() || matches!(error.code, Some(409 | 422));
        if let Some(error) = failed.filter(|error| !gone(error)) {
            tracing::warn!(%error, pod = format!("{}/{}", pod.0, pod.1), "a pod is not told of its networks");
        }
        if latest.settled(pod, &status) {
            return;
        }
    }
}

/// True of what may be otherwise in a moment.
fn passes(error: &KubeError) -> bool {
    error.code.is_none_or(|code| !(400..500).contains(&code) || code == 429)
}

async fn write(server: &ApiServer, status: &Status) -> Result<(), KubeError> {
    let Status { namespace, name, uid, text } = status;
    // Of all rights that would do, `patch` on `pods/status` lets one do least: no pod can be made to run
    // anything by it.
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
    let body = json!({"metadata": {"uid": uid, "annotations": {STATUS: text}}}).to_string();
    let patch = |client: Client| {
        let request = axum::http::Request::patch(&path)
            .header("content-type", "application/merge-patch+json")
            .body(body.clone().into_bytes());
        async move { client.request::<Value>(request.map_err(kube::Error::HttpError)?).await }
    };
    server.ask("tell a pod its networks", patch).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_meanwhile_is_told_after() {
        let latest = Latest::default();
        let pod = ("ns".to_owned(), "p".to_owned());
        let status = |text: &str| Status {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            text: text.into(),
        };
        latest.all().insert(pod.clone(), status("first"));
        latest.all().insert(pod.clone(), status("second"));
        assert!(!latest.settled(&pod, &status("first")));
        assert!(latest.settled(&pod, &status("second")) && latest.all().is_empty());
    }
}
