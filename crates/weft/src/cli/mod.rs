//! The command line: one tree of commands. What is printed by default is for people, in
//! iproute2's words; `--json` for programs. Exit codes: 0 yes, 1 error, 2 there is something to do.

mod bgp;
pub mod client;
mod models;
pub mod text;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use weft_core::name::{NetworkName, NodeName};

use crate::{
    agent::{self, Config, config},
    control::{policy::Policies, report},
    lab,
};

/// A pod network of every model: overlay (VXLAN) and underlay (host-gw, BGP, macvlan), chosen per peer.
#[derive(Parser)]
#[command(name = "weft", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a whole cluster on this machine, without root, show every model, leave nothing behind
    Lab(lab::Lab),
    /// Run the agent of this node (fields of the file: `weft config`)
    Agent(AgentFile),
    /// Print the agent's configuration with every field said
    Config,
    /// Show how this node is: problems first, networks, underlay, store
    Status(Asked),
    /// Show what the agent would change in the kernel now (exit code 2 if there is something)
    Plan(Asked),
    /// List the pods of this node
    Pods(Asked),
    /// List address blocks, and how full this node's are
    Ipam(Asked),
    /// Show which path this node takes to each peer, and why
    Paths(Asked),
    /// Show BGP's neighbours and what came of them; its routes and settings
    Bgp(bgp::Bgp),
    /// Follow a packet from a pod of this node, hop by hop, and say why it goes that way, and which policies
    /// let it (exit code 1: it goes nowhere, 2: policies drop it)
    Explain(Explain),
    /// List the pods of this node with the NetworkPolicies that select them
    Policy(Policy),
    /// List, define, change or delete networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Free what a node that will not come back has claimed
    #[command(subcommand)]
    Node(NodeCommand),
    /// Read about a model: when to choose it, what it needs, costs and what breaks it
    Models {
        /// Which; without it, what there is
        model: Option<String>,
    },
    /// Print the definitions of weft's resources in Kubernetes (`weft crds | kubectl apply -f -`)
    #[cfg(feature = "kubernetes")]
    Crds,
    /// Take everything of weft's off this node and put back what it found (agent stopped)
    Uninstall(Uninstall),
}

#[derive(Args)]
struct Uninstall {
    #[command(flatten)]
    file: AgentFile,
    /// Only say whether it is done (exit code 2 if not)
    #[arg(long, conflicts_with = "stay")]
    check: bool,
    /// Do it and then wait to be ended, as a DaemonSet's pod does
    #[arg(long)]
    stay: bool,
}

#[derive(Args)]
struct AgentFile {
    /// The configuration file (YAML)
    #[arg(long, default_value = "/etc/weft/agent.yaml")]
    config: PathBuf,
    /// This node's name, instead of the configuration's
    #[arg(long, env = "WEFT_NODE")]
    node: Option<NodeName>,
}

impl AgentFile {
    fn read(&self) -> anyhow::Result<Config> {
        let mut config = Config::read(&self.config)?;
        if self.node.is_some() {
            config.node.clone_from(&self.node);
        }
        Ok(config)
    }
}

#[derive(Args)]
struct Asked {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    agent: Control,
}

#[derive(Args)]
struct Control {
    /// The agent's control socket
    #[arg(long, env = "WEFT_CONTROL", default_value = "/run/weft/control.sock")]
    control: PathBuf,
}

#[derive(Args)]
struct Explain {
    /// A pod of this node: its name, container or address; or this node by its name
    from: String,
    /// Another pod of this node, or any address (inside `weft lab shell`: any pod)
    to: String,
    /// The destination's port, as 80/TCP or 53/UDP; without it: whatever policies leave open
    #[arg(long)]
    port: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args)]
struct Policy {
    /// One pod, with all that is open to it
    pod: Option<String>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Subcommand)]
