//! The lab's cluster as one thing: built, asked and changed.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::Context;
use serde_json::{Value, json};
use weft_linux::Netns;

use super::{
    Families, Node, Pod, Switch, Topology, Wire,
    wire::{LAN4, LAN6},
};

/// What to build.
#[derive(Clone)]
pub struct Plan {
    pub nodes: usize,
    pub pods: usize,
    pub topology: Topology,
    pub families: Families,
    pub underlay: Families,
    /// Every node has a second NIC, `eth1`, on a switch of its own.
    pub lan: bool,
    /// What that switch takes in.
    pub switch: Switch,
    pub dir: PathBuf,
    /// Environment of the agents.
    pub env: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            pods: 2,
            topology: Topology::Segment,
            families: Families::Dual,
            underlay: Families::Dual,
            lan: false,
            switch: Switch::Any,
            dir: super::DIR.into(),
            env: Vec::new(),
        }
    }
}

pub struct Cluster {
    pub plan: Plan,
    pub wire: Wire,
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Nodes on a wire, with the embedded store between them; agents not yet started. `program` is
    /// `weft` itself, which is the agent, and under another name the plugin.
    pub fn build(plan: &Plan, program: &std::path::Path) -> anyhow::Result<Self> {
        let store = json!({"file": {"dir": plan.dir.join("store")}});
        Self::build_on(plan, program, &store)
    }

    pub fn build_on(plan: &Plan, program: &std::path::Path, store: &Value) -> anyhow::Result<Self> {
        let bin = plan.dir.join("bin");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all("/run/netns")?;
        for name in ["weft", "weft-cni"] {
            symlink(program, bin.join(name)).with_context(|| format!("link {name}"))?;
        }
        let wire = Wire::build(plan.topology, plan.lan.then_some(plan.switch))?;
        let mut nodes = Vec::new();
        for n in 0..plan.nodes {
            let name = format!("node-{}", letter(n));
            let netns = Netns::create()?;
            netns.bind(&PathBuf::from("/run/netns").join(&name))?;
            let place = wire.place(n, plan.nodes, plan.underlay)?;
            wire.plug(&netns, &name, &place)?;
            wire.plug_second(&netns, &name)?;
            nodes.push(Node::new(&name, netns, place, &plan.dir, program, store)?);
        }
        Ok(Self { plan: plan.clone(), wire, nodes })
    }

