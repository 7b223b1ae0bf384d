//! Links that are children of a NIC and in the pod's namespace alone, against the real kernel.
#![allow(clippy::unwrap_used)]

mod floor;

use std::sync::mpsc;

use floor::{KNOBS, converge, net, node, observe, sh};
use weft_core::{
    attach::{Birth, macvlan::Mode},
    mark,
    name::{IfName, Mac, Mtu},
    plan::plan,
    state::{Kind, Knob, Link, Object, State},
};
use weft_linux::{Event, Kernel, Netns, Watch};

const INDEX: u32 = 1 << 30;

fn link(n: u8, mode: Mode) -> Link {
    Link {
        dev: IfName::new("eth0"),
        kind: Kind::Macvlan { mode },
        mtu: Mtu::ETHERNET,
        mac: Mac([2, 0, 0, 0, 9, n]),
        master: None,
    }
}

fn child(n: u8, mode: Mode) -> Birth {
    Birth::Child { parent: IfName::new("eth0"), pod: link(n, mode), index: INDEX + u32::from(n) }
}

fn apart(n: u8) -> Object {
    Object::Apart { dev: IfName::new("eth0"), mac: Mac([2, 0, 0, 0, 9, n]) }
}

#[test]
fn a_child_is_born_in_its_namespace_in_every_mode_and_known_from_the_node() {
    for mode in [Mode::Private, Mode::Vepa, Mode::Bridge, Mode::Passthru] {
        node(|kernel| {
            let netns = Netns::create().unwrap();
            let nsid = kernel.number(&netns).unwrap();
            assert_eq!(kernel.number(&netns).unwrap(), nsid, "asked twice");
            let dev = IfName::new("eth0");
            assert!(kernel.link_there(nsid, &dev).unwrap().is_none());
            let nic = kernel.link(&dev).unwrap().unwrap().mac;
            let mut link = link(1, mode);
            if mode == Mode::Passthru {
                link.mac = nic;
            }
            let birth = Birth::Child { parent: dev.clone(), pod: link.clone(), index: INDEX };
            kernel.birth(&birth, &netns).unwrap();
            // Before Linux 6.15 the parent is asked before the name.
            let again = kernel.birth(&birth, &netns).unwrap_err().errno;
            let whole = mode == Mode::Passthru && again == libc::EINVAL;
            assert!(again == libc::EEXIST || whole, "{mode}: {again}");
            let there = kernel.link_there(nsid, &dev).unwrap().unwrap();
            assert_eq!((there.group, there.mac), (mark::LINK_GROUP, link.mac), "{mode}");
            assert_eq!(kernel.link(&dev).unwrap().unwrap().mac, nic, "the NIC's own stays");
            let inside: State = [
                Object::Link(link),
                Object::Sysctl { knob: Knob::AcceptRa(dev.clone()), value: 0 },
                Object::Up { dev: IfName::new("lo") },
                Object::Up { dev: dev.clone() },
                Object::Addr { dev: dev.clone(), addr: net("10.9.0.5/24") },
                Object::Addr { dev: dev.clone(), addr: net("fd00:9::5/64") },
                Object::Addr { dev: dev.clone(), addr: net("fe80::9/64") },
            ]
            .into_iter()
            .collect();
            let pod = Kernel::of(&netns).unwrap();
            assert_eq!(pod.apply(&plan(&inside, &State::default())), []);
            assert_eq!(
                plan(&inside, &pod.observe_pod(std::slice::from_ref(&dev)).unwrap()),
                [],
                "{mode}"
            );
            assert_eq!(pod.doom(std::slice::from_ref(&dev), true), []);
            assert!(!kernel.link_there(nsid, &dev).unwrap().unwrap().up);
            kernel.free_there(nsid, &dev).unwrap();
            kernel.free_there(nsid, &dev).unwrap();
            assert!(kernel.link_there(nsid, &dev).unwrap().is_none());
        });
    }
}

