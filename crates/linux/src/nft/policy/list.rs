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

use super::{
    elements::{Element, Key},
    rule::{Field, Rule, Then, When},
    shape::{Part, Shape},
    table::{Chain, Set, Table},
};

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

pub(super) fn write(table: &mut Table, direction: Direction, name: ListName, list: &List) {
    let chain = chain(direction, name);
    let mut everything = false;
    let mut kinds = BTreeMap::<Kind, Vec<Element>>::new();
    for open in &list.entries {
        match element(open) {
            Some((kind, element)) => kinds.entry(kind).or_default().push(element),
            None => everything = true,
        }
    }
    let mut rules = Vec::new();
    if everything {
        rules.push(Rule::new([], Then::Return));
    }
    for (kind, elements) in kinds {
        let set = format!("{chain}-{}", kind.name());
        rules.push(Rule::new(kind.asks(direction, set.clone()), Then::Return));
        let elements: BTreeSet<Element> = elements.into_iter().collect();
        table.sets.insert(set, Set { shape: kind.shape(), elements });
    }
    rules.push(Rule::new([], Then::Drop));
    table.chains.insert(chain, Chain { hook: None, rules });
}

/// The kind of set that the entry is in, and as what. None: everything is open.
fn element(open: &Open) -> Option<(Kind, Element)> {
    match (open.peer, open.ports) {
        (None, None) => None,
        (None, Some(ports)) if ports.first == ports.last => {
            Some((Kind::Ports, Element::one(Key::default().and_port(ports, ports.first))))
        }
        (None, Some(ports)) => {
            let end = |port| Key::default().and_port(ports, port);
            Some((Kind::PortRanges, Element::range(end(ports.first), end(ports.last))))
        }
        (Some(net), ports) => Some(of_net(net, ports)),
    }
}

fn of_net(net: IpNet, ports: Option<Ports>) -> (Kind, Element) {
    let ipv4 = net.addr().is_ipv4();
    let (first, last) = (Key::addr(net.network()), Key::addr(net.broadcast()));
    let single = net.prefix_len() == net.max_prefix_len();
    match ports {
        None if single => (Kind::Peers { ipv4 }, Element::one(first)),
        None => (Kind::Nets { ipv4 }, Element::range(first, last)),
        Some(ports) if single && ports.first == ports.last => {
            (Kind::PeerPorts { ipv4 }, Element::one(first.and_port(ports, ports.first)))
        }
        Some(ports) => {
            let range = Element::range(
                first.and_port(ports, ports.first),
                last.and_port(ports, ports.last),
            );
            (Kind::NetPorts { ipv4 }, range)
        }
    }
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
