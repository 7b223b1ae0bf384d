//! weft as it is: real agents, pods attached through the real plugin.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde_json::json;
use weft_linux::Netns;

use super::{
    super::contender::{ask, attach, start_agent_on},
    hosts::{Pair, hosts},
};

/// Every attach × join as on a node where nobody else translates addresses, and what one gets
/// beside kube-proxy, where pods' packets must be tracked.
pub fn all(weft: &Path, plugin: &Path) -> anyhow::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for kind in ["veth", "bridge"] {
        for join in ["vxlan", "host-gw", "auto"] {
            pairs.push(two_nodes(weft, plugin, kind, join, true)?);
        }
    }
    for join in ["vxlan", "host-gw"] {
        pairs.push(two_nodes(weft, plugin, "veth", join, false)?);
    }
    Ok(pairs)
}

/// Two agents on one store, a pod attached on each.
fn two_nodes(
    weft: &Path,
    plugin: &Path,
    kind: &str,
    join: &str,
    untracked: bool,
) -> anyhow::Result<Pair> {
    let hosts = hosts()?;
    let name = format!("weft {kind} {join}{}", if untracked { "" } else { " tracked" });
    let plain = name.replace(' ', "-");
    let dir = PathBuf::from(format!("/run/path-{plain}"));
    let network = json!({
        "attach": kind, "join": join, "ranges": ["10.1.0.0/16"], "default": true,
        "untracked": if untracked { "auto" } else { "never" },
    });
    let (mut pods, mut agents, mut addr) = (Vec::new(), Vec::new(), None);
    for (host, n) in hosts.iter().zip(1..) {
        let own = dir.join(format!("host{n}"));
        let store = dir.join("store");
        let agent =
            host.run(|| start_agent_on(weft, &own, &store, &format!("host{n}"), &network))??;
        agents.push(agent);
        let (pod, path) = (Netns::create()?, PathBuf::from(format!("/run/netns/{plain}-{n}")));
        pod.bind(&path)?;
        addr = Some(host.run(|| attach(plugin, &own, &format!("pod{n}"), &path))??);
        pods.push(pod);
    }
    // Both know each other once nothing is left to do.
    for n in 1..=2 {
        let own = dir.join(format!("host{n}"));
        let end = Instant::now() + Duration::from_secs(20);
        while !(ask(weft, &own, &["plan"]) && ask(weft, &own, &["status"])) {
            if Instant::now() > end {
                bail!("{name}: host{n} does not settle");
            }
        }
    }
    thread::sleep(Duration::from_millis(500));
    let (Some(to), Some(from), Some(addr)) = (pods.pop(), pods.pop(), addr) else {
        bail!("two pods were made")
    };
    Ok(Pair { name, from, to, addr, _hold: (hosts.into(), agents) })
}
