//! Strangers on the physical network beside the pods: their addresses are given to no pod, and a
//! switch that admits one MAC address per port is found before pods are sent into the void.

use crate::story::*;

/// One node on the second switch, whose range is one block, and an agent that asks again soon.
fn site_of(mode: &str, switch: Switch) -> Site {
    let site = built(&Plan { lan: true, switch, ..plan(1) });
    begin_in(&site, mode);
    site
}

fn begin_in(site: &Site, mode: &str) {
    let path = site.nodes[0].dir().join("agent.yaml");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["probeAgainSeconds"] = json!(1);
    std::fs::write(&path, config.to_string()).unwrap();
    site.start().unwrap();
    let attach = json!({"kind": "macvlan", "parent": "eth1", "mode": mode});
    let mut network = site.lan_network(&attach);
    network["ranges"] = json!(["10.77.0.0/28", "fd00:77::/124"]);
    site.apply("net", &network).unwrap();
}

/// A host on the second switch that is nobody's node.
pub fn stranger(site: &Site) -> Netns {
    let (host, lan) = (Netns::create().unwrap(), site.wire.lan().unwrap());
    rig::pair(&host, "eth0", lan, "stranger", 1500).unwrap();
    rig::port(lan, "stranger", "br0").unwrap();
    host
}

/// Gives the host addresses: .N and ::N.
fn has(host: &Netns, numbers: &[u8]) {
    for n in numbers {
        sh(host, &format!("ip addr add 10.77.0.{n}/28 dev eth0"));
        sh(host, &format!("ip addr add fd00:77::{n:x}/124 dev eth0 nodad"));
    }
    until("his", || sh(host, "ip -6 addr show scope global tentative").is_empty());
}

fn goes(host: &Netns) {
    sh(host, "ip addr flush dev eth0 scope global");
}

fn mac(host: &Netns) -> String {
    sh(host, "ip -br link show eth0").split_whitespace().nth(2).unwrap().to_owned()
}

fn problems(node: &Node) -> String {
    node.status().unwrap()["problems"].to_string()
}

/// A metric's value.
fn metric(node: &Node, name: &str) -> u64 {
    let mut stream = std::os::unix::net::UnixStream::connect(node.control()).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let text = std::io::read_to_string(stream).unwrap();
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.split(' ').nth(1));
    values.map(|value| value.trim().parse::<u64>().unwrap()).sum()
}

/// The last number of an address.
fn number(addr: &IpAddr) -> u8 {
    match addr {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    }
}

const THEIRS: [u8; 4] = [2, 5, 9, 14];

#[test]
fn a_strangers_address_is_given_to_no_pod_until_he_is_gone() {
    let site = built(&Plan { lan: true, ..plan(1) });
    let node = &site.nodes[0];
    let host = stranger(&site);
    has(&host, &THEIRS);
    begin_in(&site, "bridge");
    // The first come before anything lies ready.
    site.settled("net", "underlay").unwrap();
    let mut pods = vec![node.add_pod("first", "net").unwrap()];
    let ours = |pods: &[Pod]| {
        pods.iter().flat_map(|pod| &pod.addrs).all(|addr| !THEIRS.contains(&number(addr)))
    };
    assert!(ours(&pods), "{:?}", pods[0].addrs);
    let free = 2 * (13 - THEIRS.len() - 1);
    until("asked for all", || metric(node, "weft_addresses_ready") == free.min(16) as u64);
    let before = metric(node, "weft_addresses_unprobed_total");
    let mut took = Vec::new();
    for n in 0..8 {
        let start = Instant::now();
        pods.push(node.add_pod(&format!("p{n}"), "net").unwrap());
        took.push(start.elapsed());
    }
    assert!(ours(&pods), "{:?}", pods.iter().map(|pod| &pod.addrs).collect::<Vec<_>>());
    assert_eq!(metric(node, "weft_addresses_unprobed_total"), before, "all lay ready");
    took.sort();
    println!("ADD beside a stranger: {:?} to {:?}", took[0], took[7]);
    assert!(took[4] < Duration::from_millis(300), "a probe takes 400 ms: {took:?}");
    // All that is left is his, and that is said.
    let (path, config) = (namespace("none").1, node.cni_config("net"));
    assert_eq!(node.cni("ADD", "none", &path, &config, &[]).unwrap().0, 1);
    for n in THEIRS {
        let said = problems(node);
        for addr in [format!("10.77.0.{n}"), format!("fd00:77::{n:x}")] {
            let says = format!("network net: conflict: {addr} is at {}", mac(&host));
            assert!(said.contains(&says), "{says} is not in {said}");
        }
    }
    assert_eq!(metric(node, "weft_address_conflicts"), 2 * THEIRS.len() as u64);
    let mut named = config.clone();
    named["runtimeConfig"] = json!({"ips": ["10.77.0.9"]});
    let (exit, answer) = node.cni("ADD", "none", &path, &named, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(7)), "{answer}");
    let says = format!("10.77.0.9 is somebody else's: {}", mac(&host));
    assert!(answer["details"].to_string().contains(&says), "{answer}");
    // He goes, and what he had is used again.
    goes(&host);
    until("heard no more", || !problems(node).contains("conflict"));
    for n in 0..THEIRS.len() {
        pods.push(node.add_pod(&format!("late{n}"), "net").unwrap());
    }
    assert_eq!(leases(node).len(), 2 * 13);
    forget(&path);
    site.delete_pods(pods).unwrap();
    nothing_left(node);
}

