//! Whether what the operator says of BGP can be: of itself, and beside the nodes that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{Bfd, External, Import, Settings};
use crate::view::View;

/// RFC 7607, 4893, 7300: numbers that no AS has.
const NO_AS: [(u32, &str); 4] = [
    (0, "is reserved (RFC 7607)"),
    (23456, "stands for AS numbers that an old speaker can't write (RFC 6793)"),
    (65535, "is reserved (RFC 7300)"),
    (u32::MAX, "is reserved (RFC 7300)"),
];

impl Settings {
    /// What can be told without the nodes.
    pub fn check(&self) -> Result<(), String> {
        asn("asn", self.asn)?;
        for (at, nodes) in self.nodes.iter().enumerate() {
            asn(&format!("nodes[{at}].asn"), nodes.asn)?;
        }
        hold("holdSeconds", self.hold_seconds)?;
        bfd("bfd", self.bfd.on())?;
        port("port", self.port)?;
        password("passwordFile", self.password_file.as_deref())?;
        if self.paths == 0 {
            return Err("paths 0: write 1 for no ECMP, or up to 255".into());
        }
        routes("maximumRoutes", self.maximum_routes)?;
        restart("gracefulRestart", self.graceful_restart.on().map(|restart| restart.seconds))?;
        if let Some(reflecting) = self.reflectors.on()
            && reflecting.count == 0
            && reflecting.nodes.is_empty()
        {
            return Err("reflectors.count 0: write `reflectors: off` for a full mesh".into());
        }
        let named = self.reflectors.on().is_some_and(|reflecting| !reflecting.nodes.is_empty());
        if named && !self.mesh {
            return Err(
                "reflectors.nodes reflect between nodes, and `mesh: false` says that nodes \
                        have no sessions with each other: leave out one of them"
                    .into(),
            );
        }
        let mut names = BTreeSet::new();
        for peer in &self.peers {
            let name = &peer.name;
            peer.check().map_err(|why| format!("peer {name}: {why}"))?;
            if !names.insert(name) {
                return Err(format!("two peers are named {name}: give each a name of its own"));
            }
        }
        Ok(())
    }
}

/// As `Settings::check`, and beside the nodes.
pub fn check(settings: &Settings, view: &View) -> Result<(), String> {
    settings.check()?;
    let nodes = || view.nodes.iter();
    let named = settings.reflectors.on().into_iter().flat_map(|reflecting| &reflecting.nodes);
    if let Some(stranger) = named.into_iter().find(|name| !view.nodes.contains_key(*name)) {
        let known: Vec<&str> = nodes().map(|(name, _)| name.as_str()).take(8).collect();
        return Err(format!(
            "reflectors.nodes: {stranger} is no node of this cluster; there are {}",
            known.join(", ")
        ));
    }
    for (at, peer) in settings.peers.iter().enumerate() {
        let has = |underlay: &[std::net::IpAddr]| underlay.contains(&peer.address);
        if let Some((node, _)) = nodes().find(|(_, node)| has(&node.record.underlay)) {
            return Err(format!(
                "peer {}: {} is the address of node {node}; nodes find each other, leave it out",
                peer.name, peer.address
            ));
        }
        let same = |other: &&External| other.address == peer.address;
        for other in settings.peers[..at].iter().filter(same) {
            let none = BTreeMap::new();
            let probe = "any".parse().ok();
            // Both mean all nodes, or one that there is.
            let all = probe
                .is_some_and(|any| peer.of.selects(&any, &none) && other.of.selects(&any, &none));
            let both = nodes().find(|(name, node)| {
                let labels = &node.record.labels;
                peer.of.selects(name, labels) && other.of.selects(name, labels)
            });
            if all || both.is_some() {
                let whom = both.map_or("every node".into(), |(name, _)| format!("node {name}"));
                return Err(format!(
                    "peers {} and {} have one address, {}, for {whom}: a node has one session with an \
                     address",
                    other.name, peer.name, peer.address
                ));
            }
        }
    }
    Ok(())
}

