//! From which addresses a pod may send: what comes in by the node's end of its link under another is
//! dropped, before anything else looks at it. Ends that the node routes from are judged in family inet,
//! by the packet; ports of bridges in family bridge, by the frame, and so is what a pod says of itself to
//! its neighbours. One look-up for what is as it should be.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use weft_core::{
    mark,
    name::{IfName, Mac},
    state::{Key as StateKey, Object},
};

use super::{
    BRIDGE, Error, INET, INPUT_HOOK, NETDEV, PREROUTING,
    table::{
        self, Chain, Element, Elements, Field, Fixed, Hook, Key, Name, Part, Place, Rule, Set,
        Shape, Table, Then, Way, When,
    },
};
use crate::{socket, wire};

const V4: Part = Part::Address { ipv4: true };
const V6: Part = Part::Address { ipv4: false };
const FAMILIES: [bool; 2] = [true, false];
/// Before connection tracking, and whatever else asks for a source.
const FIRST: i32 = -310;
/// The links that are judged.
const ENDS: &str = "ends";
/// With their pods' MAC addresses, on bridges.
const MACS: &str = "macs";
const JUDGED: &str = "judged";
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Of a VLAN, and of a VLAN in a provider's.
const TAGGED: [u16; 2] = [0x8100, 0x88a8];
/// ICMPv6 (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// As whom a pod asks on a bridge whether an address is free, and says which groups it is in.
const NOBODY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What is judged comes last: a packet meets all of a link's addresses or no rule.
fn place(family: u8) -> Place {
    Place { family, name: mark::SOURCES, ahead: |set| set != ENDS }
}

pub(super) fn routed() -> Fixed {
    Fixed::new(place(INET), routed_frame)
}

pub(super) fn bridged() -> Fixed {
    Fixed::new(place(BRIDGE), bridged_frame)
}

fn own(ipv4: bool) -> &'static str {
    if ipv4 { "own4" } else { "own6" }
}

