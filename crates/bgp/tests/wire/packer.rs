//! UPDATEs as they are written: which bytes, how many, and what if there is no room.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Other, Segment},
    wire::{self, Agreed, Frames, MESSAGE_MAX, Message, Packer, Reach, Update},
};

use crate::{
    dice::Dice,
    told::{answer, hex},
    values,
};

fn internal() -> Agreed {
    Agreed { four_octet_as: true, ipv4: true, ipv6: true, ipv4_over_ipv6: true, external: false }
}

fn attrs() -> Attrs {
    Attrs {
        as_path: "65001".parse().unwrap(),
        med: Some(7),
        local_pref: Some(100),
        communities: vec![Community::NO_EXPORT],
        originator: Some(Ipv4Addr::new(192, 0, 2, 7)),
        cluster_list: vec![Ipv4Addr::new(192, 0, 2, 8)],
        large_communities: vec!["1:2:3".parse().unwrap()],
        others: vec![
            Other { code: 200, partial: true, value: vec![2] },
            Other { code: 16, partial: false, value: vec![1] },
        ],
        ..Attrs::default()
    }
}

fn packed(attrs: &Attrs, next_hop: &str, prefix: &str, agreed: &Agreed) -> Vec<u8> {
    let prefix: IpNet = prefix.parse().unwrap();
    let next_hop = match next_hop.split_once(' ') {
        Some((addr, local)) => NextHop::V6(addr.parse().unwrap(), local.parse().ok()),
        None => match next_hop.parse().unwrap() {
            std::net::IpAddr::V4(addr) => NextHop::V4(addr),
            std::net::IpAddr::V6(addr) => NextHop::V6(addr, None),
        },
    };
    let mut packer = Packer::announce(attrs, next_hop, Family::of(&prefix), agreed).unwrap();
    assert!(packer.add(&prefix));
    let mut bytes = Vec::new();
    packer.finish(&mut bytes);
    bytes
}

/// Behind the header, with spaces where attributes begin.
fn body(message: &[u8]) -> String {
    hex(&message[19..])
}

fn joined(parts: &[&str]) -> String {
    parts.concat().replace(' ', "")
}

#[test]
fn ipv4_in_its_own_field() {
    assert_eq!(
        body(&packed(&attrs(), "192.0.2.1", "198.51.100.0/24", &internal())),
        joined(&[
            "0000 004e 40010100 40020602010000fde9 400304c0000201 80040400000007 40050400000064",
            "c00804ffffff01 800904c0000207 800a04c0000208 c0100101",
            "c0200c000000010000000200000003 e0c80102 18c63364",
        ])
    );
}

/// MP_REACH_NLRI is the first (RFC 7606, 5.1).
#[test]
fn ipv6_and_ipv4_over_ipv6() {
    let plain = Attrs { as_path: "65001".parse().unwrap(), ..Attrs::default() };
    let rest = "40010100 40020602010000fde9";
    for (next_hop, prefix, mp) in [
        (
            "2001:db8::1",
            "2001:db8:1::/48",
            "0000 002d 900e001c 000201 10 20010db8000000000000000000000001 00 3020010db80001",
        ),
        (
            "2001:db8::1 fe80::1",
            "::/0",
            "0000 0037 900e0026 000201 20 20010db8000000000000000000000001 \
             fe800000000000000000000000000001 00 00",
        ),
        (
            "2001:db8::1",
            "198.51.100.0/24",
            "0000 002a 900e0019 000101 10 20010db8000000000000000000000001 00 18c63364",
        ),
    ] {
        let message = packed(&plain, next_hop, prefix, &internal());
        assert_eq!(body(&message), joined(&[mp, rest]), "{prefix}");
    }
}

#[test]
fn withdrawals_and_ends_of_rib() {
    let written = |update: Update| {
        let mut bytes = Vec::new();
        wire::write(&Message::Update(update), &internal(), &mut bytes);
        body(&bytes)
    };
    let withdrawn =
        |prefix: &str| Update { withdrawn: vec![prefix.parse().unwrap()], ..Update::default() };
    let end = |family| Update { end_of_rib: Some(family), ..Update::default() };
    assert_eq!(written(withdrawn("198.51.100.0/24")), joined(&["0004 18c63364 0000"]));
    assert_eq!(written(withdrawn("0.0.0.0/0")), joined(&["0001 00 0000"]));
    assert_eq!(
        written(withdrawn("2001:db8:1::/48")),
        joined(&["0000 000e 900f000a 000201 3020010db80001"])
    );
    assert_eq!(written(end(Family::Ipv4)), "00000000");
    assert_eq!(written(end(Family::Ipv6)), joined(&["0000 0006 800f03 000201"]));
}

