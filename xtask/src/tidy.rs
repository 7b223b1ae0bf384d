//! Checks of the tree itself: form, size, walls, licences.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run::{cargo, root, step};

const LINES_MAX: usize = 500;
/// Who may depend on whom, of our own crates; and what each must never reach.
const WALLS: [(&str, &[&str], &[&str]); 5] = [
    ("weft-core", &[], &["tokio", "nix", "netlink-sys", "libc", "kube"]),
    ("weft-bgp", &[], &["tokio", "nix", "netlink-sys", "libc", "kube"]),
    ("weft-linux", &["weft-core"], &["tokio", "kube", "axum"]),
    ("weft-cni", &["weft-core"], &["tokio", "netlink-sys", "kube", "axum"]),
    ("weft", &["weft-bgp", "weft-core", "weft-linux", "weft-cni"], &[]),
];
const LICENCES: [&str; 12] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "CC0-1.0",
];
const BANNED: [&str; 4] = ["openssl", "openssl-sys", "aws-lc-rs", "aws-lc-sys"];

pub fn all() -> anyhow::Result<()> {
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    step("lint", cargo().args(clippy))?;
    // As `cargo run -- lab` builds it.
    let plain = ["clippy", "-p", "weft", "--", "-D", "warnings"];
    step("lint what is built without features", cargo().args(plain))?;
    println!("\n== files, walls, licences");
    let mut faults = files()?;
    faults.extend(readme()?);
    faults.extend(promises()?);
    faults.extend(crate::models::stale()?);
    faults.extend(crate::chart::stale()?);
    let graph = metadata()?;
    faults.extend(walls(&graph)?);
    faults.extend(licences(&graph));
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{}", faults.join("\n"))
}

fn files() -> anyhow::Result<Vec<String>> {
    let faults: anyhow::Result<Vec<_>> = sources()?.iter().map(|path| file(path)).collect();
    Ok(faults?.concat())
}

fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    let mut dirs = vec![root().join("crates"), root().join("xtask")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push(path);
            }
        }
    }
    Ok(sources)
}

fn file(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let name = path.strip_prefix(root()).unwrap_or(path).display().to_string();
    let mut faults = Vec::new();
    let lines = text.lines().count();
    let is_test = name.contains("/tests") || name.ends_with("tests.rs");
    if lines > LINES_MAX && !is_test {
        faults.push(format!("{name}: {lines} lines, more than {LINES_MAX}"));
    }
    if !text.starts_with("//!") {
        faults.push(format!("{name}: does not begin with `//!`: what lives here?"));
    }
    if !name.starts_with("crates/linux/")
        && text.lines().any(|line| line.trim_start().starts_with("unsafe "))
    {
        faults.push(format!("{name}: unsafe code lives in crates/linux alone"));
    }
    Ok(faults)
}

fn readme() -> anyhow::Result<Option<String>> {
    let text = fs::read_to_string(root().join("README.md")).context("read README.md")?;
    let lacks = |command: &&str| !text.contains(*command);
    let lacking = ["cargo run --release -- lab", "cargo xtask test"].into_iter().find(lacks);
    Ok(lacking.map(|command| format!("README.md lacks `{command}`")))
}

/// Tests that `docs/promises.md` names in the last column of a table, and that are nowhere. A name is part of a
/// test's, or stands for all of a module (`bad::`) or program (`binary(bfd)`).
fn promises() -> anyhow::Result<Vec<String>> {
    let page =
        fs::read_to_string(root().join("docs/promises.md")).context("read docs/promises.md")?;
    let mut tests = String::new();
    for path in sources()? {
        let text = fs::read_to_string(&path)?;
        let names = text.lines().filter_map(|line| Some(line.split_once("fn ")?.1));
        tests.extend(names.chain([&*path.to_string_lossy()]).flat_map(|name| [name, "\n"]));
    }
    let lacks = |name: &&str| !tests.contains(&part_of_a_test(name));
    let lacking = page.lines().flat_map(last_column).filter(lacks);
    Ok(lacking.map(|name| format!("docs/promises.md: no test is named `{name}`")).collect())
}

/// What stands in backquotes in the last column of a table's row.
fn last_column(row: &str) -> impl Iterator<Item = &str> {
    let cells = row.strip_prefix('|').and_then(|cells| cells.strip_suffix('|'));
    let last = cells.and_then(|cells| cells.rsplit_once('|')).map_or("", |(_, last)| last);
    last.split('`').skip(1).step_by(2)
}

/// A module is a file, a program the root of one.
fn part_of_a_test(name: &str) -> String {
    if let Some(module) = name.strip_suffix("::") {
        return format!("/{module}.rs\n");
    }
    let program = name.strip_prefix("binary(").and_then(|name| name.strip_suffix(')'));
    program.map_or_else(|| name.into(), |program| format!("/tests/{program}/main.rs\n"))
}

fn metadata() -> anyhow::Result<Value> {
    let out = cargo()
        .args(["metadata", "--format-version=1", "--all-features", "--locked"])
        .output()
        .context("run cargo metadata")?;
    serde_json::from_slice(&out.stdout).context("read cargo metadata; is Cargo.lock committed?")
}

fn list<'a>(value: &'a Value, of: &str) -> impl Iterator<Item = &'a Value> {
    value[of].as_array().into_iter().flatten()
}

fn walls(graph: &Value) -> anyhow::Result<Vec<String>> {
    let id_of = |name: &str| {
        list(graph, "packages").find(|p| p["name"] == name).and_then(|p| p["id"].as_str())
    };
    let name_of = |id: &str| {
        let package = list(graph, "packages").find(|p| p["id"] == id);
        package.and_then(|p| p["name"].as_str()).unwrap_or_default().to_owned()
    };
    let normal = |id: &str| -> Vec<String> {
        let node = list(&graph["resolve"], "nodes").find(|node| node["id"] == id);
        let deps = node.into_iter().flat_map(|node| list(node, "deps"));
        deps.filter(|dep| list(dep, "dep_kinds").any(|kind| kind["kind"].is_null()))
            .filter_map(|dep| dep["pkg"].as_str().map(str::to_owned))
            .collect()
    };
    let mut faults = Vec::new();
    for (crate_name, may, never) in WALLS {
        let id = id_of(crate_name).with_context(|| format!("crate {crate_name} is gone"))?;
        let (mut seen, mut next) = (BTreeSet::new(), vec![id.to_owned()]);
        while let Some(id) = next.pop() {
            next.extend(normal(&id).into_iter().filter(|dep| seen.insert(dep.clone())));
        }
        for name in seen.iter().map(|id| name_of(id)) {
            let ours = name.starts_with("weft") && !may.contains(&name.as_str());
            if ours || never.contains(&name.as_str()) {
                faults.push(format!("{crate_name} reaches {name}: the wall is broken"));
            }
        }
    }
    Ok(faults)
}

fn licences(graph: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for package in list(graph, "packages") {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("none");
        // One of the alternatives must be on the list; of what is joined by AND, all.
        let fine = licence.replace('/', " OR ").split(" OR ").any(|choice| {
            let plain = choice.replace(['(', ')'], "");
            plain.split(" AND ").all(|one| {
                let one = one.trim().split(" WITH ").next().unwrap_or_default();
                LICENCES.contains(&one.trim())
            })
        });
        if !fine {
            faults.push(format!("{name}: licence {licence} is not on the list"));
        }
        if BANNED.contains(&name) {
            faults.push(format!("{name} is banned"));
        }
    }
    faults
}
