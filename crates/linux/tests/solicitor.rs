//! Asking who has an address, against the real stack: what it is asked it answers, and what it
//! says of itself is understood.
#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, process::Command, time::Duration};

use weft_core::name::{IfName, Mac};
use weft_linux::{Kernel, Neighbour, Netns, Says, Solicitor, rig};

const LONG: Duration = Duration::from_secs(5);
const FOREIGN: Mac = Mac([2, 0x77, 0, 0, 0, 7]);

fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output().unwrap()).unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Two hosts on a wire, the second with an address of each family.
fn hosts() -> (Netns, Netns, Mac) {
    let (here, there) = (Netns::create().unwrap(), Netns::create().unwrap());
    rig::pair(&here, "eth0", &there, "eth0", 1500).unwrap();
    sh(&there, "ip addr add 10.0.0.2/24 dev eth0; ip addr add fd00::2/64 dev eth0 nodad");
    let mac = Kernel::of(&there).unwrap().link(&IfName::new("eth0")).unwrap().unwrap().mac;
    (here, there, mac)
}

fn solicitor(netns: &Netns) -> Solicitor {
    Kernel::of(netns).unwrap().solicitor(&IfName::new("eth0")).unwrap().unwrap()
}

/// Asks until it is answered: IPv6 is slow to begin.
fn answered(lan: &Solicitor, ask: impl Fn(), addr: IpAddr) -> Neighbour {
    for _ in 0..50 {
        ask();
        let answer =
            |from: &Neighbour| (from.addr == addr && from.says == Says::Answers).then_some(*from);
        if let Some(from) = lan.wait(Duration::from_millis(100), answer).unwrap() {
            return from;
        }
    }
    panic!("{addr} never answered");
}

#[test]
fn whoever_has_an_address_answers_a_probe_and_learns_nothing() {
    let (here, there, mac) = hosts();
    let lan = solicitor(&here);
    for addr in [ip("10.0.0.2"), ip("fd00::2")] {
        let from = answered(&lan, || lan.probe(addr).unwrap(), addr);
        assert_eq!((from.mac, from.addr), (mac, addr));
    }
    for addr in [ip("10.0.0.3"), ip("fd00::3")] {
        lan.probe(addr).unwrap();
        let nobody = |from: &Neighbour| (from.addr == addr).then_some(());
        assert_eq!(lan.wait(Duration::from_millis(200), nobody).unwrap(), None, "{addr}");
    }
    let learnt = sh(&there, "ip neigh show");
    assert!(!learnt.contains(&lan.mac.to_string()), "{learnt}");
}

#[test]
fn an_answer_to_another_mac_address_comes_to_it_alone() {
    let (here, _there, mac) = hosts();
    let lan = solicitor(&here);
    lan.take_in(FOREIGN).unwrap();
    for asking in [lan.mac, FOREIGN] {
        let IpAddr::V6(local) = asking.link_local().addr() else { panic!("IPv6") };
        for addr in [ip("10.0.0.2"), ip("fd00::2")] {
            let from = answered(&lan, || lan.ask(asking, local, addr).unwrap(), addr);
            assert_eq!((from.mac, from.to), (mac, asking), "{addr}");
        }
    }
}

#[test]
fn another_who_asks_before_he_takes_an_address_and_one_who_speaks_are_heard() {
    let (here, there, mac) = hosts();
    let lan = solicitor(&here);
    let heard = |addr: IpAddr, says: Says| {
        let meant = |from: &Neighbour| (from.addr == addr && from.says == says).then_some(from.mac);
        lan.wait(LONG, meant).unwrap()
    };
    lan.listen(ip("fd00::9"), true).unwrap();
    sh(&there, "ip addr add fd00::9/64 dev eth0");
    assert_eq!(heard(ip("fd00::9"), Says::Probes), Some(mac), "duplicate address detection");
    lan.listen(ip("fd00::9"), false).unwrap();
    there
        .run(|| {
            let socket = std::net::UdpSocket::bind("10.0.0.2:0").unwrap();
            let _ = socket.send_to(b"?", "10.0.0.7:9");
        })
        .unwrap();
    assert_eq!(heard(ip("10.0.0.2"), Says::Has), Some(mac), "asking for another");
}

#[test]
fn a_device_that_is_not_there_or_down_has_nobody_to_be_asked() {
    let (here, _there, _) = hosts();
    let kernel = Kernel::of(&here).unwrap();
    let at = |dev: &str| kernel.solicitor(&IfName::new(dev)).unwrap().is_some();
    assert!(at("eth0") && !at("eth9") && !at("lo"));
    let lan = solicitor(&here);
    sh(&here, "ip link set eth0 down");
    assert!(!at("eth0"));
    assert!(lan.probe(ip("10.0.0.2")).is_err());
}

#[test]
fn what_other_vlans_say_is_not_taken_for_this_ones() {
    let (here, there, _) = hosts();
    let lan = solicitor(&here);
    // The same question with a tag and without: the tagged one is first.
    let arp = |tag: &str| {
        format!(
            "{tag}0806000108000604000102000000000{} 0a000003 000000000000 0a000004",
            if tag.is_empty() { "2" } else { "1" }
        )
    };
    for tag in ["81000064", ""] {
        let hex = format!("ffffffffffff020000000009{}", arp(tag).replace(' ', ""));
        let frame: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        Kernel::of(&there).unwrap().send_frame(&IfName::new("eth0"), &frame).unwrap();
    }
    let first = lan.wait(LONG, |from| (from.addr == ip("10.0.0.3")).then_some(from.mac)).unwrap();
    assert_eq!(first, Some(Mac([2, 0, 0, 0, 0, 2])), "the untagged one");
}
