//! Data paths made with the commands that one would type: flannel's, and weft's one thing at a time.

use std::path::Path;

use anyhow::bail;
use weft_linux::Netns;

use super::hosts::{Pair, hosts, sh};

/// A way between two pods.
#[derive(Clone, Copy)]
pub struct Plain {
    pub attach: Attach,
    pub vxlan: bool,
    pub rules: Rules,
}

#[derive(Clone, Copy)]
pub enum Attach {
    /// A routed pair, the pod has its address alone.
    Veth,
    Bridge,
}

#[derive(Clone, Copy)]
pub enum Rules {
    None,
    /// weft's table; whether pod-to-pod packets are tracked, and VXLAN's own.
    Weft {
        inner: Track,
        outer: Track,
    },
    /// Forward and masquerade as flannel writes them.
    Flannel,
    /// None but what a pod may send as.
    Judged(Judge),
}

/// How a pod's source is judged.
#[derive(Clone, Copy)]
pub enum Judge {
    /// As weft does: by a set of links and addresses.
    Set,
    /// By the route back.
    Fib,
    /// By a chain for each link.
    Ingress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Track {
    Yes,
    No,
}

const PORT: u16 = 8472;

/// Bridge, VXLAN device or direct routes, and flannel's forward and masquerade rules in nft.
pub fn flannel(join: &str) -> anyhow::Result<Pair> {
    let plain = Plain { attach: Attach::Bridge, vxlan: join == "vxlan", rules: Rules::Flannel };
    plain.build(&format!("flannel {join}"))
}

impl Plain {
    pub fn build(self, name: &str) -> anyhow::Result<Pair> {
        let hosts = hosts()?;
        let mut pods = Vec::new();
        for (host, n) in hosts.iter().zip(1..) {
            let (pod, netns) = (
                Netns::create()?,
                format!("{}-{n}", name.replace(|c: char| !c.is_alphanumeric(), "-")),
            );
            pod.bind(&Path::new("/run/netns").join(&netns))?;
            let (outside, inside) = self.attach(n, &netns);
            sh(host, &outside)?;
            sh(&pod, &inside)?;
            sh(host, &self.join(n))?;
            for rule in self.rules(n) {
                sh(host, &format!("nft '{rule}'"))?;
            }
            pods.push(pod);
        }
        let (Some(to), Some(from)) = (pods.pop(), pods.pop()) else { bail!("two pods were made") };
        let addr = "10.244.2.2".parse()?;
        Ok(Pair { name: name.into(), from, to, addr, _hold: (hosts.into(), vec![]) })
    }

    /// Commands for the host, and for the pod.
    fn attach(self, n: u32, netns: &str) -> (String, String) {
        let mtu = if self.vxlan { 1450 } else { 1500 };
        match self.attach {
            Attach::Veth => (
                format!(
                    "ip link add v0 mtu {mtu} address 02:77:65:66:74:01 numtxqueues 1 numrxqueues 1 type veth \
                       peer name eth0 mtu {mtu} address 02:00:00:00:01:0{n} numtxqueues 1 numrxqueues 1 netns {netns}; \
                     ip link set v0 up; ip route add 10.244.{n}.2 dev v0; \
                     ip neigh add 10.244.{n}.2 lladdr 02:00:00:00:01:0{n} dev v0 nud permanent"
                ),
                format!(
                    "ip link set lo up; ip link set eth0 up; ip addr add 10.244.{n}.2/32 dev eth0; \
                     ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1; \
                     ip neigh add 169.254.1.1 lladdr 02:77:65:66:74:01 dev eth0 nud permanent"
                ),
            ),
            Attach::Bridge => (
                format!(
                    "ip link add cni0 type bridge; ip link set cni0 mtu {mtu} up; ip addr add 10.244.{n}.1/24 dev cni0; \
                     ip link add v0 type veth peer name eth0 address 02:00:00:00:01:00 netns {netns}; ip link set v0 mtu {mtu} master cni0 up"
                ),
                format!(
                    "ip link set lo up; ip link set eth0 mtu {mtu} up; ip addr add 10.244.{n}.2/24 dev eth0; \
                     ip route add default via 10.244.{n}.1"
                ),
            ),
        }
    }

    fn join(self, n: u32) -> String {
        let other = 3 - n;
        if !self.vxlan {
            return format!("ip route add 10.244.{other}.0/24 via 192.0.2.{other}");
        }
        format!(
            "ip link add flannel.1 address 02:00:00:00:00:0{n} type vxlan id 1 dstport {PORT} local 192.0.2.{n} nolearning; \
             ip addr add 10.244.{n}.0/32 dev flannel.1; ip link set flannel.1 mtu 1450 up; \
             ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent; \
             bridge fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 192.0.2.{other}; \
             ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink"
        )
    }

