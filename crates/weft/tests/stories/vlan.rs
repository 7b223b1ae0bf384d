//! Pods on a VLAN of a NIC, whose device weft makes and removes. Told where the kernel has VLANs: in
//! the virtual machine (`cargo xtask test`).

use crate::{
    lan::{apart, introduce, lan, mac, meet, pair},
    story::*,
    strangers_lan::stranger,
};

fn on_vlan(vlan: u16, range: &str) -> Value {
    let attach = json!({"kind": "macvlan", "parent": "eth1", "vlan": vlan});
    json!({"attach": attach, "join": "underlay", "ranges": [range]})
}

/// Networks `red` and `pink` on one VLAN, `blue` on another of the same NIC.
fn two() -> Site {
    let site = built(&lan(2));
    site.start().unwrap();
    for (name, vlan, range) in
        [("red", 100, "10.78.0.0/24"), ("pink", 100, "10.80.0.0/24"), ("blue", 200, "10.79.0.0/24")]
    {
        site.apply(name, &on_vlan(vlan, range)).unwrap();
    }
    for name in ["red", "pink", "blue"] {
        for node in &site.nodes {
            node.wait_until(name, |node| {
                let network = &node.status()?["networks"][name];
                Ok(network["blocks"].as_array().is_some_and(|own| !own.is_empty())
                    && network["peers"] == 1)
            })
            .unwrap();
        }
    }
    site
}

/// Article: VLAN | physical networks are parted by VLANs
/// Negative: a packet to the other VLAN's pod, its MAC written down; arrives between two networks of one VLAN
#[test]
fn pods_of_two_vlans_of_one_nic_do_not_meet_though_they_know_each_other() {
    let site = two();
    let mut pods = Vec::new();
    for (name, network) in [("r", "red"), ("p", "pink"), ("b", "blue")] {
        pods.extend(site.add_pods_of(1, network, name).unwrap());
    }
    let _echo = responders(&pods);
    assert!(meet(&pods, "ra1", "rb1") && meet(&pods, "ba1", "bb1"));
    // Each knows the other, though they have no network in common: on one VLAN that is enough, and
    // on two it is not.
    for (pod, other) in [("ra1", "pb1"), ("pb1", "ra1"), ("ra1", "bb1"), ("bb1", "ra1")] {
        let (pod, other) = pair(&pods, pod, other);
        let (addr, mac) = (other.addr(true).unwrap(), mac(&other.netns, "eth0"));
        sh(&pod.netns, &format!("ip route add {addr} dev eth0"));
        sh(&pod.netns, &format!("ip neigh replace {addr} lladdr {mac} dev eth0 nud permanent"));
    }
    assert!(meet(&pods, "ra1", "pb1"));
    assert!(apart(&pods, "ra1", "bb1"));
    let tags = sh(&site.nodes[1].netns, "ip -d -o link show type vlan");
    assert!(tags.contains("weftv-eth1.100@eth1") && tags.contains("id 200"), "{tags}");
    site.delete_pods(pods).unwrap();
    for node in &site.nodes {
        nothing_left(node);
    }
}

#[test]
fn a_vlan_comes_and_goes_with_its_network_and_its_nic() {
    let site = two();
    let pods = site.add_pods_of(1, "red", "r").unwrap();
    let echo = responders(&pods);
    let node = &site.nodes[0];
    let vlans = |node: &Node| sh(&node.netns, "ip -o link show type vlan").lines().count();
    assert_eq!(vlans(node), 2);
    let rid_of = |name: &str| {
        let path = format!("/v1/networks/{name}");
        node.wait_until("rid of it", |node| node.ask("DELETE", &path, None).map(|_| true)).unwrap();
    };
    rid_of("blue");
    until("without blue's device", || vlans(node) == 1);
    // Its device is deleted, and the pods' links with it.
    sh(&node.netns, "ip link del weftv-eth1.100");
    until("back", || vlans(node) == 1 && meet(&pods, "ra1", "rb1"));
    // With no agent, too.
    node.kill().unwrap();
    sh(&node.netns, "ip link del weftv-eth1.100");
    node.start(&[]).unwrap();
    until("back again", || meet(&pods, "ra1", "rb1"));
    // The NIC is down: said, and mended by itself.
    sh(&node.netns, "ip link set eth1 down");
    node.wait_until("sorry", |node| {
        Ok(node.status()?["problems"].to_string().contains("its parent eth1 is down"))
    })
    .unwrap();
    sh(&node.netns, "ip link set eth1 up");
    until("up again", || meet(&pods, "ra1", "rb1"));
    drop(echo);
    site.delete_pods(pods).unwrap();
    rid_of("red");
    until("still there for pink", || vlans(node) == 1);
    rid_of("pink");
    for node in &site.nodes {
        nothing_left(node);
        until("without a VLAN", || vlans(node) == 0);
    }
}

