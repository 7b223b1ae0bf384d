//! The one tool for developers: `cargo xtask --help`.

mod bench;
mod chart;
mod dist;
mod e2e;
mod install;
mod models;
mod run;
mod test;
mod tidy;
mod vm;

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
    /// Build what a release consists of: programs, container image, Helm chart, manifests
    Dist(dist::Dist),
    /// Acceptance on a Kubernetes cluster that runs weft: pods, Services, policies, networks, ports
    E2e(e2e::E2e),
    /// The manifests for `kubectl apply`, rendered from the Helm chart
    Chart(chart::Task),
    /// The table of models, what each is said to be and the test that shows it, with its negative
    Models(models::Models),
    /// Run a line of shell as root in a virtual machine with Debian's kernel and this machine's files
    Vm {
        /// Such as 'ip link add d0 type dummy && ip link'
        script: String,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// ADD and DEL beside the reference plugins and a bare program that does the same netlink work
    Cni(bench::Rounds),
    /// What each way of joining costs a packet, beside host to host and rivals' ways
    Path(bench::Paths),
    /// One agent with thousands of peers: time to program them, to follow a change, memory
    Scale(bench::Scale),
    /// Many pods on nodes that share one range through etcd: what an address takes, and how long all
    Addresses(bench::Addresses),
    /// Pods started and stopped by containerd through the CRI, the agent killed every second (root)
    Cri,
    /// A table of routes fed to our engine, BIRD and GoBGP; hundreds of speakers in one process
    Bgp(bench::Bgp),
    /// A whole agent in a cluster of 5,000 nodes and 150,000 pods: memory, time, what changes take
    Cluster(bench::Cluster),
    /// What policies of thousands of rules cost a packet, and how long one change takes
    Policy(bench::Policy),
}

fn vm_says(script: &str) -> anyhow::Result<()> {
    let (bound, out) = (std::time::Duration::from_secs(600), &mut std::io::stdout());
    let done = vm::Machine::prepare()?.run(script, bound, out)?;
    anyhow::ensure!(done, "it failed in the virtual machine");
    Ok(())
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Test(test) => test.run(),
        Task::Tidy => tidy::all(),
        Task::Bench(_) if cfg!(debug_assertions) => run::again_in_release(),
        Task::Bench(Bench::Cni(rounds)) => bench::cni(&rounds),
        Task::Bench(Bench::Cri) => bench::cri(),
        Task::Bench(Bench::Path(paths)) => bench::path(&paths),
        Task::Bench(Bench::Scale(scale)) => bench::scale(&scale),
        Task::Bench(Bench::Addresses(addresses)) => bench::addresses(&addresses),
        Task::Bench(Bench::Bgp(asked)) => bench::bgp(&asked),
        Task::Bench(Bench::Cluster(asked)) => bench::cluster(&asked),
        Task::Bench(Bench::Policy(asked)) => bench::policy(&asked),
        Task::Models(models) => models.run(),
        Task::Vm { script } => vm_says(&script),
        Task::Dist(dist) => dist.run(),
        Task::E2e(e2e) => e2e.run(),
        Task::Chart(task) => task.run(),
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
