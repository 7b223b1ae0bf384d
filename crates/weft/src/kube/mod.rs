//! What speaks to the API server of Kubernetes beside the store: the way to it, and what it is
//! asked. Nothing here decides.

pub mod client;
pub mod crd;
pub mod follow;

pub use client::{ApiServer, KubeError};
