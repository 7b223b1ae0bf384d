//! What the API's own pages say, as tables.

use self::text::{cluster, labels, packet};
use super::*;

mod text;

#[track_caller]
fn table(text: &str, rows: &[(&str, &str)]) {
    let cluster = cluster(text);
    for (sent, expected) in rows {
        let verdict = cluster.verdict(&packet(&cluster, sent)).to_string();
        assert_eq!(verdict, *expected, "{sent}");
    }
}

/// Who reaches a/db at tcp/80 from elsewhere, and what else a/db is open to, under one ingress rule.
#[track_caller]
fn opens(rule: &str, rows: &[(&str, bool)]) {
    let policy = format!(r#"policy a/p {{"podSelector": {DB}, "ingress": [{rule}]}}"#);
    let cluster = cluster(&format!("{WORLD}{policy}"));
    for (sent, expected) in rows {
        let verdict = cluster.verdict(&packet(&cluster, sent));
        assert_eq!(verdict.is_open(), *expected, "{rule}: {sent}: {verdict}");
    }
}

const DB: &str = r#"{"matchLabels": {"role": "db"}}"#;
const WORLD: &str = "
    node n1 192.0.2.1 2001:db8::1
    node n2 192.0.2.2
    ns a team=x
    ns b project=myproject,user=alice
    ns c -
    pod a/db n1 role=db 10.0.0.1 fd00::1 sql=tcp/6379 sync=udp/7000 sql=sctp/81
    pod a/front n1 role=frontend 10.0.0.2 fd00::2
    pod a/other n2 - 10.0.0.3 sql=tcp/5432
    pod b/client n2 role=client 10.0.1.1
    pod b/front n2 role=frontend 10.0.1.2
    pod c/client n2 role=client,tier= 10.0.2.1
    pod c/host n2 role=client
";

#[test]
fn the_example_of_the_page() {
    let policy = r#"policy a/test-network-policy {
        "podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{
            "from": [
                {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                {"podSelector": {"matchLabels": {"role": "frontend"}}}
            ],
            "ports": [{"protocol": "TCP", "port": 6379}]
        }],
        "egress": [{
            "to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}],
            "ports": [{"protocol": "TCP", "port": 5978}]
        }]
    }"#
    .replace('\n', "");
    let into =
        |from: &str| format!("open: from {from}; to a/db: ingress rule 1 of a/test-network-policy");
    let not_into = |from: &str| {
        format!("denied: from {from}; to a/db: no ingress rule of a/test-network-policy opens this")
    };
    let pod = |name: &str| format!("{name}: no policy selects it for egress");
    table(
        &format!("{WORLD}{policy}"),
        &[
            ("a/front > a/db tcp/6379", &into(&pod("a/front"))),
            ("b/client > a/db tcp/6379", &into(&pod("b/client"))),
            ("172.17.0.255 > a/db tcp/6379", &into("172.17.0.255: no pod")),
            ("172.17.2.0 > a/db tcp/6379", &into("172.17.2.0: no pod")),
            ("172.17.1.7 > a/db tcp/6379", &not_into("172.17.1.7: no pod")),
            ("172.18.0.0 > a/db tcp/6379", &not_into("172.18.0.0: no pod")),
            ("a/front > a/db tcp/6378", &not_into(&pod("a/front"))),
            ("a/front > a/db udp/6379", &not_into(&pod("a/front"))),
            ("a/front > a/db icmp", &not_into(&pod("a/front"))),
            ("a/other > a/db tcp/6379", &not_into(&pod("a/other"))),
            ("c/client > a/db tcp/6379", &not_into(&pod("c/client"))),
            (
                "a/db > 10.0.0.99 tcp/5978",
                "open: from a/db: egress rule 1 of a/test-network-policy; to 10.0.0.99: no pod",
            ),
            (
                "a/db > a/front tcp/5978",
                "open: from a/db: egress rule 1 of a/test-network-policy; \
             to a/front: no policy selects it for ingress",
            ),
            (
                "a/db > 10.0.9.99 tcp/5978",
                "denied: from a/db: no egress rule of a/test-network-policy opens this; \
             to 10.0.9.99: no pod",
            ),
            (
                "a/other > a/front tcp/1",
                "open: from a/other: no policy selects it for egress; \
             to a/front: no policy selects it for ingress",
            ),
        ],
    );
}

