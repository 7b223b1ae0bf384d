//! From Flannel to weft, node by node. What Flannel leaves on a node is made here as it makes it: its
//! VXLAN (VNI 1, port 8472), routes by on-link gateways, a bridge per node, its address management.

use crate::story::*;

const RANGE: &str = "10.244.0.0/16";

/// What flanneld 0.2x with backend vxlan puts on node `me` of some, whose pods are in 10.244.ME.0/24.
fn flannel(site: &Site, me: usize) {
    let node = &site.nodes[me];
    sh(
        &node.netns,
        &format!(
            "ip link add flannel.1 type vxlan id 1 dev eth0 local {} dstport 8472 nolearning
             ip link set flannel.1 address {} mtu 1450
             ip addr add 10.244.{me}.0/32 dev flannel.1
             ip link set flannel.1 up
             ip link add cni0 type bridge
             ip link set cni0 mtu 1450
             ip addr add 10.244.{me}.1/24 dev cni0
             ip link set cni0 up
             echo 1 > /proc/sys/net/ipv4/ip_forward
             iptables -t nat -N FLANNEL-POSTRTG
             iptables -t nat -A POSTROUTING -j FLANNEL-POSTRTG
             iptables -t nat -A FLANNEL-POSTRTG -s 10.244.{me}.0/24 -d {RANGE} -j RETURN
             iptables -t nat -A FLANNEL-POSTRTG -s {RANGE} -d 10.244.{me}.0/24 -j RETURN
             iptables -t nat -A FLANNEL-POSTRTG ! -s {RANGE} -d 10.244.{me}.0/24 -j RETURN
             iptables -t nat -A FLANNEL-POSTRTG -s {RANGE} ! -d 224.0.0.0/4 -j MASQUERADE
             iptables -t nat -A FLANNEL-POSTRTG ! -s {RANGE} -d {RANGE} -j MASQUERADE",
            underlay(me),
            vtep(me),
        ),
    );
    for peer in (0..site.nodes.len()).filter(|peer| *peer != me) {
        sh(
            &node.netns,
            &format!(
                "ip neigh replace 10.244.{peer}.0 lladdr {mac} dev flannel.1 nud permanent
                 bridge fdb replace {mac} dev flannel.1 dst {addr}
                 ip route replace 10.244.{peer}.0/24 via 10.244.{peer}.0 dev flannel.1 onlink",
                mac = vtep(peer),
                addr = underlay(peer),
            ),
        );
    }
}

fn vtep(node: usize) -> String {
    format!("0a:f1:a2:00:00:0{node}")
}
fn underlay(node: usize) -> String {
    format!("192.0.2.{}", node + 1)
}

/// A pod as the bridge plugin below Flannel's attaches it.
fn flannel_pod(site: &Site, me: usize, host: u8) -> Pod {
    let (name, addr) = (format!("flannel{me}"), format!("10.244.{me}.{host}"));
    let (netns, path) = namespace(&name);
    let node = &site.nodes[me];
    sh(
        &node.netns,
        &format!(
            "ip link add veth{host} mtu 1450 type veth peer name eth0 mtu 1450 netns {name}
             ip link set veth{host} master cni0 up"
        ),
    );
    sh(
        &netns,
        &format!(
            "ip link set lo up; ip link set eth0 up; ip addr add {addr}/24 dev eth0
             ip route add default via 10.244.{me}.1"
        ),
    );
    let addrs = vec![addr.parse().unwrap()];
    Pod { name, node: node.name.clone(), netns, path, addrs, network: "flannel".into() }
}

/// What is left of Flannel when its daemon is gone, and does no harm until all nodes are moved.
fn routes_of_flannel(node: &Node) -> String {
    sh(&node.netns, "ip route show dev flannel.1")
}

fn migrate(site: &Site, me: usize) {
    let node = &site.nodes[me];
    configure(node, |config| {
        config["blocks"] = json!({"net": [format!("10.244.{me}.0/24")]});
    });
    node.start(&[]).unwrap();
    if me == 0 {
        let network =
            json!({"attach": "veth", "join": "vxlan", "ranges": [RANGE], "default": true});
        until("taken", || site.apply("net", &network).is_ok());
    }
    node.wait_until("served", |node| {
        let status = node.status()?;
        Ok(status["converged"] == true && status["networks"]["net"]["blocks"][0].is_string())
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

#[test]
fn from_flannel_node_by_node_everybody_is_reached_and_no_packet_lost_at_the_end() {
    let site = built(&plan(3));
    (0..3).for_each(|me| flannel(&site, me));
    let old: Vec<Pod> = (0..3).map(|me| flannel_pod(&site, me, 9)).collect();
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
        migrate(&site, me);
        let pod = site.nodes[me].add_pod(&format!("weft{me}"), "net").unwrap();
        assert!(pod.addrs[0].to_string().starts_with(&format!("10.244.{me}.")), "its podCIDR");
        echo.push(Responder::start(&pod).unwrap());
        moved.push(pod);
        all_reach(&left.iter().chain(&moved).collect::<Vec<_>>());
    }

    // All are weft's. Flannel's routes still carry the packets; they go first, everywhere, then its devices.
    let flows: Vec<Flow> = [(0, 1), (1, 2), (2, 0)]
        .into_iter()
        .map(|(a, b)| Flow::start(FlowKind::Full, &moved[a], &moved[b], true).unwrap())
        .collect();
    for node in &site.nodes {
        node.wait_until("knowing both peers", |node| {
            Ok(node.status()?["networks"]["net"]["peers"] == 2)
        })
        .unwrap();
        assert!(routes_of_flannel(node).contains("via"));
    }
    for node in &site.nodes {
        sh(
            &node.netns,
            "ip route show dev flannel.1 | while read route; do ip route del $route dev flannel.1; done",
        );
        assert_eq!(routes_of_flannel(node), "");
    }
    for node in &site.nodes {
        sh(
            &node.netns,
            "ip link del flannel.1; ip link del cni0
             iptables -t nat -D POSTROUTING -j FLANNEL-POSTRTG
             iptables -t nat -F FLANNEL-POSTRTG; iptables -t nat -X FLANNEL-POSTRTG",
        );
    }
    let before: u64 = flows.iter().map(Flow::arrived).sum();
    until("flowing on", || flows.iter().map(Flow::arrived).sum::<u64>() > before + 3000);
    let mut all = Report::default();
    flows.into_iter().for_each(|flow| all += flow.stop());
    assert_eq!((all.lost, all.resets), (0, 0), "{all:?}");
    all_reach(&moved.iter().collect::<Vec<_>>());
    site.nodes.iter().for_each(empty_plan);
}
