//! Prometheus metrics (text format 0.0.4) and readiness. Few, each of use in an alert.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, atomic::Ordering},
};

use axum::{extract::State, http::StatusCode};

use crate::agent::{
    Agent, Serving,
    timing::{BOUNDS, Timing},
};

pub(super) async fn ready(State(agent): State<Arc<Agent>>) -> (StatusCode, String) {
    let serving = agent.serving();
    if serving.rounds > 0 && !serving.networks.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let why = format!("not ready: {}\n", serving.problems.join("; "));
    (StatusCode::SERVICE_UNAVAILABLE, why)
}

pub(super) async fn metrics(State(agent): State<Arc<Agent>>) -> String {
    let serving = agent.serving();
    let counters = &agent.counters;
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value)];
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let shown = agent.shown();
    metric(
        "weft_converged",
        "gauge",
        "1 if the kernel holds what it should",
        &one(serving.converged.into()),
    );
    metric(
        "weft_store_away",
        "gauge",
        "1 if the store can't be reached",
        &one(shown.away.is_some().into()),
    );
    metric(
        "weft_problems",
        "gauge",
        "Problems that `weft status` names",
        &one(serving.problems.len() as u64),
    );
    metric("weft_nodes", "gauge", "Nodes in the view", &one(shown.view.nodes.len() as u64));
    drop(shown);
    let pods = agent.ledger().attachments().count() as u64;
    metric("weft_pods", "gauge", "Attachments of this node", &one(pods));
    let calls = [
        ("{verb=\"add\"}".to_owned(), count(&counters.adds)),
        ("{verb=\"del\"}".to_owned(), count(&counters.dels)),
    ];
    metric("weft_cni_calls_total", "counter", "CNI calls answered well", &calls);
    metric(
        "weft_cni_errors_total",
        "counter",
        "CNI calls answered with an error",
        &one(count(&counters.errors)),
    );
    metric(
        "weft_rounds_total",
        "counter",
        "Rounds of observe, plan, apply",
        &one(count(&counters.rounds)),
    );
    metric(
        "weft_changes_total",
        "counter",
        "Changes written to the kernel",
        &one(count(&counters.changes)),
    );
    metric(
        "weft_refusals_total",
        "counter",
        "Changes that the kernel refused",
        &one(count(&counters.refusals)),
    );
    let taken = &counters.addresses;
    metric(
        "weft_address_microseconds",
        "histogram",
        "Time that ADD took for its addresses",
        &histogram(taken),
    );
    metric(
        "weft_address_slowest_microseconds",
        "gauge",
        "The longest of these since the agent began",
        &one(taken.longest()),
    );
    let paths = paths(&serving);
    metric("weft_paths", "gauge", "Paths to peers by the way they take", &paths);
    text
}

fn histogram(timing: &Timing) -> Vec<(String, u64)> {
    let counts = timing.counts();
    let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    let buckets = bounds.zip(&counts);
    let buckets = buckets.map(|(bound, count)| (format!("_bucket{{le=\"{bound}\"}}"), *count));
    let count = counts.last().copied().unwrap_or(0);
    buckets.chain([("_sum".into(), timing.sum()), ("_count".into(), count)]).collect()
}

/// How many paths take which way, by network.
fn paths(serving: &Serving) -> Vec<(String, u64)> {
    let mut paths = BTreeMap::<String, u64>::new();
    for (network, here) in &serving.networks {
        for (_, choice) in here.stage.choices.values().flat_map(|peer| peer.each()) {
            let way = choice.path.as_ref().map_or_else(|| "none".into(), |p| p.way().to_string());
            *paths.entry(format!("{{network=\"{network}\",way=\"{way}\"}}")).or_default() += 1;
        }
    }
    paths.into_iter().collect()
}
