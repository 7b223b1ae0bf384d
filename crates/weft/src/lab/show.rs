//! What the lab prints: for people as it happens, or one JSON object a line.

use serde_json::{Value, json};

use crate::cli::text::table;

pub struct Show {
    pub json: bool,
}

impl Show {
    pub fn step(&self, text: &str) {
        if self.json {
            println!("{}", json!({"event": "step", "text": text}));
        } else {
            println!("{text}");
        }
    }

    pub fn event(&self, event: &Value, text: &str) {
        if self.json {
            println!("{event}");
        } else if !text.is_empty() {
            println!("{text}");
        }
    }

    pub fn rows(&self, head: &[&str], rows: Vec<Vec<String>>) {
        if self.json {
            for row in rows {
                let object: serde_json::Map<String, Value> = head
                    .iter()
                    .zip(row)
                    .map(|(head, cell)| (head.to_lowercase(), Value::String(cell)))
                    .collect();
                println!("{}", json!({"event": "path", "path": object}));
            }
            return;
        }
        for line in table(head, rows.into_iter()).lines() {
            println!("    {line}");
        }
    }
}
