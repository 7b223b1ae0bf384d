//! The sandbox from outside: what it passes on, what is left when it is killed, and who may enter.
//! The tests themselves run in one, so `/proc` lists exactly what they have started.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

const SANDBOX: &str = env!("CARGO_BIN_EXE_weft-sandbox");
/// Inside: two processes and more namespaces, and a word once all of it is there.
const BUSY: &str = "unshare --net sleep 1000 & sleep 1000 & echo ready; wait";

fn sandbox(script: &str) -> Command {
    let mut command = Command::new(SANDBOX);
    command.args(["sh", "-c", script]);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Every process that this test's PID namespace has.
fn processes() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Network namespaces that some process is in.
fn namespaces() -> BTreeSet<PathBuf> {
    processes().iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok()).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not {what} within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts it and waits until it says that it is ready.
fn busy(command: &mut Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut word = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut word).unwrap();
    assert_eq!(word, "ready\n");
    child
}

#[test]
fn what_a_command_ends_with_is_what_the_sandbox_ends_with() {
    for code in [0, 1, 2, 42, 126, 255] {
        assert_eq!(run(&mut sandbox(&format!("exit {code}"))).status.code(), Some(code));
    }
    for (name, number) in [("TERM", 15), ("KILL", 9), ("INT", 2), ("SEGV", 11)] {
        let status = run(&mut sandbox(&format!("kill -{name} $$"))).status;
        assert_eq!(status.code(), Some(128 + number), "{name}, as a shell says it");
    }
    let none = run(Command::new(SANDBOX).arg("/no/such/program"));
    assert_eq!(none.status.code(), Some(127));
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("run /no/such/program: No such file"), "{said}");
    let usage = run(&mut Command::new(SANDBOX));
    assert_eq!(usage.status.code(), Some(2));
    let output = run(&mut sandbox("cat; echo out; echo err >&2"));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
}

#[test]
fn an_interrupt_of_the_keyboard_is_for_what_runs_inside() {
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done";
    let mut child = busy(sandbox(script).process_group(0));
    // A terminal sends it to the whole group.
    let group = Pid::from_raw(-i32::try_from(child.id()).unwrap());
    kill(group, Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(5), "{status}");
}

#[test]
fn however_the_sandbox_is_ended_no_process_and_no_namespace_is_left() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGHUP] {
        let (before, own, held) = (processes(), namespaces(), held());
        let mut child = busy(&mut sandbox(BUSY));
        assert!(processes().len() >= before.len() + 5, "{:?}", processes());
        until("namespaces of its own", || namespaces().len() >= own.len() + 2);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal as i32));
        until("without what ran inside", || processes() == before);
        assert_eq!(namespaces(), own);
        assert_eq!(self::held(), held, "namespaces held by mounts");
    }
}

/// Namespaces that mounts hold; others of the machine may have some.
fn held() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains("nsfs")).map(str::to_owned).collect()
}

/// A copy that another user may run, wherever the checkout is.
fn for_everybody() -> PathBuf {
    let copy = PathBuf::from("/run/weft-sandbox");
    fs::copy(SANDBOX, &copy).unwrap();
    copy
}

#[test]
fn a_user_without_rights_is_root_inside() {
    if !geteuid().is_root() || fs::read_to_string("/proc/self/uid_map").unwrap().contains(" 1\n") {
        // He who runs this is such a user himself, and so every test shows it.
        eprintln!("only root can become somebody else");
        return;
    }
    let mut nobody = Command::new(for_everybody());
    nobody.uid(65534).gid(65534).current_dir("/");
    let script = "id -u; ip link add one type veth peer name two; ip -o link | wc -l
                  ip link set lo up; mount -t tmpfs none /run; exit 9";
    let out = run(nobody.args(["sh", "-ec", script]));
    assert_eq!(out.status.code(), Some(9), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "0\n3\n");
}

#[test]
fn where_user_namespaces_are_forbidden_the_setting_is_named() {
    // A user namespace that allows no further one, and a user in it who may nothing.
    let script = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces
         exec setpriv --inh-caps=-all --bounding-set=-all {SANDBOX} true"
    );
    let mut forbidden = Command::new("unshare");
    let out = run(forbidden.args(["--user", "--map-root-user", "sh", "-ec", &script]));
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    for word in [
        "weft-sandbox: make own namespaces:",
        "this host has user.max_user_namespaces = 0",
        "`sudo sysctl user.max_user_namespaces=15000` allows it",
    ] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}
