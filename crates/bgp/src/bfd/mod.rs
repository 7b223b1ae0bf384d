//! BFD (RFC 5880): asynchronous mode, over one hop (5881) or several (5883), without authentication
//! and echo. Sans-IO like the rest of this crate.

use std::{net::IpAddr, time::Duration};

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
}