#[test]
fn one_peer_with_two_selectors_is_less_than_two_peers() {
    let alice = r#""namespaceSelector": {"matchLabels": {"user": "alice"}}"#;
    let client = r#""podSelector": {"matchLabels": {"role": "client"}}"#;
    opens(
        &format!(r#"{{"from": [{{{alice}, {client}}}]}}"#),
        &[
            ("b/client > a/db tcp/80", true),
            ("b/front > a/db tcp/80", false),
            ("c/client > a/db tcp/80", false),
            ("a/front > a/db tcp/80", false),
        ],
    );
    let local = r#""podSelector": {"matchLabels": {"role": "frontend"}}"#;
    opens(
        &format!(r#"{{"from": [{{{alice}}}, {{{local}}}]}}"#),
        &[
            ("b/client > a/db tcp/80", true),
            ("b/front > a/db tcp/80", true),
            ("c/client > a/db tcp/80", false),
            ("a/front > a/db tcp/80", true),
            ("a/other > a/db tcp/80", false),
        ],
    );
}

#[test]
fn peers() {
    let every = [
        ("a/front > a/db tcp/80", true),
        ("c/client > a/db udp/1", true),
        ("b/client > a/db icmp", true),
        ("8.8.8.8 > a/db sctp/9", true),
        ("192.0.2.2 > a/db tcp/80", true),
        ("2001:db8:9::9 > fd00::1 tcp/80", true),
    ];
    opens("{}", &every);
    opens(r#"{"from": [], "ports": []}"#, &every);
    // A selector that is there and empty: all pods, but nobody else.
    opens(
        r#"{"from": [{"podSelector": {}}]}"#,
        &[
            ("a/front > a/db tcp/80", true),
            ("fd00::2 > fd00::1 icmp", true),
            ("b/client > a/db tcp/80", false),
            ("8.8.8.8 > a/db tcp/80", false),
            ("192.0.2.2 > a/db tcp/80", false),
        ],
    );
    opens(
        r#"{"from": [{"namespaceSelector": {}}]}"#,
        &[
            ("a/front > a/db tcp/80", true),
            ("c/client > a/db tcp/80", true),
            ("8.8.8.8 > a/db tcp/80", false),
            ("192.0.2.2 > a/db tcp/80", false),
        ],
    );
    opens(
        r#"{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": ""}}}]}"#,
        &[("c/client > a/db tcp/80", true), ("b/client > a/db tcp/80", false)],
    );
    // Another node, by its address alone; pods by address as well.
    opens(
        r#"{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "10.0.2.0/24"}}]}"#,
        &[
            ("192.0.2.2 > a/db tcp/80", true),
            ("c/client > a/db tcp/80", true),
            ("a/front > a/db tcp/80", false),
        ],
    );
    opens(
        r#"{"from": [{"ipBlock": {"cidr": "::/0", "except": ["fd00::/16"]}}]}"#,
        &[
            ("2001:db8:9::9 > fd00::1 tcp/80", true),
            ("fd00::2 > fd00::1 tcp/80", false),
            ("8.8.8.8 > a/db tcp/80", false),
        ],
    );
    // An exception concerns its own block.
    opens(
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]}}, {"ipBlock": {"cidr": "10.0.1.2/32"}}]}"#,
        &[("b/client > a/db tcp/80", false), ("b/front > a/db tcp/80", true)],
    );
}

