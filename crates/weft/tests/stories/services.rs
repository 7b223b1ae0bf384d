//! Services: a cluster's addresses that another program translates, as kube-proxy does. Replies
//! must be tracked for that, so weft gives up its untracked path where such rules stand.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use crate::story::*;

pub const SERVICE: u16 = 80;
pub const ENDPOINT: u16 = 8080;
const PATIENCE: Duration = Duration::from_millis(300);

/// Tells whoever asks, by TCP or UDP, from which address he came. Lives as long as the test.
pub fn serve(pod: &Pod) {
    serve_at(&pod.netns, &pod.addrs);
}

pub fn serve_at(netns: &Netns, addrs: &[IpAddr]) {
    for addr in addrs {
        let at = SocketAddr::new(*addr, ENDPOINT);
        let tcp = netns.run(|| TcpListener::bind(at).unwrap()).unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, from)) = tcp.accept() {
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
        });
        let udp = netns.run(|| UdpSocket::bind(at).unwrap()).unwrap();
        thread::spawn(move || {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 64]) {
                let _ = udp.send_to(from.ip().to_string().as_bytes(), from);
            }
        });
    }
}

/// As whom the server behind `to` sees the client; none if there is no answer.
fn seen(from: &Netns, to: IpAddr, tcp: bool) -> Option<IpAddr> {
    seen_at(from, SocketAddr::new(to, SERVICE), tcp)
}

pub fn seen_at(from: &Netns, to: SocketAddr, tcp: bool) -> Option<IpAddr> {
    let mut said = String::new();
    if tcp {
        let mut stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_string(&mut said).ok()?;
    } else {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.run(|| UdpSocket::bind(any).unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(to).ok()?;
        socket.send(b"who am I?").ok()?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer).ok()?;
        said = String::from_utf8_lossy(&answer[..length]).into_owned();
    }
    said.parse().ok()
}

/// The address of the `n`-th service.
pub fn cluster_ip(n: usize, ipv4: bool) -> IpAddr {
    let text = if ipv4 { format!("10.96.0.{}", n + 1) } else { format!("fd96::{}", n + 1) };
    text.parse().unwrap()
}

/// What kube-proxy writes in its nftables mode: one service for each endpoint.
pub fn kube_proxy(endpoints: &[&Pod], ipv4: bool) -> String {
    let (ip, range) = if ipv4 { ("ip", "10.1.0.0/16") } else { ("ip6", "fd00:1::/64") };
    let (mut verdicts, mut chains) = (Vec::new(), String::new());
    for (n, pod) in endpoints.iter().enumerate() {
        let (vip, addr) = (cluster_ip(n, ipv4), pod.addr(ipv4).unwrap());
        let to = SocketAddr::new(addr, ENDPOINT);
        for proto in ["tcp", "udp"] {
            verdicts.push(format!("{vip} . {proto} . {SERVICE} : goto service-{n}-{proto}"));
            chains += &format!(
                "chain service-{n}-{proto} {{
                   {ip} daddr {vip} {proto} dport {SERVICE} {ip} saddr != {range} jump mark-for-masquerade
                   numgen random mod 1 vmap {{ 0 : goto endpoint-{n}-{proto} }}; }}
                 chain endpoint-{n}-{proto} {{
                   {ip} saddr {addr} jump mark-for-masquerade
                   meta l4proto {proto} dnat to {to}; }}\n"
            );
        }
    }
    format!(
        "table {ip} kube-proxy {{
           chain mark-for-masquerade {{ mark set mark or 0x4000; }}
           chain masquerading {{
             mark and 0x4000 == 0 return
             mark set mark xor 0x4000
             masquerade fully-random; }}
           {chains}
           chain services {{ {ip} daddr . meta l4proto . th dport vmap {{ {} }}; }}
           chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
           chain nat-output {{ type nat hook output priority -100; jump services; }}
           chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
         }}\n",
        verdicts.join(", ")
    )
}

pub fn load(netns: &Netns, rules: &str) {
    std::fs::write("/run/rules", rules).unwrap();
    sh(netns, "nft -f /run/rules");
}

fn untracked(node: &Node) -> bool {
    // A tunnel's own packets are untracked always.
    let table = sh(&node.netns, "nft list table inet weft");
    table.lines().any(|rule| rule.contains("daddr") && rule.contains("notrack"))
}

