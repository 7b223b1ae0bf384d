//! Records as they are read: what can be, what not, and what is said of either.

use super::*;

const NETWORK: &str = r#"{"ranges":["10.1.0.0/16"],"join":"host-gw"}"#;

fn view(records: &[(&str, &str)]) -> View {
    let mut view = View::default();
    for ((key, value), revision) in records.iter().zip(1..) {
        view.put(key, value.as_bytes(), revision);
    }
    view
}

#[test]
fn what_cannot_be_read_is_said_and_replaces_nothing() {
    let cases = [
        ("networks/a", "{", "not JSON"),
        ("networks/a", r#"{"schema":2,"ranges":["10.1.0.0/16"]}"#, "schema 2 is newer"),
        ("networks/a", r#"{"ranges":["10.1.0.0/16"],"join":"hostgw"}"#, "`vxlan`, `host-gw`"),
        ("networks/a", r#"{"ranges":[]}"#, "no range"),
        ("networks/a", r#"{"ranges":["10.1.0.1/16"]}"#, "write 10.1.0.0/16"),
        ("networks/a", r#"{"ranges":["127.0.0.0/8"]}"#, "is not for pods"),
        ("networks/a", r#"{"ranges":["10.1.0.0/16"],"join":{"kind":"vxlan","port":0}}"#, "nonzero"),
        ("networks/a", r#"{"ranges":["10.1.0.0/16"],"blockPrefix4":12}"#, "from 16 to 29"),
    ];
    for (key, value, want) in cases {
        let view = view(&[("networks/a", NETWORK), (key, value)]);
        assert!(view.said[key].contains(want), "{value}: {:?}", view.said);
        assert_eq!(view.networks.len(), 1, "{value}: what stood there still stands");
    }
}

#[test]
fn unknown_fields_are_said_with_the_choices() {
    let view = view(&[("networks/a", r#"{"ranges":["10.1.0.0/16"],"joins":"auto"}"#)]);
    assert!(view.said["networks/a"].contains("joins (known here: attach, "), "{:?}", view.said);
    assert_eq!(view.networks.len(), 1);
}

#[test]
fn keys_come_back_as_they_went() {
    for text in ["10.1.2.0/24", "fd00:1:2::/112"] {
        let (network, block): (NetworkName, IpNet) = ("n".parse().unwrap(), text.parse().unwrap());
        let key = claim_key(&network, &block);
        let view = view(&[(&key, r#"{"schema":1,"node":"a","boot":"x"}"#)]);
        assert!(view.claims.contains_key(&(network, block)), "{key}: {:?}", view.said);
    }
}

#[test]
fn a_new_list_keeps_of_what_it_can_not_read_what_could_be_read_last() {
    let node = r#"{"schema":1,"boot":"b","version":"0","underlay":[],"mtu":1500,"networks":{}}"#;
    let mut view = view(&[("networks/a", NETWORK), ("nodes/x", node), ("nodes/y", node)]);
    let newer = br#"{"schema":9}"#.as_slice();
    let entries = [("networks/a", newer, 5), ("nodes/x", newer, 6), ("nodes/z", newer, 7)];
    view.list(entries.into_iter(), 8);
    let nodes: Vec<String> = view.nodes.keys().map(ToString::to_string).collect();
    assert_eq!((view.networks.len(), nodes, view.revision), (1, vec!["x".to_owned()], 8));
    assert_eq!(view.said.len(), 3, "{:?}", view.said);
}

#[test]
fn of_two_networks_that_overlap_the_one_in_use_is_served() {
    let claim = r#"{"schema":1,"node":"a","boot":"x"}"#;
    let view = view(&[
        ("networks/b", NETWORK),
        ("blocks/b/10.1.2.0-24", claim),
        ("networks/a", r#"{"ranges":["10.1.128.0/17"],"join":"host-gw"}"#),
    ]);
    let names: Vec<String> = view.conflicts().keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn of_two_networks_that_overlap_the_first_by_name_is_served() {
    let view = view(&[
        ("networks/b", r#"{"ranges":["10.1.128.0/17"],"join":"host-gw"}"#),
        ("networks/a", NETWORK),
        ("networks/c", r#"{"ranges":["10.2.0.0/16"],"join":"host-gw"}"#),
    ]);
    let conflicts = view.conflicts();
    assert_eq!(conflicts.len(), 1);
    let b: NetworkName = "b".parse().unwrap();
    assert!(conflicts[&b].contains("overlaps 10.1.0.0/16 of network a"), "{conflicts:?}");
}

#[test]
fn settings_of_bgp_are_read_and_what_can_not_be_replaces_nothing() {
    let settings = |value: &'static str| ("settings/bgp", value);
    let node = view(&[settings(r#"{"asn":64999}"#), settings(r#"{"asn":0}"#)]);
    assert!(node.said["settings/bgp"].contains("AS 0 is reserved"), "{:?}", node.said);
    assert_eq!(node.bgp.asn, 64999, "what stood there still stands");
    let mut newer = view(&[settings(r#"{"asn":64999,"colour":"red","peers":[]}"#)]);
    assert!(
        newer.said["settings/bgp"].contains("unknown fields, kept: colour"),
        "{:?}",
        newer.said
    );
    let schema = br#"{"schema":9}"#.as_slice();
    newer.list([("settings/bgp", schema, 5)].into_iter(), 6);
    assert_eq!(newer.bgp.asn, 64999);
    newer.delete("settings/bgp", 7);
    assert_eq!(newer.bgp, Settings::default());
}

#[test]
fn names_are_subdomains_that_can_be_read_and_differ() {
    let long = format!("nodes/{}", "a.".repeat(126) + "a");
    let keys = [
        "nodes/a",
        "nodes/a.b",
        "nodes/a-b",
        "acks/a",
        "blocks/default/10.1.0.0-24",
        "blocks/default/fd00:1::-112",
        "claims/default/::1",
        "claims/default/1::",
        "settings/bgp",
        "pods/n/a.b",
        "pods/n.a/b",
        &long,
        &long[..long.len() - 2],
    ];
    let names: BTreeSet<String> = keys.iter().map(|key| object_name(key)).collect();
    assert_eq!(names.len(), keys.len());
    for name in &names {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        assert!(name.len() <= OBJECT_NAME_MAX && name.split('.').all(label), "{name}");
    }
    assert!(object_name("blocks/default/10.1.0.0-24").starts_with("blocks.default.10-1-0-0-24."));
    assert_eq!(object_name("settings/bgp"), object_name("settings/bgp"));
}
