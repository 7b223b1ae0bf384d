//! The seam against the real kernel: what is put is what is observed, a stranger's things survive,
//! and a moved route is never absent. Each test makes its own namespaces.
#![allow(clippy::unwrap_used)]

mod floor;

use std::{
    net::IpAddr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use floor::{KNOBS, converge, net, node, observe, ruleset, sh};

use ipnet::IpNet;
use weft_core::{
    attach::Birth,
    name::{IfName, Mac, Mtu},
    plan::{Change, plan},
    state::{Hop, Kind, Knob, Link, Object, Route, State},
};
use weft_linux::{Event, Kernel, Netns, Watch};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vxlan(vni: u64, local: &str) -> Vec<Object> {
    let family = if local.contains(':') { 6 } else { 4 };
    let dev = IfName::new(&format!("weftx{family}-t"));
    let kind = Kind::Vxlan { vni: vni.try_into().unwrap(), port: 4789, local: ip(local) };
    let mac = Mac([2, 0, 0, 0, 0, family]);
    let mtu = Mtu::try_from(1430).unwrap();
    vec![
        Object::Link(Link { dev: dev.clone(), kind, mtu, mac, master: None }),
        Object::Sysctl { knob: Knob::RpFilter(dev.clone()), value: 2 },
        Object::Up { dev },
    ]
}

fn peer(n: u8, dev: &str, dst: &str) -> Vec<Object> {
    let (dev, mac) = (IfName::new(dev), Mac([2, 0, 0, 0, 1, n]));
    let (via4, via6) = (ip(&format!("10.1.{n}.0")), ip(&format!("fd00:1:{n}::")));
    let route = |dst: IpNet, via: IpAddr| {
        Object::Route(Route { dst, to: Hop::NextHop(dev.clone(), via), mtu: None })
    };
    vec![
        Object::Neigh { dev: dev.clone(), ip: via4, mac },
        Object::Neigh { dev: dev.clone(), ip: via6, mac },
        Object::Fdb { dev: dev.clone(), mac, dst: ip(dst) },
        Object::NextHop { dev: dev.clone(), via: via4 },
        Object::NextHop { dev: dev.clone(), via: via6 },
        route(net(&format!("10.1.{n}.0/24")), via4),
        route(net(&format!("fd00:1:{n}::/112")), via6),
    ]
}

/// A tunnel that is a port of the bridge, and what stands on it.
fn domain() -> Vec<Object> {
    let (dev, bridge, mac) =
        (IfName::new("weftx4-d"), IfName::new("weftb-t"), Mac([2, 0, 0, 0, 4, 1]));
    let kind = Kind::Vxlan { vni: 9.try_into().unwrap(), port: 4789, local: ip("192.0.2.1") };
    let (mtu, own) = (Mtu::try_from(1450).unwrap(), Mac([2, 0, 0, 0, 4, 9]));
    let link = Link { dev: dev.clone(), kind, mtu, mac: own, master: Some(bridge.clone()) };
    let dst = net("10.9.0.0/16");
    let in_group = |vni: u64, local: &str, group: &str| {
        let dev = IfName::new(&format!("weftx{}-g", if local.contains(':') { 6 } else { 4 }));
        let (vni, lower) = (vni.try_into().unwrap(), IfName::new("eth0"));
        let (local, group) = (ip(local), ip(group));
        let kind = Kind::VxlanGroup { vni, port: 4789, local, group, ttl: 3, lower };
        let (mac, master) = (Mac([2, 0, 0, 0, 5, 9]), Some(IfName::new("weftb-t")));
        Object::Link(Link { dev, kind, mtu: Mtu::try_from(1430).unwrap(), mac, master })
    };
    vec![
        in_group(10, "192.0.2.1", "239.1.1.10"),
        in_group(10, "2001:db8::1", "ff05::10"),
        Object::Link(link),
        Object::Up { dev: dev.clone() },
        Object::Anycast { dev: bridge.clone(), addr: net("10.9.0.1/16") },
        Object::Anycast { dev: bridge.clone(), addr: net("fd00:9::1/64") },
        Object::Member { dev: bridge.clone(), addr: net("10.8.7.2/16") },
        Object::Member { dev: bridge.clone(), addr: net("fd00:8::2/64") },
        Object::Addr { dev: bridge.clone(), addr: net("10.9.7.1/32") },
        Object::Neigh { dev: bridge.clone(), ip: ip("10.9.8.2"), mac },
        Object::Proxy { dev: dev.clone(), ip: ip("10.9.7.5") },
        Object::Proxy { dev: dev.clone(), ip: ip("fd00:9::5") },
        Object::Sysctl { knob: Knob::ProxyNdp(dev.clone()), value: 1 },
        Object::Sysctl { knob: Knob::ProxyDelay4(dev.clone()), value: 0 },
        Object::Sysctl { knob: Knob::ProxyDelay6(dev.clone()), value: 0 },
        Object::Addr { dev: dev.clone(), addr: net("fe80::5/64") },
        Object::Fdb { dev: dev.clone(), mac, dst: ip("192.0.2.8") },
        Object::Behind { dev: dev.clone(), mac },
        Object::Flood { dev: dev.clone(), dst: ip("192.0.2.8") },
        Object::Flood { dev, dst: ip("192.0.2.9") },
        Object::Route(Route { dst, to: Hop::From(bridge, ip("10.9.7.1")), mtu: Some(mtu) }),
    ]
}

fn everything() -> State {
    let bridge = IfName::new("weftb-t");
    let link = Link {
        dev: bridge.clone(),
        kind: Kind::Bridge,
        mtu: Mtu::ETHERNET,
        mac: Mac([2, 0, 0, 0, 0, 9]),
        master: None,
    };
    let own = [
        Object::Link(link),
        Object::Up { dev: bridge.clone() },
        Object::Addr { dev: bridge.clone(), addr: net("10.1.1.1/24") },
        Object::Addr { dev: bridge, addr: net("fd00:1:1::1/112") },
        Object::Addr { dev: IfName::new("weftx4-t"), addr: net("10.1.1.0/32") },
        Object::Sysctl { knob: Knob::Forward4, value: 1 },
        Object::Sysctl { knob: Knob::Forward6, value: 1 },
        Object::Table { ruleset: ruleset() },
        Object::Route(Route { dst: net("10.1.9.0/24"), to: Hop::Blackhole, mtu: None }),
        Object::Route(Route { dst: net("fd00:1:9::/112"), to: Hop::Blackhole, mtu: None }),
        Object::NextHop { dev: IfName::new("eth0"), via: ip("192.0.2.3") },
        Object::Route(Route {
            dst: net("10.1.3.0/24"),
            to: Hop::NextHop(IfName::new("eth0"), ip("192.0.2.3")),
            mtu: Some(Mtu::try_from(1400).unwrap()),
        }),
    ];
    let tunnels = vxlan(7, "192.0.2.1").into_iter().chain(vxlan(7, "2001:db8::1"));
    let peers =
        peer(2, "weftx4-t", "192.0.2.2").into_iter().chain(peer(4, "weftx6-t", "2001:db8::4"));
    own.into_iter().chain(tunnels).chain(peers).chain(domain()).collect()
}

#[test]
fn what_is_put_is_what_is_observed_and_all_of_it_goes_again() {
    node(|kernel| {
        let desired = everything();
        converge(kernel, &desired);
        assert!(sh("ip route").contains("10.1.2.0/24 nhid"), "{}", sh("ip route"));
        assert!(sh("ip -d link show weftx4-t").contains("nolearning"), "our tunnels do not learn");
        let fresh = Kernel::here().unwrap();
        assert_eq!(plan(&desired, &observe(&fresh, &desired)), [], "a fresh process knows its own");
        let sysctls = everything()
            .into_iter()
            .filter(|o| matches!(o, Object::Sysctl { knob, .. } if knob.dev().is_none()));
        converge(&fresh, &sysctls.collect());
        for left in
            [sh("ip -o link"), sh("ip route; ip -6 route"), sh("ip nexthop"), sh("nft list tables")]
        {
            assert!(!left.contains("weft") && !left.contains("10.1."), "{left}");
        }
    });
}

#[test]
fn a_port_of_a_domain_that_was_set_otherwise_is_set_again() {
    node(|kernel| {
        let desired = everything();
        converge(kernel, &desired);
        let port = || sh("bridge -d link show dev weftx4-d");
        let says = ["learning off", "neigh_suppress on", "isolated on", "hairpin off"];
        assert!(says.iter().all(|word| port().contains(word)), "{}", port());
        assert!(!sh("ip route").contains("10.9.0.0/16 dev weftb-t proto kernel"), "one route only");
        for sabotage in [
            "bridge link set dev weftx4-d learning on",
            "bridge link set dev weftx4-d neigh_suppress off",
            "bridge link set dev weftx4-d isolated off",
            "ip link set weftx4-d nomaster",
            "bridge fdb del 02:00:00:00:04:01 dev weftx4-d master",
            "bridge fdb del 00:00:00:00:00:00 dev weftx4-d dst 192.0.2.9 self",
            "bridge fdb append 00:00:00:00:00:00 dev weftx4-d dst 192.0.2.77 self",
            "ip addr del 10.9.0.1/16 dev weftb-t",
            "ip neigh del proxy 10.9.7.5 dev weftx4-d",
            "ip -6 neigh del proxy fd00:9::5 dev weftx4-d",
            "ip neigh add proxy 10.9.7.6 dev weftx4-d",
            "sysctl -w net.ipv4.neigh.weftx4-d.proxy_delay=80",
            "ip addr del fe80::5/64 dev weftx4-d",
            "ip addr del 10.9.0.1/16 dev weftb-t; ip addr add 10.9.0.1/16 dev weftb-t",
            "ip addr change fd00:9::1/64 dev weftb-t preferred_lft forever noprefixroute",
        ] {
            sh(sabotage);
            let changes = plan(&desired, &observe(kernel, &desired));
            assert_ne!(changes, [], "{sabotage} went unseen");
            converge(kernel, &desired);
        }
        assert!(says.iter().all(|word| port().contains(word)), "{}", port());
    });
}

#[test]
fn a_strangers_things_survive_and_his_route_is_reported() {
    node(|kernel| {
        sh("ip link add weftlike type bridge; ip link add br0 type bridge; ip link set br0 up; \
            ip route add 10.1.2.0/24 via 192.0.2.9 metric 5; ip nexthop add id 1996488704 via 192.0.2.8 dev eth0; \
            ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent; \
            nft add table inet mine; nft 'add chain inet mine f { type filter hook forward priority 0; policy drop; }'");
        converge(kernel, &everything());
        let observed = kernel.observe_node(&KNOBS).unwrap();
        let said: Vec<String> = observed.foreign.iter().map(ToString::to_string).collect();
        assert!(
            said.iter()
                .any(|route| route.contains("10.1.2.0/24 via 192.0.2.9 dev eth0 proto 3 metric 5")),
            "{said:?}"
        );
        assert!(!kernel.foreign_nat().unwrap());
        converge(
            kernel,
            &observe(kernel, &everything())
                .into_iter()
                .filter(|o| matches!(o, Object::Sysctl { knob, .. } if knob.dev().is_none()))
                .collect(),
        );
        let left = sh("ip -o link; ip route; ip nexthop; ip neigh; nft list tables");
        for kept in [
            "weftlike",
            "br0",
            "10.1.2.0/24 via 192.0.2.9",
            "id 1996488704",
            "192.0.2.77",
            "inet mine",
        ] {
            assert!(left.contains(kept), "{kept} is gone: {left}");
        }
    });
}

#[test]
fn a_route_that_moves_between_tunnel_and_wire_is_never_absent() {
    node(|kernel| {
        let direct: Vec<Object> = vec![
            Object::NextHop { dev: IfName::new("eth0"), via: ip("192.0.2.2") },
            Object::Route(Route {
                dst: net("10.1.2.0/24"),
                to: Hop::NextHop(IfName::new("eth0"), ip("192.0.2.2")),
                mtu: None,
            }),
        ];
        let tunnel: State =
            vxlan(7, "192.0.2.1").into_iter().chain(peer(2, "weftx4-t", "192.0.2.2")).collect();
        let direct: State = direct.into_iter().collect();
        converge(kernel, &tunnel);
        let (done, watcher) = (AtomicBool::new(false), Kernel::here().unwrap());
        let (looks, misses) = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let (mut looks, mut misses) = (0u32, 0u32);
                watcher.observe_node(&[]).unwrap();
                while !done.load(Ordering::Relaxed) {
                    looks += 1;
                    // Links come and go, so only whether there is a route counts, not by what.
                    let found = sh_route("10.1.2.5");
                    misses += u32::from(!found);
                }
                (looks, misses)
            });
            for _ in 0..25 {
                converge(kernel, &direct);
                converge(kernel, &tunnel);
            }
            done.store(true, Ordering::Relaxed);
            looking.join().unwrap()
        });
        assert!(looks > 50 && misses == 0, "{misses} of {looks} looks found no route");
    });
}

