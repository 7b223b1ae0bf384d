//! Pods that send as somebody else, with raw sockets: nothing of it gets past their nodes. What is true
//! passes, whatever it is.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use weft_core::checksum::checksum;
use weft_linux::Frames;

use crate::{
    policies::{add_pods, only_out, world},
    services::{ENDPOINT, seen_at, serve},
    story::*,
};

const PORT: u16 = ENDPOINT + 2;

/// What was heard, by what it said.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<BTreeSet<String>>>);

impl Heard {
    fn listen(netns: &Netns) -> Self {
        let heard = Self::default();
        let socket = netns.run(|| UdpSocket::bind(("::", PORT)).unwrap()).unwrap();
        let into = heard.clone();
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, _)) = socket.recv_from(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                into.0.lock().unwrap().insert(text);
            }
        });
        heard
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().contains(text)
    }
}

fn say(raw: &Frames, frame: &[u8]) {
    // Where it is dropped at once, the sender hears of it.
    let _ = raw.send(frame);
}

fn frames(netns: &Netns) -> Frames {
    netns.run(|| Frames::by_name("eth0")).unwrap().unwrap()
}

type Mac = [u8; 6];

fn mac(netns: &Netns, dev: &str) -> Mac {
    let text = sh(netns, &format!("ip -o link show {dev}"));
    parse(text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap())
}

fn parse(text: &str) -> Mac {
    let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// IPv6 with this inside, its checksum at `at`.
fn ip6((from, to): (IpAddr, IpAddr), protocol: u8, mut inner: Vec<u8>, at: usize) -> Vec<u8> {
    let length = u16::try_from(inner.len()).unwrap().to_be_bytes();
    let ends = [octets(from), octets(to)].concat();
    let sum = checksum(&[&ends, &[0, 0], &length, &[0, 0, 0, protocol], &inner]);
    inner[at..at + 2].copy_from_slice(&sum);
    [&[0x60, 0, 0, 0][..], &length, &[protocol, 255], &ends, &inner].concat()
}

fn udp(from: IpAddr, to: IpAddr, says: &str) -> Vec<u8> {
    let length = u16::try_from(8 + says.len()).unwrap().to_be_bytes();
    let inner =
        [&PORT.to_be_bytes()[..], &PORT.to_be_bytes(), &length, &[0, 0], says.as_bytes()].concat();
    if from.is_ipv6() {
        return ip6((from, to), 17, inner, 6);
    }
    let total = u16::try_from(20 + inner.len()).unwrap().to_be_bytes();
    let mut head = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
    head.extend([octets(from), octets(to)].concat());
    let sum = checksum(&[&head]);
    head[10..12].copy_from_slice(&sum);
    [head, inner].concat()
}

fn frame(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&to[..], &from, &kind, packet].concat()
}

/// Behind two tags that say nothing, as the receiver's kernel would take it.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let tags = [0x81, 0, 0, 0, 0x81, 0, 0, 0];
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// An ARP answer to one host: that this address is at that MAC.
fn arp((to, to_ip): (Mac, IpAddr), from: Mac, (at, ip): (Mac, IpAddr)) -> Vec<u8> {
    let head = [8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
    [&to[..], &from, &head, &at, &octets(ip), &to, &octets(to_ip)].concat()
}

/// The same in IPv6, from an address that may be another.
fn advertisement((to, to_ip): (Mac, IpAddr), from: Mac, source: IpAddr, ip: IpAddr) -> Vec<u8> {
    let inner = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &octets(ip), &[2, 1], &from].concat();
    frame(to, from, &ip6((source, to_ip), 58, inner, 2))
}

/// So that each knows where the other is.
fn meet(one: &Pod, other: &Pod) {
    let at = |addr: &IpAddr| SocketAddr::new(*addr, ENDPOINT);
    other.addrs.iter().for_each(|addr| {
        until("met", || seen_at(&one.netns, at(addr), true).is_some());
    });
}

fn hears(pod: &Pod) -> (&Pod, Heard) {
    (pod, Heard::listen(&pod.netns))
}

