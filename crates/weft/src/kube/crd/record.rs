//! `Record`: whatever of the store's records users do not write. Opaque, and each under one name.

use serde_json::{Value, json};

use crate::store::kubernetes::{GROUP, VERSION};

pub(super) fn definition() -> Value {
    let spec = json!({
        "type": "object",
        "required": ["key", "value"],
        "properties": {
            "key": {
                "type": "string",
                "maxLength": 512,
                "description": "The record's key, of which the object's name is made.",
                "x-kubernetes-validations": [
                    {"rule": "self == oldSelf", "message": "a record keeps its key"},
                ],
            },
            "value": {"type": "string", "description": "What nodes of weft tell each other: JSON."},
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("records.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "plural": "records",
                "singular": "record",
                "kind": "Record",
                "listKind": "RecordList",
                "shortNames": ["wrec"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    {"name": "Key", "type": "string", "jsonPath": ".spec.key"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "What nodes of weft tell each other. Nodes write them; what is \
                                    deleted or changed by hand they make good.",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                    },
                }},
            }],
        },
    })
}
