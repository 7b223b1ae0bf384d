//! Pods that are children of a NIC and share its MAC address (IPVLAN). Told where the kernel has it:
//! in the virtual machine (`cargo xtask test`).

use std::net::SocketAddr;

use crate::{
    citizens::{SERVICES, all_serving, met, services_answer_in},
    dhcp::{meets_its_node, passes, served_by},
    kube_proxy::Mode,
    lan::{apart, full_size, introduce, lan, links_inside, mac, meet, on_lan},
    local::local_policy,
    services::{ENDPOINT, seen_at, serve, serve_at},
    story::*,
};

fn attach(mode: &str, flag: &str) -> Value {
    json!({"kind": "ipvlan", "parent": "eth1", "mode": mode, "flag": flag})
}

/// A network that the nodes route, on the NIC by which they reach each other.
fn routed(plan: &Plan, mode: &str, flag: &str) -> Site {
    let site = built(plan);
    site.start().unwrap();
    let mut network = site.network("veth", "host-gw", 1);
    network["attach"] = json!({"kind": "ipvlan", "parent": "eth0", "mode": mode, "flag": flag});
    site.apply("net", &network).unwrap();
    site.settled("net", "host-gw").unwrap();
    site
}

/// Article: IP VLAN, L2 | like MAC VLAN bridge, with one MAC address
/// Negative: another node's packet without the switch; siblings still meet then
#[test]
fn ipvlan_l2_pods_are_hosts_of_the_network_under_the_nics_one_address() {
    let site = on_lan(&lan(2), &attach("l2", "bridge"));
    let (pods, echo) = answering(&site);
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
    }
    full_size(&pods[0], &pods[1]);
    full_size(&pods[0], &pods[2]);
    let nic = mac(&site.nodes[0].netns, "eth1");
    assert_eq!([mac(&pods[0].netns, "eth0"), mac(&pods[1].netns, "eth0")], [nic.clone(), nic]);
    // Without the switch the node's own pods still meet, others no more.
    sh(site.wire.lan().unwrap(), "ip link set node-a nomaster");
    assert!(meet(&pods, "a1", "a2"));
    assert!(apart(&pods, "a1", "b1"));
    sh(site.wire.lan().unwrap(), "ip link set node-a master br0");
    drop(echo);
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

/// Article: IP VLAN, L2 private and VEPA | as MAC VLAN's
/// Negative: a sibling's packet, its address written down: private never, VEPA without hairpin; VEPA's arrives with it
#[test]
fn ipvlan_l2_pods_of_a_node_meet_as_the_flag_says_even_known_and_behind_a_hairpin() {
    // Without a switch that sends back, and with one.
    for (flag, met) in [("private", [false, false]), ("vepa", [false, true])] {
        let site = on_lan(&lan(2), &attach("l2", flag));
        let (pods, _echo) = answering(&site);
        introduce(&pods);
        for (back, met) in [false, true].into_iter().zip(met) {
            site.wire.hairpin("node-a", back).unwrap();
            assert_eq!(meet(&pods, "a1", "a2"), met, "{flag}, hairpin {back}");
            assert_eq!(apart(&pods, "a1", "a2"), !met, "{flag}, hairpin {back}");
        }
        site.wire.hairpin("node-a", false).unwrap();
        assert!(meet(&pods, "a1", "b1") && meet(&pods, "a2", "b2"), "{flag}: of two nodes");
    }
}

