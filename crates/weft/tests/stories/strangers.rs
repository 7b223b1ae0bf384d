//! Other programs on the node that work against a pod network: `weft status` names them, and what
//! to do about each, and asks for it by its exit code.

use std::process::Command;

use crate::story::*;

/// Exit code and text of `weft status`.
fn status(node: &Node) -> (Option<i32>, String) {
    let mut weft = Command::new(program());
    let out = weft.arg("status").env("WEFT_CONTROL", node.control()).output().unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

/// Anything that wakes the agent: who else runs on the node is looked for with each look at the
/// kernel, and every daemon of a network touches links.
fn touch(node: &Node) {
    sh(&node.netns, "ip link add touched type bridge; ip link del touched");
}

fn named(node: &Node, words: &[&str]) {
    until(&format!("naming {}", words[0]), || {
        let (exit, text) = status(node);
        exit == Some(2) && words.iter().all(|word| text.contains(word))
    });
    assert_eq!(node.status().unwrap()["converged"], true, "which holds nothing up");
}

fn well(node: &Node) {
    until("well", || status(node).0 == Some(0));
}

#[test]
fn daemons_that_take_foreign_routes_are_named_until_they_spare_them() {
    let site = cluster(1, "veth", "vxlan");
    let node = &site.nodes[0];
    well(node);
    // The sandbox's own /run.
    std::fs::create_dir_all("/run/systemd/netif").unwrap();
    touch(node);
    named(node, &["systemd-networkd", "ManageForeignRoutes=no"]);
    std::fs::create_dir_all("/run/systemd/networkd.conf.d").unwrap();
    let spares = "[Network]\nManageForeignRoutes=no\nManageForeignNextHops=no\n";
    std::fs::write("/run/systemd/networkd.conf.d/weft.conf", spares).unwrap();
    touch(node);
    well(node);
    std::fs::create_dir_all("/run/NetworkManager").unwrap();
    touch(node);
    named(node, &["NetworkManager", "unmanaged-devices=interface-name:weft*"]);
    std::fs::remove_dir("/run/NetworkManager").unwrap();
    touch(node);
    well(node);
}

#[test]
fn a_firewall_of_iptables_old_kind_is_named_without_being_asked() {
    if !Path::new("/proc/net/ip_tables_names").exists() {
        eprintln!("this kernel has no ip_tables: no firewall of the old kind can stand here");
        return;
    }
    let site = cluster(2, "veth", "vxlan");
    let (pods, _echo) = answering(&site);
    let node = &site.nodes[0];
    well(node);
    assert!(reaches(&pods[0], &pods[1]));
    sh(&node.netns, "iptables-legacy -P FORWARD DROP");
    assert!(reach(&pods[0].netns, pods[1].addr(true).unwrap()).is_none(), "it does drop");
    named(node, &["a firewall of iptables-legacy", "iptables-legacy -S FORWARD"]);
    // What its owner is told to do helps.
    sh(
        &node.netns,
        "iptables-legacy -A FORWARD -s 10.1.0.0/16 -j ACCEPT
         iptables-legacy -A FORWARD -d 10.1.0.0/16 -j ACCEPT",
    );
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    empty_plan(node);
}
