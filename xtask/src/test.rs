//! `cargo xtask test`: everything, in the order in which it is cheapest to fail.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;

use crate::{
    install,
    run::{self, cargo, step, target},
    tidy, vm,
};

#[derive(Args)]
pub struct Test {
    /// Only tests whose names contain this; skips the checks before them
    filter: Option<String>,
}

impl Test {
    pub fn run(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        install::all()?;
        if self.filter.is_none() {
            tidy::all()?;
        }
        let plugin = run::plugin()?;
        let build = ["build", "--package", "weft-linux", "--bin", "weft-sandbox"];
        step("build the tests' sandbox", cargo().args(build))?;
        let sandbox = target().join("debug/weft-sandbox");
        let mut tests = cargo();
        tests
            .args(["nextest", "run", "--workspace", "--all-features", "-E"])
            .arg(
                self.filter
                    .as_ref()
                    .map_or(format!("not ({})", left_out()), |name| format!("test({name})")),
            )
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", &sandbox)
            .env("WEFT_CNI", &plugin);
        step("tests, each in a sandbox of its own", &mut tests).with_context(|| {
            format!("one alone: cargo xtask test NAME (runner {})", sandbox.display())
        })?;
        if self.filter.is_none() {
            elsewhere(&sandbox)?;
        }
        let left = if root() { "nothing" } else { "stories of cri::, which need root" };
        println!("\nall of it: {} s; left out on this machine: {left}", start.elapsed().as_secs());
        Ok(())
    }
}

/// Stories of containerd and runc, which need real root.
const ROOTS: &str = "binary(stories) and test(/^cri::/)";

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn left_out() -> String {
    if root() { LACKING.to_owned() } else { format!("({LACKING}) or ({ROOTS})") }
}

/// Stories of what the running kernel may lack (ipvlan, 8021q): told on Debian's kernel alone.
const LACKING: &str = "binary(stories) and test(/^(ipvlan|vlan)::/)";
/// What is run on Debian's own kernel too, since the running kernel is only one of those that weft
/// will meet: everything of the kernel crate, and the guided run of the lab.
const ELSEWHERE: &str = "(package(weft-linux) and kind(test)) or test(/^every_model_reaches/)";
/// Emulated, without hardware for it, it takes ten minutes.
const ELSEWHERE_MAX: Duration = Duration::from_secs(1800);

fn elsewhere(sandbox: &Path) -> anyhow::Result<()> {
    let machine = vm::Machine::prepare()?;
    let (binaries, graph) = (target().join("vm/binaries.json"), target().join("vm/graph.json"));
    let list = ["nextest", "list", "--workspace", "--all-features"];
    let list = cargo()
        .args(list)
        .args(["--list-type", "binaries-only", "--message-format", "json"])
        .output()
        .context("list the tests' programs")?;
    fs::write(&binaries, list.stdout)?;
    let metadata = cargo().args(["metadata", "--format-version=1", "--all-features"]).output();
    fs::write(&graph, metadata.context("run cargo metadata")?.stdout)?;
    let script = format!(
        "cd {} && HOME=/tmp CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER={} {} nextest run \
         --binaries-metadata {} --cargo-metadata {} -E '({ELSEWHERE}) or ({LACKING})'",
        run::root().display(),
        sandbox.display(),
        run::find("cargo-nextest")?.display(),
        binaries.display(),
        graph.display(),
    );
    println!("\n== the same on Debian's kernel, in a virtual machine: {ELSEWHERE}, {LACKING}");
    let start = Instant::now();
    let passed = machine.run(&script, ELSEWHERE_MAX)?;
    anyhow::ensure!(
        passed,
        "tests failed on Debian's kernel: `cargo xtask vm COMMAND` looks there"
    );
    println!("== in the virtual machine: {} s", start.elapsed().as_secs());
    Ok(())
}
