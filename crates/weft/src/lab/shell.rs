//! `weft lab shell` and what one does inside it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use weft_linux::Netns;

use super::{
    Cluster, DIR, Families, Plan, Pod, Responder, Switch, Topology, interrupt, racks, show::say,
    tor,
};
use crate::cli::text::table;

pub fn shell(plan: &Plan, attach: &str, join: &str) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("find this program")?;
    let cluster = Cluster::build(plan, &program)?;
    cluster.start()?;
    let _routers = routers(&cluster)?;
    cluster.apply("default", &cluster.network(attach, join, 1))?;
    cluster.settled("default", join)?;
    let pods = match cluster.add_pods("default", "") {
        // What one came to see.
        Err(why) if plan.switch == Switch::OneMac => {
            say(&format!("No pods: {why:#}\n"));
            Vec::new()
        }
        pods => pods?,
    };
    let _responders: Vec<Responder> =
        pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
    // Beyond a router, or without a family in common, nobody is heard in a group, as one may have come to see.
    let heard = plan.topology == Topology::Segment && plan.underlay != Families::Mixed;
    if join.ends_with("+multicast") && heard {
        cluster.well()?;
    }
    say(&format!(
        "A cluster of {} nodes; network default, attach {attach}, join {join}.",
        plan.nodes
    ));
    listed(&pods);
    say(&tries(plan, attach, join, &pods));
    leave_inside(&cluster)
}

fn listed(pods: &[Pod]) {
    let row = |pod: &Pod| {
        let addrs: Vec<String> = pod.addrs.iter().map(ToString::to_string).collect();
        let mut row =
            [vec![format!("pod {}", pod.name), format!("on {}", pod.node)], addrs].concat();
        row.resize(4, String::new());
        row
    };
    if !pods.is_empty() {
        say("");
    }
    for line in rows_of(pods.iter().map(row).collect()) {
        say(&format!("  {line}"));
    }
}

/// Commands that work in this cluster, with what they are about.
fn tries(plan: &Plan, attach: &str, join: &str, pods: &[Pod]) -> String {
    let mut rows = vec![("weft status".to_owned(), "this shell asks node-a")];
    if let [first, .., last] = pods {
        rows.push((format!("weft explain {} {}", first.name, last.name), "or any address"));
    }
    if let Some(other) = other_join(plan, attach, join) {
        rows.push((
            format!("weft network join default {other}"),
            "while it runs; `weft paths` shows it",
        ));
    }
    rows.push(("weft lab exec node-b -- weft paths".into(), "which way to each peer, and why"));
    if let Some(pod) = pods.first() {
        rows.push((format!("weft lab exec {} -- ip route", pod.name), ""));
    }
    rows.push(("exit".into(), "nothing is left behind"));
    let note = |about: &str| if about.is_empty() { String::new() } else { format!("({about})") };
    let rows = rows.into_iter().map(|(command, about)| vec![command, note(about)]).collect();
    let lines: Vec<String> = rows_of(rows).into_iter().map(|line| format!("  {line}\n")).collect();
    format!("\nTry:\n{}", lines.concat())
}

/// Lines with their columns under each other.
fn rows_of(rows: Vec<Vec<String>>) -> Vec<String> {
    let Some(first) = rows.first() else { return Vec::new() };
    let head = vec![""; first.len()];
    table(&head, rows.into_iter()).lines().skip(1).map(str::to_owned).collect()
}

/// A join that the network can be changed to as it is.
fn other_join(plan: &Plan, attach: &str, join: &str) -> Option<&'static str> {
    let routed = ["veth", "bridge"].contains(&attach);
    if !routed || !["vxlan", "auto", "host-gw", "bgp"].contains(&join) {
        return None;
    }
    let has =
        |ipv4: bool| !plan.families.has(ipv4, 2) || (0..2).all(|n| plan.underlay.has(ipv4, n));
    match (join, plan.topology == Topology::Segment && has(true) && has(false)) {
        ("host-gw" | "bgp", _) | ("auto", false) => Some("vxlan"),
        (_, true) => Some("host-gw"),
        (_, false) => Some("auto"),
    }
}

