//! What a speaker says of itself: for `weft bgp`, its metrics and its tests.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attrs::Family;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighbourReport {
    pub name: String,
    pub addr: Option<IpAddr>,
    pub local_as: u32,
    pub remote_as: u32,
    /// The state's name in RFC 4271, 8.2.2, in small letters: idle, connect, active, opensent,
    /// openconfirm, established.
    pub state: String,
    /// Milliseconds that it has been in this state.
    pub since_ms: u64,
    /// Its routes are kept while it restarts.
    pub restarting: bool,
    /// Routes taken of it, by family; those that are kept from before its restart among them.
    pub routes_in: BTreeMap<Family, u32>,
    pub stale: BTreeMap<Family, u32>,
    /// Routes that it was told, by family.
    pub routes_out: BTreeMap<Family, u32>,
    /// Routes that it said and that were not taken, by reason ("own AS in path": 3).
    pub refused: BTreeMap<String, u32>,
    pub hold_time: u16,
    /// What was agreed with it, in words: 4-octet AS, route refresh, graceful restart 120 s, …
    pub capabilities: Vec<String>,
    /// Why the session last ended or did not begin, in words that say who and what.
    pub last_error: Option<String>,
    /// UPDATEs that were wrong and yet no reason to end the session (RFC 7606), and what was wrong with
    /// the last.
    #[serde(default)]
    pub faults: u64,
    #[serde(default)]
    pub last_fault: Option<String>,
    /// How often it was established.
    pub established: u64,
    pub messages_in: u64,
    pub messages_out: u64,
    /// BFD: none where it is not asked; else its state's name, small.
    pub bfd: Option<String>,
}

/// The best route to a prefix, as it is to be used. What it has in common with others stands in memory
/// once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Learnt {
    pub prefix: IpNet,
    /// Where to: on-link addresses, in order, without doubles; empty: nowhere, and `why` says it.
    pub hops: Arc<[LearntHop]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Arc<str>>,
    /// Kept from before a restart, and not said again yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// AS path in its usual text form; empty: originated inside our AS.
    #[serde(default)]
    pub as_path: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearntHop {
    /// On-link.
    pub via: IpAddr,
    /// The neighbour that said so.
    pub from: IpAddr,
    /// The next hop as it was said, where that is another: resolved through another learnt route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<IpAddr>,
}