#[test]
fn a_vlan_that_somebody_else_has_made_is_said_and_can_be_named() {
    let site = built(&lan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    sh(&node.netns, "ip link add theirs link eth1 type vlan id 100");
    sh(&node.netns, "ip link set theirs up");
    site.apply("red", &on_vlan(100, "10.78.0.0/24")).unwrap();
    node.wait_until("saying it", |node| {
        let problems = node.status()?["problems"].to_string();
        Ok(problems.contains("has another of this VLAN, name that"))
    })
    .unwrap();
    node.ask("DELETE", "/v1/networks/red", None).unwrap();
    let attach = json!({"kind": "macvlan", "parent": "theirs"});
    let network = json!({"attach": attach, "join": "underlay", "ranges": ["10.78.0.0/24"]});
    site.apply("pink", &network).unwrap();
    let pods = site.add_pods_of(1, "pink", "p").unwrap();
    site.delete_pods(pods).unwrap();
    assert!(sh(&node.netns, "ip -o link show type vlan").contains("theirs"));
}

/// The one network of a VLAN, served on every node.
fn red(site: &Site, mode: &str, host_access: bool) {
    let mut network = on_vlan(100, "10.77.0.0/24");
    (network["attach"]["mode"], network["hostAccess"]) = (json!(mode), json!(host_access));
    site.apply("red", &network).unwrap();
    for node in &site.nodes {
        node.wait_until("with a block", |node| {
            let own = &node.status()?["networks"]["red"]["blocks"];
            Ok(own.as_array().is_some_and(|own| !own.is_empty()))
        })
        .unwrap();
    }
}

#[test]
fn private_pods_of_a_vlan_never_meet_not_even_known_and_behind_a_hairpin() {
    let site = built(&Plan { families: Families::V4, ..lan(2) });
    site.start().unwrap();
    red(&site, "private", true);
    let pods = site.add_pods("red", "").unwrap();
    let _echo = responders(&pods);
    introduce(&pods);
    site.wire.hairpin("node-a", true).unwrap();
    assert!(apart(&pods, "a1", "a2") && meet(&pods, "a1", "b1"));
    let node = &site.nodes[0];
    node.kill().unwrap();
    sh(&node.netns, "nft delete table netdev weft");
    assert!(meet(&pods, "a1", "a2"), "it is the node's rule that keeps them");
}

#[test]
fn what_is_said_in_a_vlan_is_no_strangers_on_its_nic() {
    let site = built(&Plan { families: Families::V4, ..lan(2) });
    site.start().unwrap();
    // The same addresses on the NIC and on a VLAN of it: two networks that do not meet.
    let mut own = site.lan_network(&json!({"kind": "macvlan", "parent": "eth1"}));
    own["hostAccess"] = json!(false);
    own["join"] = json!("underlay");
    site.apply("own", &own).unwrap();
    red(&site, "bridge", false);
    let mut pods = site.add_pods_of(4, "own", "o-").unwrap();
    pods.extend(site.add_pods_of(2, "red", "r-").unwrap());
    let _echo = responders(&pods);
    assert!(meet(&pods, "o-a1", "o-b1") && meet(&pods, "r-a1", "r-b1"));
    let addr = |name: &str| pods.iter().find(|pod| pod.name == name).unwrap().addrs[0];
    assert_eq!(addr("o-a1"), addr("r-a1"), "the same, in two networks");
    // A host of the VLAN has an address that a pod on the NIC itself has, too, and says so.
    let (host, node) = (stranger(&site), &site.nodes[0]);
    sh(
        &host,
        &format!(
            "ip link add his link eth0 type vlan id 100; ip addr add {}/24 dev his
             echo 1 > /proc/sys/net/ipv4/conf/his/arp_notify; ip link set his up",
            addr("o-a4")
        ),
    );
    let conflict = |of: &str| format!("network {of}: conflict: ");
    let problems = || node.status().unwrap()["problems"].to_string();
    until("heard in the VLAN", || problems().contains(&conflict("red")));
    // What it hears later, it was told before.
    assert!(!problems().contains(&conflict("own")), "{}", problems());
}

#[test]
fn uninstall_takes_a_vlan_and_pods_on_it_away() {
    let site = built(&Plan { families: Families::V4, ..lan(1) });
    site.start().unwrap();
    red(&site, "private", true);
    let node = &site.nodes[0];
    let pods = site.add_pods("red", "").unwrap();
    node.kill().unwrap();
    uninstall(node);
    let left = sh(&node.netns, "ip -o link; ip route; nft list tables");
    assert!(!left.contains("weft"), "{left}");
    assert!(pods.iter().all(|pod| !sh(&pod.netns, "ip -o link").contains("eth0")));
}
