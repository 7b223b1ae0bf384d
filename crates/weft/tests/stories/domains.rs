//! Bridge domains: one L2 segment per VNI over all nodes, and nothing between two of them.

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use weft::lab::WORLD4;

use crate::story::*;

const BRIDGED: &str = "vxlan-bridged";

/// Counts packets of the node's NIC that match `rule` of nft, from now on.
fn count(node: &Node, hook: &str, name: &str, rule: &str) {
    let nic = "device eth0 priority 0;";
    sh(
        &node.netns,
        &format!(
            "nft 'add table netdev t; add chain netdev t {name} {{ type filter hook {hook} {nic} }}; \
             flush chain netdev t {name}; add rule netdev t {name} {rule} counter'"
        ),
    );
}

fn counted(node: &Node, name: &str) -> u64 {
    let chain = sh(&node.netns, &format!("nft list chain netdev t {name}"));
    let packets = chain.split_once("counter packets ").unwrap().1;
    packets.split(' ').next().unwrap().parse().unwrap()
}

/// Frames inside the tunnel that ask everybody for a neighbour: after the UDP header and VXLAN's
/// an Ethernet header follows, and in that ARP, or IPv6 with a neighbour solicitation.
/// Frames inside the tunnel that are for one.
const ONE: &str = "udp dport 4789 @th,135,1 0";
const ASKS4: &str = "udp dport 4789 @th,128,48 0xffffffffffff @th,224,16 0x0806";
const ASKS6: &str = "udp dport 4789 @th,128,16 0x3333 @th,560,8 135";

fn mac(pod: &Pod) -> String {
    let link = sh(&pod.netns, "ip -o link show eth0");
    link.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

/// Every node knows every pod, as the store told.
fn known_everywhere(site: &Site, network: &str, pods: &[Pod]) {
    for node in &site.nodes {
        until("every pod is known", || {
            let known = sh(&node.netns, &format!("ip neigh show dev weftb-{network}"));
            pods.iter().flat_map(|pod| &pod.addrs).all(|a| known.contains(&format!("{a} ")))
        });
        empty_plan(node);
    }
}

fn segment(nodes: usize) -> (Site, Vec<Pod>, Vec<Responder>) {
    let site = cluster(nodes, "bridge", BRIDGED);
    let (pods, echo) = answering(&site);
    known_everywhere(&site, "net", &pods);
    (site, pods, echo)
}

/// As whom a server at `addr` sees who asks.
pub fn seen_by(from: &Netns, server: &Netns, addr: IpAddr) -> IpAddr {
    let listener = server.run(|| TcpListener::bind((addr, 0)).unwrap()).unwrap();
    let target = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(3)).unwrap();
    let client = from.run(connect).unwrap();
    let (_, from) = listener.accept().unwrap();
    drop(client);
    from.ip()
}

