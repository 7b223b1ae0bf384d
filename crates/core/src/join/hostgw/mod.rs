//! Direct routing (Flannel's host-gw): a pod packet goes as it is to the node that has the pod.
//! Costs nothing; needs every peer on the same link, and an underlay that lets packets with pod
//! addresses through.

use serde::{Deserialize, Serialize};

use super::{Joining, Receive, Receiver, Way};
use crate::paths::{Path, Peer, Refusal, Sender};

/// It has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostGw {}

impl Joining for HostGw {
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive> {
        me.underlay.iter().map(|underlay| Receive::Direct { underlay: *underlay }).collect()
    }
    fn order(&self) -> &'static [Way] {
        &[Way::Direct]
    }
}

/// An IPv4 route may have an IPv6 next hop; an IPv6 route can't have an IPv4 one (fib6_nh_init).
pub fn path(
    receive: &Receive,
    sender: &Sender<'_>,
    peer: &Peer<'_>,
    ipv4: bool,
) -> Result<Path, Refusal> {
    let underlay = receive.underlay();
    if !ipv4 && underlay.is_ipv4() {
        return Err(Refusal::Ipv6OverIpv4 { underlay });
    }
    peer.tunnel_address(ipv4).ok_or(Refusal::NoBlock { ipv4 })?;
    let reach = sender.reach.get(&underlay).and_then(Option::as_ref);
    let reach = reach.ok_or(Refusal::NoRoute { underlay })?;
    if let Some(gateway) = reach.gateway {
        return Err(Refusal::NotOnLink { underlay, gateway });
    }
    let (dev, mtu) = (reach.dev.clone(), reach.mtu.min(peer.mtu));
    if let Some(parent) = sender.only_by.filter(|parent| **parent != dev) {
        return Err(Refusal::NotByParent { underlay, dev, parent: parent.clone() });
    }
    Ok(Path { receive: receive.clone(), dev, via: underlay, mtu, overhead: 0, legs: Vec::new() })
}
