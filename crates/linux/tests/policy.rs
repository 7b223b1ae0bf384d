//! NetworkPolicy in the kernel: the table as the `nft` tool shows it, changed, sabotaged, removed.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // What it has of convergence is other tests'.
mod floor;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use floor::{node, sh};
use weft_core::policy::{
    firewall::{Firewall, List, ListName, Open, Ports},
    own::{Door, Lists, Own},
    spec::{Direction, Protocol},
};
use weft_linux::{PolicyTable, Wanted, Was};

/// As `10.0.0.0/8 tcp 80-90`; `all` is everybody.
fn open(text: &str) -> Open {
    let mut words = text.split(' ');
    let peer = words
        .next()
        .filter(|peer| *peer != "all")
        .map(|peer| peer.parse().unwrap_or_else(|_| peer.parse::<IpAddr>().unwrap().into()));
    let protocol = words.next().map(|protocol| match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    });
    let ports = protocol.map(|protocol| {
        let (first, last) = words.next().map_or((0, u16::MAX), |ports| {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            (first.parse().unwrap(), last.parse().unwrap())
        });
        Ports { protocol, first, last }
    });
    Open { peer, ports }
}

fn list(entries: &[&str]) -> Arc<List> {
    Arc::new(List { entries: entries.iter().map(|entry| open(entry)).collect() })
}

fn firewall(pods: &[(Direction, &str, u64)], lists: &[(u64, &[&str])]) -> Firewall {
    Firewall {
        lists: lists.iter().map(|(name, entries)| (ListName(*name), list(entries))).collect(),
        pods: pods
            .iter()
            .map(|(direction, addr, name)| ((*direction, addr.parse().unwrap()), ListName(*name)))
            .collect(),
    }
}

use Direction::{Egress, Ingress};

fn example() -> Firewall {
    firewall(
        &[
            (Ingress, "10.1.0.5", 1),
            (Ingress, "10.1.0.6", 1),
            (Egress, "10.1.0.5", 2),
            (Ingress, "fd00:1::5", 1),
            (Egress, "fd00:1::5", 3),
        ],
        &[
            (
                1,
                &[
                    "10.1.0.9",
                    "10.1.0.10 tcp 80",
                    "10.1.0.10 udp 53",
                    "fd00:1::9",
                    "fd00:1::a tcp 80",
                    "10.2.0.0/16",
                    "10.3.0.0/17",
                    "10.3.128.0/17",
                    "255.255.255.0/24",
                    "fd00:2::/64",
                    "10.4.0.0/16 tcp 8000-9000",
                    "10.4.0.0/16 tcp 80",
                    "10.1.0.11 sctp 1-65535",
                    "fd00:4::/64 udp 53",
                    "all tcp 443",
                    "all udp 6000-7000",
                ],
            ),
            (2, &[]),
            (3, &["all"]),
        ],
    )
}

#[test]
fn the_table_says_in_nft_what_we_mean() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        assert_eq!(policies.write(Wanted::Node(example())).unwrap(), Was::Otherwise);
        let text = sh("nft list table inet weft-policy");
        for line in [
            "type filter hook forward priority filter - 1; policy accept;",
            "type filter hook prerouting priority raw - 1; policy accept;",
            "ct state established,related accept",
            "ip saddr @policed4 ct zone set 0",
            "ip saddr . ip daddr @itself4 accept",
            "ip saddr vmap @egress4",
            "ip6 daddr vmap @ingress6",
            "10.1.0.5 : jump ingress-0000000000000001",
            "ip saddr @ingress-0000000000000001-peers4 return",
            "ip saddr . meta l4proto . th dport @ingress-0000000000000001-peer-ports4 return",
            "ip6 saddr . meta l4proto . th dport @ingress-0000000000000001-net-ports6 return",
            "meta l4proto . th dport @ingress-0000000000000001-ports return",
            "elements = { 10.2.0.0/16, 10.3.0.0/17,",
            "255.255.255.0/24",
            "10.4.0.0/16 . tcp . 8000-9000",
            "fd00:4::/64 . udp . 53",
            "10.1.0.10 . tcp . 80",
            "udp . 6000-7000",
            "counter packets 0 bytes 0 drop",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        policies.doubt();
        assert_eq!(policies.write(Wanted::Node(example())).unwrap(), Was::AsWritten, "{text}");
        policies.doubt();
        policies.write(Wanted::Node(Firewall::default())).unwrap();
        assert_eq!(sh("nft list tables"), "");
    });
}

