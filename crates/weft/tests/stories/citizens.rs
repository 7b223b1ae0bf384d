//! Pods on the physical network as full citizens of their node: it reaches them and they reach it, its
//! Services and what lies behind it, the same in every mode; and who is kept apart stays so.

use std::net::{SocketAddr, UdpSocket};

use crate::{
    kill::restart,
    lan::{lan, links_inside},
    macvlan::{attach, checked, on_lan, plug, unplug},
    services::{ENDPOINT, SERVICE, cluster_ip, load, seen_at, serve, serve_at},
    story::*,
};

const MODES: [&str; 4] = ["bridge", "vepa", "private", "passthru"];

fn per_node(mode: &str) -> Plan {
    Plan { pods: if mode == "passthru" { 1 } else { 2 }, ..lan(2) }
}

/// The second switch's network, without its router: it would be a way to the node, too.
fn alone(site: &Site, mode: &str) -> Value {
    let mut network = site.lan_network(&attach(mode));
    network["join"] = json!("underlay");
    network
}

fn on_lone_lan(plan: &Plan, mode: &str) -> Site {
    let site = built(plan);
    site.start().unwrap();
    site.apply("net", &alone(&site, mode)).unwrap();
    site.settled("net", "underlay").unwrap();
    site
}

/// The node's address on its underlay.
pub fn address(node: &Node, ipv4: bool) -> IpAddr {
    let own = node.place.addrs.iter().map(ipnet::IpNet::addr);
    own.into_iter().find(|addr| addr.is_ipv4() == ipv4).unwrap()
}

fn addresses(node: &Node) -> [IpAddr; 2] {
    [true, false].map(|ipv4| address(node, ipv4))
}

/// Both ways, by TCP and UDP, and each sees the other's own address.
pub fn met(node: &Node, pod: &Pod) -> Result<(), String> {
    for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let (host, own) = (address(node, ipv4), pod.addr(ipv4).unwrap());
        let probed = seen_at(&node.netns, SocketAddr::new(own, ENDPOINT), tcp);
        if probed != Some(host) {
            return Err(format!("node to {own}, tcp {tcp}: seen as {probed:?}"));
        }
        let asked = seen_at(&pod.netns, SocketAddr::new(host, ENDPOINT), tcp);
        if asked != Some(own) {
            return Err(format!("{own} to node, tcp {tcp}: seen as {asked:?}"));
        }
    }
    Ok(())
}

pub fn meets(node: &Node, pod: &Pod) {
    let mut last = Ok(());
    until(&format!("{} and its node meet", pod.name), || {
        last = met(node, pod);
        last.is_ok()
    });
}

/// Not one packet either way.
fn strangers(node: &Node, pod: &Pod) -> bool {
    [true, false].into_iter().all(|ipv4| {
        let (host, own) = (address(node, ipv4), pod.addr(ipv4).unwrap());
        let unseen =
            |from: &Netns, to| seen_at(from, SocketAddr::new(to, ENDPOINT), false).is_none();
        unseen(&node.netns, own) && unseen(&pod.netns, host)
    })
}

/// Every pod and every node tells who asks.
pub fn all_serving(site: &Site, pods: &[Pod]) {
    pods.iter().for_each(serve);
    site.nodes.iter().for_each(|node| serve_at(&node.netns, &addresses(node)));
}

#[test]
fn a_node_and_its_pods_on_the_physical_network_meet_in_every_mode() {
    for mode in MODES {
        let site = on_lone_lan(&per_node(mode), mode);
        let pods = site.add_pods("net", "").unwrap();
        all_serving(&site, &pods);
        for pod in &pods {
            let node = site.nodes.iter().find(|node| node.name == pod.node).unwrap();
            assert_eq!(met(node, pod), Ok(()), "{mode}, {}", pod.name);
            let known = sh(&pod.netns, "ip neigh show dev weft-eth0");
            let asked = known.lines().any(|line| !line.contains("PERMANENT"));
            assert!(!asked && known.lines().count() == 2, "{mode}: nobody is asked for: {known}");
        }
        let node = &site.nodes[0];
        checked(node, &pods[0]);
        // An address of the node in the network's own range is reached by it too.
        sh(
            &node.netns,
            "ip addr add 10.77.0.250/24 dev eth1; ip addr add fd00:77::fa/64 dev eth1 nodad",
        );
        let inside: [IpAddr; 2] = ["10.77.0.250".parse().unwrap(), "fd00:77::fa".parse().unwrap()];
        serve_at(&node.netns, &inside);
        for addr in inside {
            let at = SocketAddr::new(addr, ENDPOINT);
            until(&format!("{mode}: {addr} reached"), || {
                seen_at(&pods[0].netns, at, true) == pods[0].addr(addr.is_ipv4())
            });
        }
        assert_eq!(met(node, &pods[0]), Ok(()), "{mode}: from its underlay address still");
        site.delete_pods(pods).unwrap();
        site.nodes.iter().for_each(nothing_left);
    }
}

