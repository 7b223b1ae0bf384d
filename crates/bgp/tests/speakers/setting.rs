//! What speakers of these tests are told to be: node N has the address 10.0.0.N, identifier and
//! routes after its number.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::IpNet;
use weft_bgp::{
    attrs::Family,
    config::{Config, Filter, Neighbour, Originated, Ttl},
};

pub const AS: u32 = 64512;
/// Seconds that routes of a speaker that restarts are kept.
pub const RESTART: u64 = 60;
pub const HOLD: u16 = 9;

pub fn addr(node: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, node).into()
}

pub fn route4(node: u8) -> IpNet {
    format!("10.{node}.0.0/24").parse().unwrap()
}

pub fn route6(node: u8) -> IpNet {
    format!("fd00:{node}::/64").parse().unwrap()
}

pub fn neighbour(local: u8, remote: u8) -> Neighbour {
    Neighbour {
        name: format!("node-{remote}"),
        local_as: AS,
        remote_as: AS,
        local_addr: addr(local),
        port: 179,
        passive: false,
        client: false,
        families: BTreeSet::from(Family::ALL),
        next_hop4: Some(Ipv4Addr::new(10, 0, 0, local)),
        next_hop6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, local.into())),
        hold_time: HOLD,
        graceful_restart: Some(Duration::from_secs(RESTART)),
        password: None,
        ttl: Ttl::Any,
        bfd: true,
        routes_max: 1000,
        import: Filter::all(),
        export: Filter::all(),
        communities: vec![],
        large_communities: vec![],
        own_only: false,
    }
}

pub fn node(local: u8, remotes: impl IntoIterator<Item = u8>) -> Config {
    let remotes = remotes.into_iter().filter(|remote| *remote != local);
    Config {
        router_id: Ipv4Addr::new(10, 0, 0, local),
        neighbours: remotes.map(|remote| (addr(remote), neighbour(local, remote))).collect(),
        originated: originated(local),
        connected: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        paths_max: 8,
        deferral: Duration::from_secs(30),
    }
}

pub fn originated(local: u8) -> BTreeMap<IpNet, Originated> {
    [route4(local), route6(local)].map(|prefix| (prefix, Originated::default())).into()
}
