//! What policies mean, as a table; and that a firewall changed step by step is the one made from nothing.

mod meaning;
mod scratch;
mod steps;

use ipnet::IpNet;

use super::*;
use crate::policy::cluster::NamedPort;

fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName { namespace: namespace.into(), name: name.into() }
}

/// `a=b c=d`.
fn labels<'a>(words: impl IntoIterator<Item = &'a str>) -> Labels {
    let pairs = words.into_iter().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

/// `10.0.0.1,fd00::1 app=web http:TCP:80`: addresses, labels, ports with a name.
fn pod(text: &str) -> Pod {
    let addrs = text.split(' ').filter(|word| !word.contains('=')).flat_map(|w| w.split(','));
    let ports = text.split(' ').filter_map(|word| {
        let [name, protocol, port] = word.split(':').collect::<Vec<_>>()[..] else { return None };
        let protocol = serde_json::from_value(protocol.into()).ok()?;
        Some(NamedPort { name: name.into(), protocol, port: port.parse().ok()? })
    });
    Pod {
        labels: labels(text.split(' ')).into(),
        addrs: addrs.filter_map(|addr| addr.parse().ok()).collect(),
        ports: ports.collect(),
        ..Pod::default()
    }
}