pub const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];

/// The second switch's network, whose pods know of Services.
fn with_services(site: &Site, mode: &str) -> Value {
    let mut network = site.lan_network(&attach(mode));
    network["services"] = json!(SERVICES);
    network
}

/// Translations alone, no masquerade: that replies come back through them is weft's.
fn translated(backends: &[&Pod], ipv4: bool) -> String {
    let ip = if ipv4 { "ip" } else { "ip6" };
    let rule = |(n, pod): (usize, &&Pod)| {
        let to = SocketAddr::new(pod.addr(ipv4).unwrap(), ENDPOINT);
        let vip = cluster_ip(n, ipv4);
        let by = |proto| format!("{ip} daddr {vip} {proto} dport {SERVICE} dnat to {to}\n");
        by("tcp") + &by("udp")
    };
    let rules: String = backends.iter().enumerate().map(rule).collect();
    format!(
        "table {ip} proxy {{
           chain pre {{ type nat hook prerouting priority dstnat; {rules} }}
           chain out {{ type nat hook output priority -100; {rules} }}
         }}\n"
    )
}

/// As whom the `n`-th service's backend sees the client.
fn served(from: &Netns, n: usize, ipv4: bool, tcp: bool) -> Option<IpAddr> {
    seen_at(from, SocketAddr::new(cluster_ip(n, ipv4), SERVICE), tcp)
}

fn services_answer(mode: &str) {
    services_answer_in(&per_node(mode), |site| with_services(site, mode), mode);
}

/// Backends: a routed pod of the node, one of the other node, a sibling, one of the physical network
/// on the other node, the client itself. `mode` says how pods of a node meet.
pub fn services_answer_in(plan: &Plan, network: impl Fn(&Site) -> Value, mode: &str) {
    let site = built(plan);
    begin(&site, "veth", "vxlan");
    let network = network(&site);
    let join = network["join"]["kind"].as_str().or(network["join"].as_str()).unwrap();
    site.apply("lan", &network).unwrap();
    site.settled("net", "vxlan").unwrap();
    site.settled("lan", join).unwrap();
    let routed = site.add_pods_of(1, "net", "r-").unwrap();
    let pods = match mode {
        "passthru" => site.add_pods_of(1, "lan", "").unwrap(),
        _ => site.add_pods("lan", "").unwrap(),
    };
    all_serving(&site, &pods);
    routed.iter().for_each(serve);
    let named = |name: &str| pods.iter().chain(&routed).find(|pod| pod.name == name).unwrap();
    let (client, node) = (named("a1"), &site.nodes[0]);
    let mut backends = vec![named("r-a1"), named("r-b1"), named("b1"), client];
    backends.extend(pods.iter().find(|pod| pod.name == "a2"));
    let rules = translated(&backends, true) + &translated(&backends, false);
    site.nodes.iter().for_each(|node| load(&node.netns, &rules));
    site.settled("net", "vxlan").unwrap();
    for (n, backend) in backends.iter().enumerate() {
        // Private pods of a node don't meet through it, were it by a Service.
        let kept = mode == "private" && backend.node == client.node && backend.network == "lan";
        for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            let what = format!("{mode}: {} by ipv4 {ipv4}, tcp {tcp}", backend.name);
            if kept {
                assert_eq!(served(&client.netns, n, ipv4, tcp), None, "{what}");
                continue;
            }
            let seen = served(&client.netns, n, ipv4, tcp);
            assert!(seen.is_some() && seen != client.addr(ipv4), "{what}: as {seen:?}");
            assert!(served(&node.netns, n, ipv4, tcp).is_some(), "{what}: from the node");
        }
        // Without the translation, where the pod reaches it: a routed pod lies behind the node.
        if backend.network == "net" {
            let at = SocketAddr::new(backend.addr(true).unwrap(), ENDPOINT);
            assert!(seen_at(&client.netns, at, true).is_some(), "{mode}: {}", backend.name);
            let back = SocketAddr::new(client.addr(true).unwrap(), ENDPOINT);
            assert!(seen_at(&backend.netns, back, true).is_some(), "{mode}: {} back", backend.name);
        }
    }
    site.nodes.iter().for_each(empty_plan);
    if mode == "bridge" {
        // It is the masquerade that brings replies back: without it the sibling answers itself.
        node.kill().unwrap();
        sh(&node.netns, "nft flush chain inet weft source-nat");
        assert_eq!(served(&client.netns, 4, true, true), None);
    }
}

