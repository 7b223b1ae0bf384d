//! A list of what is open as a chain and its sets. Each entry is one element of one set, by what it
//! asks for, so a packet meets a handful of look-ups however many entries there are. A chain returns
//! what is open to whoever jumped there, and drops the rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weft_core::policy::{
    firewall::{List, ListName, Open, Ports},
    spec::Direction,
};

use super::super::table::{Chain, Element, Field, Key, Part, Rule, Set, Shape, Table, Then, When};

/// What the elements of one set ask for. In order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Peers { ipv4: bool },
    PeerPorts { ipv4: bool },
    Nets { ipv4: bool },
    NetPorts { ipv4: bool },
    Ports,
    PortRanges,
}

pub(super) fn chain(direction: Direction, list: ListName) -> String {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{direction}-{list}")
}

/// True of the sets of lists: they may be filled before anything asks for them.
pub(super) fn is_lists(set: &str) -> bool {
    set.starts_with("ingress-") || set.starts_with("egress-")
}

/// `known`: what another table has of the list; elements that are there too are not told.
pub(super) fn write(
    table: &mut Table,
    (direction, name): (Direction, ListName),
    list: &List,
    known: &List,
) {
    let chain = chain(direction, name);
    let kinds: BTreeSet<Option<Kind>> = list.entries.iter().map(kind).collect();
    let mut rules = Vec::new();
    for kind in kinds {
        let Some(kind) = kind else {
            rules.push(Rule::new([], Then::Return));
            continue;
        };
        let set = format!("{chain}-{}", kind.name());
        rules.push(Rule::new(kind.asks(direction, set.clone()), Then::Return));
        table.sets.insert(set, Set { shape: kind.shape(), elements: BTreeSet::new() });
    }
    rules.push(Rule::new([], Then::Drop));
    let mut elements = BTreeMap::<Kind, Vec<Element>>::new();
    for (kind, element) in list.entries.difference(&known.entries).filter_map(element) {
        elements.entry(kind).or_default().push(element);
    }
    for (kind, elements) in elements {
        if let Some(set) = table.sets.get_mut(&format!("{chain}-{}", kind.name())) {
            set.elements = elements.into_iter().collect();
        }
    }
    table.chains.insert(chain, Chain { hook: None, rules });
}

/// The kind of set that the entry is in. None: everything is open.
fn kind(open: &Open) -> Option<Kind> {
    let single = |ports: Ports| ports.first == ports.last;
    let Some(net) = open.peer else {
        let ports = open.ports?;
        return Some(if single(ports) { Kind::Ports } else { Kind::PortRanges });
    };
    let ipv4 = net.addr().is_ipv4();
    let alone = net.prefix_len() == net.max_prefix_len();
    Some(match open.ports {
        None if alone => Kind::Peers { ipv4 },
        None => Kind::Nets { ipv4 },
        Some(ports) if alone && single(ports) => Kind::PeerPorts { ipv4 },
        Some(_) => Kind::NetPorts { ipv4 },
    })
}

/// As what it is in it.
fn element(open: &Open) -> Option<(Kind, Element)> {
    let kind = kind(open)?;
    let ends = open.peer.map_or_else(Default::default, |net| {
        (Key::addr(net.network()), Key::addr(net.broadcast()))
    });
    let (first, last) = match open.ports {
        None => ends,
        Some(ports) => (ends.0.and_port(ports, ports.first), ends.1.and_port(ports, ports.last)),
    };
    let element =
        if kind.shape().interval { Element::range(first, last) } else { Element::one(first) };
    Some((kind, element))
}

impl Kind {
    fn ipv4(self) -> Option<bool> {
        match self {
            Self::Peers { ipv4 }
            | Self::PeerPorts { ipv4 }
            | Self::Nets { ipv4 }
            | Self::NetPorts { ipv4 } => Some(ipv4),
            Self::Ports | Self::PortRanges => None,
        }
    }

    fn name(self) -> String {
        let family = self.ipv4().map_or("", |ipv4| if ipv4 { "4" } else { "6" });
        let kind = match self {
            Self::Peers { .. } => "peers",
            Self::PeerPorts { .. } => "peer-ports",
            Self::Nets { .. } => "nets",
            Self::NetPorts { .. } => "net-ports",
            Self::Ports => "ports",
            Self::PortRanges => "port-ranges",
        };
        format!("{kind}{family}")
    }

    fn shape(self) -> Shape {
        const V4: Part = Part::Address { ipv4: true };
        const V6: Part = Part::Address { ipv4: false };
        const ADDRESS: [&[Part]; 2] = [&[V6], &[V4]];
        const WITH_PORT: [&[Part]; 2] =
            [&[V6, Part::Protocol, Part::Port], &[V4, Part::Protocol, Part::Port]];
        const PORT: &[Part] = &[Part::Protocol, Part::Port];
        match self {
            Self::Peers { ipv4 } => Shape::plain(ADDRESS[usize::from(ipv4)]),
            Self::PeerPorts { ipv4 } => Shape::plain(WITH_PORT[usize::from(ipv4)]),
            Self::Nets { ipv4 } => Shape::ranges(ADDRESS[usize::from(ipv4)]),
            Self::NetPorts { ipv4 } => Shape::ranges(WITH_PORT[usize::from(ipv4)]),
            Self::Ports => Shape::plain(PORT),
            Self::PortRanges => Shape::ranges(PORT),
        }
    }

    fn asks(self, direction: Direction, set: String) -> Vec<When> {
        let mut fields = Vec::new();
        fields.extend(self.ipv4().map(|ipv4| peer(direction, ipv4)));
        if !matches!(self, Self::Peers { .. } | Self::Nets { .. }) {
            fields.extend([Field::Protocol, Field::Port]);
        }
        let family = self.ipv4().map(When::Ipv4);
        family.into_iter().chain([When::Among(fields, set)]).collect()
    }
}

/// Where the other side's address stands.
fn peer(direction: Direction, ipv4: bool) -> Field {
    match direction {
        Direction::Ingress => Field::Source { ipv4 },
        Direction::Egress => Field::Destination { ipv4 },
    }
}

/// Where the pod's own stands.
pub(super) fn own(direction: Direction, ipv4: bool) -> Field {
    match direction {
        Direction::Ingress => Field::Destination { ipv4 },
        Direction::Egress => Field::Source { ipv4 },
    }
}

pub(super) fn single(addr: IpAddr) -> Element {
    Element::one(Key::addr(addr))
}

pub(super) fn prefix(net: &IpNet) -> Element {
    Element::range(Key::addr(net.network()), Key::addr(net.broadcast()))
}
