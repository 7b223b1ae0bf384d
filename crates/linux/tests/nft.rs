//! Our table against the real kernel and the `nft` tool; and what other programs' tables do to us.
#![allow(clippy::unwrap_used)]

mod floor;

use floor::{converge, net, node, observe, ruleset, sh};
use weft_core::{
    plan::{Change, plan},
    policy::{Rule, Ruleset},
    state::{Object, State},
};
use weft_linux::Passing;

#[test]
fn the_table_says_in_nft_what_we_mean_and_sabotage_is_seen() {
    node(|kernel| {
        let desired: State = [Object::Table { ruleset: ruleset() }].into_iter().collect();
        converge(kernel, &desired);
        let text = sh("nft list table inet weft");
        for line in [
            "type filter hook prerouting priority raw",
            "type nat hook postrouting priority srcnat",
            "ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 notrack",
            "ip6 saddr fd00:1::/48 ip6 daddr fd00:1::/48 return",
            "ip saddr 10.1.0.0/16 masquerade",
            "udp dport 4789 notrack",
            "type filter hook forward priority filter",
            "iifname \"weftn*\" oifname \"weftn*\" ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 drop",
            "ip6 daddr fd00:1::/48 ct status ! dnat drop",
            "iifname \"weftn*\" masquerade",
            "oifname \"weftn*\" ct status dnat masquerade",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        for sabotage in [
            "nft flush chain inet weft source-nat",
            "nft delete table inet weft",
            "nft add rule inet weft source-nat ip saddr 10.9.0.0/16 masquerade",
            "nft insert rule inet weft raw-prerouting drop",
            "nft insert rule inet weft raw-prerouting udp dport 4790 notrack",
            "nft insert rule inet weft raw-prerouting tcp dport 4789 notrack",
            "nft insert rule inet weft raw-prerouting udp sport 4789 notrack",
            "nft insert rule inet weft raw-output ip saddr 10.1.0.0/16 udp dport 4789 notrack",
            "nft insert rule inet weft raw-output meta l4proto udp notrack",
            "nft add rule inet weft forward accept",
            "nft insert rule inet weft forward iifname weftn1 drop",
            "nft insert rule inet weft forward iifname 'weftn*' fib saddr . iif oif missing drop",
            "nft insert rule inet weft forward iifname 'weftn*' oifname 'weftn*' ip saddr 10.1.0.0/16 ip daddr 10.2.0.0/16 drop",
            "nft insert rule inet weft forward iifname 'weftn*' oifname 'weftn*' ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 accept",
            "nft insert rule inet weft forward iifname 'weftn*' oifname 'weftn*' ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 ct status snat drop",
            "nft insert rule inet weft forward iifname 'weftn*' oifname 'weftn*' ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 udp dport 9 drop",
            "nft insert rule inet weft source-nat iifname 'weftn*' masquerade random",
            "nft insert rule inet weft source-nat oifname 'weftn*' ct status snat masquerade",
            "nft add chain inet weft more",
            "nft add chain inet weft source-nat '{ policy drop; }'",
            "nft add table inet weft '{ flags dormant; }'",
            "nft flush chain inet weft source-nat; nft add rule inet weft source-nat ip saddr 10.1.0.0/16 masquerade fully-random",
            "nft insert rule inet weft raw-output ip saddr 10.2.0.0/16 ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 notrack",
            "nft insert rule inet weft raw-output ip saddr '& 255.0.255.0 == 10.0.1.0' ip daddr 10.1.0.0/16 notrack",
        ] {
            sh(sabotage);
            assert_ne!(plan(&desired, &observe(kernel, &desired)), [], "{sabotage} is not seen");
            converge(kernel, &desired);
        }
        // What `nft` itself writes is read the same.
        let lists: String = sh("nft -s list table inet weft");
        sh(&format!("nft delete table inet weft; nft -f - <<'E'\n{lists}\nE"));
        assert_eq!(plan(&desired, &observe(kernel, &desired)), [], "{}", sh("nft list ruleset"));
    });
}

#[test]
fn every_prefix_length_of_a_rule_comes_back() {
    node(|kernel| {
        let nets = [
            "0.0.0.0/0",
            "128.0.0.0/1",
            "10.16.0.0/12",
            "10.1.2.0/24",
            "10.1.2.3/32",
            "::/0",
            "fd00::/8",
            "fd00:1::/33",
            "fd00::2/127",
            "fd00::3/128",
        ];
        for text in nets {
            let from = net(text);
            let ruleset = Ruleset {
                raw: vec![Rule::NoTrack { from, to: from }],
                forward: [false, true]
                    .map(|unless_translated| Rule::Apart { range: from, unless_translated })
                    .to_vec(),
                nat: vec![Rule::Masquerade { from }],
            };
            converge(kernel, &[Object::Table { ruleset }].into_iter().collect());
        }
    });
}

#[test]
fn a_table_that_is_refused_whole_is_an_error_and_no_wait() {
    node(|kernel| {
        let refused = without_capabilities(|| {
            kernel.apply(&[Change::Put(Object::Table { ruleset: ruleset() })])
        });
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].to_string().contains("not permitted"), "{refused:?}");
        let again = kernel.apply(&[Change::Put(Object::Table { ruleset: ruleset() })]);
        assert_eq!(again, [], "the socket and its lock still serve");
    });
}