    pub fn start(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.start(&self.plan.env)?;
        }
        for node in &self.nodes {
            node.wait_until("started", |node| Ok(node.status()?["store"]["synced"] == true))?;
        }
        Ok(())
    }

    /// As `weft lab shell` is asked for it; `macvlan` and `ipvlan` may have their mode behind a slash,
    /// ipvlan's flag behind another, and `join` may end in `+multicast`: then nodes find each other
    /// in a group.
    pub fn network(&self, attach: &str, join: &str, number: u8) -> Value {
        let mut words = attach.split('/');
        let attach = match (words.next(), words.next(), words.next()) {
            (Some("macvlan"), mode, _) => {
                json!({"kind": "macvlan", "parent": "eth1", "mode": mode.unwrap_or("bridge")})
            }
            (Some("ipvlan"), mode, flag) => {
                let (mode, flag) = (mode.unwrap_or("l2"), flag.unwrap_or("bridge"));
                // Where nodes route, it is the NIC by which they reach each other.
                let parent = if mode == "l2" { "eth1" } else { "eth0" };
                json!({"kind": "ipvlan", "parent": parent, "mode": mode, "flag": flag})
            }
            _ => json!(attach),
        };
        if attach["parent"] == "eth1" {
            let mut network = self.lan_network(&attach);
            if join != "underlay" {
                network["join"] = json!(join);
            }
            return network;
        }
        let mut ranges = Vec::new();
        if self.plan.families.has(true, 2) {
            ranges.push(format!("10.{number}.0.0/16"));
        }
        if self.plan.families.has(false, 2) {
            ranges.push(format!("fd00:{number}::/64"));
        }
        let mut settings = json!({"kind": kind(join)});
        if ["vxlan", "vxlan-bridged", "auto"].contains(&kind(join)) {
            settings["vni"] = json!(number);
        }
        if join.ends_with("+multicast") {
            let group = if self.plan.underlay.has(true, 2) { "239.1.1." } else { "ff05::" };
            settings["discovery"] = json!("multicast");
            settings["group"] = json!(format!("{group}{number}"));
        }
        json!({"attach": attach, "join": settings, "ranges": ranges})
    }

    /// A network of pods on the second switch. Has no number: there is one such switch.
    pub fn lan_network(&self, attach: &Value) -> Value {
        let has = |ipv4: bool| self.plan.families.has(ipv4, 2);
        let lans = [(true, LAN4), (false, LAN6)].into_iter().filter(|(ipv4, _)| has(*ipv4));
        let (ranges, gateways): (Vec<_>, Vec<_>) = lans.map(|(_, lan)| lan).unzip();
        let join = json!({"kind": "underlay", "gateway": gateways});
        json!({"attach": attach, "join": join, "ranges": ranges})
    }

    pub fn apply(&self, name: &str, network: &Value) -> anyhow::Result<()> {
        let path = format!("/v1/networks/{name}");
        self.nodes[0].ask("PUT", &path, Some(network.clone()))?;
        Ok(())
    }

    /// Waits until every node serves the network by `join` with all its peers, has nothing to do
    /// and holds nothing that is on its way out.
    pub fn settled(&self, name: &str, join: &str) -> anyhow::Result<()> {
        let peers = self.nodes.len() - 1;
        let settled = |status: &Value| {
            let network = &status["networks"][name];
            status["converged"] == true
                && network["blocks"].as_array().is_some_and(|own| own.len() >= self.families())
                && network["join"] == kind(join)
                && network["peers"] == peers
                && network["withdrawing"].as_array().is_some_and(Vec::is_empty)
        };
        for node in &self.nodes {
            node.wait_until(&format!("settled in {name} by {join}"), |node| {
                Ok(settled(&node.status()?) && self.sees_peers(node, name, join)?)
            })?;
        }
        // One that was settled may have heard of another since.
        for node in &self.nodes {
            node.wait_until("without anything to do", |node| {
                Ok(settled(&node.status()?) && node.plan()?.is_empty())
            })?;
        }
        Ok(())
    }

    /// Waits until no node knows of a problem: in a group, that everybody was heard too.
    pub fn well(&self) -> anyhow::Result<()> {
        self.nodes.iter().try_for_each(|node| {
            node.wait_until("well", |node| Ok(node.status()?["problems"] == json!([])))
        })
    }

    /// Families of pod addresses: as many ranges as a network has here.
    fn families(&self) -> usize {
        [true, false].into_iter().filter(|v4| self.plan.families.has(*v4, 2)).count()
    }

    /// Every peer has a block of each family; by BGP, it was learnt too.
    fn sees_peers(&self, node: &Node, name: &str, join: &str) -> anyhow::Result<bool> {
        let paths = node.ask("GET", "/v1/paths", None)?;
        let ours = paths
            .as_array()
            .into_iter()
            .flatten()
            .filter(|path| path["network"] == name && (join != "bgp" || path["way"] == "bgp"));
        Ok(ours.count() == self.families() * (self.nodes.len() - 1))
    }

    /// `pods` on every node: a1, a2, b1, …
    pub fn add_pods(&self, network: &str, prefix: &str) -> anyhow::Result<Vec<Pod>> {
        self.add_pods_of(self.plan.pods, network, prefix)
    }

    /// So many on every node.
    pub fn add_pods_of(
        &self,
        each: usize,
        network: &str,
        prefix: &str,
    ) -> anyhow::Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            for i in 1..=each {
                pods.push(node.add_pod(&format!("{prefix}{}{i}", letter(n)), network)?);
            }
        }
        Ok(pods)
    }

    pub fn delete_pods(&self, pods: Vec<Pod>) -> anyhow::Result<()> {
        for pod in pods {
            let node = self.nodes.iter().find(|node| node.name == pod.node);
            node.context("a pod without a node")?.delete_pod(pod)?;
        }
        Ok(())
    }

    /// The path from one node to another as its agent says it: way and reason.
    pub fn way(
        &self,
        from: &str,
        to: &str,
        network: &str,
        ipv4: bool,
    ) -> anyhow::Result<(String, String)> {
        if from == to {
            return Ok(("local".into(), String::new()));
        }
        let node = self.nodes.iter().find(|node| node.name == from).context("no such node")?;
        let paths = node.ask("GET", "/v1/paths", None)?;
        let family = if ipv4 { "ipv4" } else { "ipv6" };
        let path = paths.as_array().into_iter().flatten().find(|path| {
            path["network"] == network && path["peer"] == to && path["family"] == family
        });
        let text = |of: &str| path.map_or("", |path| path[of].as_str().unwrap_or("")).to_owned();
        Ok((text("way"), text("why")))
    }
}

/// The kind of a join as the lab spells it.
pub fn kind(join: &str) -> &str {
    join.strip_suffix("+multicast").unwrap_or(join)
}

pub fn letter(n: usize) -> char {
    char::from(b'a' + u8::try_from(n % 26).unwrap_or(0))
}
