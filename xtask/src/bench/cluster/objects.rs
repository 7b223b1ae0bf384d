//! The objects of the cluster as the API server writes them, in JSON. None is kept: each is made when it
//! is asked for.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{
    Cluster,
    index::{APPS, SPECS, addrs, name, namespace},
};
use crate::bench::scale::block;

/// The node whose agent is measured.
pub const NODE: &str = "bench";
/// A pod as a Deployment makes it, with what the server keeps of who wrote which field.
const POD: &str = include_str!("pod.json");

pub fn node_name(n: u32) -> String {
    if n == 0 { NODE.into() } else { format!("node-{n}") }
}

pub fn node(n: u32, revision: u64) -> String {
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": node_metadata(n, revision),
        "spec": {}, "status": {"nodeInfo": {"kubeletVersion": "v1.36.2"}},
    })
    .to_string()
}

/// Nothing but metadata.
pub fn node_partial(n: u32, revision: u64) -> String {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": node_metadata(n, revision),
    })
    .to_string()
}

fn node_metadata(n: u32, revision: u64) -> Value {
    let labels = json!({
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": node_name(n),
        "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": format!("zone-{}", n % 3),
    });
    let fields = json!({"f:metadata": {"f:annotations": {".": {}, "f:volumes.kubernetes.io/controller-managed-attach-detach": {}}, "f:labels": {".": {}, "f:kubernetes.io/arch": {}, "f:kubernetes.io/hostname": {}, "f:kubernetes.io/os": {}}}});
    json!({
        "name": node_name(n), "uid": format!("10000000-0000-0000-0000-{n:012}"),
        "resourceVersion": revision.to_string(), "creationTimestamp": "2026-11-01T00:00:00Z",
        "labels": labels,
        "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        "managedFields": [{
            "manager": "kubelet", "operation": "Update", "apiVersion": "v1",
            "time": "2026-11-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields,
        }],
    })
}

/// Pods of the measured node are yet to be attached.
pub fn pod(asked: &Cluster, n: u32, revision: u64, runs: bool) -> String {
    let name = name(asked, n);
    let node = n % u32::from(asked.nodes);
    let app = n / asked.namespaces % APPS;
    let [v4, v6] = if node == 0 { Default::default() } else { pod_addrs(asked, n) };
    let phase = match (node, runs) {
        (0, _) => "Pending",
        (_, true) => "Running",
        (_, false) => "Succeeded",
    };
    let value = |field: &str| match field {
        "name" => name.name.to_string(),
        "namespace" => name.namespace.to_string(),
        "uid" => uid(n),
        "revision" => revision.to_string(),
        "app" => format!("app-{app}"),
        "tier" => if app < 5 { "front" } else { "back" }.to_owned(),
        "hash" => format!("{:08x}", app * 77 + n % asked.namespaces),
        "node" => node_name(node),
        "v4" => v4.clone(),
        "v6" => v6.clone(),
        _ => phase.to_owned(),
    };
    // Texts and names of fields by turns.
    let parts = POD.trim_end().split('@').enumerate();
    let parts = parts.map(|(at, part)| if at % 2 == 0 { part.to_owned() } else { value(part) });
    parts.collect()
}

pub fn uid(n: u32) -> String {
    format!("00000000-0000-0000-0000-{n:012}")
}

fn pod_addrs(asked: &Cluster, n: u32) -> [String; 2] {
    let nodes = u32::from(asked.nodes);
    let of_node = block(u16::try_from(n % nodes).unwrap_or(0));
    let v4 = Ipv4Addr::from(u32::from(of_node) + 2 + n / nodes);
    [v4.to_string(), addrs(n)[1].to_string()]
}

pub fn namespace_object(n: u32, revision: u64) -> String {
    json!({
        "kind": "Namespace", "apiVersion": "v1",
        "metadata": {
            "name": format!("ns-{n}"), "uid": format!("20000000-0000-0000-0000-{n:012}"),
            "resourceVersion": revision.to_string(), "labels": namespace(n),
        },
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    })
    .to_string()
}

pub fn policy(asked: &Cluster, n: u32, revision: u64) -> String {
    let (namespace, which) = (n % asked.namespaces, n / asked.namespaces);
    format!(
        r#"{{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1","metadata":{{"name":"policy-{which}","namespace":"ns-{namespace}","uid":"30000000-0000-0000-0000-{n:012}","resourceVersion":"{revision}","generation":1}},"spec":{}}}"#,
        SPECS[which as usize % SPECS.len()]
    )
}

pub fn network(revision: u64) -> String {
    json!({
        "kind": "Network", "apiVersion": "weft.network/v1",
        "metadata": {
            "name": "default", "uid": "40000000-0000-0000-0000-000000000000",
            "resourceVersion": revision.to_string(), "generation": 1,
        },
        "spec": {"ranges": ["10.0.0.0/8"], "default": true},
    })
    .to_string()
}

pub fn record(name: &str, key: &str, value: &str, revision: u64) -> String {
    json!({
        "kind": "Record", "apiVersion": "weft.network/v1",
        "metadata": {"name": name, "resourceVersion": revision.to_string(), "generation": 1},
        "spec": {"key": key, "value": value},
    })
    .to_string()
}
