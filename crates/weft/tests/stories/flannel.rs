//! From Flannel to weft, node by node, by the commands of the guide. What Flannel leaves on a node is
//! made here as it makes it, in both families: devices, routes, neighbours, rules, a bridge.

use std::process::{Command, Stdio};

use crate::story::*;

const RANGE: &str = "10.244.0.0/16";
const RANGE6: &str = "fd00:10:244::/56";
/// Its blocks marked `sh` are run here as they stand.
const GUIDE: &str = include_str!("../../../../docs/migrate-from-flannel.md");

/// How Flannel is set up, and what weft joins the nodes by.
struct Flavour {
    mtu: u16,
    device: fn(usize) -> String,
    peer: fn(usize) -> String,
    rules: fn(usize) -> String,
    join: &'static str,
}

const VXLAN: Flavour =
    Flavour { mtu: 1450, device: tunnels, peer: through, rules: xtables, join: "vxlan" };
const HOST_GW: Flavour =
    Flavour { mtu: 1500, device: |_| String::new(), peer: beside, rules: nftables, join: "auto" };

/// What flanneld 0.28 and the bridge plugin below it put on node `me` of some, whose pods are in
/// 10.244.ME.0/24 and fd00:10:244:ME::/64.
fn flannel(site: &Site, me: usize, flavour: &Flavour) {
    let node = &site.nodes[me];
    let mut script = (flavour.device)(me);
    script += &format!(
        "ip link add cni0 type bridge
         ip link set cni0 mtu {mtu}
         ip addr add 10.244.{me}.1/24 dev cni0
         ip addr add fd00:10:244:{me}::1/64 dev cni0 nodad
         ip link set cni0 up
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ",
        mtu = flavour.mtu,
    );
    script += &(flavour.rules)(me);
    for peer in (0..site.nodes.len()).filter(|peer| *peer != me) {
        script += &(flavour.peer)(peer);
    }
    sh(&node.netns, &script);
}

/// Backend `vxlan`: VNI 1 and port 8472, a device a family.
fn tunnels(me: usize) -> String {
    let device = |name, family, mac: String, local: String, addr: String| {
        format!(
            "ip link add {name} address {mac} mtu 1450 type vxlan id 1 dev eth0 local {local} \
               dstport 8472 nolearning
             ip {family} addr add {addr} dev {name}
             ip link set {name} up
            "
        )
    };
    let (v4, v6) = (format!("10.244.{me}.0/32"), format!("fd00:10:244:{me}::/128 nodad"));
    device("flannel.1", "-4", vtep(4, me), underlay(me), v4)
        + &device("flannel-v6.1", "-6", vtep(6, me), underlay6(me), v6)
}

fn through(peer: usize) -> String {
    let way = |dev, family, mac: String, to: String, first: String, len: u8| {
        format!(
            "ip neigh replace {first} lladdr {mac} dev {dev} nud permanent
             bridge fdb replace {mac} dev {dev} dst {to}
             ip {family} route replace {first}/{len} via {first} dev {dev} onlink
            "
        )
    };
    let (v4, v6) = (format!("10.244.{peer}.0"), format!("fd00:10:244:{peer}::"));
    way("flannel.1", "-4", vtep(4, peer), underlay(peer), v4, 24)
        + &way("flannel-v6.1", "-6", vtep(6, peer), underlay6(peer), v6, 64)
}

/// Backend `host-gw`.
fn beside(peer: usize) -> String {
    let (v4, v6) = (underlay(peer), underlay6(peer));
    format!(
        "ip route replace 10.244.{peer}.0/24 via {v4} dev eth0
         ip -6 route replace fd00:10:244:{peer}::/64 via {v6} dev eth0
        "
    )
}