/// Article: IP VLAN, L3 | routes, without broadcast or multicast
/// Negative: another node's packet once the route is deleted; siblings still meet. No neighbour is ever asked for
#[test]
fn ipvlan_l3_pods_are_routed_by_their_nodes_and_ask_for_nobody() {
    for mode in ["l3", "l3s"] {
        let site = routed(&Plan { pods: 2, ..plan(2) }, mode, "bridge");
        let (pods, _echo) = answering(&site);
        for from in &pods {
            for to in pods.iter().filter(|to| to.name != from.name) {
                assert!(reaches(from, to), "{mode}: {} to {}", from.name, to.name);
            }
        }
        full_size(&pods[0], &pods[2]);
        assert_eq!(sh(&pods[0].netns, "ip neigh show dev eth0"), "", "no broadcast, no neighbour");
        // What carries them is the peer's route, which the store brought.
        let block = sh(&site.nodes[1].netns, "ip route show proto 119 type blackhole");
        let block = block.split_whitespace().nth(1).unwrap();
        sh(
            &site.nodes[0].netns,
            &format!("ip route show {block} | grep -q 'via 192.0.2.2 dev eth0'"),
        );
        let (said, _) = explained(&site.nodes[0], "a1", &pods[2].addrs[0].to_string());
        assert!(said.contains(&format!("mode {mode} bridge")) && said.contains("direct"), "{said}");
        site.nodes[0].kill().unwrap();
        for ip in ["ip", "ip -6"] {
            let each = format!("while read dst rest; do {ip} route del $dst proto 119; done");
            sh(&site.nodes[0].netns, &format!("{ip} route show proto 119 | grep via | {each}"));
        }
        assert!(apart(&pods, "a1", "b1"), "{mode}: without the route");
        assert!(meet(&pods, "a1", "a2"), "{mode}: no route is asked between siblings");
    }
}

fn explained(node: &Node, from: &str, to: &str) -> (String, bool) {
    let answer = node.ask("GET", &format!("/v1/explain?from={from}&to={to}"), None).unwrap();
    (answer.to_string(), answer["works"] == true)
}

/// Article: IP VLAN, L3 private | isolates instances on the same NIC
/// Negative: a sibling's packet; another node's arrives, and a sibling's with flag bridge
#[test]
fn ipvlan_l3_pods_of_a_node_are_kept_apart_by_the_flag() {
    for mode in ["l3", "l3s"] {
        let site = routed(&Plan { pods: 2, ..plan(2) }, mode, "private");
        let (pods, _echo) = answering(&site);
        assert!(apart(&pods, "a1", "a2"), "{mode}");
        assert!(meet(&pods, "a1", "b1"), "{mode}");
    }
}

#[test]
fn ipvlan_l3s_pods_leave_under_the_nodes_address_and_l3_pods_under_their_own() {
    for (mode, own) in [("l3s", false), ("l3", true)] {
        let site = routed(&plan(1), mode, "bridge");
        let (pods, _echo) = answering(&site);
        let addr = pods[0].addr(true).unwrap();
        if own {
            // The world knows the way back where the network is told of it.
            sh(&site.wire.world, &format!("ip route add {addr} via 192.0.2.1"));
        }
        let seen = seen_by(&site.wire.world, "203.0.113.1".parse().unwrap(), &pods[0]);
        assert_eq!(seen, if own { addr } else { "192.0.2.1".parse().unwrap() }, "{mode}");
    }
}

