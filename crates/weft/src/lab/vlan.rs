//! The guided run's part on VLANs: two networks with the same addresses on two VLANs of one NIC are two
//! worlds.

use anyhow::ensure;
use serde_json::{Value, json};
use weft_linux::rig;

use super::{Cluster, Pod, Responder, guide::clean, probe::reach, show::Show};

const NETWORKS: [(&str, u16); 2] = [("red", 100), ("blue", 200)];

fn network(vlan: u16) -> Value {
    json!({
        "attach": {"kind": "macvlan", "parent": "eth1", "vlan": vlan}, "join": "underlay",
        "ranges": ["10.78.0.0/24"], "hostAccess": false,
    })
}

pub fn run(cluster: &Cluster, show: &Show) -> anyhow::Result<()> {
    show.step("\n== VLANs 100 and 200 of eth1: networks red and blue, the same addresses in both");
    if !rig::has_kind("vlan")? {
        show.step("   left out, this kernel has none (CONFIG_VLAN_8021Q)");
        return Ok(());
    }
    for (name, vlan) in NETWORKS {
        cluster.apply(name, &network(vlan))?;
        for node in &cluster.nodes {
            node.wait_until("with a block", |node| {
                let blocks = &node.status()?["networks"][name]["blocks"];
                Ok(blocks.as_array().is_some_and(|own| !own.is_empty()))
            })?;
        }
    }
    let red = cluster.add_pods_of(1, "red", "red-")?;
    let blue = cluster.nodes[0].add_pod("blue-a1", "blue")?;
    let responders: Vec<Responder> = red.iter().map(Responder::start).collect::<Result<_, _>>()?;
    let others =
        |pod: &Pod| red.iter().filter(|other| other.addrs != pod.addrs).collect::<Vec<_>>();
    for from in &red {
        for to in others(from) {
            ensure!(met(from, to), "{} does not reach {}", from.name, to.name);
        }
    }
    for to in others(&blue) {
        ensure!(!met(&blue, to), "{} reaches {} of another VLAN", blue.name, to.name);
    }
    show.step(
        "   pods of red reach each other; to a pod of blue nobody answers at red's addresses",
    );
    drop(responders);
    cluster.nodes[0].delete_pod(blue)?;
    cluster.delete_pods(red)?;
    clean(cluster, &NETWORKS.map(|(name, _)| name))?;
    show.step("   pods and networks deleted, and with them the VLANs' devices");
    Ok(())
}

fn met(from: &Pod, to: &Pod) -> bool {
    to.addrs.iter().all(|addr| reach(&from.netns, *addr).is_some())
}
