//! Processors that nodes have, and what building for each takes beside the toolchain's musl target.

use std::process::Command;

use clap::ValueEnum;

use crate::{install::CROSS, run::MUSL};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// As images and Debian call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As the toolchain calls it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => MUSL,
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Debian's packages that a build for it takes.
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["protobuf-compiler", "libprotobuf-dev", "musl-tools"],
            Self::Arm64 => &["protobuf-compiler", "libprotobuf-dev", CROSS],
        }
    }

    /// The toolchain has C start files and a linker of its own for arm64; what little C and assembly
    /// dependencies have calls no C library.
    pub fn cross(self, build: &mut Command) -> &mut Command {
        if self == Self::Arm64 {
            build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
            build.env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc");
            build.env("CFLAGS_aarch64_unknown_linux_musl", "-mno-outline-atomics");
        }
        build
    }
}
