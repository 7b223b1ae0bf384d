//! One ADD that attaches a pod to several networks: all or nothing, by one DEL gone, repaired
//! wherever the agent was killed.

use crate::{
    dhcp,
    kill::{ADD_FAULTS, DEL_FAULTS, fault, restart},
    lan::{lan, links_inside},
    story::*,
};

/// Networks `net` (routed), `blue` (bridge) and, where the nodes have a second switch, `lan` (macvlan).
fn networks(plan: &Plan) -> Site {
    let site = cluster_of(plan, "veth", "vxlan");
    site.apply("blue", &site.network("bridge", "host-gw", 2)).unwrap();
    site.settled("blue", "host-gw").unwrap();
    if plan.lan {
        let attach = json!({"kind": "macvlan", "parent": "eth1", "mode": "bridge"});
        site.apply("lan", &site.lan_network(&attach)).unwrap();
        site.settled("lan", "underlay").unwrap();
    }
    site
}

/// ADD for `net` and further ones, in a namespace of the name, which stays until the story ends.
fn add(node: &Node, name: &str, networks: &Value) -> (i32, Value) {
    let path = PathBuf::from("/run/netns").join(name);
    if !path.exists() {
        Netns::create().unwrap().bind(&path).unwrap();
    }
    node.cni("ADD", name, &path, &config(node, networks), &[]).unwrap()
}

fn config(node: &Node, networks: &Value) -> Value {
    let mut config = node.cni_config("net");
    config["networks"] = networks.clone();
    config
}

fn added(node: &Node, name: &str, networks: &Value) -> (Netns, Value) {
    let (exit, answer) = add(node, name, networks);
    assert_eq!(exit, 0, "{answer}");
    (Netns::open(&Path::new("/run/netns").join(name)).unwrap(), answer)
}

fn call(node: &Node, verb: &str, name: &str, config: &Value) -> (i32, Value) {
    node.cni(verb, name, &Path::new("/run/netns").join(name), config, &[]).unwrap()
}

fn delete(node: &Node, name: &str) {
    let (exit, answer) = call(node, "DEL", name, &node.cni_config("net"));
    assert_eq!(exit, 0, "{answer}");
}

/// An address of the node's block of `blue`, and the router there.
fn in_blue(node: &Node) -> (String, String) {
    let (pod, _) = added(node, "probe", &json!("blue"));
    let has = addrs_of(&pod, "net1").into_iter().find(IpAddr::is_ipv4).unwrap().to_string();
    let block = has.rsplit_once('.').unwrap().0.to_owned();
    delete(node, "probe");
    node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    (format!("{block}.99"), format!("{block}.1"))
}

fn all_gone(node: &Node) {
    nothing_left(node);
    assert_eq!(links_inside(node), 0);
    assert!(leases(node).is_empty());
}

/// Names of the interfaces that are up, in the order in which they were made.
fn interfaces(netns: &Netns) -> Vec<String> {
    let lines = sh(netns, "ip -o link show up");
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    lines.lines().filter_map(name).filter(|name| name != "lo").collect()
}

fn addrs_of(netns: &Netns, dev: &str) -> Vec<IpAddr> {
    let lines = sh(netns, &format!("ip -o addr show dev {dev} scope global"));
    let addr = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    lines.lines().filter_map(addr).collect()
}

#[test]
fn one_add_attaches_a_pod_to_several_networks_and_one_del_takes_all() {
    let site = networks(&lan(2));
    let (here, there) = (&site.nodes[0], &site.nodes[1]);
    let list = json!("blue, lan@phys");
    let (pod, answer) = added(here, "a", &list);
    let (peer, _) = added(there, "b", &list);
    assert_eq!(interfaces(&pod), ["eth0", "net1", "phys"]);
    // The runtime is told of what it asked for, whose addresses it takes for the pod's.
    let told = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let told: Vec<String> = answer["ips"].as_array().unwrap().iter().map(told).collect();
    let has: Vec<String> = addrs_of(&pod, "eth0").iter().map(ToString::to_string).collect();
    assert_eq!(told, has, "{answer}");
    let routes = sh(&pod, "ip route");
    assert!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
    for dev in ["net1", "phys"] {
        assert!(!routes.contains(&format!("default via .* dev {dev}")), "{routes}");
    }
    // They are the pod's ways to all three networks.
    let devs = ["eth0", "net1", "phys"];
    let addrs = devs.iter().flat_map(|dev| addrs_of(&peer, dev)).collect();
    let path = PathBuf::from("/run/netns/b");
    let (name, network) = ("b".into(), "net".into());
    let peer = Pod { name, node: there.name.clone(), netns: peer, path, addrs, network };
    let echo = Responder::start(&peer).unwrap();
    for addr in &peer.addrs {
        let by = sh(&pod, &format!("ip -o route get {addr}"));
        until(&format!("answered by {by}"), || reach(&pod, *addr).is_some());
    }
    drop(echo);
    assert_eq!(leases(here).len(), 6);
    empty_plan(here);
    delete(there, "b");
    // ADD again finds it done, CHECK finds it whole, and says what is not.
    assert_eq!(added(here, "a", &list).1["ips"], answer["ips"]);
    let mut check = config(here, &list);
    check["prevResult"] = answer;
    assert_eq!(call(here, "CHECK", "a", &check).0, 0);
    sh(&pod, "ip route flush dev net1");
    let (exit, said) = call(here, "CHECK", "a", &check);
    assert!(exit != 0 && said["details"].to_string().contains("net1"), "{said}");
    assert_eq!(added(here, "a", &list).0.cookie().unwrap(), pod.cookie().unwrap());
    assert_eq!(call(here, "CHECK", "a", &check).0, 0, "ADD again has repaired it");
    delete(here, "a");
    site.nodes.iter().for_each(all_gone);
}

