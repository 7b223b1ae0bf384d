//! The one tool for developers: `cargo xtask --help`.

mod bench;
mod install;
mod run;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of weft's developers.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
enum Task {
    /// Install what the tests need, check everything, run every test (what CI runs)
    Test(test::Test),
    /// Format and lint checks, file sizes, walls between crates, licences
    Tidy,
    /// Measure, side by side with rivals and with the kernel's own floor
    #[command(subcommand)]
    Bench(Bench),
    /// Build the plugin as it is released: static, small
    Plugin,
}

#[derive(Subcommand)]
enum Bench {
    /// ADD and DEL beside the reference plugins and a bare program that does the same netlink work
    Cni(bench::Rounds),
    /// What each way of joining costs a packet, beside host to host and rivals' ways
    Path(bench::Paths),
    /// One agent with thousands of peers: time to program them, to follow a change, memory
    Scale(bench::Scale),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Test(test) => test.run(),
        Task::Tidy => tidy::all(),
        Task::Bench(_) if cfg!(debug_assertions) => run::again_in_release(),
        Task::Bench(Bench::Cni(rounds)) => bench::cni(&rounds),
        Task::Bench(Bench::Path(paths)) => bench::path(&paths),
        Task::Bench(Bench::Scale(scale)) => bench::scale(&scale),
        Task::Plugin => run::plugin().map(|path| println!("{}", path.display())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
