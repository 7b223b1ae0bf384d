//! `cargo xtask test`: everything, in the order in which it is cheapest to fail.

use std::{
    fs,
    io::Write,
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
        // Built with the tests.
        let sandbox = target().join("debug/weft-sandbox");
        match &self.filter {
            Some(name) => here(&format!("test({name})"), &sandbox, &plugin)?,
            None => everywhere(&sandbox, &plugin)?,
        }
        let left = if root() { "nothing" } else { "stories of cri::, which need root" };
        println!("\nall of it: {} s; left out on this machine: {left}", start.elapsed().as_secs());
        Ok(())
    }
}

/// On this kernel, and meanwhile on Debian's: what runs here waits more than it works.
fn everywhere(sandbox: &Path, plugin: &Path) -> anyhow::Result<()> {
    let script = elsewhere(sandbox)?;
    let machine = vm::Machine::prepare()?;
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| {
            let (start, mut out) = (Instant::now(), Vec::new());
            let passed = machine.run(&script, ELSEWHERE_MAX, &mut out);
            (passed, out, start.elapsed())
        });
        let here = here(&format!("not ({})", left_out()), sandbox, plugin);
        println!("\n== meanwhile on Debian's kernel, in a virtual machine: {ELSEWHERE}, {LACKING}");
        let ended = begun.join().map_err(|_| anyhow::anyhow!("the machine's thread panicked"));
        let (passed, out, took) = ended?;
        std::io::stdout().write_all(&out)?;
        println!("== in the virtual machine: {} s", took.as_secs());
        let hint = "tests failed on Debian's kernel: `cargo xtask vm COMMAND` looks there";
        here.and(passed.and_then(|passed| passed.then_some(()).context(hint)))
    })
}

fn here(which: &str, sandbox: &Path, plugin: &Path) -> anyhow::Result<()> {
    let mut tests = cargo();
    tests
        .args(["nextest", "run", "--workspace", "--all-features", "-E", which])
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", sandbox)
        .env("WEFT_CNI", plugin);
    step("tests, each in a sandbox of its own", &mut tests)
        .with_context(|| format!("one alone: cargo xtask test NAME (runner {})", sandbox.display()))
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
/// will meet: everything of the kernel crate.
const ELSEWHERE: &str =
    "package(weft-linux) and kind(test) - test(/^a_table_larger_than_a_message/)";
/// Emulated, without hardware for it, and beside all others, it takes a quarter of an hour.
const ELSEWHERE_MAX: Duration = Duration::from_secs(2400);

/// Builds all tests, and says how those for the virtual machine are run there.
fn elsewhere(sandbox: &Path) -> anyhow::Result<String> {
    fs::create_dir_all(target().join("vm"))?;
    let (binaries, graph) = (target().join("vm/binaries.json"), target().join("vm/graph.json"));
    let mut list = cargo();
    list.args(["nextest", "list", "--workspace", "--all-features"])
        .args(["--list-type", "binaries-only", "--message-format", "json"])
        .stdout(fs::File::create(&binaries)?);
    step("build the tests", &mut list)?;
    let mut metadata = cargo();
    metadata.args(["metadata", "--format-version=1", "--all-features"]);
    step("name them", metadata.stdout(fs::File::create(&graph)?))?;
    Ok(format!(
        "cd {} && HOME=/tmp CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER={} {} nextest run \
         --profile vm --binaries-metadata {} --cargo-metadata {} -E '({ELSEWHERE}) or ({LACKING})'",
        run::root().display(),
        sandbox.display(),
        run::find("cargo-nextest")?.display(),
        binaries.display(),
        graph.display(),
    ))
}
