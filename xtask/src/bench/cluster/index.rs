//! Policies of a large cluster, as one node's agent holds them: memory of the index, and what one pod's change
//! takes, beside making the same anew.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::id,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use weft_core::policy::{
    cluster::{Labels, NamedPort, ObjectName, Pod},
    index::Index,
    spec::{PolicySpec, Protocol},
};

use super::Cluster;
use crate::bench::resident_kb;

/// Applications of a namespace.
pub const APPS: u32 = 10;
/// What policies of a namespace say, one after the other.
pub const SPECS: [&str; 20] = [
    r#"{"podSelector":{},"policyTypes":["Ingress","Egress"]}"#,
    r#"{"podSelector":{},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"app-0"}}}],"ports":[{"port":"http"}]}]}"#,
    r#"{"podSelector":{},"egress":[{"to":[{"namespaceSelector":{"matchLabels":{"name":"ns-0"}},"podSelector":{"matchLabels":{"app":"app-1"}}}],"ports":[{"port":53,"protocol":"UDP"},{"port":53}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-0"}},"ingress":[{"from":[{"ipBlock":{"cidr":"0.0.0.0/0","except":["10.0.0.0/8","169.254.0.0/16"]}}],"ports":[{"port":443}]}]}"#,
    r#"{"podSelector":{},"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"team":"team-1"}},"podSelector":{"matchLabels":{"app":"app-2"}}}],"ports":[{"port":9100}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-1"}},"ingress":[{"from":[{"podSelector":{}}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-2"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"app-1"}}}],"ports":[{"port":5432}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-3"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"app-1"}}}],"ports":[{"port":6379}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-4"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"app-3"}}}],"ports":[{"port":8000,"endPort":8100}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-5"}},"ingress":[{"from":[{"podSelector":{"matchExpressions":[{"key":"app","operator":"In","values":["app-1","app-2"]}]}}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-6"}},"ingress":[{"from":[{"podSelector":{"matchExpressions":[{"key":"app","operator":"NotIn","values":["app-1"]}]}}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-7"}},"egress":[{"to":[{"podSelector":{"matchLabels":{"app":"app-2"}}}],"ports":[{"port":"http"}]}],"policyTypes":["Egress"]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-8"}},"egress":[{"to":[{"ipBlock":{"cidr":"192.0.2.0/24"}}]}],"policyTypes":["Egress"]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-9"}},"egress":[{}],"policyTypes":["Egress"]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-1"}},"ingress":[{"ports":[{"port":80},{"port":443}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-2"}},"ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"team":"team-2"}}}],"ports":[{"port":5432}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"app":"app-3"}},"ingress":[{"from":[{"namespaceSelector":{}}],"ports":[{"port":80}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"tier":"back"}},"ingress":[{"from":[{"podSelector":{"matchLabels":{"tier":"front"}}}]}]}"#,
    r#"{"podSelector":{"matchLabels":{"tier":"front"}},"egress":[{"to":[{"podSelector":{"matchLabels":{"tier":"back"}}}]}],"policyTypes":["Egress"]}"#,
    r#"{"podSelector":{},"egress":[{"to":[{"ipBlock":{"cidr":"203.0.113.0/24"}}],"ports":[{"port":443}]}],"policyTypes":["Egress"]}"#,
];

pub fn index(asked: &Cluster) -> anyhow::Result<()> {
    let before = resident_kb(id())?;
    let start = Instant::now();
    let mut index = Index::default();
    fill(asked, &mut index)?;
    let first = index.changes();
    let anew = start.elapsed();
    let kilobytes = resident_kb(id())? - before;
    let entries: usize = index.firewall().lists.values().map(|list| list.entries.len()).sum();
    drop(first);
    let (changes, touched) = churn(asked, &mut index);
    let joined = join(asked, &mut index);
    let lists = index.firewall().lists.len();
    report(asked, &Figures { anew, kilobytes, lists, entries, changes, touched, joined });
    Ok(())
}

struct Figures {
    anew: Duration,
    kilobytes: f64,
    lists: usize,
    entries: usize,
    changes: Vec<Duration>,
    touched: usize,
    joined: Duration,
}

fn fill(asked: &Cluster, index: &mut Index) -> anyhow::Result<()> {
    for n in 0..asked.namespaces {
        index.namespace(&format!("ns-{n}"), Some(namespace(n)));
    }
    for n in 0..asked.policies {
        let (namespace, which) = (n % asked.namespaces, n / asked.namespaces);
        let text = SPECS[which as usize % SPECS.len()];
        let spec: PolicySpec = serde_json::from_str(text)?;
        index.policy(&object(&format!("ns-{namespace}"), &format!("policy-{which}")), Some(spec));
    }
    for n in 0..asked.local {
        let at = local(asked, n);
        index.local(&name(asked, at), &addrs(at));
    }
    for n in 0..asked.pods {
        index.pod(&name(asked, n), Some(pod(asked, n, true)));
    }
    Ok(())
}

