//! From which addresses pods may send, against the real kernel and the `nft` tool.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // What it has of our main table is other tests'.
mod floor;

use floor::{converge, generation, node, observe, sh};
use weft_core::{
    name::Mac,
    plan::{Change, plan},
    state::{Key, Object, State},
};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 5]);

fn sources(dev: &str, mac: Option<Mac>, addrs: &[&str]) -> Object {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    Object::Sources { dev: dev.parse().unwrap(), mac, addrs }
}

fn some() -> State {
    [
        sources("weft00000000001", None, &["10.1.0.5", "fd00:1::5"]),
        sources("weft00000000002", None, &["10.1.0.6"]),
        sources("weftn0000000003", None, &[]),
        sources("weft00000000004", Some(MAC), &["10.2.0.5", "fd00:2::5"]),
        sources("weft00000000005", Some(Mac([2, 0, 0, 0, 0, 6])), &["10.2.0.6", "10.2.0.7"]),
    ]
    .into_iter()
    .collect()
}

#[test]
fn the_tables_say_in_nft_what_we_mean_and_sabotage_is_seen() {
    node(|kernel| {
        let desired = some();
        converge(kernel, &desired);
        let text = sh("nft list ruleset");
        for line in [
            "table inet weft-sources",
            "type filter hook prerouting priority raw - 10; policy accept;",
            "iifname != \"weft*\" accept",
            "iifname . ip saddr @own4 accept",
            "iifname . ip6 saddr @own6 accept",
            "ip6 saddr fe80::/10 accept",
            "iifname @ends counter packets 0 bytes 0 drop",
            "\"weft00000000001\" . 10.1.0.5",
            "\"weft00000000001\" . fd00:1::5",
            "table bridge weft-sources",
            "iifname . ether saddr . ip saddr @own4 accept",
            "meta l4proto != ipv6-icmp iifname . ether saddr . ip6 saddr @own6 accept",
            "iifname @ends goto judged",
            "iifname . ether saddr != @macs counter packets 0 bytes 0 drop",
            "iifname . arp saddr ether . arp saddr ip @own4 accept",
            "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 iifname @ends",
            "\"weft00000000004\" . 02:00:00:00:00:05 . 0.0.0.0",
            "\"weft00000000004\" . 02:00:00:00:00:05 . fd00:2::5",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        for sabotage in [
            "nft flush chain inet weft-sources prerouting",
            "nft flush chain bridge weft-sources judged",
            "nft delete table inet weft-sources",
            "nft delete table bridge weft-sources",
            "nft flush ruleset",
            "nft insert rule inet weft-sources prerouting accept",
            "nft flush set inet weft-sources ends",
            "nft flush set bridge weft-sources macs",
            "nft delete element inet weft-sources own4 '{ \"weft00000000001\" . 10.1.0.5 }'",
            "nft add element inet weft-sources own4 '{ \"weft00000000001\" . 10.1.0.6 }'",
            "nft add element inet weft-sources own4 '{ \"weft00000000009\" . 10.1.0.6 }'",
            "nft add element bridge weft-sources own4 '{ \"weft00000000004\" . 02:00:00:00:00:06 . 10.2.0.5 }'",
            "nft add element bridge weft-sources macs '{ \"weft00000000004\" . 02:00:00:00:00:06 }'",
            "nft delete element bridge weft-sources own6 '{ \"weft00000000004\" . 02:00:00:00:00:05 . :: }'",
            "nft add chain inet weft-sources more",
            "nft add set inet weft-sources more '{ type ipv4_addr; }'",
            "nft 'add chain inet weft-sources prerouting { policy drop; }'",
            "nft add table inet weft-sources '{ flags dormant; }'",
            "nft add table bridge weft-sources '{ flags dormant; }'",
            "nft insert rule bridge weft-sources prerouting meta mark '{ 1, 2 }' accept",
            "nft flush chain bridge weft-sources input; nft add rule bridge weft-sources input \
             'ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 iifname @ends \
              iifname . ether saddr @macs counter drop'",
        ] {
            sh(sabotage);
            assert_ne!(plan(&desired, &observe(kernel, &desired)), [], "{sabotage} is not seen");
            converge(kernel, &desired);
        }
    });
}

#[test]
fn one_links_addresses_come_change_and_go_by_themselves() {
    node(|kernel| {
        converge(kernel, &some());
        let before = generation();
        let new = sources("weft00000000002", None, &["10.1.0.9", "fd00:1::9"]);
        assert_eq!(kernel.apply(&[Change::Put(new.clone()), Change::Put(new.clone())]), []);
        assert_eq!(generation() - before, 1, "one transaction");
        let mut desired = some();
        desired.put(new);
        assert_eq!(plan(&desired, &observe(kernel, &desired)), []);
        let keys: Vec<Key> = some().keys().cloned().collect();
        let drops: Vec<Change> = keys.into_iter().map(Change::Drop).collect();
        assert_eq!(kernel.apply(&drops[..1]), []);
        assert!(!sh("nft list table inet weft-sources").contains("weft00000000001"));
        assert_eq!(kernel.apply(&drops), []);
        assert!(!sh("nft list tables").contains("weft"), "the tables go with the last");
        assert_eq!(kernel.apply(&drops), [], "once more");
        assert!(!kernel.has_tables().unwrap());
    });
}
