//! What one node's speaker is to be: with whom it has sessions and how, and what it says.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::{Action, Bfd, Community, External, LargeCommunity, Settings, Switch, reflectors};
use crate::{
    join::{
        Way,
        bgp::{Advertise, Bgp},
    },
    name::{NodeName, fnv1a},
    paths::Nic,
    view::{Node, Part, View},
};

/// The node whose speaker it is.
pub struct Local<'a> {
    pub node: &'a NodeName,
    pub labels: &'a BTreeMap<String, String>,
    pub underlay: &'a [Nic],
    /// Every address of the host by which it may have a neighbour.
    pub nics: &'a [Nic],
    pub view: &'a View,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub asn: u32,
    pub router_id: Ipv4Addr,
    pub neighbours: BTreeMap<IpAddr, Neighbour>,
    pub connected: Vec<IpNet>,
    /// Sessions that can't be, and why.
    pub problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub name: String,
    /// It is a node.
    pub node: Option<NodeName>,
    pub local_as: u32,
    pub remote_as: u32,
    pub local_addr: IpAddr,
    pub port: u16,
    pub passive: bool,
    /// It is reflected to.
    pub client: bool,
    /// It reflects, or is reflected to by nobody.
    pub own_only: bool,
    pub next_hop4: Option<Ipv4Addr>,
    pub next_hop6: Option<Ipv6Addr>,
    pub hold_seconds: u16,
    pub graceful_restart: Option<Duration>,
    pub password_file: Option<PathBuf>,
    pub ttl: Ttl,
    pub bfd: Option<Bfd>,
    pub multihop: bool,
    /// No router is between, whatever both ends say.
    pub on_link: bool,
    pub maximum_routes: u32,
    pub import: Filter,
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
}

/// What is sent and taken of packets' TTL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    Any,
    OneHop,
    Hops(u8),
    /// RFC 5082: so many hops may be gone of 255.
    Security(u8),
}

/// The first rule that covers a prefix decides, else `else_pass` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub rules: Vec<Rule>,
    pub else_pass: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub within: IpNet,
    pub least: u8,
    pub most: u8,
    pub pass: bool,
}

/// How one of our own routes is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Originated {
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
    /// To neighbours that are no nodes alone.
    pub external_only: bool,
}

impl Originated {
    /// What a node says of one network: its blocks, and its pods' addresses where that is asked.
    pub fn of<'a>(
        join: &'a Bgp,
        blocks: &'a [IpNet],
        pods: impl Iterator<Item = IpAddr> + 'a,
    ) -> impl Iterator<Item = (IpNet, Self)> + 'a {
        let said = |external_only| Self {
            communities: join.communities.clone(),
            large_communities: join.large_communities.clone(),
            external_only,
        };
        let alone = join.advertise == Advertise::Addresses;
        let pods = pods.filter(move |_| alone).map(move |pod| (IpNet::from(pod), said(true)));
        pods.chain(blocks.iter().map(move |block| (*block, said(false))))
    }
}

/// True if a node's part in some network is reached by BGP: it runs a speaker.
pub fn participates<'a>(mut parts: impl Iterator<Item = &'a Part>) -> bool {
    parts.any(|part| {
        part.receives.iter().chain(&part.withdrawing).any(|receive| receive.way() == Way::Bgp)
    })
}

/// The AS of a node.
pub fn asn_of(settings: &Settings, node: &NodeName, labels: &BTreeMap<String, String>) -> u32 {
    let of = settings.nodes.iter().find(|nodes| nodes.of.selects(node, labels));
    of.map_or(settings.asn, |of| of.asn)
}

pub fn speaker(me: &Local<'_>) -> Speaker {
    let settings = &me.view.bgp;
    let asn = asn_of(settings, me.node, me.labels);
    let mut speaker = Speaker {
        asn,
        router_id: router_id(me),
        neighbours: BTreeMap::new(),
        connected: connected(me.nics),
        problems: Vec::new(),
    };
    if settings.mesh {
        nodes(me, asn, &mut speaker);
    }
    for peer in settings.peers.iter().filter(|peer| peer.of.selects(me.node, me.labels)) {
        match external(me, asn, peer) {
            Ok(neighbour) => drop(speaker.neighbours.insert(peer.address, neighbour)),
            Err(why) => speaker.problems.push(format!("neighbour {}: {why}", peer.name)),
        }
    }
    if speaker.neighbours.is_empty() && speaker.problems.is_empty() && others(me).next().is_some() {
        speaker.problems.push(alone(me, asn));
    }
    speaker
}