#[test]
fn an_address_asked_for_by_name_is_asked_for_on_the_network_first() {
    let site = site_of("bridge", Switch::Any);
    let node = &site.nodes[0];
    site.settled("net", "underlay").unwrap();
    let host = stranger(&site);
    // Behind those that lie ready.
    has(&host, &[14]);
    let path = namespace("named").1;
    let mut config = node.cni_config("net");
    for (n, want) in [(14, 1), (13, 0)] {
        config["runtimeConfig"] =
            json!({"ips": [format!("10.77.0.{n}"), format!("fd00:77::{n:x}")]});
        let start = Instant::now();
        let (exit, answer) = node.cni("ADD", "named", &path, &config, &[]).unwrap();
        assert_eq!(exit, want, "{n}: {answer}");
        assert!(start.elapsed() < Duration::from_secs(3), "{n}: {:?}", start.elapsed());
        if want == 1 {
            let says = format!(" is somebody else's: {}", mac(&host));
            assert!(answer["details"].to_string().contains(&says), "{answer}");
        }
    }
    assert_eq!(node.cni("DEL", "named", &path, &config, &[]).unwrap().0, 0);
    forget(&path);
    nothing_left(node);
}

#[test]
fn a_stranger_who_takes_a_pods_address_is_said_as_long_as_he_has_it() {
    for mode in ["bridge", "private", "vepa"] {
        let site = site_of(mode, Switch::Any);
        let node = &site.nodes[0];
        site.settled("net", "underlay").unwrap();
        // What comes back is the pod's own.
        site.wire.hairpin("node-a", mode == "vepa").unwrap();
        let pod = node.add_pod("a1", "net").unwrap();
        let _echo = responders([&pod]);
        assert!(reach(&site.wire.world, pod.addrs[0]).is_some(), "{mode}");
        assert!(!problems(node).contains("conflict"), "{mode}: {}", problems(node));
        let host = stranger(&site);
        let numbers: Vec<u8> = pod.addrs.iter().map(number).collect();
        has(&host, &numbers[..1]);
        // He speaks to somebody, as hosts do.
        for to in ["10.77.0.1:9", "[fd00:77::1]:9"] {
            let socket = host.run(|| {
                let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                std::net::UdpSocket::bind(any).unwrap()
            });
            let _ = socket.unwrap().send_to(b"hello", to);
        }
        let says = |addr: &IpAddr| {
            format!("conflict: pod lab/a1 has {addr}, and {} says that it is his", mac(&host))
        };
        until("said", || pod.addrs.iter().all(|addr| problems(node).contains(&says(addr))));
        // It stays said for as long as he answers.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            assert!(problems(node).contains(&says(&pod.addrs[0])), "{mode}: {}", problems(node));
            std::thread::sleep(Duration::from_millis(20));
        }
        goes(&host);
        until("said no more", || !problems(node).contains("conflict"));
        site.delete_pods(vec![pod]).unwrap();
        nothing_left(node);
    }
}

