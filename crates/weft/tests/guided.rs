//! `weft lab` itself, as a user runs it.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn guided(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["lab", "--json"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(last["ok"], true, "{text}");
    assert!(out.status.success());
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let paths: Vec<Value> = events.filter(|event| event["event"] == "path").collect();
    let measured = |path: &Value| path["latencyUs"].is_u64() && path["mtuBytes"].is_u64();
    assert!(!paths.is_empty() && paths.iter().all(|event| measured(&event["path"])), "{text}");
    last
}

#[test]
fn every_model_reaches_everybody_and_no_change_loses_a_packet() {
    let result = guided(&[]);
    let (runs, switches) =
        (result["runs"].as_array().unwrap(), result["switches"].as_array().unwrap());
    let has_ipvlan = weft_linux::rig::has_kind("ipvlan").unwrap();
    let ipvlan = if has_ipvlan { 12 } else { 0 };
    assert_eq!(
        (runs.len(), switches.len()),
        (30 + ipvlan, 24),
        "(2 attaches × 4 joins + 3 that stay + 4 modes of macvlan, 5 of ipvlan and one more behind a \
         switch of one MAC address) × 2 families; 2 × 12 changes"
    );
    for run in runs {
        let pairs = match run["attach"].as_str().unwrap() {
            // Of two nodes; whether those of one meet is asked apart.
            "macvlan vepa" | "macvlan private" | "ipvlan l2 vepa" | "ipvlan l2 private" => 24,
            "macvlan passthru" => 6,
            _ => 30,
        };
        assert!(run["pairs"] == pairs && run["reached"] == pairs, "{run}");
    }
    assert!(
        switches
            .iter()
            .all(|s| s["sent"].as_u64() > Some(1000) && s["lost"] == 0 && s["resets"] == 0)
    );
}

/// FRR and BIRD as their routers; nothing is lost in a change of join, nor while an agent or a router that was
/// killed is away.
#[test]
fn two_racks_and_their_routers() {
    let result = guided(&["--join", "bgp"]);
    for run in result["runs"].as_array().unwrap() {
        assert!(run["pairs"] == 30 && run["reached"] == 30, "{run}");
    }
    for (what, count, time) in [("switches", 2, "settledMs"), ("absences", 3, "tookMs")] {
        let all = result[what].as_array().unwrap();
        let free: Vec<bool> = all
            .iter()
            .map(|s| s["sent"].as_u64() > Some(1000) && s["lost"] == 0 && s["resets"] == 0)
            .collect();
        assert_eq!(free, vec![true; count], "{all:?}");
        assert!(all.iter().all(|s| s[time].is_u64()), "{all:?}");
    }
}

#[test]
fn two_segments() {
    let result = guided(&["--topology", "routed", "--pods", "1"]);
    let runs = result["runs"].as_array().unwrap().len();
    let what = "vxlan, auto and a domain by the store; host-gw and multicast can't be; macvlan";
    let ipvlan = if weft_linux::rig::has_kind("ipvlan").unwrap() { 8 } else { 0 };
    assert_eq!(runs, 18 + ipvlan, "{what}");
}

/// `weft lab shell` whose shell reads what it should do from a pipe.
fn shell(program: &Path) -> Command {
    let mut weft = Command::new(program);
    weft.args(["lab", "shell", "--nodes", "2", "--pods", "1"]).env("SHELL", "/bin/sh");
    weft.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
    weft
}

/// What it prints until a line says `word`.
fn until_said(child: &mut Child, word: &str) -> String {
    let mut said = String::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        said += &(line.unwrap() + "\n");
        if said.contains(word) {
            break;
        }
    }
    assert!(said.contains(word), "{word} was never said: {said}");
    said
}

const INSIDE: &str = "weft status; echo status $?
                      weft lab exec node-b -- weft plan; echo plan $?
                      weft lab exec zz true 2>&1
                      weft lab exec a1 -- ip -4 route; exit 7\n";