/// Who is on the segment asks for the pod's other addresses by nodes, and is answered by the segment: there the
/// pod asks for its neighbour under none of the segment's addresses.
#[test]
fn a_pod_that_is_also_on_a_segment_answers_there_for_its_other_addresses() {
    let site = cluster_of(&plan(2), "veth", "vxlan");
    for (name, join, number) in [("blue", "host-gw", 2), ("seg", "vxlan-bridged", 3)] {
        site.apply(name, &site.network("bridge", join, number)).unwrap();
        site.settled(name, join).unwrap();
    }
    let (here, there) = (&site.nodes[0], &site.nodes[1]);
    let (netns, _) = added(here, "both", &json!("seg, blue"));
    let addrs: Vec<_> =
        ["eth0", "net1", "net2"].iter().flat_map(|dev| addrs_of(&netns, dev)).collect();
    assert_eq!(addrs.len(), 6);
    let path = PathBuf::from("/run/netns/both");
    let (name, network) = ("both".into(), "net".into());
    let both = Pod { name, node: here.name.clone(), netns, path, addrs, network };
    let _echo = Responder::start(&both).unwrap();
    for (asks, network) in [("far", "seg"), ("near", "blue")] {
        let node = if asks == "far" { there } else { here };
        let asker = node.add_pod(asks, network).unwrap();
        for addr in &both.addrs {
            until(&format!("{asks} reaches {addr}"), || {
                // Each time as if nothing was known of anybody.
                sh(&both.netns, "ip -6 neigh flush all");
                reach(&asker.netns, *addr).is_some()
            });
        }
        empty_plan(node);
    }
    empty_plan(here);
}

