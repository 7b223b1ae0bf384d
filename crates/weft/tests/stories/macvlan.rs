//! Pods on the physical network itself, as children of a NIC (MACVLAN): who meets whom in which
//! mode, and what becomes of links that are in the pod's namespace alone.

use crate::{
    lan::{apart, full_size, introduce, lan, links_inside, mac, meet},
    story::*,
};

pub fn attach(mode: &str) -> Value {
    json!({"kind": "macvlan", "parent": "eth1", "mode": mode})
}

pub fn on_lan(plan: &Plan, mode: &str) -> Site {
    crate::lan::on_lan(plan, &attach(mode))
}

#[test]
fn macvlan_pods_meet_across_nodes_and_reach_the_networks_router() {
    let site = on_lan(&lan(2), "bridge");
    let (pods, _echo) = answering(&site);
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
    }
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

/// Article: MAC VLAN, bridge | a bridge on the physical port
/// Negative: another node's packet without the switch; siblings still meet then
#[test]
fn macvlan_bridge_pods_of_a_node_meet_directly() {
    let site = on_lan(&lan(2), "bridge");
    let (pods, _echo) = answering(&site);
    assert!(meet(&pods, "a1", "a2") && meet(&pods, "a1", "b1"));
    full_size(&pods[0], &pods[2]);
    full_size(&pods[0], &pods[1]);
    // Without the switch: the node's own pods still meet, others no more.
    sh(site.wire.lan().unwrap(), "ip link set node-a nomaster");
    assert!(meet(&pods, "a1", "a2"));
    assert!(apart(&pods, "a1", "b1"));
}

/// Article: MAC VLAN, VEPA | instances meet if the upstream switch supports hairpin
/// Negative: a sibling's packet, its address written down, without hairpin; arrives with it
#[test]
fn macvlan_vepa_pods_of_a_node_meet_only_through_a_switch_that_sends_back() {
    let site = on_lan(&lan(2), "vepa");
    let (pods, _echo) = answering(&site);
    introduce(&pods);
    assert!(apart(&pods, "a1", "a2"), "no switch sends back what came by a port");
    assert!(meet(&pods, "a1", "b1") && meet(&pods, "a2", "b2"));
    full_size(&pods[0], &pods[2]);
    site.wire.hairpin("node-a", true).unwrap();
    assert!(meet(&pods, "a1", "a2"));
    full_size(&pods[0], &pods[1]);
    site.wire.hairpin("node-a", false).unwrap();
    assert!(apart(&pods, "a1", "a2"));
}

/// Article: MAC VLAN, private | isolates instances on the same physical port
/// Negative: a sibling's packet, its address written down, behind a switch that sends back; arrives once weft's rule is deleted, and from another node
#[test]
fn macvlan_private_pods_of_a_node_never_meet_not_even_known_and_behind_a_hairpin() {
    let site = on_lan(&lan(2), "private");
    let (pods, _echo) = answering(&site);
    introduce(&pods);
    site.wire.hairpin("node-a", true).unwrap();
    assert!(apart(&pods, "a1", "a2"));
    assert!(meet(&pods, "a1", "b1") && meet(&pods, "a2", "b2"), "of two nodes they do");
    full_size(&pods[0], &pods[2]);
    // What keeps them apart is ours: the kernel alone does not.
    let node = &site.nodes[0];
    node.kill().unwrap();
    assert!(apart(&pods, "a1", "a2"), "it does not need the agent");
    sh(&node.netns, "nft delete table netdev weft");
    assert!(meet(&pods, "a1", "a2"));
    node.start(&[]).unwrap();
    site.settled("net", "underlay").unwrap();
    assert!(apart(&pods, "a1", "a2"));
    // Siblings come and go.
    let late = node.add_pod("a3", "net").unwrap();
    let mut pods = pods;
    pods.push(late);
    introduce(&pods);
    let _echo = responders(pods.last());
    assert!(apart(&pods, "a1", "a3") && apart(&pods, "a2", "a3"));
    assert!(meet(&pods, "a3", "b1"));
    let guard = || sh(&node.netns, "nft list set netdev weft apart-eth1");
    let gone = pods.pop().unwrap();
    let gone_mac = mac(&gone.netns, "eth0");
    assert!(guard().contains(&gone_mac), "{}", guard());
    node.delete_pod(gone).unwrap();
    until("guarded from no more", || !guard().contains(&gone_mac));
    site.delete_pods(pods).unwrap();
    nothing_left(node);
    assert!(!sh(&node.netns, "nft list tables").contains("netdev"), "the last took it with it");
}

