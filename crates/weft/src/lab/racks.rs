//! The guided run of join `bgp` in two racks: nodes speak with real routers, which spread the pods'
//! routes; then what must lose nothing is done under traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{
    Cluster, Flow, FlowKind, Node, Plan, Pod, Report, Responder,
    guide::{Seen, clean, measure, millis, switch},
    show::{Show, cell},
    tor::{self, Router},
};

const NETWORK: &str = "veth";
const NUMBER: u8 = 7;
const CALM: Duration = Duration::from_millis(300);
const AWAY: Duration = Duration::from_millis(1500);

pub fn run(plan: &Plan, show: &Show, seen: &mut Seen) -> anyhow::Result<()> {
    let programs = tor::installed()?;
    let program = std::env::current_exe().context("find this program")?;
    show.step(&format!(
        "A cluster of {} nodes in two racks. The routers of the racks are {} (AS {}) and {} (AS {}); \
         pods of nodes speak BGP with their rack's router alone.",
        plan.nodes,
        programs[0].name(),
        tor::AS[0],
        programs[1].name(),
        tor::AS[1]
    ));
    let cluster = Cluster::build(plan, &program)?;
    let routers = start(&cluster, programs)?;
    cluster.start()?;
    cluster.nodes[0].ask("PUT", "/v1/bgp/settings", Some(tor::settings()))?;
    show.step(&format!("\n== attach veth: network {NETWORK}, join bgp"));
    cluster.apply(NETWORK, &cluster.network("veth", "bgp", NUMBER))?;
    cluster.settled(NETWORK, "bgp")?;
    let pods = cluster.add_pods(NETWORK, "")?;
    show.step(&format!("   {} pods attached through the CNI plugin", pods.len()));
    let responders: Vec<Responder> = pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
    seen.runs.extend(measure(&cluster, show, &pods, ("veth", "bgp", NETWORK), |_, _| true)?);
    watched(&cluster)?;
    neighbours(&cluster, show)?;
    for change in [("bgp", "vxlan"), ("vxlan", "bgp")] {
        seen.switches.push(switch(&cluster, show, &pods, NETWORK, change, NUMBER)?);
    }
    let restart = format!("agent of {} killed, started again after 1.5 s", cluster.nodes[0].name);
    seen.absences.push(under_traffic(show, &pods, &restart, || {
        let node = &cluster.nodes[0];
        node.kill()?;
        // For longer than BFD takes to call a router dead.
        std::thread::sleep(AWAY);
        node.start(&[])?;
        cluster.settled(NETWORK, "bgp")?;
        watched(&cluster)
    })?);
    for router in &routers {
        seen.absences.push(absent(&cluster, show, &pods, router)?);
    }
    drop(responders);
    cluster.delete_pods(pods)?;
    clean(&cluster, &[NETWORK])?;
    show.step("   pods and network deleted; every node's plan is empty, no link is left");
    drop(routers);
    Ok(())
}

/// A rack's router each.
pub fn start(cluster: &Cluster, programs: [tor::Program; 2]) -> anyhow::Result<Vec<Router>> {
    let racks = cluster.wire.tors().iter().zip(programs).enumerate();
    let start = |(rack, (netns, program))| Router::start(rack, program, netns, &cluster.plan.dir);
    racks.map(start).collect()
}

/// A router's daemons crash and are away for longer than BFD takes to see it: its kernel forwards on, and
/// nodes and the other router keep the routes (RFC 4724).
fn absent(cluster: &Cluster, show: &Show, pods: &[Pod], router: &Router) -> anyhow::Result<Value> {
    let what = format!(
        "router of rack {} ({}) killed, started again after 1.5 s",
        router.rack + 1,
        router.program.name()
    );
    under_traffic(show, pods, &what, || {
        router.kill()?;
        std::thread::sleep(AWAY);
        let nodes = || cluster.nodes.iter().filter(|node| node.place.segment == router.rack);
        for node in nodes() {
            node.wait_until("without its router", |node| {
                routers(node, |router| router["state"] != "established")
            })?;
        }
        router.run(&cluster.wire.tors()[router.rack])?;
        watched(cluster)?;
        for node in nodes() {
            node.wait_until("told everything again", |node| {
                routers(node, |router| router["restarting"] == false)
            })?;
        }
        cluster.settled(NETWORK, "bgp")
    })
}

/// Whether something holds of all routers of a node, as its speaker sees them.
fn routers(node: &Node, holds: impl Fn(&Value) -> bool) -> anyhow::Result<bool> {
    let said = node.ask("GET", "/v1/bgp", None)?;
    let all = said["neighbours"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(!all.is_empty() && all.iter().all(holds))
}

/// Waits until every node's router is under BFD's eyes.
fn watched(cluster: &Cluster) -> anyhow::Result<()> {
    let up = |router: &Value| router["state"] == "established" && router["bfd"] == "up";
    for node in &cluster.nodes {
        node.wait_until("watched by BFD", |node| routers(node, up))?;
    }
    Ok(())
}

/// What the nodes' speakers say of their routers.
fn neighbours(cluster: &Cluster, show: &Show) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for node in &cluster.nodes {
        let said = node.ask("GET", "/v1/bgp", None)?;
        for neighbour in said["neighbours"].as_array().into_iter().flatten() {
            ensure!(neighbour["state"] == "established", "{}: {neighbour}", node.name);
            rows.push(json!({
                "node": node.name, "neighbour": neighbour["name"], "address": neighbour["addr"],
                "as": neighbour["remoteAs"], "state": neighbour["state"], "bfd": neighbour["bfd"],
            }));
        }
    }
    ensure!(rows.len() == cluster.nodes.len(), "not every node has its rack's router alone");
    let head = ["NODE", "NEIGHBOUR", "ADDRESS", "AS", "STATE", "BFD"];
    show.rows("neighbour", &head, &rows, |row| {
        head.iter().map(|of| cell(row, &of.to_lowercase())).collect()
    });
    Ok(())
}

/// Does something that must lose nothing while pods of both racks talk, and counts.
fn under_traffic(
    show: &Show,
    pods: &[Pod],
    what: &str,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let (first, last) = (&pods[0], pods.last().context("no pods")?);
    let (ipv4, ipv6) = (first.addr(true).is_some(), first.addr(false).is_some());
    let flows = [
        Flow::start(FlowKind::Small, first, last, ipv4)?,
        Flow::start(FlowKind::Small, last, first, !ipv6)?,
        Flow::start(FlowKind::Bulk, last, first, ipv4)?,
    ];
    std::thread::sleep(CALM);
    let started = Instant::now();
    work()?;
    let took = millis(started);
    // BFD and hold timers of whoever did notice have passed by then.
    std::thread::sleep(CALM * 4);
    let mut all = Report::default();
    for flow in flows {
        ensure!(flow.arrived() > 0, "a flow never flowed");
        all += flow.stop();
    }
    let value = json!({
        "what": what, "tookMs": took, "sent": all.sent, "lost": all.lost, "resets": all.resets,
    });
    show.event(
        &json!({"event": "absence", "absence": value}),
        &format!(
            "   {what}, under traffic: {took} ms, {} packets sent, {} lost, {} connections reset",
            all.sent, all.lost, all.resets
        ),
    );
    Ok(value)
}
