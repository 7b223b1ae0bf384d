//! Connection tracking against the real kernel: the flows of an address are forgotten, no others.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    process::Command,
};

use weft_linux::{Kernel, Netns};

fn sh(command: &str) {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
}

const RULES: &str = "
    nft add table inet theirs
    nft 'add chain inet theirs out { type nat hook output priority -100 ; }'
    nft 'add rule inet theirs out ip daddr 10.5.0.99 udp dport 9 dnat ip to 10.5.0.1'
    nft 'add rule inet theirs out ip6 daddr fd00:5::99 udp dport 9 dnat ip6 to fd00:5::1'
    for n in 1 2 3; do ip addr add 10.5.0.$n/32 dev lo; ip addr add fd00:5::$n/128 dev lo nodad; done
    ip route add 10.5.0.99 dev lo; ip route add fd00:5::99 dev lo
";

fn send(from: &str, to: &str) {
    let from: IpAddr = from.parse().unwrap();
    let to: IpAddr = to.parse().unwrap();
    UdpSocket::bind((from, 0)).unwrap().send_to(b"x", (to, 9)).unwrap();
}

fn flows() -> usize {
    let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
    count.trim().parse().unwrap()
}

fn forget(kernel: &Kernel, addrs: &[&str]) -> usize {
    kernel.forget_flows(&addrs.iter().map(|addr| addr.parse().unwrap()).collect()).unwrap()
}

#[test]
fn flows_of_an_address_are_forgotten_and_no_others() {
    let netns = Netns::create().expect("make a namespace; run by `cargo xtask test`");
    let story = || {
        let kernel = &Kernel::here().unwrap();
        sh("ip link set lo up");
        assert_eq!(forget(kernel, &["10.5.0.1"]), 0, "where nothing is tracked");
        sh(RULES);
        let before = flows();
        for (net, one) in [("10.5.0.", "10.5.0.1"), ("fd00:5::", "fd00:5::1")] {
            let at = |n: u8| format!("{net}{n}");
            // It begins one, answers one, answers one by another's name; and one without it.
            send(&at(1), &at(2));
            send(&at(2), &at(1));
            send(&at(3), &at(99));
            send(&at(2), &at(3));
            assert_eq!(flows(), before + 4, "{net}");
            assert_eq!(forget(kernel, &[one]), 3, "{net}");
            assert_eq!(flows(), before + 1, "{net}");
            assert_eq!(forget(kernel, &[one]), 0, "twice is as good as once");
            assert_eq!(forget(kernel, &[&at(2)]), 1);
            assert_eq!(flows(), before);
        }
        assert_eq!(kernel.forget_flows(&BTreeSet::new()).unwrap(), 0);
        // Where there are many, the kernel is asked for those of each address.
        let many = UdpSocket::bind(("10.5.0.2", 0)).unwrap();
        for port in 1..=5000u16 {
            many.send_to(b"x", ("10.5.0.3", 10_000 + port)).unwrap();
        }
        send("10.5.0.1", "10.5.0.2");
        send("10.5.0.2", "10.5.0.1");
        assert_eq!(flows(), before + 5002);
        assert_eq!(forget(kernel, &["10.5.0.1"]), 2);
        assert_eq!(forget(kernel, &["10.5.0.3"]), 5000);
        assert_eq!(flows(), before);
        // Many addresses at once are looked for among all there are.
        for n in 1..4 {
            send("10.5.0.1", &format!("10.5.0.{n}"));
            send("fd00:5::2", &format!("fd00:5::{n}"));
        }
        let many: Vec<String> = (1..20).map(|n| format!("10.5.0.{n}")).collect();
        assert_eq!(forget(kernel, &many.iter().map(String::as_str).collect::<Vec<_>>()), 3);
        assert_eq!(flows(), before + 3, "those of IPv6 are left");
    };
    netns.run(story).unwrap();
}
