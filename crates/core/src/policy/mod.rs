//! What may pass. `rules`: what our own table says, network by network. The rest is Kubernetes'
//! NetworkPolicy: `spec` is what users write, `cluster` what it speaks of, `firewall` what follows for
//! the pods of one node, `index` what leads from the ones to the other. `verdict` is what is meant, in
//! its simplest form: tests hold the rest to it, by the clusters of `cases`.

#[cfg(any(test, feature = "cases"))]
pub mod cases;
mod clause;
pub mod cluster;
pub mod firewall;
pub mod index;
pub mod own;
mod rules;
mod select;
mod space;
pub mod spec;
pub mod verdict;

pub use clause::{Impossible, Why, impossible};
pub use rules::{Rule, Ruleset};

#[cfg(test)]
mod tests;
