//! `weft lab shell` and what one does inside it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use weft_linux::Netns;

use super::{Cluster, DIR, Plan, Responder, Switch, Topology, racks, tor};

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
            println!("No pods: {why:#}\n");
            Vec::new()
        }
        pods => pods?,
    };
    let _responders: Vec<Responder> =
        pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
    println!("A cluster of {} nodes; network default, attach {attach}, join {join}.\n", plan.nodes);
    for pod in &pods {
        let addrs: Vec<String> = pod.addrs.iter().map(ToString::to_string).collect();
        println!("  pod {:<4} on {}  {}", pod.name, pod.node, addrs.join("  "));
    }
    let other = pods.last().map(|pod| pod.name.clone());
    println!(
        "\nTry:\n  weft status                        (this shell asks node-a)\n  \
         weft explain a1 {}                     (or any address)\n  weft network join default host-gw\n  \
         weft lab exec node-b -- weft paths\n  weft lab exec a1 -- ip route\n  \
         exit                               (nothing is left behind)\n",
        other.unwrap_or_default()
    );
    let bin = plan.dir.join("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into()))
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("WEFT_CONTROL", cluster.nodes[0].control())
        .env("WEFT_LAB", DIR)
        .status()
        .context("start a shell")?;
    Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
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
    let netns = Netns::open(&path).with_context(|| {
        let places = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let names: Vec<String> =
            places.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        format!("there is no node or pod {place}: {}", names.join(", "))
    })?;
    netns.enter().context("enter the namespace")?;
    let mut run = Command::new(&command[0]);
    run.args(&command[1..]);
    let control = Path::new(DIR).join(place).join("control.sock");
    if control.exists() {
        run.env("WEFT_CONTROL", control);
    }
    Err(run.exec()).with_context(|| format!("run {}", command[0]))
}