#[test]
fn services_answer_pods_in_mode_bridge_whoever_serves() {
    services_answer("bridge");
}

#[test]
fn services_answer_pods_in_mode_vepa_whoever_serves() {
    services_answer("vepa");
}

#[test]
fn services_answer_private_pods_but_by_no_sibling() {
    services_answer("private");
}

#[test]
fn services_answer_a_pod_in_mode_passthru() {
    services_answer("passthru");
}

/// Sends to a sibling by the node, from `source`. True if it arrives.
fn arrives(from: &Pod, to: &Pod, source: IpAddr) -> bool {
    let ipv4 = source.is_ipv4();
    let at = SocketAddr::new(to.addr(ipv4).unwrap(), 9);
    let heard = to.netns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    heard.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let socket = from.netns.run(|| UdpSocket::bind((source, 0))).unwrap().unwrap();
    socket.send_to(b"hello", at).unwrap();
    heard.recv_from(&mut [0; 8]).is_ok()
}

#[test]
fn pods_that_are_kept_apart_do_not_meet_through_their_node_by_routes_of_their_own() {
    for mode in ["bridge", "vepa", "private"] {
        let site = on_lan(&lan(1), mode);
        let pods = site.add_pods("net", "").unwrap();
        let (from, to) = (&pods[0], &pods[1]);
        let [to4, to6] = [true, false].map(|ipv4| to.addr(ipv4).unwrap());
        sh(
            &from.netns,
            &format!(
                "ip route add {to4} via 169.254.1.1 dev weft-eth0 onlink
                 ip -6 route add {to6} via fe80::1 dev weft-eth0 onlink
                 ip addr add 203.0.113.9/32 dev lo; ip -6 addr add 2001:db8:9::9/128 dev lo nodad"
            ),
        );
        for ipv4 in [true, false] {
            let own = from.addr(ipv4).unwrap();
            assert_eq!(arrives(from, to, own), mode == "bridge", "{mode}, from {own}");
        }
        // Nor under another's address, in whichever mode.
        for source in ["203.0.113.9", "2001:db8:9::9"] {
            assert!(!arrives(from, to, source.parse().unwrap()), "{mode}, from {source}");
        }
        let node = &site.nodes[0];
        if mode != "bridge" {
            // It is the node's rules that keep them.
            node.kill().unwrap();
            sh(&node.netns, "nft delete table inet weft; nft delete table inet weft-sources");
            assert!(arrives(from, to, from.addr(true).unwrap()), "{mode}: without rules");
            assert!(arrives(from, to, "2001:db8:9::9".parse().unwrap()), "{mode}: without rules");
            node.start(&[]).unwrap();
            site.settled("net", "underlay").unwrap();
            assert!(!arrives(from, to, from.addr(true).unwrap()), "{mode}: again");
        }
    }
}

fn access_links(netns: &Netns) -> usize {
    sh(netns, "ip -o link show type veth").lines().filter(|line| line.contains("weft")).count()
}

