//! What a speaker is told to be: given whole, as often as anything of it changes; the speaker finds
//! the difference and disturbs no session that it does not concern.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attrs::{Community, Family, LargeCommunity};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub router_id: Ipv4Addr,
    pub neighbours: BTreeMap<IpAddr, Neighbour>,
    /// Our own routes.
    pub originated: BTreeMap<IpNet, Originated>,
    /// Prefixes that are on-link here: a next hop in one of these is reached as it is.
    pub connected: Vec<IpNet>,
    /// As many paths as one route may have at once (ECMP).
    pub paths_max: usize,
    /// How long routes are taken for good after a restart until all neighbours have said theirs
    /// (RFC 4724, 4.1: Selection_Deferral_Timer).
    pub deferral: Duration,
}

/// One neighbour. Whatever of it changes, its session starts anew, except its name and what only says
/// which routes pass: filters, `routes_max`, communities, `own_only`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// A name for people: the node's, or what the operator wrote.
    pub name: String,
    pub local_as: u32,
    pub remote_as: u32,
    /// The address that we have on this session.
    pub local_addr: IpAddr,
    pub port: u16,
    /// Never connects, only waits.
    pub passive: bool,
    /// It is our client, and we reflect (RFC 4456); internal sessions alone.
    pub client: bool,
    pub families: BTreeSet<Family>,
    /// Next hops that we say of our own routes, and of all routes to external neighbours. An IPv4
    /// route with none of IPv4 takes that of IPv6 (RFC 8950).
    pub next_hop4: Option<Ipv4Addr>,
    pub next_hop6: Option<Ipv6Addr>,
    /// Seconds; 0: no keepalives. Never 1 or 2 (RFC 4271, 4.2).
    pub hold_time: u16,
    /// How long it keeps our routes while we restart, and at most how long we keep its; none: we
    /// don't offer graceful restart.
    pub graceful_restart: Option<Duration>,
    /// TCP MD5 (RFC 2385): the socket's business, here so that a change starts the session anew.
    pub password: Option<String>,
    /// What the socket is to check and set of each packet's TTL.
    pub ttl: Ttl,
    /// The session ends when BFD says so.
    pub bfd: bool,
    /// More routes than these of one family end the session.
    pub routes_max: u32,
    pub import: Filter,
    pub export: Filter,
    /// Added to our own routes on their way to it.
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
    /// Only our own routes are said to it: nobody passes through a node.
    pub own_only: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ttl {
    /// The kernel's default, as internal sessions have it.
    #[default]
    Any,
    /// An external neighbour on the same link: sent with 1.
    OneHop,
    /// Sent with this.
    Hops(u8),
    /// GTSM (RFC 5082): sent with 255, and taken if at most so many hops are gone of it.
    Security(u8),
}

/// Which prefixes pass: the first rule that covers one decides; none: it passes if `else_pass`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub rules: Vec<Rule>,
    pub else_pass: bool,
}

impl Filter {
    /// By which everything passes.
    pub fn all() -> Self {
        Self { rules: Vec::new(), else_pass: true }
    }

    pub fn passes(&self, prefix: &IpNet) -> bool {
        let rule = self.rules.iter().find(|rule| rule.covers(prefix));
        rule.map_or(self.else_pass, |rule| rule.pass)
    }
}

/// Prefixes inside `within`, with a length of `least` to `most`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub within: IpNet,
    pub least: u8,
    pub most: u8,
    pub pass: bool,
}

impl Rule {
    pub fn covers(&self, prefix: &IpNet) -> bool {
        let lengths = self.least..=self.most;
        self.within.contains(prefix) && lengths.contains(&prefix.prefix_len())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Originated {
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
    pub med: Option<u32>,
    /// Said to external neighbours alone (single addresses), to internal ones too, or to these.
    pub external_only: bool,
}