/// On a thread of its own, since capabilities are a thread's.
fn without_capabilities<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // `struct __user_cap_header_struct` and two `__user_cap_data_struct` of capset(2).
            let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
            // SAFETY: both point at memory of the sizes that version 3 of the call reads.
            #[allow(unsafe_code)]
            let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            work()
        });
        worker.join().unwrap()
    })
}

#[test]
fn a_foreign_firewall_is_named() {
    node(|kernel| {
        sh("nft add table inet mine; \
            nft 'add chain inet mine f { type filter hook forward priority 0; policy drop; }'");
        let ranges = [net("10.1.0.0/16"), net("fd00:1::/64")];
        let found = || -> Vec<String> {
            let passing = Passing { ranges: &ranges, ports: &[4789] };
            let found = kernel.foreign_firewall(&passing).unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        assert!(found()[0].contains("pod packets: table inet mine chain f has policy drop"));
        sh("nft add table inet mine '{ flags dormant; }'");
        assert_eq!(found(), [""; 0], "a dormant table drops nothing");
        sh("nft delete table inet mine; nft add table ip other; \
            nft 'add chain ip other in { type filter hook input priority 0; policy drop; }'; \
            nft 'add chain ip other through { type filter hook forward priority 0; }'; \
            nft add rule ip other through ip daddr 10.9.0.0/16 counter drop");
        let said = found().join(" and ");
        assert!(said.contains("tunnels: table ip other chain in has policy drop"), "{said}");
        assert!(!said.contains("chain through"), "{said}");
        sh("nft add rule ip other through counter drop");
        assert!(found().join(" ").contains("pod packets: table ip other chain through drops all"));
        sh("nft delete table ip other");
        // Each drops what should get through; where it is accepted before, it does not.
        let chain = |hook: &str, rules: &[&str]| {
            sh(&format!(
                "nft add table inet fw; nft add chain inet fw other; \
                 nft 'add chain inet fw c {{ type filter hook {hook} priority 0; }}'"
            ));
            rules.iter().for_each(|rule| drop(sh(&format!("nft add rule inet fw {rule}"))));
            let found = found();
            sh("nft delete table inet fw");
            found.join(" and ")
        };
        let cases: [(&str, &[&str], &str); 12] = [
            ("forward", &["c ip saddr 10.1.0.0/16 drop"], "chain c drops saddr 10.1.0.0/16"),
            ("forward", &["c ip daddr 10.1.7.0/24 counter reject"], "drops daddr 10.1.7.0/24"),
            ("forward", &["other reject", "c jump other"], "jumps to other, which drops all"),
            ("prerouting", &["c ip6 saddr fd00:1::/64 drop"], "pod packets and tunnels"),
            ("postrouting", &["c drop"], "drops all"),
            (
                "output",
                &["c udp dport 4789 drop"],
                "this node's tunnels: table inet fw chain c drops udp dport 4789",
            ),
            ("input", &["c udp dport 4789 accept", "c drop"], ""),
            (
                "forward",
                &["c ip saddr 10.0.0.0/8 accept", "c ip6 saddr fd00:1::/64 accept", "c drop"],
                "",
            ),
            ("forward", &["c ip saddr 10.0.0.0/8 accept", "c drop"], "drops all"),
            ("forward", &["c ip saddr 10.9.0.0/16 drop", "c tcp dport 22 drop"], ""),
            ("forward", &["c accept", "c drop"], ""),
            ("output", &["c ip daddr 10.1.0.0/16 drop"], ""),
        ];
        for (hook, rules, says) in cases {
            let said = chain(hook, rules);
            let right = if says.is_empty() { said.is_empty() } else { said.contains(says) };
            assert!(right, "{hook} {rules:?}: {said:?}");
        }
    });
}