#[test]
fn ports() {
    opens(
        r#"{"ports": [{}]}"#,
        &[
            ("a/front > a/db tcp/80", true),
            ("a/front > a/db udp/80", false),
            ("a/front > a/db icmp", false),
        ],
    );
    opens(
        r#"{"ports": [{"protocol": "SCTP"}, {"port": 80, "protocol": "UDP"}]}"#,
        &[
            ("a/front > a/db sctp/1", true),
            ("a/front > a/db udp/80", true),
            ("a/front > a/db udp/81", false),
            ("a/front > a/db tcp/80", false),
        ],
    );
    opens(
        r#"{"ports": [{"port": 32000, "endPort": 32768}]}"#,
        &[
            ("a/front > a/db tcp/31999", false),
            ("a/front > a/db tcp/32000", true),
            ("a/front > a/db tcp/32768", true),
            ("a/front > a/db tcp/32769", false),
            ("a/front > a/db udp/32000", false),
        ],
    );
    opens(
        r#"{"ports": [{"port": 80, "endPort": 80}]}"#,
        &[("a/front > a/db tcp/80", true), ("a/front > a/db tcp/81", false)],
    );
    // The selected pod's, not that of who asks; of the rule's protocol.
    opens(
        r#"{"ports": [{"port": "sql"}]}"#,
        &[
            ("a/front > a/db tcp/6379", true),
            ("a/other > a/db tcp/5432", false),
            ("a/front > a/db sctp/81", false),
            ("a/front > a/db tcp/81", false),
        ],
    );
    opens(
        r#"{"ports": [{"port": "sync"}]}"#,
        &[("a/front > a/db tcp/7000", false), ("a/front > a/db udp/7000", false)],
    );
    opens(
        r#"{"ports": [{"port": "sync", "protocol": "UDP"}]}"#,
        &[("a/front > a/db udp/7000", true)],
    );
}

#[test]
fn what_the_api_would_refuse_opens_nothing() {
    let all = [
        ("a/front > a/db tcp/80", false),
        ("a/front > a/db tcp/6379", false),
        ("10.0.3.3 > a/db tcp/80", false),
        ("a/front > a/db icmp", false),
    ];
    for rule in [
        r#"{"from": [{}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}"#,
        r#"{"from": [{"podSelector": {"matchExpressions": [{"key": "role", "operator": "Like"}]}}]}"#,
        r#"{"ports": [{"protocol": "ICMP"}]}"#,
        r#"{"ports": [{"port": 100000}]}"#,
        r#"{"from": [{"podSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]}"#,
        r#"{"from": [{"namespaceSelector": {}, "ipBlock": {"cidr": "0.0.0.0/0"}}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.9.0.0/24"]}}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["fd00::/64"]}}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/16"]}}]}"#,
        r#"{"from": [{"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/8"]}}]}"#,
        r#"{"ports": [{"port": 81, "endPort": 80}]}"#,
        r#"{"ports": [{"endPort": 6379}]}"#,
        r#"{"ports": [{"port": "sql", "endPort": 6379}]}"#,
        r#"{"ports": [{"port": "unheard-of"}]}"#,
    ] {
        opens(rule, &all);
    }
}