#[test]
fn a_change_is_written_alone_and_leads_to_the_same() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        let small = firewall(&[(Ingress, "10.1.0.5", 1)], &[(1, &["10.1.0.9"])]);
        let cut = firewall(
            &[(Ingress, "10.1.0.5", 1), (Egress, "10.1.0.7", 4)],
            &[(1, &["10.3.0.0/16", "10.4.0.0/16 tcp 80-8500"]), (4, &["10.3.0.0/17", "all tcp"])],
        );
        let all = [example(), small, cut, Firewall::default()];
        for from in &all {
            for to in &all {
                policies.write(Wanted::Node(from.clone())).unwrap();
                policies.write(Wanted::Node(to.clone())).unwrap();
                let text = sh("nft list ruleset");
                policies.doubt();
                let was = policies.write(Wanted::Node(to.clone())).unwrap();
                assert_eq!(was, Was::AsWritten, "{text}");
            }
        }
    });
}

#[test]
fn sabotage_is_seen_and_healed() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        policies.write(Wanted::Node(example())).unwrap();
        for sabotage in [
            "nft flush chain inet weft-policy forward",
            "nft flush ruleset",
            "nft delete table inet weft-policy",
            "nft insert rule inet weft-policy forward accept",
            "nft insert rule inet weft-policy ingress-0000000000000001 return",
            "nft add rule inet weft-policy forward drop",
            "nft delete element inet weft-policy egress4 { 10.1.0.5 }",
            "nft add element inet weft-policy ingress-0000000000000001-peers4 { 10.1.0.77 }",
            "nft delete element inet weft-policy ingress-0000000000000001-nets4 { 10.2.0.0/16 }",
            "nft add chain inet weft-policy other; nft add rule inet weft-policy other jump ingress-0000000000000001",
            "nft add set inet weft-policy other '{ type ipv4_addr; }'",
            "nft add table inet weft-policy '{ flags dormant; }'",
            "nft add chain inet weft-policy forward '{ policy drop; }'",
            "nft add map inet weft-policy m '{ type ipv4_addr : verdict; }'; \
             nft add element inet weft-policy m '{ 10.0.0.1 : jump ingress-0000000000000001 }'",
        ] {
            let before = sh("nft list ruleset");
            sh(sabotage);
            assert_ne!(before, sh("nft list ruleset"), "{sabotage}");
            policies.doubt();
            assert_eq!(
                policies.write(Wanted::Node(example())).unwrap(),
                Was::Otherwise,
                "{sabotage}"
            );
            policies.doubt();
            assert_eq!(
                policies.write(Wanted::Node(example())).unwrap(),
                Was::AsWritten,
                "{sabotage}"
            );
            // Without looking too: a change that meets what it does not expect looks then.
            policies.write(Wanted::Node(Firewall::default())).unwrap();
            policies.write(Wanted::Node(example())).unwrap();
        }
    });
}

#[test]
fn in_a_pod_links_lead_to_lists() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        let lists = |name| Lists { v4: Some(ListName(name)), v6: Some(ListName(name)) };
        let door = Door {
            dev: "eth0".parse().unwrap(),
            ingress: lists(1),
            egress: lists(2),
            nodes: BTreeSet::from(["10.1.0.1".parse().unwrap()]),
            near: Some(
                ["10.1.0.0/24", "224.0.0.0/4", "fe80::/10"].map(|n| n.parse().unwrap()).into(),
            ),
        };
        let own = Own { doors: vec![door], lists: example().lists };
        policies.write(Wanted::Pod(own.clone())).unwrap();
        let text = sh("nft list table inet weft-policy");
        for line in [
            "type filter hook input priority filter - 1; policy accept;",
            "type filter hook output priority filter - 1; policy accept;",
            "iif \"lo\" accept",
            "oifname \"weft-*\" accept",
            "iifname \"eth0\" ip saddr @node4-eth0 accept",
            "iifname \"eth0\" meta nfproto ipv4 jump ingress-0000000000000001",
            "oifname \"eth0\" ip daddr @near4-eth0 jump egress-0000000000000002",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        policies.doubt();
        assert_eq!(policies.write(Wanted::Pod(own)).unwrap(), Was::AsWritten, "{text}");
    });
}