/// Article: VXLAN | L2 frames in UDP: a large layer-2 domain over nodes
/// Negative: outside of the domain a pod is seen as its node, never as itself
#[test]
fn pods_of_all_nodes_share_a_segment_and_one_gateway() {
    let (site, pods, _echo) = segment(3);
    let (world, node_a) = (&site.wire.world, &site.nodes[0]);
    for from in &pods {
        for to in &pods {
            assert!(reaches(from, to), "{} to {}", from.name, to.name);
        }
        let inside = sh(&from.netns, "ip addr show eth0; ip route; ip -6 route; ip neigh");
        let own = format!("{}/16", from.addr(true).unwrap());
        for says in [&own, "default via 10.1.0.1 ", "10.1.0.0/16 dev eth0", "fd00:1::/64 dev eth0"]
        {
            assert!(inside.contains(says), "{says}: {inside}");
        }
    }
    let gateways = |pod: &Pod| sh(&pod.netns, "ip neigh show nud permanent | sort");
    assert!(gateways(&pods[0]).contains("10.1.0.1 dev eth0 lladdr"));
    assert!(pods.iter().all(|pod| gateways(pod) == gateways(&pods[0])), "the same everywhere");
    for ipv4 in [true, false] {
        let (own, there) = (pods[0].addr(ipv4).unwrap(), pods[1].addr(ipv4).unwrap());
        assert_eq!(largest(&pods[0].netns, there), Some(1450), "ipv4 {ipv4}");
        // A node reaches pods elsewhere as itself, and they it; pods see each other as they are.
        let nodes_own = seen_by(&node_a.netns, &pods[1].netns, there);
        let own_of_a = sh(&node_a.netns, "ip -o addr show dev weftb-net");
        assert!(own_of_a.contains(&format!("{nodes_own}/")), "{nodes_own} in {own_of_a}");
        assert_eq!(seen_by(&pods[1].netns, &node_a.netns, nodes_own), there);
        assert_eq!(seen_by(&pods[0].netns, &pods[1].netns, there), own);
        // Other nodes by their underlay addresses, and the world, see the node.
        for to in [&site.nodes[1].netns, world] {
            let at = usize::from(!ipv4);
            let address: IpAddr = match (std::ptr::eq(to, world), ipv4) {
                (true, true) => WORLD4.parse().unwrap(),
                (true, false) => "2001:db8:ffff::1".parse().unwrap(),
                _ => site.nodes[1].place.addrs[at].addr(),
            };
            assert_eq!(seen_by(&pods[0].netns, to, address), node_a.place.addrs[at].addr());
        }
    }
    // All of it is undone.
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
    let deleted = || node_a.ask("DELETE", "/v1/networks/net", None).is_ok();
    until("deleted", deleted);
    for node in &site.nodes {
        node.wait_until("clean", |node| Ok(node.plan()?.is_empty() && rig::is_clean(&node.netns)?))
            .unwrap();
    }
    assert!(!site.plan.dir.join("store/pods/net/node-a").exists());
}