/// Those that run a speaker too.
fn others<'a>(me: &Local<'a>) -> impl Iterator<Item = (&'a NodeName, &'a Node)> {
    let own = me.node;
    me.view.nodes.iter().filter(move |(name, node)| {
        *name != own && participates(node.record.networks.iter().map(|(_, part)| part))
    })
}

fn alone(me: &Local<'_>, asn: u32) -> String {
    let why = if me.view.bgp.mesh {
        format!("no other node is in AS {asn}")
    } else {
        "`mesh: false` is set".into()
    };
    format!("this node has no neighbour and learns nothing: {why}, and no peer is for it")
}

fn connected(nics: &[Nic]) -> Vec<IpNet> {
    let mut connected: Vec<IpNet> = nics.iter().map(|nic| nic.addr.trunc()).collect();
    connected.sort();
    connected.dedup();
    connected
}

/// Unique in the AS (RFC 6286): the underlay's IPv4 address, or what the node's name makes.
fn router_id(me: &Local<'_>) -> Ipv4Addr {
    let underlay = me.underlay.iter().find_map(|nic| match nic.addr.addr() {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    });
    underlay.unwrap_or_else(|| {
        let [a, b, c, d, ..] = fnv1a(&["router", me.node.as_str()]).to_be_bytes();
        Ipv4Addr::new(a.clamp(1, 223), b, c, d)
    })
}

/// Sessions with the other nodes of this AS.
fn nodes(me: &Local<'_>, asn: u32, speaker: &mut Speaker) {
    let settings = &me.view.bgp;
    let of_as =
        |(name, node): &(&NodeName, &Node)| asn_of(settings, name, &node.record.labels) == asn;
    let peers: Vec<_> = others(me).filter(of_as).collect();
    let labelled = peers.iter().map(|(name, node)| (*name, &node.record.labels));
    let reflect = reflectors(settings, labelled.chain([(me.node, me.labels)]));
    let reflects = |name: &NodeName| reflect.contains(name);
    for (name, node) in peers {
        if !reflect.is_empty() && !reflects(me.node) && !reflects(name) {
            continue;
        }
        match internal(me, asn, name, &node.record.underlay) {
            Some((addr, neighbour)) => {
                let client = reflects(me.node) && !reflects(name);
                let own_only = !reflects(me.node);
                speaker.neighbours.insert(addr, Neighbour { client, own_only, ..neighbour });
            }
            None => speaker.problems.push(format!(
                "neighbour {name}: it and this node have no address family in common"
            )),
        }
    }
}

/// By IPv4 where both have it: routes of both families go by the one session.
fn internal(
    me: &Local<'_>,
    asn: u32,
    name: &NodeName,
    underlay: &[IpAddr],
) -> Option<(IpAddr, Neighbour)> {
    let settings = &me.view.bgp;
    let pair = [true, false].into_iter().find_map(|ipv4| {
        let own = me.underlay.iter().map(|nic| nic.addr.addr()).find(|a| a.is_ipv4() == ipv4)?;
        Some((own, *underlay.iter().find(|addr| addr.is_ipv4() == ipv4)?))
    });
    let (local_addr, addr) = pair?;
    let own = |ipv4: bool| {
        me.underlay.iter().map(|nic| nic.addr.addr()).find(move |addr| addr.is_ipv4() == ipv4)
    };
    // One that has IPv6 alone can't send to an address of IPv4 (RFC 8950 then).
    let own4 = own(true).filter(|_| local_addr.is_ipv4());
    let neighbour = Neighbour {
        name: name.to_string(),
        node: Some(name.clone()),
        local_as: asn,
        remote_as: asn,
        local_addr,
        port: settings.port,
        passive: false,
        client: false,
        own_only: true,
        next_hop4: v4(own4),
        next_hop6: v6(own(false)),
        hold_seconds: settings.hold_seconds,
        graceful_restart: restart(&settings.graceful_restart),
        password_file: settings.password_file.clone(),
        ttl: Ttl::Any,
        bfd: settings.bfd.on().copied(),
        // Both ends must say the same, and only one may see the other behind a router.
        multihop: true,
        on_link: me
            .underlay
            .iter()
            .any(|nic| nic.addr.addr() == local_addr && nic.addr.contains(&addr)),
        maximum_routes: settings.maximum_routes,
        import: Filter { rules: Vec::new(), else_pass: true },
        communities: Vec::new(),
        large_communities: Vec::new(),
    };
    Some((addr, neighbour))
}