#[test]
fn lab_shell_ends_as_its_shell_does() {
    let mut child = shell(Path::new(env!("CARGO_BIN_EXE_weft"))).spawn().unwrap();
    child.stdin.take().unwrap().write_all(INSIDE.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(7));
    let said = String::from_utf8(out.stdout).unwrap();
    for word in [
        "pod b1",
        "status 0",
        "plan 0",
        "or pod zz: a1, b1, node-a, node-b\n",
        "default via 169.254.1.1",
    ] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn the_lab_needs_no_root() {
    if !nix::unistd::geteuid().is_root() {
        // He who runs this has no rights himself, and so every test shows it.
        return;
    }
    let place = nix::unistd::mkdtemp("/tmp/weft-lab-XXXXXX").unwrap();
    let program = place.join("weft");
    fs::copy(env!("CARGO_BIN_EXE_weft"), &program).unwrap();
    std::os::unix::fs::chown(&place, Some(65534), Some(65534)).unwrap();
    let mut child = shell(&program).uid(65534).gid(65534).spawn().unwrap();
    child.stdin.take().unwrap().write_all(INSIDE.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let args = ["lab", "--json", "--nodes", "2", "--pods", "1", "--families", "ipv4"];
    let guided = Command::new(&program).args(args).uid(65534).gid(65534).output().unwrap();
    let all = String::from_utf8(guided.stdout).unwrap();
    let last: Value = serde_json::from_str(all.lines().last().unwrap_or_default()).unwrap();
    assert_eq!(last["ok"], true, "{all}");
    fs::remove_dir_all(place).unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(7), "{said}");
    assert!(said.contains("status 0") && said.contains("plan 0"), "{said}");
}

/// Every process of this test's PID namespace.
fn processes() -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn a_lab_that_is_killed_leaves_no_process() {
    let before = processes();
    let mut child = shell(Path::new(env!("CARGO_BIN_EXE_weft"))).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"sleep 1000 & echo all is up\n").unwrap();
    until_said(&mut child, "all is up");
    assert!(processes().len() > before.len() + 4, "two agents and a shell");
    child.kill().unwrap();
    child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while processes() != before {
        assert!(Instant::now() < end, "left: {:?}", processes());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What `weft lab` says of options that don't go together, before it builds anything.
fn refused(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_weft")).arg("lab").args(args).output().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty(), "{args:?}");
    String::from_utf8(out.stderr).unwrap()
}

#[test]
fn options_that_would_do_nothing_or_cannot_be_are_refused() {
    for (args, says) in [
        (&["--nodes", "2", "--pods", "1", "shell"][..], "--nodes <NODES>"),
        (&["--json", "shell"], "'--json'"),
        (&["--join", "bgp", "exec", "a1", "true"], "'--join <JOIN>'"),
        (&["--join", "bgp", "--topology", "routed"], "shown in racks"),
        (
            &["--join", "bgp", "--families", "ipv6", "--underlay", "ipv4"],
            "by join bgp a route of IPv6",
        ),
        (&["--join", "bgp", "--underlay", "ipv6"], "routers over IPv4"),
        (&["shell", "--topology", "racks", "--join", "bgp", "--underlay", "mixed"], "over IPv4"),
        (&["--underlay", "ipv4"], "changes to host-gw too"),
    ] {
        let said = refused(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn a_network_that_cannot_be_is_refused_in_the_words_of_weft_network() {
    let said = refused(&["shell", "--nodes", "2", "--pods", "1", "--join", "underlay"]);
    let words = "join underlay is the physical network itself: it goes with attach macvlan";
    assert!(said.contains(words) && !said.contains("vni"), "{said}");
}

#[test]
fn who_has_read_enough_ends_the_tour_without_a_word() {
    let before = processes();
    let mut weft = Command::new(env!("CARGO_BIN_EXE_weft"));
    weft.arg("lab").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = weft.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("A cluster of 3 nodes"), "{line}");
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), &out.stderr[..]), (Some(128 + 13), &b""[..]));
    assert_eq!(processes(), before);
}

#[test]
fn an_interrupt_ends_the_tour_and_the_building_of_a_shell_and_says_so() {
    let mut tour = Command::new(env!("CARGO_BIN_EXE_weft"));
    tour.arg("lab").stdin(Stdio::null()).stdout(Stdio::piped());
    let building = shell(Path::new(env!("CARGO_BIN_EXE_weft")));
    for mut weft in [tour, building] {
        let before = processes();
        let mut child = weft.stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while processes().len() < before.len() + 4 {
            assert!(Instant::now() < end, "agents never came");
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        drop(child.stdin.take());
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(130), "{said}");
        assert_eq!(said, "weft: interrupted; nothing is left behind\n");
        assert!(!String::from_utf8(out.stdout).unwrap().contains("Try:"));
        assert_eq!(processes(), before);
    }
}
