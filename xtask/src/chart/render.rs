//! The part of Helm's template language that our chart uses: paths, `toYaml`, `quote`, `default`,
//! `nindent`, `if` with `else` and `not`, white space cut by `-`. Anything else is an error, so the
//! chart stays within what this renders as Helm does.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::yaml;

enum Part<'a> {
    Text(&'a str),
    Action(&'a str),
}

pub fn render(template: &str, scope: &Value) -> anyhow::Result<String> {
    let mut out = String::new();
    // Of each `if` around here: is it shown, was any of its branches.
    let mut around: Vec<bool> = Vec::new();
    for part in split(template)? {
        let shown = around.iter().all(|shown| *shown);
        let action = match part {
            Part::Text(text) if shown => {
                out += text;
                continue;
            }
            Part::Text(_) => continue,
            Part::Action(action) => action,
        };
        match action.split_whitespace().next().unwrap_or_default() {
            "if" => around.push(shown && holds(action["if".len()..].trim(), scope)?),
            "else" => {
                ensure!(action == "else", "`{action}`: only a plain else is known here");
                let last = around.last_mut().context("an else without its if")?;
                *last = !*last;
            }
            "end" => {
                around.pop().context("an end without its if")?;
            }
            comment if comment.starts_with("/*") => {}
            _ if shown => {
                let value = evaluate(action, scope).with_context(|| action.to_owned())?;
                out += &text(&value);
            }
            _ => {}
        }
    }
    ensure!(around.is_empty(), "an if without its end");
    Ok(out)
}

/// Text and what stands between braces; `-` cuts the white space on its side.
fn split(mut template: &str) -> anyhow::Result<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut cut = false;
    while let Some(start) = template.find("{{") {
        let end = template.find("}}").context("`{{` without `}}`")?;
        let (mut text, mut action) = (&template[..start], &template[start + 2..end]);
        if cut {
            text = text.trim_start();
        }
        if let Some(rest) = action.strip_prefix('-') {
            text = text.trim_end();
            action = rest;
        }
        cut = action.ends_with('-');
        parts.push(Part::Text(text));
        parts.push(Part::Action(action.trim_end_matches('-').trim()));
        template = &template[end + 2..];
    }
    parts.push(Part::Text(if cut { template.trim_start() } else { template }));
    Ok(parts)
}

fn holds(condition: &str, scope: &Value) -> anyhow::Result<bool> {
    if let Some(rest) = condition.strip_prefix("not ") {
        return Ok(!holds(rest, scope)?);
    }
    Ok(!empty(&evaluate(condition, scope)?))
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn evaluate(pipeline: &str, scope: &Value) -> anyhow::Result<Value> {
    let mut steps = pipeline.split('|').map(str::trim);
    let first = steps.next().unwrap_or_default();
    let mut value = match first.split_once(' ') {
        Some(("toYaml", of)) => Value::String(yaml::block(&term(of.trim(), scope)?)),
        Some(_) => bail!("`{first}`: not known here"),
        None => term(first, scope)?,
    };
    for step in steps {
        let (name, of) = step.split_once(' ').unwrap_or((step, ""));
        value = match name {
            "quote" => Value::String(format!("{:?}", text(&value))),
            "toYaml" => Value::String(yaml::block(&value)),
            "default" if empty(&value) => term(of.trim(), scope)?,
            "default" => value,
            "nindent" => {
                let pad = format!("\n{}", " ".repeat(of.trim().parse()?));
                Value::String(pad.clone() + &text(&value).replace('\n', &pad))
            }
            _ => bail!("`{step}`: not known here"),
        };
    }
    Ok(value)
}

/// A path such as `.Values.image.tag`, or a string in quotes.
fn term(term: &str, scope: &Value) -> anyhow::Result<Value> {
    if let Some(quoted) = term.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Ok(Value::String(quoted.to_owned()));
    }
    let path = term.strip_prefix('.').with_context(|| format!("`{term}`: not known here"))?;
    let mut value = scope;
    for name in path.split('.') {
        value = value.get(name).with_context(|| format!("`{term}`: the values have no {name}"))?;
    }
    Ok(value.clone())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
