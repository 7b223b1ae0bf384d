//! The best way per peer: direct where the peer is on-link by the kernel's own route lookup, VXLAN
//! elsewhere. Every node can be reached both ways, the sender chooses.

use serde::{Deserialize, Serialize};

use super::{Joining, Receive, Receiver, Way, hostgw::HostGw, vxlan::Vxlan};
use crate::name::Vni;

/// Settings of the tunnel that serves where direct routing does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Auto {
    #[serde(flatten)]
    pub tunnel: Vxlan,
}

impl Joining for Auto {
    fn receives(&self, me: &Receiver<'_>) -> Vec<Receive> {
        let mut receives = HostGw {}.receives(me);
        receives.extend(self.tunnel.receives(me));
        receives
    }
    fn order(&self) -> &'static [Way] {
        &[Way::Direct, Way::Vxlan]
    }
    fn check(&self) -> Result<(), String> {
        match self.tunnel.finding.group {
            Some(_) => Err("discovery: multicast is for joins vxlan and vxlan-bridged".into()),
            None => self.tunnel.finding.check(),
        }
    }
    fn vni(&self) -> Option<Vni> {
        Some(self.tunnel.vni)
    }
}
