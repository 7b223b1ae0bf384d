//! A child of a NIC that shares the NIC's MAC address (IPVLAN): where a switch admits one address
//! per port, or a cloud drops what it does not know. The parent tells its children's packets apart
//! by their IP addresses.
//!
//! In mode `l2` pods are hosts of the NIC's network, as of macvlan. In `l3` and `l3s` they have no
//! link at all: the node's routing table sends their packets on by the parent, so other nodes need
//! routes, which the join writes. A packet between pods of a node never leaves the parent.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Attaching, Birth, Footing, Ground, NextHop, Parent, Siblings,
    parent::{on_network, router},
    veth,
};
use crate::{
    attachment::Attachment,
    name::Mac,
    state::{Kind, Knob, Link, Object, State},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ipvlan {
    #[serde(flatten)]
    pub parent: Parent,
    #[serde(default)]
    pub mode: Mode,
    /// Who on the node may meet whom.
    #[serde(default)]
    pub flag: Flag,
}

/// As iproute2 names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Hosts of the NIC's network.
    #[default]
    L2,
    /// Routed by the node, past its rules for what comes in.
    L3,
    /// Routed by the node, with all of its rules.
    L3s,
}

/// As iproute2 names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// Pods of a node meet directly.
    #[default]
    Bridge,
    /// Pods of a node never meet.
    Private,
    /// Every packet goes out by the NIC; pods of a node meet if the network sends it back.
    Vepa,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        }
    }
}
impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Flag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        }
    }
}
impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Attaching for Ipvlan {
    fn birth(&self, pod: &Attachment, on: &Ground<'_>) -> Birth {
        let link = Link {
            dev: pod.id.ifname.clone(),
            kind: Kind::Ipvlan { mode: self.mode, flag: self.flag },
            mtu: on.send,
            mac: pod.mac,
            master: None,
        };
        Birth::Child { parent: self.parent.dev(), pod: link, index: pod.child_index() }
    }

    fn outside(&self, _pod: &Attachment, _on: &Ground<'_>) -> State {
        State::default()
    }

    /// The MAC address is no pod's own, so the link-local address follows from the pod's.
    fn beside(&self, pod: &Attachment) -> State {
        let dev = &pod.id.ifname;
        let deaf = Object::Sysctl { knob: Knob::AcceptRa(dev.clone()), value: 0 };
        let own = pod.addrs.iter().find(|addr| addr.is_ipv6() && self.mode == Mode::L2);
        let own = own.map(|addr| Mac::derived(&["ipvlan", &addr.to_string()]).link_local());
        let own = own.map(|addr| Object::Addr { dev: dev.clone(), addr });
        own.into_iter().chain([deaf]).collect()
    }

    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        (self.mode == Mode::L2).then(|| router(addr, on)).flatten()
    }

    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        if self.mode == Mode::L2 { on_network(addr, on) } else { addr.into() }
    }

    fn reached_past_routes(&self) -> bool {
        true
    }

    fn node(&self, on: &Ground<'_>) -> State {
        let mut state = self.parent.hold(on);
        if self.mode != Mode::L2 {
            state.merge(veth::nowhere_else(on));
        }
        state
    }

    fn parent(&self) -> Option<&Parent> {
        Some(&self.parent)
    }

    fn footing(&self) -> Footing {
        match self.mode {
            Mode::L2 => Footing::Network,
            Mode::L3 => Footing::Routed { translates: false },
            Mode::L3s => Footing::Routed { translates: true },
        }
    }

    fn siblings(&self) -> Siblings {
        match self.flag {
            Flag::Private => Siblings::Never,
            Flag::Vepa => Siblings::ByNetwork,
            Flag::Bridge => Siblings::Meet,
        }
    }

    fn has_nics_mac(&self) -> bool {
        true
    }

    fn described(&self) -> String {
        format!("ipvlan on {}, mode {} {}", self.parent, self.mode, self.flag)
    }

    /// The kernel has one mode for all children of a parent, and changes it under those that are
    /// there (drivers/net/ipvlan/ipvlan_main.c, `ipvlan_set_port_mode`).
    fn beside_on_parent(&self, other: &dyn Attaching) -> Result<(), String> {
        if self.described() != other.described() {
            return Err(format!("{} can't share it with {}", self.described(), other.described()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
