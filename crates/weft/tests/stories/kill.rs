//! The agent killed: at every step of ADD and DEL, and at random among many.

use std::collections::BTreeSet;

use crate::story::*;

pub const ADD_FAULTS: [&str; 5] = [
    "add.after-open",
    "add.after-birth",
    "add.after-outside",
    "add.after-inside",
    "add.after-commit",
];

pub const DEL_FAULTS: [&str; 4] =
    ["del.after-doom", "del.after-routes", "del.after-link", "del.after-reap"];

pub fn fault(point: &str) -> Vec<(String, String)> {
    vec![("WEFT_FAULT".into(), point.into())]
}

/// Starts the agent so that it dies at `point`.
pub fn restart(node: &Node, env: &[(String, String)]) {
    node.kill().unwrap();
    node.start(env).unwrap();
    node.wait_until("started", |node| {
        let status = node.status()?;
        Ok(status["store"]["synced"] == true
            && status["converged"] == true
            && node.plan()?.is_empty())
    })
    .unwrap();
}

/// `links` counts the links of pods.
pub fn killed_in_add(cluster: &Site, links: impl Fn(&Node) -> usize) {
    killed_in_add_at(cluster, &ADD_FAULTS, links);
}

pub fn killed_in_add_at(cluster: &Site, points: &[&str], links: impl Fn(&Node) -> usize) {
    let node = &cluster.nodes[0];
    sh(&node.netns, "ip link add stranger type veth peer name stranger2");
    for point in points {
        // The runtime waits: the call outlives the agent, and ends well.
        restart(node, &fault(point));
        let pod = std::thread::scope(|scope| {
            let adding = scope.spawn(|| node.add_pod("waiter", "net").unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            adding.join().unwrap()
        });
        assert_eq!(leases(node).len(), 2, "{point}: one address of each family");
        empty_plan(node);
        assert_eq!(links(node), 1, "{point}");
        node.delete_pod(pod).unwrap();
        node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
        // The runtime does not wait: nothing of its call is left.
        restart(node, &fault(point));
        let netns = Netns::create().unwrap();
        let path = PathBuf::from("/run/netns/given-up");
        netns.bind(&path).unwrap();
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(0);
        let (exit, answer) = node.cni("ADD", "given-up", &path, &config, &[]).unwrap();
        assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{point}: {answer}");
        node.wait_for_death().unwrap();
        node.start(&[]).unwrap();
        node.wait_until("started", |node| Ok(node.status()?["converged"] == true)).unwrap();
        let (exit, answer) = node.cni("DEL", "given-up", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{point}: {answer}");
        nothing_left(node);
        assert_eq!(links(node), 0, "{point}");
        forget(&path);
    }
    assert!(sh(&node.netns, "ip -o link").contains("stranger2"));
}

#[test]
fn killed_at_every_step_of_add_with_veth() {
    killed_in_add(&cluster(1, "veth", "vxlan"), pod_links);
}

#[test]
fn killed_at_every_step_of_add_on_a_segment_and_in_a_group() {
    killed_in_add(&cluster(1, "bridge", "vxlan-bridged"), pod_links);
    killed_in_add(&cluster(1, "veth", "vxlan+multicast"), pod_links);
}

#[test]
fn killed_at_every_step_of_add_with_a_bridge() {
    killed_in_add(&cluster(1, "bridge", "vxlan"), pod_links);
}

#[test]
fn killed_at_every_step_of_del_and_the_same_address_is_given_again_at_once() {
    for (attach, join) in [
        ("veth", "vxlan"),
        ("bridge", "vxlan"),
        ("bridge", "vxlan-bridged"),
        ("veth", "vxlan+multicast"),
    ] {
        killed_in_del(&cluster(1, attach, join), pod_links);
    }
}

pub fn killed_in_del(cluster: &Site, links: impl Fn(&Node) -> usize) {
    let node = &cluster.nodes[0];
    for point in DEL_FAULTS {
        restart(node, &fault(point));
        let pod = node.add_pod("doomed", "net").unwrap();
        let addrs: Vec<IpAddr> = pod.addrs.clone();
        std::thread::scope(|scope| {
            let deleting = scope.spawn(|| node.delete_pod(pod).unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            deleting.join().unwrap();
        });
        let pod = add_with(node, "again", &addrs);
        assert_eq!(pod, addrs, "{point}: the address is free again");
        empty_plan(node);
        assert_eq!(links(node), 1, "{point}");
        let (exit, _) = node
            .cni("DEL", "again", Path::new("/run/netns/again"), &node.cni_config("net"), &[])
            .unwrap();
        assert_eq!(exit, 0);
        forget(Path::new("/run/netns/again"));
        node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    }
}

/// ADD with addresses asked for by name.
fn add_with(node: &Node, name: &str, addrs: &[IpAddr]) -> Vec<IpAddr> {
    let path = PathBuf::from("/run/netns").join(name);
    Netns::create().unwrap().bind(&path).unwrap();
    let mut config = node.cni_config("net");
    config["runtimeConfig"] = json!({"ips": addrs});
    let (exit, answer) = node.cni("ADD", name, &path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let ips = answer["ips"].as_array().unwrap();
    let bare =
        |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
    ips.iter().map(bare).collect()
}

#[test]
fn random_adds_and_dels_with_kills_leak_nothing() {
    let present = random_with_kills(&cluster(1, "veth", "host-gw"), 10_000, pod_links);
    assert!(present > 0);
}

/// Twenty pods come and go; the agent dies at random places. Returns how many are there at the end.
pub fn random_with_kills(cluster: &Site, operations: u32, links: impl Fn(&Node) -> usize) -> usize {
    let node = &cluster.nodes[0];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut roll = |sides| dice.roll(sides);
    let namespaces: Vec<_> = (0..20).map(|n| namespace(&format!("r{n}"))).collect();
    let mut present = BTreeSet::new();
    let points: Vec<&str> = ADD_FAULTS.into_iter().chain(DEL_FAULTS).collect();
    let mut kills = 0u32;
    for operation in 0..operations {
        if operation % 250 == 249 {
            kills += 1;
            node.kill().unwrap();
            let point = points[usize::try_from(roll(points.len() as u64)).unwrap()];
            let env = if roll(2) == 0 { fault(point) } else { Vec::new() };
            node.start(&env).unwrap();
        }
        let n = usize::try_from(roll(20)).unwrap();
        let (name, path) = (format!("r{n}"), &namespaces[n].1);
        let verb = if present.contains(&n) { "DEL" } else { "ADD" };
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(1);
        let mut done = node.cni(verb, &name, path, &config, &[]).unwrap();
        if done.0 != 0 {
            // It died of its fault: the runtime calls again, once there is an agent.
            node.kill().unwrap();
            node.start(&[]).unwrap();
            config["agentWait"] = json!(20);
            done = node.cni(verb, &name, path, &config, &[]).unwrap();
        }
        assert_eq!(done.0, 0, "{verb} {name}, operation {operation}: {}", done.1);
        if verb == "ADD" {
            present.insert(n)
        } else {
            present.remove(&n)
        };
    }
    assert!(kills >= operations / 333);
    node.wait_until("settled", |node| Ok(node.status()?["pods"] == present.len())).unwrap();
    assert_eq!(leases(node).len(), 2 * present.len(), "0 leaks, 0 duplicates");
    empty_plan(node);
    assert_eq!(links(node), present.len());
    present.len()
}