    fn rules(self, n: u32) -> Vec<String> {
        let all = "10.244.0.0/16";
        match self.rules {
            Rules::None => vec![],
            Rules::Flannel => vec![
                "add table ip flannel".into(),
                "add chain ip flannel forward { type filter hook forward priority 0; }".into(),
                format!("add rule ip flannel forward ip saddr {all} accept"),
                format!("add rule ip flannel forward ip daddr {all} accept"),
                "add chain ip flannel postrtg { type nat hook postrouting priority 100; }".into(),
                "add rule ip flannel postrtg meta mark and 0x4000 == 0x4000 return".into(),
                format!(
                    "add rule ip flannel postrtg ip saddr 10.244.{n}.0/24 ip daddr {all} return"
                ),
                format!(
                    "add rule ip flannel postrtg ip saddr {all} ip daddr 10.244.{n}.0/24 return"
                ),
                format!(
                    "add rule ip flannel postrtg ip saddr {all} ip daddr != 224.0.0.0/4 masquerade"
                ),
            ],
            Rules::Weft { inner, outer } => weft(inner, outer, all),
            Rules::Judged(by) => judged(self.attach, by, n),
        }
    }
}

/// The pod's address, known by the node's end of its link, beside that of another.
fn judged(attach: Attach, by: Judge, n: u32) -> Vec<String> {
    let (family, mac, key) = match attach {
        Attach::Veth => ("inet", String::new(), "ipv4_addr"),
        Attach::Bridge => ("bridge", " . ether saddr".into(), "ether_addr . ipv4_addr"),
    };
    let own = format!(
        "\"v0\" . {}10.244.{n}.2",
        if mac.is_empty() { "" } else { "02:00:00:00:01:00 . " }
    );
    let chain = |hook: &str| {
        format!("add chain {family} judge c {{ type filter hook {hook} priority -310; }}")
    };
    let table = format!("add table {family} judge");
    match by {
        Judge::Set => vec![
            table,
            chain("prerouting"),
            format!("add set {family} judge own {{ type ifname . {key}; }}"),
            format!("add set {family} judge ends {{ type ifname; }}"),
            format!("add element {family} judge own {{ {own} }}"),
            format!("add element {family} judge ends {{ \"v0\" }}"),
            format!("add rule {family} judge c iifname != \"v*\" accept"),
            format!("add rule {family} judge c iifname{mac} . ip saddr @own accept"),
            format!("add rule {family} judge c meta protocol != ip accept"),
            format!("add rule {family} judge c iifname @ends drop"),
        ],
        Judge::Fib => vec![
            table,
            chain("prerouting"),
            format!("add rule {family} judge c iifname \"v*\" fib saddr . iif oif missing drop"),
        ],
        Judge::Ingress => vec![
            "add table netdev judge".into(),
            "add chain netdev judge c { type filter hook ingress device v0 priority 0; }".into(),
            format!("add rule netdev judge c ip saddr 10.244.{n}.2 accept"),
            "add rule netdev judge c meta protocol ip drop".into(),
        ],
    }
}

/// What `nft list table inet weft` shows on a node of weft's, and whether VXLAN's own packets are
/// left untracked, which weft does not do.
fn weft(inner: Track, outer: Track, all: &str) -> Vec<String> {
    let hooks = ["prerouting", "output"];
    let mut rules = vec!["add table inet weft".into()];
    rules.extend(hooks.map(|hook| {
        format!("add chain inet weft {hook} {{ type filter hook {hook} priority raw; }}")
    }));
    rules.push(
        "add chain inet weft postrouting { type nat hook postrouting priority srcnat; }".into(),
    );
    for hook in hooks {
        if inner == Track::No {
            rules.push(format!("add rule inet weft {hook} ip saddr {all} ip daddr {all} notrack"));
        }
        if outer == Track::No {
            rules.push(format!("add rule inet weft {hook} udp dport {PORT} notrack"));
        }
    }
    rules.extend(
        [all, "224.0.0.0/4", "255.255.255.255"].map(|to| {
            format!("add rule inet weft postrouting ip saddr {all} ip daddr {to} return")
        }),
    );
    rules.push(format!("add rule inet weft postrouting ip saddr {all} masquerade"));
    rules
}