/// Of each kind of entry as many.
fn many(count: u32) -> BTreeSet<Open> {
    let addr = |n: u32, net: [u8; 2]| {
        let [_, _, a, b] = n.to_be_bytes();
        IpAddr::from([net[0], net[1], a, b])
    };
    let tcp = |first, last| Some(Ports { protocol: Protocol::Tcp, first, last });
    let each = |n: u32| {
        [
            Open { peer: Some(addr(n, [10, 1]).into()), ports: None },
            Open { peer: Some(addr(n, [10, 2]).into()), ports: tcp(80, 80) },
            Open { peer: Some(addr(n, [10, 3]).into()), ports: tcp(80, 90) },
        ]
    };
    (0..count / 3).flat_map(each).collect()
}

#[test]
fn ten_thousand_entries_are_written_at_once_and_one_more_by_itself() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        let mut entries = many(10_000);
        let of = |entries: &BTreeSet<Open>| Firewall {
            lists: BTreeMap::from([(ListName(1), Arc::new(List { entries: entries.clone() }))]),
            ..firewall(&[(Ingress, "10.1.0.5", 1)], &[])
        };
        let mut time = |entries: &BTreeSet<Open>| {
            let start = Instant::now();
            policies.write(Wanted::Node(of(entries))).unwrap();
            start.elapsed()
        };
        let first = time(&entries);
        entries.insert(open("10.9.0.1"));
        let peer = time(&entries);
        entries.insert(open("10.9.0.0/16 udp 5-6"));
        let net = time(&entries);
        entries.retain(|open| open.peer != Some("10.9.0.1".parse::<IpAddr>().unwrap().into()));
        let gone = time(&entries);
        println!(
            "10000 entries: {first:?}; one address more: {peer:?}, one range: {net:?}, less: {gone:?}"
        );
        policies.doubt();
        assert_eq!(policies.write(Wanted::Node(of(&entries))).unwrap(), Was::AsWritten);
        // Nearly all goes.
        policies.write(Wanted::Node(of(&many(9)))).unwrap();
        policies.doubt();
        assert_eq!(policies.write(Wanted::Node(of(&many(9)))).unwrap(), Was::AsWritten);
    });
}

#[test]
fn a_table_larger_than_a_message_is_healed_whatever_somebody_made_of_it() {
    node(|kernel| {
        let mut policies = PolicyTable::here(kernel).unwrap();
        let large = Firewall {
            lists: BTreeMap::from([(ListName(1), Arc::new(List { entries: many(20_000) }))]),
            ..firewall(&[(Ingress, "10.1.0.5", 1), (Egress, "10.1.0.6", 1)], &[])
        };
        let wanted = || Wanted::Node(large.clone());
        policies.write(wanted()).unwrap();
        for sabotage in [
            "nft flush ruleset",
            "nft add table inet weft-policy '{ flags dormant; }'",
            "nft 'add chain inet weft-policy forward { policy drop; }'",
            "nft delete chain inet weft-policy track; \
             nft 'add chain inet weft-policy track { type filter hook output priority 0; }'",
            "nft insert rule inet weft-policy forward meta mark '{ 1, 2 }' accept",
            "nft flush ruleset; nft 'add table inet weft-policy; \
             add set inet weft-policy policed4 { type inet_service; }; \
             add chain inet weft-policy forward { type nat hook postrouting priority 5; }; \
             add rule inet weft-policy forward tcp dport @policed4 accept'",
        ] {
            sh(sabotage);
            policies.doubt();
            let was = policies.write(wanted()).unwrap_or_else(|e| panic!("{sabotage}: {e}"));
            assert_eq!(was, Was::Otherwise, "{sabotage}");
            policies.doubt();
            assert_eq!(policies.write(wanted()).unwrap(), Was::AsWritten, "{sabotage}");
        }
    });
}
