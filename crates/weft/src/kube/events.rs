//! Events on objects, for their users to see: few, each once in a while, and never waited for.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{ApiServer, follow::Meta};

/// More that wait are dropped, and said in the log.
const WAITING_MAX: usize = 256;
/// The same is not said again within this time.
const AGAIN: Duration = Duration::from_secs(300);
/// What is remembered of what was said.
const SAID_MAX: usize = 1024;
/// So many at once, and then one in this time.
const BURST: u32 = 25;
const EACH: Duration = Duration::from_secs(2);
/// As much as Kubernetes takes (`NoteLengthLimit`).
const NOTE_MAX: usize = 1024;

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regarding {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Regarding {
    pub fn pod(namespace: &str, name: &str, uid: &str) -> Self {
        let (namespace, name, uid) = (namespace.into(), name.into(), uid.into());
        Self { api_version: "v1", kind: "Pod", namespace, name, uid }
    }
    /// Of the cluster, and of no namespace.
    pub fn network(meta: &Meta) -> Self {
        let (namespace, name, uid) = (String::new(), meta.name.clone(), meta.uid.clone());
        Self { api_version: "weft.network/v1", kind: "Network", namespace, name, uid }
    }
    pub fn policy(meta: &Meta) -> Self {
        Self {
            api_version: "networking.k8s.io/v1",
            kind: "NetworkPolicy",
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Warning {
    regarding: Regarding,
    reason: &'static str,
    note: String,
}

/// Where events are handed in.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Warning>);

impl Events {
    pub fn spawn(server: ApiServer, node: String, runtime: &tokio::runtime::Handle) -> Self {
        let (events, waiting) = mpsc::channel(WAITING_MAX);
        runtime.spawn(run(server, node, waiting));
        Self(events)
    }

    /// Says what is wrong with an object, unless it was just said.
    pub fn warn(&self, regarding: Regarding, reason: &'static str, note: &str) {
        let cut = (0..=NOTE_MAX.min(note.len())).rev().find(|at| note.is_char_boundary(*at));
        let note = note[..cut.unwrap_or(0)].to_owned();
        if let Err(error) = self.0.try_send(Warning { regarding, reason, note }) {
            tracing::warn!(%error, "an event is not said: too many wait");
        }
    }
}

/// Which may be said.
#[derive(Default)]
struct Bounds {
    said: VecDeque<(Instant, Warning)>,
    /// Said in a row, of which each is forgiven after a while.
    spent: Duration,
    last: Option<Instant>,
}

impl Bounds {
    /// None: it was said. Else how long it has to wait.
    fn ask(&mut self, warning: &Warning, now: Instant) -> Option<Duration> {
        self.said.retain(|(when, _)| now.duration_since(*when) < AGAIN);
        if self.said.iter().any(|(_, said)| said == warning) {
            return None;
        }
        self.said.truncate(SAID_MAX - 1);
        self.said.push_front((now, warning.clone()));
        let passed = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.spent = self.spent.saturating_sub(passed) + EACH;
        self.last = Some(now);
        Some(self.spent.saturating_sub(EACH * BURST))
    }
}

async fn run(server: ApiServer, node: String, mut waiting: mpsc::Receiver<Warning>) {
    let mut bounds = Bounds::default();
    while let Some(warning) = waiting.recv().await {
        let Some(wait) = bounds.ask(&warning, Instant::now()) else { continue };
        tokio::time::sleep(wait).await;
        let body = body(&warning, &node);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", namespace(&warning));
        let post = |client: Client| {
            let request = axum::http::Request::post(&path)
                .header("content-type", "application/json")
                .body(body.to_string().into_bytes());
            async move { client.request::<Value>(request.map_err(kube::Error::HttpError)?).await }
        };
        if let Err(error) = server.ask("say an event", post).await {
            // Such as one of a namespace that goes, or that came after all.
            tracing::warn!(%error, note = warning.note, "an event was not taken");
        }
    }
}

/// Where the event is: what is of no namespace is spoken of in `default`.
fn namespace(warning: &Warning) -> &str {
    Some(warning.regarding.namespace.as_str()).filter(|name| !name.is_empty()).unwrap_or("default")
}

fn body(warning: &Warning, node: &str) -> Value {
    let now = k8s_openapi::jiff::Timestamp::now();
    let Warning { regarding, reason, note } = warning;
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "generateName": format!("{}-", regarding.name.get(..200).unwrap_or(&regarding.name)),
            "namespace": namespace(warning),
        },
        "eventTime": format!("{now:.6}"),
        "type": "Warning",
        "action": "Network",
        "reason": reason,
        "note": note,
        "reportingController": "weft.network/agent",
        "reportingInstance": node.get(..128).unwrap_or(node),
        "regarding": {
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "namespace": regarding.namespace,
            "name": regarding.name,
            "uid": regarding.uid,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_not_too_much_at_once() {
        let warning = |note: &str| Warning {
            regarding: Regarding::pod("ns", "p", "u"),
            reason: "R",
            note: note.into(),
        };
        let (mut bounds, start) = (Bounds::default(), Instant::now());
        assert_eq!(bounds.ask(&warning("a"), start), Some(Duration::ZERO));
        assert_eq!(bounds.ask(&warning("a"), start + AGAIN / 2), None);
        assert_eq!(bounds.ask(&warning("a"), start + AGAIN), Some(Duration::ZERO));
        let later = start + 2 * AGAIN;
        let waits: Vec<_> =
            (0..30).filter_map(|n| bounds.ask(&warning(&n.to_string()), later)).collect();
        assert!(waits[..25].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[29], 5 * EACH);
        assert_eq!(bounds.ask(&warning("b"), later + 40 * EACH), Some(Duration::ZERO));
        // It remembers no more than it says.
        for n in 0..2 * SAID_MAX {
            bounds.ask(&warning(&format!("x{n}")), later);
        }
        assert_eq!(bounds.said.len(), SAID_MAX);
    }
}
