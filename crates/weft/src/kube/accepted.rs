//! What becomes of a network is said on its object: the condition `Accepted`. Every node would say the
//! same of the same view, so whoever comes first says it; the others see that it is said. What is
//! wrong on one node alone is said by `weft status` there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::{Map, Value, json};
use weft_core::{name::NetworkName, view::Verdict};

use super::{KubeError, client::jitter, events::Regarding};
use crate::{
    agent::Agent,
    store::kubernetes::{KubernetesStore, NETWORKS, NetworkObject},
};

/// Nodes write within this time for each node that there is, and no later than the bound: the first
/// spares the others.
const SPREAD_EACH: Duration = Duration::from_millis(2);
const SPREAD_LEAST: Duration = Duration::from_millis(400);
const SPREAD_MAX: Duration = Duration::from_secs(10);
/// A condition that another writes otherwise, as a node of another version may, is not fought over.
const AGAIN: Duration = Duration::from_secs(60);
/// The view may change without any network's doing so.
const LOOK: Duration = Duration::from_secs(60);
/// And what could not be said is said soon.
const SOON: Duration = Duration::from_secs(1);
/// As much as a condition's message takes.
const MESSAGE_MAX: usize = 2048;

pub(super) async fn run(agent: Arc<Agent>, store: KubernetesStore) {
    let mut networks = store.networks();
    let mut written: BTreeMap<String, (i64, Instant)> = BTreeMap::new();
    let mut look = SOON;
    loop {
        let _ = tokio::time::timeout(look, networks.changed()).await;
        look = LOOK;
        let nodes = u32::try_from(agent.shown().view.nodes.len()).unwrap_or(u32::MAX);
        let spread = (SPREAD_EACH.saturating_mul(nodes)).clamp(SPREAD_LEAST, SPREAD_MAX);
        tokio::time::sleep(jitter(spread)).await;
        let all = networks.borrow_and_update().clone();
        written.retain(|name, _| all.values().any(|network| network.metadata.name == *name));
        for network in all.values() {
            let Some(condition) = wanted(&agent, network) else {
                look = SOON;
                continue;
            };
            let (name, generation) = (&network.metadata.name, network.metadata.generation);
            let just =
                written.get(name).is_some_and(|(of, at)| *of == generation && at.elapsed() < AGAIN);
            if just || !differs(network, &condition) {
                continue;
            }
            match write(&store, network, &condition).await {
                Ok(()) => {
                    written.insert(name.clone(), (generation, Instant::now()));
                    warn(&agent, network, &condition);
                }
                // Another was quicker, or it is gone.
                Err(error) if error.is_conflict() || error.is_missing_object() => {}
                Err(error) => tracing::warn!(%error, "a network's condition is not said yet"),
            }
        }
    }
}

/// Of a network that is refused its users hear by an event as well: from the node that said it.
fn warn(agent: &Agent, network: &NetworkObject, condition: &Map<String, Value>) {
    let text = |of: &str| condition.get(of).and_then(Value::as_str).unwrap_or_default();
    if let (Some(cluster), "False") = (&agent.cluster, text("status")) {
        let regarding = Regarding::network(&network.metadata);
        let note = format!("{}: {}", text("reason"), text("message"));
        cluster.events.warn(regarding, "NotAccepted", &note);
    }
}

/// The condition as this node would say it; none before the view is whole.
fn wanted(agent: &Agent, network: &NetworkObject) -> Option<Map<String, Value>> {
    let name: NetworkName = network.metadata.name.parse().ok()?;
    let shown = agent.shown();
    let verdict = shown.view.verdict(&name).filter(|_| shown.synced)?;
    let (status, reason, message) = match verdict {
        Verdict::Accepted(said) => ("True", "Accepted", said.unwrap_or_default()),
        Verdict::Invalid(why) => ("False", "Invalid", why),
        Verdict::Conflict(why) => ("False", "Conflict", why),
    };
    let message: String = message.chars().take(MESSAGE_MAX).collect();
    let condition = json!({
        "type": "Accepted",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": network.metadata.generation,
    });
    condition.as_object().cloned()
}

fn is_ours(condition: &Map<String, Value>) -> bool {
    condition.get("type").is_some_and(|of| of == "Accepted")
}

fn differs(network: &NetworkObject, wanted: &Map<String, Value>) -> bool {
    let stands = network.status.conditions.iter().find(|condition| is_ours(condition));
    let same = |stands: &Map<String, Value>| {
        wanted.iter().all(|(field, value)| stands.get(field) == Some(value))
    };
    !stands.is_some_and(same)
}

async fn write(
    store: &KubernetesStore,
    network: &NetworkObject,
    condition: &Map<String, Value>,
) -> Result<(), KubeError> {
    let stands = network.status.conditions.iter();
    let ours = stands.clone().find(|condition| is_ours(condition));
    let turned = ours.is_none_or(|ours| ours.get("status") != condition.get("status"));
    let since = ours.and_then(|ours| ours.get("lastTransitionTime")).filter(|_| !turned).cloned();
    let mut condition = condition.clone();
    condition.insert("lastTransitionTime".into(), since.unwrap_or_else(|| now().into()));
    let others = stands.filter(|condition| !is_ours(condition)).cloned();
    let conditions: Vec<Map<String, Value>> = others.chain([condition]).collect();
    // Of what was looked at, and nothing newer.
    let patch = json!({
        "metadata": {"resourceVersion": network.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    let patch = patch.to_string().into_bytes();
    let path = format!("{NETWORKS}/{}/status", network.metadata.name);
    let send = |client: Client| {
        let request = Request::patch(&path).header(CONTENT_TYPE, "application/merge-patch+json");
        let request = request.body(patch.clone()).map_err(kube::Error::HttpError);
        async move { client.request::<Value>(request?).await }
    };
    store.server().ask(&format!("write {path}"), send).await.map(drop)
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