impl External {
    fn check(&self) -> Result<(), String> {
        asn("asn", self.asn)?;
        if self.name.is_empty() || self.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("a peer's name is one word".into());
        }
        if self.address.is_unspecified()
            || self.address.is_multicast()
            || self.address.is_loopback()
            || self.address == std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
        {
            return Err(format!("{} is no neighbour's address", self.address));
        }
        if matches!(self.address, std::net::IpAddr::V6(addr) if addr.is_unicast_link_local()) {
            let why = "is good on one link alone, and which is not said; write its global address";
            return Err(format!("address {} {why}", self.address));
        }
        if self.address.to_canonical() != self.address {
            let why = "is an IPv4 address in IPv6's form; write";
            return Err(format!("address {} {why} {}", self.address, self.address.to_canonical()));
        }
        self.hold_seconds.map_or(Ok(()), |seconds| hold("holdSeconds", seconds))?;
        bfd("bfd", self.bfd.on())?;
        self.port.map_or(Ok(()), |at| port("port", at))?;
        password("passwordFile", self.password_file.as_deref())?;
        self.maximum_routes.map_or(Ok(()), |most| routes("maximumRoutes", most))?;
        let seconds = self.graceful_restart.as_ref().and_then(|switch| switch.on());
        restart("gracefulRestart", seconds.map(|restart| restart.seconds))?;
        match (self.ttl_security, self.multihop) {
            (Some(_), Some(_)) => {
                return Err(
                    "ttlSecurity and multihop each say how far away it is: write one".into()
                );
            }
            (Some(0), None) => {
                return Err("ttlSecurity 0: 1 is a neighbour on the same link".into());
            }
            (None, Some(0)) => return Err("multihop 0: write how many hops away it may be".into()),
            _ => {}
        }
        self.import.iter().try_for_each(Import::check)
    }
}

impl Import {
    fn check(&self) -> Result<(), String> {
        let prefix = self.prefix;
        if prefix.trunc() != prefix {
            let right = prefix.trunc();
            return Err(format!("import: {prefix} has bits set beyond its prefix; write {right}"));
        }
        let least = self.least.unwrap_or(prefix.prefix_len());
        let most = self.most.unwrap_or(prefix.max_prefix_len());
        if prefix.prefix_len() <= least && least <= most && most <= prefix.max_prefix_len() {
            return Ok(());
        }
        Err(format!(
            "import: {prefix} from {least} to {most}: write lengths from {} to {}",
            prefix.prefix_len(),
            prefix.max_prefix_len()
        ))
    }
}

fn asn(field: &str, asn: u32) -> Result<(), String> {
    match NO_AS.iter().find(|(no, _)| *no == asn) {
        None => Ok(()),
        Some((_, why)) => Err(format!(
            "{field}: AS {asn} {why}; private ones are 64512 to 65534 and 4200000000 to 4294967294"
        )),
    }
}

fn hold(field: &str, seconds: u16) -> Result<(), String> {
    match seconds {
        1 | 2 => Err(format!(
            "{field} {seconds}: 0 (never) or 3 and more (RFC 4271, 4.2); death is noticed faster by bfd"
        )),
        _ => Ok(()),
    }
}

fn bfd(field: &str, bfd: Option<&Bfd>) -> Result<(), String> {
    let Some(bfd) = bfd else { return Ok(()) };
    if !(10..=60_000).contains(&bfd.interval_ms) {
        return Err(format!("{field}.intervalMs {}: write 10 to 60000", bfd.interval_ms));
    }
    if bfd.multiplier == 0 {
        return Err(format!("{field}.multiplier 0: write 1 to 255"));
    }
    Ok(())
}

fn port(field: &str, port: u16) -> Result<(), String> {
    if port == 0 { Err(format!("{field} 0: BGP's is 179")) } else { Ok(()) }
}

fn password(field: &str, file: Option<&Path>) -> Result<(), String> {
    match file {
        Some(file) if !file.is_absolute() => Err(format!(
            "{field} {}: write the whole path, it is read on each node",
            file.display()
        )),
        _ => Ok(()),
    }
}

fn routes(field: &str, most: u32) -> Result<(), String> {
    if most == 0 { Err(format!("{field} 0 would take no route at all")) } else { Ok(()) }
}

fn restart(field: &str, seconds: Option<u16>) -> Result<(), String> {
    match seconds {
        // The field has 12 bits (RFC 4724, 3).
        Some(seconds @ (0 | 4096..)) => {
            Err(format!("{field}.seconds {seconds}: write 1 to 4095, or `{field}: off`"))
        }
        _ => Ok(()),
    }
}