/// In the caller's namespace? The looking thread was made by one that is inside, so it is too.
fn sh_route(ip: &str) -> bool {
    let found = Command::new("ip").args(["route", "get", ip]).output().unwrap();
    found.status.success()
}

#[test]
fn a_refusal_names_the_change_and_gives_the_kernels_words() {
    node(|kernel| {
        let hop = Object::NextHop { dev: IfName::new("eth0"), via: ip("203.0.113.9") };
        let route = peer(2, "weftx4-t", "192.0.2.2").pop().unwrap();
        let changes = [
            Change::Put(hop),
            Change::Put(route),
            Change::Put(Object::Up { dev: IfName::new("eth0") }),
        ];
        let refusals = kernel.apply(&changes);
        let said: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        let text = said.join("\n");
        assert!(text.contains("+ nexthop via 203.0.113.9 dev eth0: "), "{text}");
        assert!(text.contains("Nexthop has invalid gateway"), "the kernel's own words: {text}");
        assert!(text.contains("its nexthop object is not there"), "{text}");
    });
}

#[test]
fn a_pods_link_is_born_in_its_namespace_and_freed_with_others() {
    node(|kernel| {
        let pods: Vec<(Netns, Link)> = (0..20u8)
            .map(|n| {
                let netns = Netns::create().unwrap();
                let host = Link {
                    dev: IfName::new(&format!("weftpod{n}")),
                    kind: Kind::Veth,
                    mtu: Mtu::ETHERNET,
                    mac: Mac([2, 0, 0, 0, 2, n]),
                    master: None,
                };
                let pod =
                    Link { dev: IfName::new("eth0"), mac: Mac([2, 0, 0, 0, 3, n]), ..host.clone() };
                let birth = Birth::Pair { host: host.clone(), pod: pod.clone() };
                kernel.birth(&birth, &netns).unwrap();
                let inside: State = [
                    Object::Link(pod.clone()),
                    Object::Up { dev: IfName::new("lo") },
                    Object::Up { dev: IfName::new("eth0") },
                    Object::Addr { dev: pod.dev.clone(), addr: net(&format!("10.1.1.{n}/32")) },
                    Object::Addr { dev: pod.dev.clone(), addr: net(&format!("fd00::{n}/128")) },
                    Object::Neigh { dev: pod.dev.clone(), ip: ip("169.254.1.1"), mac: host.mac },
                    Object::Neigh { dev: pod.dev.clone(), ip: ip("fe80::1"), mac: host.mac },
                    default(&pod.dev, "0.0.0.0/0", "169.254.1.1"),
                    default(&pod.dev, "::/0", "fe80::1"),
                ]
                .into_iter()
                .collect();
                let there = Kernel::of(&netns).unwrap();
                let refusals = there.apply(&plan(&inside, &State::default()));
                assert!(refusals.is_empty(), "{refusals:?}");
                let left =
                    plan(&inside, &there.observe_pod(std::slice::from_ref(&pod.dev)).unwrap());
                assert_eq!(left, [], "{n}");
                (netns, host)
            })
            .collect();
        let twice = Birth::Pair { host: pods[0].1.clone(), pod: pods[0].1.clone() };
        assert!(kernel.birth(&twice, &pods[0].0).is_err(), "twice is refused");
        let devs: Vec<IfName> = pods.iter().map(|(_, host)| host.dev.clone()).collect();
        assert!(kernel.doom(&devs[..10], true).is_empty());
        let observed = kernel.observe_node(&[]).unwrap();
        assert_eq!(
            (observed.doomed.len(), observed.ours.len()),
            (10, 10),
            "the doomed are not ours"
        );
        kernel.reap().unwrap();
        kernel.reap().unwrap();
        let observed = kernel.observe_node(&[]).unwrap();
        assert_eq!((observed.doomed.len(), observed.ours.len()), (0, 10));
    });
}

