//! What kube-proxy (1.36) writes for one Service, in its nftables and its iptables mode: ClusterIP, and
//! node ports of either external traffic policy. No story is told here.

use std::fmt::Write;

use crate::{services::load, story::*};

/// One Service over TCP, as the proxy of one node sees it.
pub struct Service {
    pub vip: IpAddr,
    pub port: u16,
    /// Node port with `externalTrafficPolicy: Cluster`.
    pub cluster: u16,
    /// The same with `Local`.
    pub local: u16,
    pub endpoints: Vec<SocketAddr>,
    /// Those on this node.
    pub own: Vec<SocketAddr>,
    /// The cluster's pods.
    pub pods: &'static str,
}

pub use std::net::SocketAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Nftables,
    Iptables,
    IptablesLegacy,
}

pub fn write(netns: &Netns, mode: Mode, service: &Service) {
    match mode {
        Mode::Nftables => load(netns, &nftables(service)),
        Mode::Iptables => iptables(netns, "nft", service),
        Mode::IptablesLegacy => iptables(netns, "legacy", service),
    }
}

fn nftables(service: &Service) -> String {
    let Service { vip, port, cluster, local, pods, .. } = service;
    let ip = if vip.is_ipv4() { "ip" } else { "ip6" };
    let addr = if vip.is_ipv4() { "ipv4_addr" } else { "ipv6_addr" };
    let choose = |endpoints: &[SocketAddr]| {
        let all = endpoints.iter().enumerate();
        let each = all.map(|(n, to)| format!("{n} : goto {}", endpoint(to))).collect::<Vec<_>>();
        match each.len() {
            0 => "drop".into(),
            n => format!("numgen random mod {n} vmap {{ {} }}", each.join(", ")),
        }
    };
    let mut endpoints = String::new();
    for to in &service.endpoints {
        let (chain, from) = (endpoint(to), to.ip());
        let _ = writeln!(
            endpoints,
            "chain {chain} {{ {ip} saddr {from} jump mark-for-masquerade
               meta l4proto tcp dnat to {to}; }}"
        );
    }
    let (all, own) = (choose(&service.endpoints), choose(&service.own));
    format!(
        "table {ip} kube-proxy {{
           map service-ips {{ type {addr} . inet_proto . inet_service : verdict
             elements = {{ {vip} . tcp . {port} : goto service-x }} }}
           map service-nodeports {{ type inet_proto . inet_service : verdict
             elements = {{ tcp . {cluster} : goto external-cluster, tcp . {local} : goto external-local }} }}
           chain mark-for-masquerade {{ mark set mark or 0x4000; }}
           chain masquerading {{ mark and 0x4000 == 0 return
             mark set mark xor 0x4000
             masquerade fully-random; }}
           {endpoints}
           chain service-x {{ {ip} daddr {vip} tcp dport {port} {ip} saddr != {pods} jump mark-for-masquerade
             {all}; }}
           chain external-cluster {{ jump mark-for-masquerade
             goto service-x; }}
           chain external-local {{ {ip} saddr {pods} goto service-x
             fib saddr type local jump mark-for-masquerade
             fib saddr type local goto service-x
             {own}; }}
           chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips
             fib daddr type local meta l4proto . th dport vmap @service-nodeports; }}
           chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
           chain nat-output {{ type nat hook output priority -100; jump services; }}
           chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
         }}\n"
    )
}

fn endpoint(to: &SocketAddr) -> String {
    let name = to.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("endpoint-{}", name.trim_matches('-'))
}

/// As `iptables-restore` takes it.
fn iptables(netns: &Netns, kind: &str, service: &Service) {
    let Service { vip, port, cluster, local, pods, endpoints, own } = service;
    let mut chains = String::new();
    let mut rules = String::new();
    let mut choose = |chain: &str, among: &[SocketAddr]| {
        for (n, to) in among.iter().enumerate() {
            let some = among.len() - n;
            let chance = format!(
                "-m statistic --mode random --probability {:.6}",
                1.0 / f64::from(u32::try_from(some).unwrap())
            );
            let chance = if some > 1 { chance } else { String::new() };
            let at = endpoints.iter().position(|known| known == to).unwrap();
            let _ = writeln!(rules, "-A {chain} {chance} -j KUBE-SEP-{at}");
        }
    };
    let mark = "-j KUBE-MARK-MASQ";
    choose("KUBE-SVC-X", endpoints);
    choose("KUBE-SVL-X", own);
    for (n, to) in endpoints.iter().enumerate() {
        let _ = writeln!(chains, ":KUBE-SEP-{n} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-SEP-{n} -s {} {mark}", to.ip());
        let _ = writeln!(rules, "-A KUBE-SEP-{n} -p tcp -j DNAT --to-destination {to}");
    }
    let text = format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-X - [0:0]
:KUBE-SVL-X - [0:0]
:KUBE-EXT-C - [0:0]
:KUBE-EXT-L - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d {vip} -p tcp -m tcp --dport {port} -j KUBE-SVC-X
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport {cluster} -j KUBE-EXT-C
-A KUBE-NODEPORTS -p tcp -m tcp --dport {local} -j KUBE-EXT-L
-A KUBE-EXT-C {mark}
-A KUBE-EXT-C -j KUBE-SVC-X
-A KUBE-EXT-L -s {pods} -j KUBE-SVC-X
-A KUBE-EXT-L -m addrtype --src-type LOCAL {mark}
-A KUBE-EXT-L -m addrtype --src-type LOCAL -j KUBE-SVC-X
-A KUBE-EXT-L -j KUBE-SVL-X
-A KUBE-SVC-X ! -s {pods} -d {vip} -p tcp -m tcp --dport {port} {mark}
{rules}COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"
    );
    std::fs::write("/run/rules", text).unwrap();
    let tool = if vip.is_ipv4() { "iptables" } else { "ip6tables" };
    sh(netns, &format!("{tool}-{kind}-restore --noflush < /run/rules"));
}
