//! One connection to a neighbour: bytes come and go as far as the kernel has or takes them at once.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use weft_bgp::{Closed, config::Ttl};
use weft_linux::tcp::{self, Hops};

/// A packet to begin a connection that nobody answers for so long is given up.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a neighbour may leave unread what he is told, where there is no hold time (RFC 9687).
const UNREAD_MAX: Duration = Duration::from_secs(480);
/// Bytes that are asked of the speaker at once.
const PACK: usize = 64 << 10;
/// Bytes written to one neighbour before others are served.
const WRITE_MAX: usize = 512 << 10;

pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) local: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) connecting: bool,
    /// The kernel takes no more for now.
    pub(super) full: bool,
    out: Vec<u8>,
    written: usize,
}

/// What there was to read.
pub(super) enum Got {
    Bytes(usize),
    Nothing,
    Closed(Closed),
}

impl Line {
    pub(super) fn connect(
        from: IpAddr,
        to: SocketAddr,
        ttl: Ttl,
        password: Option<&str>,
    ) -> io::Result<Self> {
        let stream = tcp::connect(from, to, hops(ttl), password)?;
        tcp::set_patience(&stream, ANSWER)?;
        Ok(Self::new(stream, from, to.ip(), true))
    }

    pub(super) fn new(stream: TcpStream, local: IpAddr, peer: IpAddr, connecting: bool) -> Self {
        Self { stream, local, peer, connecting, full: false, out: Vec::new(), written: 0 }
    }

    /// A connection stands, and is to be like this.
    pub(super) fn shape(&mut self, ttl: Ttl, hold_time: u16) -> io::Result<()> {
        let (ipv6, hops) = (self.peer.is_ipv6(), hops(ttl));
        tcp::set_hops(&self.stream, ipv6, hops)?;
        // What the kernel took before it was told.
        let came_with = if self.connecting { None } else { tcp::came_with(&self.stream, ipv6) };
        if came_with.zip(hops.least).is_some_and(|(ttl, least)| ttl < least) {
            return Err(io::Error::other("it is farther away than it may be (TTL security)"));
        }
        self.connecting = false;
        let unread = match hold_time {
            0 => UNREAD_MAX,
            // The speaker gives up first, after twice the time, and says why.
            hold_time => Duration::from_secs(hold_time.into()) * 3,
        };
        tcp::set_patience(&self.stream, unread)
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        match (&self.stream).read(buffer) {
            Ok(0) => Got::Closed(Closed::ByPeer),
            Ok(length) => Got::Bytes(length),
            Err(error) if is_nothing(&error) => Got::Nothing,
            Err(error) => Got::Closed(closed(&error)),
        }
    }

    /// Writes what `more` gives, until it gives nothing, the kernel takes nothing, or others are to be
    /// served. An error is why the connection has ended.
    pub(super) fn write(
        &mut self,
        mut more: impl FnMut(&mut Vec<u8>, usize),
    ) -> Result<(), Closed> {
        let mut room = WRITE_MAX;
        while room > 0 {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                more(&mut self.out, PACK);
                if self.out.is_empty() {
                    break;
                }
            }
            match (&self.stream).write(&self.out[self.written..]) {
                Ok(length) => {
                    self.written += length;
                    room = room.saturating_sub(length);
                }
                Err(error) if is_nothing(&error) => {
                    self.full = true;
                    return Ok(());
                }
                Err(error) => return Err(closed(&error)),
            }
        }
        if self.written == self.out.len() && self.out.capacity() > PACK * 2 {
            (self.out, self.written) = (Vec::new(), 0);
        }
        self.full = false;
        Ok(())
    }

    /// Something is left of what the speaker gave.
    pub(super) fn holds(&self) -> bool {
        self.written < self.out.len()
    }

    /// Nothing more is said. Who reads on until the other has closed too is sure that what was said
    /// last is not lost: unread bytes would make the kernel say RST, and the other's forget the rest.
    pub(super) fn leave(self) -> Option<TcpStream> {
        if self.connecting {
            return None;
        }
        self.stream.shutdown(Shutdown::Write).ok().map(|()| self.stream)
    }
}

/// True if the other side has closed too, or there is no more use in waiting for it.
pub(super) fn has_left(mut stream: &TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(length) => length == 0,
        Err(error) => !is_nothing(&error),
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Of a connection that stood.
fn closed(error: &io::Error) -> Closed {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Closed::ByPeer
        }
        ErrorKind::TimedOut => {
            Closed::Broken("it does not answer, or does not read what it is told".into())
        }
        _ => Closed::Broken(error.to_string()),
    }
}

/// Why a connection did not come to stand. Where the kernel has dropped badly signed packets meanwhile,
/// the other side has answered, or connected itself.
pub(super) fn not_connected(error: &io::Error, from: IpAddr, badly_signed: u64) -> Closed {
    let why = match error.kind() {
        ErrorKind::ConnectionRefused => return Closed::ByPeer,
        ErrorKind::TimedOut if badly_signed > 0 => {
            "no answer, but packets without the right TCP-MD5 signature: the passwords differ"
                .into()
        }
        ErrorKind::TimedOut => format!("timed out after {} s", ANSWER.as_secs()),
        ErrorKind::AddrNotAvailable => format!("this node does not have the address {from}"),
        _ => error.to_string(),
    };
    Closed::Broken(why)
}

fn hops(ttl: Ttl) -> Hops {
    match ttl {
        Ttl::Any => Hops::default(),
        Ttl::OneHop => Hops { sent: Some(1), least: None },
        Ttl::Hops(hops) => Hops { sent: Some(hops), least: None },
        Ttl::Security(gone) => Hops { sent: Some(u8::MAX), least: Some(u8::MAX - gone) },
    }
}
