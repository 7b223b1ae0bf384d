//! Patches as Kubernetes takes them: JSON merge patch (RFC 7386) and JSON patch (RFC 6902, without
//! `move` and `copy`). A strategic merge is taken for a merge.

use serde_json::{Value, json};

pub fn apply(form: &str, old: &Value, patch: &Value) -> Result<Value, String> {
    let mut new = old.clone();
    if form.starts_with("application/json-patch+json") {
        for step in patch.as_array().ok_or("a JSON patch is a list")? {
            one(&mut new, step)?;
        }
        return Ok(new);
    }
    merge(&mut new, patch);
    Ok(new)
}

/// `null` takes away.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        match target.as_object_mut() {
            Some(target) if value.is_null() => drop(target.remove(field)),
            Some(target) => merge(target.entry(field.clone()).or_insert(Value::Null), value),
            None => {}
        }
    }
}

fn one(target: &mut Value, step: &Value) -> Result<(), String> {
    let text = |field: &str| step[field].as_str().unwrap_or_default();
    let path: Vec<String> = text("path")
        .split('/')
        .skip(1)
        .map(|word| word.replace("~1", "/").replace("~0", "~"))
        .collect();
    let Some((last, above)) = path.split_last() else { return Err("an empty path".into()) };
    let pointer: String = above
        .iter()
        .map(|word| format!("/{}", word.replace('~', "~0").replace('/', "~1")))
        .collect();
    let parent = target.pointer_mut(&pointer).ok_or("the path's parent does not exist")?;
    let there = if parent.is_array() {
        last == "-" || parent.get(last.parse().unwrap_or(usize::MAX)).is_some()
    } else {
        parent.get(last).is_some()
    };
    match (text("op"), there) {
        ("add", _) | ("replace", true) => {
            put(parent, last, step["value"].clone(), text("op") == "add")
        }
        ("remove", true) => match parent {
            Value::Object(parent) => drop(parent.remove(last)),
            Value::Array(parent) => drop(parent.remove(last.parse().unwrap_or(0))),
            _ => {}
        },
        ("test", true) if parent.get(last) == Some(&step["value"]) => {}
        (op, _) => return Err(format!("{op} operation does not apply: {}", text("path"))),
    }
    Ok(())
}

fn put(parent: &mut Value, last: &str, value: Value, insert: bool) {
    match parent {
        Value::Array(parent) if last == "-" => parent.push(value),
        Value::Array(parent) => {
            let at = last.parse().unwrap_or(0);
            if insert { parent.insert(at, value) } else { parent[at] = value }
        }
        parent => parent[last] = value,
    }
}

/// Makes a field what it is there, or takes it away where there is none.
pub fn set(target: &mut Value, field: &str, value: &Value) {
    match target.as_object_mut() {
        Some(target) if value.is_null() => drop(target.remove(field)),
        Some(target) => drop(target.insert(field.to_owned(), value.clone())),
        None => {}
    }
}
