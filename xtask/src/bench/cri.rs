//! Pods started and stopped by containerd through the CRI, while the agent is killed every second: how
//! many a second, how many fail, what is left. The story itself is one of the tests, beside what it uses.

use crate::run::{self, cargo, step, target};

const STORY: &str =
    "binary(stories) and test(=cri::pods_start_and_stop_while_the_agent_is_killed_every_second)";

pub fn cri() -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "containerd and runc need root");
    let plugin = run::plugin()?;
    let build = ["build", "--package", "weft-linux", "--bin", "weft-sandbox"];
    step("build the sandbox", cargo().args(build))?;
    let mut story = cargo();
    story
        .args(["nextest", "run", "--release", "--package", "weft", "--all-features"])
        .args(["--run-ignored", "only", "--no-capture", "-E", STORY])
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", target().join("debug/weft-sandbox"))
        .env("WEFT_CNI", plugin);
    step("pods through the CRI", &mut story)
}
