//! `cargo xtask dist`: what a release consists of, in `target/dist`. The same sources and toolchain
//! give the same bytes.

pub mod arch;
mod archive;
mod image;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

pub use self::arch::Arch;
use self::{archive::Member, image::Programs};
use crate::{
    chart::{self, Chart},
    install,
    run::{self, cargo, root, step, target},
};

#[derive(Args)]
pub struct Dist {
    /// Cargo's profile for the agent: `dev` is quicker to build, large and slow
    #[arg(long, default_value = "release")]
    profile: String,
    /// The nodes' processors: the image is for all of them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "amd64")]
    arch: Vec<Arch>,
}

/// Where the image is said to come from: no registry. The chart's values name another.
const IMAGE: &str = "localhost/weft";

impl Dist {
    pub fn run(&self) -> anyhow::Result<()> {
        let archs: BTreeSet<Arch> = self.arch.iter().copied().collect();
        archs.iter().try_for_each(|arch| install::musl(*arch))?;
        let chart = Chart::read(&root().join(chart::DIR))?;
        let version = chart.version()?;
        let programs = archs.iter().map(|arch| self.programs(*arch));
        let programs: Vec<Programs> = programs.collect::<Result<_, _>>()?;
        println!("\n== image, chart, manifests");
        let image = image::oci(&programs, IMAGE, &version)?;
        let mut files = Vec::new();
        for Programs { arch, weft, plugin } in programs {
            files.push((format!("{}/weft", arch.name()), weft));
            files.push((format!("{}/weft-cni", arch.name()), plugin));
        }
        files.push((format!("weft-image-{version}.tar"), image));
        files.push((format!("weft-{version}.tgz"), packed(&chart)?));
        for (name, text) in chart::manifests(&chart)? {
            files.push((name.to_owned(), text.into_bytes()));
        }
        write(&target().join("dist"), &files)
    }

    fn programs(&self, arch: Arch) -> anyhow::Result<Programs> {
        let weft = fs::read(agent(arch, &self.profile)?).context("read the agent's program")?;
        let plugin = fs::read(run::plugin_for(arch)?).context("read the plugin's program")?;
        Ok(Programs { arch, weft, plugin })
    }
}

/// Builds the agent as it is released.
pub fn agent(arch: Arch, profile: &str) -> anyhow::Result<PathBuf> {
    let mut build = cargo();
    let what = ["build", "--package", "weft", "--features", "etcd,kubernetes"];
    build.args(what).args(["--target", arch.target(), "--profile", profile]);
    let what = format!("build the agent (static, for musl, {}, with every store)", arch.name());
    step(&what, arch.cross(&mut build))?;
    let dir = if profile == "dev" { "debug" } else { profile };
    Ok(target().join(arch.target()).join(dir).join("weft"))
}

/// The chart as Helm packs it: everything below a directory of its name.
fn packed(chart: &Chart) -> anyhow::Result<Vec<u8>> {
    let paths: Vec<String> = chart.files.keys().map(|path| format!("weft/{path}")).collect();
    let members: Vec<Member<'_>> = paths
        .iter()
        .zip(chart.files.values())
        .map(|(path, text)| Member { path, mode: 0o644, bytes: text.as_bytes() })
        .collect();
    archive::gzip(&archive::tar(&members)?)
}

fn write(dir: &Path, files: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut sums = String::new();
    for (name, bytes) in files {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        if !name.contains('.') {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        println!("{:>11}  {}", bytes.len(), path.display());
        sums += &format!("{}  {name}\n", image::sha256(bytes));
    }
    fs::write(dir.join("SHA256SUMS"), sums).context("write SHA256SUMS")
}
