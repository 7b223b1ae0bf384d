//! The operator's door: HTTP with JSON on the control socket, for `weft status` and its siblings;
//! metrics and health also on a TCP address where the configuration names one.

mod access;
mod beside;
pub mod bgp;
mod cut;
mod explain;
mod metrics;
pub mod policy;
pub mod report;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use ipnet::IpNet;
use serde_json::{Value, json};
use weft_core::{
    ipam::fixed::FixedClaim,
    name::{NetworkName, NodeName},
    network::{Network, overlap},
    view::{Node, View, ack_key, default_of, network_key, node_key, residents_key},
};

use crate::{
    agent::{Agent, Freed, config::from_value, free, free_fixed},
    store::StoreError,
};

type Shared = State<Arc<Agent>>;

/// How long the deletion of a network waits for its pods to be gone.
const USERS_MAX: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

pub fn spawn(agent: &Arc<Agent>, runtime: &tokio::runtime::Runtime) -> anyhow::Result<()> {
    let path = agent.config.control_socket();
    let listener = crate::agent::listen(&path)?;
    listener.set_nonblocking(true)?;
    let health = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(metrics::ready));
    let control = Router::new()
        .route(
            "/v1/status",
            get(|State(agent): Shared| async move { reported(report::status(&agent)) }),
        )
        .route(
            "/v1/plan",
            get(|State(agent): Shared| async move { off_loop(agent, report::plan).await }),
        )
        .route(
            "/v1/pods",
            get(|State(agent): Shared| async move { reported(report::pods(&agent)) }),
        )
        .route(
            "/v1/ipam",
            get(|State(agent): Shared| async move { reported(report::ipam(&agent)) }),
        )
        .route(
            "/v1/paths",
            get(|State(agent): Shared| async move { reported(report::paths(&agent)) }),
        )
        .route("/v1/explain", get(explain))
        .route("/v1/policies", get(policies))
        .route(
            "/v1/networks",
            get(|State(agent): Shared| async move { reported(report::networks(&agent)) }),
        )
        .route("/v1/bgp", get(|State(agent): Shared| async move { reported(bgp::status(&agent)) }))
        .route(
            "/v1/bgp/routes",
            get(|State(agent): Shared| async move { reported(bgp::routes(&agent)) }),
        )
        .route(
            "/v1/bgp/settings",
            get(|State(agent): Shared| async move { reported(bgp::settings(&agent)) })
                .put(bgp::apply)
                .delete(bgp::reset),
        )
        .route("/v1/networks/{name}", put(apply_network).delete(delete_network))
        .route("/v1/nodes/{name}/forget", post(forget))
        .merge(health.clone())
        .with_state(agent.clone());
    let _inside = runtime.enter();
    let listener = tokio::net::UnixListener::from_std(listener)?;
    runtime.spawn(async move { axum::serve(listener, control).await });
    if let Some(addr) = agent.config.metrics {
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind(addr))
            .with_context(|| format!("serve metrics on {addr}"))?;
        let health = health.with_state(agent.clone());
        runtime.spawn(async move { axum::serve(listener, health).await });
    }
    Ok(())
}

fn reported(value: impl serde::Serialize) -> Response {
    Json(value).into_response()
}

fn refused(status: StatusCode, why: impl ToString) -> Response {
    (status, Json(json!({"error": why.to_string()}))).into_response()
}

