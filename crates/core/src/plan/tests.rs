//! Tables for `plan`, and every pair of small worlds.

use std::net::IpAddr;

use super::*;
use crate::{
    name::{IfName, Mac, Mtu},
    state::{Hop, Kind, Link, Route},
};

#[test]
fn makes_then_breaks() {
    let cases: &[(&str, &[Object], &[Object], &[&str])] = &[
        ("nothing to say", &[link(7), route(2)], &[link(7), route(2)], &[]),
        (
            "built from the ground up",
            &[route(2), hop(2), up(), link(7)],
            &[],
            &[
                "+ link weftx4-t vxlan id 7 local 192.168.0.1 dstport 4789 mtu 1450 address 02:00:00:00:00:01",
                "+ link weftx4-t up",
                "+ nexthop via 10.0.0.2 dev weftx4-t",
                "+ route 10.1.0.0/24 via 10.0.0.2 dev weftx4-t",
            ],
        ),
        (
            "a moved route is one replace",
            &[route(3), hop(3), hop(2)],
            &[route(2), hop(2)],
            &[
                "+ nexthop via 10.0.0.3 dev weftx4-t",
                "+ route 10.1.0.0/24 via 10.0.0.3 dev weftx4-t",
            ],
        ),
        (
            "a change of join moves the route before the tunnel goes",
            &[direct()],
            &[link(7), hop(2), route(2)],
            &[
                "+ route 10.1.0.0/24 via 192.168.0.2 dev eth0",
                "- nexthop via 10.0.0.2 dev weftx4-t",
                "- link weftx4-t",
            ],
        ),
        (
            "a port is made after its bridge and goes before it",
            &[port(), bridge()],
            &[],
            &[
                "+ link weftb-t bridge mtu 1450 address 02:00:00:00:00:02",
                "+ link weft0 veth mtu 1450 address 02:00:00:00:00:03 master weftb-t",
            ],
        ),
        ("torn down from the top", &[], &[port(), bridge()], &["- link weft0", "- link weftb-t"]),
        (
            "a new id means a new link, and says what that interrupts",
            &[link(8), route(2)],
            &[link(7), route(2)],
            &[
                "! link weftx4-t vxlan id 8 local 192.168.0.1 dstport 4789 mtu 1450 address 02:00:00:00:00:01 (made anew; interrupts 1 objects that stand on it)",
                "+ route 10.1.0.0/24 via 10.0.0.2 dev weftx4-t",
            ],
        ),
    ];
    for (name, desired, actual, want) in cases {
        let changes = plan(&state(desired), &state(actual));
        let got: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(got, *want, "{name}");
    }
}

/// The world is small enough to visit whole: every pair of states, and a crash after every step.
#[test]
fn converges_from_anywhere_whenever_it_dies() {
    let objects =
        [link(7), link(8), up(), hop(2), route(2), route(3), direct(), neigh(), bridge(), port()];
    let worlds = subsets(&objects);
    let wishes = worlds.iter().filter(|world| is_grounded(world));
    for (desired, actual) in wishes.flat_map(|wish| worlds.iter().map(move |was| (wish, was))) {
        let first = plan(desired, actual);
        for steps_before_crash in 0..=first.len() {
            let mut kernel = actual.clone();
            apply(&mut kernel, &first[..steps_before_crash]);
            let rest = plan(desired, &kernel);
            apply(&mut kernel, &rest);
            assert_eq!(&kernel, desired, "from {actual:?}, dead after {steps_before_crash}");
        }
    }
}

fn is_grounded(state: &State) -> bool {
    let missing = |dev: &IfName| state.link(dev).is_none();
    !state.objects().any(|object| object.dev().is_some_and(|dev| dev.is_ours() && missing(dev)))
}

fn apply(kernel: &mut State, changes: &[Change]) {
    changes.iter().for_each(|change| kernel.take(change));
}

fn subsets(objects: &[Object]) -> Vec<State> {
    let chosen = |mask: usize| {
        objects.iter().enumerate().filter(move |(bit, _)| mask >> bit & 1 == 1).map(|(_, o)| o)
    };
    let worlds: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
    let mut seen = worlds;
    (0..1usize << objects.len())
        .map(|mask| chosen(mask).cloned().collect::<State>())
        .filter(|state| seen.insert(format!("{state:?}")))
        .collect()
}

fn state(objects: &[Object]) -> State {
    objects.iter().cloned().collect()
}

fn vx() -> IfName {
    IfName::new("weftx4-t")
}

fn link(vni: u64) -> Object {
    let kind =
        Kind::Vxlan { vni: vni.try_into().unwrap(), port: 4789, local: [192, 168, 0, 1].into() };
    made(vx().as_str(), kind, 1, None)
}

fn bridge() -> Object {
    made("weftb-t", Kind::Bridge, 2, None)
}

fn port() -> Object {
    made("weft0", Kind::Veth, 3, Some(IfName::new("weftb-t")))
}

fn made(dev: &str, kind: Kind, mac: u8, master: Option<IfName>) -> Object {
    let (dev, mac) = (IfName::new(dev), Mac([2, 0, 0, 0, 0, mac]));
    Object::Link(Link { dev, kind, mtu: Mtu::ETHERNET.less(50), mac, master })
}

fn up() -> Object {
    Object::Up { dev: vx() }
}

fn via(gateway: u8) -> IpAddr {
    [10, 0, 0, gateway].into()
}

fn hop(gateway: u8) -> Object {
    Object::NextHop { dev: vx(), via: via(gateway) }
}

fn route(gateway: u8) -> Object {
    routed(Hop::NextHop(vx(), via(gateway)))
}

fn direct() -> Object {
    routed(Hop::NextHop(IfName::new("eth0"), [192, 168, 0, 2].into()))
}

fn routed(to: Hop) -> Object {
    Object::Route(Route { dst: "10.1.0.0/24".parse().unwrap(), to, mtu: None })
}

fn neigh() -> Object {
    Object::Neigh { dev: vx(), ip: via(2), mac: Mac([2, 0, 0, 0, 0, 2]) }
}
