//! Leaves the node as it was: links, routes, rules and addresses of ours go, sysctls get the values
//! that were found. For a node whose agent is stopped and whose pods are gone.

use std::fs;

use anyhow::{Context, bail};
use weft_core::{plan::plan, state::State};
use weft_linux::Kernel;

use super::{Config, boot_id, children, ledger::Ledger, lock, policy, sysctls::Found};

const ROUNDS_MAX: usize = 3;

pub fn uninstall(config: &Config) -> anyhow::Result<()> {
    let _lock =
        lock(&config.run_dir).context("an agent must be stopped before it is uninstalled")?;
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
    let failed = Found::read(&config.cache_dir, &boot_id()?).put_back(&config.cache_dir);
    if !failed.is_empty() {
        bail!("put back: {}", failed.join("; "));
    }
    super::bgp::forget(&config.run_dir);
    let ledger = config.run_dir.join("attachments");
    fs::remove_dir_all(&ledger).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    Ok(())
}
