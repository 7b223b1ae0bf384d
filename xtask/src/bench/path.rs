//! What each way of joining two hosts costs, as a ratio to host to host on the same wire. Rivals'
//! ways are set up beside, by the commands that one would type.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde_json::{Map, json};
use weft_linux::{Netns, rig, sandbox};

use super::{
    Rounds,
    contender::{Agent, ask, attach, start_agent_on},
    load::{Load, measure},
};
use crate::run::{cargo, plugin, step, target};

/// Two hosts on a wire, and a pod on each.
struct Pair {
    name: String,
    from: Netns,
    to: Netns,
    addr: IpAddr,
    /// What must live as long.
    _hold: (Vec<Netns>, Vec<Agent>),
}

pub fn path(rounds: &Rounds) -> anyhow::Result<()> {
    let plugin = plugin()?;
    step("build weft", cargo().args(["build", "--release", "--package", "weft"]))?;
    let weft = target().join("release/weft");
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    std::fs::create_dir_all("/run/netns")?;
    let mut pairs = vec![host_to_host()?];
    for (name, vxlan) in [("flannel vxlan", true), ("flannel host-gw", false)] {
        pairs.push(flannel(name, vxlan)?);
    }
    for attach in ["veth", "bridge"] {
        for join in ["vxlan", "host-gw"] {
            pairs.push(ours(&weft, &plugin, attach, join)?);
        }
    }
    let mut rates: BTreeMap<(usize, Load), Vec<f64>> = BTreeMap::new();
    for round in 0..=rounds.turns {
        for (at, pair) in pairs.iter().enumerate() {
            for (load, name) in Load::ALL {
                let rate = measure(load, &pair.from, &pair.to, pair.addr)
                    .with_context(|| format!("{} {name}", pair.name))?;
                if round > 0 {
                    rates.entry((at, load)).or_default().push(rate);
                }
            }
        }
    }
    report(&pairs, &mut rates, rounds);
    Ok(())
}

fn report(pairs: &[Pair], rates: &mut BTreeMap<(usize, Load), Vec<f64>>, rounds: &Rounds) {
    let mut median = |at: usize, load: Load| {
        rates.get_mut(&(at, load)).map_or(f64::NAN, |values| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        })
    };
    let mut figures = Map::new();
    print!("{:<22}", "ratio to host to host");
    Load::ALL.iter().for_each(|(_, name)| print!(" {name:>17}"));
    println!();
    for (at, pair) in pairs.iter().enumerate() {
        print!("{:<22}", pair.name);
        for (load, name) in Load::ALL {
            let (rate, floor) = (median(at, load), median(0, load));
            print!(" {:>17.2}", rate / floor);
            let key = format!("{}.{name}", pair.name.replace(' ', "_"));
            figures.insert(key, json!({"ratio": rate / floor, "per_s": rate}));
        }
        println!();
    }
    if rounds.json {
        println!("{}", json!({"bench": "path", "rounds": rounds.turns, "figures": figures}));
    }
}

fn sh(netns: &Netns, command: &str) -> anyhow::Result<()> {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output())??;
    if !out.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}

/// Two hosts, 192.0.2.1 and .2, with forwarding on.
fn hosts() -> anyhow::Result<[Netns; 2]> {
    let hosts = [Netns::create()?, Netns::create()?];
    rig::pair(&hosts[0], "eth0", &hosts[1], "eth0", 1500)?;
    for (host, n) in hosts.iter().zip(1..) {
        host.run(|| rig::up_here("lo"))??;
        rig::addr(host, "eth0", format!("192.0.2.{n}/24").parse()?)?;
        rig::sysctl(host, "net/ipv4/ip_forward", "1")?;
    }
    Ok(hosts)
}

fn host_to_host() -> anyhow::Result<Pair> {
    let [from, to] = hosts()?;
    let addr = "192.0.2.2".parse()?;
    Ok(Pair { name: "host to host".into(), from, to, addr, _hold: (vec![], vec![]) })
}

