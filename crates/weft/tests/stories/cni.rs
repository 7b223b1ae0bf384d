//! CNI's verbs as a runtime calls them, beyond ADD and DEL.

use crate::story::*;

#[test]
fn check_gc_and_status_do_what_the_spec_says() {
    let cluster = cluster(1, "veth", "vxlan");
    let node = &cluster.nodes[0];
    let config = node.cni_config("net");
    let none = Path::new("");
    assert_eq!(node.cni("STATUS", "", none, &config, &[]).unwrap().0, 0);
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