#[test]
fn garbage_is_what_the_runtime_does_not_name_and_further_networks_go_with_the_first() {
    let site = networks(&plan(1));
    let node = &site.nodes[0];
    for name in ["a", "b"] {
        added(node, name, &json!(["blue"].map(|name| json!({"name": name}))));
    }
    assert_eq!(pods(node).len(), 4);
    let mut gc = node.cni_config("net");
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert_eq!(call(node, "GC", "", &gc).0, 0);
    node.wait_until("collected", |node| Ok(node.status()?["pods"] == 2)).unwrap();
    assert!(pods(node).iter().all(|pod| pod["container"] == "a"), "{:?}", pods(node));
    gc["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(call(node, "GC", "", &gc).0, 0);
    all_gone(node);
}

#[test]
fn a_network_that_fails_takes_the_whole_add_back() {
    let site = networks(&lan(1));
    let node = &site.nodes[0];
    let (addr, _) = in_blue(node);
    added(node, "holder", &json!([{"name": "blue", "ips": [addr]}]));
    let bad = [
        (json!("blue, nowhere"), "further network nowhere as net2: there is no network nowhere"),
        (json!("blue@eth0"), "the list of further networks is not right"),
        (json!("lan, other/blue"), "invalid network configuration"),
        (
            json!([{"name": "blue", "ips": ["10.2.0.9"]}]),
            "further network blue as net1: no address",
        ),
        (
            json!([{"name": "lan"}, {"name": "blue", "default-route": ["10.2.0.77"]}]),
            "further network blue as net2: the default route can't be as it is asked for",
        ),
        (
            json!([{"name": "blue"}, {"name": "lan", "interface": "net1"}]),
            "the list of further networks is not right",
        ),
    ];
    for (networks, said) in bad {
        let (exit, answer) = add(node, "p", &networks);
        assert!(exit != 0 && answer["msg"].as_str().unwrap().starts_with(said), "{answer}");
        node.wait_until("taken back", |node| Ok(node.status()?["pods"] == 2)).unwrap();
        empty_plan(node);
        let netns = Netns::open(Path::new("/run/netns/p")).unwrap();
        assert!(interfaces(&netns).is_empty(), "{networks}");
    }
    // What somebody else made in the way is left to him.
    let netns = Netns::open(Path::new("/run/netns/p")).unwrap();
    sh(&netns, "ip link add net2 type bridge");
    let (exit, answer) = add(node, "p", &json!("blue, lan"));
    assert!(exit != 0 && answer["msg"].as_str().unwrap().contains("lan as net2"), "{answer}");
    node.wait_until("taken back", |node| Ok(node.status()?["pods"] == 2)).unwrap();
    assert!(sh(&netns, "ip -o link show dev net2").contains("net2"));
    delete(node, "holder");
    all_gone(node);
}

#[test]
fn what_is_asked_of_a_further_network_is_given() {
    let site = networks(&Plan { families: Families::Dual, ..lan(1) });
    let node = &site.nodes[0];
    let (addr, router) = in_blue(node);
    let list = json!([
        {"name": "blue", "ips": [format!("{addr}/16")], "mac": "02:00:00:00:00:99", "interface": "data",
         "default-route": [router]},
        {"name": "lan"},
    ]);
    let (pod, _) = added(node, "a", &list);
    assert_eq!(interfaces(&pod), ["eth0", "data", "net2"]);
    assert!(addrs_of(&pod, "data").contains(&addr.parse().unwrap()));
    assert!(sh(&pod, "ip -o link show dev data").contains("02:00:00:00:00:99"));
    // The family of the router, and no other.
    let (four, six) = (sh(&pod, "ip route show default"), sh(&pod, "ip -6 route show default"));
    assert!(four.contains("dev data") && !four.contains("dev eth0"), "{four}");
    assert!(six.contains("dev eth0") && !six.contains("dev data"), "{six}");
    delete(node, "a");
    all_gone(node);
}

#[test]
fn killed_at_every_step_of_an_add_of_three_networks() {
    let site = networks(&lan(1));
    let node = &site.nodes[0];
    let list = json!("blue, lan");
    for point in ADD_FAULTS {
        for time in 1..=3 {
            // What guards others is written for a link outside the pod alone, and so on.
            let point = format!("{point}#{time}");
            restart(node, &fault(&point));
            std::thread::scope(|scope| {
                let adding = scope.spawn(|| added(node, "waiter", &list));
                node.wait_for_death().unwrap();
                node.start(&[]).unwrap();
                let (pod, _) = adding.join().unwrap();
                assert_eq!(interfaces(&pod), ["eth0", "net1", "net2"], "{point}");
            });
            assert_eq!(leases(node).len(), 6, "{point}");
            empty_plan(node);
            delete(node, "waiter");
            node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
            // The runtime does not wait, and never calls again: nothing of its call is left.
            restart(node, &fault(&point));
            let (netns, path) = namespace("given-up");
            let mut config = config(node, &list);
            config["agentWait"] = json!(0);
            let (exit, answer) = node.cni("ADD", "given-up", &path, &config, &[]).unwrap();
            assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{point}: {answer}");
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            if point == "add.after-commit#3" {
                // It was attached: the runtime may not know, and says DEL.
                delete(node, "given-up");
            }
            all_gone(node);
            assert!(interfaces(&netns).is_empty(), "{point}");
            forget(&path);
        }
    }
}

#[test]
fn killed_at_every_step_of_a_del_of_three_networks() {
    let site = networks(&lan(1));
    let node = &site.nodes[0];
    for point in DEL_FAULTS.iter().take(3) {
        for time in 1..=3 {
            let point = format!("{point}#{time}");
            restart(node, &fault(&point));
            let (pod, _) = added(node, "doomed", &json!("blue, lan"));
            let mut config = node.cni_config("net");
            config["agentWait"] = json!(0);
            assert_ne!(call(node, "DEL", "doomed", &config).0, 0, "{point}");
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            // As runtimes do.
            delete(node, "doomed");
            all_gone(node);
            assert_eq!(interfaces(&pod), [""; 0], "{point}: {}", sh(&pod, "ip -d link"));
        }
    }
}

#[test]
fn while_one_network_is_asked_for_an_address_the_others_are_left_alone() {
    let (site, _server) = dhcp::served(1, "bridge");
    let node = &site.nodes[0];
    // `net` is the physical network here, and the first of each pod is another.
    site.apply("routed", &site.network("veth", "vxlan", 3)).unwrap();
    node.wait_until("serving", |node| Ok(!node.status()?["networks"]["routed"].is_null())).unwrap();
    let mut config = node.cni_config("routed");
    config["networks"] = json!("net");
    for point in ["add.after-offer", "add.after-ack", "add.after-lease"] {
        restart(node, &fault(point));
        let (netns, path) = namespace("p");
        std::thread::scope(|scope| {
            let adding = scope.spawn(|| node.cni("ADD", "p", &path, &config, &[]).unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            // Rounds of the loop, while the answer is awaited.
            while !adding.is_finished() {
                let _ = node.plan();
            }
            let (exit, answer) = adding.join().unwrap();
            assert_eq!(exit, 0, "{point}: {answer}");
        });
        assert_eq!(interfaces(&netns)[..2], ["eth0", "net1"], "{point}");
        assert_eq!((addrs_of(&netns, "eth0").len(), addrs_of(&netns, "net1").len()), (1, 1));
        empty_plan(node);
        let (exit, answer) = node.cni("DEL", "p", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{answer}");
        nothing_left(node);
        forget(&path);
    }
}