/// Bridge, VXLAN device or direct routes, and flannel's forward and masquerade rules in nft.
fn flannel(name: &str, vxlan: bool) -> anyhow::Result<Pair> {
    let hosts = hosts()?;
    let mut pods = Vec::new();
    for (host, n) in hosts.iter().zip(1..) {
        let (other, mtu) = (3 - n, if vxlan { 1450 } else { 1500 });
        let pod = Netns::create()?;
        let path = format!("/run/netns/rival-{vxlan}-{n}");
        pod.bind(Path::new(&path))?;
        sh(
            host,
            &format!(
                "ip link add cni0 type bridge; ip link set cni0 mtu {mtu} up; ip addr add 10.244.{n}.1/24 dev cni0; \
             ip link add v0 type veth peer name eth0 netns rival-{vxlan}-{n}; ip link set v0 mtu {mtu} master cni0 up"
            ),
        )?;
        sh(
            &pod,
            &format!(
                "ip link set lo up; ip link set eth0 mtu {mtu} up; ip addr add 10.244.{n}.2/24 dev eth0; \
             ip route add default via 10.244.{n}.1"
            ),
        )?;
        let way = if vxlan {
            format!(
                "ip link add flannel.1 address 02:00:00:00:00:0{n} type vxlan id 1 dstport 8472 local 192.0.2.{n} nolearning; \
                 ip addr add 10.244.{n}.0/32 dev flannel.1; ip link set flannel.1 mtu 1450 up; \
                 ip neigh add 10.244.{other}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent; \
                 bridge fdb add 02:00:00:00:00:0{other} dev flannel.1 dst 192.0.2.{other}; \
                 ip route add 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink"
            )
        } else {
            format!("ip route add 10.244.{other}.0/24 via 192.0.2.{other}")
        };
        sh(host, &way)?;
        sh(
            host,
            &format!(
                "nft add table ip flannel; \
             nft 'add chain ip flannel forward {{ type filter hook forward priority 0; }}'; \
             nft add rule ip flannel forward ip saddr 10.244.0.0/16 accept; \
             nft add rule ip flannel forward ip daddr 10.244.0.0/16 accept; \
             nft 'add chain ip flannel postrtg {{ type nat hook postrouting priority 100; }}'; \
             nft add rule ip flannel postrtg meta mark and 0x4000 == 0x4000 return; \
             nft add rule ip flannel postrtg ip saddr 10.244.{n}.0/24 ip daddr 10.244.0.0/16 return; \
             nft add rule ip flannel postrtg ip saddr 10.244.0.0/16 ip daddr 10.244.{n}.0/24 return; \
             nft add rule ip flannel postrtg ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade"
            ),
        )?;
        pods.push(pod);
    }
    let (Some(to), Some(from)) = (pods.pop(), pods.pop()) else { bail!("two pods were made") };
    let addr = "10.244.2.2".parse()?;
    Ok(Pair { name: name.into(), from, to, addr, _hold: (hosts.into(), vec![]) })
}

/// Two real agents on one store, a pod attached on each through the real plugin.
fn ours(weft: &Path, plugin: &Path, kind: &str, join: &str) -> anyhow::Result<Pair> {
    let hosts = hosts()?;
    let dir = PathBuf::from(format!("/run/path-{kind}-{join}"));
    let network = json!({"attach": kind, "join": join, "ranges": ["10.1.0.0/16"], "default": true});
    let (mut pods, mut agents, mut addr) = (Vec::new(), Vec::new(), None);
    for (host, n) in hosts.iter().zip(1..) {
        let own = dir.join(format!("host{n}"));
        let agent = host.run(|| {
            start_agent_on(weft, &own, &dir.join("store"), &format!("host{n}"), &network)
        })??;
        agents.push(agent);
        let (pod, path) =
            (Netns::create()?, PathBuf::from(format!("/run/netns/{kind}-{join}-{n}")));
        pod.bind(&path)?;
        addr = Some(host.run(|| attach(plugin, &own, &format!("pod{n}"), &path))??);
        pods.push(pod);
    }
    // Both know each other once nothing is left to do.
    for n in 1..=2 {
        let own = dir.join(format!("host{n}"));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !(ask(weft, &own, &["plan"]) && ask(weft, &own, &["status"])) {
            if std::time::Instant::now() > end {
                bail!("{kind} {join}: host{n} does not settle");
            }
        }
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (Some(to), Some(from), Some(addr)) = (pods.pop(), pods.pop(), addr) else {
        bail!("two pods were made")
    };
    Ok(Pair { name: format!("weft {kind} {join}"), from, to, addr, _hold: (hosts.into(), agents) })
}
