//! What may pass. `rules`: what our own table says, network by network. The rest is Kubernetes'
//! NetworkPolicy: `spec` is what users write, `cluster` what it speaks of, `firewall` what follows for
//! the pods of one node, `index` what leads from the ones to the other.

mod clause;
pub mod cluster;
pub mod firewall;
pub mod index;
mod rules;
mod select;
mod space;
pub mod spec;

pub use clause::{Impossible, Why, impossible};
pub use rules::{Rule, Ruleset};
