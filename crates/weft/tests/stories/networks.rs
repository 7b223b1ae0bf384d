//! Several networks, and the end of all: uninstall.

use crate::story::*;

#[test]
fn two_networks_at_once_and_a_pod_in_both() {
    let cluster = cluster(2, "veth", "vxlan");
    cluster.apply("blue", &cluster.network("bridge", "host-gw", 2)).unwrap();
    cluster.settled("blue", "host-gw").unwrap();
    let pods = cluster.add_pods("net", "").unwrap();
    let blues = cluster.add_pods("blue", "blue-").unwrap();
    let node = &cluster.nodes[0];
    // The first pod gets a second interface: routes to its network, not everything.
    let config = node.cni_config("blue");
    let second = [("CNI_IFNAME", "net1")];
    let (exit, answer) = node.cni("ADD", "a1", &pods[0].path, &config, &second).unwrap();
    assert_eq!(exit, 0, "{answer}");
    assert_eq!(answer["routes"][0]["dst"], "10.2.0.0/16", "{answer}");
    let routes = sh(&pods[0].netns, "ip route");
    assert!(
        routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("10.2.0.0/16 via"),
        "{routes}"
    );
    let _echo = responders(pods.iter().chain(&blues));
    assert!(reaches(&pods[0], &pods[1]) && reaches(&blues[0], &blues[1]));
    assert!(reaches(&pods[0], &blues[1]), "by its second interface");
    for (name, ifname) in [("a1", "net1"), ("a1", "eth0")] {
        let (exit, _) =
            node.cni("DEL", name, &pods[0].path, &config, &[("CNI_IFNAME", ifname)]).unwrap();
        assert_eq!(exit, 0);
    }
    empty_plan(node);
}

#[test]
fn a_network_is_not_deleted_under_the_pods_of_any_node() {
    let cluster = cluster(2, "veth", "vxlan");
    let (here, there) = (&cluster.nodes[0], &cluster.nodes[1]);
    let pod = there.add_pod("p", "net").unwrap();
    let delete = || here.ask("DELETE", "/v1/networks/net", None);
    let record = cluster.plan.dir.join("store/nodes/node-b");
    here.wait_until("told of the pod", |node| {
        let record = std::fs::read_to_string(&record)?;
        let revision: u64 = record.lines().next().unwrap_or_default().parse()?;
        let seen = node.status()?["store"]["revision"].as_u64();
        Ok(record.contains("\"pods\":true") && seen >= Some(revision))
    })
    .unwrap();
    let said = delete().unwrap_err().to_string();
    assert!(said.contains("network net has pods on node-b: delete them first"), "{said}");
    there.delete_pod(pod).unwrap();
    here.wait_until("told that it went", |_| Ok(delete().is_ok())).unwrap();
    for node in &cluster.nodes {
        node.wait_until("clean", |node| {
            let blocks = node.ask("GET", "/v1/ipam", None)?;
            Ok(node.plan()?.is_empty() && blocks == json!([]) && rig::is_clean(&node.netns)?)
        })
        .unwrap();
    }
}

#[test]
fn whoever_takes_new_pods_from_another_network_is_told() {
    let site = cluster(1, "veth", "vxlan");
    let node = &site.nodes[0];
    let put = |name: &str, number: u8, default: bool| {
        let mut network = site.network("veth", "vxlan", number);
        network["default"] = json!(default);
        node.ask("PUT", &format!("/v1/networks/{name}"), Some(network))
    };
    let has = |name: &str, default: bool| {
        until("seen", || {
            let networks = node.ask("GET", "/v1/networks", None).unwrap();
            networks[name].is_object() && (networks[name]["default"] == true) == default
        });
    };
    put("net", 1, false).unwrap();
    has("net", false);
    let note = put("blue", 2, false).unwrap()["note"].clone();
    assert!(note.as_str().unwrap().contains("are refused from now on"), "{note}");
    has("blue", false);
    assert_eq!(put("net", 1, true).unwrap()["note"], json!(null), "nobody had them");
    has("net", true);
    let said = put("blue", 2, true).unwrap_err().to_string();
    assert!(said.contains("default"), "one of a cluster: {said}");
    let pod = node.add_pod("a1", "net").unwrap();
    let explained = node.ask("GET", "/v1/explain?from=a1&to=a1", None).unwrap();
    assert!(
        explained["works"] == true && explained.to_string().contains("by dev lo"),
        "{explained}"
    );
    node.delete_pod(pod).unwrap();
}

#[test]
fn uninstall_leaves_the_node_as_it_was() {
    let cluster = built(&plan(1));
    let node = &cluster.nodes[0];
    rig::sysctl(&node.netns, "net/ipv4/conf/eth0/rp_filter", "1").unwrap();
    let look = || {
        sh(
            &node.netns,
            "ip -o link; ip -o addr; ip route; ip -6 route; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/eth0/rp_filter",
        )
    };
    let stable =
        |text: &str| text.lines().filter(|l| !l.contains("fe80")).collect::<Vec<_>>().join("\n");
    until("up", || sh(&node.netns, "ip -o link show eth0").contains("state UP"));
    let before = stable(&look());
    begin(&cluster, "bridge", "auto");
    cluster.settled("net", "auto").unwrap();
    let pod = node.add_pod("p", "net").unwrap();
    assert_ne!(stable(&look()), before);
    node.delete_pod(pod).unwrap();
    node.kill().unwrap();
    let said = uninstall(node);
    assert!(said.contains("the cluster's store stays: "), "{said}");
    assert_eq!(stable(&look()), before);
}

#[test]
fn a_name_that_is_used_again_for_another_kind_of_network_has_nothing_of_the_last() {
    let site = cluster(2, "bridge", "vxlan-bridged");
    let pairs = [
        ("veth", "vxlan"),
        ("bridge", "vxlan-bridged+multicast"),
        ("veth", "host-gw"),
        ("veth", "vxlan+multicast"),
        ("bridge", "vxlan-bridged"),
    ];
    for (attach, join) in pairs {
        let (pods, echo) = answering(&site);
        assert!(reaches(&pods[0], &pods[1]), "before {attach} × {join}");
        drop(echo);
        site.delete_pods(pods).unwrap();
        let deleted = || site.nodes[0].ask("DELETE", "/v1/networks/net", None).is_ok();
        until("deleted", deleted);
        // Refused as long as the node still sees the last one.
        until("taken", || site.apply("net", &site.network(attach, join, 1)).is_ok());
        site.settled("net", join).unwrap();
    }
}

#[test]
fn a_vlan_that_a_node_can_not_make_keeps_no_other_network_from_the_others() {
    let site = built(&Plan { lan: true, ..plan(2) });
    site.start().unwrap();
    for node in &site.nodes {
        sh(&node.netns, "ip link add weftv-eth1.100 type veth peer name stranger");
    }
    let attach = json!({"kind": "macvlan", "parent": "eth1", "vlan": 100});
    let lan = json!({"attach": attach, "join": "underlay", "ranges": ["10.78.0.0/24"]});
    site.apply("lan", &lan).unwrap();
    let node = &site.nodes[0];
    node.wait_until("saying it", |node| {
        Ok(node.status()?["problems"].to_string().contains("the kernel differs by"))
    })
    .unwrap();
    site.apply("net", &site.network("veth", "vxlan", 1)).unwrap();
    let (pods, _echo) = answering(&site);
    until("told", || reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    site.delete_pods(pods).unwrap();
}