/// Host bits are not written.
#[test]
fn prefixes_are_masked() {
    let message = packed(&Attrs::default(), "192.0.2.1", "198.51.100.255/25", &internal());
    assert!(body(&message).ends_with("19c6336480"));
}

#[test]
fn external_neighbours_are_not_told_what_is_internal() {
    let external = Agreed { external: true, ..internal() };
    let message = packed(&attrs(), "192.0.2.1", "198.51.100.0/24", &external);
    let read = wire::read(&message, &internal());
    assert_eq!(
        answer(&read),
        "announce 198.51.100.0/24 via 192.0.2.1; igp path [65001] med 7 communities no-export \
         large 1:2:3 other 16 partial [01] other 200 partial [02]"
    );
}

/// RFC 6793, 4.2.2.
#[test]
fn two_octet_neighbours() {
    let two = Agreed { four_octet_as: false, ..internal() };
    let large = Attrs {
        as_path: "(65100) 65001 4200000001 {4200000002}".parse().unwrap(),
        aggregator: Some((4_200_000_001, Ipv4Addr::new(192, 0, 2, 9))),
        ..Attrs::default()
    };
    let message = packed(&large, "192.0.2.1", "198.51.100.0/24", &two);
    assert_eq!(
        body(&message),
        joined(&[
            "0000 0043 40010100 40020e 0301fe4c 0202fde95ba0 01015ba0 400304c0000201",
            "c007065ba0c0000209 c01110 02020000fde9fa56ea01 0101fa56ea02",
            "c01208fa56ea01c0000209 18c63364",
        ])
    );
    let Ok(Some(Message::Update(read))) = wire::read(&message, &two) else { panic!() };
    assert_eq!(read.attrs, Some(large));
    // Nothing of it where two bytes say all (RFC 6793, 4.2.2).
    let small = Attrs {
        as_path: "65001".parse().unwrap(),
        aggregator: Some((65001, Ipv4Addr::new(192, 0, 2, 9))),
        ..Attrs::default()
    };
    let message = packed(&small, "192.0.2.1", "198.51.100.0/24", &two);
    assert!(!body(&message).contains("c011") && !body(&message).contains("c012"));
}

#[test]
fn long_paths_stand_in_several_segments() {
    for length in [1, 254, 255, 256, 511, 700] {
        let path = AsPath(vec![Segment::Sequence((1..=length).collect())]);
        let long = Attrs { as_path: path, ..Attrs::default() };
        let message = packed(&long, "192.0.2.1", "198.51.100.0/24", &internal());
        let Ok(Some(Message::Update(read))) = wire::read(&message, &internal()) else { panic!() };
        assert_eq!(read.attrs, Some(long), "{length}");
    }
}

fn of_size(bytes: usize) -> Attrs {
    let value = vec![7; bytes];
    Attrs { others: vec![Other { code: 200, partial: true, value }], ..Attrs::default() }
}

/// A packer has room for at least one prefix, or there is none.
#[test]
fn attributes_that_leave_no_room() {
    let next_hops = [
        (Family::Ipv4, NextHop::V4(Ipv4Addr::new(192, 0, 2, 1))),
        (Family::Ipv4, NextHop::V6("2001:db8::1".parse().unwrap(), None)),
        (Family::Ipv6, NextHop::V6("2001:db8::1".parse().unwrap(), "fe80::1".parse().ok())),
    ];
    for (family, next_hop) in next_hops {
        let longest: IpNet = match family {
            Family::Ipv4 => "10.0.0.1/32".parse().unwrap(),
            Family::Ipv6 => "2001:db8::1/128".parse().unwrap(),
        };
        let mut refused = 0;
        for size in (3900..4200).chain([65_535, 65_536, 70_000, 1 << 20]) {
            let attrs = of_size(size);
            let Ok(mut packer) = Packer::announce(&attrs, next_hop, family, &internal()) else {
                refused += 1;
                continue;
            };
            assert_eq!(refused, 0, "a longer one has room");
            assert!(packer.add(&longest));
            let mut bytes = Vec::new();
            packer.finish(&mut bytes);
            assert!(bytes.len() <= MESSAGE_MAX);
            assert!(wire::read(&bytes, &internal()).is_ok());
        }
        assert!(refused > 100);
    }
}