fn xtables(me: usize) -> String {
    let rules = |command, range: &str, own: String, multicast| {
        format!(
            "masq() {{ {command} -t nat -A FLANNEL-POSTRTG \"$@\"; }}
             fwd() {{ {command} -A FLANNEL-FWD \"$@\"; }}
             {command} -t nat -N FLANNEL-POSTRTG
             {command} -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
             masq -m mark --mark 0x4000/0x4000 -m comment --comment 'flanneld masq' -j RETURN
             masq -s {own} -d {range} -m comment --comment 'flanneld masq' -j RETURN
             masq -s {range} -d {own} -m comment --comment 'flanneld masq' -j RETURN
             masq ! -s {range} -d {own} -m comment --comment 'flanneld masq' -j RETURN
             masq -s {range} ! -d {multicast} -m comment --comment 'flanneld masq' \
               -j MASQUERADE --random-fully
             masq ! -s {range} -d {range} -m comment --comment 'flanneld masq' \
               -j MASQUERADE --random-fully
             {command} -N FLANNEL-FWD
             {command} -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
             fwd -s {range} -m comment --comment 'flanneld forward' -j ACCEPT
             fwd -d {range} -m comment --comment 'flanneld forward' -j ACCEPT
            "
        )
    };
    rules("iptables", RANGE, format!("10.244.{me}.0/24"), "224.0.0.0/4")
        + &rules("ip6tables", RANGE6, format!("fd00:10:244:{me}::/64"), "ff00::/8")
}

/// What `EnableNFTables` makes instead.
fn nftables(me: usize) -> String {
    let rules = |family, table, range: &str, own: String, multicast| {
        format!(
            "echo '
             table {family} {table} {{
               chain forward {{
                 type filter hook forward priority filter;
                 {family} saddr {range} accept
                 {family} daddr {range} accept
               }}
               chain postrtg {{
                 type nat hook postrouting priority srcnat;
                 meta mark 0x4000 return
                 {family} saddr {own} {family} daddr {range} return
                 {family} saddr {range} {family} daddr {own} return
                 {family} saddr != {own} {family} daddr {range} return
                 {family} saddr {range} {family} daddr != {multicast} masquerade fully-random
                 {family} saddr != {range} {family} daddr {range} masquerade fully-random
               }}
             }}' | nft -f -
            "
        )
    };
    rules("ip", "flannel-ipv4", RANGE, format!("10.244.{me}.0/24"), "224.0.0.0/4")
        + &rules("ip6", "flannel-ipv6", RANGE6, format!("fd00:10:244:{me}::/64"), "ff00::/8")
}

fn vtep(family: u8, node: usize) -> String {
    format!("0a:f1:a2:00:0{family}:0{node}")
}
fn underlay(node: usize) -> String {
    format!("192.0.2.{}", node + 1)
}
fn underlay6(node: usize) -> String {
    format!("2001:db8:1::{:x}", node + 1)
}

/// A pod as the bridge plugin below Flannel's attaches it.
fn flannel_pod(site: &Site, me: usize, mtu: u16) -> Pod {
    let (name, v4) = (format!("flannel{me}"), format!("10.244.{me}.9"));
    let v6 = format!("fd00:10:244:{me}::9");
    let (netns, path) = namespace(&name);
    let node = &site.nodes[me];
    sh(
        &node.netns,
        &format!(
            "ip link add veth9 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}
             ip link set veth9 master cni0 up"
        ),
    );
    sh(
        &netns,
        &format!(
            "ip link set lo up; ip link set eth0 up
             ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0 nodad
             ip route add default via 10.244.{me}.1; ip route add default via fd00:10:244:{me}::1"
        ),
    );
    let addrs = [v4, v6].map(|addr| addr.parse().unwrap()).to_vec();
    Pod { name, node: node.name.clone(), netns, path, addrs, network: "flannel".into() }
}

/// What is left of Flannel when its daemon is gone, and does no harm until all nodes are moved.
fn routes_of_flannel(node: &Node) -> String {
    let routes =
        |family, range| sh(&node.netns, &format!("ip {family} route show root {range} proto boot"));
    routes("-4", RANGE) + &routes("-6", RANGE6)
}

/// The guide's block `nth` on a node, where some of what it names may not be.
fn follow(node: &Node, nth: usize) {
    let block = GUIDE.split("```sh\n").nth(nth + 1).unwrap().split("```").next().unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", block]).stderr(Stdio::null());
    node.netns.run(|| shell.status().unwrap()).unwrap();
}

fn left_of_flannel(node: &Node) -> String {
    let all = "ip -o link; iptables-save; ip6tables-save; nft list tables";
    let named = |line: &&str| ["flannel", "FLANNEL", "cni0"].iter().any(|name| line.contains(name));
    sh(&node.netns, all).lines().filter(named).collect()
}

fn migrate(site: &Site, me: usize, join: &str) {
    let node = &site.nodes[me];
    configure(node, |config| {
        config["blocks"] =
            json!({"net": [format!("10.244.{me}.0/24"), format!("fd00:10:244:{me}::/64")]});
    });
    node.start(&[]).unwrap();
    if me == 0 {
        let network =
            json!({"attach": "veth", "join": join, "ranges": [RANGE, RANGE6], "default": true});
        until("taken", || site.apply("net", &network).is_ok());
    }
    node.wait_until("served", |node| {
        let status = node.status()?;
        Ok(status["converged"] == true && status["networks"]["net"]["blocks"][1].is_string())
    })
    .unwrap();
}

fn all_reach(pods: &[&Pod]) {
    for from in pods {
        for to in pods {
            until(&format!("{} reaches {}", from.name, to.name), || reaches(from, to));
        }
    }
}

fn node_by_node(flavour: &Flavour) {
    let site = built(&plan(3));
    (0..3).for_each(|me| flannel(&site, me, flavour));
    let old: Vec<Pod> = (0..3).map(|me| flannel_pod(&site, me, flavour.mtu)).collect();
    let _echo = responders(&old);
    all_reach(&old.iter().collect::<Vec<_>>());

    // Each node is emptied (its old pod goes), then weft takes it over; the others' pods are Flannel's.
    let mut left: Vec<Pod> = old;
    let mut moved: Vec<Pod> = Vec::new();
    let mut echo = Vec::new();
    for me in 0..3 {
        let gone = left.remove(0);
        sh(&site.nodes[me].netns, "ip link del veth9");
        forget(&gone.path);
        migrate(&site, me, flavour.join);
        let pod = site.nodes[me].add_pod(&format!("weft{me}"), "net").unwrap();
        assert!(pod.addrs[0].to_string().starts_with(&format!("10.244.{me}.")), "its podCIDR");
        echo.push(Responder::start(&pod).unwrap());
        moved.push(pod);
        all_reach(&left.iter().chain(&moved).collect::<Vec<_>>());
    }
    for node in &site.nodes {
        node.wait_until("knowing both peers", |node| {
            Ok(node.status()?["networks"]["net"]["peers"] == 2)
        })
        .unwrap();
    }
    without_flannel(&site, &moved);
    all_reach(&moved.iter().collect::<Vec<_>>());
    site.nodes.iter().for_each(empty_plan);
}

/// Flannel's routes go first, everywhere, then all else that is its; what flows meanwhile arrives.
fn without_flannel(site: &Site, pods: &[Pod]) {
    let ways = [(0, 1), (1, 2), (2, 0)].into_iter().flat_map(|way| [(way, true), (way, false)]);
    let flows: Vec<Flow> = ways
        .map(|((a, b), ipv4)| Flow::start(FlowKind::Full, &pods[a], &pods[b], ipv4).unwrap())
        .collect();
    for node in &site.nodes {
        assert_eq!(routes_of_flannel(node).matches(" via ").count(), 4, "two peers, two families");
        follow(node, 0);
        assert_eq!(routes_of_flannel(node), "");
    }
    for node in &site.nodes {
        assert_ne!(left_of_flannel(node), "");
        follow(node, 1);
        assert_eq!(left_of_flannel(node), "");
    }
    let before: u64 = flows.iter().map(Flow::arrived).sum();
    until("flowing on", || flows.iter().map(Flow::arrived).sum::<u64>() > before + 3000);
    let mut all = Report::default();
    flows.into_iter().for_each(|flow| all += flow.stop());
    assert_eq!((all.lost, all.resets), (0, 0), "{all:?}");
}

#[test]
fn from_flannel_node_by_node_everybody_is_reached_and_no_packet_lost_at_the_end() {
    node_by_node(&VXLAN);
}

#[test]
fn from_flannel_node_by_node_with_its_host_gw_and_nftables() {
    node_by_node(&HOST_GW);
}
