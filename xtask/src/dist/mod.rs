//! `cargo xtask dist`: what a release consists of, in `target/dist`. The same sources and toolchain
//! give the same bytes.

mod archive;
mod image;

use std::{fs, path::Path};

use anyhow::Context;
use clap::Args;

use self::archive::Member;
use crate::{
    chart::{self, Chart},
    install,
    run::{self, MUSL, cargo, root, step, target},
};

#[derive(Args)]
pub struct Dist {
    /// Cargo's profile for the agent: `dev` is quicker to build, large and slow
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Where the image is said to come from: no registry. The chart's values name another.
const IMAGE: &str = "localhost/weft";

impl Dist {
    pub fn run(&self) -> anyhow::Result<()> {
        install::musl()?;
        let chart = Chart::read(&root().join(chart::DIR))?;
        let version = chart.version()?;
        let weft = fs::read(agent(&self.profile)?).context("read the agent's program")?;
        let plugin = fs::read(run::plugin()?).context("read the plugin's program")?;
        println!("\n== image, chart, manifests");
        let image = image::oci(&weft, &plugin, IMAGE, &version)?;
        let mut files = vec![
            ("weft".to_owned(), weft),
            ("weft-cni".to_owned(), plugin),
            (format!("weft-image-{version}.tar"), image),
            (format!("weft-{version}.tgz"), packed(&chart)?),
        ];
        for (name, text) in chart::manifests(&chart)? {
            files.push((name.to_owned(), text.into_bytes()));
        }
        write(&target().join("dist"), &files)
    }
}

/// Builds the agent as it is released.
pub fn agent(profile: &str) -> anyhow::Result<std::path::PathBuf> {
    let mut build = cargo();
    let what = ["build", "--package", "weft", "--features", "etcd,kubernetes", "--target", MUSL];
    build.args(what).args(["--profile", profile]);
    step("build the agent (static, for musl, with every store)", &mut build)?;
    let dir = if profile == "dev" { "debug" } else { profile };
    Ok(target().join(MUSL).join(dir).join("weft"))
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
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        if !name.contains('.') {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        println!("{:>11}  {}", bytes.len(), path.display());
        sums += &format!("{}  {name}\n", image::sha256(bytes));
    }
    fs::write(dir.join("SHA256SUMS"), sums).context("write SHA256SUMS")
}
