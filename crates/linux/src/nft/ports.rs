//! Ports of the node that lead to pods: a table of its own, whose rules are always the same and look
//! into maps and sets, of which each element is an object.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use weft_core::{
    mark,
    name::IfName,
    policy::spec::Protocol,
    ports::{Client, Door},
    state::{Key as StateKey, Object},
};

use super::{
    INET, OUTPUT, PREROUTING,
    numbers::POSTROUTING,
    table::{
        Element, Elements, Field, Fixed, Hook, Key, Name, Part, Place, Rule, Set, Shape, Table,
        Then, To, Way, When,
    },
};
use crate::wire;

const FAMILIES: [bool; 2] = [true, false];
const V4: Part = Part::Address { ipv4: true };
const V6: Part = Part::Address { ipv4: false };
const OURS: Name = Name::Begins(IfName::PREFIX);

pub(super) fn fixed() -> Fixed {
    // No packet asks for a part of a port or of who is hidden.
    Fixed::new(Place { family: INET, name: mark::PORTS, ahead: |_| true }, frame)
}

/// What a set or map is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Ports at one address of the node.
    One,
    /// Ports at any.
    Any,
    Hidden(Client),
}

const ALL: [Of; 4] = [Of::One, Of::Any, Of::Hidden(Client::Itself), Of::Hidden(Client::Anybody)];

impl Of {
    fn set(self, ipv4: bool) -> String {
        let name = match self {
            Self::One => "one",
            Self::Any => "any",
            Self::Hidden(Client::Itself) => "itself",
            Self::Hidden(Client::Anybody) => "anybody",
        };
        format!("{name}{}", if ipv4 { 4 } else { 6 })
    }

    fn shape(self, ipv4: bool) -> Shape {
        const TO: [&[Part]; 2] = [&[V6, Part::Port], &[V4, Part::Port]];
        const ONE: [&[Part]; 2] =
            [&[V6, Part::Protocol, Part::Port], &[V4, Part::Protocol, Part::Port]];
        const TWICE: [&[Part]; 2] = [&[V6, V6], &[V4, V4]];
        const ADDRESS: [&[Part]; 2] = [&[V6], &[V4]];
        let at = usize::from(ipv4);
        match self {
            Self::One => Shape::values(ONE[at], TO[at]),
            Self::Any => Shape::values(&[Part::Protocol, Part::Port], TO[at]),
            Self::Hidden(Client::Itself) => Shape::plain(TWICE[at]),
            Self::Hidden(Client::Anybody) => Shape::plain(ADDRESS[at]),
        }
    }
}

fn sets() -> impl Iterator<Item = (Of, bool)> {
    FAMILIES.into_iter().flat_map(|ipv4| ALL.map(|of| (of, ipv4)))
}

/// Every chain and its rules, as they are always.
fn frame() -> Table {
    let mut table = Table::default();
    for (of, ipv4) in sets() {
        let set = Set { shape: of.shape(ipv4), elements: [].into() };
        table.sets.insert(of.set(ipv4), set);
    }
    // Before connection tracking: what only this host's own loopback may carry.
    table.base("guard", Hook::filter(PREROUTING, -300), guard());
    let leads = || FAMILIES.into_iter().flat_map(leads).collect::<Vec<_>>();
    table.base("prerouting", Hook::nat(PREROUTING, -100), leads());
    let output = [own_loopback6()].into_iter().chain(leads()).collect();
    table.base("output", Hook::nat(OUTPUT, -100), output);
    table.base("postrouting", Hook::nat(POSTROUTING, 100), back());
    table
}

/// Pods' links may carry it once the node itself sends from there to them.
fn guard() -> Vec<Rule> {
    let stray = |field| {
        let when = [When::Link(Way::In, OURS), When::Ipv4(true), loopback(field)];
        Rule::new(when, Then::Drop)
    };
    [Field::Source { ipv4: true }, Field::Destination { ipv4: true }].map(stray).into()
}

fn loopback(field: Field) -> When {
    When::Within(field, ipnet::IpNet::new_assert(IpAddr::from([127, 0, 0, 0]), 8))
}

/// IPv6 has no way from there.
fn own_loopback6() -> Rule {
    let to =
        When::Within(Field::Destination { ipv4: false }, IpAddr::V6(Ipv6Addr::LOCALHOST).into());
    Rule::new([When::Ipv4(false), to], Then::Return)
}

