//! BFD (RFC 5880): asynchronous mode, over one hop (5881) or several (5883), without authentication
//! and echo. Sans-IO like the rest of this crate.
//!
//! `packet.rs` is the form, `state.rs` who goes where at what it hears, `timing.rs` how often is
//! sent, `session.rs` one session, `set.rs` all of them, `kept.rs` what a successor goes on from.
//!
//! The C bit is 0: sessions die with the program, though it takes them up again where they were
//! when it is back within the detection time.

mod kept;
mod packet;
mod report;
mod session;
mod set;
mod state;
mod timing;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

pub use packet::{Control, Malformed};
pub use report::{Refusal, Report};
pub use set::{Bfd, Change, Packet};
pub use state::{Diag, State};

/// UDP port of sessions over one hop (RFC 5881, 4).
pub const PORT: u16 = 3784;
/// UDP port of sessions over several (RFC 5883, 5).
pub const PORT_MULTIHOP: u16 = 4784;
/// What packets are sent with, and over one hop must come in with: no router has passed them on.
pub const TTL: u8 = 255;

/// One session, as it is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub local: IpAddr,
    /// How often packets are sent, and how often they are wanted at least.
    pub interval: Duration,
    /// The session is down after so many intervals without a packet.
    pub multiplier: u8,
    /// RFC 5883: the neighbour is not on the same link; UDP port 4784 instead of 3784, and packets'
    /// TTL is not asked to be 255.
    pub multihop: bool,
    /// It is on the same link all the same: TTL is to be 255, or whoever is routed here, such as a pod
    /// under its node's address, could speak for it.
    pub on_link: bool,
}

impl Settings {
    pub fn port(&self) -> u16 {
        if self.multihop { PORT_MULTIHOP } else { PORT }
    }
}
