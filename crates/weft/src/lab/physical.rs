//! The guided run's part on the nodes' second switch: pods that stand on the physical network
//! itself, in every mode of macvlan and ipvlan, with what each keeps apart.

use std::net::IpAddr;

use anyhow::ensure;
use serde_json::Value;
use weft_linux::rig;

use super::{
    Cluster, Pod, Responder, Switch, Topology,
    guide::{clean, measure},
    probe::reach,
    show::Show,
};

const NETWORK: &str = "lan";

/// One way to stand on the nodes' NICs.
struct Model {
    kind: &'static str,
    mode: &'static str,
    /// Of ipvlan: how pods of a node meet, which macvlan's mode says itself.
    flag: &'static str,
}

const MACVLAN: [Model; 4] =
    [macvlan("bridge"), macvlan("vepa"), macvlan("private"), macvlan("passthru")];
const IPVLAN: [Model; 5] = [
    ipvlan("l2", "bridge"),
    ipvlan("l2", "vepa"),
    ipvlan("l2", "private"),
    ipvlan("l3", "bridge"),
    ipvlan("l3s", "bridge"),
];

const fn macvlan(mode: &'static str) -> Model {
    Model { kind: "macvlan", mode, flag: mode }
}
const fn ipvlan(mode: &'static str, flag: &'static str) -> Model {
    Model { kind: "ipvlan", mode, flag }
}

impl Model {
    fn name(&self) -> String {
        match self.kind {
            "ipvlan" => format!("ipvlan {} {}", self.mode, self.flag),
            kind => format!("{kind} {}", self.mode),
        }
    }
    /// The nodes route its pods, who are no hosts of the second switch's network.
    fn is_routed(&self) -> bool {
        self.mode.starts_with("l3")
    }
    fn join(&self) -> &'static str {
        if self.is_routed() { "host-gw" } else { "underlay" }
    }
    /// True if pods need MAC addresses of their own at the switch.
    fn has_macs(&self) -> bool {
        self.kind == "macvlan" && self.mode != "passthru"
    }
    fn network(&self, cluster: &Cluster) -> Value {
        let attach = match self.kind {
            "ipvlan" => format!("ipvlan/{}/{}", self.mode, self.flag),
            kind => format!("{kind}/{}", self.mode),
        };
        cluster.network(&attach, self.join(), 6)
    }
}

pub fn run(cluster: &Cluster, show: &Show) -> anyhow::Result<Vec<Value>> {
    let mut runs = Vec::new();
    for model in &MACVLAN {
        runs.extend(shown(cluster, show, model)?);
    }
    let has_ipvlan = rig::has_kind("ipvlan")?;
    if !has_ipvlan {
        show.step("\n== attach ipvlan: left out, this kernel has none (CONFIG_IPVLAN)");
    }
    for model in IPVLAN.iter().filter(|_| has_ipvlan) {
        if model.is_routed() && cluster.plan.topology == Topology::Routed {
            show.step(&format!("\n== {}: left out, its host-gw needs one segment", model.name()));
            continue;
        }
        runs.extend(shown(cluster, show, model)?);
    }
    if cluster.plan.switch == Switch::Any {
        runs.extend(one_mac(cluster, show, has_ipvlan)?);
    }
    Ok(runs)
}

/// One model from its network's beginning to its end.
fn shown(cluster: &Cluster, show: &Show, model: &Model) -> anyhow::Result<Vec<Value>> {
    let nic = if model.is_routed() { "eth0" } else { "eth1" };
    let (name, join) = (model.name(), model.join());
    show.step(&format!("\n== attach {name}: network {NETWORK} on {nic}, join {join}"));
    cluster.apply(NETWORK, &model.network(cluster))?;
    cluster.settled(NETWORK, join)?;
    if cluster.plan.switch == Switch::OneMac && model.has_macs() {
        refused(cluster, show)?;
        clean(cluster, &[NETWORK])?;
        return Ok(Vec::new());
    }
    let pods = match model.mode {
        "passthru" => cluster.add_pods_of(1, NETWORK, "")?,
        _ => cluster.add_pods(NETWORK, "")?,
    };
    show.step(&format!("   {} pods attached through the CNI plugin", pods.len()));
    let responders: Vec<Responder> = pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
    // What one node's pods may do is shown apart.
    let counted = |from: &Pod, to: &Pod| model.flag == "bridge" || from.node != to.node;
    let runs = measure(cluster, show, &pods, (&name, join, NETWORK), counted)?;
    if !model.is_routed() {
        siblings(cluster, show, &pods, model.flag)?;
    }
    citizens(cluster, show, &pods, &name)?;
    drop(responders);
    cluster.delete_pods(pods)?;
    clean(cluster, &[NETWORK])?;
    show.step("   pods and network deleted; every node's plan is empty, no link is left");
    Ok(runs)
}

