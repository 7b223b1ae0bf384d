//! The definitions are what the API server takes: its rules of structural schemas, checked here.

use serde_json::Value;

use super::definitions;

/// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions
/// ("Specifying a structural schema").
fn check(path: &str, schema: &Value) {
    assert!(schema["type"].is_string(), "{path}: one type, not {}", schema["type"]);
    for word in
        ["oneOf", "anyOf", "allOf", "not", "$ref", "definitions", "const", "additionalProperties"]
    {
        assert!(schema.get(word).is_none(), "{path}: {word}");
    }
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        check(&format!("{path}.{name}"), of);
    }
    if schema["type"] == "array" {
        check(&format!("{path}[]"), &schema["items"]);
    }
}

#[test]
fn schemas_are_structural() {
    for definition in definitions() {
        let version = &definition["spec"]["versions"][0];
        check(
            definition["metadata"]["name"].as_str().unwrap(),
            &version["schema"]["openAPIV3Schema"],
        );
    }
}