fn default(dev: &IfName, dst: &str, via: &str) -> Object {
    let to = Hop::Gateway(dev.clone(), ip(via));
    Object::Route(Route { dst: net(dst), to, mtu: Some(Mtu::try_from(1450).unwrap()) })
}

#[test]
fn own_changes_do_not_wake_and_a_strangers_do() {
    node(|kernel| {
        let mut watch = Watch::new(kernel).unwrap();
        converge(kernel, &everything());
        sh("ip route del 10.1.2.0/24 metric 119");
        let mut heard = Vec::new();
        // The kernel itself speaks of carriers and addresses: as links, never as routes of ours.
        while !heard.contains(&Event::Changed("route")) {
            heard.push(watch.wait().unwrap());
        }
        assert!(!heard.contains(&Event::Changed("nftables")), "we wrote the table: {heard:?}");
        assert!(!heard.contains(&Event::Changed("nexthop")), "and the nexthops: {heard:?}");
    });
}

#[test]
fn thousands_of_peers_are_put_and_read_back() {
    node(|kernel| {
        let mut desired: State = vxlan(7, "192.0.2.1").into_iter().collect();
        for n in 0..2000u16 {
            let [a, b] = n.to_be_bytes();
            let (dev, mac) = (IfName::new("weftx4-t"), Mac([2, 0, 0, 1, a, b]));
            let (via, dst) = (IpAddr::from([10, 100 + a, b, 0]), IpAddr::from([198, 18, a, b]));
            desired.extend([
                Object::Neigh { dev: dev.clone(), ip: via, mac },
                Object::Fdb { dev: dev.clone(), mac, dst },
                Object::NextHop { dev: dev.clone(), via },
                Object::Route(Route {
                    dst: IpNet::new(via, 24).unwrap(),
                    to: Hop::NextHop(dev, via),
                    mtu: None,
                }),
            ]);
        }
        converge(kernel, &desired);
        let ips: Vec<IpAddr> = (0..2000u16)
            .map(|n| {
                let [a, b] = n.to_be_bytes();
                IpAddr::from([10, 100 + a, b, 9])
            })
            .collect();
        let routes = kernel.route_to(&ips);
        assert!(routes.iter().all(|route| {
            route.as_ref().is_some_and(|r| r.dev.as_str() == "weftx4-t" && r.gateway.is_some())
        }));
    });
}

