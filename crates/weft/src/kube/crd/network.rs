//! `Network`: what users write. `spec` is core's network; `status` says whether it is taken.

use serde_json::{Value, json};
use weft_core::network::Network;

use super::structural::structural;
use crate::store::kubernetes::{GROUP, VERSION};

/// What can't change under nodes and pods that have it, each with what is said then. An expression
/// gets the earlier network as `oldSelf`.
const KEPT: [(&str, &str); 7] = [
    ("self.attach == oldSelf.attach", "how pods attach"),
    ("self.ranges == oldSelf.ranges", "the ranges"),
    ("self.?blockPrefix4 == oldSelf.?blockPrefix4", "blockPrefix4"),
    ("self.?blockPrefix6 == oldSelf.?blockPrefix6", "blockPrefix6"),
    ("self.?hostAccess.orValue(true) == oldSelf.?hostAccess.orValue(true)", "hostAccess"),
    (
        "(has(self.join.discovery) && self.join.discovery == 'multicast') == \
         (has(oldSelf.join.discovery) && oldSelf.join.discovery == 'multicast') && \
         (self.join.kind == 'vxlan-bridged') == (oldSelf.join.kind == 'vxlan-bridged')",
        "how far a segment reaches and how nodes find each other",
    ),
    (
        "(has(self.join.addresses) && self.join.addresses == 'dhcp') == \
         (has(oldSelf.join.addresses) && oldSelf.join.addresses == 'dhcp')",
        "who gives addresses",
    ),
];

/// What goes together, as far as it is said in a word; core says all of it.
const TOGETHER: [(&str, &str); 3] = [
    (
        "(self.attach.kind == 'macvlan' || self.attach.kind == 'ipvlan' && \
         self.attach.?mode.orValue('l2') == 'l2') == (self.join.kind == 'underlay')",
        "attach macvlan and ipvlan mode l2 go with join underlay, and nothing else does",
    ),
    (
        "self.join.kind != 'vxlan-bridged' || self.attach.kind == 'bridge'",
        "join vxlan-bridged is one bridge over all nodes and needs attach bridge",
    ),
    (
        "self.?hostAccess.orValue(true) || self.join.kind in ['vxlan-bridged', 'underlay']",
        "hostAccess false is for joins vxlan-bridged and underlay alone",
    ),
];

pub(super) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("networks.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "plural": "networks",
                "singular": "network",
                "kind": "Network",
                "listKind": "NetworkList",
                "shortNames": ["wnet"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Attach", "type": "string", "jsonPath": ".spec.attach.kind"},
                    {"name": "Join", "type": "string", "jsonPath": ".spec.join.kind"},
                    {"name": "Ranges", "type": "string", "jsonPath": ".spec.ranges"},
                    {"name": "Default", "type": "boolean", "jsonPath": ".spec.default"},
                    {"name": "Accepted", "type": "string",
                     "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": schema()},
            }],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "A pod network: how pods attach, how nodes are joined, which addresses.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            }}},
            "spec": spec(),
            "status": status(),
        },
    })
}

fn spec() -> Value {
    let mut spec = structural::<Network>();
    // A kind is needed by whoever reads the object, though users may leave it out.
    spec["properties"]["attach"]["default"] = json!({"kind": "veth"});
    spec["properties"]["join"]["default"] = json!({"kind": "vxlan"});
    spec["properties"]["ranges"]["minItems"] = json!(1);
    spec["properties"]["ranges"]["maxItems"] = json!(2);
    let kept = KEPT.iter().map(|(rule, what)| {
        let message =
            format!("{what} can't change under nodes and pods that have it: make another network");
        json!({"rule": rule, "message": message})
    });
    let together = TOGETHER.iter().map(|(rule, message)| json!({"rule": rule, "message": message}));
    spec["x-kubernetes-validations"] = together.chain(kept).collect();
    spec
}

fn status() -> Value {
    let text = |most: u32| json!({"type": "string", "maxLength": most});
    json!({
        "type": "object",
        "properties": {"conditions": {
            "type": "array",
            "description": "`Accepted`: whether nodes serve the network, and why they do not.",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": text(316),
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": text(1024),
                    "message": text(32768),
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                },
            },
        }},
    })
}
