//! Ports that lead to pods, against the real kernel and the `nft` tool.
#![allow(clippy::unwrap_used)]

mod floor;

use floor::{converge, generation, node, observe, sh};
use weft_core::{
    plan::{Change, plan},
    policy::spec::Protocol,
    ports::{Client, Door},
    state::{Object, State},
};

fn port(ip: Option<&str>, protocol: Protocol, port: u16, to: &str) -> Object {
    let to: std::net::SocketAddr = to.parse().unwrap();
    let ip = ip.map(|ip| ip.parse().unwrap());
    Object::Port { door: Door { ipv4: to.is_ipv4(), ip, protocol, port }, to }
}

fn hidden(addr: &str, from: Client) -> Object {
    Object::Hidden { addr: addr.parse().unwrap(), from }
}

fn some() -> State {
    [
        port(None, Protocol::Tcp, 8080, "10.1.0.5:80"),
        port(Some("192.0.2.1"), Protocol::Udp, 53, "10.1.0.6:1053"),
        port(None, Protocol::Sctp, 8080, "10.1.0.5:80"),
        port(None, Protocol::Tcp, 8080, "[fd00:1::5]:80"),
        port(Some("2001:db8::1"), Protocol::Udp, 53, "[fd00:1::6]:1053"),
        hidden("10.1.0.5", Client::Itself),
        hidden("fd00:1::5", Client::Itself),
        hidden("10.1.0.6", Client::Anybody),
        hidden("fd00:1::6", Client::Anybody),
    ]
    .into_iter()
    .collect()
}

#[test]
fn the_table_says_in_nft_what_we_mean_and_sabotage_is_seen() {
    node(|kernel| {
        let desired = some();
        converge(kernel, &desired);
        let text = sh("nft list table inet weft-ports");
        for line in [
            "type filter hook prerouting priority raw",
            "iifname \"weft*\" ip saddr 127.0.0.0/8 counter packets 0 bytes 0 drop",
            "iifname \"weft*\" ip daddr 127.0.0.0/8 counter packets 0 bytes 0 drop",
            "type nat hook prerouting priority dstnat",
            "dnat ip to ip daddr . meta l4proto . th dport map @one4",
            "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @any4",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @one6",
            "meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @any6",
            "type nat hook output priority -100",
            "ip6 daddr ::1 return",
            "type nat hook postrouting priority srcnat",
            "ip saddr . ip daddr @itself4 masquerade",
            "ip6 daddr @anybody6 ct status dnat masquerade",
            "oifname \"weft*\" ip saddr 127.0.0.0/8 masquerade",
            "tcp . 8080 : 10.1.0.5 . 80",
            "192.0.2.1 . udp . 53 : 10.1.0.6 . 1053",
            "2001:db8::1 . udp . 53 : fd00:1::6 . 1053",
            "10.1.0.5 . 10.1.0.5",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        for sabotage in [
            "nft flush chain inet weft-ports output",
            "nft delete table inet weft-ports",
            "nft add rule inet weft-ports postrouting masquerade",
            "nft insert rule inet weft-ports guard accept",
            "nft flush map inet weft-ports any4",
            "nft delete element inet weft-ports itself4 '{ 10.1.0.5 . 10.1.0.5 }'",
            "nft add element inet weft-ports any4 '{ tcp . 22 : 10.1.0.9 . 22 }'",
            "nft 'delete element inet weft-ports any4 { tcp . 8080 }; add element inet weft-ports any4 { tcp . 8080 : 10.1.0.9 . 80 }'",
            "nft add chain inet weft-ports more",
            "nft add set inet weft-ports more '{ type ipv4_addr; }'",
            "nft add chain inet weft-ports prerouting '{ policy drop; }'",
            "nft add table inet weft-ports '{ flags dormant; }'",
            "nft flush chain inet weft-ports guard; nft 'add rule inet weft-ports guard iifname weft* ip saddr 127.0.0.0/8 drop; add rule inet weft-ports guard iifname weft* ip daddr 127.0.0.0/8 accept'",
            "nft flush chain inet weft-ports output; nft 'add rule inet weft-ports output ip6 daddr ::1 return'",
        ] {
            sh(sabotage);
            assert_ne!(plan(&desired, &observe(kernel, &desired)), [], "{sabotage} is not seen");
            converge(kernel, &desired);
        }
        // As `nft` itself writes what it lists.
        let list = sh("nft -s list table inet weft-ports");
        sh(&format!("nft delete table inet weft-ports; nft -f - <<'E'\n{list}\nE"));
        assert_eq!(sh("nft -s list table inet weft-ports"), list);
    });
}

#[test]
fn the_last_port_takes_the_table_with_it() {
    node(|kernel| {
        converge(kernel, &some());
        converge(kernel, &State::default());
        assert!(!sh("nft list tables").contains("weft"));
        assert_eq!(kernel.apply(&[Change::Drop(some().keys().next_back().unwrap().clone())]), []);
        assert!(!kernel.foreign_nat().unwrap());
        converge(kernel, &some());
        assert!(!kernel.foreign_nat().unwrap(), "what is ours is no stranger's");
        // One that leads elsewhere now.
        let moved: State = [port(None, Protocol::Tcp, 8080, "10.1.0.7:81")].into_iter().collect();
        converge(kernel, &moved);
    });
}

#[test]
fn a_table_that_somebody_altered_can_be_taken_away_too() {
    node(|kernel| {
        kernel.remove_tables().unwrap();
        converge(kernel, &some());
        sh("nft add rule inet weft-ports postrouting masquerade");
        assert_eq!(
            plan(&State::default(), &observe(kernel, &some())),
            [],
            "nothing is known of it"
        );
        kernel.remove_tables().unwrap();
        assert!(!sh("nft list tables").contains("weft"));
    });
}

#[test]
fn a_table_of_another_version_becomes_ours_with_all_its_ports_at_once() {
    node(|kernel| {
        let desired = some();
        converge(kernel, &desired);
        // Rules that we do not write, a set that we do not have, one of another shape.
        sh("nft flush chain inet weft-ports postrouting; \
            nft add rule inet weft-ports guard iifname lo accept; \
            nft add set inet weft-ports older '{ type ipv4_addr; }'; \
            nft delete table inet weft-ports; \
            nft 'add table inet weft-ports; \
                 add set inet weft-ports itself4 { type ipv4_addr; }; \
                 add map inet weft-ports any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }; \
                 add element inet weft-ports any4 { tcp . 8080 : 10.1.0.5 . 80, tcp . 99 : 10.1.0.9 . 99 }; \
                 add chain inet weft-ports prerouting { type nat hook prerouting priority -90; }; \
                 add rule inet weft-ports prerouting dnat ip to meta l4proto . th dport map @any4'");
        let changes = plan(&desired, &observe(kernel, &desired));
        assert_eq!(changes.len(), desired.len(), "nothing of it is known");
        let before = generation();
        assert_eq!(kernel.apply(&changes), []);
        assert_eq!(generation() - before, 1, "one transaction");
        // What nobody asks for goes with the next look.
        converge(kernel, &desired);
    });
}
