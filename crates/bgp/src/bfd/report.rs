//! What a session says of itself: for `weft bgp`, its metrics and its tests.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{packet::Malformed, state::State};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub state: State,
    pub remote_state: State,
    /// Milliseconds that it has been in this state.
    pub since_ms: u64,
    /// Why it last went down, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_down: Option<String>,
    /// What either side says of its last change, in the words of RFC 5880, 4.1.
    pub diag: String,
    pub remote_diag: String,
    pub local: IpAddr,
    pub multihop: bool,
    /// How often it sends, and how often it may be sent to, as agreed; 0: never.
    pub interval_ms: u64,
    pub remote_interval_ms: u64,
    /// It is down after so long without a packet.
    pub detection_ms: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    /// Packets that came from its address and were not taken, by reason.
    pub refused: BTreeMap<String, u64>,
    pub ups: u64,
    pub downs: u64,
    pub discriminator: u32,
    pub remote_discriminator: u32,
    pub source_port: u16,
    /// Goes on from where an earlier program left it, and nothing was heard since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("TTL below 255: it came through a router")]
    Ttl,
    #[error("no session with this address")]
    Stranger,
    #[error("discriminator of no session")]
    Discriminator,
    #[error("discriminator 0 in state init or up")]
    Unasked,
    #[error("port of the other kind of session (3784: one hop, 4784: several)")]
    Port,
    #[error("sent to another address of ours")]
    Address,
}
