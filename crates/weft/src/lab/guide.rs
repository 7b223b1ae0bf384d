//! The guided run: every attach × join in turn on one cluster, each change of join under traffic.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::{
    Cluster, Flow, FlowKind, Plan, Pod, Report, Responder, Switch, Topology, largest,
    probe::reach,
    show::{Show, cell},
};

const ATTACHES: [&str; 2] = ["veth", "bridge"];
/// Every ordered pair of joins as one walk, but for `auto` to `bgp`.
const WALK: [&str; 13] = [
    "vxlan", "host-gw", "vxlan", "auto", "host-gw", "auto", "vxlan", "bgp", "host-gw", "bgp",
    "vxlan", "bgp", "auto",
];
/// Flows run so long before and after each change.
const CALM: Duration = Duration::from_millis(300);

pub fn run(plan: &Plan, json: bool) -> u8 {
    let show = Show { json };
    let start = Instant::now();
    let mut seen = Seen::default();
    let guided = match plan.topology {
        Topology::Racks => super::racks::run,
        Topology::Segment | Topology::Routed => guided,
    };
    let failed = guided(plan, &show, &mut seen).err().map(|error| format!("{error:#}"));
    let Seen { runs, switches, absences } = seen;
    let reached = runs.iter().all(|run| run["pairs"] == run["reached"]);
    let under_traffic = || switches.iter().chain(&absences);
    let kept = under_traffic().all(|s: &Value| s["lost"] == 0 && s["resets"] == 0);
    let ok = failed.is_none() && reached && kept;
    let mut result = json!({
        "event": "result", "ok": ok, "runs": runs, "switches": switches, "absences": absences,
    });
    if let Some(why) = &failed {
        show.event(&json!({"event": "error", "text": why}), "");
        result["error"] = json!(why);
    }
    let sum = |of: &str| under_traffic().filter_map(|s| s[of].as_u64()).sum::<u64>();
    let away = match absences.len() {
        0 => String::new(),
        away => format!(" and {away} absences"),
    };
    let verdict = match failed {
        None if ok => "Everything works".to_owned(),
        None => "NOT everything works".to_owned(),
        Some(why) => format!("FAILED: {why}\nUntil then"),
    };
    show.event(
        &result,
        &format!(
            "\n{verdict}: {} runs, {} changes of join{away} under traffic, {} of {} packets lost, {} connections reset, in {} s.\n\
             Nothing is left behind. `weft lab shell` leaves you inside such a cluster.",
            runs.len(),
            switches.len(),
            sum("lost"),
            sum("sent"),
            sum("resets"),
            start.elapsed().as_secs()
        ),
    );
    u8::from(!ok)
}

/// What was measured so far.
#[derive(Default)]
pub struct Seen {
    pub runs: Vec<Value>,
    /// Changes of join under traffic.
    pub switches: Vec<Value>,
    /// What was away under traffic, and came back.
    pub absences: Vec<Value>,
}

fn guided(plan: &Plan, show: &Show, seen: &mut Seen) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    show.step(&format!(
        "A cluster of {} nodes ({}), each a namespace with an agent; they share a store directory.",
        plan.nodes,
        match plan.topology {
            Topology::Segment => "one L2 segment",
            Topology::Routed => "two segments, a router between",
            Topology::Racks => "two racks",
        }
    ));
    let cluster = Cluster::build(plan, &program)?;
    cluster.start()?;
    for (attach, number) in ATTACHES.into_iter().zip(1..) {
        let first = WALK[0];
        show.step(&format!("\n== attach {attach}: network {attach}, join {first}"));
        cluster.apply(attach, &cluster.network(attach, first, number))?;
        cluster.settled(attach, first)?;
        let pods = cluster.add_pods(attach, "")?;
        show.step(&format!("   {} pods attached through the CNI plugin", pods.len()));
        let responders: Vec<Responder> =
            pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
        let mut walked = Vec::new();
        let walk = if plan.topology == Topology::Segment {
            &WALK[..]
        } else {
            &["vxlan", "auto", "vxlan"]
        };
        for (step, join) in walk.iter().enumerate() {
            if step > 0 {
                let from = walk[step - 1];
                seen.switches.push(switch(&cluster, show, &pods, attach, (from, join), number)?);
            }
            if !walked.contains(join) {
                walked.push(*join);
                let runs = measure(&cluster, show, &pods, (attach, join, attach), |_, _| true)?;
                seen.runs.extend(runs);
            }
        }
        if plan.topology == Topology::Routed {
            refused(&cluster, show, attach, number)?;
        }
        drop(responders);
        cluster.delete_pods(pods)?;
        clean(&cluster, &[attach])?;
        show.step("   pods and network deleted; every node's plan is empty, no link is left");
    }
    apart(&cluster, show, &mut seen.runs)?;
    seen.runs.extend(super::physical::run(&cluster, show)?);
    if plan.switch == Switch::Any {
        super::vlan::run(&cluster, show)?;
        super::leased::run(&cluster, show)?;
    }
    Ok(())
}

