//! What speaks to the API server of Kubernetes beside the store: the way to it, what it is asked, and
//! what is said of it on its objects. Nothing here decides.
//!
//! The rights that an agent needs for its store, and no other (a ClusterRole; tried with exactly these):
//!
//! ```yaml
//! - {apiGroups: [weft.network], resources: [networks], verbs: [get, list, watch, create, patch, delete]}
//! - {apiGroups: [weft.network], resources: [networks/status], verbs: [patch]}
//! - {apiGroups: [weft.network], resources: [records], verbs: [get, list, watch, create, patch, delete]}
//! - {apiGroups: [""], resources: [nodes], verbs: [list, watch]}
//! - {apiGroups: [networking.k8s.io], resources: [servicecidrs], verbs: [list, watch]}
//! ```
//!
//! Without `create`, `patch` and `delete` of networks all works but `weft network apply` and `delete`.

mod accepted;
pub mod client;
pub mod cluster;
pub mod crd;
pub mod events;
pub mod follow;
pub mod networks;
mod nodes;
pub mod objects;
mod services;
pub mod status;

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
