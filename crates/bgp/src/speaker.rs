//! The speaker: all neighbours and all routes of one router. Told what happens, it says what to do.
//! Who drives it owns the sockets and the clock; it owns everything that BGP remembers.

use std::net::{IpAddr, SocketAddr};

use crate::{
    Time,
    config::{Config, Ttl},
    report::{Learnt, NeighbourReport},
};

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

pub struct Speaker {}

#[allow(unused_variables)]
impl Speaker {
    /// Knows nobody yet.
    pub fn new(now: Time) -> Self {
        todo!()
    }

    /// One that restarts: `kept` is what an earlier one gave by `keep`. Its routes are taken for
    /// good, as stale ones, until their neighbours have said theirs again or `deferral` is over
    /// (RFC 4724, 4.1). What can't be read is left out.
    pub fn restarted(kept: &[u8], now: Time) -> Self {
        todo!()
    }

    /// Everything that a successor needs to keep forwarding as before: neighbours' routes, in the
    /// form of their UPDATE messages.
    pub fn keep(&self) -> Vec<u8> {
        todo!()
    }

    /// What is to be from now on. Idempotent.
    pub fn configure(&mut self, config: Config, now: Time) {
        todo!()
    }

    /// Answers the number of the connection for `Accepted`.
    pub fn handle(&mut self, event: Event<'_>, now: Time) -> Option<Conn> {
        todo!()
    }

    /// Whatever is due by now. To be called at `deadline`, and harmless earlier.
    pub fn tick(&mut self, now: Time) {
        todo!()
    }

    /// When `tick` is to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        todo!()
    }

    /// What is to be done next; none: nothing for now.
    pub fn action(&mut self) -> Option<Action> {
        todo!()
    }

    /// Adds to `buffer`, up to about `most` bytes, what is to be sent on the connection next. Asked
    /// only when the socket takes more, so a neighbour that never reads holds no memory: what is not
    /// yet said to it is packed when it is asked for. What was given is taken for sent.
    pub fn outgoing(&mut self, conn: Conn, buffer: &mut Vec<u8>, most: usize, now: Time) {
        todo!()
    }

    /// True if `outgoing` would give something.
    pub fn has_outgoing(&self, conn: Conn) -> bool {
        todo!()
    }

    /// Counts up whenever `learnt` would answer differently.
    pub fn version(&self) -> u64 {
        todo!()
    }

    /// The best routes of others, our own aside.
    pub fn learnt(&self) -> Vec<Learnt> {
        todo!()
    }

    pub fn neighbours(&self, now: Time) -> Vec<NeighbourReport> {
        todo!()
    }

    /// Not all neighbours have said their routes since the restart: nothing that is missing is
    /// gone yet.
    pub fn settling(&self) -> bool {
        todo!()
    }

    /// Says goodbye: CEASE without graceful restart (`for_good`: our routes are withdrawn at once),
    /// or by simply closing, so that neighbours keep our routes.
    pub fn stop(&mut self, for_good: bool, now: Time) {
        todo!()
    }
}
