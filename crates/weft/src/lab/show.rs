//! What the lab prints: for people as it happens, or one JSON object a line.

use std::io::{self, Write};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::cli::text::table;

/// Prints a line. When nobody reads on, the lab is over, as any program in a pipe: with all its processes
/// and namespaces.
pub fn say(line: &str) {
    let Err(error) = writeln!(io::stdout(), "{line}") else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(128 + Signal::SIGPIPE as i32);
    }
    let _ = writeln!(io::stderr(), "weft: print: {error}");
    std::process::exit(1);
}

pub struct Show {
    pub json: bool,
}

impl Show {
    pub fn step(&self, text: &str) {
        self.event(&json!({"event": "step", "text": text}), text);
    }

    pub fn event(&self, event: &Value, text: &str) {
        if self.json {
            say(&event.to_string());
        } else if !text.is_empty() {
            say(text);
        }
    }

    /// A table for people, or an event for each row: `name` and what the row is, under the same name.
    pub fn rows(
        &self,
        name: &str,
        head: &[&str],
        rows: &[Value],
        cells: impl Fn(&Value) -> Vec<String>,
    ) {
        if self.json {
            rows.iter().for_each(|row| say(&json!({"event": name, name: row}).to_string()));
            return;
        }
        for line in table(head, rows.iter().map(cells)).lines() {
            say(&format!("    {line}"));
        }
    }
}

/// A field as people read it.
pub fn cell(row: &Value, field: &str) -> String {
    match &row[field] {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}