#[test]
fn questions_for_known_pods_and_for_the_gateway_stay_on_their_node() {
    let (site, pods, _echo) = segment(3);
    let node = &site.nodes[0];
    let ask = |what: &str| {
        count(node, "egress", "asks4", ASKS4);
        count(node, "egress", "asks6", ASKS6);
        // What a pod says to many, such as which groups it joins, is not what this is about.
        count(node, "egress", "tunnel", ONE);
        sh(&pods[0].netns, "ip neigh flush dev eth0");
        match what {
            "pod" => assert!(reaches(&pods[0], &pods[1])),
            _ => {
                sh(&pods[0].netns, "ip neigh flush nud permanent dev eth0");
                let gateways = ["10.1.0.1", "fd00:1::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
                for gateway in gateways {
                    assert_eq!(
                        seen_by(&pods[0].netns, &node.netns, gateway),
                        pods[0].addr(gateway.is_ipv4()).unwrap()
                    );
                }
            }
        }
        (counted(node, "asks4"), counted(node, "asks6"), counted(node, "tunnel"))
    };
    let (asks4, asks6, tunnel) = ask("pod");
    assert!((asks4, asks6) == (0, 0) && tunnel > 0, "{asks4} {asks6} {tunnel}");
    assert_eq!(ask("gateway"), (0, 0, 0), "what is for the gateway never leaves the node");
    let gateway = sh(&pods[0].netns, "ip neigh show 10.1.0.1");
    let gateway = gateway.split(' ').nth(4).unwrap().to_owned();
    for node in &site.nodes {
        let known = sh(&node.netns, &format!("bridge fdb | grep {gateway}"));
        let own = format!("{gateway} dev weftb-net master weftb-net permanent");
        assert!(known.trim() == own, "learnt: {known}");
    }
    // Without what the store told, everybody is asked: or the above would prove nothing.
    node.signal(Signal::SIGSTOP).unwrap();
    sh(&node.netns, "ip neigh flush nud permanent dev weftb-net");
    let (asks4, asks6, _) = ask("pod");
    assert!(asks4 > 0 && asks6 > 0, "{asks4} {asks6}");
    node.signal(Signal::SIGCONT).unwrap();
    empty_plan(node);
    let (asks4, asks6, _) = ask("pod");
    assert_eq!((asks4, asks6), (0, 0), "healed");
}

/// Article: VXLAN, control centre | a store holds which VTEP has what
/// Negative: a frame at the third node: none of 50; all of them once the entry is deleted
#[test]
fn frames_for_a_pod_go_to_its_node_alone_and_a_pod_not_yet_known_is_reached_too() {
    let (site, pods, _echo) = segment(3);
    let (a, b, c) = (&site.nodes[0], &site.nodes[1], &site.nodes[2]);
    let (to, echo_port) = (pods[1].addr(true).unwrap(), 7);
    let send = || {
        count(c, "ingress", "heard", ONE);
        let socket = pods[0].netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for n in 0..50u8 {
            socket.send_to(&[n], (to, echo_port)).unwrap();
            socket.recv(&mut [0; 8]).unwrap();
        }
        counted(c, "heard")
    };
    assert!(reaches(&pods[0], &pods[1]));
    assert_eq!(send(), 0, "nobody else hears what is for one");
    a.signal(Signal::SIGSTOP).unwrap();
    sh(&a.netns, &format!("bridge fdb del {} dev weftx4-1 self", mac(&pods[1])));
    assert!(send() >= 50, "without its entry a frame goes to all: flooded, but not lost");
    // A pod that comes while the agent is held is not in its tables at all.
    let late = b.add_pod("late", "net").unwrap();
    let _echo = Responder::start(&late).unwrap();
    assert!(reaches(&pods[0], &late) && reaches(&late, &pods[0]));
    a.signal(Signal::SIGCONT).unwrap();
    empty_plan(a);
    known_everywhere(&site, "net", std::slice::from_ref(&late));
    assert_eq!(send(), 0);
}

/// Answers with its name whoever asks.
struct Named(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Named {
    fn start(pod: &Pod) -> Self {
        let (stop, name) = (Arc::new(AtomicBool::new(false)), pod.name.clone());
        let socket = pod.netns.run(|| UdpSocket::bind("[::]:99").unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            }
        });
        Self(stop, Some(thread))
    }
}
impl Drop for Named {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().map(JoinHandle::join);
    }
}

/// Whoever answers at this address; none if nobody does.
fn who(from: &Netns, to: IpAddr) -> Option<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let mut answer = [0; 32];
    let length = (0..3).find_map(|_| {
        socket.send_to(b"who", (to, 99)).ok()?;
        socket.recv(&mut answer).ok()
    })?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn hostless(site: &Site, name: &str, vni: u32) {
    let network = json!({
        "attach": "bridge", "join": {"kind": BRIDGED, "vni": vni}, "hostAccess": false,
        "ranges": ["10.9.0.0/16", "fd00:9::/64"],
    });
    site.apply(name, &network).unwrap();
    site.settled(name, BRIDGED).unwrap();
}

