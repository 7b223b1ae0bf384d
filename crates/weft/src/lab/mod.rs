//! A whole cluster on this machine, in a sandbox: nodes, pods and the wire between them are
//! namespaces; agents and the plugin are the real ones. `guide.rs` is the guided run, `shell.rs`
//! leaves the user inside.

mod cluster;
mod guide;
mod interrupt;
mod leased;
mod node;
mod physical;
mod probe;
mod racks;
mod shell;
mod show;
pub mod tor;
mod vlan;
mod wire;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use weft_linux::sandbox;

pub use cluster::{Cluster, Plan};
pub use node::{Node, Pod};
pub use probe::{Flow, FlowKind, Report, Responder, largest, reach, too_big};
pub use racks::start as start_routers;
pub use shell::address;
pub use wire::{LAN4, LAN6, Switch, Topology, WORLD4, Wire};

/// Where the lab keeps everything, inside its own `/run`.
pub const DIR: &str = "/run/lab";

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Lab {
    #[command(subcommand)]
    command: Option<LabCommand>,
    #[command(flatten)]
    plan: LabPlan,
    /// Show this join alone: bgp, in two racks with real routers (FRR or BIRD)
    #[arg(long, value_parser = ["bgp"])]
    join: Option<String>,
    /// Print one JSON object per line as things happen; the last is the result
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone)]
pub struct LabPlan {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// How many pods on each node
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    pods: u8,
    /// One L2 segment, two with a router between, or two racks whose routers speak BGP
    #[arg(long, value_enum, default_value_t = Topology::Segment)]
    topology: Topology,
    /// What the switch of the nodes' second NICs takes in by a port
    #[arg(long, value_enum, default_value_t = Switch::Any)]
    switch: Switch,
    /// Address families of the pods
    #[arg(long, value_enum, default_value_t = Families::Dual)]
    families: Families,
    /// Address families of the underlay
    #[arg(long, value_enum, default_value_t = Families::Dual)]
    underlay: Families,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Families {
    #[value(name = "ipv4")]
    V4,
    #[value(name = "ipv6")]
    V6,
    Dual,
    /// One node has IPv4 alone, one IPv6 alone, the rest both (underlay only).
    Mixed,
}

impl Families {
    /// Whether the `n`-th of them has this family.
    pub fn has(self, ipv4: bool, n: usize) -> bool {
        match (self, n) {
            (Self::V4, _) | (Self::Mixed, 0) => ipv4,
            (Self::V6, _) | (Self::Mixed, 1) => !ipv4,
            _ => true,
        }
    }
}

#[derive(Subcommand)]
enum LabCommand {
    /// Build a cluster and leave you inside, with weft, pods and nodes to play with (options come after `shell`)
    Shell {
        /// veth, bridge, macvlan/MODE or ipvlan/l2/FLAG (with `--join underlay`; on the nodes' second
        /// NIC), ipvlan/l3/FLAG or ipvlan/l3s/FLAG (with `--join host-gw`)
        #[arg(long, default_value = "veth")]
        attach: String,
        /// vxlan, vxlan-bridged (either with +multicast), host-gw, bgp, auto or underlay; default: what the
        /// attach stands on
        #[arg(long)]
        join: Option<String>,
        #[command(flatten)]
        plan: LabPlan,
    },
    /// Inside `weft lab shell`: run a command on a node or in a pod
    Exec {
        /// A node (node-a) or a pod (a1)
        place: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

pub fn run(lab: Lab) -> anyhow::Result<u8> {
    match lab.command {
        Some(LabCommand::Exec { place, command }) => shell::exec(&place, &command),
        Some(LabCommand::Shell { attach, join, plan }) => {
            let join = join.unwrap_or_else(|| join_of(&attach).to_owned());
            check(&plan)?;
            if plan.topology == Topology::Racks && join == "bgp" {
                check_racks(&plan)?;
            }
            enter()?;
            let mut plan = Plan::from(&plan);
            if attach.ends_with("passthru") {
                // One has the whole NIC.
                plan.pods = 1;
            }
            shell::shell(&plan, &attach, &join)
        }
        None => {
            let mut plan = Plan::from(&lab.plan);
            check(&lab.plan)?;
            if lab.join.is_some() {
                anyhow::ensure!(
                    plan.topology != Topology::Routed,
                    "--join bgp is shown in racks: leave out `--topology routed`"
                );
                plan.topology = Topology::Racks;
            }
            if plan.topology == Topology::Racks {
                check_racks(&lab.plan)?;
                tor::installed()?;
            } else {
                check_guided(&lab.plan)?;
            }
            enter()?;
            Ok(guide::run(&plan, lab.json))
        }
    }
}

fn check(plan: &LabPlan) -> anyhow::Result<()> {
    anyhow::ensure!(
        plan.families != Families::Mixed,
        "--families mixed: pods have ipv4, ipv6 or dual; only the underlay may be mixed"
    );
    Ok(())
}

fn check_guided(plan: &LabPlan) -> anyhow::Result<()> {
    anyhow::ensure!(
        plan.underlay != Families::Mixed,
        "the guided run wants everybody to reach everybody, and over a mixed underlay the first \
         two nodes have no family in common: try `weft lab shell --underlay mixed`"
    );
    anyhow::ensure!(
        !plan.families.has(false, 2) || plan.underlay.has(false, 2),
        "the guided run changes to host-gw too, by which IPv6 pods can't go between nodes with \
         IPv4 alone: try `weft lab shell --underlay ipv4`, or `--families ipv4`"
    );
    Ok(())
}

/// What BGP with the racks' routers needs of every node.
fn check_racks(plan: &LabPlan) -> anyhow::Result<()> {
    let every = |ipv4: bool| (0..plan.nodes.into()).all(|n| plan.underlay.has(ipv4, n));
    anyhow::ensure!(
        every(true),
        "nodes speak with the racks' routers over IPv4, and by this --underlay not every node has it: \
         try `--underlay dual`"
    );
    anyhow::ensure!(
        !plan.families.has(false, 2) || every(false),
        "by join bgp a route of IPv6 pods leads through the IPv6 address of a node or router, and by this \
         --underlay not every node has one: try `--underlay dual`, or `--families ipv4`"
    );
    Ok(())
}

/// The first join that goes with an attach.
fn join_of(attach: &str) -> &'static str {
    match attach {
        _ if attach.starts_with("ipvlan/l3") => "host-gw",
        _ if attach.starts_with("macvlan") || attach.starts_with("ipvlan") => "underlay",
        _ => "vxlan",
    }
}

fn enter() -> anyhow::Result<()> {
    sandbox::enter_with(sandbox::Interrupts::PassedOn)
        .context("the lab needs namespaces of its own")?;
    interrupt::watch()
}

impl From<&LabPlan> for Plan {
    fn from(plan: &LabPlan) -> Self {
        Self {
            nodes: plan.nodes.into(),
            pods: plan.pods.into(),
            topology: plan.topology,
            families: plan.families,
            underlay: plan.underlay,
            lan: true,
            switch: plan.switch,
            dir: PathBuf::from(DIR),
            env: Vec::new(),
        }
    }
}