/// One who sends, beside the one whose name he takes, and those who hear.
struct Cast<'a> {
    liar: &'a Pod,
    named: &'a Pod,
    near: (&'a Pod, Heard),
    far: (&'a Pod, Heard),
    /// Whom the liar may not reach by a policy.
    shut: (&'a Pod, Heard),
    on_link: bool,
    wide: bool,
}

impl Cast<'_> {
    /// Where the liar's frames to that pod go.
    fn next(&self, to: &Pod, ipv4: bool) -> Mac {
        if self.on_link && (self.wide || to.name == self.near.0.name) {
            return mac(&to.netns, "eth0");
        }
        let ip = if ipv4 { "-4" } else { "-6" };
        let text = sh(
            &self.liar.netns,
            &format!(
                "ip {ip} neigh show $(ip {ip} route show default | sed -n 's/.*via \\([^ ]*\\).*/\\1/p')"
            ),
        );
        parse(text.split("lladdr ").nth(1).unwrap().split(' ').next().unwrap())
    }

    /// Sends under those addresses, and says what of it was heard.
    fn heard(&self, round: &str, from: impl Fn(bool) -> IpAddr, ways: &[Way]) -> BTreeSet<String> {
        let raw = frames(&self.liar.netns);
        let (own, other) = (mac(&self.liar.netns, "eth0"), mac(&self.named.netns, "eth0"));
        let mut hears = BTreeSet::new();
        for ipv4 in [true, false] {
            for (to, heard) in [&self.shut, &self.near, &self.far] {
                let (next, at) = (self.next(to, ipv4), to.addr(ipv4).unwrap());
                let name = |what: &str| format!("{round}: {what} to {}, ipv4 {ipv4}", to.name);
                for way in ways {
                    let packet = udp(from(ipv4), at, &name(way.name()));
                    let sender = if *way == Way::OtherMac { other } else { own };
                    let plain = frame(next, sender, &packet);
                    say(&raw, &if *way == Way::Tagged { tagged(&plain) } else { plain });
                }
                if to.name != self.shut.0.name {
                    // Once what is true is there, all that comes is there.
                    let last = udp(self.liar.addr(ipv4).unwrap(), at, &name("last"));
                    until(&name("last"), || {
                        say(&raw, &frame(next, own, &last));
                        thread::sleep(Duration::from_millis(2));
                        heard.has(&name("last"))
                    });
                }
            }
        }
        for (_, heard) in [&self.shut, &self.near, &self.far] {
            let all = heard.0.lock().unwrap();
            hears.extend(
                all.iter().filter(|h| h.starts_with(round) && !h.contains("last")).cloned(),
            );
        }
        hears
    }

    /// What the neighbour takes for the other's MAC once the liar has claimed it: IPv4's, and IPv6's.
    fn claimed(&self) -> [bool; 2] {
        let raw = frames(&self.liar.netns);
        let own = mac(&self.liar.netns, "eth0");
        let (near, at) = (self.near.0, mac(&self.near.0.netns, "eth0"));
        // A neighbour that was heard of a second ago is not believed to be elsewhere.
        sh(&near.netns, "sysctl -qw net.ipv4.neigh.eth0.locktime=0");
        // A bridge that was lied to knows the other's place again once that speaks.
        meet(self.named, near);
        meet(near, self.named);
        let of = |pod: &Pod, ipv4| pod.addr(ipv4).unwrap();
        for _ in 0..3 {
            say(&raw, &arp((at, of(near, true)), own, (own, of(self.named, true))));
            let [source, named] = [self.liar, self.named].map(|pod| of(pod, false));
            say(&raw, &advertisement((at, of(near, false)), own, source, named));
        }
        // All of that has been looked at once this is there.
        self.heard("claims", |ipv4| of(self.liar, ipv4), &[Way::Plain]);
        let own = own.map(|byte| format!("{byte:02x}")).join(":");
        let taken = [true, false].map(|ipv4| {
            let ip = of(self.named, ipv4);
            sh(&near.netns, &format!("ip neigh show {ip}")).contains(&own)
        });
        sh(&near.netns, "ip neigh flush all");
        taken
    }

    /// Whether the bridge believes that the other is where the liar is, by a frame that it keeps to itself.
    fn learnt(&self, node: &Node) -> bool {
        let raw = frames(&self.liar.netns);
        let (other, own) = (mac(&self.named.netns, "eth0"), mac(&self.liar.netns, "eth0"));
        let reserved = [0x01, 0x80, 0xc2, 0, 0, 0x03];
        say(&raw, &[&reserved[..], &other, &[0x88, 0x8e], &[0; 46]].concat());
        let dev_of = |mac: Mac| {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let fdb = sh(&node.netns, "bridge fdb show");
            let dev = |line: &str| line.split(" dev ").nth(1)?.split(' ').next().map(str::to_owned);
            fdb.lines().filter(|line| line.starts_with(&mac)).find_map(dev)
        };
        let moved = dev_of(other) == dev_of(own);
        meet(self.named, self.near.0);
        moved
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    OtherMac,
    Tagged,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::OtherMac => "with the other's MAC",
            Self::Tagged => "tagged",
        }
    }
}

