//! What may pass. `rules`: what our own table says, network by network. The rest is Kubernetes'
//! NetworkPolicy: `spec` is what users write, `cluster` what it speaks of, `firewall` what follows for
//! the pods of one node, `verdict` what is meant, in its simplest form: tests hold the rest to it, by
//! the clusters of `cases`.

#[cfg(any(test, feature = "cases"))]
pub mod cases;
pub mod cluster;
pub mod firewall;
mod rules;
pub mod spec;
pub mod verdict;

pub use rules::{Rule, Ruleset};