/// What clouds do: the switch admits one MAC address by a port.
fn one_mac(cluster: &Cluster, show: &Show, has_ipvlan: bool) -> anyhow::Result<Vec<Value>> {
    show.step("\n== a switch that admits one MAC address by a port, as clouds' do");
    let admit = |what: Switch| {
        cluster.nodes.iter().try_for_each(|node| cluster.wire.admit(&node.netns, &node.name, what))
    };
    admit(Switch::OneMac)?;
    let again = || {
        cluster.apply(NETWORK, &MACVLAN[0].network(cluster))?;
        cluster.settled(NETWORK, "underlay")
    };
    again()?;
    refused(cluster, show)?;
    let mut runs = Vec::new();
    if has_ipvlan {
        clean(cluster, &[NETWORK])?;
        runs = shown(cluster, show, &IPVLAN[0])?;
        again()?;
    }
    admit(Switch::Any)?;
    for node in &cluster.nodes {
        node.wait_until("measured anew", |node| {
            // A call that is refused has it measured.
            let pod = node.add_pod(&format!("{}-late", node.name), NETWORK);
            if pod.is_err() {
                unbind(&format!("{}-late", node.name));
            }
            pod.and_then(|pod| node.delete_pod(pod)).map(|()| true)
        })?;
    }
    show.step("   the ports opened: measured anew, and pods attach");
    clean(cluster, &[NETWORK])?;
    Ok(runs)
}

/// Every node says what its switch does, and no pod is sent where nobody would hear it.
fn refused(cluster: &Cluster, show: &Show) -> anyhow::Result<()> {
    for node in &cluster.nodes {
        node.wait_until("knowing its switch", |node| {
            Ok(node.status()?["problems"].to_string().contains("admits only the NIC's own"))
        })?;
        let pod = node.add_pod("unheard", NETWORK);
        unbind("unheard");
        let Err(why) = pod else { anyhow::bail!("{} took a pod that nobody hears", node.name) };
        ensure!(why.to_string().contains("admits only the NIC's own"), "refused otherwise: {why}");
    }
    let status = cluster.nodes[0].status()?;
    let why = status["networks"][NETWORK]["switch"].as_str().unwrap_or_default();
    show.step(&format!("   macvlan is refused on every node: {why}"));
    Ok(())
}

/// Takes away the file of a namespace whose pod was refused.
fn unbind(name: &str) {
    let path = std::path::Path::new("/run/netns").join(name);
    let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(&path);
}

/// A node and its own pods, both ways and by every family that they share, whatever the mode.
fn citizens(cluster: &Cluster, show: &Show, pods: &[Pod], mode: &str) -> anyhow::Result<()> {
    for node in &cluster.nodes {
        let own: Vec<IpAddr> = node.place.addrs.iter().map(ipnet::IpNet::addr).collect();
        let _echo = Responder::at(&node.netns, &own)?;
        for pod in pods.iter().filter(|pod| pod.node == node.name) {
            let common = |a: &IpAddr, of: &[IpAddr]| of.iter().any(|b| a.is_ipv4() == b.is_ipv4());
            let ways = own.iter().filter(|addr| common(addr, &pod.addrs));
            let back = pod.addrs.iter().filter(|addr| common(addr, &own));
            let (ways, told) = (ways.map(|addr| (&pod.netns, *addr)), back.clone());
            for (from, to) in ways.chain(back.map(|addr| (&node.netns, *addr))) {
                let answered = reach(from, to).is_some();
                ensure!(answered, "{mode}: {to} does not answer, of {} and its node", pod.name);
            }
            for addr in told {
                let asked = format!("/v1/explain?from={}&to={addr}", node.name);
                let explained = node.ask("GET", &asked, None)?;
                ensure!(explained["works"] == true, "{mode}: not by its own way: {explained}");
            }
        }
    }
    show.step("   every node and its own pods reach each other, by their second link");
    Ok(())
}

/// Who of one node meets, and what the switch has to do with it.
fn siblings(cluster: &Cluster, show: &Show, pods: &[Pod], mode: &str) -> anyhow::Result<()> {
    let node = &cluster.nodes[0];
    if mode == "passthru" {
        let second = node.add_pod("second", NETWORK);
        unbind("second");
        let Err(why) = second else { anyhow::bail!("passthru took a second pod") };
        let why = why.to_string();
        let told = why.contains("whole to one pod");
        ensure!(told, "a second pod was refused for another reason: {why}");
        show.step("   a second pod on a node is refused: the first has the whole NIC");
        return Ok(());
    }
    let mut own = pods.iter().filter(|pod| pod.node == node.name);
    let (Some(from), Some(to)) = (own.next(), own.next()) else { return Ok(()) };
    // Without hairpin, and with it.
    let want = match mode {
        "bridge" => [true, true],
        "vepa" => [false, true],
        _ => [false, false],
    };
    for (hairpin, want) in [false, true].into_iter().zip(want) {
        cluster.wire.hairpin(&node.name, hairpin)?;
        let met = std::thread::scope(|scope| {
            let asking: Vec<_> = to
                .addrs
                .iter()
                .map(|addr| scope.spawn(move || reach(&from.netns, *addr).is_some()))
                .collect();
            asking.into_iter().map(|asked| asked.join().unwrap_or(false)).collect::<Vec<_>>()
        });
        let switch = if hairpin { "sends back (hairpin)" } else { "does not send back" };
        let (from, to) = (&from.name, &to.name);
        ensure!(
            met.iter().all(|met| *met == want),
            "{mode}: {from} and {to} behind a switch that {switch}: met {met:?}"
        );
        let meet = if want { "meet" } else { "do not meet" };
        show.step(&format!("   {from} and {to} of one node, the switch {switch}: they {meet}"));
    }
    cluster.wire.hairpin(&node.name, false)
}
