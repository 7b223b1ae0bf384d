//! How VTEPs find each other: by the store, or in a multicast group.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::IfName;

/// As it is written, beside the tunnel's other settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// `store`: who has what is in the store. `multicast`: nodes send to a group what is for
    /// everybody, and learn from what they hear.
    #[serde(default)]
    pub discovery: Discovery,
    /// With `discovery: multicast`: the group, such as 239.1.1.7 or ff05::7; its family is that of
    /// the underlay that is used.
    #[serde(default)]
    pub group: Option<IpAddr>,
    /// How many routers a packet to the group may pass, the first link counted; default 1.
    #[serde(default)]
    pub ttl: Option<u8>,
    /// The device by which the group is joined, on every node; default: the underlay's.
    #[serde(default)]
    pub device: Option<IfName>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Discovery {
    #[default]
    Store,
    Multicast,
}

/// A multicast group as one node joins it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    pub addr: IpAddr,
    pub ttl: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<IfName>,
}

impl From<&Group> for Finding {
    fn from(group: &Group) -> Self {
        Self {
            discovery: Discovery::Multicast,
            group: Some(group.addr),
            ttl: Some(group.ttl),
            device: group.device.clone(),
        }
    }
}

impl Finding {
    pub fn group(&self) -> Option<Group> {
        let group = self.group.filter(|_| self.discovery == Discovery::Multicast);
        group.map(|addr| Group { addr, ttl: self.ttl.unwrap_or(1), device: self.device.clone() })
    }

    pub fn check(&self) -> Result<(), String> {
        match (self.discovery, self.group) {
            (Discovery::Multicast, None) => {
                Err("discovery: multicast needs a `group`, such as 239.1.1.7 or ff05::7".into())
            }
            (Discovery::Multicast, Some(group)) if !group.is_multicast() => Err(format!(
                "{group} is not a multicast group; use one of 239.0.0.0/8 or of ff05::/16"
            )),
            (Discovery::Multicast, Some(_)) if self.ttl == Some(0) => {
                Err("ttl 0 lets no packet leave the node; use 1 to 255".into())
            }
            (Discovery::Store, _)
                if self.group.is_some() || self.ttl.is_some() || self.device.is_some() =>
            {
                Err("`group`, `ttl` and `device` are for discovery: multicast".into())
            }
            _ => Ok(()),
        }
    }
}
