//! A policy's rules taken apart: one peer and one port each. What can't be opens nothing, and says why.

use std::{fmt, sync::Arc};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    cluster::NamedPort,
    firewall::Ports,
    space::Space,
    spec::{Direction, IpBlock, Peer, PolicySpec, Port, PortName, Protocol, Selector},
};

/// What one peer of a rule may do by one port of it.
#[derive(Clone, Debug)]
pub(super) struct Clause {
    /// Which of the rules it is of.
    pub rule: usize,
    pub peers: Peers,
    pub by: By,
}

#[derive(Clone, Debug)]
pub(super) enum Peers {
    Addresses(Space),
    Pods(Chosen),
}

/// Pods by their labels, of namespaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    pub scope: Scope,
    pub pods: Selector,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Namespace(Arc<str>),
    Matching(Selector),
    /// Every one, known by name alone or not.
    Any,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    Everything,
    Ports(Ports),
    /// Ports of a container that have this name: of the destination, whoever that is.
    Named(Protocol, String),
}

/// An entry of a policy that opens nothing, since it contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Impossible {
    /// As `spec.ingress[0].ports[1]`.
    pub at: String,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Why {
    #[error("{0}")]
    Unreadable(String),
    #[error("port 0 is none: choose 1 to 65535")]
    PortZero,
    #[error("a port's name is empty")]
    NoName,
    #[error("endPort {end} is below port {port}")]
    EndBelow { port: u16, end: u16 },
    #[error("endPort {0} stands without a port where the range begins")]
    EndAlone(u16),
    #[error("endPort {end} can't go with the name `{name}`: a range begins with a number")]
    EndOfName { name: String, end: u16 },
    #[error("a peer is ipBlock, podSelector or namespaceSelector: it has none of them")]
    NoPeer,
    #[error("ipBlock can't go with podSelector or namespaceSelector: make two peers of it")]
    BlockAndSelector,
    #[error("except {except} is not inside of {cidr}")]
    Outside { except: IpNet, cidr: IpNet },
    #[error("{key}: In and NotIn need values, Exists and DoesNotExist take none")]
    Values { key: String },
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; this entry opens nothing", self.at, self.why)
    }
}

/// Everything in a policy that opens nothing, since it can't be.
pub fn impossible(spec: &PolicySpec) -> Vec<Impossible> {
    let flaw = spec.pod_selector.impossible().map(|required| Impossible {
        at: "spec.podSelector".to_owned(),
        why: Why::Values { key: required.key.clone() },
    });
    let both = [Direction::Ingress, Direction::Egress];
    let rules = both.into_iter().flat_map(|direction| clauses("", spec, direction).1);
    flaw.into_iter().chain(rules).collect()
}

impl PolicySpec {
    /// Whether it speaks of this direction: where it does not say so, of ingress in any case, and of
    /// egress if it has rules for it.
    pub fn concerns(&self, direction: Direction) -> bool {
        if !self.policy_types.is_empty() {
            return self.policy_types.contains(&direction);
        }
        direction == Direction::Ingress || !self.egress.is_empty()
    }
}

/// What a policy of this namespace opens in one direction, and what in it can't be.
pub(super) fn clauses(
    namespace: &str,
    spec: &PolicySpec,
    direction: Direction,
) -> (Vec<Clause>, Vec<Impossible>) {
    let rules: Vec<(&[Peer], &[Port])> = match direction {
        Direction::Ingress => spec.ingress.iter().map(|r| (&r.from[..], &r.ports[..])).collect(),
        Direction::Egress => spec.egress.iter().map(|r| (&r.to[..], &r.ports[..])).collect(),
    };
    let (word, side) = match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    };
    let (mut out, mut flaws) = (Vec::new(), Vec::new());
    for (rule, (peers, ports)) in rules.into_iter().enumerate() {
        let at = |field: &str, n: usize| format!("spec.{word}[{rule}].{field}[{n}]");
        let peers = sound(peers, |peer| peers_of(namespace, peer), |n| at(side, n), &mut flaws);
        let ports = sound(ports, by, |n| at("ports", n), &mut flaws);
        let peers = peers.unwrap_or_else(|| vec![Peers::Addresses(Space::everybody())]);
        let ports = ports.unwrap_or_else(|| vec![By::Everything]);
        out.extend(peers.iter().flat_map(|peers| {
            ports.iter().map(|by| Clause { rule, peers: peers.clone(), by: by.clone() })
        }));
    }
    (out, flaws)
}