fn restart(switch: &Switch<super::Restart>) -> Option<Duration> {
    switch.on().map(|restart| Duration::from_secs(restart.seconds.into()))
}

fn v4(addr: Option<IpAddr>) -> Option<Ipv4Addr> {
    match addr? {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    }
}
fn v6(addr: Option<IpAddr>) -> Option<Ipv6Addr> {
    match addr? {
        IpAddr::V4(_) => None,
        IpAddr::V6(addr) => Some(addr),
    }
}

/// By the address that is on its link, else by the underlay's.
fn external(me: &Local<'_>, asn: u32, peer: &External) -> Result<Neighbour, String> {
    let settings = &me.view.bgp;
    let ipv4 = peer.address.is_ipv4();
    let on_link = me.nics.iter().find(|nic| nic.addr.contains(&peer.address));
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    let of_family = |nic: &&Nic| nic.addr.addr().is_ipv4() == ipv4;
    let nic = on_link.or_else(|| me.underlay.iter().find(of_family));
    let nic = nic.ok_or_else(|| format!("this node has no {family} address to reach it from"))?;
    if nic.addr.addr() == peer.address {
        return Err(format!("{} is this node's own address", peer.address));
    }
    let on_dev = |ipv4: bool| {
        let fits = move |nic: &&Nic| nic.addr.addr().is_ipv4() == ipv4;
        let same = me.nics.iter().filter(|other| other.dev == nic.dev).find(fits);
        same.or_else(|| me.underlay.iter().find(fits)).map(|nic| nic.addr.addr())
    };
    let local_addr = nic.addr.addr();
    let own =
        |ipv4: bool| if local_addr.is_ipv4() == ipv4 { Some(local_addr) } else { on_dev(ipv4) };
    let ttl = match (peer.ttl_security, peer.multihop) {
        (Some(hops), _) => Ttl::Security(hops.saturating_sub(1)),
        (None, Some(hops)) => Ttl::Hops(hops),
        (None, None) if peer.asn == asn => Ttl::Any,
        (None, None) => Ttl::OneHop,
    };
    let far = peer.multihop.is_some() || peer.ttl_security.is_some_and(|hops| hops > 1);
    Ok(Neighbour {
        name: peer.name.clone(),
        node: None,
        local_as: asn,
        remote_as: peer.asn,
        local_addr,
        port: peer.port.unwrap_or(179),
        passive: peer.passive,
        client: false,
        own_only: true,
        next_hop4: v4(own(true)),
        next_hop6: v6(own(false)),
        hold_seconds: peer.hold_seconds.unwrap_or(settings.hold_seconds),
        graceful_restart: restart(
            peer.graceful_restart.as_ref().unwrap_or(&settings.graceful_restart),
        ),
        password_file: peer.password_file.clone(),
        ttl,
        bfd: peer.bfd.on().copied(),
        multihop: far,
        on_link: false,
        maximum_routes: peer.maximum_routes.unwrap_or(settings.maximum_routes),
        import: import(peer),
        communities: peer.communities.clone(),
        large_communities: peer.large_communities.clone(),
    })
}

fn import(peer: &External) -> Filter {
    let default = ["0.0.0.0/0", "::/0"].map(|within| Rule {
        within: within.parse().expect("written here"),
        least: 0,
        most: 0,
        pass: peer.accept_default,
    });
    let said = peer.import.iter().map(|rule| Rule {
        within: rule.prefix,
        least: rule.least.unwrap_or(rule.prefix.prefix_len()),
        most: rule.most.unwrap_or(rule.prefix.max_prefix_len()),
        pass: rule.action == Action::Accept,
    });
    Filter {
        rules: default.into_iter().chain(said).collect(),
        else_pass: peer.import.iter().all(|rule| rule.action == Action::Reject),
    }
}
