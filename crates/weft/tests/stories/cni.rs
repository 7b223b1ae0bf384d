//! CNI's verbs as a runtime calls them, beyond ADD and DEL.

use std::{io::Write, process::Command};

use crate::story::*;

#[test]
fn check_gc_and_status_do_what_the_spec_says() {
    let cluster = cluster(1, "veth", "vxlan");
    let node = &cluster.nodes[0];
    let config = node.cni_config("net");
    let none = Path::new("");
    let (exit, answer) = node.cni("STATUS", "", none, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let (one, two) = (node.add_pod("one", "net").unwrap(), node.add_pod("two", "net").unwrap());
    let (_, added) = node.cni("ADD", "one", &one.path, &config, &[]).unwrap();
    let mut check = config.clone();
    check["prevResult"] = added;
    let (exit, answer) = node.cni("CHECK", "one", &one.path, &check, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    sh(&one.netns, "ip addr flush dev eth0");
    let (exit, answer) = node.cni("CHECK", "one", &one.path, &check, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(100)), "{answer}");
    assert!(answer["details"].as_str().unwrap().contains("+ addr "), "{answer}");
    let (exit, answer) = node.cni("CHECK", "nobody", &one.path, &check, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(3)), "{answer}");
    // GC of another network of the runtime's frees nothing here; GC of this one all but `two`.
    let mut gc = config.clone();
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "two", "ifname": "eth0"}]);
    let mut other = gc.clone();
    other["name"] = json!("other");
    assert_eq!(node.cni("GC", "", none, &other, &[]).unwrap().0, 0);
    assert_eq!(pods(node).len(), 2);
    let (exit, answer) = node.cni("GC", "", none, &gc, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    node.wait_until("freed", |node| Ok(node.status()?["pods"] == 1)).unwrap();
    assert_eq!(pods(node)[0]["container"], "two");
    // DEL twice, and DEL without a namespace.
    for _ in 0..2 {
        assert_eq!(node.cni("DEL", "two", none, &config, &[]).unwrap().0, 0);
    }
    drop(two);
    node.kill().unwrap();
    let (exit, answer) = node.cni("STATUS", "", none, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(50)), "{answer}");
}

#[test]
fn a_pod_whose_namespace_dies_frees_its_address() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let pod = node.add_pod("gone", "net").unwrap();
    assert_eq!(pods(node).len(), 1);
    nix::mount::umount2(&pod.path, nix::mount::MntFlags::MNT_DETACH).unwrap();
    drop(pod);
    node.wait_until("freed", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    empty_plan(node);
}

/// Calls the plugin as a child of a program of this name: the runtime, as the plugin sees it.
fn as_runtime(node: &Node, runtime: &str, verb: &str, name: &str, path: &Path, config: &Value) {
    let program = node.dir().join(runtime);
    if !program.exists() {
        std::fs::copy("/bin/sh", &program).unwrap();
    }
    let plugin = node.plugin(verb, name, path, &[]);
    let mut shell = Command::new(&program);
    // Another command behind it, or the shell would become the plugin.
    shell.arg("-c").arg(format!("{}; exit $?", plugin.get_program().display()));
    shell.envs(plugin.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let out = shell.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{runtime}: {verb} {name}: {said}");
}

#[test]
fn gc_frees_only_what_the_runtime_that_calls_it_has_attached() {
    let site = cluster(1, "veth", "host-gw");
    with_released_plugin(&site);
    let node = &site.nodes[0];
    let config = node.cni_config("net");
    let mut namespaces = Vec::new();
    for (runtime, name) in
        [("crio", "c1"), ("crio", "c2"), ("containerd", "d1"), ("containerd", "d2")]
    {
        let (netns, path) = namespace(name);
        as_runtime(node, runtime, "ADD", name, &path, &config);
        namespaces.push((netns, path));
    }
    let left = || -> Vec<String> {
        let all = pods(node);
        let attached = all.iter().filter(|pod| pod["phase"] == "attached");
        attached.map(|pod| pod["container"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(left(), ["c1", "c2", "d1", "d2"]);
    // Each lists its own alone, and knows nothing of the other's.
    let gc = |runtime: &str, valid: Value| {
        let mut config = config.clone();
        config["cni.dev/valid-attachments"] = valid;
        as_runtime(node, runtime, "GC", "", Path::new(""), &config);
    };
    gc("podman", json!([]));
    assert_eq!(left().len(), 4, "a runtime that attached nothing frees nothing");
    gc("crio", json!([{"containerID": "c2", "ifname": "eth0"}]));
    until("c1 is freed", || left() == ["c2", "d1", "d2"]);
    gc("containerd", json!([]));
    until("the others' are freed", || left() == ["c2"]);
    until("addresses too", || leases(node).len() == 2);
    // DEL asks nobody who attached.
    as_runtime(node, "containerd", "DEL", "c2", &namespaces[1].1, &config);
    nothing_left(node);
}

/// An agent whose container lacks the node's mounts, as far as it can tell.
#[test]
fn a_pod_whose_namespace_is_not_seen_is_not_taken_for_gone() {
    let attach = json!({"kind": "macvlan", "parent": "eth1", "mode": "bridge"});
    let site = crate::lan::on_lan(&crate::lan::lan(1), &attach);
    let node = &site.nodes[0];
    let (dir, away) = (Path::new("/run/pods"), Path::new("/run/pods.away"));
    std::fs::create_dir(dir).unwrap();
    let (netns, path) = (Netns::create().unwrap(), dir.join("one"));
    netns.bind(&path).unwrap();
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("ADD", "one", &path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    std::fs::rename(dir, away).unwrap();
    sh(&netns, "ip link del eth0");
    let said = "the agent does not see the directory /run/pods; an agent in a container";
    let problem = |node: &Node| Ok(node.status()?["problems"].to_string().contains(said));
    node.wait_until("said", problem).unwrap();
    assert_eq!(pods(node).len(), 1, "its address is not free");
    std::fs::rename(away, dir).unwrap();
    until("made again", || sh(&netns, "ip -o addr").contains("eth0"));
    std::fs::rename(dir, away).unwrap();
    let (exit, answer) = node.cni("DEL", "one", &path, &config, &[]).unwrap();
    assert_eq!(exit, 1, "{answer}");
    assert!(answer["details"].to_string().contains(said), "{answer}");
    assert_eq!(pods(node).len(), 1, "its address is not free");
    std::fs::rename(away, dir).unwrap();
    assert_eq!(node.cni("DEL", "one", &path, &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

#[test]
fn add_is_refused_where_the_agent_does_not_see_the_pods_namespace() {
    let cluster = cluster(1, "veth", "host-gw");
    let node = &cluster.nodes[0];
    let (netns, path) = namespace("one");
    let plain = Path::new("/run/netns/plain");
    std::fs::write(plain, "").unwrap();
    // The plugin sees the namespace there, the agent a file.
    let plugin = node.plugin("ADD", "one", plain, &[]);
    let mut unseen = Command::new("unshare");
    unseen
        .args(["--mount", "sh", "-ec"])
        .envs(plugin.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let (path, plain, program) = (path.display(), plain.display(), plugin.get_program().display());
    unseen.arg(format!("mount --bind {path} {plain}; exec {program}"));
    unseen.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut unseen = unseen.spawn().unwrap();
    let config = node.cni_config("net").to_string();
    unseen.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let out = unseen.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{answer}");
    for says in ["does not see the pod's namespace at /run/netns/plain", "HostToContainer"] {
        assert!(answer.contains(says), "{answer}");
    }
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "nothing is half made");
    nothing_left(node);
}