fn leads(ipv4: bool) -> [Rule; 2] {
    let port = [Field::Protocol, Field::Port];
    let one = [Field::Destination { ipv4 }].into_iter().chain(port).collect();
    let dnat = |of: Of, by: Vec<Field>| Then::Dnat { ipv4, by, map: of.set(ipv4) };
    [
        Rule::new([When::Ipv4(ipv4)], dnat(Of::One, one)),
        Rule::new([When::Ipv4(ipv4), When::ToHost], dnat(Of::Any, port.into())),
    ]
}

/// Who asks keeps his address but where the answer would not come back.
fn back() -> Vec<Rule> {
    let itself = |ipv4| {
        let ends = vec![Field::Source { ipv4 }, Field::Destination { ipv4 }];
        let among = When::Among(ends, Of::Hidden(Client::Itself).set(ipv4));
        Rule::new([When::Ipv4(ipv4), among], Then::Masquerade)
    };
    let anybody = |ipv4| {
        let to = vec![Field::Destination { ipv4 }];
        let among = When::Among(to, Of::Hidden(Client::Anybody).set(ipv4));
        Rule::new([When::Ipv4(ipv4), among, When::Translated], Then::Masquerade)
    };
    let from_loopback =
        [When::Link(Way::Out, OURS), When::Ipv4(true), loopback(Field::Source { ipv4: true })];
    let mut rules: Vec<Rule> =
        FAMILIES.map(itself).into_iter().chain(FAMILIES.map(anybody)).collect();
    rules.push(Rule::new(from_loopback, Then::Masquerade));
    rules
}

/// The elements that the object is.
pub(super) fn elements(object: &Object) -> Elements {
    let one = |set: String, element| Elements::from([(set, [element].into())]);
    match object {
        Object::Port { door, to } => {
            let (set, key) = door_key(door);
            let value = Key::addr(to.ip()).with(&to.port().to_be_bytes());
            one(set, Element::value(key, value))
        }
        Object::Hidden { addr, from } => {
            let (set, key) = hidden_key(*addr, *from);
            one(set, Element::one(key))
        }
        _ => Elements::new(),
    }
}

/// Those that are there of it.
pub(super) fn held(key: &StateKey, known: &Elements) -> Elements {
    let (set, key) = match key {
        StateKey::Port(door) => door_key(door),
        StateKey::Hidden(addr, from) => hidden_key(*addr, *from),
        _ => return Elements::new(),
    };
    let some = known.get(&set).into_iter().flat_map(|set| set.range(Element::one(key)..));
    let some = some.take_while(|element| element.first == key).cloned().collect();
    Elements::from([(set, some)])
}

fn door_key(door: &Door) -> (String, Key) {
    let (of, key) = door.ip.map_or((Of::Any, Key::default()), |ip| (Of::One, Key::addr(ip)));
    let key = key.with(&[door.protocol.number()]).with(&door.port.to_be_bytes());
    (of.set(door.ipv4), key)
}

fn hidden_key(addr: IpAddr, from: Client) -> (String, Key) {
    let key = Key::addr(addr);
    let key = if from == Client::Itself { key.and_addr(addr) } else { key };
    (Of::Hidden(from).set(addr.is_ipv4()), key)
}

pub(super) fn objects(elements: &Elements) -> Vec<Object> {
    let mut objects = Vec::new();
    for (of, ipv4) in sets() {
        let some = elements.get(&of.set(ipv4)).into_iter().flatten();
        objects.extend(some.filter_map(|element| object((of, ipv4), element)));
    }
    objects
}

fn object((of, ipv4): (Of, bool), element: &Element) -> Option<Object> {
    let octets = if ipv4 { 4 } else { 16 };
    let key = element.first.bytes();
    let (first, rest) = match of {
        Of::Any => (None, key),
        _ => (Some(wire::ip(key.get(..octets)?)?), key.get(octets..)?),
    };
    if let Of::Hidden(from) = of {
        return Some(Object::Hidden { addr: first?, from });
    }
    let Some(To::Value(to)) = &element.to else { return None };
    let to = SocketAddr::new(wire::ip(to.bytes().get(..octets)?)?, port_at(to.bytes(), octets)?);
    let (protocol, port) = (protocol(*rest.first()?)?, port_at(rest, 4)?);
    Some(Object::Port { door: Door { ipv4, ip: first, protocol, port }, to })
}

fn protocol(number: u8) -> Option<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().find(|protocol| protocol.number() == number)
}

fn port_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