/// The first pod asks: a pod of the other node, one of its own node, itself.
fn services_are_right(attach: &str, join: &str) {
    let site = cluster_of(&Plan { pods: 2, ..plan(2) }, attach, join);
    let pods = site.add_pods("net", "").unwrap();
    pods.iter().for_each(serve);
    let (client, node) = (&pods[0], &site.nodes[0]);
    assert!(untracked(node), "nobody translates yet");
    // As it is where nobody has asked for it yet.
    let calls = "net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0";
    site.nodes.iter().for_each(|node| drop(sh(&node.netns, &format!("sysctl -w {calls}"))));
    let flow = Flow::start(FlowKind::Bulk, client, &pods[2], true).unwrap();
    let endpoints = [&pods[2], &pods[1], client];
    let start = Instant::now();
    for node in &site.nodes {
        load(&node.netns, &(kube_proxy(&endpoints, true) + &kube_proxy(&endpoints, false)));
    }
    let model = format!("{attach} × {join}");
    let works = |ipv4, tcp| seen(&client.netns, cluster_ip(0, ipv4), tcp).is_some();
    until(&format!("{model}: a service answers"), || works(true, true) && works(false, false));
    assert!(start.elapsed() < Duration::from_secs(1), "{model}: {:?}", start.elapsed());
    until("tracked on both", || !site.nodes.iter().any(untracked));
    for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let own = client.addr(ipv4);
        let what = format!("{model}, ipv4 {ipv4}, tcp {tcp}");
        assert_eq!(seen(&client.netns, cluster_ip(0, ipv4), tcp), own, "{what}: other node");
        assert_eq!(seen(&client.netns, cluster_ip(1, ipv4), tcp), own, "{what}: same node");
        let itself = seen(&client.netns, cluster_ip(2, ipv4), tcp);
        assert!(itself.is_some() && itself != own, "{what}: itself, as {itself:?}");
        for n in 0..3 {
            let host = seen(&node.netns, cluster_ip(n, ipv4), tcp);
            assert!(host.is_some(), "{what}: host to service {n}");
        }
    }
    let report = flow.stop();
    assert_eq!(report.resets, 0, "{model}: a connection from before is tracked from its middle");
    site.nodes.iter().for_each(empty_plan);
    sh(&node.netns, "nft delete table ip kube-proxy; nft delete table ip6 kube-proxy");
    until("untracked again", || untracked(node));
}

#[test]
fn services_are_right_with_veth_over_vxlan() {
    services_are_right("veth", "vxlan");
}

#[test]
fn services_are_right_with_veth_over_host_gw() {
    services_are_right("veth", "host-gw");
}

#[test]
fn services_are_right_with_a_bridge_over_vxlan() {
    services_are_right("bridge", "vxlan");
}

#[test]
fn services_are_right_with_a_bridge_over_host_gw() {
    services_are_right("bridge", "host-gw");
}

#[test]
fn services_are_right_in_a_domain() {
    services_are_right("bridge", "vxlan-bridged");
}

#[test]
fn services_are_right_with_veth_in_a_group() {
    services_are_right("veth", "vxlan+multicast");
}

#[test]
fn services_are_right_in_a_domain_in_a_group() {
    services_are_right("bridge", "vxlan-bridged+multicast");
}

/// As kube-proxy's iptables mode and portmap do, by either kind of iptables.
#[test]
fn services_of_iptables_are_right_whichever_its_kind() {
    for iptables in ["iptables-nft", "iptables-legacy"] {
        let site = cluster(2, "veth", "vxlan");
        let pods = site.add_pods("net", "").unwrap();
        serve(&pods[1]);
        let (client, node) = (&pods[0], &site.nodes[0]);
        assert!(untracked(node));
        let (vip, to) = (cluster_ip(0, true), SocketAddr::new(pods[1].addrs[0], ENDPOINT));
        let start = Instant::now();
        for (chain, proto) in
            [("PREROUTING", "tcp"), ("OUTPUT", "tcp"), ("PREROUTING", "udp"), ("OUTPUT", "udp")]
        {
            let to = format!("-j DNAT --to-destination {to}");
            sh(
                &node.netns,
                &format!("{iptables} -t nat -A {chain} -d {vip} -p {proto} --dport {SERVICE} {to}"),
            );
        }
        for tcp in [true, false] {
            until(&format!("{iptables}, tcp {tcp}: served"), || {
                seen(&client.netns, vip, tcp) == client.addr(true)
            });
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{iptables}: {:?}", start.elapsed());
        assert!(!untracked(node), "{iptables}");
        empty_plan(node);
    }
}
