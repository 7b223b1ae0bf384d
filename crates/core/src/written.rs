//! What a person wrote and can't be read: which field of it is to blame. Reading itself does not know, since
//! a kind's fields (`kind: …`) are read only once the kind is known.

use std::fmt::Write;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Which kind of thing the fields beside it are of.
const KIND: &str = "kind";

/// Reads it. What is said of an error begins with the path of the field, as `join.gateway[0]`.
///
/// # Errors
/// Where a field is missing, or has a value that it can't have.
pub fn read<T: DeserializeOwned>(written: &Value) -> Result<T, String> {
    T::deserialize(written).map_err(|error| {
        let why = error.to_string();
        let (field, value) = misread::<T>(written, &why);
        // What is wrong with an address is not said with it.
        let value = value.as_str().filter(|value| !why.contains(value));
        let value = value.map(|value| format!(": {value:?}")).unwrap_or_default();
        if field.is_empty() { why } else { format!("{field}: {why}{value}") }
    })
}

/// The deepest value without which the error would be another, or none.
fn misread<'a, T: DeserializeOwned>(written: &'a Value, why: &str) -> (String, &'a Value) {
    let (mut path, mut at) = (String::new(), Vec::new());
    while let Some(step) = culprit::<T>(written, &at, why) {
        let dot = if path.is_empty() { "" } else { "." };
        let _ = match &step {
            Step::Field(name) => write!(path, "{dot}{name}"),
            Step::Item(n) => write!(path, "[{n}]"),
        };
        at.push(step);
    }
    (path, inner(written, &at).unwrap_or(written))
}

#[derive(Clone)]
enum Step {
    Field(String),
    Item(usize),
}

fn culprit<T: DeserializeOwned>(written: &Value, at: &[Step], why: &str) -> Option<Step> {
    let steps: Vec<Step> = match inner(written, at)? {
        Value::Object(fields) => fields.keys().cloned().map(Step::Field).collect(),
        Value::Array(items) => (0..items.len()).map(Step::Item).collect(),
        _ => return None,
    };
    let matters = |step: &Step| {
        let read = T::deserialize(&without(written, at, step));
        read.err().is_none_or(|error| error.to_string() != why)
    };
    let suspects: Vec<Step> = steps.into_iter().filter(matters).collect();
    // Without its kind, nothing of it is read at all.
    let is_kind = |step: &&Step| matches!(step, Step::Field(name) if name == KIND);
    // What is missing beside it is not its fault.
    let is_missing = why.starts_with("missing field");
    let by_kind = suspects.first().filter(|_| !is_missing);
    suspects.iter().find(|step| !is_kind(step)).or(by_kind).cloned()
}

fn inner<'a>(written: &'a Value, at: &[Step]) -> Option<&'a Value> {
    at.iter().try_fold(written, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Item(n) => value.get(*n),
    })
}

fn without(written: &Value, at: &[Step], step: &Step) -> Value {
    let mut whole = written.clone();
    let inner = at.iter().try_fold(&mut whole, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Item(n) => value.get_mut(*n),
    });
    match (inner, step) {
        (Some(Value::Object(fields)), Step::Field(name)) => _ = fields.remove(name),
        (Some(Value::Array(items)), Step::Item(n)) => _ = items.remove(*n),
        _ => {}
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn an_error_names_the_field_however_deep() {
        let lan = |more: &str| {
            format!(
                r#"{{"attach":{{"kind":"macvlan","parent":"eth1"{more}}},"ranges":["10.7.0.0/24"]}}"#
            )
        };
        let joined = |join: &str| format!(r#"{{"join":{join},"ranges":["10.7.0.0/24"]}}"#);
        let cases = [
            (
                r#"{"ranges":["10.7.0.0/24","10.7.0.0.0"]}"#.to_owned(),
                "ranges[1]: invalid IP address syntax: \"10.7.0.0.0\"",
            ),
            (r#"{"ranges":7}"#.to_owned(), "ranges: invalid type"),
            (r#"{"join":"vxlan"}"#.to_owned(), "missing field `ranges`"),
            (r#"{"ranges":[],"hostAccess":"no"}"#.to_owned(), "hostAccess: invalid type"),
            (lan(r#","mode":"brigde""#), "attach.mode: unknown variant `brigde`"),
            (lan(r#","vlan":"x""#), "attach.vlan: "),
            (r#"{"attach":{"kind":"macvlan"},"ranges":[]}"#.to_owned(), "attach: missing field"),
            (joined(r#""vxlam""#), "join: unknown variant `vxlam`"),
            (joined(r#"{"kind":"vxlam"}"#), "join.kind: unknown variant `vxlam`"),
            (
                joined(r#"{"kind":"underlay","gateway":["10.7.0.1","10.7.0.x"]}"#),
                "join.gateway[1]: invalid IP",
            ),
            (joined(r#"{"kind":"vxlan","vni":"one"}"#), "join.vni: invalid type"),
        ];
        for (written, said) in cases {
            let value: Value = serde_json::from_str(&written).unwrap();
            let why = read::<Network>(&value).unwrap_err();
            assert!(why.starts_with(said), "{written}: {why}");
        }
    }

    #[test]
    fn two_errors_that_read_alike_are_said_where_both_are() {
        let value = serde_json::json!({"ranges": ["10.7.0.0.0", "10.7.0.0.0"]});
        let why = read::<Network>(&value).unwrap_err();
        assert!(why.starts_with("ranges: invalid IP"), "{why}");
    }
}
