//! A type's JSON schema in the form that Kubernetes takes (structural schemas): every field has one
//! type, and what differs by kind is one set of fields with rules which kinds have which.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// The field that says of which kind something is.
const KIND: &str = "kind";
/// What the server is to reckon with where nothing is said: it refuses rules without a bound.
const ITEMS_MAX: u32 = 256;
const LENGTH_MAX: u32 = 253;
/// The longest address in text.
const ADDRESS_MAX: u32 = 45;

pub(super) fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let Value::Object(mut schema) = schema.to_value() else { return json!({}) };
    schema.remove("title");
    schema.remove("description");
    rewrite(schema)
}

fn rewrite(mut schema: Map<String, Value>) -> Value {
    // Defaults are the reader's: written into objects they would outlive the version that had them.
    for word in ["default", "additionalProperties", "title"] {
        schema.remove(word);
    }
    if schema.get("format").and_then(Value::as_str).is_some_and(|form| form.starts_with("uint")) {
        schema.remove("format");
    }
    if let Some(Value::Array(types)) = schema.get("type")
        && let Some(one) = types.iter().find(|one| **one != "null").cloned()
    {
        schema.insert("type".into(), one);
    }
    if let Some(Value::Array(choices)) = schema.remove("anyOf") {
        // What may be left out.
        let one = choices.into_iter().find(|choice| choice["type"] != "null");
        merge(&mut schema, one);
    }
    if let Some(Value::Array(choices)) = schema.remove("oneOf") {
        let of_kinds = choices.iter().all(|choice| choice["properties"][KIND].is_object());
        let one = if of_kinds { kinds(choices) } else { words(choices) };
        merge(&mut schema, Some(one));
    }
    if let Some(Value::Object(properties)) = schema.remove("properties") {
        let properties = properties.into_iter().map(|(name, of)| (name, rewrite_any(of)));
        schema.insert("properties".into(), Value::Object(properties.collect()));
    }
    if let Some(items) = schema.remove("items") {
        schema.insert("items".into(), rewrite_any(items));
        schema.entry("maxItems").or_insert(ITEMS_MAX.into());
    }
    if schema.get("type").is_some_and(|of| of == "string") {
        bound(&mut schema);
    }
    Value::Object(schema)
}

fn bound(schema: &mut Map<String, Value>) {
    if schema.get("format").is_some_and(|form| form == "ip") {
        schema.remove("format");
        schema.insert("maxLength".into(), ADDRESS_MAX.into());
        let rule = json!([{"rule": "isIP(self)", "message": "an address, IPv4 or IPv6"}]);
        schema.insert("x-kubernetes-validations".into(), rule);
    }
    schema.entry("maxLength").or_insert(LENGTH_MAX.into());
}

fn rewrite_any(schema: Value) -> Value {
    match schema {
        Value::Object(schema) => rewrite(schema),
        other => other,
    }
}

/// What is said outside counts before what is said inside.
fn merge(schema: &mut Map<String, Value>, inner: Option<Value>) {
    let Some(Value::Object(inner)) = inner.map(rewrite_any) else { return };
    for (word, value) in inner {
        schema.entry(word).or_insert(value);
    }
}

/// Words of which one is said.
fn words(choices: Vec<Value>) -> Value {
    let (mut words, mut said) = (Vec::new(), Vec::new());
    for choice in choices {
        let these: Vec<Value> = match (&choice["const"], choice["enum"].as_array()) {
            (Value::Null, Some(these)) => these.clone(),
            (one, _) => vec![one.clone()],
        };
        if let (Some(word), Some(text)) = (these.first(), choice["description"].as_str()) {
            said.push(format!("`{}`: {text}", word.as_str().unwrap_or_default()));
        }
        words.extend(these);
    }
    let mut one = json!({"type": "string", "enum": words});
    if !said.is_empty() {
        one["description"] = said.join(" ").into();
    }
    one
}

/// Kinds with settings of their own: all settings side by side, and for each a rule which kinds it is of.
fn kinds(choices: Vec<Value>) -> Value {
    let mut names = Vec::new();
    let mut fields: BTreeMap<String, Vec<(Value, Value)>> = BTreeMap::new();
    let mut rules = Vec::new();
    for choice in &choices {
        let name = &choice["properties"][KIND]["const"];
        for (field, schema) in choice["properties"].as_object().into_iter().flatten() {
            if field != KIND {
                let schema = rewrite_any(schema.clone());
                fields.entry(field.clone()).or_default().push((name.clone(), schema));
            }
        }
        for field in choice["required"].as_array().into_iter().flatten().filter(|f| **f != KIND) {
            let field = field.as_str().unwrap_or_default();
            let rule = format!("self.kind != {} || has(self.{})", cel(name), escaped(field));
            rules.push(
                json!({"rule": rule, "message": format!("kind {} needs `{field}`", text(name))}),
            );
        }
        names.push(name.clone());
    }
    let mut properties = Map::new();
    for (field, of) in fields {
        rules.extend(of_these(&field, &of, names.len()));
        properties.insert(field, beside(of));
    }
    properties.insert(KIND.into(), json!({"type": "string", "enum": names}));
    let mut one = json!({"type": "object", "required": [KIND], "properties": properties});
    if !rules.is_empty() {
        one["x-kubernetes-validations"] = rules.into();
    }
    one
}

/// Which kinds have a field, and which words of it each takes.
fn of_these(field: &str, of: &[(Value, Value)], all: usize) -> Vec<Value> {
    let (has, names) =
        (escaped(field), of.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    let mut rules = Vec::new();
    if of.len() < all {
        let rule = format!("!has(self.{has}) || self.kind in {}", cel(&names.clone().into()));
        let plain: Vec<String> = names.iter().map(text).collect();
        let message = format!("`{field}` is for kind {} alone", plain.join(", "));
        rules.push(json!({"rule": rule, "message": message}));
    }
    let differ = of.iter().any(|(_, schema)| schema["enum"] != of[0].1["enum"]);
    for (name, schema) in of.iter().filter(|_| differ) {
        let words = cel(&schema["enum"]);
        let rule =
            format!("self.kind != {} || !has(self.{has}) || self.{has} in {words}", cel(name));
        let message = format!("`{field}` of kind {} is one of {words}", text(name));
        rules.push(json!({"rule": rule, "message": message}));
    }
    rules
}

/// The schema of a field that several kinds have. Where they differ, each takes words of its own.
fn beside(of: Vec<(Value, Value)>) -> Value {
    let differ = of.iter().any(|(_, schema)| schema != &of[0].1);
    if !differ {
        return of.into_iter().next().map(|(_, schema)| schema).unwrap_or_default();
    }
    let (mut words, mut said) = (Vec::new(), Vec::new());
    for (name, schema) in &of {
        words.extend(schema["enum"].as_array().into_iter().flatten().cloned());
        said.push(format!("Of {}: {}", text(name), text(&schema["description"])));
    }
    let unique: std::collections::BTreeSet<String> = words.iter().map(text).collect();
    json!({"type": "string", "enum": unique, "description": said.join(" ")})
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// As CEL writes it.
fn cel(value: &Value) -> String {
    value.to_string().replace('"', "'")
}

/// CEL's own words are not names of fields.
fn escaped(field: &str) -> String {
    match field {
        "in" | "namespace" | "const" | "import" | "package" | "true" | "false" | "null" => {
            format!("__{field}__")
        }
        _ => field.to_owned(),
    }
}