/// None: there are no entries, which means all. That none of the entries is sound does not.
fn sound<A, B>(
    entries: &[A],
    read: impl Fn(&A) -> Result<B, Why>,
    at: impl Fn(usize) -> String,
    flaws: &mut Vec<Impossible>,
) -> Option<Vec<B>> {
    let mut out = Vec::with_capacity(entries.len());
    for (n, entry) in entries.iter().enumerate() {
        match read(entry) {
            Ok(entry) => out.push(entry),
            Err(why) => flaws.push(Impossible { at: at(n), why }),
        }
    }
    (!entries.is_empty()).then_some(out)
}

fn peers_of(namespace: &str, peer: &Peer) -> Result<Peers, Why> {
    if let Some(why) = &peer.unreadable {
        return Err(Why::Unreadable(why.clone()));
    }
    let selectors = [&peer.pod_selector, &peer.namespace_selector];
    if let Some(bad) = selectors.into_iter().flatten().find_map(Selector::impossible) {
        return Err(Why::Values { key: bad.key.clone() });
    }
    let pods = peer.pod_selector.clone().unwrap_or_default();
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => block_of(block).map(Peers::Addresses),
        (Some(_), _, _) => Err(Why::BlockAndSelector),
        (None, Some(namespaces), _) => {
            Ok(Peers::Pods(Chosen { scope: Scope::Matching(namespaces.clone()), pods }))
        }
        (None, None, Some(_)) => {
            Ok(Peers::Pods(Chosen { scope: Scope::Namespace(namespace.into()), pods }))
        }
        (None, None, None) => Err(Why::NoPeer),
    }
}

fn block_of(block: &IpBlock) -> Result<Space, Why> {
    let cidr = block.cidr.trunc();
    let inside = |except: &&IpNet| cidr.contains(*except) && cidr != except.trunc();
    if let Some(except) = block.except.iter().find(|except| !inside(except)) {
        return Err(Why::Outside { except: *except, cidr: block.cidr });
    }
    Ok(Space::of(&[cidr], &block.except))
}

fn by(port: &Port) -> Result<By, Why> {
    if let Some(why) = &port.unreadable {
        return Err(Why::Unreadable(why.clone()));
    }
    let protocol = port.protocol;
    let range = |first, last| By::Ports(Ports { protocol, first, last });
    match (&port.port, port.end_port) {
        (None, None) => Ok(range(0, u16::MAX)),
        (None, Some(end)) => Err(Why::EndAlone(end)),
        (Some(PortName::Number(0)), _) => Err(Why::PortZero),
        (Some(PortName::Number(port)), Some(end)) if end < *port => {
            Err(Why::EndBelow { port: *port, end })
        }
        (Some(PortName::Number(port)), end) => Ok(range(*port, end.unwrap_or(*port))),
        (Some(PortName::Name(name)), Some(end)) => Err(Why::EndOfName { name: name.clone(), end }),
        (Some(PortName::Name(name)), None) if name.is_empty() => Err(Why::NoName),
        (Some(PortName::Name(name)), None) => Ok(By::Named(protocol, name.clone())),
    }
}

impl By {
    /// The ports that it means at a destination with these names. None: everything.
    pub(super) fn each(&self, names: &[NamedPort], mut tell: impl FnMut(Option<Ports>)) {
        let (protocol, name) = match self {
            Self::Everything => return tell(None),
            Self::Ports(ports) => return tell(Some(*ports)),
            Self::Named(protocol, name) => (*protocol, name),
        };
        for port in names.iter().filter(|p| p.protocol == protocol && *p.name == **name) {
            tell(Some(Ports { protocol, first: port.port, last: port.port }));
        }
    }
}
