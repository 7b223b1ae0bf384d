//! What speaks to the API server of Kubernetes beside the store: the way to it, and what it is
//! asked. Nothing here decides.

pub mod client;
pub mod cluster;
pub mod crd;
pub mod events;
pub mod follow;
pub mod networks;
pub mod objects;
pub mod status;

pub use client::{ApiServer, KubeError};
pub use cluster::Cluster;