/// Article: VXLAN, VNI | a bridge domain is identified by its VNI
/// Negative: a packet to the other VNI's pod, its MAC written down; arrives once the sender is in that network too
#[test]
fn the_same_addresses_in_two_vnis_are_two_worlds() {
    let site = built(&plan(2));
    site.start().unwrap();
    hostless(&site, "red", 11);
    hostless(&site, "blue", 12);
    let (node, there) = (&site.nodes[0], &site.nodes[1]);
    let reds = site.add_pods("red", "red-").unwrap();
    let blues = site.add_pods("blue", "blue-").unwrap();
    for (red, blue) in reds.iter().zip(&blues) {
        assert_eq!(red.addrs, blue.addrs, "or the test proves nothing");
        assert_ne!(mac(red), mac(blue));
    }
    let names: Vec<Named> = reds.iter().chain(&blues).map(Named::start).collect();
    for ipv4 in [true, false] {
        let to = reds[1].addr(ipv4).unwrap();
        assert_eq!(who(&reds[0].netns, to).as_deref(), Some("red-b1"));
        assert_eq!(who(&blues[0].netns, to).as_deref(), Some("blue-b1"));
        assert_eq!(who(&node.netns, to), None, "the node is in neither");
        assert_eq!(who(&node.netns, reds[0].addr(ipv4).unwrap()), None);
    }
    let routes = sh(&node.netns, "ip route; ip -6 route; ip addr");
    assert!(!routes.contains("10.9.") && !routes.contains("fd00:9:"), "{routes}");
    assert!(!sh(&reds[0].netns, "ip route; ip -6 route").contains("default"));
    // Red's pod of that address goes; blue's is still there, and its MAC is told.
    let (addrs, blue_mac) = (reds[1].addrs.clone(), mac(&blues[1]));
    drop(names);
    let mut reds = reds;
    there.delete_pod(reds.pop().unwrap()).unwrap();
    there.wait_until("without it", |node| Ok(node.status()?["pods"] == 1)).unwrap();
    let _names: Vec<Named> = blues.iter().map(Named::start).collect();
    let tell = |dev: &str| {
        for addr in &addrs {
            let entry = format!("{addr} lladdr {blue_mac} dev {dev} nud permanent");
            sh(&reds[0].netns, &format!("ip neigh replace {entry}"));
        }
    };
    tell("eth0");
    for addr in &addrs {
        assert_eq!(who(&reds[0].netns, *addr), None, "across VNIs, told the MAC");
        assert_eq!(who(&blues[0].netns, *addr).as_deref(), Some("blue-b1"));
    }
    // The same pod in the other network: the same question is answered.
    let config = node.cni_config("blue");
    let second = [("CNI_IFNAME", "net1")];
    let (exit, answer) = node.cni("ADD", "red-a1", &reds[0].path, &config, &second).unwrap();
    assert_eq!(exit, 0, "{answer}");
    tell("net1");
    for addr in &addrs {
        sh(&reds[0].netns, &format!("ip route replace {addr} dev net1"));
        assert_eq!(who(&reds[0].netns, *addr).as_deref(), Some("blue-b1"));
    }
    site.nodes.iter().for_each(empty_plan);
}

#[test]
fn many_vnis_at_once_each_with_the_same_addresses() {
    const MANY: u32 = 40;
    let site = built(&plan(2));
    site.start().unwrap();
    for vni in 1..=MANY {
        let network = json!({
            "attach": "bridge", "join": {"kind": BRIDGED, "vni": vni}, "hostAccess": false,
            "ranges": ["10.9.0.0/16"],
        });
        site.apply(&format!("n{vni}"), &network).unwrap();
    }
    let node = &site.nodes[0];
    for node in &site.nodes {
        node.wait_until("in all of them", |node| {
            let status = node.status()?;
            let networks = status["networks"].as_object().unwrap();
            let whole = |net: &Value| net["peers"] == 1 && net["blocks"] != json!([]);
            Ok(networks.len() == MANY as usize
                && networks.values().all(whole)
                && status["problems"] == json!([])
                && node.plan()?.is_empty())
        })
        .unwrap();
    }
    let pods: Vec<Pod> = [1, 20, MANY]
        .iter()
        .flat_map(|vni| site.add_pods(&format!("n{vni}"), &format!("n{vni}-")).unwrap())
        .collect();
    let _names: Vec<Named> = pods.iter().map(Named::start).collect();
    for pair in pods.chunks(2) {
        let to = pods[1].addr(true).unwrap();
        assert_eq!(pair[1].addr(true), Some(to), "or the test proves nothing");
        assert_eq!(who(&pair[0].netns, to), Some(pair[1].name.clone()));
    }
    site.nodes.iter().for_each(empty_plan);
    let ports = sh(&node.netns, "bridge link show").lines().filter(|l| l.contains("weftx")).count();
    assert_eq!(ports, 2 * MANY as usize, "both families of each");
}