/// RFC 4271, 9.2: what can't be said is not to stand as it was.
#[test]
fn routes_that_fit_nowhere_are_withdrawn() {
    let reach =
        |next_hop, prefix: &str| Reach { next_hop, prefixes: vec![prefix.parse().unwrap()] };
    let update = Update {
        attrs: Some(of_size(5000)),
        reach: vec![
            reach(NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)), "198.51.100.0/24"),
            reach(NextHop::V6("2001:db8::1".parse().unwrap(), None), "2001:db8:1::/48"),
        ],
        ..Update::default()
    };
    let mut bytes = Vec::new();
    wire::write(&Message::Update(update), &internal(), &mut bytes);
    let mut frames = Frames::default();
    frames.push(&bytes);
    let mut told = Vec::new();
    while let Some(message) = frames.cut().unwrap() {
        told.push(answer(&wire::read(&message, &internal())));
    }
    assert_eq!(told, ["withdraw 198.51.100.0/24", "withdraw 2001:db8:1::/48"]);
}

/// Messages are as full as they can be, and all prefixes are in them once.
#[test]
fn messages_are_filled() {
    let mut dice = Dice(23);
    let ipv4 = (0..20_000u32)
        .map(|at| IpNet::from(Ipv4Net::new_assert(Ipv4Addr::from_bits(0x0a00_0000 | at << 8), 24)));
    let ipv6 = (0..20_000u128).map(|at| {
        let addr = std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | at << 64);
        IpNet::from(Ipv6Net::new_assert(addr, 64))
    });
    let random = (0..5000).map(|_| values::prefix(&mut dice, Family::Ipv6));
    let all: [(Vec<IpNet>, usize); 3] =
        [(ipv4.collect(), 4), (ipv6.collect(), 9), (random.collect(), 17)];
    for (prefixes, longest) in all {
        let family = Family::of(&prefixes[0]);
        let next_hop = match family {
            Family::Ipv4 => NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
            Family::Ipv6 => NextHop::V6("2001:db8::1".parse().unwrap(), None),
        };
        let reach = vec![Reach { next_hop, prefixes: prefixes.clone() }];
        let update = Update { attrs: Some(attrs()), reach, ..Update::default() };
        let withdrawn = Update { withdrawn: prefixes.clone(), ..Update::default() };
        for update in [update, withdrawn] {
            let mut bytes = Vec::new();
            wire::write(&Message::Update(update), &internal(), &mut bytes);
            assert_eq!(spread(&bytes, longest), prefixes);
        }
    }
}

fn spread(bytes: &[u8], longest: usize) -> Vec<IpNet> {
    let mut frames = Frames::default();
    frames.push(bytes);
    let mut prefixes = Vec::new();
    let mut lengths = Vec::new();
    while let Some(message) = frames.cut().unwrap() {
        lengths.push(message.len());
        let Ok(Some(Message::Update(update))) = wire::read(&message, &internal()) else { panic!() };
        prefixes.extend(update.withdrawn);
        prefixes.extend(update.reach.into_iter().flat_map(|reach| reach.prefixes));
    }
    lengths.pop();
    assert!(lengths.iter().all(|length| *length > MESSAGE_MAX - longest), "{lengths:?}");
    prefixes
}

#[test]
fn nothing_added_is_nothing_written() {
    let mut bytes = Vec::new();
    for family in Family::ALL {
        Packer::withdraw(family).finish(&mut bytes);
        let next_hop = NextHop::V6("2001:db8::1".parse().unwrap(), None);
        Packer::announce(&attrs(), next_hop, family, &internal()).unwrap().finish(&mut bytes);
    }
    assert!(bytes.is_empty());
}
