//! Drives the speaker (`weft-bgp`): sockets, clock and threads. Knows no store and no kernel routes;
//! what it is told to be comes whole, what it learnt is handed out whole.
//!
//! `router.rs` is what others hold; `driver.rs` the thread behind it, with `doors.rs` (listeners and
//! passwords), `line.rs` (one connection) and `publish.rs` (what others read, kept before it is told).
//! `detector.rs` is the thread that has BFD's sockets. They share no lock with each other nor with
//! anybody else: what passes between them goes through channels.

mod detector;
mod doors;
mod driver;
mod line;
mod publish;
mod router;
mod routes;

pub use detector::Detector;
pub use router::{Desired, Keep, Known, Router};
pub use routes::Routes;
