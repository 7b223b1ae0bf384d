//! What is chosen for a peer from what was learnt of it, as text.

use std::collections::BTreeMap;

use crate::{
    join::{Receive, Way},
    learnt::{Learnt, Route},
    name::{IfName, Mtu},
    paths::{Peer, Reach, Sender, choose},
};

/// Learnt routes as `PREFIX HOP,HOP`, separated by `; `; `fresh` before one that was learnt just now.
fn learnt(text: &str) -> Learnt {
    let routes = text.split("; ").filter(|route| !route.is_empty()).map(|route| {
        let (dst, hops) = route.rsplit_once(' ').unwrap_or((route, ""));
        let hops = hops.split(',').filter(|hop| !hop.is_empty()).map(|hop| hop.parse().unwrap());
        let why = Some("198.51.100.9 is reached by nothing".to_owned());
        let (dst, fresh) = dst.strip_prefix("fresh ").map_or((dst, false), |dst| (dst, true));
        (dst.parse().unwrap(), Route { hops: hops.collect(), why, fresh })
    });
    Learnt { routes: routes.collect(), ..Learnt::default() }
}

const ONE: [&str; 1] = ["10.1.2.0/24"];
const BOTH: [&str; 2] = ["10.1.2.0/24", "10.1.3.0/24"];

/// Blocks of the peer, what was learnt, whether what covers them counts, whether a tunnel is on its way
/// out, and what follows.
const CASES: &[(&[&str], &str, bool, bool, &str)] = &[
    (&ONE, "10.1.2.0/24 192.0.2.2", false, false, "bgp dev eth0 via 192.0.2.2 mtu 1500"),
    (
        &ONE,
        "10.1.2.0/24 198.51.100.254,192.0.2.253",
        false,
        false,
        "bgp dev eth0 via 192.0.2.253 dev eth1 via 198.51.100.254 mtu 1400",
    ),
    (
        &BOTH,
        "10.1.2.0/24 192.0.2.2; 10.1.3.0/24 198.51.100.254",
        false,
        false,
        "bgp dev eth0 via 192.0.2.2 dev eth1 via 198.51.100.254 mtu 1400",
    ),
    (&ONE, "", false, false, "none; bgp: 10.1.2.0/24 is not learnt by BGP"),
    // A router that has just said so may not forward yet: any other way is better, none is not. The
    // peer itself does.
    (
        &ONE,
        "fresh 10.1.2.0/24 198.51.100.254",
        false,
        true,
        "vxlan dev weftx4-7 via 10.1.2.0 mtu 1450; bgp: 10.1.2.0/24 was learnt by BGP a moment ago \
         from a router that may not forward yet",
    ),
    (
        &ONE,
        "fresh 10.1.2.0/24 198.51.100.254",
        false,
        false,
        "bgp dev eth1 via 198.51.100.254 mtu 1400; bgp: 10.1.2.0/24 was learnt by BGP a moment ago \
         from a router that may not forward yet",
    ),
    (&ONE, "fresh 10.1.2.0/24 192.0.2.2", false, true, "bgp dev eth0 via 192.0.2.2 mtu 1500"),
    // The tunnel that goes is better than nothing, and better than a part.
    (
        &ONE,
        "",
        false,
        true,
        "vxlan dev weftx4-7 via 10.1.2.0 mtu 1450; bgp: 10.1.2.0/24 is not learnt by BGP",
    ),
    (
        &BOTH,
        "10.1.2.0/24 192.0.2.2",
        false,
        true,
        "vxlan dev weftx4-7 via 10.1.2.0 mtu 1450; bgp: 10.1.3.0/24 is not learnt by BGP",
    ),
    (
        &BOTH,
        "10.1.2.0/24 192.0.2.2",
        false,
        false,
        "bgp dev eth0 via 192.0.2.2 mtu 1500; bgp: 10.1.3.0/24 is not learnt by BGP",
    ),
    (
        &ONE,
        "10.1.2.0/24",
        false,
        false,
        "none; bgp: 10.1.2.0/24 was learnt by BGP, but 198.51.100.9 is reached by nothing",
    ),
    (
        &ONE,
        "10.1.2.0/24 203.0.113.1",
        false,
        false,
        "none; bgp: 10.1.2.0/24 was learnt by BGP, but next hop 203.0.113.1 is not on-link: it is reached through 192.0.2.254",
    ),
    (
        &ONE,
        "10.1.2.0/24 203.0.113.1,192.0.2.2",
        false,
        false,
        "bgp dev eth0 via 192.0.2.2 mtu 1500",
    ),
    (&BOTH, "10.1.2.0/23 192.0.2.253", false, false, "none; bgp: 10.1.2.0/24 is not learnt by BGP"),
    (&BOTH, "10.1.2.0/23 192.0.2.253", true, false, "bgp dev eth0 via 192.0.2.253 mtu 1500"),
    (
        &BOTH,
        "10.1.2.0/23 192.0.2.253; 10.1.3.0/24 192.0.2.2",
        true,
        false,
        "bgp dev eth0 via 192.0.2.2 dev eth0 via 192.0.2.253 mtu 1500",
    ),
    (&ONE, "0.0.0.0/0 192.0.2.253", true, false, "none; bgp: 10.1.2.0/24 is not learnt by BGP"),
    (
        &["fd00::/112"],
        "fd00::/112 2001:db8::2",
        false,
        false,
        "bgp dev eth0 via 2001:db8::2 mtu 1500",
    ),
    (&ONE, "10.1.2.0/24 2001:db8::2", false, false, "bgp dev eth0 via 2001:db8::2 mtu 1500"),
    (
        &["fd00::/112"],
        "fd00::/112 192.0.2.2",
        false,
        false,
        "none; bgp: fd00::/112 was learnt by BGP, but an IPv6 route cannot go through the IPv4 next hop 192.0.2.2",
    ),
];