#[test]
fn two_domains_with_host_access_are_apart_below_the_network_layer() {
    let (site, pods, _echo) = segment(2);
    site.apply("blue", &site.network("bridge", BRIDGED, 2)).unwrap();
    site.settled("blue", BRIDGED).unwrap();
    let blues = site.add_pods("blue", "blue-").unwrap();
    let _echoes = responders(&blues);
    known_everywhere(&site, "blue", &blues);
    assert!(reaches(&blues[0], &blues[1]));
    assert!(reaches(&pods[0], &blues[1]) && reaches(&blues[1], &pods[0]), "by the gateways");
    for blue in &blues {
        for addr in &blue.addrs {
            let entry = format!("{addr} lladdr {} dev eth0 nud permanent", mac(blue));
            sh(&pods[0].netns, &format!("ip neigh replace {entry}; ip route add {addr} dev eth0"));
            assert_eq!(reach(&pods[0].netns, *addr), None, "past the gateway to {}", blue.name);
        }
    }
    site.nodes.iter().for_each(empty_plan);
}

/// One node has IPv4 alone, one IPv6 alone, one both: no frame takes the third for a bridge.
#[test]
fn over_a_mixed_underlay_frames_come_once_and_are_passed_on_by_nobody() {
    let site = cluster_of(&Plan { underlay: Families::Mixed, ..plan(3) }, "bridge", BRIDGED);
    let (pods, _echo) = answering(&site);
    let (a, b, c) = (&pods[0], &pods[1], &pods[2]);
    for (from, to, there) in [(a, c, true), (c, a, true), (b, c, true), (c, b, true), (a, b, false)]
    {
        assert_eq!(reaches(from, to), there, "{} to {}", from.name, to.name);
    }
    assert_eq!(largest(&c.netns, a.addr(true).unwrap()), Some(1430), "IPv6 costs 70 bytes");
    site.nodes.iter().for_each(empty_plan);
}

#[test]
fn an_agent_that_died_leaves_the_segment_as_it_was() {
    let (site, pods, _echo) = segment(2);
    let node = &site.nodes[0];
    let before = sh(&node.netns, "ip -o link; bridge fdb; ip neigh show nud permanent; ip route");
    node.kill().unwrap();
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    // Meanwhile a pod goes and another comes elsewhere.
    let late = site.nodes[1].add_pod("late", "net").unwrap();
    let _echo = Responder::start(&late).unwrap();
    assert!(reaches(&pods[0], &late));
    site.nodes[1].delete_pod(late).unwrap();
    site.nodes[1].wait_until("one pod", |node| Ok(node.status()?["pods"] == 1)).unwrap();
    node.start(&[]).unwrap();
    site.settled("net", BRIDGED).unwrap();
    let now = || sh(&node.netns, "ip -o link; bridge fdb; ip neigh show nud permanent; ip route");
    until("as it was", || now() == before);
    empty_plan(node);
}

#[test]
fn a_node_that_is_forgotten_is_forgotten_by_the_segment() {
    let (site, pods, _echo) = segment(2);
    let (node, gone) = (&site.nodes[0], mac(&pods[1]));
    let known = || sh(&node.netns, "bridge fdb; ip neigh show nud permanent");
    assert!(known().contains(&gone) && known().contains("00:00:00:00:00:00 dev weftx4-1"));
    site.nodes[1].kill().unwrap();
    node.ask("POST", "/v1/nodes/node-b/forget?force=true", None).unwrap();
    until("forgotten", || !known().contains(&gone));
    assert!(!known().contains("192.0.2.2"), "{}", known());
    assert!(!site.plan.dir.join("store/pods/net/node-b").exists());
    empty_plan(node);
}

