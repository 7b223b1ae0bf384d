//! What Kubernetes' documentation says, sentence by sentence.

use super::*;
use crate::policy::spec::Protocol;

const NAMESPACES: [&str; 3] = ["a team=red", "b team=red env=prod", "c"];

const PODS: [&str; 8] = [
    "a/web 10.0.0.1 app=web http:TCP:80 dns:UDP:53 dns:TCP:5353",
    "a/db 10.0.0.2,fd00::2 app=db tier=back http:TCP:8080",
    "a/bare 10.0.0.3",
    "b/web 10.0.1.1 app=web http:TCP:81",
    "b/db 10.0.1.2 app=db tier=back",
    "c/web 10.0.2.1 app=web",
    // It has ended, or is in the node's network.
    "c/gone app=web",
    "c/sctp 10.0.2.4 app=sctp http:SCTP:99",
];

/// A cluster with these policies in namespace `a`, on the node of `a/web`.
fn index(specs: &[&str]) -> Index {
    let mut index = Index::default();
    for text in NAMESPACES {
        let (name, text) = text.split_once(' ').unwrap_or((text, ""));
        index.namespace(name, Some(labels(text.split(' '))));
    }
    for text in PODS {
        let (is, text) = text.split_once(' ').unwrap();
        index.pod(&name(is), Some(pod(text)));
    }
    index.local(&name("a/web"), &["10.0.0.1".parse().unwrap()]);
    for (n, spec) in specs.iter().enumerate() {
        let spec = serde_json::from_str(spec).unwrap();
        index.policy(&name(&format!("a/p{n}")), Some(spec));
    }
    index
}

/// What policies come to for `a/web`.
fn meaning(specs: &[&str]) -> String {
    let index = index(specs);
    let flaws = index.impossible();
    let flaws = flaws.values().flatten().map(Impossible::to_string);
    let lists =
        [("in", Direction::Ingress), ("out", Direction::Egress)].map(|(word, direction)| {
            let Some(list) = index.list(&name("a/web"), direction) else {
                return format!("{word}: *");
            };
            let list = &index.firewall().lists[&list];
            let entries: Vec<String> = list.entries.iter().map(ToString::to_string).collect();
            format!("{word}: {}", entries.join(", "))
        });
    lists.into_iter().chain(flaws).map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("; ")
}

fn check(cases: &[(&str, &[&str], &str)]) {
    for (what, specs, want) in cases {
        assert_eq!(meaning(specs), *want, "{what}: {specs:#?}");
    }
}

