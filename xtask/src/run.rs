//! Running other programs, with a line before and a clear error after.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, bail};

use crate::dist::Arch;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Runs it in the foreground.
pub fn step(what: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("\n== {what}");
    let start = Instant::now();
    let status = command.status().with_context(|| format!("{what}: start {command:?}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    println!("== {what}: {} s", start.elapsed().as_secs());
    Ok(())
}

/// What measures must not be what is slow: the same command by an optimised build of this program.
pub fn again_in_release() -> anyhow::Result<()> {
    let mut again = cargo();
    again.args(["run", "--quiet", "--release", "--package", "xtask", "--"]);
    let status = again.args(std::env::args_os().skip(1)).status().context("start cargo")?;
    if status.success() { Ok(()) } else { bail!("the benchmark failed ({status})") }
}

pub const MUSL: &str = "x86_64-unknown-linux-musl";

/// Where a program is, by the search path or beside cargo's own.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let dirs = std::env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    let mut files = dirs.map(|dir| dir.join(program));
    files.find(|file| file.is_file()).with_context(|| format!("{program} is not installed"))
}

/// Builds the plugin as it is released, for this machine's nodes.
pub fn plugin() -> anyhow::Result<PathBuf> {
    plugin_for(Arch::Amd64)
}

pub fn plugin_for(arch: Arch) -> anyhow::Result<PathBuf> {
    let mut build = cargo();
    let target_of = arch.target();
    build.args(["build", "--package", "weft-cni", "--profile", "plugin", "--target", target_of]);
    let what = format!("build the plugin (static, for musl, {})", arch.name());
    step(&what, arch.cross(&mut build))?;
    Ok(target().join(target_of).join("plugin/weft-cni"))
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
