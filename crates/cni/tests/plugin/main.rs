//! The plugin as a runtime meets it: a process with an environment and pipes, and a real socket
//! with an agent of the test's own behind it (`agent.rs`).

#![allow(clippy::unwrap_used)]

mod agent;

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent::{Agent, Heard};
use serde_json::{Value, json};
use weft_core::cni::wire::{self, Reply};

/// Longer than anything here takes, on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// A directory for one test's socket.
struct Dir(PathBuf);
impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("weft-cni-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
    fn socket(&self) -> PathBuf {
        self.0.join("cni.sock")
    }
    /// A configuration that leads to this directory's socket.
    fn config(&self, wait: u64) -> Value {
        json!({"cniVersion": "1.0.0", "name": "n", "type": "weft-cni", "socket": self.socket(), "agentWait": wait})
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The plugin with nothing in its environment but what a runtime would put there.
fn plugin(command: &str, netns: &str) -> Command {
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_weft-cni"));
    plugin
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "abc")
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", "K8S_POD_NAME=web-0")
        .env("CNI_PATH", "/opt/cni/bin");
    plugin
}

fn start(plugin: &mut Command, config: &[u8]) -> Child {
    let mut child = plugin.spawn().unwrap();
    // A plugin that has seen enough may close its end.
    let _ = child.stdin.take().unwrap().write_all(config);
    child
}

#[derive(Debug, PartialEq, Eq)]
struct Ended {
    exit: i32,
    stdout: String,
    stderr: String,
}
impl Ended {
    fn error(&self) -> (u64, String) {
        assert_ne!(self.exit, 0, "{self:?}");
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        let text = |field: &str| error[field].as_str().unwrap().to_owned();
        assert!(!text("cniVersion").is_empty());
        (error["code"].as_u64().unwrap(), format!("{}: {}", text("msg"), text("details")))
    }
}

/// What it left. One that hangs is ended, and has failed.
fn end(mut child: Child) -> Ended {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > BOUND {
            child.kill().unwrap();
            panic!("the plugin did not end: {:?}", child.wait_with_output());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let out = child.wait_with_output().unwrap();
    Ended {
        exit: out.status.code().unwrap(),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

fn run(plugin: &mut Command, config: &Value) -> Ended {
    end(start(plugin, config.to_string().as_bytes()))
}

fn reply(exit: u8, stdout: &str) -> Vec<u8> {
    wire::encode(&Reply { exit, stdout: stdout.into() }).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// How often the process has waited for something: grows with every round of a retry.
fn waits(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn the_call_goes_out_whole_and_the_answer_comes_back_byte_for_byte() {
    let dir = Dir::new("whole");
    // Not what a JSON writer would print: the plugin must not touch it.
    let answer = "{ \"z\":1,\n  \"a\": \"\\u00e9 é\"}\n\n";
    let agent = Agent::listen(&dir.socket(), vec![Heard::Answer(reply(0, answer))]);
    let config = dir.config(1);
    let ended = run(&mut plugin("ADD", "/proc/self/ns/net"), &config);
    assert_eq!(ended, Ended { exit: 0, stdout: answer.into(), stderr: String::new() });
    let [call] = agent.calls().try_into().unwrap();
    let request = call.request.unwrap();
    assert_eq!(request.command, "ADD");
    assert_eq!(request.container, "abc");
    assert_eq!(request.netns, "/proc/self/ns/net");
    assert_eq!(request.ifname, "eth0");
    assert_eq!(request.args, "K8S_POD_NAME=web-0");
    assert_eq!(request.config, config.to_string());
    let me = fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(request.runtime, me.trim(), "who called the plugin is this process");
}

#[test]
fn the_exit_code_is_the_agents() {
    let dir = Dir::new("exit");
    let agent = Agent::listen(
        &dir.socket(),
        vec![Heard::Answer(reply(7, "{\"code\":7}")), Heard::Answer(reply(0, ""))],
    );
    let add = run(&mut plugin("ADD", ""), &dir.config(1));
    assert_eq!((add.exit, add.stdout.as_str()), (7, "{\"code\":7}"));
    let del = run(&mut plugin("DEL", ""), &dir.config(1));
    assert_eq!((del.exit, del.stdout.as_str()), (0, ""));
    assert_eq!(agent.calls().len(), 2);
}

#[test]
fn the_descriptor_is_of_the_namespace_that_was_asked_for() {
    let dir = Dir::new("fd");
    let pid = std::process::id();
    // Two different files, so that a plugin that passes its own namespace is found out.
    let paths = ["net", "uts"].map(|kind| format!("/proc/{pid}/ns/{kind}"));
    let answers = vec![Heard::Answer(reply(0, "")); 4];
    let agent = Agent::listen(&dir.socket(), answers);
    for path in &paths {
        assert_eq!(run(&mut plugin("ADD", path), &dir.config(1)).exit, 0);
    }
    assert_eq!(run(&mut plugin("DEL", "/run/netns/gone"), &dir.config(1)).exit, 0);
    assert_eq!(run(plugin("GC", "").env_remove("CNI_NETNS"), &dir.config(1)).exit, 0);
    let calls = agent.calls();
    for (call, path) in calls.iter().zip(&paths) {
        let wanted = fs::metadata(path).unwrap();
        assert_eq!(call.fds, [(wanted.dev(), wanted.ino())], "{path}");
    }
    assert_ne!(calls[0].fds, calls[1].fds);
    assert_eq!(calls[2].fds, [], "a namespace that is gone is passed as a path alone");
    assert_eq!(calls[2].request.as_ref().unwrap().netns, "/run/netns/gone");
    assert_eq!(calls[3].fds, []);
}

#[test]
fn a_pipe_in_the_namespaces_place_holds_nobody_up() {
    let dir = Dir::new("pipe");
    let pipe = dir.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _agent = Agent::listen(&dir.socket(), vec![Heard::Answer(reply(0, ""))]);
    assert_eq!(run(&mut plugin("DEL", pipe.to_str().unwrap()), &dir.config(1)).exit, 0);
}

#[test]
fn an_agent_that_comes_late_is_waited_for() {
    let dir = Dir::new("late");
    for verb in ["ADD", "DEL", "CHECK", "GC"] {
        let config = dir.config(BOUND.as_secs());
        let mut child = start(&mut plugin(verb, ""), config.to_string().as_bytes());
        until("the plugin has tried some ten times", || waits(&child) >= 12);
        assert_eq!(child.try_wait().unwrap(), None, "{verb} does not give up");
        let agent = Agent::listen(&dir.socket(), vec![Heard::Answer(reply(0, verb))]);
        assert_eq!(end(child).stdout, verb);
        assert_eq!(agent.calls().len(), 1);
        fs::remove_file(dir.socket()).unwrap();
    }
}

#[test]
fn a_call_is_sent_again_when_the_agent_dies_over_it() {
    let dir = Dir::new("dies");
    let half = reply(0, "the answer")[..9].to_vec();
    let deaths = vec![Heard::Hangup, Heard::HangupUnread, Heard::Answer(half)];
    let last = Heard::Answer(reply(0, "the answer"));
    let agent = Agent::listen(&dir.socket(), [deaths, vec![last]].concat());
    let ended = run(&mut plugin("ADD", "/proc/self/ns/net"), &dir.config(BOUND.as_secs()));
    assert_eq!((ended.exit, ended.stdout.as_str()), (0, "the answer"));
    let calls = agent.calls();
    assert_eq!(calls.len(), 4);
    assert_eq!(calls[0].request, calls[3].request, "the same call every time");
    assert_eq!((calls[0].fds.len(), calls[3].fds.len()), (1, 1), "with its namespace every time");
    assert_eq!(calls[1].request, None, "it hung up before it had read anything");
}

#[test]
fn an_agent_that_left_its_socket_behind_is_waited_for_too() {
    let dir = Dir::new("stale");
    drop(std::os::unix::net::UnixListener::bind(dir.socket()).unwrap());
    let mut child = start(&mut plugin("ADD", ""), dir.config(20).to_string().as_bytes());
    until("the plugin has tried some ten times", || waits(&child) >= 12);
    assert_eq!(child.try_wait().unwrap(), None);
    fs::remove_file(dir.socket()).unwrap();
    let _agent = Agent::listen(&dir.socket(), vec![Heard::Answer(reply(0, "now"))]);
    assert_eq!(end(child).stdout, "now");
}

#[test]
fn an_agent_that_never_comes_is_an_error_that_says_where_and_how_long() {
    let dir = Dir::new("never");
    let start = Instant::now();
    let ended = run(&mut plugin("ADD", ""), &dir.config(1));
    assert!(start.elapsed() >= Duration::from_secs(1), "it waits as long as it was told");
    let (code, says) = ended.error();
    assert_eq!(code, 11);
    let socket = dir.socket();
    let expected =
        [socket.to_str().unwrap(), "No such file", "for 1.0 s", "is `weft agent` running"];
    assert!(expected.iter().all(|part| says.contains(part)), "{says}");
    let version: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(version["cniVersion"], "1.0.0", "the caller's");
}

#[test]
fn status_says_at_once_how_it_is() {
    let dir = Dir::new("status");
    let mut config = dir.config(300);
    config["cniVersion"] = json!("1.1.0");
    let status = || plugin("STATUS", "");
    let start = Instant::now();
    assert_eq!(run(&mut status(), &config).error().0, 50, "no agent");
    assert!(start.elapsed() < Duration::from_secs(2), "without waiting for one");

    let answers = vec![Heard::Answer(reply(1, "{\"code\":51}")), Heard::Hangup, Heard::Silence];
    let _agent = Agent::listen(&dir.socket(), answers);
    assert_eq!(run(&mut status(), &config).stdout, "{\"code\":51}", "the agent's own word");
    assert_eq!(run(&mut status(), &config).error().0, 50, "it hung up");
    let (code, says) = run(&mut status(), &config).error();
    assert_eq!(code, 50, "it is stuck");
    assert!(says.contains("no answer in time"), "{says}");
}

#[test]
fn what_waiting_can_not_mend_is_said_at_once() {
    let dir = Dir::new("barred");
    // A regular file in the middle of the path.
    fs::write(dir.0.join("file"), "").unwrap();
    let mut config = dir.config(300);
    config["socket"] = json!(dir.0.join("file/cni.sock"));
    let start = Instant::now();
    let (code, says) = run(&mut plugin("ADD", ""), &config).error();
    assert_eq!(code, 5, "{says}");
    assert!(says.contains("Not a directory"), "{says}");

    let tomorrow = vec![Heard::Answer(vec![wire::VERSION + 1, 0, 0, 0, 2, b'{', b'}'])];
    let _agent = Agent::listen(&dir.socket(), tomorrow);
    let (code, says) = run(&mut plugin("ADD", ""), &dir.config(300)).error();
    assert_eq!(code, 11);
    assert!(says.contains("install plugin and agent of one release"), "{says}");
    assert!(start.elapsed() < BOUND);
}

#[test]
fn version_needs_no_agent() {
    let answer = |version: &str| {
        format!(
            r#"{{"cniVersion":"{version}","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
        )
    };
    for version in ["0.3.1", "1.1.0"] {
        let ended = run(&mut plugin("VERSION", ""), &json!({"cniVersion": version}));
        assert_eq!(ended, Ended { exit: 0, stdout: answer(version), stderr: String::new() });
    }
    let mut bare = Command::new(env!("CARGO_BIN_EXE_weft-cni"));
    bare.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).stdout(Stdio::piped());
    assert_eq!(end(bare.spawn().unwrap()).stdout, answer("1.1.0"));
}

#[test]
fn input_that_leads_nowhere_is_refused_without_asking_anybody() {
    let dir = Dir::new("input");
    let longest = |bytes: usize| {
        let mut config = dir.config(1);
        config["pad"] = json!("");
        config["pad"] = json!("\"".repeat((bytes - config.to_string().len()) / 2));
        config.to_string().into_bytes()
    };
    let cases: [(&str, Vec<u8>, u64, &str); 6] = [
        ("broken", b"{\"cniVersion\": ".to_vec(), 6, "not JSON"),
        ("empty", Vec::new(), 6, "not JSON"),
        ("a list", b"[]".to_vec(), 6, "a list, not a JSON object"),
        ("not text", vec![b'{', 0xff, b'}'], 6, "utf-8"),
        ("giant", longest(wire::CONFIG_MAX + 2), 6, "longer than 1048576 bytes"),
        ("socket", br#"{"cniVersion":"0.4.0","socket":"x"}"#.to_vec(), 7, "an absolute path"),
    ];
    for (what, config, code, says) in cases {
        let ended = end(start(&mut plugin("ADD", ""), &config));
        let (found, text) = ended.error();
        assert_eq!(found, code, "{what}: {text}");
        assert!(text.contains(says), "{what}: {text}");
    }
    // As long as it may be, and the agent gets every byte.
    let config = longest(wire::CONFIG_MAX);
    assert!(config.len() > wire::CONFIG_MAX - 2);
    let agent = Agent::listen(&dir.socket(), vec![Heard::Answer(reply(0, "all"))]);
    assert_eq!(end(start(&mut plugin("ADD", "/proc/self/ns/net"), &config)).stdout, "all");
    let [call] = agent.calls().try_into().unwrap();
    assert_eq!(call.request.unwrap().config.as_bytes(), config);
    assert_eq!(call.fds.len(), 1);
}

#[test]
fn without_an_environment_it_says_what_it_is() {
    let mut bare = Command::new(env!("CARGO_BIN_EXE_weft-cni"));
    // Its input stays open: it must not wait for a word.
    bare.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = bare.spawn().unwrap();
    let input = child.stdin.take();
    let ended = end(child);
    drop(input);
    let (code, says) = ended.error();
    assert_eq!(code, 4);
    assert!(says.contains("CNI_COMMAND"), "{says}");
    assert!(
        ended.stderr.contains("speaks CNI 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        "{}",
        ended.stderr
    );
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    let dir = Dir::new("closed");
    let agent = Agent::listen(&dir.socket(), vec![]);
    let mut shell = Command::new("/bin/sh");
    let script = format!("exec {} <&- 2>&-", env!("CARGO_BIN_EXE_weft-cni"));
    shell.args(["-c", &script]).env_clear().env("CNI_COMMAND", "DEL").stdout(Stdio::piped());
    let (code, says) = end(shell.spawn().unwrap()).error();
    assert_eq!(code, 6, "{says}");
    // The call must not end up in a descriptor that took standard output's place.
    let agent_2 = Dir::new("closed-out");
    let out = Agent::listen(&agent_2.socket(), vec![Heard::Answer(reply(0, "lost"))]);
    let script = format!("exec {} >&- 2>&-", env!("CARGO_BIN_EXE_weft-cni"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).env_clear().env("CNI_COMMAND", "DEL").stdin(Stdio::piped());
    let child = start(&mut shell, agent_2.config(1).to_string().as_bytes());
    assert_eq!(end(child).exit, 0);
    assert_eq!((agent.calls().len(), out.calls().len()), (0, 1));
}