fn sets(table: &mut Table, shapes: &[(&str, &'static [Part])]) {
    for (name, parts) in shapes.iter().copied().chain([(ENDS, &[Part::Link][..])]) {
        let set = Set { shape: Shape::plain(parts), elements: BTreeSet::new() };
        table.sets.insert(name.to_owned(), set);
    }
}

fn among(fields: impl Into<Vec<Field>>, set: &str) -> When {
    When::Among(fields.into(), set.to_owned())
}

fn not_among(fields: impl Into<Vec<Field>>, set: &str) -> When {
    When::NotAmong(fields.into(), set.to_owned())
}

/// What comes by a link that can be no pod's costs one comparison.
fn strangers() -> Rule {
    Rule::new([When::NotLink(Way::In, Name::Begins(IfName::PREFIX))], Then::Accept)
}

fn net(text: &str) -> IpNet {
    text.parse().expect("written here")
}

fn routed_frame() -> Table {
    let mut table = Table::default();
    sets(&mut table, &[(own(true), &[Part::Link, V4]), (own(false), &[Part::Link, V6])]);
    let mut rules = vec![strangers()];
    rules.extend(FAMILIES.map(|ipv4| {
        let known = among([Field::InLink, Field::Source { ipv4 }], own(ipv4));
        Rule::new([When::Ipv4(ipv4), known], Then::Accept)
    }));
    // They are of the link alone: nobody hands them on.
    rules.extend(["fe80::/10", "::/128"].map(|from| {
        let from = When::Within(Field::Source { ipv4: false }, net(from));
        Rule::new([When::Ipv4(false), from], Then::Accept)
    }));
    rules.push(Rule::new([among([Field::InLink], ENDS)], Then::Drop));
    table.base("prerouting", Hook::filter(PREROUTING, FIRST), rules);
    table
}

/// Where frames are judged: by which link, and by what they are told apart.
#[derive(Clone, Copy)]
struct Side {
    link: Field,
    kind: fn(u16) -> When,
}

/// They have come in: the kernel has looked.
const ARRIVED: Side = Side { link: Field::InLink, kind: When::EtherType };
/// A pod may tell its kernel that they are something else.
const LEAVING: Side = Side { link: Field::OutLink, kind: When::FrameIs };

fn frame_sets(table: &mut Table) {
    sets(
        table,
        &[
            (own(true), &[Part::Link, Part::Mac, V4]),
            (own(false), &[Part::Link, Part::Mac, V6]),
            (MACS, &[Part::Link, Part::Mac]),
        ],
    );
}

fn bridged_frame() -> Table {
    let mut table = Table::default();
    frame_sets(&mut table);
    let judged = || among([Field::InLink], ENDS);
    let mut rules = vec![strangers()];
    rules.extend(known(ARRIVED));
    rules.push(Rule::new([judged()], Then::Goto(JUDGED.to_owned())));
    table.base("prerouting", Hook::filter(PREROUTING, FIRST), rules);
    table.chains.insert(JUDGED.to_owned(), Chain { hook: None, rules: judging(ARRIVED) });
    // A bridge learns from these too, before it looks at any rule of those above.
    let own_mac = not_among([Field::InLink, Field::SourceMac], MACS);
    let learnt = Rule::new([When::ToReserved, judged(), own_mac], Then::Drop);
    table.base("input", Hook::filter(INPUT_HOOK, FIRST), vec![learnt]);
    table
}

/// In a pod, for its links that are there alone: what leaves by them.
fn inside(links: &[Object]) -> Table {
    let mut table = Table::default();
    frame_sets(&mut table);
    table.sets.remove(ENDS);
    for link in links {
        let Object::Sources { dev, mac: Some(mac), addrs } = link else { continue };
        for (name, some) in bridged_elements(dev, *mac, addrs) {
            if let Some(set) = table.sets.get_mut(&name) {
                set.elements.extend(some);
            }
        }
        let mut rules = known(LEAVING);
        rules.push(Rule::new([], Then::Goto(JUDGED.to_owned())));
        table.base(&format!("egress-{dev}"), Hook::egress(dev.clone(), 0), rules);
    }
    table.chains.insert(JUDGED.to_owned(), Chain { hook: None, rules: judging(LEAVING) });
    table
}

/// Brings the table of a pod's namespace, of which the socket is, to what its links may send as.
pub(crate) fn judge(socket: &mut socket::Link, links: &[Object]) -> Result<(), Error> {
    let place = place(NETDEV);
    if !links.is_empty() {
        return table::bring(socket, place, &inside(links)).map(drop);
    }
    if table::is_absent(socket, place)? { Ok(()) } else { table::remove(socket, place) }
}

/// What is as it should be, but for what neighbours say of themselves.
fn known(side: Side) -> Vec<Rule> {
    let known = |ipv4| among([side.link, Field::SourceMac, Field::Source { ipv4 }], own(ipv4));
    let ipv6 = [(side.kind)(IPV6), When::EtherType(IPV6), When::NotIcmp6, known(false)];
    vec![Rule::new([(side.kind)(IPV4), known(true)], Then::Accept), Rule::new(ipv6, Then::Accept)]
}

/// What is neither IPv4 from an address of the pod, nor IPv6 that is no ICMP.
fn judging(side: Side) -> Vec<Rule> {
    let is = side.kind;
    let icmp6 = |kind, more: Option<When>, then| {
        let when = [is(IPV6), When::Icmp6 { first: kind, last: kind }];
        Rule::new(when.into_iter().chain(more).collect::<Vec<_>>(), then)
    };
    let known6 = |field| [side.link, Field::SourceMac, field];
    let link_local = |field| When::Within(field, net("fe80::/10"));
    let arp = among([side.link, Field::ArpMac, Field::ArpSource], own(true));
    let advertised = not_among(known6(Field::NdTarget), own(false));
    let source = Field::Source { ipv4: false };
    let mut rules = vec![
        Rule::new([not_among([side.link, Field::SourceMac], MACS)], Then::Drop),
        // An ARP packet says once more whose it is.
        Rule::new([is(ARP), arp], Then::Accept),
        // What the kernel takes for something else it does not look into.
        Rule::new([is(IPV6), When::NotEtherType(IPV6)], Then::Drop),
        // A pod is its neighbours' neighbour, and no router of theirs.
        icmp6(ROUTER_ADVERTISEMENT, None, Then::Drop),
        icmp6(REDIRECT, None, Then::Drop),
        icmp6(NEIGHBOUR_ADVERTISEMENT, Some(link_local(Field::NdTarget)), Then::Accept),
        icmp6(NEIGHBOUR_ADVERTISEMENT, Some(advertised), Then::Drop),
        Rule::new([is(IPV6), among(known6(source), own(false))], Then::Accept),
        // Of the link alone, under the pod's own MAC address.
        Rule::new([is(IPV6), link_local(source)], Then::Accept),
    ];
    // One tag is taken off before anybody looks; behind a second another packet might be hidden.
    let hidden = [ARP, IPV4, IPV6].into_iter().chain(TAGGED);
    rules.extend(hidden.map(|kind| Rule::new([is(kind)], Then::Drop)));
    rules
}

/// The elements that the object is in family inet, and in family bridge.
pub(super) fn elements(object: &Object) -> [Elements; 2] {
    match object {
        Object::Sources { dev, mac: None, addrs } => [routed_elements(dev, addrs), Elements::new()],
        Object::Sources { dev, mac: Some(mac), addrs } => {
            [Elements::new(), bridged_elements(dev, *mac, addrs)]
        }
        _ => [Elements::new(), Elements::new()],
    }
}

fn routed_elements(dev: &IfName, addrs: &BTreeSet<IpAddr>) -> Elements {
    let link = Key::link(dev);
    let mut elements = Elements::from([(ENDS.to_owned(), [Element::one(link)].into())]);
    own_elements(&mut elements, link, addrs.iter());
    elements
}

fn bridged_elements(dev: &IfName, mac: Mac, addrs: &BTreeSet<IpAddr>) -> Elements {
    let link = Key::link(dev);
    let with_mac = link.and_mac(mac);
    let mut elements = Elements::from([
        (ENDS.to_owned(), [Element::one(link)].into()),
        (MACS.to_owned(), [Element::one(with_mac)].into()),
    ]);
    own_elements(&mut elements, with_mac, addrs.iter().chain(&NOBODY));
    elements
}

fn own_elements<'a>(elements: &mut Elements, of: Key, addrs: impl Iterator<Item = &'a IpAddr>) {
    for addr in addrs {
        let set = elements.entry(own(addr.is_ipv4()).to_owned()).or_default();
        set.insert(Element::one(of.and_addr(*addr)));
    }
}

/// What is there of the link.
pub(super) fn held(key: &StateKey, known: &Elements) -> Elements {
    let StateKey::Sources(dev) = key else { return Elements::new() };
    let link = Key::link(dev);
    let of = |set: &BTreeSet<Element>| {
        let some = set.range(Element::one(link)..);
        some.take_while(|element| element.first.bytes().starts_with(link.bytes()))
            .cloned()
            .collect()
    };
    known.iter().map(|(name, set)| (name.clone(), of(set))).collect()
}

/// Links that are only in part as we write them have what none is given, and so are written anew.
pub(super) fn objects([routed, bridged]: [&Elements; 2]) -> Vec<Object> {
    let routed = devs(routed).into_iter().map(|dev| {
        let held = held(&StateKey::Sources(dev.clone()), routed);
        let addrs = addrs_behind(&held, Key::link(&dev));
        let whole = with_nothing_left_out(&held, &routed_elements(&dev, &addrs));
        Object::Sources { dev, mac: (!whole).then_some(Mac([0; 6])), addrs }
    });
    let bridged = devs(bridged).into_iter().map(|dev| {
        let held = held(&StateKey::Sources(dev.clone()), bridged);
        let mac = mac_of(&held);
        let with_mac = Key::link(&dev).and_mac(mac.unwrap_or(Mac([0; 6])));
        let mut addrs = addrs_behind(&held, with_mac);
        addrs.retain(|addr| !NOBODY.contains(addr));
        let whole = |mac: &Mac| with_nothing_left_out(&held, &bridged_elements(&dev, *mac, &addrs));
        let mac = mac.filter(whole);
        Object::Sources { dev, mac, addrs }
    });
    routed.chain(bridged).collect()
}

/// The links that any element is of.
fn devs(elements: &Elements) -> BTreeSet<IfName> {
    let keys = elements.values().flatten().map(|element| element.first);
    keys.filter_map(|key| wire::text(key.bytes().get(..16)?).parse().ok()).collect()
}

fn with_nothing_left_out(held: &Elements, wanted: &Elements) -> bool {
    let filled = |elements: &Elements| -> Elements {
        let some = elements.iter().filter(|(_, set)| !set.is_empty());
        some.map(|(name, set)| (name.clone(), set.clone())).collect()
    };
    filled(held) == filled(wanted)
}

fn addrs_behind(held: &Elements, of: Key) -> BTreeSet<IpAddr> {
    let own = FAMILIES.into_iter().filter_map(|ipv4| held.get(own(ipv4))).flatten();
    let addr = |element: &Element| wire::ip(element.first.bytes().strip_prefix(of.bytes())?);
    own.filter_map(addr).collect()
}

fn mac_of(held: &Elements) -> Option<Mac> {
    let key = held.get(MACS)?.first()?.first;
    key.bytes().get(16..22)?.try_into().ok().map(Mac)
}