#[test]
fn without_host_access_there_is_no_second_link_and_the_node_is_not_reached() {
    let site = built(&lan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    let mut network = alone(&site, "bridge");
    network["hostAccess"] = json!(false);
    site.apply("net", &network).unwrap();
    site.settled("net", "underlay").unwrap();
    let pods = site.add_pods("net", "").unwrap();
    all_serving(&site, &pods);
    let pod = &pods[0];
    assert!(strangers(node, pod));
    assert_eq!((access_links(&node.netns), access_links(&pod.netns)), (0, 0));
    assert!(!sh(&node.netns, "nft list tables").contains("weft"), "and no rule");
    let forwards = || sh(&node.netns, "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwards().trim(), "0", "the node forwards nothing");
    // Given, it is for pods that come; taken away, it goes at once.
    network["hostAccess"] = json!(true);
    site.apply("net", &network).unwrap();
    until("served so", || forwards().trim() == "1");
    site.settled("net", "underlay").unwrap();
    let late = node.add_pod("late", "net").unwrap();
    serve(&late);
    assert_eq!(met(node, &late), Ok(()));
    assert!(strangers(node, pod), "one from before has none");
    network["hostAccess"] = json!(false);
    site.apply("net", &network).unwrap();
    until("gone", || access_links(&node.netns) + access_links(&late.netns) == 0);
    empty_plan(node);
    assert!(!sh(&late.netns, "ip route; ip -6 route").contains("weft-eth0"));
    node.delete_pod(late).unwrap();
    site.delete_pods(pods).unwrap();
    nothing_left(node);
}

/// The ends of pods' pairs on the node, and pods' own links.
fn links_of(node: &Node) -> usize {
    let own = links_inside(node);
    assert_eq!(access_links(&node.netns), own, "as many pairs as links");
    own
}

#[test]
fn killed_at_every_step_of_add_and_del_with_access() {
    for mode in ["bridge", "private"] {
        let mut points = crate::kill::ADD_FAULTS.to_vec();
        points.push("add.after-access");
        crate::kill::killed_in_add_at(&on_lan(&lan(1), mode), &points, links_of);
    }
    crate::kill::killed_in_del(&on_lan(&lan(1), "private"), links_of);
}

#[test]
fn what_is_taken_from_a_pods_access_is_there_again() {
    let site = on_lone_lan(&lan(1), "private");
    let pods = site.add_pods("net", "").unwrap();
    all_serving(&site, &pods);
    let (node, pod) = (&site.nodes[0], &pods[0]);
    let end = || {
        let links = sh(&node.netns, "ip -br link show type veth");
        let ours = links.split_whitespace().find(|word| word.starts_with("weftn")).unwrap();
        ours.split('@').next().unwrap().to_owned()
    };
    assert_eq!(met(node, pod), Ok(()));
    for (what, netns, sabotage) in [
        ("its host's end", &node.netns, format!("ip link del {}", end())),
        ("its own end", &pod.netns, "ip link del weft-eth0".into()),
        ("its own link", &pod.netns, "ip link del eth0".into()),
        ("a route of the node", &node.netns, format!("ip route flush dev {}", end())),
        ("the host's end's being up", &node.netns, format!("ip link set {} down", end())),
        ("the rules", &node.netns, "nft flush ruleset".into()),
    ] {
        sh(netns, &sabotage);
        let start = Instant::now();
        for pod in &pods {
            meets(node, pod);
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{what}: {:?}", start.elapsed());
        empty_plan(node);
        checked(node, pod);
    }
    assert!(!arrives(&pods[0], &pods[1], pods[0].addrs[0]));
    // Inside the pod nobody hears it; CHECK finds it, and a repeated ADD mends it.
    sh(&pod.netns, "ip -6 route flush dev weft-eth0");
    let mut config = node.cni_config("net");
    config["prevResult"] = json!({
        "cniVersion": "1.1.0", "ips": pod.addrs.iter().map(|addr| json!({
            "address": format!("{addr}/{}", if addr.is_ipv4() { 24 } else { 64 }),
        })).collect::<Vec<_>>(),
        "interfaces": [{"name": "eth0", "mac": crate::lan::mac(&pod.netns, "eth0")}],
    });
    let (exit, answer) = node.cni("CHECK", &pod.name, &pod.path, &config, &[]).unwrap();
    assert_eq!(exit, 1, "{answer}");
    assert!(answer["details"].to_string().contains("via fe80::1 dev weft-eth0"), "{answer}");
    checked(node, pod);
    assert_eq!(met(node, pod), Ok(()));
    site.delete_pods(pods).unwrap();
    nothing_left(node);
}

#[test]
fn pods_follow_what_their_node_and_their_network_become() {
    let site = on_lan(&Plan { pods: 1, ..lan(2) }, "bridge");
    let pods = site.add_pods("net", "").unwrap();
    let (node, pod) = (&site.nodes[0], &pods[0]);
    let routes = || sh(&pod.netns, "ip route show dev weft-eth0; ip -6 route show dev weft-eth0");
    let has = |text: &str| until(text, || routes().contains(text));
    let lost = |text: &str| until(&format!("no {text}"), || !routes().contains(text));
    has("192.0.2.1 via 169.254.1.1");
    has("2001:db8:1::1 via fe80::1");
    // Services come and go.
    site.apply("net", &with_services(&site, "bridge")).unwrap();
    has("10.96.0.0/16 via 169.254.1.1");
    has("fd96::/112 via fe80::1");
    site.apply("net", &site.lan_network(&attach("bridge"))).unwrap();
    lost("10.96.0.0/16");
    lost("fd96::/112");
    // So do networks that nodes route.
    site.apply("routed", &site.network("veth", "vxlan", 1)).unwrap();
    has("10.1.0.0/16 via 169.254.1.1");
    has("fd00:1::/64 via fe80::1");
    node.ask("DELETE", "/v1/networks/routed", None).unwrap();
    lost("10.1.0.0/16");
    // And the node's addresses.
    sh(&node.netns, "ip addr add 192.0.2.77/25 dev eth0; ip addr del 192.0.2.1/24 dev eth0");
    has("192.0.2.77 via 169.254.1.1");
    lost("192.0.2.1 ");
    let own = pod.addr(true).unwrap();
    until("from the new address", || {
        sh(&node.netns, &format!("ip route get {own} || true")).contains("src 192.0.2.77")
    });
    empty_plan(node);
    // No address of a family: no way for it, and none is feigned.
    sh(&node.netns, "ip -6 addr flush dev eth0 scope global");
    lost("via fe80::1");
    empty_plan(node);
    checked(node, pod);
}

#[test]
fn a_parent_that_goes_takes_no_access_with_it() {
    let site = on_lone_lan(&Plan { pods: 1, ..lan(2) }, "bridge");
    let pods = site.add_pods("net", "").unwrap();
    all_serving(&site, &pods);
    let (node, pod) = (&site.nodes[0], &pods[0]);
    unplug(node);
    node.wait_until("saying it", |node| {
        Ok(node.status()?["problems"].to_string().contains("no device eth1"))
    })
    .unwrap();
    empty_plan(node);
    assert_eq!((access_links(&node.netns), access_links(&pod.netns)), (1, 1));
    // Its end is made again even now, as far as it can be.
    sh(&pod.netns, "ip link del weft-eth0");
    until("there", || access_links(&pod.netns) == 1);
    empty_plan(node);
    plug(&site, node);
    meets(node, pod);
    empty_plan(node);
    checked(node, pod);
    let (exit, _) = node.cni("DEL", &pod.name, &pod.path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!(exit, 0);
    nothing_left(node);
}

#[test]
fn a_pods_first_link_is_its_way_to_the_node() {
    let site = built(&Plan { pods: 1, ..lan(1) });
    begin(&site, "veth", "vxlan");
    site.settled("net", "vxlan").unwrap();
    site.apply("lan", &with_services(&site, "bridge")).unwrap();
    site.settled("lan", "underlay").unwrap();
    let node = &site.nodes[0];
    let pods = site.add_pods("net", "").unwrap();
    let (config, second) = (node.cni_config("lan"), [("CNI_IFNAME", "net1")]);
    let (exit, answer) = node.cni("ADD", "a1", &pods[0].path, &config, &second).unwrap();
    assert_eq!((exit, answer["interfaces"].as_array().unwrap().len()), (0, 1), "{answer}");
    let routes = sh(&pods[0].netns, "ip route");
    assert!(!routes.contains("weft-net1") && !routes.contains("10.96.0.0"), "{routes}");
    // Alone, with a name as long as may be, it is the way, and says so.
    let (netns, path) = namespace("alone");
    let long = [("CNI_IFNAME", "a-name-of-15-by")];
    let (exit, answer) = node.cni("ADD", "alone", &path, &config, &long).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let named = |n: usize| answer["interfaces"][n]["name"].as_str().unwrap();
    assert_eq!(named(0), "a-name-of-15-by");
    assert!(named(1).starts_with("weftn") && answer["interfaces"][1]["sandbox"].is_null());
    assert!(named(2).starts_with("weft-") && named(2).len() == 15, "{answer}");
    assert_eq!(answer["interfaces"][2]["sandbox"], json!(path), "{answer}");
    assert_eq!(answer["ips"][0]["interface"], 0, "{answer}");
    assert!(
        sh(&netns, "ip route").contains(&format!("10.96.0.0/16 via 169.254.1.1 dev {}", named(2)))
    );
    // A further link of a network that nodes route stands before it for that network's pods.
    let further = [("CNI_IFNAME", "net1")];
    let (exit, answer) =
        node.cni("ADD", "alone", &path, &node.cni_config("net"), &further).unwrap();
    assert_eq!(exit, 0, "{answer}");
    let way =
        || sh(&netns, "ip route get 10.1.0.77; ip route get 10.96.0.1; ip route get 192.0.2.1");
    let both = way();
    for word in ["dev net1", "10.96.0.1 via 169.254.1.1 dev weft-", "192.0.2.1 via 169.254.1.1"] {
        assert!(both.contains(word), "{word} is not in {both}");
    }
    restart(node, &[]);
    assert_eq!(way(), both, "and stays so, looked at anew");
    let (exit, _) = node.cni("DEL", "alone", &path, &node.cni_config("net"), &further).unwrap();
    assert_eq!(exit, 0);
    until("by the node again", || way().contains("10.1.0.77 via 169.254.1.1 dev weft-"));
    empty_plan(node);
    assert_eq!(node.cni("DEL", "alone", &path, &config, &long).unwrap().0, 0);
    assert_eq!(node.cni("DEL", "a1", &pods[0].path, &config, &second).unwrap().0, 0);
    site.delete_pods(pods).unwrap();
    nothing_left(node);
}

#[test]
fn services_that_make_no_sense_are_refused_by_name() {
    let site = built(&lan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    let put = |name: &str, network: &Value| {
        node.ask("PUT", &format!("/v1/networks/{name}"), Some(network.clone()))
            .map_err(|error| error.to_string())
    };
    let refused = |name: &str, network: &Value, says: &str| {
        let said = put(name, network).unwrap_err();
        assert!(said.contains(says), "{said}");
    };
    let lan = |services: &str| {
        let mut network = site.lan_network(&attach("bridge"));
        network["services"] = json!([services]);
        network
    };
    refused("lan", &lan("10.77.0.128/25"), "it overlaps 10.77.0.0/24, the pods' own range");
    refused("lan", &lan("10.96.0.1/16"), "bits set beyond its prefix; write 10.96.0.0/16");
    refused("lan", &lan("224.0.0.0/24"), "it is not for Services: loopback, link-local, multicast");
    let mut without = lan("10.96.0.0/16");
    without["hostAccess"] = json!(false);
    refused("lan", &without, "`services` has no meaning with hostAccess: false");
    let mut routed = site.network("veth", "vxlan", 1);
    put("routed", &routed).unwrap();
    node.wait_until("serving it", |node| Ok(!node.status()?["networks"]["routed"].is_null()))
        .unwrap();
    refused("lan", &lan("10.1.7.0/24"), "it overlaps a range of pods, lan's or routed's");
    routed["services"] = json!(["10.96.0.0/16"]);
    refused("routed", &routed, "`services` has no meaning with join vxlan");
    // A cache of names at a link-local address is one.
    put("lan", &lan("169.254.20.10/32")).unwrap();
    // On one wire no address is given twice, whether or not the node is in the network.
    let mut lonely = alone(&site, "bridge");
    lonely["hostAccess"] = json!(false);
    put("lan", &lonely).unwrap();
    node.wait_until("changed", |node| {
        Ok(node.ask("GET", "/v1/networks", None)?["lan"]["hostAccess"] == false)
    })
    .unwrap();
    refused("other", &lonely, "overlaps 10.77.0.0/24 of network lan");
    lonely["default"] = json!(true);
    refused("lan", &lonely, "without host access it can't be the default network");
}

#[test]
fn the_way_between_a_pod_and_its_node_is_explained() {
    let site = built(&Plan { pods: 1, ..lan(1) });
    begin(&site, "veth", "vxlan");
    site.settled("net", "vxlan").unwrap();
    site.apply("lan", &with_services(&site, "private")).unwrap();
    site.settled("lan", "underlay").unwrap();
    let (routed, pods) = (site.add_pods("net", "r-").unwrap(), site.add_pods("lan", "").unwrap());
    let node = &site.nodes[0];
    let explain = |from: &str, to: &str| {
        node.ask("GET", &format!("/v1/explain?from={from}&to={to}"), None).unwrap()
    };
    let own = pods[0].addr(true).unwrap();
    let behind = routed[0].addr(true).unwrap().to_string();
    let by = |dst: &str| format!("route {dst} via 169.254.1.1 dev weft-eth0 src {own}");
    for (from, to, says) in [
        ("a1", "192.0.2.1", [by("192.0.2.1/32"), "is this node's own: received".into()]),
        ("a1", "2001:db8:1::1", ["via fe80::1 dev weft-eth0".into(), "own: received".into()]),
        ("a1", "10.96.0.7", [by("10.96.0.0/16"), "is a Service's".into()]),
        ("a1", &behind, [by("10.1.0.0/16"), "(masqueraded)".into()]),
        (
            "node-a",
            "a1",
            [format!("sends to {own}: route {own} dev weftn"), "src 192.0.2.1".into()],
        ),
        ("192.0.2.1", "a1", ["received by dev weft-eth0".into(), "answers 192.0.2.1 via".into()]),
        ("node-a", "r-a1", ["sends to 10.1.".into(), "received by dev eth0".into()]),
        ("node-a", "203.0.113.1", ["via 192.0.2.254 dev eth0".into(), String::new()]),
    ] {
        let said = explain(from, to);
        assert_eq!(said["works"], true, "{from} to {to}: {said}");
        for word in says {
            assert!(said.to_string().contains(&word), "{from} to {to}: {word} is not in {said}");
        }
    }
    let mut without = with_services(&site, "private");
    without["hostAccess"] = json!(false);
    without["services"] = json!([]);
    site.apply("lan", &without).unwrap();
    until("without", || access_links(&node.netns) == 1);
    until("said", || {
        let said = explain("node-a", "a1");
        said["works"] == false && said.to_string().contains("no access (hostAccess: false)")
    });
}

#[test]
fn pods_that_nodes_route_are_reached_and_packets_too_large_for_them_are_answered() {
    for (attach, join) in
        [("veth", "vxlan"), ("bridge", "vxlan"), ("veth", "host-gw"), ("bridge", "vxlan-bridged")]
    {
        let site = built(&Plan { pods: 1, ..lan(2) });
        begin(&site, attach, join);
        site.settled("net", join).unwrap();
        site.apply("lan", &alone(&site, "bridge")).unwrap();
        site.settled("lan", "underlay").unwrap();
        let routed = site.add_pods("net", "r-").unwrap();
        let pods = site.add_pods("lan", "").unwrap();
        let _echo = responders(routed.iter().chain(&pods));
        // Nobody translates but weft: what passes between routed pods goes untracked all the same.
        let rules = sh(&site.nodes[0].netns, "nft list table inet weft");
        assert!(rules.contains("ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 notrack"), "{rules}");
        let most = if join == "host-gw" { 1500 } else { 1450 };
        for to in &routed {
            let what = format!("{attach} × {join}: {} to {}", pods[0].name, to.name);
            for addr in &to.addrs {
                // As much as their network takes, though the way to the node takes more.
                assert_eq!(largest(&pods[0].netns, *addr), Some(most), "{what} at {addr}");
            }
        }
        assert!(reaches(&routed[0], &pods[0]), "{attach} × {join}: and back on their own node");
        assert!(reaches(&routed[0], &routed[1]), "{attach} × {join}");
    }
}
