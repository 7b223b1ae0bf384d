//! Tells pods which networks they were given, by their annotation. No ADD waits for it.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_core::selection::STATUS;

use super::{ApiServer, client::jitter};

/// More that wait are dropped, and said in the log.
const WAITING_MAX: usize = 512;
const TRIES_MAX: usize = 6;
/// Before the second try; doubles, with jitter.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Pods that are told at the same time.
const AT_ONCE: usize = 8;

/// What one pod was given.
#[derive(Clone, Debug)]
pub struct Status {
    pub namespace: String,
    pub name: String,
    /// Another pod of the name is not told.
    pub uid: String,
    pub text: String,
}

/// Where it is handed in.
#[derive(Clone)]
pub struct Statuses(mpsc::Sender<Status>);

impl Statuses {
    pub fn spawn(server: ApiServer, runtime: &tokio::runtime::Handle) -> Self {
        let (statuses, waiting) = mpsc::channel(WAITING_MAX);
        runtime.spawn(run(server, waiting));
        Self(statuses)
    }

    pub fn tell(&self, status: Status) {
        if let Err(error) = self.0.try_send(status) {
            tracing::warn!(%error, "a pod is not told of its networks: too many wait");
        }
    }
}

async fn run(server: ApiServer, mut waiting: mpsc::Receiver<Status>) {
    let free = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    while let Some(status) = waiting.recv().await {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let server = server.clone();
        tokio::spawn(async move {
            tell(&server, &status).await;
            drop(permit);
        });
    }
}

async fn tell(server: &ApiServer, status: &Status) {
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
    let mut wait = RETRY_FIRST;
    for again in 1..=TRIES_MAX {
        let Err(error) = server.ask("tell a pod its networks", patch).await else { return };
        // It is gone, or another has its name: a UID that differs is taken for one that is to be changed.
        if error.is_missing_object() || matches!(error.code, Some(409 | 422)) {
            return;
        }
        if again == TRIES_MAX
            || error.code.is_some_and(|code| (400..500).contains(&code) && code != 429)
        {
            tracing::warn!(%error, pod = format!("{namespace}/{name}"), "a pod is not told of its networks");
            return;
        }
        tokio::time::sleep(jitter(wait)).await;
        wait *= 2;
    }
}