const MULTICAST: &str = "vxlan-bridged+multicast";

pub fn problems(node: &Node) -> String {
    node.status().unwrap()["problems"].to_string()
}

pub fn no_problems(site: &Site) {
    for node in &site.nodes {
        node.wait_until("well", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
    }
}

/// Article: VXLAN, multicast | VTEPs join a group to discover each other
/// Negative: with the group dropped by the switch nothing arrives (`an_underlay_that_drops_multicast`)
#[test]
fn in_a_group_nodes_find_each_other_without_the_store_over_either_family() {
    for (underlay, host_access, dev, peers) in [
        (Families::Dual, true, "weftx4-1", ["192.0.2.2", "192.0.2.3"]),
        (Families::V4, false, "weftx4-1", ["192.0.2.2", "192.0.2.3"]),
        (Families::V6, false, "weftx6-1", ["2001:db8:1::2", "2001:db8:1::3"]),
    ] {
        let site = built(&Plan { underlay, ..plan(3) });
        sh(site.wire.switch(0), "ip link set br0 type bridge mcast_snooping 0");
        site.start().unwrap();
        let mut network = site.network("bridge", MULTICAST, 1);
        network["hostAccess"] = json!(host_access);
        site.apply("net", &network).unwrap();
        site.settled("net", MULTICAST).unwrap();
        let (pods, _echo) = answering(&site);
        no_problems(&site);
        let node = &site.nodes[0];
        let everybody = || {
            for from in &pods {
                for to in &pods {
                    assert!(reaches(from, to), "{} to {}", from.name, to.name);
                }
            }
        };
        everybody();
        for (pod, peer) in pods[1..].iter().zip(peers) {
            let learnt = sh(&node.netns, &format!("bridge fdb show dev {dev}"));
            assert!(learnt.contains(&format!("{} dst {peer} self", mac(pod))), "{learnt}");
            let listed = format!("00:00:00:00:00:00 dst {peer}");
            assert!(!learnt.contains(&listed), "no list of peers: {learnt}");
        }
        // Only where nodes send to pods themselves does the store say which pods there are.
        assert_eq!(site.plan.dir.join("store/pods").exists(), host_access);
        if host_access {
            known_everywhere(&site, "net", &pods);
            for ipv4 in [true, false] {
                let there = pods[1].addr(ipv4).unwrap();
                let own = seen_by(&node.netns, &pods[1].netns, there);
                assert_eq!(seen_by(&pods[1].netns, &node.netns, own), there, "a node as itself");
            }
        }
        site.nodes.iter().for_each(empty_plan);
        // No agent, no store: and what was learnt is forgotten.
        for node in &site.nodes {
            node.kill().unwrap();
            sh(&node.netns, &format!("ip link set {dev} down; ip link set {dev} up"));
        }
        for pod in &pods {
            sh(&pod.netns, "ip neigh flush dev eth0");
        }
        everybody();
    }
}

/// Article: VXLAN, multicast | needs an underlay that carries the group
/// Negative: with the group dropped by the switch nothing arrives and status is never well; both once it passes
#[test]
fn an_underlay_that_drops_multicast_is_found_and_never_called_well() {
    let site = built(&plan(2));
    let group = "ether daddr 01:00:5e:01:01:01 drop";
    let forward = "type filter hook forward priority 0;";
    sh(
        site.wire.switch(0),
        &format!(
            "nft 'add table bridge t; add chain bridge t f {{ {forward} }}; add rule bridge t f {group}'"
        ),
    );
    begin(&site, "bridge", MULTICAST);
    let (a, b) = (&site.nodes[0], &site.nodes[1]);
    let mut looks = 0;
    a.wait_until("naming the group", |node| {
        let status = node.status()?;
        if !status["networks"]["net"].is_null() {
            looks += 1;
            assert_ne!(status["problems"], json!([]), "well before anybody was heard");
        }
        Ok(status["problems"].to_string().contains(
            "no peer was heard in group 239.1.1.1 by dev weftx4-1, and the store or `peers` lists node-b",
        ))
    })
    .unwrap();
    assert!(looks > 0);
    site.settled("net", MULTICAST).unwrap();
    let (pods, _echo) = answering(&site);
    assert!(!reaches(&pods[0], &pods[1]), "nothing else carries it");
    let said = problems(a);
    assert!(said.contains("the underlay drops multicast to it"), "{said}");
    sh(site.wire.switch(0), "nft delete table bridge t");
    no_problems(&site);
    assert!(reaches(&pods[0], &pods[1]));
    // The other's record goes on being there; its voice does not.
    b.kill().unwrap();
    let silent = || problems(a).contains("no peer was heard in group 239.1.1.1");
    until("heard no more", silent);
    assert!(reaches(&pods[0], &pods[1]), "which is all that its agent's death costs");
}

#[test]
fn a_peer_beyond_a_router_is_missed_by_name() {
    let site = built(&Plan { topology: Topology::Routed, ..plan(3) });
    begin(&site, "bridge", MULTICAST);
    site.settled("net", MULTICAST).unwrap();
    let said = "not heard in group 239.1.1.1 by dev weftx4-1: node-c; node-b was";
    site.nodes[0].wait_until(said, |node| Ok(problems(node).contains(said))).unwrap();
    until("alone", || {
        problems(&site.nodes[2]).contains("the store or `peers` lists node-a, node-b")
    });
}

#[test]
fn alone_in_a_group_is_not_well() {
    let site = built(&plan(1));
    begin(&site, "bridge", MULTICAST);
    site.settled("net", MULTICAST).unwrap();
    assert!(problems(&site.nodes[0]).contains("no peer was heard in group 239.1.1.1"));
    let mut network = site.network("bridge", MULTICAST, 2);
    for (field, value, says) in [
        ("group", json!("192.0.2.1"), "192.0.2.1 is not a multicast group"),
        ("group", json!(null), "needs a `group`"),
        ("ttl", json!(0), "ttl 0"),
        ("ttl", json!(300), "u8"),
        ("discovery", json!("store"), "are for discovery: multicast"),
        ("discovery", json!("gossip"), "expected `store` or `multicast`"),
    ] {
        let was = std::mem::replace(&mut network["join"][field], value);
        let said = site.apply("blue", &network).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
        network["join"][field] = was;
    }
    network["join"].as_object_mut().unwrap().remove("ttl");
    network["join"]["device"] = json!("eth9");
    site.apply("blue", &network).unwrap();
    let says = "device eth9: No such device";
    site.nodes[0].wait_until(says, |node| Ok(problems(node).contains(says))).unwrap();
    network["join"]["device"] = json!("eth0");
    network["join"]["ttl"] = json!(8);
    site.apply("blue", &network).unwrap();
    site.settled("blue", MULTICAST).unwrap();
    let link = sh(&site.nodes[0].netns, "ip -d link show weftx4-2");
    assert!(
        link.contains("group 239.1.1.2 local 192.0.2.1 dev eth0") && link.contains("ttl 8 "),
        "{link}"
    );
    let mut store = network.clone();
    store["join"] = json!({"kind": "vxlan-bridged", "vni": 2});
    let said = site.apply("blue", &store).unwrap_err().to_string();
    assert!(said.contains("make another network for the other discovery"), "{said}");
}

/// What the records say of a frame's way is set beside what the kernel answers.
#[test]
fn the_way_of_a_frame_is_explained_and_a_kernel_that_differs_is_named() {
    let (site, pods, _echo) = segment(2);
    let node = &site.nodes[0];
    let explain =
        |to: &str| node.ask("GET", &format!("/v1/explain?from=a1&to={to}"), None).unwrap();
    let (to, there) = (pods[1].addr(true).unwrap().to_string(), mac(&pods[1]));
    let told = explain(&to);
    assert_eq!((&told["works"], &told["mtu"]), (&json!(true), &json!(1450)), "{told}");
    let hops = told["hops"].to_string();
    for says in [
        format!("bridge weftb-net answers for {to}: lladdr {there}"),
        format!("fdb {there} dev weftx4-1 dst 192.0.2.2: the kernel agrees"),
        "vxlan id 1 dstport 4789 to 192.0.2.2: 50 bytes more".into(),
    ] {
        assert!(hops.contains(&says), "{says} is not in {hops}");
    }
    assert!(explain("203.0.113.1")["hops"].to_string().contains("masqueraded"));
    assert!(explain("10.1.0.77")["hops"].to_string().contains("nobody answers"));
    node.signal(Signal::SIGSTOP).unwrap();
    sh(&node.netns, &format!("bridge fdb replace {there} dev weftx4-1 dst 192.0.2.9 self"));
    node.signal(Signal::SIGCONT).unwrap();
    let paths = node.ask("GET", "/v1/paths", None).unwrap();
    let path = "vxlan-bridged dev weftx4-1 via ";
    assert!(paths[0]["path"].as_str().unwrap().starts_with(path), "{paths}");
    empty_plan(node);
}

/// Another VNI, under traffic: each node holds both until nobody sends by the old one.
#[test]
fn another_vni_under_traffic_loses_nothing() {
    let (site, pods, _echo) = segment(3);
    let flows: Vec<Flow> = [(0, 1), (1, 2), (2, 0)]
        .map(|(a, b)| Flow::start(FlowKind::Full, &pods[a], &pods[b], true).unwrap())
        .into();
    until("flowing", || flows.iter().all(|flow| flow.arrived() > 100));
    let mut network = site.network("bridge", BRIDGED, 1);
    network["join"]["vni"] = json!(77);
    site.apply("net", &network).unwrap();
    site.settled("net", BRIDGED).unwrap();
    let (before, after) = (flows[0].arrived(), 100);
    until("flowing on", || flows[0].arrived() > before + after);
    for flow in flows {
        let report = flow.stop();
        assert!(report.sent > 200 && report.lost == 0 && report.resets == 0, "{report:?}");
    }
    assert!(sh(&site.nodes[0].netns, "ip -o link").contains("weftx4-77"));
    assert!(!sh(&site.nodes[0].netns, "ip -o link").contains("weftx4-1:"));
}

/// The underlay shrinks and grows: pods do first, and last, and nothing is lost on the segment.
#[test]
fn a_segment_shrinks_and_grows_with_its_underlay() {
    let (site, pods, _echo) = segment(2);
    let flow = Flow::start(FlowKind::Full, &pods[0], &pods[1], true).unwrap();
    until("flowing", || flow.arrived() > 50);
    let pods_send = |inner: usize| {
        let mut network = site.network("bridge", BRIDGED, 1);
        network["mtu"] = json!(inner);
        site.apply("net", &network).unwrap();
        let route = format!("10.1.0.0/16 dev eth0 proto 119 scope link metric 119 mtu {inner}");
        until("pods send as much", || {
            pods.iter().all(|pod| sh(&pod.netns, "ip route").contains(&route))
        });
        site.settled("net", BRIDGED).unwrap();
        assert_eq!(largest(&pods[0].netns, pods[1].addr(true).unwrap()), Some(inner));
    };
    let wire = |mtu: usize| {
        for node in &site.nodes {
            sh(&node.netns, &format!("ip link set eth0 mtu {mtu}"));
        }
    };
    pods_send(1350);
    wire(1400);
    site.settled("net", BRIDGED).unwrap();
    let tunnel = sh(&site.nodes[0].netns, "ip link show weftx4-1");
    assert!(tunnel.contains("mtu 1350"), "{tunnel}");
    wire(1500);
    pods_send(1450);
    let report = flow.stop();
    assert!(report.lost == 0 && report.sent > 100, "{report:?}");
}
