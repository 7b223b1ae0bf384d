//! The plugin's door: a Unix socket, one call a connection, a thread each. A call may take its
//! thread into the pod's namespace, so none serves twice; its successor is made after the answer.
//! The namespace comes as a descriptor beside the first byte, so a path that has since changed its
//! meaning is no danger.

use std::{
    fs,
    io::{self, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    cmsg_space,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use weft_core::cni::{
    CniError, Code, Request, Verb,
    wire::{self, HEAD, Reply},
};
use weft_linux::Netns;

use super::{Agent, POISONED, pods, refusals::Refusals};

/// Calls served at once; more wait in the socket's backlog.
const CALLS_MAX: usize = 128;
/// ADDs among them, which may have to wait for an address that a DEL gives back.
const ADDS_MAX: usize = 64;
/// Threads that wait for a call.
const WAITING: usize = 8;
/// How soon to try again what the system refused.
const RETRY: Duration = Duration::from_millis(100);
const READ_MAX: Duration = Duration::from_secs(2);

struct Door {
    agent: Arc<Agent>,
    listener: UnixListener,
    threads: Mutex<Threads>,
    adds: AtomicUsize,
    /// Told when there are fewer.
    fewer: Condvar,
    refusals: Refusals,
}

#[derive(Default)]
struct Threads {
    waiting: usize,
    all: usize,
}

pub fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let listener = listen(&agent.config.cni_socket())?;
    let (threads, adds, fewer) = (Mutex::default(), AtomicUsize::new(0), Condvar::new());
    let (agent, refusals) = (agent.clone(), Refusals::default());
    let door = Arc::new(Door { agent, listener, threads, adds, fewer, refusals });
    std::thread::Builder::new().name("cni-door".into()).spawn(move || door.fill())?;
    Ok(())
}

/// Only root may call. The new socket takes the place of one that a dead agent left.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Door {
    /// Sees that there are threads that wait for a call. It alone makes them: a thread is born in
    /// the namespace of the one that makes it, and those that serve go elsewhere.
    fn fill(self: &Arc<Self>) {
        let mut threads = self.threads.lock().expect(POISONED);
        loop {
            while threads.waiting >= WAITING || threads.all >= CALLS_MAX {
                threads = self.fewer.wait(threads).expect(POISONED);
            }
            let door = self.clone();
            let made = std::thread::Builder::new().name("cni".into());
            match made.spawn(move || door.serve_one()) {
                Ok(_) => {
                    threads.waiting += 1;
                    threads.all += 1;
                }
                Err(error) => {
                    tracing::warn!(%error, "no thread to be had for CNI calls; will try again");
                    threads = self.fewer.wait_timeout(threads, RETRY).expect(POISONED).0;
                }
            }
        }
    }

    fn serve_one(&self) {
        let stream = self.listener.accept();
        let waiting = {
            let mut threads = self.threads.lock().expect(POISONED);
            threads.waiting -= 1;
            threads.waiting
        };
        // The next call must not wait for the end of this one.
        if waiting == 0 {
            self.fewer.notify_one();
        }
        match stream {
            Ok((stream, _)) => {
                if let Err(error) = serve(self, stream) {
                    tracing::warn!(error = format!("{error:#}"), "a call broke off");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no call can be taken; will try again");
                std::thread::sleep(RETRY);
            }
        }
        self.threads.lock().expect(POISONED).all -= 1;
        self.fewer.notify_one();
    }
}

fn serve(door: &Door, mut stream: UnixStream) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(READ_MAX))?;
    let (request, netns) = match receive(&mut stream) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let error = CniError::new(Code::Decode, "talk to the agent", error.to_string());
            return reply(&mut stream, 1, error.render("1.1.0").to_string());
        }
        Err(error) => return Err(error).context("read a call"),
    };
    // The runtime comes again with another container of the same pod.
    let mut whose = request.container.clone();
    let answered = request.parse().and_then(|call| {
        if let Some(pod) = &call.pod {
            whose = format!("{}/{}", pod.namespace, pod.name);
        }
        for warning in &call.warnings {
            tracing::warn!(container = request.container, warning, "the configuration is odd");
        }
        let _add = (call.verb == Verb::Add).then(|| Adding::begin(&door.adds)).transpose()?;
        pods::answer(&door.agent, &call, netns, &Caller(&stream))
    });
    match answered {
        Ok(result) => {
            let stdout = result.map_or_else(String::new, |result| result.to_string());
            reply(&mut stream, 0, stdout)
        }
        Err(error) => {
            let cause = format!("{} {whose} {error}", request.command);
            let cause = cause.replace(&request.container, "");
            if door.refusals.is_news(cause, Instant::now()) {
                tracing::warn!(command = request.command, pod = whose, container = request.container, %error, "refused");
            } else {
                tracing::debug!(command = request.command, pod = whose, %error, "refused again");
            }
            reply(&mut stream, 1, error.render(&request.version_said()).to_string())
        }
    }
}

/// One of the ADDs that are served.
struct Adding<'a>(&'a AtomicUsize);

impl<'a> Adding<'a> {
    fn begin(adds: &'a AtomicUsize) -> Result<Self, CniError> {
        let adding = Self(adds);
        if adds.fetch_add(1, Ordering::AcqRel) < ADDS_MAX {
            return Ok(adding);
        }
        let details = format!("{ADDS_MAX} pods are being added on this node");
        Err(CniError::new(Code::TryAgainLater, "the agent is busy", details))
    }
}
impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Who called. A runtime whose patience is over kills the plugin and calls DEL, which may overtake
/// what the killed one asked for.
pub(super) struct Caller<'a>(&'a UnixStream);

impl Caller<'_> {
    pub(super) fn waits(&self) -> bool {
        let mut ends = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let asked = poll(&mut ends, PollTimeout::ZERO);
        asked.is_err() || !ends[0].revents().is_some_and(|has| has.contains(PollFlags::POLLHUP))
    }
}

fn reply(stream: &mut UnixStream, exit: u8, stdout: String) -> anyhow::Result<()> {
    stream.write_all(&wire::encode(&Reply { exit, stdout })?)?;
    Ok(())
}

fn receive(stream: &mut UnixStream) -> io::Result<(Request, Option<Netns>)> {
    let mut bytes = vec![0; 64 * 1024];
    let (mut length, netns) = first(stream, &mut bytes)?;
    while length < HEAD {
        match stream.read(&mut bytes[length..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let head = bytes[..HEAD].try_into().map_err(io::Error::other)?;
    let whole = HEAD + wire::length(head).map_err(invalid)?;
    bytes.resize(whole.max(length), 0);
    if whole > length {
        stream.read_exact(&mut bytes[length..whole])?;
    }
    let request = wire::decode(&bytes[HEAD..whole]).map_err(invalid)?;
    Ok((request, netns))
}

/// The first bytes, and the descriptor that came with them.
fn first(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<Netns>)> {
    let mut space = cmsg_space!(std::os::fd::RawFd);
    let mut into = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), flags)?;
    let mut netns = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            for fd in fds {
                netns = Some(Netns::from_fd(weft_linux::own(fd)));
            }
        }
    }
    Ok((received.bytes, netns))
}
