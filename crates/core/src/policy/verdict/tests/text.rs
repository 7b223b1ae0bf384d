//! Clusters and packets as lines of text.

use std::sync::Arc;

use super::super::{Cluster, Packet};
use crate::policy::{
    cluster::{Labels, NamedPort, ObjectName, Pod},
    spec::Protocol,
};

/// A cluster in lines: `node NAME ADDR…`, `ns NAME LABELS`, `pod NS/NAME NODE LABELS ADDR… NAME=tcp/80…`
/// (labels `a=1,b=2` or `-`), `policy NS/NAME SPEC`.
pub fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster::default();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (name, rest) = rest.split_once(' ').unwrap();
        match kind {
            "node" => {
                let addrs = rest.split(' ').map(|addr| addr.parse().unwrap()).collect();
                cluster.nodes.insert(name.parse().unwrap(), addrs);
            }
            "ns" => _ = cluster.namespaces.insert(name.into(), labels(rest)),
            "pod" => _ = cluster.pods.insert(object(name), pod(name, rest)),
            "policy" => {
                let spec = serde_json::from_str(rest).unwrap_or_else(|e| panic!("{rest}: {e}"));
                cluster.policies.insert(object(name), spec);
            }
            other => panic!("{other}?"),
        }
    });
    cluster
}

fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName { namespace: namespace.into(), name: name.into() }
}

pub fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

fn pod(uid: &str, text: &str) -> Pod {
    let words: Vec<_> = text.split(' ').collect();
    let (ports, addrs) = words[2..].iter().partition::<Vec<&str>, _>(|word| word.contains('='));
    let named = |text: &str| {
        let (name, port) = text.split_once('=').unwrap();
        let (protocol, port) = to_port(port).unwrap();
        NamedPort { name: name.into(), protocol, port }
    };
    Pod {
        uid: uid.into(),
        labels: Arc::new(labels(words[1])),
        addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
        node: words[0].parse().ok(),
        ports: ports.into_iter().map(named).collect(),
    }
}

fn to_port(text: &str) -> Option<(Protocol, u16)> {
    let (protocol, port) = text.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => panic!("{other}?"),
    };
    Some((protocol, port.parse().unwrap()))
}

/// `NS/POD > ADDR tcp/80`: pods by their first address.
pub fn packet(cluster: &Cluster, text: &str) -> Packet {
    let [from, ">", to, port] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let addr = |text: &str| match text.parse() {
        Ok(addr) => addr,
        Err(_) => cluster.pods[&object(text)].addrs[0],
    };
    Packet { source: addr(from), destination: addr(to), port: to_port(port) }
}