fn nobody_speaks_for_another(attach: &str, join: &str) {
    let model = format!("{attach} × {join}");
    let (site, objects) = world(attach, join);
    let mut pods = add_pods(&site, &objects);
    objects.pod(&site.nodes[0], "a3", &[]);
    pods.push(site.nodes[0].add_pod("a3", "net").unwrap());
    objects.pod(&site.nodes[0], "a3", &pods[4].addrs);
    serve(&pods[4]);
    let [liar, named, far, shut, near] = &pods[..] else { panic!() };
    let cast = Cast {
        liar,
        named,
        near: hears(near),
        far: hears(far),
        shut: hears(shut),
        on_link: attach != "veth",
        wide: ["vxlan-bridged", "underlay"].contains(&join),
    };
    objects.policy("out", &only_out("a1", &["a3", "b1"]));
    let of = |pod: &Pod, ipv4: bool| pod.addr(ipv4).unwrap();
    // What is on a child's own link it reaches past its own rules, though not past the other's.
    let (mut rounds, open) = (0, if attach.starts_with("macvlan") { 6 } else { 4 });
    until("shut in", || {
        rounds += 1;
        cast.heard(&format!("asked {rounds}"), |ipv4| of(liar, ipv4), &[Way::Plain]).len() == open
    });
    let ways: &[Way] =
        if cast.on_link { &[Way::Plain, Way::OtherMac, Way::Tagged] } else { &[Way::Plain] };
    let as_itself = cast.heard("itself", |ipv4| of(liar, ipv4), &[Way::Plain]);
    assert_eq!(as_itself.len(), open, "{model}: {as_itself:?}");
    let forged = |round: &str| cast.heard(round, |ipv4| of(named, ipv4), ways);
    let stranger = |ipv4: bool| {
        let addr = if ipv4 { "198.51.100.7" } else { "2001:db8:77::7" };
        addr.parse::<IpAddr>().unwrap()
    };
    let none = BTreeSet::new();
    assert_eq!(forged("forged"), none, "{model}");
    assert_eq!(cast.heard("stranger", stranger, ways), none, "{model}");
    let node = &site.nodes[0];
    if cast.on_link {
        assert_eq!(cast.claimed(), [false; 2], "{model}");
    }
    if attach == "bridge" {
        assert!(!cast.learnt(node), "{model}");
    }
    // Without the rules each would have been believed.
    // What is in pods is looked into once a minute, and by an agent that begins.
    let (rules, judge, away) = match attach {
        "veth" => ("inet", &node.netns, false),
        "bridge" => ("bridge", &node.netns, false),
        _ => ("netdev", &liar.netns, true),
    };
    if away {
        node.kill().unwrap();
    } else {
        node.signal(Signal::SIGSTOP).unwrap();
    }
    sh(judge, &format!("nft delete table {rules} weft-sources"));
    let believed = forged("without");
    let all = |what: &str| believed.iter().filter(|heard| heard.contains(what)).count();
    assert_eq!(all("plain"), 6, "{model}: {believed:?}");
    assert!(all("to b2") >= 2, "{model}: past its own rules: {believed:?}");
    assert!(ways.iter().all(|way| all(way.name()) >= 2), "{model}: {believed:?}");
    if cast.on_link {
        assert!(cast.claimed().contains(&true), "{model}");
    }
    if attach == "bridge" {
        assert!(cast.learnt(node), "{model}");
    }
    if away {
        node.start(&[]).unwrap();
    } else {
        node.signal(Signal::SIGCONT).unwrap();
    }
    until("judged again", || {
        sh(judge, "nft list tables").contains(&format!("table {rules} weft-sources"))
    });
    assert_eq!(forged("again"), none, "{model}");
    if !away {
        let mut network = site.network(attach, join, 1);
        network["spoofCheck"] = json!(false);
        site.apply("net", &network).unwrap();
        until("left to pods", || !sh(judge, "nft list tables").contains("weft-sources"));
        let passed = forged("allowed");
        let plain = passed.iter().filter(|heard| heard.contains("plain"));
        assert_eq!(plain.count(), 6, "{model}: {passed:?}");
    }
    site.nodes.iter().for_each(empty_plan);
    drop(cast);
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
    let tables = sh(&site.nodes[0].netns, "nft list tables");
    assert!(!tables.contains("weft-sources"), "{model}: {tables}");
}

