//! The CNI plugin. It passes the call and the namespace's descriptor to the agent and prints the
//! answer; it decides nothing and writes nothing to the kernel. While the agent is away it waits,
//! within a bound: a call may be sent again, the agent answers a repeated ADD with the same result.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use weft_core::cni::{
    CniError, Code, Request, VERSIONS,
    wire::{self, HEAD, Reply},
};

/// How long a restart of the agent may take before a call fails.
const WAIT_MAX: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(20);
/// How long the agent may work on one call. A kubelet gives up after two minutes.
const ANSWER_MAX: Duration = Duration::from_secs(60);

pub fn main() -> ExitCode {
    let mut request = from_environment();
    let input = io::stdin().take(wire::FRAME_MAX as u64).read_to_string(&mut request.config);
    let reply = match input {
        Ok(_) => answer(&request),
        Err(error) => failure(&request, Code::Io, "read the configuration", &error.to_string()),
    };
    // A runtime that no longer reads has no use for the error either.
    let _ = io::stdout().write_all(reply.stdout.as_bytes());
    ExitCode::from(reply.exit)
}

fn from_environment() -> Request {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let parent = format!("/proc/{}/comm", nix::unistd::getppid());
    Request {
        command: var("CNI_COMMAND"),
        container: var("CNI_CONTAINERID"),
        netns: var("CNI_NETNS"),
        ifname: var("CNI_IFNAME"),
        args: var("CNI_ARGS"),
        config: String::new(),
        runtime: std::fs::read_to_string(parent).unwrap_or_default().trim().to_owned(),
    }
}

fn answer(request: &Request) -> Reply {
    if request.command == "VERSION" {
        let stdout = json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}).to_string();
        return Reply { exit: 0, stdout };
    }
    let config: Value = serde_json::from_str(&request.config).unwrap_or_default();
    let socket = config["socket"].as_str().unwrap_or(wire::SOCKET).to_owned();
    // STATUS asks how it is now.
    let wait = match config["agentWait"].as_u64() {
        _ if request.command == "STATUS" => Duration::ZERO,
        Some(seconds) => Duration::from_secs(seconds),
        None => WAIT_MAX,
    };
    let start = Instant::now();
    loop {
        let error = match ask(request, &socket) {
            Ok(reply) => return reply,
            Err(error) => error,
        };
        if start.elapsed() >= wait || error.kind() == io::ErrorKind::InvalidData {
            let code = match request.command.as_str() {
                "STATUS" => Code::Unavailable,
                _ => Code::TryAgainLater,
            };
            let details = format!(
                "{socket}: {error}, after {} s; is `weft agent` running on this node, with this socket?",
                start.elapsed().as_secs()
            );
            return failure(request, code, "the weft agent does not answer", &details);
        }
        thread::sleep(RETRY);
    }
}

fn failure(request: &Request, code: Code, msg: &str, details: &str) -> Reply {
    let error = CniError::new(code, msg, details);
    Reply { exit: 1, stdout: error.render(&request.version_said()).to_string() }
}

fn ask(request: &Request, socket: &str) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let frame = wire::encode(request).map_err(invalid)?;
    // A namespace that is gone is for the agent to judge: DEL succeeds without one.
    let netns = File::open(&request.netns).ok().filter(|_| !request.netns.is_empty());
    send(&stream, &frame, netns.as_ref().map(AsRawFd::as_raw_fd))?;
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let mut json = vec![0; wire::length(head).map_err(invalid)?];
    stream.read_exact(&mut json)?;
    wire::decode(&json).map_err(invalid)
}

fn send(stream: &UnixStream, frame: &[u8], netns: Option<RawFd>) -> io::Result<()> {
    let fds: Vec<RawFd> = netns.into_iter().collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[io::IoSlice::new(frame)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    let mut rest = stream;
    rest.write_all(&frame[sent..])
}

fn invalid(error: wire::BadFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
