//! What the host has besides us, as the loop asks for it: its underlay, its sysctls, its firewall.

use std::{collections::BTreeMap, fs, path::Path};

use ipnet::IpNet;
use weft_core::{desired::Host, join::Receive, name::IfName, paths::Nic, state::Knob};
use weft_linux::{HostLink, Observed, Passing};

use super::{Agent, Serving, node::Memory, underlay};

/// What the host has besides us: its underlay, its sysctls, what its firewall drops or translates.
pub(super) fn ask(agent: &Agent, memory: &mut Memory, observed: &Observed, serving: &mut Serving) {
    let nics = underlay::find(&observed.links, &agent.config.underlay);
    if let Ok(nics) = &nics {
        if memory.nics != *nics {
            memory.reach.clear();
        }
        memory.nics.clone_from(nics);
        serving.nics.clone_from(nics);
    }
    // Without an underlay the paths that are there stay: it may come back.
    memory.no_underlay = nics.err();
    serving.host = host(agent, &observed.links, &serving.nics);
    memory.strangers = super::daemons::find(Path::new("/"));
    let (ranges, ports) = passing(agent, &agent.serving());
    let passing = Passing { ranges: &ranges, ports: &ports };
    if let Ok(findings) = agent.kernel.foreign_firewall(&passing) {
        memory.strangers.extend(findings.iter().map(ToString::to_string));
    }
}

/// What no firewall may stop: pods' ranges, and the ports of tunnels.
fn passing(agent: &Agent, last: &Serving) -> (Vec<IpNet>, Vec<u16>) {
    let shown = agent.shown();
    let ranges = shown.view.networks.values().flat_map(|network| network.ranges.clone());
    let held = last.networks.values().flat_map(|here| &here.stage.hold);
    (ranges.collect(), held.filter_map(Receive::port).collect())
}

fn host(agent: &Agent, links: &[HostLink], nics: &[Nic]) -> Host {
    let nic_of = |dev: &IfName| nics.iter().any(|nic| nic.dev == *dev);
    let strict = |dev: &IfName| {
        let value = |of: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
            fs::read_to_string(path).ok().and_then(|v| v.trim().parse::<u8>().ok()).unwrap_or(0)
        };
        value("all").max(value(dev.as_str())) == 1
    };
    Host {
        ra_devices: links.iter().filter(|l| l.ra_route).map(|link| link.dev.clone()).collect(),
        strict_devices: links
            .iter()
            .filter(|link| nic_of(&link.dev) && strict(&link.dev))
            .map(|link| link.dev.clone())
            .collect(),
        foreign_nat: agent.kernel.foreign_nat().unwrap_or(true),
        bridge_calls: Path::new("/proc/sys").join(Knob::BridgeCall4.path()).exists(),
        wire: nics.iter().map(|nic| nic.mtu).min(),
        nics: nics.to_vec(),
        parents: BTreeMap::new(),
        learnt: agent.serving().host.learnt.clone(),
    }
}