/// The address under which a pod's TCP connection is seen.
fn seen_by(server: &Netns, addr: IpAddr, pod: &Pod) -> IpAddr {
    let listener = server.run(|| std::net::TcpListener::bind((addr, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let patience = Duration::from_secs(10);
    let connect = || std::net::TcpStream::connect_timeout(&target, patience).unwrap();
    let _client = pod.netns.run(connect).unwrap();
    listener.accept().unwrap().1.ip()
}

#[test]
fn a_parent_has_children_of_one_kind_and_mode() {
    let site = on_lan(&Plan { pods: 1, ..lan(1) }, &attach("l2", "bridge"));
    let node = &site.nodes[0];
    let put = |attach: Value| {
        let network = json!({"attach": attach, "join": "underlay", "ranges": ["10.78.0.0/24"]});
        node.ask("PUT", "/v1/networks/b", Some(network)).map_err(|error| error.to_string())
    };
    for (attach, says) in [
        (json!({"kind": "macvlan", "parent": "eth1"}), "macvlan on eth1, mode bridge can't share"),
        (attach("l2", "private"), "ipvlan on eth1, mode l2 private can't share"),
    ] {
        let said = put(attach).unwrap_err();
        assert!(said.contains(says) && said.contains("ipvlan on eth1, mode l2 bridge"), "{said}");
    }
    // A stranger's macvlan.
    sh(&node.netns, "ip link add stranger link eth1 type macvlan mode bridge");
    let (netns, path) = namespace("refused");
    let (exit, answer) = node.cni("ADD", "refused", &path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
    assert!(answer["details"].to_string().contains("eth1 serves a bridge, a bond"), "{answer}");
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "nothing is half made");
    sh(&node.netns, "ip link del stranger");
    let pod = node.add_pod("a1", "net").unwrap();
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn killed_at_every_step_of_add_and_del_with_ipvlan() {
    crate::kill::killed_in_add(&on_lan(&lan(1), &attach("l2", "bridge")), links_inside);
    crate::kill::killed_in_del(&on_lan(&lan(1), &attach("l2", "bridge")), links_inside);
}

#[test]
fn an_ipvlan_link_is_made_again_and_follows_its_nics_address() {
    let site = on_lan(&lan(1), &attach("l2", "bridge"));
    let (pods, _echo) = answering(&site);
    let node = &site.nodes[0];
    sh(&pods[0].netns, "ip link del eth0");
    until("made again", || meet(&pods, "a1", "a2"));
    sh(&node.netns, "ip link set eth1 address 02:00:00:00:77:01");
    let with_it = |pod: &Value| pod["mac"] == "02:00:00:00:77:01";
    until("known by the new address", || crate::story::pods(node).iter().all(with_it));
    until("met under it", || meet(&pods, "a1", "a2"));
    empty_plan(node);
}

#[test]
fn ipvlan_pods_and_their_node_meet_in_every_mode() {
    for (mode, flag) in [("l2", "bridge"), ("l2", "private"), ("l3", "bridge"), ("l3s", "private")]
    {
        let site = if mode == "l2" {
            on_lan(&lan(2), &attach(mode, flag))
        } else {
            routed(&Plan { pods: 2, ..plan(2) }, mode, flag)
        };
        let pods = site.add_pods("net", "").unwrap();
        all_serving(&site, &pods);
        for pod in &pods {
            let node = site.nodes.iter().find(|node| node.name == pod.node).unwrap();
            assert_eq!(met(node, pod), Ok(()), "{mode} {flag}, {}", pod.name);
            let mut config = node.cni_config("net");
            let (_, result) = node.cni("ADD", &pod.name, &pod.path, &config, &[]).unwrap();
            config["prevResult"] = result;
            let (exit, answer) = node.cni("CHECK", &pod.name, &pod.path, &config, &[]).unwrap();
            assert_eq!(exit, 0, "{mode} {flag}: {answer}");
        }
        let (said, works) = explained(&site.nodes[0], "a1", "192.0.2.1");
        assert!(works && said.contains("192.0.2.1/32 via 169.254.1.1 dev weft-eth0"), "{said}");
        site.delete_pods(pods).unwrap();
        site.nodes.iter().for_each(nothing_left);
    }
}

/// Pods of the mode beside a routed network, which know of Services.
fn beside(site: &Site, mode: &str, flag: &str) -> Value {
    let mut network = match mode {
        "l2" => site.lan_network(&attach(mode, flag)),
        _ => site.network(&format!("ipvlan/{mode}/{flag}"), "host-gw", 2),
    };
    network["services"] = json!(SERVICES);
    network
}

#[test]
fn services_answer_ipvlan_pods_whoever_serves() {
    for flag in ["bridge", "vepa"] {
        services_answer_in(&lan(2), |site| beside(site, "l2", flag), flag);
    }
}

#[test]
fn services_answer_private_ipvlan_pods_but_by_no_sibling() {
    services_answer_in(&lan(2), |site| beside(site, "l2", "private"), "private");
}

#[test]
fn local_traffic_policy_serves_from_ipvlan_pods() {
    for (mode, join) in [("l2", "underlay"), ("l3", "host-gw")] {
        local_policy(|site| beside(site, mode, "bridge"), join, Mode::Nftables);
    }
}

#[test]
fn ipvlan_l3_pods_are_routed_by_bgp_too_and_their_join_changes_while_they_run() {
    let site = routed(&plan(2), "l3", "bridge");
    let pods = site.add_pods("net", "").unwrap();
    all_serving(&site, &pods);
    for join in ["bgp", "host-gw", "bgp"] {
        site.apply("net", &site.network("ipvlan/l3/bridge", join, 1)).unwrap();
        site.settled("net", join).unwrap();
        assert_eq!(unanswered(&pods[..1], &pods[1..]), [""; 0], "{join}");
        let (way, _) = site.way("node-a", "node-b", "net", true).unwrap();
        assert_eq!(way, if join == "bgp" { "bgp" } else { "direct" });
    }
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

/// Who of them gets no answer from whom.
fn unanswered(from: &[Pod], to: &[Pod]) -> Vec<String> {
    let mut unanswered = Vec::new();
    for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
        for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            let at = SocketAddr::new(to.addr(ipv4).unwrap(), ENDPOINT);
            if seen_at(&from.netns, at, tcp).is_none() {
                unanswered.push(format!("{} to {}, ipv4 {ipv4}, tcp {tcp}", from.name, to.name));
            }
        }
    }
    unanswered
}

#[test]
fn ipvlan_l3_pods_and_pods_of_other_networks_answer_each_other_on_all_nodes() {
    for mode in ["l3", "l3s"] {
        let site = routed(&Plan { lan: true, ..plan(2) }, mode, "bridge");
        site.apply("veth", &site.network("veth", "host-gw", 2)).unwrap();
        site.settled("veth", "host-gw").unwrap();
        let macvlan = json!({"kind": "macvlan", "parent": "eth1", "mode": "bridge"});
        site.apply("lan", &site.lan_network(&macvlan)).unwrap();
        site.settled("lan", "underlay").unwrap();
        let of = |network: &str, name: &str| {
            let pods = site.add_pods_of(1, network, name).unwrap();
            pods.iter().for_each(serve);
            pods
        };
        let (own, routed, lan) = (of("net", ""), of("veth", "r-"), of("lan", "m-"));
        let mut cut = Vec::new();
        cut.extend(unanswered(&own, &routed));
        cut.extend(unanswered(&routed, &own));
        cut.extend(unanswered(&lan, &own));
        cut.extend(unanswered(&lan, &routed));
        assert_eq!(cut, [""; 0], "{mode}");
    }
}

#[test]
fn ipvlan_pods_have_addresses_of_a_dhcp_server_though_they_share_a_mac_address() {
    let (site, server) = served_by(1, &attach("l2", "bridge"));
    let node = &site.nodes[0];
    serve_at(&node.netns, &[crate::citizens::address(node, true)]);
    let pods = ["a1", "a2", "a3"].map(|name| {
        let pod = node.add_pod(name, "net").unwrap();
        serve(&pod);
        assert_eq!(meets_its_node(node, &pod), Ok(()), "{name}");
        passes(&pod, &site);
        pod
    });
    assert_eq!(server.given().len(), 3, "{}", server.log());
    let nic = mac(&node.netns, "eth1");
    assert!(pods.iter().all(|pod| mac(&pod.netns, "eth0") == nic));
    // Renewed by unicast, which the parent hands to the pod that has the address.
    for pod in &pods {
        let renewed = || {
            let ack = format!("DHCPACK(eth0) {}", pod.addrs[0]);
            server.log().lines().filter(|line| line.contains(&ack)).count()
        };
        let before = renewed();
        until("renewed", || renewed() > before + 1);
    }
    assert_eq!(node.status().unwrap()["problems"], json!([]));
    pods.into_iter().for_each(|pod| node.delete_pod(pod).unwrap());
    until("given back", || server.given().is_empty());
    nothing_left(node);
}

#[test]
fn policies_hold_with_ipvlan() {
    crate::policies::policies_hold("ipvlan/l2/bridge", "underlay");
}

#[test]
fn policies_hold_with_ipvlan_routed_by_the_nodes() {
    crate::policies::policies_hold("ipvlan/l3/bridge", "host-gw");
}

#[test]
fn an_ipvlan_pod_is_denied_from_its_first_instruction() {
    crate::policies::denied_from_the_first_instruction("ipvlan/l2/bridge", "underlay");
}