/// Pods end and others start in their place, one after the other, all over the cluster.
fn churn(asked: &Cluster, index: &mut Index) -> (Vec<Duration>, usize) {
    let (mut took, mut touched) = (Vec::new(), 0);
    for n in 0..asked.changes / 2 {
        let at = n.wrapping_mul(2_654_435_761) % asked.pods;
        for there in [false, true] {
            let (name, pod) = (name(asked, at), pod(asked, at, there));
            let start = Instant::now();
            index.pod(&name, Some(pod));
            let changed = index.changes();
            took.push(start.elapsed());
            touched += usize::from(!changed.is_empty());
        }
    }
    took.sort_unstable();
    (took, touched)
}

/// One more pod of this node.
fn join(asked: &Cluster, index: &mut Index) -> Duration {
    let at = local(asked, asked.local);
    let start = Instant::now();
    index.local(&name(asked, at), &addrs(at));
    index.changes();
    start.elapsed()
}

fn local(asked: &Cluster, n: u32) -> u32 {
    n * (asked.pods / (asked.local + 1))
}

pub fn namespace(n: u32) -> Labels {
    let pairs = [("name", format!("ns-{n}")), ("team", format!("team-{}", n % 50))];
    pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

pub fn name(asked: &Cluster, n: u32) -> ObjectName {
    let namespace = n % asked.namespaces;
    let (app, hash) = (n / asked.namespaces % APPS, n.wrapping_mul(2_654_435_761));
    object(&format!("ns-{namespace}"), &format!("app-{app}-5d78c9869d-{hash:08x}"))
}

fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.into(), name: name.into() }
}

/// As it comes from the API: it has nothing in common with others in memory.
fn pod(asked: &Cluster, n: u32, runs: bool) -> Pod {
    let app = n / asked.namespaces % APPS;
    let labels = [
        ("app", format!("app-{app}")),
        ("tier", if app < 5 { "front" } else { "back" }.to_owned()),
        ("pod-template-hash", format!("{:08x}", app * 77 + n % asked.namespaces)),
        ("app.kubernetes.io/instance", format!("app-{app}-ns-{}", n % asked.namespaces)),
    ];
    let labels: Labels =
        labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let port = NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 };
    Pod {
        uid: format!("00000000-0000-0000-0000-{n:012}").into(),
        labels: Arc::new(labels),
        addrs: if runs { addrs(n) } else { Vec::new() },
        ports: vec![port],
        ..Pod::default()
    }
}

pub fn addrs(n: u32) -> Vec<IpAddr> {
    let v4 = Ipv4Addr::from(0x0a00_0000 + n * 3);
    let v6 = Ipv6Addr::from((0xfd00_u128 << 112) + u128::from(n) * 3);
    vec![v4.into(), v6.into()]
}

fn report(asked: &Cluster, figures: &Figures) {
    let Figures { anew, kilobytes, lists, entries, changes, touched, joined } = figures;
    let mean = changes.iter().sum::<Duration>() / u32::try_from(changes.len().max(1)).unwrap_or(1);
    let at = |per_mille: usize| changes.get(changes.len() * per_mille / 1000).copied();
    let p99 = at(990).unwrap_or_default();
    let most = changes.last().copied().unwrap_or_default();
    let megabytes = kilobytes / 1024.0;
    println!(
        "{} pods and {} policies in {} namespaces, {} pods here: {lists} lists, {entries} entries",
        asked.pods, asked.policies, asked.namespaces, asked.local
    );
    println!("all anew {anew:.2?}, resident {megabytes:.0} MB; one more pod here {joined:.1?}");
    println!(
        "one pod's change {mean:.1?} on average, {p99:.1?} for 99 of 100, at most {most:.1?}; \
         {touched} of {} changed a list; a hundred a second take {:.3} % of a core",
        changes.len(),
        mean.as_secs_f64() * 100.0 * 100.0
    );
    if asked.json {
        let micros = |time: &Duration| time.as_secs_f64() * 1e6;
        println!(
            "{}",
            json!({
                "anew_micros": micros(anew), "resident_kb": kilobytes, "lists": lists,
                "entries": entries, "change_micros": micros(&mean), "change_micros_99": micros(&p99),
                "change_micros_most": micros(&most), "joined_micros": micros(joined),
            })
        );
    }
}