#[test]
fn who_is_selected_in_which_direction() {
    check(&[
        ("no policy", &[], "in: *; out: *"),
        ("an empty selector selects all", &[r#"{"podSelector":{}}"#], "in:; out: *"),
        ("a missing one too", &["{}"], "in:; out: *"),
        ("another pod", &[r#"{"podSelector":{"matchLabels":{"app":"db"}}}"#], "in: *; out: *"),
        ("egress rules make it speak of egress", &[r#"{"egress":[{}]}"#], "in:; out: all"),
        ("no egress rules do not", &[r#"{"egress":[]}"#], "in:; out: *"),
        ("said: egress alone", &[r#"{"policyTypes":["Egress"]}"#], "in: *; out:"),
        (
            "rules of a direction that is not said",
            &[r#"{"policyTypes":["Ingress"],"egress":[{}]}"#],
            "in:; out: *",
        ),
        ("both, and nothing", &[r#"{"policyTypes":["Ingress","Egress"]}"#], "in:; out:"),
        ("a rule for all", &[r#"{"ingress":[{}]}"#], "in: all; out: *"),
        (
            "a rule for all, in full",
            &[r#"{"ingress":[{"from":[],"ports":[]}]}"#],
            "in: all; out: *",
        ),
        ("policies are a union", &["{}", r#"{"ingress":[{}]}"#], "in: all; out: *"),
        (
            "each direction by itself",
            &[r#"{"policyTypes":["Egress"],"egress":[{"ports":[{"port":53}]}]}"#, "{}"],
            "in:; out: all tcp 53",
        ),
    ]);
}

#[test]
fn peers() {
    check(&[
        (
            "pods of the policy's namespace",
            &[r#"{"ingress":[{"from":[{"podSelector":{}}]}]}"#],
            "in: 10.0.0.1, 10.0.0.2, 10.0.0.3, fd00::2; out: *",
        ),
        (
            "all pods of some namespaces",
            &[r#"{"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"env":"prod"}}}]}]}"#],
            "in: 10.0.1.1, 10.0.1.2; out: *",
        ),
        (
            "all namespaces",
            &[
                r#"{"ingress":[{"from":[{"namespaceSelector":{},"podSelector":{"matchLabels":{"app":"web"}}}]}]}"#,
            ],
            "in: 10.0.0.1, 10.0.1.1, 10.0.2.1; out: *",
        ),
        (
            "two selectors in one peer: both",
            &[
                r#"{"egress":[{"to":[{"namespaceSelector":{"matchLabels":{"team":"red"}},"podSelector":{"matchLabels":{"app":"db"}}}]}]}"#,
            ],
            "in:; out: 10.0.0.2, 10.0.1.2, fd00::2",
        ),
        (
            "two peers: either",
            &[
                r#"{"egress":[{"to":[{"namespaceSelector":{"matchLabels":{"env":"prod"}}},{"podSelector":{"matchLabels":{"app":"db"}}}]}]}"#,
            ],
            "in:; out: 10.0.0.2, 10.0.1.1, 10.0.1.2, fd00::2",
        ),
        (
            "nobody is chosen",
            &[r#"{"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"none"}}}]}]}"#],
            "in:; out: *",
        ),
    ]);
}

#[test]
fn operators() {
    let with = |operator: &str| {
        format!(
            r#"{{"ingress":[{{"from":[{{"podSelector":{{"matchExpressions":[{operator}]}}}}]}}]}}"#
        )
    };
    let cases = [
        (r#"{"key":"app","operator":"In","values":["db","x"]}"#, "10.0.0.2, fd00::2"),
        (r#"{"key":"app","operator":"NotIn","values":["db"]}"#, "10.0.0.1, 10.0.0.3"),
        (r#"{"key":"tier","operator":"Exists"}"#, "10.0.0.2, fd00::2"),
        (r#"{"key":"tier","operator":"DoesNotExist"}"#, "10.0.0.1, 10.0.0.3"),
        (
            r#"{"key":"app","operator":"Exists"},{"key":"app","operator":"NotIn","values":["db"]}"#,
            "10.0.0.1",
        ),
    ];
    for (operator, want) in cases {
        assert_eq!(meaning(&[&with(operator)]), format!("in: {want}; out: *"), "{operator}");
    }
}

#[test]
fn blocks_of_addresses() {
    let block = |block: &str| format!(r#"{{"ingress":[{{"from":[{{"ipBlock":{block}}}]}}]}}"#);
    let cases = [
        (r#"{"cidr":"10.0.0.0/8"}"#, "10.0.0.0/8"),
        (r#"{"cidr":"10.1.2.3/8"}"#, "10.0.0.0/8"),
        (r#"{"cidr":"10.1.2.3/32"}"#, "10.1.2.3"),
        (r#"{"cidr":"0.0.0.0/0"}"#, "0.0.0.0/0"),
        (r#"{"cidr":"::/0","except":["8000::/1"]}"#, "::/1"),
        (r#"{"cidr":"10.0.0.0/30","except":["10.0.0.2/32"]}"#, "10.0.0.0/31, 10.0.0.3"),
        (r#"{"cidr":"10.0.0.0/30","except":["10.0.0.1/31"]}"#, "10.0.0.2/31"),
        (
            r#"{"cidr":"10.0.0.0/29","except":["10.0.0.0/31","10.0.0.6/31","10.0.0.0/32"]}"#,
            "10.0.0.2/31, 10.0.0.4/31",
        ),
        (r#"{"cidr":"fd00::/126","except":["fd00::/128"]}"#, "fd00::1, fd00::2/127"),
    ];
    for (text, want) in cases {
        assert_eq!(meaning(&[&block(text)]), format!("in: {want}; out: *"), "{text}");
    }
}

#[test]
fn ports() {
    let ingress = |ports: &str| format!(r#"{{"ingress":[{{"ports":[{ports}]}}]}}"#);
    let cases = [
        ("{}", "all tcp"),
        (r#"{"protocol":"UDP"}"#, "all udp"),
        (r#"{"port":80}"#, "all tcp 80"),
        (r#"{"port":80,"protocol":"SCTP"}"#, "all sctp 80"),
        (r#"{"port":80,"endPort":90}"#, "all tcp 80-90"),
        (r#"{"port":80,"endPort":80}"#, "all tcp 80"),
        (r#"{"port":80},{"port":81},{"port":83}"#, "all tcp 80-81, all tcp 83"),
        (r#"{"port":80,"endPort":90},{"port":85,"endPort":99}"#, "all tcp 80-99"),
        (r#"{"port":"http"}"#, "all tcp 80"),
        (r#"{"port":"dns","protocol":"UDP"}"#, "all udp 53"),
        (r#"{"port":"dns"}"#, "all tcp 5353"),
        (r#"{"port":"none"}"#, ""),
        (r#"{"port":"http","protocol":"UDP"}"#, ""),
    ];
    for (ports, want) in cases {
        assert_eq!(
            meaning(&[&ingress(ports)]),
            format!("in: {want}; out: *").replace(" ;", ";"),
            "{ports}"
        );
    }
}

#[test]
fn ports_with_a_name_are_those_of_the_destination() {
    check(&[
        (
            "of each peer",
            &[
                r#"{"egress":[{"to":[{"namespaceSelector":{"matchLabels":{"team":"red"}}}],"ports":[{"port":"http"}]}]}"#,
            ],
            "in:; out: 10.0.0.1 tcp 80, 10.0.0.2 tcp 8080, 10.0.1.1 tcp 81, fd00::2 tcp 8080",
        ),
        (
            "to everybody",
            &[r#"{"egress":[{"ports":[{"port":"http"},{"port":"http","protocol":"SCTP"}]}]}"#],
            "in:; out: 10.0.0.1 tcp 80, 10.0.0.2 tcp 8080, 10.0.1.1 tcp 81, 10.0.2.4 sctp 99, fd00::2 tcp 8080",
        ),
        (
            "to pods in a block",
            &[
                r#"{"egress":[{"to":[{"ipBlock":{"cidr":"10.0.1.0/24"}}],"ports":[{"port":"http"}]}]}"#,
            ],
            "in:; out: 10.0.1.1 tcp 81",
        ),
    ]);
}

#[test]
fn no_two_entries_have_a_packet_in_common() {
    check(&[
        (
            "a block and pods in it",
            &[
                r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/24"}}],"ports":[{"port":80,"endPort":90}]}]}"#,
                r#"{"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"db"}}}],"ports":[{"port":85,"endPort":95},{"port":70}]}]}"#,
            ],
            "in: 10.0.0.0/24 tcp 80-90, 10.0.0.2 tcp 70, 10.0.0.2 tcp 91-95, fd00::2 tcp 70, fd00::2 tcp 85-95; out: *",
        ),
        (
            "everything, and some of it",
            &[
                r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}]}]}"#,
                r#"{"ingress":[{"from":[{"podSelector":{}},{"ipBlock":{"cidr":"10.1.0.0/16"}},{"ipBlock":{"cidr":"11.0.0.0/8"}}],"ports":[{"port":80}]}]}"#,
            ],
            "in: 10.0.0.0/8, 11.0.0.0/8 tcp 80, fd00::2 tcp 80; out: *",
        ),
        (
            "ranges that cross",
            &[
                r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8"}}],"ports":[{"port":10,"endPort":20}]}]}"#,
                r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/9"}}],"ports":[{"port":15,"endPort":30}]}]}"#,
            ],
            "in: 10.0.0.0/8 tcp 10-20, 10.0.0.0/9 tcp 21-30; out: *",
        ),
        (
            "both families are everybody",
            &[
                r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"0.0.0.0/0"}},{"ipBlock":{"cidr":"::/0"}}]}]}"#,
            ],
            "in: all; out: *",
        ),
    ]);
}

#[test]
fn what_cannot_be_opens_nothing_and_says_why() {
    let ports = |entry: &str| format!(r#"{{"ingress":[{{"ports":[{entry},{{"port":7}}]}}]}}"#);
    let cases = [
        (r#"{"port":90,"endPort":80}"#, "endPort 80 is below port 90"),
        (
            r#"{"port":"http","endPort":80}"#,
            "endPort 80 can't go with the name `http`: a range begins with a number",
        ),
        (r#"{"endPort":80}"#, "endPort 80 stands without a port where the range begins"),
        (r#"{"port":0}"#, "port 0 is none: choose 1 to 65535"),
        (r#"{"port":""}"#, "a port's name is empty"),
        (r#"{"port":70000}"#, r#"{"port":70000}: a port is a number from 1 to 65535, or a name"#),
        (
            r#"{"port":1,"protocol":"DCCP"}"#,
            r#"{"port":1,"protocol":"DCCP"}: unknown variant `DCCP`, expected one of `TCP`, `UDP`, `SCTP`"#,
        ),
    ];
    for (entry, why) in cases {
        let want = format!(
            "in: all tcp 7; out: *; spec.ingress[0].ports[0]: {why}; this entry opens nothing"
        );
        assert_eq!(meaning(&[&ports(entry)]), want);
    }
    let alone = r#"{"ingress":[{"ports":[{"port":90,"endPort":80}]}]}"#;
    assert!(meaning(&[alone]).starts_with("in:; out: *;"), "an entry less is not a rule for all");
}

#[test]
fn peers_that_cannot_be_open_nothing_and_say_why() {
    let from = |entry: &str| {
        format!(r#"{{"ingress":[{{"from":[{entry},{{"ipBlock":{{"cidr":"1.1.1.1/32"}}}}]}}]}}"#)
    };
    let cases = [
        ("{}", "a peer is ipBlock, podSelector or namespaceSelector: it has none of them"),
        (
            r#"{"ipBlock":{"cidr":"10.0.0.0/8"},"podSelector":{}}"#,
            "ipBlock can't go with podSelector or namespaceSelector: make two peers of it",
        ),
        (
            r#"{"ipBlock":{"cidr":"10.0.0.0/8","except":["11.0.0.0/16"]}}"#,
            "except 11.0.0.0/16 is not inside of 10.0.0.0/8",
        ),
        (
            r#"{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.0.0.0/8"]}}"#,
            "except 10.0.0.0/8 is not inside of 10.0.0.0/8",
        ),
        (
            r#"{"ipBlock":{"cidr":"10.0.0.0/8","except":["fd00::/64"]}}"#,
            "except fd00::/64 is not inside of 10.0.0.0/8",
        ),
        (
            r#"{"ipBlock":{"cidr":"10.0.0.0"}}"#,
            r#"{"ipBlock":{"cidr":"10.0.0.0"}}: invalid IP address syntax"#,
        ),
        (
            r#"{"podSelector":{"matchExpressions":[{"key":"app","operator":"NotIn"}]}}"#,
            "app: In and NotIn need values, Exists and DoesNotExist take none",
        ),
    ];
    for (entry, why) in cases {
        let want = format!(
            "in: 1.1.1.1; out: *; spec.ingress[0].from[0]: {why}; this entry opens nothing"
        );
        assert_eq!(meaning(&[&from(entry)]), want);
    }
}

#[test]
fn what_could_not_be_read_is_no_more_open_after_it_was_written_down() {
    let spec = r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"x"}}],"ports":[{"port":70000}]}]}"#;
    let spec: PolicySpec = serde_json::from_str(spec).unwrap();
    let again = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<PolicySpec>(&again).unwrap(), spec);
}

#[test]
fn a_pod_that_the_cluster_does_not_know_is_closed_where_a_policy_might_select_it() {
    let mut index = Index::default();
    let addr = "10.0.0.9".parse().unwrap();
    index.local(&name("a/new"), &[addr]);
    index.policy(
        &name("a/web"),
        serde_json::from_str(r#"{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{}]}"#)
            .ok(),
    );
    let closed = index.list(&name("a/new"), Direction::Ingress).unwrap();
    assert_eq!(index.firewall().pods, [((Direction::Ingress, addr), closed)].into());
    assert!(index.firewall().lists[&closed].entries.is_empty());

    index.pod(&name("a/new"), Some(pod("app=db")));
    assert_eq!(index.firewall(), &Firewall::default());
    index.pod(&name("a/new"), Some(pod("app=web")));
    let open = index.list(&name("a/new"), Direction::Ingress).unwrap();
    assert_eq!(index.firewall().lists[&open].entries.len(), 1);
    index.local(&name("a/new"), &[]);
    assert_eq!(index.firewall(), &Firewall::default());
}

#[test]
fn pods_to_which_the_same_is_open_share_a_list() {
    let mut index = Index::default();
    let spec =
        r#"{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"ports":[{"port":"http"}]}]}"#;
    index.policy(&name("a/web"), serde_json::from_str(spec).ok());
    for (n, ports) in
        ["", "x:TCP:1", "http:TCP:80", "http:TCP:80 x:TCP:1", "http:TCP:81"].iter().enumerate()
    {
        let is = name(&format!("a/{n}"));
        index.pod(&is, Some(pod(&format!("app=web {ports}"))));
        index.local(&is, &[format!("10.0.0.{n}").parse().unwrap()]);
    }
    let list = |n: u8| index.list(&name(&format!("a/{n}")), Direction::Ingress).unwrap();
    assert_eq!(list(0), list(1));
    assert_eq!(list(2), list(3));
    assert_eq!(index.firewall().lists.len(), 3);
}

#[test]
fn who_asks_is_told_which_rule_it_is() {
    let index = index(&[
        r#"{"podSelector":{"matchLabels":{"app":"web"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"db"}}}],"ports":[{"port":"http"},{"port":443}]}]}"#,
        r#"{"ingress":[{"from":[{"ipBlock":{"cidr":"192.0.2.0/24"}}]}]}"#,
    ]);
    let cases = [
        ("a/web", "10.0.0.2", Some(80), "a/p0 spec.ingress[0] opens tcp 80"),
        (
            "a/web",
            "10.0.0.2",
            None,
            "a/p0 spec.ingress[0] opens tcp 80; a/p0 spec.ingress[0] opens tcp 443",
        ),
        ("a/web", "192.0.2.7", Some(99), "a/p1 spec.ingress[0] opens everything"),
        ("a/web", "10.0.0.2", Some(81), "dropped: it is open by no rule of a/p0, a/p1"),
        // Of another node too.
        ("a/db", "10.0.0.3", None, "dropped: it is open by no rule of a/p1"),
        ("b/web", "10.0.0.3", None, "no policy selects the pod"),
        (
            "a/new",
            "10.0.0.3",
            None,
            "dropped: the cluster does not know the pod, which may be selected by a/p0, a/p1",
        ),
    ];
    for (pod, from, port, want) in cases {
        let port = port.map(|port| (Protocol::Tcp, port));
        let said = index.judge(&name(pod), Direction::Ingress, from.parse().unwrap(), port);
        assert_eq!(said.to_string(), want, "{pod} {from} {port:?}");
    }
    assert_eq!(index.pod_at("10.0.1.2".parse().unwrap()), Some(name("b/db")));
    assert_eq!(index.pod_at("10.0.1.9".parse().unwrap()), None);
}