/// Article: MAC VLAN, passthru | one instance uses the physical NIC directly
/// Negative: a second pod is refused with the first one's name; served once that is gone
#[test]
fn macvlan_passthru_takes_the_whole_nic_and_a_second_pod_is_refused() {
    let site = on_lan(&Plan { pods: 1, ..lan(2) }, "passthru");
    let (pods, echo) = answering(&site);
    assert!(meet(&pods, "a1", "b1"));
    full_size(&pods[0], &pods[1]);
    assert_eq!(mac(&pods[0].netns, "eth0"), mac(&site.nodes[0].netns, "eth1"));
    let node = &site.nodes[0];
    let (second, path) = namespace("second");
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("ADD", "second", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    let said = answer["details"].as_str().unwrap();
    for word in ["network net", "eth1 whole to one pod, and lab/a1 has it", "use mode bridge"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!(sh(&second, "ip -o link").lines().count(), 1, "nothing is half made");
    assert_eq!(leases(node).len(), 2);
    // Once the first is gone, at once.
    drop(echo);
    let mut pods = pods;
    node.delete_pod(pods.remove(0)).unwrap();
    let (exit, answer) = node.cni("ADD", "second", &path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let _echo = responders(&pods);
    assert!(pods[0].addrs.iter().all(|addr| reach(&second, *addr).is_some()));
    assert_eq!(node.cni("DEL", "second", &path, &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

#[test]
fn killed_at_every_step_of_add_with_macvlan() {
    for mode in ["bridge", "private", "passthru"] {
        crate::kill::killed_in_add(&on_lan(&lan(1), mode), links_inside);
    }
}

#[test]
fn killed_at_every_step_of_del_with_macvlan() {
    for mode in ["bridge", "private", "passthru"] {
        crate::kill::killed_in_del(&on_lan(&lan(1), mode), links_inside);
    }
}

#[test]
fn random_adds_and_dels_of_macvlan_with_kills_leak_nothing() {
    let site = on_lan(&lan(1), "private");
    let present = crate::kill::random_with_kills(&site, 2_000, links_inside);
    let node = &site.nodes[0];
    assert!(present > 0);
    let guarded = sh(&node.netns, "nft list set netdev weft apart-eth1");
    let macs = guarded.split([' ', ',', '\n']).filter(|word| word.matches(':').count() == 5);
    assert_eq!(macs.count(), present, "{guarded}");
}

#[test]
fn a_network_on_the_physical_one_that_makes_no_sense_is_refused_by_name() {
    let site = built(&lan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    let put = |name: &str, network: Value| {
        node.ask("PUT", &format!("/v1/networks/{name}"), Some(network)).map_err(|e| e.to_string())
    };
    let ranges = json!(["10.77.0.0/24"]);
    let with =
        |attach: &Value, join: Value| json!({"attach": attach, "join": join, "ranges": ranges});
    let (bridge, underlay) = (attach("bridge"), json!("underlay"));
    let join = |more: Value| {
        let mut join = json!({"kind": "underlay"});
        more.as_object().unwrap().iter().for_each(|(k, v)| join[k] = v.clone());
        join
    };
    let cases = [
        (with(&json!("macvlan"), underlay.clone()), "missing field `parent`"),
        (with(&attach("brige"), underlay.clone()), "`private`, `vepa`, `bridge`, `passthru`"),
        (
            with(&json!({"kind": "macvlan", "parent": "eth1", "mod": "vepa"}), underlay.clone()),
            "attach.mod (known here: kind, mode, parent, vlan)",
        ),
        (with(&bridge, json!("vxlan")), "it goes with join underlay alone, not with vxlan"),
        (
            with(&json!("veth"), underlay.clone()),
            "goes with attach macvlan and ipvlan mode l2 alone, not with veth",
        ),
        (
            with(&json!("bridge"), underlay.clone()),
            "goes with attach macvlan and ipvlan mode l2 alone, not with bridge",
        ),
        (
            with(&bridge, join(json!({"gatway": []}))),
            "join.gatway (known here: addresses, exclude, gateway, kind, static, sticky)",
        ),
        (
            with(&bridge, join(json!({"gateway": ["10.78.0.1"]}))),
            "gateway 10.78.0.1 is in none of its ranges",
        ),
        (with(&bridge, join(json!({"gateway": ["10.77.0.1", "10.77.0.2"]}))), "two IPv4 gateways"),
        (with(&bridge, join(json!({"exclude": ["10.77.0.9/26"]}))), "write 10.77.0.0/26"),
        (
            with(&bridge, join(json!({"exclude": ["10.77.0.0/16"]}))),
            "10.77.0.0/24 has no address left",
        ),
    ];
    for (network, says) in cases {
        let said = put("blue", network.clone()).unwrap_err();
        assert!(said.contains(says), "{network}: {said}");
    }
    for (field, value) in [("masquerade", json!(true)), ("untracked", json!("always"))] {
        let mut network = with(&bridge, underlay.clone());
        network[field] = value;
        let said = put("blue", network).unwrap_err();
        assert!(said.contains(&format!("`{field}` has no meaning with join underlay")), "{said}");
    }
    // One parent for two networks: only where neither minds.
    put("a", with(&bridge, underlay.clone())).unwrap();
    node.wait_until("serving it", |node| Ok(!node.status()?["networks"]["a"].is_null())).unwrap();
    let second = |mode: &str| json!({"attach": attach(mode), "join": "underlay", "ranges": ["10.78.0.0/24"]});
    let said = put("b", second("private")).unwrap_err();
    assert!(
        said.contains("eth1 is network a's parent too: macvlan on eth1, mode private"),
        "{said}"
    );
    put("b", second("bridge")).unwrap();
    // The nodes' own network may be the pods' too.
    let own = json!({
        "attach": {"kind": "macvlan", "parent": "eth0"}, "join": "underlay", "ranges": ["192.0.2.0/24"],
    });
    put("own", own).unwrap();
}

/// ADD for a namespace of its own, which must fail and leave nothing. Returns what it said.
fn refused(node: &Node, code: u64) -> String {
    let (netns, path) = namespace("refused");
    let (exit, answer) = node.cni("ADD", "refused", &path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, answer["code"].as_u64()), (1, Some(code)), "{answer}");
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "nothing is half made: {answer}");
    forget(&path);
    nothing_left(node);
    format!("{}: {}", answer["msg"], answer["details"])
}

#[test]
fn a_parent_that_can_not_serve_is_said_with_what_to_do_and_nothing_is_half_made() {
    let site = on_lan(&lan(1), "bridge");
    let node = &site.nodes[0];
    let problem = |says: &str| {
        node.wait_until(says, |node| Ok(node.status()?["problems"].to_string().contains(says)))
            .unwrap();
    };
    let told = |code: u64, says: &str| {
        let said = refused(node, code);
        assert!(said.contains(says), "{said}");
    };
    sh(&node.netns, "ip link set eth1 down");
    told(11, "network net: its parent eth1 is down: `ip link set eth1 up`");
    problem("its parent eth1 is down");
    let (exit, answer) =
        node.cni("STATUS", "x", Path::new("/"), &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(50)), "{answer}");
    sh(&node.netns, "ip link set eth1 name other0");
    told(11, "this node has no device eth1, its parent");
    problem("no device eth1");
    sh(&node.netns, "ip link set other0 name eth1; ip link set eth1 up");
    // Another kind has it.
    sh(&node.netns, "ip link add br9 type bridge; ip link set eth1 master br9");
    told(101, "eth1 serves a bridge, a bond or other children");
    sh(&node.netns, "ip link set eth1 nomaster");
    sh(&node.netns, "ip link add stranger link eth1 type macvlan mode passthru");
    told(101, "eth1 is taken whole by a macvlan link in mode passthru");
    sh(&node.netns, "ip link del stranger");
    // What was wrong is right again, and said no more.
    let pod = node.add_pod("a1", "net").unwrap();
    node.wait_until("quiet", |node| {
        Ok(node.status()?["problems"].as_array().is_some_and(Vec::is_empty))
    })
    .unwrap();
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn a_kernel_that_lacks_a_kind_of_link_is_said_with_what_to_do() {
    let attach = json!({"kind": "ipvlan", "parent": "eth1"});
    let site = crate::lan::on_lan(&lan(1), &attach);
    if rig::has_kind("ipvlan").unwrap() {
        // Then it is no refusal.
        let pod = site.nodes[0].add_pod("a1", "net").unwrap();
        return site.nodes[0].delete_pod(pod).unwrap();
    }
    let said = refused(&site.nodes[0], 101);
    for word in ["kernel has no ipvlan", "modprobe ipvlan", "CONFIG_IPVLAN"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn addresses_of_a_shared_network_leave_out_what_is_others() {
    let site = built(&lan(2));
    // Hosts of the network: one of the nodes has an address on its NIC.
    sh(&site.nodes[1].netns, "ip addr add 10.77.0.6/28 dev eth1");
    site.start().unwrap();
    let mut network = site.lan_network(&attach("bridge"));
    network["ranges"] = json!(["10.77.0.0/28"]);
    network["join"] = json!({
        "kind": "underlay", "gateway": ["10.77.0.1"], "exclude": ["10.77.0.8/30", "10.77.0.5"],
    });
    network["blockPrefix4"] = json!(30);
    site.apply("net", &network).unwrap();
    for node in &site.nodes {
        node.wait_until("with a block", |node| {
            Ok(node.status()?["networks"]["net"]["blocks"]
                .as_array()
                .is_some_and(|b| !b.is_empty()))
        })
        .unwrap();
    }
    // What is asked for by name is not given either, once every node knows whose it is.
    for node in &site.nodes {
        let path = namespace(&format!("named-{}", node.name)).1;
        for kept in ["10.77.0.5", "10.77.0.6"] {
            let mut config = node.cni_config("net");
            config["runtimeConfig"] = json!({"ips": [kept]});
            until("kept", || {
                let (exit, answer) = node.cni("ADD", "named", &path, &config, &[]).unwrap();
                assert!(exit == 0 || answer["code"] == 7, "{answer}");
                node.cni("DEL", "named", &path, &config, &[]).unwrap();
                exit != 0
            });
        }
        forget(&path);
    }
    // .0 network, .1 router, .5 and .8 to .11 excluded, .6 a node's, .15 broadcast: 8 are left.
    let mut given = std::collections::BTreeSet::new();
    let mut pods = Vec::new();
    for n in 0..4 {
        let node = &site.nodes[n % 2];
        let (name, path) = (format!("p{n}"), namespace(&format!("p{n}")).1);
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(5);
        let (exit, answer) = node.cni("ADD", &name, &path, &config, &[]).unwrap();
        if exit == 0 {
            let addr = answer["ips"][0]["address"].as_str().unwrap().to_owned();
            assert!(addr.ends_with("/28"), "the range is on the link: {addr}");
            assert_eq!(answer["ips"][0]["gateway"], "10.77.0.1");
            assert!(given.insert(addr), "twice: {answer}");
            pods.push((n % 2, name, path));
        }
    }
    let want: Vec<String> = [2, 3, 4, 7, 12, 13, 14].map(|n| format!("10.77.0.{n}/28")).into();
    assert!(given.iter().all(|addr| want.contains(addr)), "{given:?}");
    assert!(given.len() >= 4, "{given:?}");
    let blocks = site.nodes[0].ask("GET", "/v1/ipam", None).unwrap().to_string();
    assert!(!blocks.contains("10.77.0.8/30"), "nobody claims what nobody may have: {blocks}");
    for (node, name, path) in pods {
        let node = &site.nodes[node];
        assert_eq!(node.cni("DEL", &name, &path, &node.cni_config("net"), &[]).unwrap().0, 0);
        forget(&path);
    }
    site.nodes.iter().for_each(nothing_left);
}

/// CHECK finds the pod as it was made.
pub fn checked(node: &Node, pod: &Pod) {
    let mut config = node.cni_config("net");
    let (exit, result) = node.cni("ADD", &pod.name, &pod.path, &config, &[]).unwrap();
    assert_eq!((exit, result["interfaces"].as_array().unwrap().len()), (0, 3), "{result}");
    config["prevResult"] = result;
    let (exit, answer) = node.cni("CHECK", &pod.name, &pod.path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
}

/// Deletes the node's second NIC; its pods' links go with it.
pub fn unplug(node: &Node) {
    sh(&node.netns, "ip link del eth1");
}

pub fn plug(site: &Site, node: &Node) {
    site.wire.plug_second(&node.netns, &node.name).unwrap();
}

#[test]
fn a_parent_that_goes_and_comes_back_has_its_pods_again() {
    for mode in ["bridge", "private", "passthru"] {
        let site = on_lan(&Plan { pods: 1, ..lan(2) }, mode);
        let (pods, _echo) = answering(&site);
        let node = &site.nodes[0];
        assert!(meet(&pods, "a1", "b1"), "{mode}");
        let addrs = || sh(&pods[0].netns, "ip -o addr show eth0 scope global | cut -d' ' -f4-7");
        let before = addrs();
        unplug(node);
        assert!(!sh(&pods[0].netns, "ip -o link").contains(": eth0"), "{mode}: it went");
        node.wait_until("saying it", |node| {
            Ok(node.status()?["problems"].to_string().contains("no device eth1"))
        })
        .unwrap();
        plug(&site, node);
        until(&format!("{mode}: there again"), || {
            sh(&pods[0].netns, "ip -o link").contains(": eth0@") && meet(&pods, "a1", "b1")
        });
        assert_eq!(addrs(), before, "{mode}");
        site.settled("net", "underlay").unwrap();
        checked(node, &pods[0]);
        assert_eq!(node.status().unwrap()["problems"], json!([]), "{mode}");
        site.delete_pods(pods).unwrap();
        nothing_left(node);
    }
}

#[test]
fn a_macvlan_link_that_somebody_deletes_is_made_again_in_less_than_a_second() {
    let site = on_lan(&lan(1), "bridge");
    let (pods, _echo) = answering(&site);
    assert!(meet(&pods, "a1", "a2"));
    for round in 0..3 {
        sh(&pods[0].netns, "ip link del eth0");
        let start = Instant::now();
        until("there again", || sh(&pods[0].netns, "ip -o addr").contains("eth0"));
        assert!(start.elapsed() < Duration::from_secs(1), "{round}: {:?}", start.elapsed());
        until("whole", || meet(&pods, "a1", "a2"));
    }
    empty_plan(&site.nodes[0]);
}

#[test]
fn a_macvlan_pod_whose_namespace_died_frees_its_address() {
    for mode in ["bridge", "private"] {
        let site = on_lan(&lan(1), mode);
        let node = &site.nodes[0];
        let pod = node.add_pod("a1", "net").unwrap();
        forget(&pod.path);
        drop(pod);
        let start = Instant::now();
        until("free", || pods(node).is_empty());
        assert!(start.elapsed() < Duration::from_secs(2), "{mode}: {:?}", start.elapsed());
        nothing_left(node);
        assert!(!sh(&node.netns, "nft list tables").contains("netdev"));
    }
}

#[test]
fn a_macvlan_pod_whose_namespace_has_lost_its_name_is_deleted_all_the_same() {
    let site = on_lan(&lan(1), "bridge");
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    forget(&pod.path);
    let config = node.cni_config("net");
    assert!(sh(&pod.netns, "ip -o link").contains("eth0"));
    assert_eq!(node.cni("DEL", "a1", Path::new(""), &config, &[]).unwrap().0, 0);
    assert!(!sh(&pod.netns, "ip -o link").contains(": eth0"), "a process may hold it still");
    nothing_left(node);
    // The same after a restart in between, and where nothing is left at all.
    let pod = node.add_pod("a2", "net").unwrap();
    node.kill().unwrap();
    forget(&pod.path);
    drop(pod);
    node.start(&[]).unwrap();
    assert_eq!(node.cni("DEL", "a2", Path::new(""), &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

#[test]
fn a_restarted_agent_knows_its_macvlan_pods_and_disturbs_none() {
    for mode in ["bridge", "private"] {
        let site = on_lan(&Plan { pods: 1, ..lan(2) }, mode);
        let (pods, _echo) = answering(&site);
        let flows = [(0, 1, true), (1, 0, false)]
            .map(|(a, b, v4)| Flow::start(FlowKind::Full, &pods[a], &pods[b], v4).unwrap());
        let node = &site.nodes[0];
        for _ in 0..3 {
            node.kill().unwrap();
            node.start(&[]).unwrap();
            node.wait_until("settled", |node| {
                Ok(node.status()?["converged"] == true && node.plan()?.is_empty())
            })
            .unwrap();
        }
        for flow in flows {
            let report = flow.stop();
            assert!(report.sent > 0 && report.lost == 0, "{mode}: {report:?}");
        }
        assert_eq!(leases(node).len(), 2);
        checked(node, &pods[0]);
        site.delete_pods(pods).unwrap();
        nothing_left(node);
    }
}

#[test]
fn gc_and_uninstall_end_macvlan_pods_and_leave_strangers() {
    let site = on_lan(&lan(1), "private");
    let node = &site.nodes[0];
    let pods = site.add_pods("net", "").unwrap();
    sh(&pods[0].netns, "ip link add theirs type bridge");
    let mut config = node.cni_config("net");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "a2", "ifname": "eth0"}]);
    assert_eq!(node.cni("GC", "", Path::new(""), &config, &[]).unwrap().0, 0);
    until("one is freed", || leases(node).len() == 2 && links_inside(node) == 1);
    assert!(sh(&pods[0].netns, "ip -o link").contains("theirs"));
    node.kill().unwrap();
    sh(&node.netns, "nft add table netdev other");
    uninstall(node);
    assert_eq!(links_inside(node), 0);
    let left = sh(&node.netns, "nft list tables; ip -o link");
    assert!(!left.contains("weft") && left.contains("netdev other"), "{left}");
}

#[test]
fn pods_of_a_physical_network_send_what_the_narrowest_parent_takes() {
    let site = on_lan(&Plan { pods: 1, ..lan(2) }, "bridge");
    let (pods, _echo) = answering(&site);
    let largest_is = |want: usize| {
        until(&format!("{want} both ways"), || {
            [(0, 1), (1, 0)].iter().all(|(from, to)| {
                let addrs = pods[*to].addrs.iter();
                addrs.copied().all(|addr| largest(&pods[*from].netns, addr) == Some(want))
            })
        });
    };
    largest_is(1500);
    sh(&site.nodes[1].netns, "ip link set eth1 mtu 1400");
    largest_is(1400);
    site.settled("net", "underlay").unwrap();
    sh(&site.nodes[1].netns, "ip link set eth1 mtu 1500");
    largest_is(1500);
    site.settled("net", "underlay").unwrap();
}

/// Article: MAC VLAN | no bridge and no NAT: pods are on the physical network directly
/// Negative: the node's address: the world sees the pod's own, and no rule of the node is about it
#[test]
fn the_router_of_a_physical_network_is_the_way_out() {
    let site = on_lan(&Plan { pods: 1, ..lan(1) }, "bridge");
    let pod = site.nodes[0].add_pod("a1", "net").unwrap();
    // The world knows the network: it is on it. The host's address would be seen if one translated.
    let heard =
        site.wire.world.run(|| std::net::UdpSocket::bind("203.0.113.1:7")).unwrap().unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let socket = pod.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(b"hello", "203.0.113.1:7").unwrap();
    let (_, from) = heard.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(Some(from.ip()), pod.addr(true), "by its own address");
    let routes = sh(&pod.netns, "ip route; ip -6 route; ip neigh show nud permanent");
    for word in ["default via 10.77.0.1 dev eth0", "default via fd00:77::1 dev eth0"] {
        assert!(routes.contains(word), "{word} is not in {routes}");
    }
    let rules = sh(&site.nodes[0].netns, "nft list table inet weft");
    assert!(!rules.contains("10.77.0.0"), "no rule of the node is about it: {rules}");
}

#[test]
fn a_packet_on_the_physical_network_is_explained() {
    let site = on_lan(&lan(2), "vepa");
    let pods = site.add_pods("net", "").unwrap();
    let node = &site.nodes[0];
    let explain = |to: &str| {
        node.ask("GET", &format!("/v1/explain?from=a1&to={to}"), None).unwrap().to_string()
    };
    let other = pods[2].addr(true).unwrap().to_string();
    let cases = [
        ("a2", "back only if its port sends back what came by it"),
        (&other, "of node node-b"),
        (&other, "eth0 is macvlan on eth1, mode vepa (mtu 1500)"),
        (&other, "the kernel agrees"),
        ("203.0.113.1", "by its router 10.77.0.1"),
        ("10.77.0.1", "a router's or excluded"),
    ];
    for (to, says) in cases {
        let text = explain(to);
        assert!(text.contains(says), "{to}: {says} is not in {text}");
    }
    let (way, why) = site.way("node-a", "node-b", "net", true).unwrap();
    assert_eq!(
        (way.as_str(), why.as_str()),
        ("underlay", "the physical network itself; no node is passed")
    );
    let status = node.status().unwrap();
    assert_eq!(status["networks"]["net"]["attach"], "macvlan on eth1, mode vepa");
    unplug(node);
    node.wait_until("noticing", |node| {
        Ok(node.ask("GET", "/v1/explain?from=a1&to=a2", None)?["works"] == false)
    })
    .unwrap();
}

/// How long until `to` answers, asked every millisecond.
pub fn first_answer(from: &Netns, to: IpAddr) -> Duration {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| std::net::UdpSocket::bind(any)).unwrap().unwrap();
    socket.connect((to, 7)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let _ = socket.send(b"there?");
        if socket.recv(&mut [0; 16]).is_ok() {
            return start.elapsed();
        }
    }
    panic!("{to} never answered");
}

#[test]
fn an_address_that_moves_to_another_pod_is_reached_at_once_by_who_knew_the_old_one() {
    let site = on_lan(&lan(2), "bridge");
    let (third, node) = (site.nodes[1].add_pod("third", "net").unwrap(), &site.nodes[0]);
    let mut old = node.add_pod("old-0", "net").unwrap();
    let addrs = old.addrs.clone();
    for round in 1..4 {
        let echo = responders([&old]);
        assert!(reaches(&third, &old));
        let knows = sh(&third.netns, "ip neigh show");
        let was = mac(&old.netns, "eth0");
        assert_eq!(knows.matches(&was).count(), 2, "it knows both: {knows}");
        drop(echo);
        node.delete_pod(old).unwrap();
        let name = format!("old-{round}");
        let path = PathBuf::from("/run/netns").join(&name);
        let netns = Netns::create().unwrap();
        netns.bind(&path).unwrap();
        let mut config = node.cni_config("net");
        config["runtimeConfig"] = json!({"ips": addrs});
        let (exit, answer) = node.cni("ADD", &name, &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{answer}");
        assert_ne!(mac(&netns, "eth0"), was, "another pod, another MAC");
        old = Pod {
            name,
            node: node.name.clone(),
            netns,
            path,
            addrs: addrs.clone(),
            network: "net".into(),
        };
        let _echo = responders([&old]);
        for addr in &addrs {
            let took = first_answer(&third.netns, *addr);
            assert!(took < Duration::from_millis(100), "round {round}: {addr} after {took:?}");
        }
    }
}

#[test]
fn a_second_interface_on_the_physical_network_beside_a_routed_first() {
    let site = built(&Plan { pods: 1, ..lan(2) });
    begin(&site, "veth", "vxlan");
    site.settled("net", "vxlan").unwrap();
    site.apply("lan", &site.lan_network(&attach("bridge"))).unwrap();
    site.settled("lan", "underlay").unwrap();
    let pods = site.add_pods("net", "").unwrap();
    let others = site.add_pods("lan", "lan-").unwrap();
    let node = &site.nodes[0];
    let (config, second) = (node.cni_config("lan"), [("CNI_IFNAME", "net1")]);
    let (exit, answer) = node.cni("ADD", "a1", &pods[0].path, &config, &second).unwrap();
    assert_eq!(exit, 0, "{answer}");
    assert_eq!(answer["interfaces"][0]["name"], "net1", "{answer}");
    assert_eq!(answer["routes"], json!([]), "its network is on the link, the first is the way out");
    let routes = sh(&pods[0].netns, "ip route");
    for word in ["default via 169.254.1.1 dev eth0", "10.77.0.0/24 dev net1"] {
        assert!(routes.contains(word), "{word} is not in {routes}");
    }
    let _echo = responders(pods.iter().chain(&others));
    assert!(reaches(&pods[0], &pods[1]), "by the first");
    assert!(reaches(&pods[0], &others[1]), "by the second, on the other node");
    assert!(reaches(&pods[0], &others[0]), "and on its own");
    // A pod of the routed network that is not on the physical one goes out as everything does.
    let rules = sh(&node.netns, "nft list table inet weft");
    assert!(rules.contains("10.1.0.0/16") && !rules.contains("10.77.0.0"), "{rules}");
    let (exit, _) = node.cni("DEL", "a1", &pods[0].path, &config, &second).unwrap();
    assert_eq!(exit, 0);
    assert!(reaches(&pods[0], &pods[1]), "the first stays");
    until("gone", || !sh(&pods[0].netns, "ip -o link").contains("net1"));
    empty_plan(node);
}

#[test]
fn pods_on_the_nodes_own_network_get_no_nodes_address_and_reach_the_other_node() {
    let site = built(&Plan { pods: 1, ..plan(2) });
    site.start().unwrap();
    let network = json!({
        "attach": {"kind": "macvlan", "parent": "eth0"},
        "join": {"kind": "underlay", "gateway": ["192.0.2.254"], "exclude": ["192.0.2.16/28"]},
        "ranges": ["192.0.2.0/27"],
    });
    // The router is outside so small a range.
    let put = |network: &Value| site.nodes[0].ask("PUT", "/v1/networks/net", Some(network.clone()));
    assert!(put(&network).unwrap_err().to_string().contains("in none of its ranges"));
    let mut network = network;
    network["ranges"] = json!(["192.0.2.0/24"]);
    network["join"]["exclude"] = json!(["192.0.2.16/28", "192.0.2.128/25"]);
    site.apply("net", &network).unwrap();
    for node in &site.nodes {
        node.wait_until("with a block", |node| {
            let blocks = node.status()?["networks"]["net"]["blocks"].clone();
            Ok(blocks.as_array().is_some_and(|blocks| !blocks.is_empty()))
        })
        .unwrap();
    }
    let pods = site.add_pods("net", "").unwrap();
    let nodes: Vec<IpAddr> = site.nodes.iter().map(|n| n.place.addrs[0].addr()).collect();
    assert!(pods.iter().all(|pod| !nodes.contains(&pod.addrs[0])), "{nodes:?}");
    let _echo = responders(&pods);
    assert!(meet(&pods, "a1", "b1"));
    // The other node itself answers, and the world beyond the router.
    let other = site.nodes[1].netns.run(|| std::net::UdpSocket::bind(("192.0.2.2", 9))).unwrap();
    let other = other.unwrap();
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let socket = pods[0].netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(b"hello", "192.0.2.2:9").unwrap();
    assert_eq!(other.recv_from(&mut [0; 8]).unwrap().1.ip(), pods[0].addrs[0]);
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

#[test]
fn a_second_attachment_of_the_same_interface_name_does_not_take_the_first() {
    let site = on_lan(&lan(1), "bridge");
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    let before = mac(&pod.netns, "eth0");
    let mut config = node.cni_config("net");
    config["name"] = json!("another");
    let (exit, answer) = node.cni("ADD", "a1", &pod.path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    assert!(answer["details"].to_string().contains("of this name already"), "{answer}");
    assert_eq!(mac(&pod.netns, "eth0"), before, "the first stays");
    until("only the first", || leases(node).len() == 2);
    // And a stranger's is left alone by ADD and DEL.
    let (netns, path) = namespace("theirs");
    sh(&netns, "ip link add eth0 type veth peer name other; ip link set eth0 up");
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("ADD", "theirs", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    assert_eq!(node.cni("DEL", "theirs", &path, &config, &[]).unwrap().0, 0);
    assert!(sh(&netns, "ip -o link show eth0").contains(",UP"), "up as it was");
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn what_a_router_advertises_is_not_taken_by_pods_of_either_family() {
    for families in [Families::V4, Families::Dual] {
        let site = on_lan(&Plan { families, ..lan(1) }, "bridge");
        let node = &site.nodes[0];
        let pod = node.add_pod("a1", "net").unwrap();
        let prefix = "prefix fd00:99::/64 { AdvOnLink on; AdvAutonomous on; };";
        let mut radvd = crate::advertised::start_radvd(&site, "lan", prefix);
        // A node that forwards hears none unless told to.
        sh(&node.netns, "sysctl -w net.ipv6.conf.eth1.accept_ra=2");
        // The NIC itself hears it, and takes an address and a way out.
        let inside = |netns: &Netns, dev: &str| {
            sh(netns, &format!("ip -6 -o addr show dev {dev}; ip -6 route show dev {dev}"))
        };
        until("advertised", || inside(&node.netns, "eth1").contains("fd00:99:"));
        let heard = inside(&pod.netns, "eth0");
        assert!(
            !heard.contains("fd00:99:") && !heard.contains("proto ra"),
            "{families:?}: {heard}"
        );
        // A pod that listens would have taken it.
        sh(
            &pod.netns,
            "sysctl -w net.ipv6.conf.eth0.accept_ra=1; ip link set eth0 addrgenmode eui64",
        );
        until("taken", || inside(&pod.netns, "eth0").contains("proto ra"));
        radvd.kill().unwrap();
        radvd.wait().unwrap();
        node.delete_pod(pod).unwrap();
        nothing_left(node);
    }
}

#[test]
fn a_link_with_the_same_mac_address_that_is_just_going_is_waited_for() {
    let site = on_lan(&lan(1), "bridge");
    let node = &site.nodes[0];
    let theirs = "ip link add theirs address 02:00:00:00:00:07 link eth1 type macvlan mode bridge
                  ip link set theirs up";
    sh(&node.netns, theirs);
    let (netns, path) = namespace("a1");
    let mut config = node.cni_config("net");
    config["runtimeConfig"] = json!({"mac": "02:00:00:00:00:07"});
    let (exit, answer) = node.cni("ADD", "a1", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    let says = "another link on eth1 has the MAC address 02:00:00:00:00:07";
    assert!(answer["details"].to_string().contains(says), "{answer}");
    let (exit, answer) = std::thread::scope(|scope| {
        let adding = scope.spawn(|| node.cni("ADD", "a1", &path, &config, &[]).unwrap());
        until("born", || sh(&netns, "ip -o link").contains("eth0@"));
        sh(&node.netns, "ip link del theirs");
        adding.join().unwrap()
    });
    assert_eq!(exit, 0, "{answer}");
    assert_eq!(mac(&netns, "eth0"), "02:00:00:00:00:07");
    assert!(sh(&netns, "ip -o route").contains("default via 10.77.0.1"), "whole");
    assert_eq!(node.cni("DEL", "a1", &path, &config, &[]).unwrap().0, 0);
    forget(&path);
    nothing_left(node);
}

#[test]
fn macvlan_passthru_does_not_take_the_node_its_way_to_the_others() {
    let site = built(&lan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    let attach = json!({"kind": "macvlan", "parent": "eth0", "mode": "passthru"});
    let network = json!({"attach": attach, "join": "underlay", "ranges": ["10.78.0.0/24"]});
    site.apply("net", &network).unwrap();
    let says = "mode passthru would take eth0, by which this node reaches the others";
    node.wait_until("saying it", |node| Ok(node.status()?["problems"].to_string().contains(says)))
        .unwrap();
    let (netns, path) = namespace("refused");
    let (exit, answer) = node.cni("ADD", "refused", &path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    assert!(answer["details"].to_string().contains(says), "{answer}");
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "nothing is half made");
    nothing_left(node);
}