#[test]
fn a_peers_blocks_are_reached_where_they_were_learnt_from() {
    let at = |dev: &str, gateway: Option<&str>, mtu: u64| {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        Some(Reach { dev: IfName::new(dev), gateway, mtu: mtu.try_into().unwrap() })
    };
    let reach: BTreeMap<_, _> = [
        ("192.0.2.2", at("eth0", None, 1500)),
        ("192.0.2.253", at("eth0", None, 1500)),
        ("198.51.100.254", at("eth1", None, 1400)),
        ("203.0.113.1", at("eth0", Some("192.0.2.254"), 1500)),
        ("2001:db8::2", at("eth0", None, 1500)),
    ]
    .map(|(addr, reach)| (addr.parse().unwrap(), reach))
    .into();
    let bgp = Receive::Bgp { underlay: "192.0.2.2".parse().unwrap() };
    let vxlan: Receive = serde_json::from_str(
        r#"{"way":"vxlan","underlay":"192.0.2.2","vni":7,"port":4789,"mac":"02:00:00:00:00:02"}"#,
    )
    .unwrap();
    for (blocks, said, aggregates, withdrawing, want) in CASES {
        let blocks: Vec<_> = blocks.iter().map(|block| block.parse().unwrap()).collect();
        let learnt = Learnt { aggregates: *aggregates, ..learnt(said) };
        let nic = crate::paths::Nic {
            dev: IfName::new("eth0"),
            addr: "192.0.2.1/24".parse().unwrap(),
            mtu: Mtu::ETHERNET,
        };
        let sender = Sender { underlay: &[nic], reach: &reach, only_by: None, learnt: &learnt };
        let withdrawing = if *withdrawing { vec![vxlan.clone()] } else { vec![] };
        let peer = Peer {
            name: &"b".parse().unwrap(),
            blocks: &blocks,
            mtu: Mtu::ETHERNET,
            receives: std::slice::from_ref(&bgp),
            withdrawing: &withdrawing,
        };
        let choice = choose(&[Way::Bgp], &sender, &peer, blocks[0].addr().is_ipv4());
        let chosen = choice.path.map_or("none".into(), |path| path.to_string());
        let refused = choice.refused.iter().map(|(way, why)| format!("; {way}: {why}"));
        assert_eq!(&(chosen + &refused.collect::<String>()), want, "{blocks:?}, {said}");
    }
}
