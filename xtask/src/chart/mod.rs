//! The Helm chart, and the manifests for `kubectl apply`: they are the chart with its own values,
//! rendered here and kept in the tree, so that the two can't differ.

mod render;
#[cfg(test)]
mod tests;
mod yaml;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::run::root;

pub const DIR: &str = "deploy/chart/weft";
const NAMESPACE: &str = "kube-system";

#[derive(Args)]
pub struct Task {
    /// Write the manifests into `deploy`
    #[arg(long)]
    write: bool,
}

/// A chart's files by their path in it.
pub struct Chart {
    pub files: BTreeMap<String, String>,
}

impl Chart {
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![dir.to_owned()];
        while let Some(next) = dirs.pop() {
            for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("read {}", path.display()))?;
                files.insert(path.strip_prefix(dir)?.to_string_lossy().into_owned(), text);
            }
        }
        Ok(Self { files })
    }

    fn yaml(&self, path: &str) -> anyhow::Result<Value> {
        let text = self.files.get(path).with_context(|| format!("the chart has no {path}"))?;
        serde_saphyr::from_str(text).with_context(|| format!("{path} of the chart"))
    }

    pub fn version(&self) -> anyhow::Result<String> {
        let version = self.yaml("Chart.yaml")?["version"].as_str().map(str::to_owned);
        version.context("Chart.yaml names no version")
    }

    /// What `helm template --include-crds` prints, with some values given.
    pub fn render(&self, given: &Value) -> anyhow::Result<String> {
        let mut values = self.yaml("values.yaml")?;
        merge(&mut values, given);
        let about = self.yaml("Chart.yaml")?;
        let chart = json!({"Version": about["version"], "AppVersion": about["appVersion"]});
        let scope = json!({
            "Values": values,
            "Chart": chart,
            "Release": {"Namespace": NAMESPACE, "Name": "weft"},
        });
        let mut out = String::new();
        for (path, text) in &self.files {
            let text = if path.starts_with("crds/") {
                text.clone()
            } else if path.starts_with("templates/") {
                render::render(text, &scope).with_context(|| path.clone())?
            } else {
                continue;
            };
            if text.trim().is_empty() {
                continue;
            }
            let text = text.trim().trim_start_matches("---").trim_start();
            out += &format!("---\n{text}\n");
        }
        Ok(out)
    }
}

/// As Helm merges: a map into a map, anything else replaces.
fn merge(values: &mut Value, given: &Value) {
    if let (Value::Object(values), Value::Object(given)) = (&mut *values, given) {
        for (key, value) in given {
            merge(values.entry(key).or_insert(Value::Null), value);
        }
    } else {
        *values = given.clone();
    }
}

/// The manifests by their file's name.
pub fn manifests(chart: &Chart) -> anyhow::Result<Vec<(&'static str, String)>> {
    let dual = json!({"network": {"ranges": ["10.244.0.0/16", "fd00:10:244::/56"]}});
    let described = [
        ("weft.yaml", "IPv4", json!({})),
        ("weft-dual-stack.yaml", "IPv4 and IPv6", dual),
        ("uninstall.yaml", "taking weft off each node", json!({"uninstall": true})),
    ];
    described
        .into_iter()
        .map(|(name, what, values)| {
            let mut text = chart.render(&values).with_context(|| name.to_owned())?;
            if values["uninstall"] == true {
                // All else stands there already, with the values that it was installed with.
                text = only(&text, "DaemonSet");
            }
            let head = format!(
                "# weft for `kubectl apply`: {what}. Written by `cargo xtask chart --write` from \
                 {DIR}.\n"
            );
            Ok((name, head + &text))
        })
        .collect()
}

fn only(documents: &str, kind: &str) -> String {
    let kind = format!("\nkind: {kind}\n");
    let kept = documents.split_inclusive("---\n").filter(|document| document.contains(&kind));
    format!("---\n{}", kept.collect::<String>())
}

impl Task {
    pub fn run(&self) -> anyhow::Result<()> {
        let chart = Chart::read(&root().join(DIR))?;
        for (name, text) in manifests(&chart)? {
            if self.write {
                fs::write(root().join("deploy").join(name), text)?;
            } else {
                print!("{text}");
            }
        }
        Ok(())
    }
}

/// What is wrong with the manifests in the tree.
pub fn stale() -> anyhow::Result<Option<String>> {
    let chart = Chart::read(&root().join(DIR))?;
    ensure!(
        chart.version()? == env!("CARGO_PKG_VERSION"),
        "the chart has another version than weft"
    );
    let differs = |(name, text): &(&str, String)| {
        fs::read_to_string(root().join("deploy").join(name)).ok().as_ref() != Some(text)
    };
    let stale = manifests(&chart)?.into_iter().find(|manifest| differs(manifest));
    Ok(stale.map(|(name, _)| {
        format!("deploy/{name} is not what the chart says: `cargo xtask chart --write`")
    }))
}