#[test]
fn a_mode_is_edited_in_place_and_passthru_is_not() {
    node(|kernel| {
        let netns = Netns::create().unwrap();
        kernel.birth(&child(1, Mode::Bridge), &netns).unwrap();
        let pod = Kernel::of(&netns).unwrap();
        let want = |mode| [Object::Link(link(1, mode))].into_iter().collect::<State>();
        let dev = IfName::new("eth0");
        for mode in [Mode::Private, Mode::Vepa, Mode::Bridge] {
            assert_eq!(
                pod.apply(&plan(
                    &want(mode),
                    &pod.observe_pod(std::slice::from_ref(&dev)).unwrap()
                )),
                []
            );
            assert_eq!(
                plan(&want(mode), &pod.observe_pod(std::slice::from_ref(&dev)).unwrap()),
                [],
                "{mode}"
            );
        }
        let changes =
            plan(&want(Mode::Passthru), &pod.observe_pod(std::slice::from_ref(&dev)).unwrap());
        assert!(changes[0].to_string().starts_with('!'), "{}", changes[0]);
    });
}

#[test]
fn what_a_parent_can_not_do_is_told_by_the_kernels_number() {
    node(|kernel| {
        let (a, b) = (Netns::create().unwrap(), Netns::create().unwrap());
        kernel.birth(&child(1, Mode::Passthru), &a).unwrap();
        assert_eq!(kernel.birth(&child(2, Mode::Bridge), &b).unwrap_err().errno, libc::EINVAL);
        assert_eq!(kernel.birth(&child(2, Mode::Passthru), &b).unwrap_err().errno, libc::EINVAL);
        drop(a);
        sh(
            "ip link add br0 type bridge; ip link add p0 type veth peer name p1; ip link set p0 master br0",
        );
        let busy =
            Birth::Child { parent: IfName::new("p0"), pod: link(3, Mode::Bridge), index: INDEX };
        assert_eq!(kernel.birth(&busy, &b).unwrap_err().errno, libc::EBUSY);
        let none =
            Birth::Child { parent: IfName::new("eth7"), pod: link(3, Mode::Bridge), index: INDEX };
        assert_eq!(kernel.birth(&none, &b).unwrap_err().errno, libc::ENODEV);
    });
}

#[test]
fn a_set_apart_is_what_is_observed_and_the_last_takes_the_table_with_it() {
    node(|kernel| {
        let all: State = (0..20).map(apart).collect();
        converge(kernel, &all);
        let listed = sh("nft list table netdev weft");
        for word in
            ["ether saddr @apart-eth0 drop", "hook ingress device \"eth0\"", "02:00:00:00:09:13"]
        {
            assert!(listed.contains(word), "{word} is not in {listed}");
        }
        // Whatever a stranger makes of it is mended.
        for sabotage in [
            "nft delete element netdev weft apart-eth0 '{ 02:00:00:00:09:03 }'",
            "nft add element netdev weft apart-eth0 '{ 02:00:00:00:09:99 }'",
            "nft flush chain netdev weft apart-eth0",
            "nft insert rule netdev weft apart-eth0 accept",
            "nft delete table netdev weft",
            "nft add table netdev weft '{ flags dormant; }'",
            "nft flush set netdev weft apart-eth0",
        ] {
            sh(sabotage);
            assert_ne!(plan(&all, &observe(kernel, &all)), [], "{sabotage}");
            converge(kernel, &all);
            assert_eq!(sh("nft list table netdev weft"), listed, "{sabotage}");
        }
        converge(kernel, &State::from_iter([apart(3)]));
        converge(kernel, &State::default());
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn the_end_of_a_child_and_of_its_namespace_is_heard() {
    node(|kernel| {
        let _ = kernel.observe_node(&KNOBS);
        let (netns, other) = (Netns::create().unwrap(), Netns::create().unwrap());
        kernel.number(&netns).unwrap();
        kernel.birth(&child(1, Mode::Bridge), &netns).unwrap();
        let watch = Watch::new(kernel).unwrap();
        let (told, hears) = mpsc::channel();
        let until_gone = move |mut watch: Watch| {
            while watch.wait().unwrap() != Event::PodGone {}
            told.send(()).unwrap();
            watch
        };
        std::thread::scope(|scope| {
            let hearing = scope.spawn(move || until_gone(watch));
            netns.run(|| sh("ip link del eth0")).unwrap();
            hears.recv().unwrap();
            let mut watch = hearing.join().unwrap();
            kernel.number(&other).unwrap();
            drop(other);
            while watch.wait().unwrap() != Event::PodGone {}
        });
    });
}
