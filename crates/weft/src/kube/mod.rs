//! What speaks to the API server of Kubernetes beside the store: the way to it, what it is asked, and
//! what is said of it on its objects. Nothing here decides.
//!
//! The rights that an agent needs are those of `deploy/chart/weft/templates/1-access.yaml`, each with its
//! reason. Without `create`, `patch` and `delete` of networks all works but `weft network apply` and
//! `delete`.

mod accepted;
pub mod client;
pub mod cluster;
pub mod crd;
pub mod events;
pub mod follow;
mod fresh;
pub mod networks;
mod nodes;
pub mod objects;
mod services;
pub mod status;
mod watches;

use std::sync::Arc;

pub use client::{ApiServer, KubeError};
pub use cluster::Cluster;

use crate::{
    agent::Agent,
    store::{Store, StoreConfig},
};

/// Follows Nodes, pods and policies and says what becomes of networks, where the store is the API
/// server.
pub fn spawn(agent: &Arc<Agent>, runtime: &tokio::runtime::Handle) {
    cluster::spawn(agent, runtime);
    let (Store::Kubernetes(store), StoreConfig::Kubernetes(config)) =
        (&agent.store, &agent.config.store)
    else {
        return;
    };
    runtime.spawn(accepted::run(agent.clone(), store.clone()));
    runtime.spawn(nodes::own(agent.clone(), store.server().clone(), config.pod_cidrs));
    runtime.spawn(nodes::others(agent.clone(), store.server().clone()));
    runtime.spawn(services::run(agent.clone(), store.server().clone()));
}
