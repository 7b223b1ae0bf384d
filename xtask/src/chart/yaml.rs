//! Values as YAML in block style, as `toYaml` of Helm writes them.

use serde_json::Value;

pub fn block(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.trim_end().to_owned()
}

fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                *out += &format!("{pad}{}:", scalar(&Value::String(key.clone())));
                below(value, indent, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let mut item = String::new();
                write(value, indent + 2, &mut item);
                *out += &format!("{pad}- {}\n", item.trim());
            }
        }
        other => *out += &format!("{pad}{}\n", scalar(other)),
    }
}

/// The value of a key: on its line, or on the lines below.
fn below(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write(value, indent + 2, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            write(value, indent, out);
        }
        other => *out += &format!(" {}\n", scalar(other)),
    }
}

/// Plain where that can't be taken for something else, else in double quotes.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else { return value.to_string() };
    let plain = (text.contains('/') || text.starts_with(|c: char| c.is_ascii_alphabetic()))
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:".contains(&b))
        && !text.starts_with(['-', ':'])
        && !text.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain { text.clone() } else { value.to_string() }
}
