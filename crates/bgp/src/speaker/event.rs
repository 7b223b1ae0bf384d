//! What goes into a speaker and what comes out of it, routes and bytes aside.

use std::net::{IpAddr, SocketAddr};

use crate::config::Ttl;

/// One TCP connection, by a number that is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// What happened to the outside of the speaker.
#[derive(Debug)]
pub enum Event<'a> {
    /// A connection that the speaker asked for stands.
    Connected(Conn),
    /// It does not, or it has ended: why, in words. A `Closed` by the other side's kernel (FIN or
    /// RST) and one that timed out or was unreachable are told apart: only the first can be a
    /// restart that keeps its routes without BFD's word.
    Closed(Conn, Closed),
    /// A neighbour has connected; the speaker gives it a number, or none if it is not welcome.
    Accepted { from: IpAddr, to: IpAddr },
    /// Bytes came. Any amount, cut anywhere.
    Bytes(Conn, &'a [u8]),
    /// BFD's session with this neighbour is now up, or down (why, in words).
    Bfd(IpAddr, Result<(), String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The other side's kernel ended it: FIN or RST.
    ByPeer,
    /// The connection could not be made, or broke.
    Broken(String),
}

/// What is to be done on the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Connect {
        conn: Conn,
        from: IpAddr,
        to: SocketAddr,
        ttl: Ttl,
        password: Option<String>,
    },
    /// What `outgoing` still gives is to be written first, as far as the kernel takes it at once.
    Close(Conn),
}
