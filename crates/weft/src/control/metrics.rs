//! Prometheus metrics (text format 0.0.4) and readiness. Few, each of use in an alert.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{extract::State, http::StatusCode};
use weft_bgp::{attrs::Family, bfd, report::NeighbourReport};

use crate::agent::{
    Agent, Counters, Serving,
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
    let mut text = Text::default();
    state(&agent, &mut text);
    shared_networks(&agent, &mut text);
    bgp(&agent, &mut text);
    work(&agent.counters, &mut text);
    text.0
}

/// What is served, in the format's words.
#[derive(Default)]
struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, kind: &str, help: &str, values: &[(String, u64)]) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in values {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

fn one(value: u64) -> Vec<(String, u64)> {
    vec![(String::new(), value)]
}

fn state(agent: &Agent, text: &mut Text) {
    let serving = agent.serving();
    let shown = agent.shown();
    text.metric(
        "weft_converged",
        "gauge",
        "1 if the kernel holds what it should",
        &one(serving.converged.into()),
    );
    text.metric(
        "weft_store_away",
        "gauge",
        "1 if the store can't be reached",
        &one(shown.away.is_some().into()),
    );
    text.metric(
        "weft_problems",
        "gauge",
        "Problems that `weft status` names",
        &one(serving.problems.len() as u64),
    );
    text.metric("weft_nodes", "gauge", "Nodes in the view", &one(shown.view.nodes.len() as u64));
    drop(shown);
    let pods = agent.ledger().attachments().count() as u64;
    text.metric("weft_pods", "gauge", "Attachments of this node", &one(pods));
    let paths = paths(&serving);
    text.metric("weft_paths", "gauge", "Paths to peers by the way they take", &paths);
}

/// Of networks that pods share with strangers.
fn shared_networks(agent: &Agent, text: &mut Text) {
    let (conflicts, ready) = (agent.conflicts().len() as u64, agent.ready().into_iter());
    let ready: Vec<_> =
        ready.map(|(name, n)| (format!("{{network=\"{name}\"}}"), n as u64)).collect();
    text.metric(
        "weft_address_conflicts",
        "gauge",
        "Addresses of pods' networks that strangers have",
        &one(conflicts),
    );
    text.metric(
        "weft_addresses_ready",
        "gauge",
        "Addresses that were asked for and are nobody's, ready to be given",
        &ready,
    );
    text.metric(
        "weft_addresses_unprobed_total",
        "counter",
        "Addresses given before it was known that nobody has them",
        &one(agent.ledger().unprobed()),
    );
    text.metric(
        "weft_switches_of_one_mac",
        "gauge",
        "Networks whose switch admits no MAC address of a pod",
        &one(agent.unheard_macs().len() as u64),
    );
}

/// Of sessions with neighbours in BGP, where there are any.
fn bgp(agent: &Agent, text: &mut Text) {
    let neighbours = agent.bgp_neighbours();
    if neighbours.is_empty() {
        return;
    }
    let label = |n: &NeighbourReport, more: &str| {
        let addr = n.addr.map(|addr| addr.to_string()).unwrap_or_default();
        format!("{{neighbour=\"{}\",address=\"{addr}\"{more}}}", n.name)
    };
    let each = |value: fn(&NeighbourReport) -> u64| -> Vec<(String, u64)> {
        neighbours.iter().map(|n| (label(n, ""), value(n))).collect()
    };
    let by_family = |routes: fn(&NeighbourReport) -> &BTreeMap<Family, u32>| {
        let all = neighbours.iter().flat_map(|n| routes(n).iter().map(move |of| (n, of)));
        all.map(|(n, (family, count))| {
            (label(n, &format!(",family=\"{family}\"")), (*count).into())
        })
        .collect::<Vec<_>>()
    };
    let up = each(|n| (n.state == "established").into());
    text.metric("weft_bgp_session_up", "gauge", "1 if the session is established", &up);
    let watched = agent.bgp_watched();
    let seen = watched.iter().map(|(addr, of)| {
        (format!("{{address=\"{addr}\"}}"), u64::from(of.state == bfd::State::Up))
    });
    let seen: Vec<_> = seen.collect();
    text.metric("weft_bfd_session_up", "gauge", "1 if BFD's session is up", &seen);
    let established = each(|n| n.established);
    text.metric(
        "weft_bgp_session_established_total",
        "counter",
        "How often the session was established",
        &established,
    );
    let (taken, told) = (by_family(|n| &n.routes_in), by_family(|n| &n.routes_out));
    text.metric("weft_bgp_routes_in", "gauge", "Routes taken of the neighbour", &taken);
    text.metric("weft_bgp_routes_out", "gauge", "Routes that the neighbour was told", &told);
    let watched = neighbours.iter().filter_map(|n| Some((n, n.bfd.as_deref()?)));
    let watched: Vec<_> = watched.map(|(n, bfd)| (label(n, ""), u64::from(bfd == "up"))).collect();
    text.metric("weft_bgp_bfd_up", "gauge", "1 if BFD says that the neighbour is alive", &watched);
    text.metric(
        "weft_bgp_routes_left_out",
        "gauge",
        "Learnt routes that contradict what is known here",
        &one(agent.serving().host.learnt.refused.len() as u64),
    );
}

/// What was done since the agent began.
fn work(counters: &Counters, text: &mut Text) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let calls = [
        ("{verb=\"add\"}".to_owned(), count(&counters.adds)),
        ("{verb=\"del\"}".to_owned(), count(&counters.dels)),
    ];
    text.metric("weft_cni_calls_total", "counter", "CNI calls answered well", &calls);
    text.metric(
        "weft_cni_errors_total",
        "counter",
        "CNI calls answered with an error",
        &one(count(&counters.errors)),
    );
    text.metric(
        "weft_rounds_total",
        "counter",
        "Rounds of observe, plan, apply",
        &one(count(&counters.rounds)),
    );
    text.metric(
        "weft_changes_total",
        "counter",
        "Changes written to the kernel",
        &one(count(&counters.changes)),
    );
    text.metric(
        "weft_refusals_total",
        "counter",
        "Changes that the kernel refused",
        &one(count(&counters.refusals)),
    );
    let taken = &counters.addresses;
    text.metric(
        "weft_address_microseconds",
        "histogram",
        "Time that ADD took for its addresses",
        &histogram(taken),
    );
    text.metric(
        "weft_address_slowest_microseconds",
        "gauge",
        "The longest of these since the agent began",
        &one(taken.longest()),
    );
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
