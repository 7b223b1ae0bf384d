//! Routes over several next hops at once, on the real kernel: made, known again, moved between one hop
//! and several without a packet lost, and a stranger's groups left alone.
#![allow(clippy::unwrap_used)]

mod floor;

use std::{
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use floor::{converge, net, node, observe, sh};

use weft_core::{
    name::IfName,
    plan::plan,
    state::{Group, Hop, Object, Route, State},
};
use weft_linux::Kernel;

/// A route over these next hops, `DEV VIA` each, and what it stands on.
fn over(dst: &str, hops: &[&str]) -> Vec<Object> {
    let hops: Vec<(IfName, IpAddr)> = hops
        .iter()
        .map(|hop| hop.split_once(' ').unwrap())
        .map(|(dev, via)| (IfName::new(dev), via.parse().unwrap()))
        .collect();
    let single = |(dev, via): &(IfName, IpAddr)| Object::NextHop { dev: dev.clone(), via: *via };
    let mut objects: Vec<Object> = hops.iter().map(single).collect();
    let to = match &hops[..] {
        [(dev, via)] => Hop::NextHop(dev.clone(), *via),
        _ => {
            let hops = Group::from(hops);
            objects.push(Object::Group { hops: hops.clone() });
            Hop::Group(hops)
        }
    };
    objects.push(Object::Route(Route { dst: net(dst), to, mtu: None }));
    objects
}

fn second_nic() {
    sh("ip link add eth1 type veth peer name wire1; ip link set wire1 up; ip link set eth1 up
        ip addr add 198.51.100.1/24 dev eth1; ip addr add 2001:db8:2::1/64 dev eth1 nodad
        for n in 2 3; do
          ip neigh add 192.0.2.$n lladdr 02:00:00:00:00:0$n dev eth0 nud permanent
          ip neigh add 198.51.100.$n lladdr 02:00:00:00:00:0$n dev eth1 nud permanent
          ip neigh add 2001:db8::$n lladdr 02:00:00:00:00:0$n dev eth0 nud permanent
          ip neigh add 2001:db8:2::$n lladdr 02:00:00:00:00:0$n dev eth1 nud permanent
        done");
}

const TWO4: [&str; 2] = ["eth0 192.0.2.2", "eth1 198.51.100.2"];
const TWO6: [&str; 2] = ["eth0 2001:db8::2", "eth1 2001:db8:2::2"];

#[test]
fn groups_are_known_again_and_those_of_others_survive() {
    node(|kernel| {
        second_nic();
        sh("ip nexthop add id 5 via 192.0.2.3 dev eth0; ip nexthop add id 6 via 198.51.100.3 dev eth1
            ip nexthop add id 7 group 5/6; ip route add 10.9.0.0/16 nhid 7");
        let desired: State = [over("10.1.2.0/24", &TWO4), over("10.1.3.0/24", &TWO4)]
            .into_iter()
            .chain([over("fd00:1:2::/112", &TWO6), over("10.1.4.0/24", &TWO6)])
            .flatten()
            .collect();
        converge(kernel, &desired);
        let routes = sh("ip route show 10.1.2.0/24; ip -6 route show fd00:1:2::/112");
        assert_eq!(routes.matches("nexthop via").count(), 4, "{routes}");
        let fresh = Kernel::here().unwrap();
        assert_eq!(plan(&desired, &observe(&fresh, &desired)), [], "a fresh process knows its own");
        let groups = sh("ip nexthop show proto 119 groups");
        assert_eq!(groups.lines().count(), 2, "routes share them: {groups}");
        // A device that goes takes its part of each group with it.
        sh("ip link del eth1");
        let rest = sh("ip route show 10.1.2.0/24");
        assert!(rest.contains("192.0.2.2"), "the other hop serves on: {rest}");
        let one = ["eth0 192.0.2.2"];
        let left: State = [over("10.1.2.0/24", &one), over("10.1.3.0/24", &one)]
            .into_iter()
            .chain([over("fd00:1:2::/112", &TWO6[..1]), over("10.1.4.0/24", &TWO6[..1])])
            .flatten()
            .collect();
        converge(&fresh, &left);
        assert_eq!(sh("ip nexthop show proto 119 groups"), "");
        converge(&fresh, &State::default());
        let strangers = sh("ip nexthop; ip route");
        assert!(strangers.contains("id 7 group 5") && strangers.contains("10.9.0.0/16 nhid 7"));
        assert!(!sh("ip nexthop").contains("proto 119"));
    });
}

#[test]
fn a_route_that_moves_between_one_hop_and_several_is_never_absent() {
    node(|kernel| {
        second_nic();
        let worlds: Vec<State> = [&TWO4[..1], &TWO4, &TWO4[1..], &TWO4]
            .into_iter()
            .zip([&TWO6[..1], &TWO6, &TWO6[1..], &TWO6])
            .map(|(four, six)| {
                let both = [over("10.1.2.0/24", four), over("fd00:1:2::/112", six)];
                both.into_iter().flatten().collect()
            })
            .collect();
        converge(kernel, &worlds[0]);
        let done = AtomicBool::new(false);
        let sent = || -> u64 {
            // The eleventh field: packets that left.
            let counts = sh("awk '/eth[01]:/ {print $11}' /proc/net/dev");
            counts.lines().map(|count| count.parse::<u64>().unwrap()).sum()
        };
        let before = sent();
        let (tries, errors) = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let four = UdpSocket::bind("0.0.0.0:0").unwrap();
                let six = UdpSocket::bind("[::]:0").unwrap();
                let (start, mut tries, mut errors) = (Instant::now(), 0u64, 0u64);
                while !done.load(Ordering::Relaxed) {
                    // 1 kHz each; other ports are other flows, so all hops are used.
                    let port = 1024 + u16::try_from(tries % 50_000).unwrap();
                    errors += u64::from(four.send_to(b"weft", ("10.1.2.5", port)).is_err());
                    errors += u64::from(six.send_to(b"weft", ("fd00:1:2::5", port)).is_err());
                    tries += 1;
                    let due = start + Duration::from_millis(tries);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                (tries, errors)
            });
            for _ in 0..150 {
                worlds.iter().for_each(|world| converge(kernel, world));
            }
            done.store(true, Ordering::Relaxed);
            sending.join().unwrap()
        });
        assert!(tries > 100 && errors == 0, "{errors} of {tries} had no route");
        let gone = 2 * tries;
        assert!(sent() - before >= gone, "{} of {gone} left", sent() - before);
    });
}
