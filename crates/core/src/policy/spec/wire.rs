//! Entries of a rule, read one by one: what is wrong with one is kept in its place.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{IpBlock, PortName, Protocol, Selector};

/// An entry as it came, whatever it is.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned", from = "Value")]
pub(super) struct Read<T>(Result<T, String>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PeerEntry {
    pod_selector: Option<Selector>,
    namespace_selector: Option<Selector>,
    ip_block: Option<IpBlock>,
    unreadable: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PortEntry {
    protocol: Option<Protocol>,
    port: Option<PortName>,
    end_port: Option<u16>,
    unreadable: Option<String>,
}

impl<T: DeserializeOwned> From<Value> for Read<T> {
    fn from(value: Value) -> Self {
        let text = value.to_string();
        Self(serde_json::from_value(value).map_err(|error| format!("{text}: {error}")))
    }
}

impl From<Read<PeerEntry>> for super::Peer {
    fn from(Read(read): Read<PeerEntry>) -> Self {
        match read {
            Ok(PeerEntry { pod_selector, namespace_selector, ip_block, unreadable }) => {
                Self { pod_selector, namespace_selector, ip_block, unreadable }
            }
            Err(why) => Self { unreadable: Some(why), ..Self::default() },
        }
    }
}

impl From<Read<PortEntry>> for super::Port {
    fn from(Read(read): Read<PortEntry>) -> Self {
        match read {
            Ok(PortEntry { protocol, port, end_port, unreadable }) => {
                Self { protocol: protocol.unwrap_or_default(), port, end_port, unreadable }
            }
            Err(why) => Self { unreadable: Some(why), ..Self::default() },
        }
    }
}
