//! Two hosts on a wire, and commands run in them.

use std::{net::IpAddr, process::Command};

use anyhow::bail;
use weft_linux::{Netns, rig};

use super::super::contender::Agent;

/// Two hosts on a wire, and a pod on each.
pub struct Pair {
    pub name: String,
    pub from: Netns,
    pub to: Netns,
    pub addr: IpAddr,
    /// What must live as long.
    pub(super) _hold: (Vec<Netns>, Vec<Agent>),
}

/// 192.0.2.1 and .2, with forwarding on.
pub fn hosts() -> anyhow::Result<[Netns; 2]> {
    let hosts = [Netns::create()?, Netns::create()?];
    rig::pair(&hosts[0], "eth0", &hosts[1], "eth0", 1500)?;
    for (host, n) in hosts.iter().zip(1..) {
        host.run(|| rig::up_here("lo"))??;
        rig::addr(host, "eth0", format!("192.0.2.{n}/24").parse()?)?;
        rig::sysctl(host, "net/ipv4/ip_forward", "1")?;
    }
    Ok(hosts)
}

pub fn host_to_host() -> anyhow::Result<Pair> {
    let [from, to] = hosts()?;
    let addr = "192.0.2.2".parse()?;
    Ok(Pair { name: "host to host".into(), from, to, addr, _hold: (vec![], vec![]) })
}

pub fn sh(netns: &Netns, command: &str) -> anyhow::Result<()> {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output())??;
    if !out.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(())
}
