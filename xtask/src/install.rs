//! What a bare machine lacks: Debian packages, a target of the toolchain, the test runner.

use std::{path::Path, process::Command};

use anyhow::{Context, bail};

use crate::{
    dist::Arch,
    run::{cargo, step},
};

/// Debian's packages, each with a file that tells whether it is there.
const PACKAGES: [(&str, &str); 23] = [
    ("protobuf-compiler", "/usr/bin/protoc"),
    ("libprotobuf-dev", "/usr/include/google/protobuf/descriptor.proto"),
    ("etcd-server", "/usr/bin/etcd"),
    ("etcd-client", "/usr/bin/etcdctl"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("podman", "/usr/bin/podman"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/sbin/ip"),
    ("iptables", "/usr/sbin/iptables-legacy"),
    ("procps", "/usr/bin/pgrep"),
    ("radvd", "/usr/sbin/radvd"),
    ("dnsmasq-base", "/usr/sbin/dnsmasq"),
    ("frr", "/usr/lib/frr/bgpd"),
    ("bird2", "/usr/sbin/bird"),
    ("gobgpd", "/usr/bin/gobgpd"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("busybox-static", "/bin/busybox"),
    ("kmod", "/sbin/depmod"),
    ("xz-utils", "/usr/bin/xz"),
    ("musl-tools", "/usr/bin/musl-gcc"),
    (CROSS, "/usr/bin/aarch64-linux-gnu-gcc"),
];
/// Only a release for arm64 takes it.
pub const CROSS: &str = "gcc-aarch64-linux-gnu";
const NEXTEST: &str = "0.9.143";

/// What a static build needs.
pub fn musl(arch: Arch) -> anyhow::Result<()> {
    packages(|package| arch.packages().contains(&package))?;
    target(arch)
}

fn target(arch: Arch) -> anyhow::Result<()> {
    let mut rustup = Command::new("rustup");
    // Where the toolchain did not come by rustup, the build says what is missing.
    if rustup.arg("--version").output().is_ok() {
        let add = ["target", "add", arch.target()];
        step("the toolchain's musl target", Command::new("rustup").args(add))?;
    }
    Ok(())
}

pub fn all() -> anyhow::Result<()> {
    packages(|package| package != CROSS)?;
    target(Arch::Amd64)?;
    let nextest = cargo().args(["nextest", "--version"]).output();
    if !nextest.is_ok_and(|out| out.status.success()) {
        let install = ["install", "cargo-nextest", "--locked", "--version", NEXTEST];
        step("install cargo-nextest (some minutes, once)", cargo().args(install))?;
    }
    Ok(())
}

fn packages(wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(package, file)| wanted(package) && !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("the tests need these Debian packages or their like: {list}");
    }
    let root = nix::unistd::geteuid().is_root();
    let apt = |args: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if !root {
            command.args(["-n", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        command
    };
    let hint = || format!("as root: apt-get install {list}");
    step("apt-get update", &mut apt(&["update", "-q"])).with_context(hint)?;
    let mut install = apt(&["install", "-y", "-q", "--no-install-recommends"]);
    step(&format!("install {list}"), install.args(&missing)).with_context(hint)
}
