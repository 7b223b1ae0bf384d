//! The guided run of join `bgp` in two racks: nodes speak with real routers, which spread the pods'
//! routes; then what must lose nothing is done under traffic.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{
    Cluster, Flow, FlowKind, Plan, Pod, Report, Responder,
    guide::{Seen, clean, measure, switch},
    show::Show,
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
    seen.switches.push(under_traffic(&cluster, show, &pods, &restart, || {
        let node = &cluster.nodes[0];
        node.kill()?;
        // For longer than BFD takes to call a router dead.
        std::thread::sleep(AWAY);
        node.start(&[])?;
        cluster.settled(NETWORK, "bgp")?;
        watched(&cluster)
    })?);
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

/// Waits until every node's router is under BFD's eyes.
fn watched(cluster: &Cluster) -> anyhow::Result<()> {
    let up = |said: &Value| {
        let all = said["neighbours"].as_array().map(Vec::as_slice).unwrap_or_default();
        !all.is_empty() && all.iter().all(|n| n["state"] == "established" && n["bfd"] == "up")
    };
    for node in &cluster.nodes {
        node.wait_until("watched by BFD", |node| Ok(up(&node.ask("GET", "/v1/bgp", None)?)))?;
    }
    Ok(())
}

/// What the nodes' speakers say of their routers.
fn neighbours(cluster: &Cluster, show: &Show) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for node in &cluster.nodes {
        let said = node.ask("GET", "/v1/bgp", None)?;
        for neighbour in said["neighbours"].as_array().into_iter().flatten() {
            let text = |of: &str| match &neighbour[of] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            ensure!(neighbour["state"] == "established", "{}: {neighbour}", node.name);
            rows.push(vec![
                node.name.clone(),
                text("name"),
                text("addr"),
                text("remoteAs"),
                text("state"),
                text("bfd"),
            ]);
        }
    }
    ensure!(rows.len() == cluster.nodes.len(), "not every node has its rack's router alone");
    show.rows(&["NODE", "NEIGHBOUR", "ADDRESS", "AS", "STATE", "BFD"], rows);
    Ok(())
}

/// Does something that must lose nothing while pods of both racks talk, and counts.
fn under_traffic(
    cluster: &Cluster,
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
    let took = started.elapsed();
    // BFD and hold timers of whoever did notice have passed by then.
    std::thread::sleep(CALM * 4);
    let mut all = Report::default();
    for flow in flows {
        ensure!(flow.arrived() > 0, "a flow never flowed");
        all += flow.stop();
    }
    let value = json!({"what": what, "sent": all.sent, "lost": all.lost, "resets": all.resets});
    show.event(
        &json!({"event": "switch", "attach": cluster.plan.nodes, "switch": value}),
        &format!(
            "   {what}, under traffic: {} ms, {} packets sent, {} lost, {} connections reset",
            took.as_millis(),
            all.sent,
            all.lost,
            all.resets
        ),
    );
    Ok(value)
}
