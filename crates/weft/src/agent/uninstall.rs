//! Leaves the node as it was: the CNI configuration and the plugin go, then links, routes, rules and
//! addresses of ours, sysctls get the values that were found. For a node whose agent is stopped and whose
//! pods are gone.

use std::{fs, io, path::Path};

use anyhow::{Context, bail};
use weft_core::{plan::plan, state::State};
use weft_linux::Kernel;

use crate::store::StoreConfig;

use super::{Config, boot_id, children, install, ledger::Ledger, lock, policy, sysctls::Found};

const ROUNDS_MAX: usize = 3;
/// What an agent leaves in its directories.
const RUN: [&str; 3] = ["cni.sock", "control.sock", "agent.lock"];
const CACHE: [&str; 6] =
    ["view.jsonl", "view.tmp", "sysctls.json", "sysctls.tmp", "services.json", "services.tmp"];

pub fn uninstall(config: &Config) -> anyhow::Result<()> {
    let run_dir = config.run_dir.exists().then_some(&config.run_dir);
    let lock = run_dir.map(|dir| lock(dir)).transpose();
    let _lock = lock.context("an agent must be stopped before it is uninstalled")?;
    // First, so that no pod is begun that will not be finished.
    if let Some(install) = &config.install {
        install::remove(install)?.iter().for_each(|done| println!("{done}"));
    }
    kernel(config)?;
    forget(config)
}

/// True if nothing of weft's is left on the node.
pub fn is_uninstalled(config: &Config) -> anyhow::Result<bool> {
    let kernel = Kernel::here().context("open netlink sockets (CAP_NET_ADMIN is needed)")?;
    let gone = config.install.as_ref().is_none_or(install::is_gone);
    let ours = kernel.observe_node(&[])?.ours;
    let bare = plan(&State::default(), &ours).is_empty() && !kernel.has_tables()?;
    Ok(gone && bare && !config.run_dir.join(LEDGER).exists())
}

/// Where a store of files is: other nodes may have it too, so it is not this node's to remove.
pub fn store_left(config: &Config) -> Option<&Path> {
    match &config.store {
        StoreConfig::File(file) => Some(file.dir.as_path()).filter(|dir| dir.exists()),
        _ => None,
    }
}

const LEDGER: &str = "attachments";

fn kernel(config: &Config) -> anyhow::Result<()> {
    let kernel = Kernel::here().context("open netlink sockets (CAP_NET_ADMIN is needed)")?;
    kernel.reap().context("free the links of pods that are gone")?;
    let pods: Vec<_> = Ledger::open(&config.run_dir)?.attachments().cloned().collect();
    children::uninstall(&kernel, &pods).context("free the links inside pods")?;
    policy::uninstall(&kernel, &pods)?;
    let mut refusals = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let changes = plan(&State::default(), &kernel.observe_node(&[])?.ours);
        if changes.is_empty() {
            break;
        }
        changes.iter().for_each(|change| println!("{change}"));
        refusals = kernel.apply(&changes);
    }
    if let Some(refusal) = refusals.first() {
        bail!("{refusal}");
    }
    kernel.remove_tables().context("the node's tables of rules")?;
    let failed = Found::read(&config.cache_dir, &boot_id()?).put_back(&config.cache_dir);
    if !failed.is_empty() {
        bail!("put back: {}", failed.join("; "));
    }
    Ok(())
}

/// What the node remembers. Directories go unless somebody else has files there.
fn forget(config: &Config) -> anyhow::Result<()> {
    super::bgp::forget(&config.run_dir);
    let gone = |path: &Path, done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    };
    let ledger = config.run_dir.join(LEDGER);
    gone(&ledger, fs::remove_dir_all(&ledger))?;
    for (dir, names) in [(&config.run_dir, &RUN[..]), (&config.cache_dir, &CACHE[..])] {
        for path in names.iter().map(|name| dir.join(name)) {
            gone(&path, fs::remove_file(&path))?;
        }
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}
