//! What weft decides. Pure: no I/O, no clock, no randomness, no threads, no unsafe.
#![forbid(unsafe_code)]

pub mod attach;
pub mod attachment;
pub mod bandwidth;
pub mod bgp;
pub mod checksum;
pub mod cni;
pub mod desired;
pub mod dhcp;
pub mod ipam;
pub mod join;
mod kind;
pub mod learnt;
pub mod mark;
pub mod moved;
pub mod name;
pub mod network;
pub mod paths;
pub mod plan;
pub mod policy;
pub mod ports;
#[cfg(feature = "schema")]
mod schema;
pub mod selection;
pub mod state;
pub mod view;
pub mod written;