/// Article: MAC VLAN | public clouds disallow more than one MAC address (promiscuous mode)
/// Negative: behind such a switch ADD is refused with this reason; served once the port is opened, cut off and said once it is shut
#[test]
fn behind_a_switch_that_admits_one_mac_address_macvlan_is_refused_with_the_reason() {
    for mode in ["bridge", "private"] {
        let site = site_of(mode, Switch::OneMac);
        let node = &site.nodes[0];
        site.settled("net", "underlay").unwrap();
        let says = "the switch at eth1 admits only the NIC's own MAC address (measured: ";
        // The first pod waits for the first measurement.
        let (path, config) = (namespace("a1").1, node.cni_config("net"));
        let (exit, answer) = node.cni("ADD", "a1", &path, &config, &[]).unwrap();
        assert_eq!((exit, &answer["code"]), (1, &json!(101)), "{answer}");
        assert!(problems(node).contains(says), "{}", problems(node));
        let said = answer["details"].as_str().unwrap();
        for word in [says, "answers it and no other", "use attach ipvlan", "mode passthru"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        forget(&path);
        let (exit, answer) =
            node.cni("STATUS", "x", Path::new("/"), &node.cni_config("net"), &[]).unwrap();
        assert_eq!((exit, &answer["code"]), (1, &json!(50)), "{answer}");
        assert_eq!(metric(node, "weft_switches_of_one_mac"), 1);
        nothing_left(node);
        // The port is opened: macvlan works, and nobody had to say so.
        site.wire.admit(&node.netns, "node-a", Switch::Any).unwrap();
        until("measured anew", || !problems(node).contains("admits only"));
        let pod = node.add_pod("a2", "net").unwrap();
        let _echo = responders([&pod]);
        assert!(pod.addrs.iter().all(|addr| reach(&site.wire.world, *addr).is_some()));
        let switch = node.status().unwrap()["networks"]["net"]["switch"].to_string();
        assert!(switch.contains("takes in other MAC addresses than the NIC's"), "{switch}");
        // And shut under the pod: it is cut off indeed, and that is said.
        site.wire.admit(&node.netns, "node-a", Switch::OneMac).unwrap();
        assert!(pod.addrs.iter().all(|addr| reach(&site.wire.world, *addr).is_none()));
        until("said", || problems(node).contains(says));
        site.delete_pods(vec![pod]).unwrap();
        nothing_left(node);
    }
}

#[test]
fn passthru_works_behind_a_switch_that_admits_one_mac_address() {
    let site = site_of("passthru", Switch::OneMac);
    let node = &site.nodes[0];
    site.settled("net", "underlay").unwrap();
    let pod = node.add_pod("a1", "net").unwrap();
    let _echo = responders([&pod]);
    assert!(pod.addrs.iter().all(|addr| reach(&site.wire.world, *addr).is_some()));
    let status = node.status().unwrap();
    assert_eq!(status["problems"], json!([]));
    assert_eq!(status["networks"]["net"]["switch"], Value::Null, "nothing to be measured");
    site.delete_pods(vec![pod]).unwrap();
    nothing_left(node);
}

#[test]
fn where_nobody_answers_nothing_is_known_and_add_goes_on() {
    let site = site_of("bridge", Switch::OneMac);
    let node = &site.nodes[0];
    // The router is silent from the start.
    sh(&site.wire.world, "ip link set lan down");
    node.kill().unwrap();
    node.start(&[]).unwrap();
    let unknown = "nothing is known: nobody answered";
    node.wait_until("measured", |node| {
        Ok(node.status()?["networks"]["net"]["switch"].to_string().contains(unknown))
    })
    .unwrap();
    let pod = node.add_pod("a1", "net").unwrap();
    assert_eq!(node.status().unwrap()["problems"], json!([]));
    site.delete_pods(vec![pod]).unwrap();
    nothing_left(node);
    // He is back: now it is known.
    sh(&site.wire.world, "ip link set lan up");
    until("known", || problems(node).contains("admits only the NIC's own"));
}

#[test]
fn pods_that_come_faster_than_addresses_can_be_asked_for_are_served_in_time() {
    let site = built(&Plan { lan: true, ..plan(1) });
    let node = &site.nodes[0];
    let host = stranger(&site);
    // One in eight is his.
    let his: Vec<u8> = (1..8).map(|n| n * 8).collect();
    has(&host, &his);
    site.start().unwrap();
    let mut network = site.lan_network(&json!({"kind": "macvlan", "parent": "eth1"}));
    network["ranges"] = json!(["10.77.0.0/25", "fd00:77::/121"]);
    (network["blockPrefix4"], network["blockPrefix6"]) = (json!(25), json!(121));
    site.apply("net", &network).unwrap();
    site.settled("net", "underlay").unwrap();
    let (mut pods, mut took) = (Vec::new(), Vec::new());
    for n in 0..60 {
        let start = Instant::now();
        pods.push(node.add_pod(&format!("p{n}"), "net").unwrap());
        took.push(start.elapsed());
    }
    took.sort();
    println!("60 ADDs one after another: {:?}, {:?}, {:?}", took[0], took[30], took[59]);
    assert!(took[54] < Duration::from_millis(300), "a probe takes 400 ms: {took:?}");
    let given = pods.iter().flat_map(|pod| &pod.addrs);
    let bad: Vec<_> = given.filter(|addr| his.contains(&number(addr))).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(metric(node, "weft_addresses_unprobed_total") > 0, "there was no time for all");
    until("known to be nobody's", || metric(node, "weft_addresses_ready") == 16);
    assert!(!problems(node).contains("conflict: pod"), "{}", problems(node));
    site.delete_pods(pods).unwrap();
    nothing_left(node);
}
