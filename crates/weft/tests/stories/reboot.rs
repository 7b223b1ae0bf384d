//! What `ip link` makes does not outlive a boot, nor the device below it. weft makes it again: VTEPs,
//! bridges, parents at once, and a pod's link as long as its namespace lives.

use crate::{
    lan::{lan, meet},
    macvlan::{attach, plug, unplug},
    story::*,
};

/// The first node reboots; its next pod is reached by the pods that the others have.
fn comes_back(site: &Site, join: &str) {
    let (mut pods, _echo) = answering(site);
    assert!(reaches(&pods[0], &pods[1]) && reaches(&pods[1], &pods[0]));
    let node = &site.nodes[0];
    reboot(node, [pods.remove(0)]);
    site.settled("net", join).unwrap();
    let again = node.add_pod("again", "net").unwrap();
    let _echo = responders([&again]);
    until("reached", || reaches(&pods[0], &again) && reaches(&again, &pods[0]));
    site.nodes.iter().for_each(empty_plan);
}

#[test]
fn a_node_that_reboots_has_its_tunnels_and_bridges_again() {
    for (attach, join) in [("veth", "vxlan"), ("bridge", "vxlan-bridged"), ("bridge", "host-gw")] {
        comes_back(&cluster(2, attach, join), join);
    }
}

#[test]
fn a_node_that_reboots_joins_its_group_again() {
    comes_back(&cluster(2, "veth", "vxlan+multicast"), "vxlan+multicast");
}

/// Article: IP VLAN, MAC VLAN | interfaces made with `ip link` are not persistent without an administrator's scripts
/// Negative: with the NIC gone, or the node just booted, nothing arrives; again once it is back, with the same address
#[test]
fn links_on_a_nic_are_made_again_after_a_boot_and_after_their_nic() {
    for mode in ["bridge", "private"] {
        let site = crate::lan::on_lan(&Plan { pods: 1, ..lan(2) }, &attach(mode));
        comes_back(&site, "underlay");
        // The NIC goes, and with it the links of pods that live.
        let (pods, _echo) = (site.add_pods("net", "late-").unwrap(), ());
        let _echo = responders(&pods);
        let node = &site.nodes[0];
        let had = pods[0].addrs.clone();
        unplug(node);
        assert!(!meet(&pods, "late-a1", "late-b1"));
        plug(&site, node);
        until("meeting again", || meet(&pods, "late-a1", "late-b1"));
        let addrs = sh(&pods[0].netns, "ip -o addr show dev eth0");
        assert!(had.iter().all(|addr| addrs.contains(&format!("{addr}/"))), "{addrs}");
    }
}
