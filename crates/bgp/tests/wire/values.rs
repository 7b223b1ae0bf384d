//! Random messages.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, LargeCommunity, NextHop, Origin, Other, Segment},
    wire::{
        Agreed, Capability, GracefulRestart, Message, Notification, Open, Reach, Refresh,
        RouteRefresh, Update,
    },
};

use crate::dice::Dice;

pub fn agreed(dice: &mut Dice) -> Agreed {
    Agreed {
        four_octet_as: dice.yes(),
        ipv4: true,
        ipv6: true,
        ipv4_over_ipv6: dice.yes(),
        external: dice.yes(),
    }
}

pub fn message(dice: &mut Dice, agreed: &Agreed) -> Message {
    match dice.roll(8) {
        0 => Message::Keepalive,
        1 => Message::Open(open(dice)),
        2 => {
            let (code, subcode) = (dice.byte(), dice.byte());
            Message::Notification(Notification { code, subcode, data: dice.many(300, Dice::byte) })
        }
        3 => Message::RouteRefresh(RouteRefresh {
            family: family(dice),
            kind: [Refresh::Request, Refresh::Begin, Refresh::End][dice.below(3)],
        }),
        _ => Message::Update(update(dice, agreed)),
    }
}

fn family(dice: &mut Dice) -> Family {
    Family::ALL[dice.below(2)]
}

fn open(dice: &mut Dice) -> Open {
    let mut capabilities = Vec::new();
    for kind in 0..7 {
        if dice.yes() {
            capabilities.push(capability(dice, kind));
        }
    }
    let four = capabilities.iter().rev().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    Open {
        asn: four.unwrap_or_else(|| dice.word() & 0xffff),
        hold_time: u16::from(dice.byte()) + 3,
        router_id: Ipv4Addr::from_bits(dice.word() | 1),
        capabilities,
    }
}

fn capability(dice: &mut Dice, kind: u8) -> Capability {
    match kind {
        0 => Capability::Multiprotocol(family(dice)),
        1 => Capability::RouteRefresh,
        2 => Capability::EnhancedRouteRefresh,
        3 => Capability::Ipv4OverIpv6,
        4 => Capability::FourOctetAs(dice.word()),
        5 => Capability::GracefulRestart(GracefulRestart {
            restarted: dice.yes(),
            notification: dice.yes(),
            seconds: u16::from(dice.byte()) << 4 | 15,
            families: dice.many(3, |dice| (family(dice), dice.yes())),
        }),
        _ => Capability::Other { code: 128 | dice.byte(), value: dice.many(255, Dice::byte) },
    }
}

/// What reading gives: nothing that an external neighbour's UPDATE can't say, no two sequences in a
/// row, unknown attributes by their codes.
fn update(dice: &mut Dice, agreed: &Agreed) -> Update {
    if dice.roll(10) == 0 {
        return Update { end_of_rib: Some(family(dice)), ..Update::default() };
    }
    let mut reach = Vec::new();
    let mut withdrawn = Vec::new();
    match dice.roll(3) {
        0 => withdrawn = prefixes(dice, Family::Ipv4),
        1 => withdrawn = prefixes(dice, Family::Ipv6),
        _ => {
            let family = family(dice);
            let next_hop = next_hop(dice, family == Family::Ipv4 && !agreed.ipv4_over_ipv6, family);
            reach = vec![Reach { next_hop, prefixes: prefixes(dice, family) }];
        }
    }
    let attrs = (!reach.is_empty()).then(|| attrs(dice, agreed));
    Update { attrs, reach, withdrawn, ..Update::default() }
}

pub fn next_hop(dice: &mut Dice, ipv4_only: bool, family: Family) -> NextHop {
    if ipv4_only || family == Family::Ipv4 && dice.yes() {
        return NextHop::V4(Ipv4Addr::from_bits(0x0a00_0000 | dice.word() >> 8));
    }
    let addr = |dice: &mut Dice, first: u128| {
        let rest = u128::from_be_bytes(dice.bytes()) >> 22;
        Ipv6Addr::from_bits(first << 112 | rest)
    };
    NextHop::V6(addr(dice, 0x2001), dice.some(|dice| addr(dice, 0xfe80)))
}

pub fn prefixes(dice: &mut Dice, family: Family) -> Vec<IpNet> {
    let count = dice.below(60) + 1;
    (0..count).map(|_| prefix(dice, family)).collect()
}

pub fn prefix(dice: &mut Dice, family: Family) -> IpNet {
    match family {
        Family::Ipv4 => {
            let addr = Ipv4Addr::from_bits(0x0a00_0000 | dice.word() >> 8);
            Ipv4Net::new_assert(addr, u8::try_from(dice.roll(33)).unwrap()).trunc().into()
        }
        Family::Ipv6 => {
            let mut bytes = dice.bytes::<16>();
            bytes[0] = 0x20;
            let length = u8::try_from(dice.roll(129)).unwrap();
            Ipv6Net::new_assert(bytes.into(), length).trunc().into()
        }
    }
}

pub fn attrs(dice: &mut Dice, agreed: &Agreed) -> Attrs {
    let internal = !agreed.external;
    let mut large_communities =
        dice.many(5, |dice| LargeCommunity(dice.word(), dice.word(), dice.word()));
    large_communities.dedup();
    let mut others = dice.many(3, |dice| Other {
        code: [16, 25, 40, 128, 200, 255][dice.below(6)],
        partial: true,
        value: dice.many(400, Dice::byte),
    });
    others.sort_by_key(|other| other.code);
    others.dedup_by_key(|other| other.code);
    Attrs {
        origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][dice.below(3)],
        as_path: as_path(dice, internal),
        med: dice.some(Dice::word),
        local_pref: dice.some(Dice::word).filter(|_| internal),
        atomic_aggregate: dice.yes(),
        aggregator: dice.some(|dice| (asn(dice), Ipv4Addr::from_bits(dice.word()))),
        communities: dice.many(10, |dice| Community(dice.word())),
        large_communities,
        originator: dice.some(|dice| Ipv4Addr::from_bits(dice.word())).filter(|_| internal),
        cluster_list: if internal {
            dice.many(4, |dice| Ipv4Addr::from_bits(dice.word()))
        } else {
            Vec::new()
        },
        others,
    }
}

fn as_path(dice: &mut Dice, internal: bool) -> AsPath {
    let mut path = AsPath::default();
    for part in dice.many(4, |dice| (dice.roll(4), dice.below(3) + 1)) {
        let numbers = |dice: &mut Dice| (0..part.1).map(|_| asn(dice)).collect();
        match part.0 {
            0 => path.append(Segment::Set(numbers(dice))),
            1 if internal && path.0.is_empty() => {
                path.append(Segment::ConfedSequence((0..part.1).map(|_| 65100).collect()));
            }
            _ => path.append(Segment::Sequence(numbers(dice))),
        }
    }
    path
}

/// One of two bytes, or of four. 23456 says that it is of four, and is nobody's.
fn asn(dice: &mut Dice) -> u32 {
    match dice.roll(3) {
        0 => dice.word().max(65536),
        _ => 64512 + u32::from(dice.byte()),
    }
}