/// What a node would send by its tunnel, sent by a pod: a frame of `named` behind VXLAN's header
/// (RFC 7348, 5).
fn in_a_tunnel(to: Mac, named: &Pod, far: &Pod, ipv4: bool, says: &str) -> Vec<u8> {
    let packet = udp(named.addr(ipv4).unwrap(), far.addr(ipv4).unwrap(), says);
    let vni = [0, 0, 1, 0];
    [&[8, 0, 0, 0][..], &vni, &frame(to, [2, 0, 0, 0, 0, 2], &packet)].concat()
}

#[test]
fn nobody_speaks_for_another_in_a_tunnel_of_the_nodes() {
    for attach in ["veth", "bridge"] {
        let (site, objects) = world(attach, "vxlan");
        let pods = add_pods(&site, &objects);
        let [liar, named, far, ..] = &pods[..] else { panic!() };
        meet(liar, far);
        let heard = Heard::listen(&far.netns);
        let (here, there) = (&site.nodes[0], &site.nodes[1]);
        let vtep = mac(&there.netns, "weftx4-1");
        // It needs no right for that.
        let says = |what: &str| {
            let socket = liar.netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
            for ipv4 in [true, false] {
                let forged = in_a_tunnel(vtep, named, far, ipv4, &format!("{what}, ipv4 {ipv4}"));
                // Where it is dropped at once, the sender hears of it.
                let _ = socket.send_to(&forged, "192.0.2.2:4789");
            }
        };
        let both = |what: &str| [true, false].map(|v4| heard.has(&format!("{what}, ipv4 {v4}")));
        says("forged");
        meet(liar, far);
        here.signal(Signal::SIGSTOP).unwrap();
        sh(&here.netns, "nft flush chain inet weft raw-prerouting");
        until("believed without the rule", || {
            says("without");
            both("without") == [true, true]
        });
        assert_eq!(both("forged"), [false, false], "{attach}");
        here.signal(Signal::SIGCONT).unwrap();
        empty_plan(here);
        site.delete_pods(pods).unwrap();
    }
}

#[test]
fn nobody_speaks_for_another_with_veth_over_vxlan() {
    nobody_speaks_for_another("veth", "vxlan");
}

#[test]
fn nobody_speaks_for_another_with_veth_over_host_gw() {
    nobody_speaks_for_another("veth", "host-gw");
}

#[test]
fn nobody_speaks_for_another_on_a_bridge() {
    nobody_speaks_for_another("bridge", "vxlan");
}

#[test]
fn nobody_speaks_for_another_in_a_domain() {
    nobody_speaks_for_another("bridge", "vxlan-bridged");
}

#[test]
fn nobody_speaks_for_another_with_macvlan() {
    nobody_speaks_for_another("macvlan/bridge", "underlay");
}

/// One who lies from before there is a link.
struct Eager {
    ends: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Eager {
    fn start(netns: &Netns, lie: Vec<u8>) -> Self {
        let (ends, sent) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (end, count) = (ends.clone(), sent.clone());
        let netns = netns.try_clone().unwrap();
        let thread = thread::spawn(move || {
            netns.enter().unwrap();
            while !end.load(Ordering::SeqCst) {
                let Ok(raw) = Frames::by_name("eth0") else { continue };
                while !end.load(Ordering::SeqCst) && raw.send(&lie).is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { ends, sent, thread: Some(thread) }
    }
}

impl Drop for Eager {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn not_with_its_first_packet(attach: &str) {
    let site = cluster(1, attach, "host-gw");
    let node = &site.nodes[0];
    let near = node.add_pod("near", "net").unwrap();
    let heard = Heard::listen(&near.netns);
    let gateway = [0x02, 0x77, 0x65, 0x66, 0x74, 0x01];
    let next = if attach == "veth" { gateway } else { mac(&near.netns, "eth0") };
    let stranger: IpAddr = "198.51.100.7".parse().unwrap();
    let lie = frame(next, [2, 0, 0, 0, 0, 99], &udp(stranger, near.addr(true).unwrap(), "a lie"));
    for round in 0..3 {
        let (netns, path) = namespace("early");
        let eager = Eager::start(&netns, lie.clone());
        let config = node.cni_config("net");
        let (exit, answer) = node.cni("ADD", "early", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{attach}: {answer}");
        until("sent", || eager.sent.load(Ordering::SeqCst) > 2000);
        let (exit, answer) = node.cni("DEL", "early", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{attach}: {answer}");
        until("without its link", || pod_links(node) == 1);
        drop(eager);
        assert!(!heard.has("a lie"), "{attach}, round {round}");
        forget(&path);
    }
}

#[test]
fn a_veth_pod_does_not_lie_with_its_first_packet() {
    not_with_its_first_packet("veth");
}

#[test]
fn a_bridge_pod_does_not_lie_with_its_first_packet() {
    not_with_its_first_packet("bridge");
}