enum NetworkCommand {
    /// List the cluster's networks
    List(Asked),
    /// Define a network, or change it, from a file (YAML; `-` is standard input)
    Apply {
        /// The network's name
        name: NetworkName,
        /// Its definition; `-` is standard input
        #[arg(short, long)]
        file: PathBuf,
        /// Although nodes would not be reached any more that are reached now
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        agent: Control,
    },
    /// Change how nodes are joined on the running network, without losing a packet
    Join {
        /// The network's name
        name: NetworkName,
        /// vxlan, host-gw, bgp or auto; vxlan-bridged stays what it is
        join: String,
        /// Although nodes would not be reached any more that are reached now
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        agent: Control,
    },
    /// Delete a network that has no pods
    Delete {
        /// The network's name
        name: NetworkName,
        #[command(flatten)]
        agent: Control,
    },
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Free the node's blocks and forget its record
    Forget {
        /// The node's name
        name: NodeName,
        /// Although it had pods when it was last heard of: it is gone for good
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        agent: Control,
    },
}

const NO: u8 = 1;
const SOMETHING_TO_DO: u8 = 2;
const DROPPED: u8 = 2;

pub fn main() -> ExitCode {
    // The lab has the plugin's program too: this one, under the plugin's name.
    let name = std::env::args_os().next().map(PathBuf::from);
    if name.and_then(|name| name.file_name().map(|n| n == "weft-cni")) == Some(true) {
        return weft_cni::main();
    }
    match run(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft: {error:#}");
            ExitCode::from(NO)
        }
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Lab(lab) => return lab::run(lab),
        Command::Agent(file) => {
            log();
            agent::run(file.read()?)?;
        }
        Command::Models { model } => put(&models::page(model.as_deref())?)?,
        Command::Config => put(config::REFERENCE)?,
        #[cfg(feature = "kubernetes")]
        Command::Crds => put(&crate::kube::crd::yaml()?)?,
        Command::Status(asked) => {
            let status: report::Status = show(&asked, "/v1/status", text::status)?;
            let reached = status.networks.values().all(|network| network.unreachable.is_empty());
            let well = status.converged && status.problems.is_empty() && reached;
            return Ok(if well { 0 } else { SOMETHING_TO_DO });
        }
        Command::Plan(asked) => {
            let plan: report::Plan = show(&asked, "/v1/plan", text::plan)?;
            return Ok(if plan.changes.is_empty() { 0 } else { SOMETHING_TO_DO });
        }
        Command::Pods(asked) => {
            drop(show::<Vec<report::Pod>>(&asked, "/v1/pods", |pods| text::pods(pods))?)
        }
        Command::Ipam(asked) => {
            drop(show::<Vec<report::Block>>(&asked, "/v1/ipam", |b| text::ipam(b))?)
        }
        Command::Paths(asked) => {
            drop(show::<Vec<report::PeerPath>>(&asked, "/v1/paths", |p| text::paths(p))?)
        }
        Command::Explain(Explain { from, to, port, asked }) => {
            let to = if std::env::var_os("WEFT_LAB").is_some() { lab::address(&to) } else { to };
            let port = port.map(|port| format!("&port={}", client::quote(&port)));
            let (from, to) = (client::quote(&from), client::quote(&to));
            let path = format!("/v1/explain?from={from}&to={to}{}", port.unwrap_or_default());
            let explained: Value = show(&asked, &path, text::explain)?;
            return Ok(match (&explained["works"], &explained["dropped"]) {
                (Value::Bool(true), _) => 0,
                (_, Value::Bool(true)) => DROPPED,
                _ => NO,
            });
        }
        Command::Policy(Policy { pod, asked }) => {
            let pod = pod.map(|pod| format!("?pod={}", client::quote(&pod))).unwrap_or_default();
            drop(show::<Policies>(&asked, &format!("/v1/policies{pod}"), text::policies)?);
        }
        Command::Bgp(asked) => return bgp::run(&asked),
        Command::Network(command) => network(command)?,
        Command::Node(NodeCommand::Forget { name, force, agent }) => {
            let path = format!("/v1/nodes/{name}/forget?force={force}");
            let done = client::ask(&agent.control, "POST", &path, None)?;
            let freed: Vec<&str> =
                done["freed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            println!("node {name} forgotten; freed {}", freed.join(", "));
        }
        Command::Uninstall(asked) => return uninstall(&asked),
    }
    Ok(0)
}

fn uninstall(asked: &Uninstall) -> anyhow::Result<u8> {
    let config = asked.file.read()?;
    if asked.check {
        let done = agent::is_uninstalled(&config)?;
        println!("{}", if done { "nothing of weft's is left" } else { "not uninstalled" });
        return Ok(if done { 0 } else { SOMETHING_TO_DO });
    }
    agent::uninstall(&config)?;
    let store = agent::store_left(&config);
    store.iter().for_each(|dir| println!("the cluster's store stays: {}", dir.display()));
    if asked.stay {
        println!("nothing of weft's is left on this node; waiting to be ended");
        agent::wait_for_signal()?;
    }
    Ok(0)
}

/// Asks the agent, prints the answer, returns it.
fn show<T: DeserializeOwned + Serialize>(
    asked: &Asked,
    path: &str,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<T> {
    let value = client::ask(&asked.agent.control, "GET", path, None)?;
    let answer: T =
        serde_json::from_value(value.clone()).context("an answer of another version")?;
    if asked.json {
        put(&format!("{value}\n"))?;
    } else {
        put(&text(&answer))?;
    }
    Ok(answer)
}

/// Prints, as far as somebody reads: `head` has enough at some point.
fn put(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("print"),
    }
}

fn network(command: NetworkCommand) -> anyhow::Result<()> {
    match command {
        NetworkCommand::List(asked) => {
            show::<Value>(&asked, "/v1/networks", text::networks)?;
        }
        NetworkCommand::Apply { name, file, force, agent } => {
            let written = read_file(&file)?;
            apply(&name, written, force, &agent)?;
        }
        NetworkCommand::Join { name, join, force, agent } => {
            let networks = client::ask(&agent.control, "GET", "/v1/networks", None)?;
            let mut network = networks[name.as_str()].clone();
            anyhow::ensure!(network.is_object(), "there is no network {name}");
            // Settings that two kinds of tunnel share, such as the VNI, stay.
            let tunnel = |kind: &Value| ["vxlan", "auto"].iter().any(|tunnel| kind == tunnel);
            if tunnel(&network["join"]["kind"]) && tunnel(&json!(join)) {
                network["join"]["kind"] = json!(join);
            } else {
                network["join"] = json!({"kind": join});
            }
            apply(&name, network, force, &agent)?;
            println!(
                "the nodes change over one after the other: `weft paths` shows how far this one is"
            );
        }
        NetworkCommand::Delete { name, agent } => {
            client::ask(&agent.control, "DELETE", &format!("/v1/networks/{name}"), None)?;
            println!("network {name} deleted");
        }
    }
    Ok(())
}

/// What a person wrote; `-` is standard input.
fn read_file(file: &Path) -> anyhow::Result<Value> {
    let text = if file.as_os_str() == "-" {
        io::read_to_string(io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("read {}", file.display()))?;
    let name =
        if file.as_os_str() == "-" { "standard input".into() } else { file.display().to_string() };
    config::yaml(&text).context(name)
}

fn apply(name: &NetworkName, network: Value, force: bool, agent: &Control) -> anyhow::Result<()> {
    let path = format!("/v1/networks/{name}?force={force}");
    let done = client::ask(&agent.control, "PUT", &path, Some(network))?;
    println!("network {name} applied, revision {}", done["revision"]);
    if let Some(note) = done["note"].as_str() {
        println!("{note}");
    }
    Ok(())
}

fn log() {
    use tracing_subscriber::EnvFilter;
    // That the API server is away is said by those who need it, once and in words.
    let usual = || EnvFilter::new("info,kube_client=off");
    let filter = EnvFilter::try_from_env("WEFT_LOG").unwrap_or_else(|_| usual());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
}