/// Joins that stay what they are, since what pods have on-link or how nodes find each other can't
/// change under them: one L2 segment over all nodes, and whatever is found by multicast.
fn apart(cluster: &Cluster, show: &Show, runs: &mut Vec<Value>) -> anyhow::Result<()> {
    let segment = cluster.plan.topology == Topology::Segment;
    for (name, attach, join, number) in [
        ("domain", "bridge", "vxlan-bridged", 3),
        ("domain-group", "bridge", "vxlan-bridged+multicast", 4),
        ("group", "veth", "vxlan+multicast", 5),
    ] {
        if join.ends_with("+multicast") && !segment {
            show.step(&format!("\n== {join}: left out, the router passes no multicast"));
            continue;
        }
        show.step(&format!("\n== attach {attach}: network {name}, join {join}"));
        cluster.apply(name, &cluster.network(attach, join, number))?;
        cluster.settled(name, join)?;
        let pods = cluster.add_pods(name, "")?;
        show.step(&format!("   {} pods attached through the CNI plugin", pods.len()));
        let responders: Vec<Responder> =
            pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
        cluster.well()?;
        runs.extend(measure(cluster, show, &pods, (attach, join, name), |_, _| true)?);
        drop(responders);
        cluster.delete_pods(pods)?;
        clean(cluster, &[name])?;
        show.step("   pods and network deleted; every node's plan is empty, no link is left");
    }
    Ok(())
}

/// Deletes networks whose pods were deleted, and waits until nothing is left of any.
pub fn clean(cluster: &Cluster, networks: &[&str]) -> anyhow::Result<()> {
    for network in networks {
        // Refused until every node has told that it has no more pods there.
        cluster.nodes[0].wait_until("rid of the network", |node| {
            node.ask("DELETE", &format!("/v1/networks/{network}"), None).map(|_| true)
        })?;
    }
    for node in &cluster.nodes {
        node.wait_until("clean", |node| {
            let status = node.status()?;
            Ok(networks.iter().all(|network| status["networks"][network].is_null())
                && node.plan()?.is_empty()
                && weft_linux::rig::is_clean(&node.netns)?)
        })?;
    }
    Ok(())
}

