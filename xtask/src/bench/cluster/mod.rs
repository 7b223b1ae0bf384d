//! A large cluster, as one node sees it: a whole agent on an API server of our own that serves thousands
//! of Nodes and a hundred thousand pods, beside the bare cost of receiving the same; and what policies
//! alone cost in memory and time.

mod api;
mod bare;
mod index;
mod objects;
mod whole;

use std::path::PathBuf;

use clap::Args;

#[derive(Clone, Args)]
pub struct Cluster {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    #[arg(long, default_value_t = 5_000)]
    nodes: u16,
    #[arg(long, default_value_t = 500)]
    namespaces: u32,
    /// In all, each with an address of both families
    #[arg(long, default_value_t = 150_000)]
    pods: u32,
    /// In all, twenty to a namespace at most
    #[arg(long, default_value_t = 10_000)]
    policies: u32,
    /// Pods of this node, for the index alone; an agent has its share of all
    #[arg(long, default_value_t = 30)]
    local: u32,
    /// Changes of pods that the index is given, anywhere in the cluster
    #[arg(long, default_value_t = 20_000)]
    changes: u32,
    /// Changes of pods a second that the agent hears
    #[arg(long, default_value_t = 100)]
    pod_changes: u32,
    /// Changes of nodes' records a second that the agent hears
    #[arg(long, default_value_t = 10)]
    node_changes: u32,
    /// How long each kind of change goes on
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// The API server gives lists in pages alone, as before Kubernetes 1.34
    #[arg(long)]
    pages: bool,
    /// Another agent's program than that of this checkout
    #[arg(long)]
    weft: Option<PathBuf>,
    /// Measure the index and no agent
    #[arg(long)]
    index_only: bool,
}

pub fn cluster(asked: &Cluster) -> anyhow::Result<()> {
    if asked.index_only {
        return index::index(asked);
    }
    whole::whole(asked)
}
