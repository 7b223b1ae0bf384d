//! The one program of weft: agent, lab and command line.

pub mod agent;
pub mod bgp;
pub mod cli;
pub mod control;
#[cfg(feature = "kubernetes")]
pub mod kube;
pub mod lab;
pub mod store;
