//! The way to the agent: its socket, one call, one answer, each step within a bound. What is asked
//! again, and what a failure means to the runtime, is not decided here.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IoSlice, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        socket::{
            AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect,
            sendmsg, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};
use weft_core::cni::{
    Request,
    wire::{self, BadFrame, HEAD, Reply},
};

/// Pause before a new attempt: an agent needs longer than this to restart.
pub(crate) const RETRY: Duration = Duration::from_millis(20);
/// How long the agent may work on one call. A kubelet gives up after two minutes.
pub(crate) const ANSWER_MAX: Duration = Duration::from_mins(1);
/// The same for STATUS, which changes nothing.
pub(crate) const STATUS_MAX: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Nobody listens, or who did is gone: as when the agent restarts.
    Away(io::Error),
    /// It will be the same the next time.
    Barred(io::Error),
    /// Something answered that we can't read.
    Foreign(BadFrame),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut => Self::Away(error),
            ErrorKind::UnexpectedEof => Self::Away(io::Error::other("closed without an answer")),
            // What a socket with a timeout says when it is over.
            ErrorKind::WouldBlock => Self::Away(io::Error::other("no answer in time")),
            _ => Self::Barred(error),
        }
    }
}
impl From<Errno> for Broken {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}
impl From<BadFrame> for Broken {
    fn from(bad: BadFrame) -> Self {
        Self::Foreign(bad)
    }
}

/// The namespace of the call. One that is gone is for the agent to judge: DEL succeeds without.
pub(crate) fn namespace(request: &Request) -> Option<File> {
    if request.netns.is_empty() {
        return None;
    }
    // Without waiting, should somebody have put a pipe there.
    let nonblock = OFlag::O_NONBLOCK.bits();
    OpenOptions::new().read(true).custom_flags(nonblock).open(&request.netns).ok()
}

/// One attempt.
pub(crate) fn ask(
    path: &str,
    frame: &[u8],
    netns: Option<&File>,
    answer_max: Duration,
) -> Result<Reply, Broken> {
    let mut stream = reach(path, answer_max)?;
    send(&stream, frame, netns)?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let mut json = vec![0; wire::length(head)?];
    stream.read_exact(&mut json)?;
    Ok(wire::decode(&json)?)
}

/// Connects. The timeouts come first: an agent that is stopped lets its callers wait in `connect`.
fn reach(path: &str, answer_max: Duration) -> Result<UnixStream, Broken> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = TimeVal::new(i64::try_from(answer_max.as_secs()).unwrap_or(i64::MAX), 0);
    setsockopt(&fd, sockopt::SendTimeout, &bound)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &bound)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

fn send(stream: &UnixStream, frame: &[u8], netns: Option<&File>) -> Result<(), Broken> {
    let fds: Vec<RawFd> = netns.map(AsRawFd::as_raw_fd).into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let (out, flags) = ([IoSlice::new(frame)], MsgFlags::MSG_NOSIGNAL);
    let sent = sendmsg::<()>(stream.as_raw_fd(), &out, control, flags, None)?;
    let mut rest = stream;
    rest.write_all(&frame[sent..])?;
    Ok(())
}
