//! The device of a node that pods' links are children of: a NIC, or a VLAN of one.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Ground, NextHop};
use crate::{
    name::{IfName, Mac, Mtu},
    state::{Kind, Link, Object, State},
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Parent {
    /// The node's NIC that is on the network; of the same name on every node.
    #[serde(rename = "parent")]
    pub nic: IfName,
    /// A VLAN of the NIC (IEEE 802.1Q); weft makes and removes its device.
    #[serde(default)]
    pub vlan: Option<VlanId>,
}

/// Of a VLAN: 1 to 4094 (IEEE 802.1Q, table 9-2 reserves the others).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u16")]
pub struct VlanId(u16);

impl VlanId {
    pub fn get(self) -> u16 {
        self.0
    }
}
#[cfg(feature = "schema")]
impl schemars::JsonSchema for VlanId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VlanId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": 4094})
    }
}
impl TryFrom<u64> for VlanId {
    type Error = String;
    fn try_from(id: u64) -> Result<Self, String> {
        u16::try_from(id)
            .ok()
            .filter(|id| (1..4095).contains(id))
            .map(Self)
            .ok_or_else(|| format!("{id} is no VLAN's number: use 1 to 4094"))
    }
}
impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.0
    }
}
impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a NIC that a network names stands on a node that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub mtu: Mtu,
    pub mac: Mac,
    pub up: bool,
    /// The device that children are made of is there too: of a VLAN, its own.
    pub ready: bool,
}

impl Parent {
    /// The device that children are made of.
    pub fn dev(&self) -> IfName {
        match self.vlan {
            Some(vlan) => IfName::derived(IfName::VLAN, &format!("{}.{vlan}", self.nic)),
            None => self.nic.clone(),
        }
    }

    /// What the node holds so that there is such a device.
    pub fn hold(&self, on: &Ground<'_>) -> State {
        let (Some(vlan), Some(nic)) = (self.vlan, on.parent) else { return State::default() };
        let (dev, kind) = (self.dev(), Kind::Vlan { lower: self.nic.clone(), id: vlan });
        let link = Link { dev: dev.clone(), kind, mtu: nic.mtu, mac: nic.mac, master: None };
        // It can't be up where its NIC is down (net/8021q/vlan_dev.c, `vlan_dev_open`).
        let up = nic.up.then_some(Object::Up { dev });
        [Object::Link(link)].into_iter().chain(up).collect()
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.nic)?;
        self.vlan.iter().try_for_each(|vlan| write!(f, " vlan {vlan}"))
    }
}

/// The address of a pod that stands on the parent's network, with the network's own prefix.
pub(super) fn on_network(addr: IpAddr, on: &Ground<'_>) -> IpNet {
    let prefix =
        on.range_of(addr).map_or_else(|| IpNet::from(addr).prefix_len(), IpNet::prefix_len);
    IpNet::new(addr, prefix).unwrap_or_else(|_| addr.into())
}

/// A router of the network, found as strangers are: by asking.
pub(super) fn router(addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
    let gateway = on.gateways.iter().find(|gateway| gateway.is_ipv4() == addr.is_ipv4());
    gateway.map(|gateway| NextHop { ip: *gateway, mac: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_a_device_of_its_own() {
        let parent = |vlan: Option<u64>| Parent {
            nic: IfName::new("eth1"),
            vlan: vlan.map(|id| VlanId::try_from(id).unwrap()),
        };
        assert_eq!(parent(None).dev().as_str(), "eth1");
        assert_eq!(parent(Some(100)).dev().as_str(), "weftv-eth1.100");
        assert_eq!(parent(Some(100)).to_string(), "eth1 vlan 100");
        for bad in [0, 4095, 65637] {
            assert!(VlanId::try_from(bad).is_err(), "{bad}");
        }
    }
}