#[test]
fn a_new_mtu_leaves_the_neighbours_alone() {
    node(|kernel| {
        let mut desired: State =
            vxlan(7, "192.0.2.1").into_iter().chain(peer(2, "weftx4-t", "192.0.2.2")).collect();
        converge(kernel, &desired);
        let Object::Link(link) = vxlan(7, "192.0.2.1").remove(0) else { unreachable!() };
        desired.put(Object::Link(Link { mtu: Mtu::try_from(1400).unwrap(), ..link }));
        let refusals = kernel.apply(&plan(&desired, &observe(kernel, &desired)));
        assert_eq!(refusals, []);
        assert_eq!(plan(&desired, &observe(kernel, &desired)), [], "one step, nothing lost by it");
    });
}

#[test]
fn a_link_made_anew_has_everything_on_it_again() {
    node(|kernel| {
        let with = |vni| {
            vxlan(vni, "192.0.2.1")
                .into_iter()
                .chain(peer(2, "weftx4-t", "192.0.2.2"))
                .collect::<State>()
        };
        converge(kernel, &with(7));
        let changes = plan(&with(8), &observe(kernel, &with(8)));
        assert!(changes[0].to_string().starts_with("! link weftx4-t vxlan id 8"), "{}", changes[0]);
        assert_eq!(kernel.apply(&changes), []);
        converge(kernel, &with(8));
    });
}