/// Who of those that count reaches whom, over which path, how fast and how large.
pub fn measure(
    cluster: &Cluster,
    show: &Show,
    pods: &[Pod],
    (attach, join, network): (&str, &str, &str),
    counts: impl Fn(&Pod, &Pod) -> bool,
) -> anyhow::Result<Vec<Value>> {
    let mut runs = Vec::new();
    let mut rows = Vec::new();
    for (family, ipv4) in [("ipv4", true), ("ipv6", false)] {
        if pods.iter().all(|pod| pod.addr(ipv4).is_none()) {
            continue;
        }
        let (mut pairs, mut reached) = (0, 0);
        for from in pods {
            for to in pods.iter().filter(|to| to.name != from.name && counts(from, to)) {
                let Some(addr) = to.addr(ipv4) else { continue };
                pairs += 1;
                let time = reach(&from.netns, addr);
                let mtu = largest(&from.netns, addr);
                reached += u32::from(time.is_some() && mtu.is_some());
                // One row for each pair of nodes, and every pair that fails.
                let first =
                    from.name.ends_with('1') && (to.name.ends_with('1') || from.node == to.node);
                if first || time.is_none() || mtu.is_none() {
                    let (way, _) = cluster.way(&from.node, &to.node, network, ipv4)?;
                    rows.push(json!({
                        "from": format!("{} ({})", from.name, from.node),
                        "to": format!("{} ({})", to.name, to.node),
                        "family": family,
                        "path": way,
                        "latencyUs": time.map(micros),
                        "mtuBytes": mtu,
                    }));
                }
            }
        }
        let run = json!({"attach": attach, "join": join, "family": family, "pairs": pairs, "reached": reached});
        show.event(
            &json!({"event": "run", "run": run}),
            &format!("   {attach} × {join}, {family}: {reached} of {pairs} pairs reached with small and full-size packets"),
        );
        runs.push(run);
    }
    show.rows("path", &["FROM", "TO", "FAMILY", "PATH", "LATENCY", "MTU"], &rows, |path| {
        let latency = path["latencyUs"].as_u64().map_or("none".into(), |time| format!("{time} µs"));
        let [from, to, family, way, mtu] =
            ["from", "to", "family", "path", "mtuBytes"].map(|field| cell(path, field));
        vec![from, to, family, way, latency, mtu]
    });
    Ok(runs)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Changes the join under traffic and counts what that costs.
pub fn switch(
    cluster: &Cluster,
    show: &Show,
    pods: &[Pod],
    network: &str,
    (from, to): (&str, &str),
    number: u8,
) -> anyhow::Result<Value> {
    // Both families, where pods have both.
    let (ipv4, ipv6) = (pods[0].addr(true).is_some(), pods[0].addr(false).is_some());
    let per_node = cluster.plan.pods;
    let (a, b) = (&pods[0], &pods[per_node]);
    let c = pods.get(2 * per_node).unwrap_or(a);
    let flows = [
        Flow::start(FlowKind::Small, a, b, ipv4)?,
        Flow::start(FlowKind::Full, b, c, !ipv6)?,
        Flow::start(FlowKind::Full, c, b, ipv4)?,
        Flow::start(FlowKind::Bulk, a, b, !ipv6)?,
    ];
    std::thread::sleep(CALM);
    let started = Instant::now();
    cluster.apply(network, &cluster.network(network, to, number))?;
    cluster.settled(network, to)?;
    let took = millis(started);
    std::thread::sleep(CALM);
    let mut all = Report::default();
    let mut kinds = Vec::new();
    for flow in flows {
        anyhow::ensure!(flow.arrived() > 0, "a flow never flowed");
        kinds.push(flow);
    }
    // All stop together, so that the time to drain is waited for once.
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let stopping: Vec<_> = kinds.into_iter().map(|flow| scope.spawn(|| flow.stop())).collect();
        stopping.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    reports.into_iter().for_each(|report| all += report);
    let value = json!({
        "from": from, "to": to, "settledMs": took,
        "sent": all.sent, "lost": all.lost, "resets": all.resets,
    });
    show.event(
        &json!({"event": "switch", "attach": network, "switch": value}),
        &format!(
            "   {from} -> {to} under traffic: settled in {took} ms, {} packets sent, {} lost, {} connections reset",
            all.sent,
            all.lost,
            all.resets
        ),
    );
    Ok(value)
}

/// Milliseconds since then.
pub fn millis(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Direct routing between segments can't be, and weft says why.
fn refused(cluster: &Cluster, show: &Show, network: &str, number: u8) -> anyhow::Result<()> {
    let changed = cluster.apply(network, &cluster.network(network, "host-gw", number));
    let Err(why) = changed else { anyhow::bail!("host-gw between segments is not refused") };
    show.step(&format!("   host-gw between the segments is refused: {why}"));
    Ok(())
}