fn leave_inside(cluster: &Cluster) -> anyhow::Result<u8> {
    let dir = &cluster.plan.dir;
    let path = std::env::var("PATH").unwrap_or_default();
    let program = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let mut shell = Command::new(&program);
    prompt(&mut shell, &program, dir)?;
    shell
        .env("PATH", format!("{}:{path}", dir.join("bin").display()))
        .env("WEFT_CONTROL", cluster.nodes[0].control())
        .env("WEFT_LAB", DIR);
    interrupt::hand_over();
    weft_linux::terminal::take();
    let status = shell.status().with_context(|| format!("start a shell, {program}"))?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

/// Where one is, before the prompt that one has. Read by interactive shells alone.
const PROMPT: &str = r#"case $PS1 in "(weft lab)"*) ;; *) PS1="(weft lab) $PS1" ;; esac
"#;

/// bash reads a file instead of the user's own, any other POSIX shell the one that `ENV` names.
fn prompt(shell: &mut Command, program: &str, dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("prompt");
    let name = Path::new(program).file_name().unwrap_or_default();
    let own = if name == "bash" {
        shell.arg("--rcfile").arg(&file);
        "[ ! -f ~/.bashrc ] || . ~/.bashrc\n".to_owned()
    } else {
        shell.env("ENV", &file);
        std::env::var("ENV").map_or(String::new(), |own| format!("[ ! -f '{own}' ] || . '{own}'\n"))
    };
    std::fs::write(&file, own + PROMPT).with_context(|| format!("write {}", file.display()))
}

/// In racks nodes reach each other's pods by what their routers say, or not at all.
fn routers(cluster: &Cluster) -> anyhow::Result<Vec<tor::Router>> {
    if cluster.plan.topology != Topology::Racks {
        return Ok(Vec::new());
    }
    let routers = racks::start(cluster, tor::installed()?)?;
    cluster.nodes[0].ask("PUT", "/v1/bgp/settings", Some(tor::settings()))?;
    Ok(routers)
}

/// The address of a pod of the lab, on whichever node; what is no such name stays as it is. On a
/// node alone nobody knows the pods of the others by name.
pub fn address(name: &str) -> String {
    let nodes = std::fs::read_dir(DIR).into_iter().flatten().flatten();
    let pods = nodes.filter_map(|node| {
        crate::cli::client::ask(&node.path().join("control.sock"), "GET", "/v1/pods", None).ok()
    });
    let mut addrs = pods.filter_map(|pods| {
        let mut pods = pods.as_array()?.iter();
        let pod = pods.find(|pod| pod["container"] == name || pod["pod"] == name)?;
        Some(pod["addrs"][0].as_str()?.to_owned())
    });
    addrs.next().unwrap_or_else(|| name.to_owned())
}

/// Runs a command in the namespace of a node or pod; on a node, `weft` asks that node's agent.
pub fn exec(place: &str, command: &[String]) -> anyhow::Result<u8> {
    let path = PathBuf::from("/run/netns").join(place);
    if std::env::var_os("WEFT_LAB").is_none() {
        bail!("`weft lab exec` works inside `weft lab shell`");
    }
    let Ok(netns) = Netns::open(&path) else {
        bail!("there is no node or pod {place}: {}", places())
    };
    netns.enter().context("enter the namespace")?;
    let mut run = Command::new(&command[0]);
    run.args(&command[1..]);
    let control = Path::new(DIR).join(place).join("control.sock");
    if control.exists() {
        run.env("WEFT_CONTROL", control);
    }
    Err(run.exec()).with_context(|| format!("run {}", command[0]))
}

/// Every node and pod, in order.
fn places() -> String {
    let places = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut names: Vec<String> =
        places.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(", ")
}
