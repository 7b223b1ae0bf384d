//! The CNI plugin. It passes the call and the namespace's descriptor to the agent and prints the
//! answer; it decides nothing and writes nothing to the kernel.
//!
//! `door.rs` is the way to the agent. Answered here are only VERSION, which asks about the program
//! itself, and what leaves no way to the agent: no command, or a configuration that can't be read.

mod door;

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use door::Broken;
use weft_core::cni::{
    CniError, Code, Endpoint, Request, VERSIONS,
    wire::{self, Reply},
};

pub fn main() -> ExitCode {
    let mut request = from_environment();
    let reply = answer(&mut request).unwrap_or_else(|error| Reply {
        exit: 1,
        stdout: error.render(&request.version_said()).to_string(),
    });
    // A runtime that no longer reads has no use for the error either.
    let _ = io::stdout().write_all(reply.stdout.as_bytes());
    ExitCode::from(reply.exit)
}

fn from_environment() -> Request {
    let var =
        |name: &str| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
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

fn answer(request: &mut Request) -> Result<Reply, CniError> {
    match request.command.as_str() {
        "" => {
            let version = env!("CARGO_PKG_VERSION");
            eprintln!("CNI plugin weft-cni {version}, speaks CNI {}", VERSIONS.join(", "));
            return Err(no_command());
        }
        // By hand nobody types a configuration.
        "VERSION" if io::stdin().is_terminal() => {}
        _ => request.config = configuration(io::stdin())?,
    }
    if request.command == "VERSION" {
        return Ok(Reply { exit: 0, stdout: request.versions()?.to_string() });
    }
    let endpoint = Endpoint::parse(&request.config)?;
    let frame = wire::encode(request)
        .map_err(|bad| CniError::new(Code::InvalidConfig, "pass the call on", bad.to_string()))?;
    pass_on(request, &endpoint, &frame)
}

fn no_command() -> CniError {
    let details = "CNI_COMMAND is not set; weft-cni is called by a container runtime";
    CniError::new(Code::InvalidEnvironment, "missing environment variable CNI_COMMAND", details)
}

/// What is on standard input, within a bound.
fn configuration(input: impl Read) -> Result<String, CniError> {
    let mut bytes = Vec::new();
    let most = wire::CONFIG_MAX as u64;
    input.take(most + 1).read_to_end(&mut bytes).map_err(|error| {
        CniError::new(Code::Io, "read the configuration from standard input", error.to_string())
    })?;
    let msg = "the network configuration on standard input can't be read";
    if bytes.len() > wire::CONFIG_MAX {
        return Err(CniError::new(Code::Decode, msg, format!("it is longer than {most} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| CniError::new(Code::Decode, msg, error.to_string()))
}

/// Asks the agent, and asks again while it is away: a call may be sent twice, see `wire`.
fn pass_on(request: &Request, endpoint: &Endpoint, frame: &[u8]) -> Result<Reply, CniError> {
    // STATUS asks how it is now.
    let status = request.command == "STATUS";
    let wait = if status { Duration::ZERO } else { endpoint.wait };
    let answer_max = if status { door::STATUS_MAX } else { door::ANSWER_MAX };
    let netns = door::namespace(request);
    let start = Instant::now();
    loop {
        let broken = match door::ask(&endpoint.socket, frame, netns.as_ref(), answer_max) {
            Ok(reply) => return Ok(reply),
            Err(broken) => broken,
        };
        if matches!(broken, Broken::Away(_)) && start.elapsed() < wait {
            std::thread::sleep(door::RETRY);
            continue;
        }
        return Err(failure(&broken, status, &endpoint.socket, start.elapsed()));
    }
}

fn failure(broken: &Broken, status: bool, socket: &str, waited: Duration) -> CniError {
    let hint = "is `weft agent` running on this node, with this socket?";
    let (code, msg, details) = match broken {
        Broken::Away(error) => (
            Code::TryAgainLater,
            "the weft agent does not answer",
            format!("{socket}: {error}, for {:.1} s; {hint}", waited.as_secs_f32()),
        ),
        Broken::Barred(error) => {
            (Code::Io, "the weft agent can't be reached", format!("{socket}: {error}; {hint}"))
        }
        Broken::Foreign(bad) => (
            Code::TryAgainLater,
            "plugin and agent don't understand each other",
            format!("{socket}: {bad}"),
        ),
    };
    CniError::new(if status { Code::Unavailable } else { code }, msg, details)
}
