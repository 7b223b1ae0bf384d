//! What may pass. `rules`: what our own table says, network by network. The rest is Kubernetes'
//! NetworkPolicy: `spec` is what users write, `cluster` what it speaks of, `firewall` what follows for
//! the pods of one node.

pub mod cluster;
pub mod firewall;
pub mod own;
mod rules;
pub mod spec;

pub use rules::{Rule, Ruleset};