#[test]
fn default_policies_of_the_page() {
    const OPEN: &str = "open: from a/front: no policy selects it for egress; \
                        to b/front: no policy selects it for ingress";
    let sent = |policies: &str| {
        let cluster = cluster(&format!("{WORLD}{policies}"));
        cluster.verdict(&packet(&cluster, "a/front > b/front tcp/80")).to_string()
    };
    let rows = [
        ("", OPEN),
        ("policy c/deny {}", OPEN),
        (
            r#"policy b/deny {"podSelector": {}, "policyTypes": ["Ingress"]}"#,
            "denied: from a/front: no policy selects it for egress; \
             to b/front: no ingress rule of b/deny opens this",
        ),
        (r#"policy a/deny {"podSelector": {}, "policyTypes": ["Ingress"]}"#, OPEN),
        (
            r#"policy b/allow {"ingress": [{}], "policyTypes": ["Ingress"]}
               policy b/deny {"policyTypes": ["Ingress"]}"#,
            "open: from a/front: no policy selects it for egress; \
             to b/front: ingress rule 1 of b/allow",
        ),
        (
            r#"policy a/deny {"podSelector": {}, "policyTypes": ["Egress"]}"#,
            "denied: from a/front: no egress rule of a/deny opens this; \
             to b/front: no policy selects it for ingress",
        ),
        (r#"policy b/deny {"podSelector": {}, "policyTypes": ["Egress"]}"#, OPEN),
        (
            r#"policy a/allow {"egress": [{}], "policyTypes": ["Egress"]}"#,
            "open: from a/front: egress rule 1 of a/allow; \
             to b/front: no policy selects it for ingress",
        ),
        (
            r#"policy a/deny {"policyTypes": ["Ingress", "Egress"]}
               policy b/deny {"policyTypes": ["Ingress", "Egress"]}"#,
            "denied: from a/front: no egress rule of a/deny opens this; \
             to b/front: no ingress rule of b/deny opens this",
        ),
        // Both must.
        (
            r#"policy a/allow {"egress": [{}], "policyTypes": ["Egress"]}
               policy b/deny {"policyTypes": ["Ingress"]}"#,
            "denied: from a/front: egress rule 1 of a/allow; \
             to b/front: no ingress rule of b/deny opens this",
        ),
    ];
    for (policies, expected) in rows {
        assert_eq!(sent(policies), expected, "{policies}");
    }
}

#[test]
fn directions_that_are_not_named_follow_from_the_rules() {
    let isolates = |spec: &str| {
        let cluster = cluster(&format!("{WORLD}policy a/p {spec}"));
        let open = |sent: &str| cluster.verdict(&packet(&cluster, sent)).is_open();
        (!open("8.8.8.8 > a/front tcp/80"), !open("a/front > 8.8.8.8 tcp/80"))
    };
    let elsewhere = r#"[{"to": [{"ipBlock": {"cidr": "9.9.9.9/32"}}]}]"#;
    for (spec, expected) in [
        ("{}".to_owned(), (true, false)),
        (r#"{"policyTypes": [], "egress": []}"#.to_owned(), (true, false)),
        (format!(r#"{{"egress": {elsewhere}}}"#), (true, true)),
        (format!(r#"{{"policyTypes": ["Egress"], "egress": {elsewhere}}}"#), (false, true)),
        (format!(r#"{{"policyTypes": ["Ingress"], "egress": {elsewhere}}}"#), (true, false)),
        (r#"{"policyTypes": ["Egress"], "ingress": [{}]}"#.to_owned(), (false, true)),
        (r#"{"policyTypes": ["Egress", "Ingress"]}"#.to_owned(), (true, true)),
        (r#"{"podSelector": {"matchLabels": {"role": "db"}}}"#.to_owned(), (false, false)),
    ] {
        assert_eq!(isolates(&spec), expected, "{spec}");
    }
}

#[test]
fn policies_add_up_and_the_first_that_opens_is_named() {
    let policies = r#"
        policy a/none {"podSelector": {}}
        policy a/sql {"ingress": [{"ports": [{"port": 1}]}, {"ports": [{"port": "sql"}]}]}
        policy a/web {"ingress": [{"ports": [{"port": 80}]}]}
        policy b/any {"ingress": [{}]}"#;
    table(
        &format!("{WORLD}{policies}"),
        &[
            (
                "8.8.8.8 > a/db tcp/80",
                "open: from 8.8.8.8: no pod; to a/db: ingress rule 1 of a/web",
            ),
            (
                "8.8.8.8 > a/db tcp/6379",
                "open: from 8.8.8.8: no pod; to a/db: ingress rule 2 of a/sql",
            ),
            (
                "8.8.8.8 > a/db tcp/443",
                "denied: from 8.8.8.8: no pod; \
             to a/db: no ingress rule of a/none, a/sql, a/web opens this",
            ),
        ],
    );
}

#[test]
fn a_name_in_egress_is_the_destinations() {
    let policy =
        r#"policy a/p {"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "sql"}]}]}"#;
    let cluster = cluster(&format!("{WORLD}{policy}"));
    let open = |sent: &str| cluster.verdict(&packet(&cluster, sent)).is_open();
    assert!(open("a/front > a/db tcp/6379") && open("a/front > a/other tcp/5432"));
    assert!(!open("a/front > a/db tcp/5432") && !open("a/db > a/front tcp/6379"));
    assert!(!open("a/front > 8.8.8.8 tcp/6379"), "it has no names");
}

#[test]
fn a_pod_its_node_and_itself() {
    let deny = r#"policy a/p {"policyTypes": ["Ingress", "Egress"]}"#;
    table(
        &format!("{WORLD}{deny}"),
        &[
            ("a/db > a/db tcp/80", "open: from a/db: the pod itself; to a/db: the pod itself"),
            ("a/db > 192.0.2.1 tcp/80", "open: from a/db: n1 is its node; to 192.0.2.1: no pod"),
            (
                "2001:db8::1 > fd00::1 icmp",
                "open: from 2001:db8::1: no pod; to a/db: n1 is its node",
            ),
            (
                "192.0.2.2 > a/db tcp/80",
                "denied: from 192.0.2.2: no pod; to a/db: no ingress rule of a/p opens this",
            ),
            (
                "a/db > 192.0.2.2 tcp/80",
                "denied: from a/db: no egress rule of a/p opens this; to 192.0.2.2: no pod",
            ),
            ("192.0.2.2 > 192.0.2.1 tcp/80", "open: from 192.0.2.2: no pod; to 192.0.2.1: no pod"),
        ],
    );
}

/// c/host is in its node's network: neither selected nor a peer, whatever its labels.
#[test]
fn a_pod_without_an_address_of_its_own_is_nobody() {
    let deny = r#"policy c/p {"policyTypes": ["Ingress", "Egress"]}"#;
    let cluster = cluster(&format!("{WORLD}{deny}"));
    let verdict = cluster.verdict(&packet(&cluster, "192.0.2.2 > 8.8.8.8 tcp/80"));
    assert_eq!(verdict.to_string(), "open: from 192.0.2.2: no pod; to 8.8.8.8: no pod");
    let clients = r#"{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "client"}}}]}"#;
    opens(clients, &[("c/client > a/db tcp/80", true), ("192.0.2.2 > a/db tcp/80", false)]);
}

#[test]
fn operators() {
    let labels = labels("app=web,tier=");
    let rows = [
        ("app", "In", r#"["web", "db"]"#, true),
        ("app", "In", r#"["db"]"#, false),
        ("none", "In", r#"["web", ""]"#, false),
        ("tier", "In", r#"[""]"#, true),
        ("app", "NotIn", r#"["web"]"#, false),
        ("app", "NotIn", r#"["db"]"#, true),
        ("none", "NotIn", r#"["web"]"#, true),
        ("tier", "Exists", "[]", true),
        ("none", "Exists", "[]", false),
        ("app", "DoesNotExist", "[]", false),
        ("none", "DoesNotExist", "[]", true),
    ];
    for (key, operator, values, expected) in rows {
        let one = format!(r#"{{"key": "{key}", "operator": "{operator}", "values": {values}}}"#);
        let is = |text: &str| selects(&serde_json::from_str(text).unwrap(), &labels);
        assert_eq!(is(&format!(r#"{{"matchExpressions": [{one}]}}"#)), expected, "{one}");
        // With others: all of them.
        let both = |app: &str| {
            is(&format!(r#"{{"matchLabels": {{"app": "{app}"}}, "matchExpressions": [{one}]}}"#))
        };
        assert_eq!((both("web"), both("db")), (expected, false), "{one}");
    }
}