/// What asks the kernel must not hold up the runtime's threads.
async fn off_loop<T: serde::Serialize + Send + 'static>(
    agent: Arc<Agent>,
    work: impl FnOnce(&Agent) -> anyhow::Result<T> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || work(&agent)).await {
        Ok(Ok(value)) => reported(value),
        Ok(Err(error)) => refused(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        Err(error) => refused(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

async fn explain(State(agent): Shared, Query(asked): Query<HashMap<String, String>>) -> Response {
    let word = |of: &str| asked.get(of).cloned().unwrap_or_default();
    let (from, to) = (word("from"), word("to"));
    let port = asked.get("port").map(|port| port.parse::<policy::Asked>()).transpose();
    let port = match port {
        Ok(port) => port,
        Err(why) => return refused(StatusCode::BAD_REQUEST, why),
    };
    off_loop(agent, move |agent| explain::explain(agent, &from, &to, port)).await
}

async fn policies(State(agent): Shared, Query(asked): Query<HashMap<String, String>>) -> Response {
    let pod = asked.get("pod").cloned();
    off_loop(agent, move |agent| policy::policies(agent, pod.as_deref())).await
}

/// Checks a network beside all that there is before it is written: nothing is half made.
async fn apply_network(
    State(agent): Shared,
    Path(name): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
    Json(written): Json<Value>,
) -> Response {
    let checked = check_network(&agent, &name, written);
    let (name, network, value) = match checked {
        Ok(checked) => checked,
        Err(why) => return refused(StatusCode::UNPROCESSABLE_ENTITY, format!("{why:#}")),
    };
    if asked.get("force").is_none_or(|force| force != "true") {
        let (agent, name, network) = (agent.clone(), name.clone(), network.clone());
        let cut = tokio::task::spawn_blocking(move || cut::why_not(&agent, &name, &network)).await;
        if let Ok(Some(why)) = cut {
            return refused(StatusCode::CONFLICT, why);
        }
    }
    let note = whose_pods(&agent, &name, &network);
    match agent.store.put(&network_key(&name), value.to_string().into_bytes()).await {
        Ok(revision) => reported(json!({"network": name, "revision": revision, "note": note})),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Where pods that name no network go from now on, if they went elsewhere before.
fn whose_pods(agent: &Agent, name: &NetworkName, network: &Network) -> Option<String> {
    let mut networks = agent.shown().view.networks.clone();
    let was = default_of(&networks).cloned()?;
    networks.insert(name.clone(), network.clone());
    match default_of(&networks) {
        Some(now) if *now == was => None,
        Some(now) => {
            Some(format!("new pods that name no network go to {now} from now on, not to {was}"))
        }
        None => Some(format!(
            "new pods that name no network are refused from now on, since no network is `default: true`; \
             {was} was the only one"
        )),
    }
}

/// The record to write: as given, plus what a newer version once wrote there.
fn check_network(
    agent: &Agent,
    name: &str,
    written: Value,
) -> anyhow::Result<(NetworkName, Network, Value)> {
    let name: NetworkName = name.parse()?;
    let network: Network =
        from_value(written.clone()).with_context(|| format!("network {name}"))?;
    network.check(&name)?;
    let ours = agent.ledger().has_pods(&name);
    let shown = agent.shown();
    for (other, beside) in shown.view.networks.iter().filter(|(other, _)| **other != name) {
        network.check_beside(&name, other, beside)?;
    }
    for node in shown.view.nodes.values() {
        for addr in &node.record.underlay {
            network.check_underlay(&name, &(*addr).into())?;
        }
    }
    for nic in &agent.serving().nics {
        network.check_underlay(&name, &nic.addr)?;
    }
    if let Some(was) = shown.view.networks.get(&name) {
        let used = shown.view.claims.keys().any(|(of, _)| *of == name)
            || shown.view.nodes.values().any(|node| has_pods(node, &name))
            || ours;
        anyhow::ensure!(
            !used || was.attach == network.attach,
            "network {name} attaches by {}: pods that run can't change to {}; make another network",
            was.attach.kind().described(),
            network.attach.kind().described()
        );
        anyhow::ensure!(
            !used || was.segment() == network.segment(),
            "network {name} is joined by {}, hostAccess {}: what is on-link for pods that run can't \
             change; make another network for join {}, hostAccess {}",
            was.join,
            was.host_access,
            network.join,
            network.host_access
        );
        anyhow::ensure!(
            !used || was.by_dhcp() == network.by_dhcp(),
            "network {name}: pods and nodes have addresses of it already; make another network for \
             addresses that are given by {}",
            if network.by_dhcp() { "a DHCP server" } else { "weft" }
        );
        let by_group = |network: &Network| network.join.kind().group().is_some();
        anyhow::ensure!(
            !used || by_group(was) == by_group(&network),
            "network {name}: nodes that find each other by multicast don't hear those that do by the \
             store; make another network for the other discovery"
        );
        anyhow::ensure!(
            !used
                || was.ranges == network.ranges
                    && was.ranges.iter().all(|r| was.block_prefix(r) == network.block_prefix(r)),
            "network {name}: nodes have blocks of its ranges; make another network for other ranges"
        );
        check_fixed(&shown.view, &name, was, &network)?;
    }
    let mut record = serde_json::to_value(&network)?;
    if let (Some(record), Some(written)) = (record.as_object_mut(), written.as_object()) {
        for (field, value) in written {
            record.entry(field.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok((name, network, record))
}

/// What pods have of blocks does not become static under them, nor the reverse.
fn check_fixed(
    view: &View,
    name: &NetworkName,
    was: &Network,
    network: &Network,
) -> anyhow::Result<()> {
    let spans = |network: &Network| {
        network.join.shared().map(|shared| shared.fixed.clone()).unwrap_or_default()
    };
    let before = spans(was);
    let covered = |span: &IpNet| before.iter().any(|old| old.0.contains(span));
    for span in spans(network).iter().filter(|span| !covered(&span.0)) {
        let claims = view.claims.iter().filter(|((of, _), _)| of == name);
        let mut beside = claims.filter(|((_, block), _)| overlap(block, &span.0));
        if let Some(((_, block), claim)) = beside.next() {
            anyhow::bail!(
                "network {name}: static {span} overlaps block {block} of node {}, whose pods may have \
                 addresses of it; choose addresses of no block (`weft ipam`)",
                claim.node
            );
        }
    }
    let mut held = view.fixed_of(name).filter(|(.., claim)| claim.node.is_some());
    if let Some((addr, _, claim)) = held.find(|(addr, ..)| !network.is_fixed(*addr)) {
        anyhow::bail!(
            "network {name}: static address {addr} is with pod {}; delete it first, or leave the \
             address static",
            claim.pod
        );
    }
    Ok(())
}

async fn delete_network(State(agent): Shared, Path(name): Path<String>) -> Response {
    let name: NetworkName = match name.parse() {
        Ok(name) => name,
        Err(bad) => return refused(StatusCode::UNPROCESSABLE_ENTITY, bad),
    };
    // That the last pods went may be on its way here.
    let start = Instant::now();
    let mut used = users(&agent, &name);
    while !used.is_empty() && start.elapsed() < USERS_MAX {
        tokio::time::sleep(LOOK).await;
        used = users(&agent, &name);
    }
    if !used.is_empty() {
        let why = format!("network {name} has pods on {}: delete them first", used.join(", "));
        return refused(StatusCode::CONFLICT, why);
    }
    let deleted = async {
        let there = agent.store.delete(&network_key(&name)).await?;
        // One that died in between left blocks without a network.
        let freed = free(&agent, |network, _| *network == name).await?;
        free_fixed(&agent, Freed::Whole, |network, _| *network == name).await?;
        forget_residents(&agent, |network, _| *network == name).await?;
        Ok::<_, StoreError>(there || !freed.is_empty())
    };
    match deleted.await {
        Ok(true) => reported(json!({"network": name})),
        Ok(false) => refused(StatusCode::NOT_FOUND, format!("there is no network {name}")),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Nodes that have pods in the network: of this one by its ledger, of the others by their records.
fn users(agent: &Agent, name: &NetworkName) -> Vec<String> {
    let ours = agent.ledger().has_pods(name).then(|| agent.node.to_string());
    let shown = agent.shown();
    let others = shown.view.nodes.iter().filter(|(node, _)| **node != agent.node);
    let used = others.filter(|(_, node)| has_pods(node, name));
    ours.into_iter().chain(used.map(|(node, _)| node.to_string())).collect()
}

fn has_pods(node: &Node, name: &NetworkName) -> bool {
    node.record.part(name).is_some_and(|part| part.pods)
}

/// Deletes the records of pods that are meant.
async fn forget_residents(
    agent: &Agent,
    meant: impl Fn(&NetworkName, &NodeName) -> bool,
) -> Result<(), StoreError> {
    let keys: Vec<String> = {
        let shown = agent.shown();
        let all = shown.view.residents.keys().filter(|(network, node)| meant(network, node));
        all.map(|(network, node)| residents_key(network, node)).collect()
    };
    for key in keys {
        agent.store.delete(&key).await?;
    }
    Ok(())
}

/// Frees what a node that will not come back has claimed. Should it come back, it takes new blocks.
async fn forget(
    State(agent): Shared,
    Path(name): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let name: NodeName = match name.parse() {
        Ok(name) => name,
        Err(bad) => return refused(StatusCode::UNPROCESSABLE_ENTITY, bad),
    };
    if name == agent.node {
        let why =
            format!("node {name} is this one, and alive: stop its agent and forget it elsewhere");
        return refused(StatusCode::CONFLICT, why);
    }
    let pods = {
        let shown = agent.shown();
        let record = shown.view.nodes.get(&name).map(|node| &node.record);
        record.is_some_and(|record| record.networks.iter().any(|(_, part)| part.pods))
    };
    if pods && asked.get("force").is_none_or(|force| force != "true") {
        let why = format!(
            "node {name} has pods by its own last word: should it be alive, their addresses would be \
             given twice. If it is gone for good, say `weft node forget {name} --force`"
        );
        return refused(StatusCode::CONFLICT, why);
    }
    let known = {
        let shown = agent.shown();
        shown.view.nodes.contains_key(&name)
            || shown.view.claims.values().any(|claim| claim.node == name)
    };
    if !known {
        return refused(StatusCode::NOT_FOUND, format!("there is no node {name}"));
    }
    match forget_node(&agent, &name).await {
        Ok(blocks) => reported(json!({"node": name, "freed": blocks})),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Deletes what the store has of a node that is gone. Which blocks that frees.
pub async fn forget_node(agent: &Agent, name: &NodeName) -> Result<Vec<String>, StoreError> {
    // The record first: nobody sends there any more when the block may be claimed again.
    agent.store.delete(&node_key(name)).await?;
    agent.store.delete(&ack_key(name)).await?;
    forget_residents(agent, |_, node| node == name).await?;
    let mut freed = free(agent, |_, claim| claim.node == *name).await?;
    let ours = |_: &NetworkName, claim: &FixedClaim| claim.node.as_ref() == Some(name);
    freed.extend(free_fixed(agent, Freed::FromNode, ours).await?);
    Ok(freed)
}
