//! `cargo xtask test`: everything, in the order in which it is cheapest to fail.

use std::time::Instant;

use anyhow::Context;
use clap::Args;

use crate::{
    install,
    run::{self, cargo, step, target},
    tidy,
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
            .args(["nextest", "run", "--workspace", "--all-features"])
            .args(&self.filter)
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", &sandbox)
            .env("WEFT_CNI", &plugin);
        step("tests, each in a sandbox of its own", &mut tests).with_context(|| {
            format!("one alone: cargo xtask test NAME (runner {})", sandbox.display())
        })?;
        println!("\nall of it: {} s; left out on this machine: nothing", start.elapsed().as_secs());
        Ok(())
    }
}
