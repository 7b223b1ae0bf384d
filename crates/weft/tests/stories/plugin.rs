//! The plugin killed, as a runtime does whose patience is over: what it has asked for may still
//! be done, or never, and the DEL that follows must find all of it.

use std::{io::Write, process::Child, thread};

use crate::story::*;

/// So few addresses that one which leaked is soon missed.
fn small(site: &Site) -> Value {
    let mut network = site.network("veth", "host-gw", 1);
    network["ranges"] = json!(["10.1.0.0/29", "fd00:1::/64"]);
    network["blockPrefix4"] = json!(29);
    network
}

fn few_addresses() -> Site {
    let site = built(&plan(1));
    with_released_plugin(&site);
    site.start().unwrap();
    site.apply("net", &small(&site)).unwrap();
    site.settled("net", "host-gw").unwrap();
    site
}

fn call(node: &Node, verb: &str, name: &str, path: &Path) -> Child {
    let mut plugin = node.plugin(verb, name, path, &[]).spawn().unwrap();
    let config = node.cni_config("net").to_string();
    plugin.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    plugin
}

/// True if the plugin was ended before it had answered.
fn killed(mut plugin: Child) -> bool {
    plugin.kill().unwrap();
    plugin.wait().unwrap().code().is_none()
}

fn whole(node: &Node, verb: &str, name: &str, path: &Path) -> Value {
    let (exit, answer) = node.cni(verb, name, path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!(exit, 0, "{verb} {name} after a killed call: {answer}");
    answer
}

/// ADD killed, then DEL, or ADD again and DEL killed and DEL. How many calls were cut short.
fn rounds(node: &Node, name: &str, count: usize) -> usize {
    let (netns, path) = namespace(name);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ u64::from(name.as_bytes()[3]));
    let mut cut = 0;
    for _ in 0..count {
        let plugin = call(node, "ADD", name, &path);
        thread::sleep(Duration::from_micros(dice.roll(3000)));
        cut += usize::from(killed(plugin));
        if dice.roll(2) == 0 {
            let answer = whole(node, "ADD", name, &path);
            assert_eq!(answer["ips"].as_array().map(Vec::len), Some(2), "{answer}");
            leases(node);
            let plugin = call(node, "DEL", name, &path);
            thread::sleep(Duration::from_micros(dice.roll(1500)));
            cut += usize::from(killed(plugin));
        }
        whole(node, "DEL", name, &path);
    }
    until("nothing in the pod", || !sh(&netns, "ip -o link").contains("eth0"));
    cut
}

#[test]
fn the_plugin_killed_at_random_moments_leaks_nothing() {
    let site = few_addresses();
    let node = &site.nodes[0];
    let cut: usize = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|n| scope.spawn(move || rounds(node, &format!("cut{n}"), 100))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(cut > 200, "only {cut} calls were cut short, so the test proves little");
    nothing_left(node);
    all_five_addresses(node);
}

/// Every address of the block can be given, so none has leaked.
fn all_five_addresses(node: &Node) {
    let names: Vec<String> = (0..5).map(|n| format!("last{n}")).collect();
    for name in &names {
        whole(node, "ADD", name, &namespace(name).1);
    }
    assert_eq!(leases(node).len(), 10);
    for name in &names {
        whole(node, "DEL", name, &PathBuf::from("/run/netns").join(name));
    }
    nothing_left(node);
}

#[test]
fn a_call_that_nobody_waits_for_any_more_does_not_outlive_the_del_behind_it() {
    let site = few_addresses();
    let node = &site.nodes[0];
    let (netns, path) = namespace("late");
    for round in 0..60 {
        // Both calls are in the agent's socket before it takes either up.
        freeze(node);
        let add = call(node, "ADD", "late", &path);
        until("waiting for an answer", || asleep_in(&add, "unix_stream"));
        assert!(killed(add), "a frozen agent has answered");
        let mut del = call(node, "DEL", "late", &path);
        until("waiting for an answer", || asleep_in(&del, "unix_stream"));
        node.signal(Signal::SIGCONT).unwrap();
        assert!(del.wait().unwrap().success(), "round {round}");
        node.wait_until(&format!("without the dead call's pod, round {round}"), |node| {
            Ok(node.status()?["pods"] == 0)
        })
        .unwrap();
    }
    nothing_left(node);
    assert!(!sh(&netns, "ip -o link").contains("eth0"));
    all_five_addresses(node);
}

/// Stops every thread of the agent. The signal alone lets those that run go on for a moment.
fn freeze(node: &Node) {
    node.signal(Signal::SIGSTOP).unwrap();
    let tasks = format!("/proc/{}/task", node.pid().unwrap());
    let stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    until("frozen", || std::fs::read_dir(&tasks).unwrap().all(stopped));
}

/// True if it waits in a kernel function of this kind (`/proc/PID/wchan`).
fn asleep_in(child: &Child, function: &str) -> bool {
    sleeps(&format!("/proc/{}", child.id()), function)
}

fn sleeps(process: &str, function: &str) -> bool {
    std::fs::read_to_string(format!("{process}/wchan")).is_ok_and(|at| at.contains(function))
}

/// True if some plugin of this test's waits for its agent's answer.
pub fn some_call_waits() -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut processes = processes.map(|entry| entry.path().display().to_string());
    processes.any(|process| {
        let comm = std::fs::read_to_string(format!("{process}/comm"));
        comm.is_ok_and(|comm| comm.trim() == "weft-cni") && sleeps(&process, "unix_stream")
    })
}
