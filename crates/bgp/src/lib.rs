//! BGP-4 and BFD, sans-IO: bytes, events and the time go in; bytes, routes and deadlines come out.
//! Knows neither sockets nor the kernel nor Kubernetes.
//!
//! `wire/` is the form of messages, `session/` one neighbour's state machine, `rib/` the tables and
//! what is said to whom, `speaker.rs` all of them as one thing. `bfd/` stands on its own.

pub mod attrs;
pub mod bfd;
pub mod config;
pub mod report;
pub mod rib;
mod session;
mod speaker;
pub mod wire;

pub use speaker::{Action, Closed, Conn, Event, Speaker};

/// A moment: how long after the beginning, which is the caller's to choose.
pub type Time = std::time::Duration;
