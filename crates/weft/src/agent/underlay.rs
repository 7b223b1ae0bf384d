//! Which of the host's devices and addresses are the underlay. Pure: it is told the links.

use std::net::IpAddr;

use weft_core::{mark, name::Mtu, network::Network, paths::Nic};
use weft_linux::HostLink;

use super::config::Underlay;

/// At most one per family, IPv4 first.
pub fn find(links: &[HostLink], config: &Underlay) -> Result<Vec<Nic>, String> {
    let usable = |link: &&HostLink| {
        link.up
            && !link.loopback
            && link.group != mark::LINK_GROUP
            && link.group != mark::DOOMED_GROUP
    };
    let mut nics = Vec::new();
    for ipv4 in [true, false] {
        let found = if config.addresses.is_empty() {
            links
                .iter()
                .filter(usable)
                .filter(|link| config.device.as_ref().is_none_or(|dev| *dev == link.dev))
                .filter_map(|link| Some((link, first_address(link, ipv4)?)))
                .max_by_key(|(link, _)| (link.default_route, std::cmp::Reverse(link.index)))
        } else {
            let wanted = |addr: &IpAddr| addr.is_ipv4() == ipv4 && config.addresses.contains(addr);
            links.iter().filter(usable).find_map(|link| {
                Some((link, *link.addrs.iter().find(|addr| wanted(&addr.addr()))?))
            })
        };
        nics.extend(found.map(|(link, addr)| Nic {
            dev: link.dev.clone(),
            addr,
            mtu: Mtu::from_kernel(link.mtu),
        }));
    }
    if nics.is_empty() {
        return Err(match (&config.device, config.addresses.first()) {
            (_, Some(addr)) => format!("underlay address {addr} is on no device that is up"),
            (Some(dev), _) => format!("underlay device {dev} is not up or has no global address"),
            _ => match links.iter().find(|link| !link.up && !link.addrs.is_empty()) {
                Some(down) => format!("device {} has an address but is down", down.dev),
                None => "no device with a global address found; set `underlay.device`".into(),
            },
        });
    }
    Ok(nics)
}

/// Addresses of the host in the ranges of a network on which pods stand beside it.
pub fn hosts(links: &[HostLink], network: &Network) -> Vec<IpAddr> {
    if network.join.shared().is_none() {
        return Vec::new();
    }
    let addrs = links.iter().flat_map(|link| &link.addrs).map(ipnet::IpNet::addr);
    let mut hosts: Vec<IpAddr> =
        addrs.filter(|addr| network.ranges.iter().any(|range| range.contains(addr))).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn first_address(link: &HostLink, ipv4: bool) -> Option<ipnet::IpNet> {
    let global = |addr: &&ipnet::IpNet| match addr.addr() {
        IpAddr::V4(addr) => !addr.is_link_local() && !addr.is_loopback(),
        IpAddr::V6(addr) => !addr.is_unicast_link_local() && !addr.is_loopback(),
    };
    link.addrs.iter().filter(|addr| addr.addr().is_ipv4() == ipv4).find(global).copied()
}
