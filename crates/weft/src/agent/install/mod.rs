//! What a runtime of this node needs to find weft: the plugin's program and a CNI configuration that
//! names it. The configuration is written once pods can be served, and stays when the agent ends: the
//! plugin waits for the next one. Whoever takes either away gets it back, until `weft uninstall`.

mod files;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use self::watch::Watch;
use super::{Agent, Config, POISONED, able, lease::wait_for};

pub(super) use files::{is_gone, remove};

/// Between attempts of what the disk refused, and the shortest time between two repairs: another
/// program that insists must not keep a processor busy.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the agent is waited for before it is asked again.
const WAIT: Duration = Duration::from_secs(60);
const PLUGIN: &str = "weft-cni";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Install {
    #[serde(default = "bin_dir")]
    pub bin_dir: PathBuf,
    #[serde(default = "conf_dir")]
    pub conf_dir: PathBuf,
    #[serde(default = "conf_name")]
    pub conf_name: String,
    #[serde(default)]
    pub others: Others,
    /// Where the plugin's program is copied from. Default: beside the agent's own.
    #[serde(default)]
    pub plugin: Option<PathBuf>,
}

/// What becomes of other networks' configuration files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Others {
    /// They stay; a runtime takes the first by name.
    #[default]
    Leave,
    /// They get another name, and their own back at uninstall.
    Aside,
}

fn bin_dir() -> PathBuf {
    "/opt/cni/bin".into()
}
fn conf_dir() -> PathBuf {
    "/etc/cni/net.d".into()
}
fn conf_name() -> String {
    "05-weft.conflist".into()
}

impl Install {
    pub fn check(&self) -> anyhow::Result<()> {
        let name = Path::new(&self.conf_name);
        let plain = name.file_name().is_some_and(|file| file == name.as_os_str());
        anyhow::ensure!(
            plain && name.extension().is_some_and(|ending| ending == "conflist"),
            "install.confName {:?}: a plain file name that ends in .conflist, as runtimes ask for",
            self.conf_name
        );
        Ok(())
    }

    fn source(&self) -> anyhow::Result<PathBuf> {
        if let Some(plugin) = &self.plugin {
            return Ok(plugin.clone());
        }
        let own = std::env::current_exe().context("find the agent's own program")?;
        Ok(own.with_file_name(PLUGIN))
    }
}

/// The configuration that a runtime reads. Of `cniVersions` a runtime that knows the field takes the
/// highest that it speaks; one that does not takes `cniVersion`.
fn conflist(config: &Config) -> String {
    let mut plugin = serde_json::json!({
        "type": PLUGIN,
        // An upgrade may have to fetch the agent's image first.
        "agentWait": 60,
        "capabilities": {"bandwidth": true, "ips": true, "mac": true, "portMappings": true},
    });
    if config.run_dir != super::config::run_dir() {
        plugin["socket"] = serde_json::json!(config.cni_socket());
    }
    let list = serde_json::json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "weft",
        "plugins": [plugin],
    });
    format!("{list:#}\n")
}

pub(super) fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let Some(install) = agent.config.install.clone() else { return Ok(()) };
    install.check()?;
    let agent = agent.clone();
    std::thread::Builder::new().name("install".into()).spawn(move || run(&agent, &install))?;
    Ok(())
}

fn run(agent: &Agent, install: &Install) {
    loop {
        if let Err(error) = keep(agent, install) {
            let why = format!("the runtime does not find weft: {error:#}");
            tracing::warn!(error = why, "will try again");
            agent.say_installed(Some(why));
            std::thread::sleep(PAUSE);
        }
    }
}

/// Puts both there and sees that they stay. Returns on an error alone.
fn keep(agent: &Agent, install: &Install) -> anyhow::Result<()> {
    files::make_dirs(install)?;
    let mut watch = Watch::on([&install.bin_dir, &install.conf_dir])?;
    files::plugin(install, &install.source()?)?;
    while wait_for(agent, WAIT, || able::able(agent, None).ok()).is_none() {}
    let conf = conflist(&agent.config);
    loop {
        let plugin = files::plugin(install, &install.source()?)?;
        let conf = files::conf(install, &conf)?;
        // Behind ours: a runtime that finds no configuration at all says that its node is not ready.
        let aside = files::aside(install)?;
        for done in [plugin, conf].into_iter().flatten().chain(aside) {
            tracing::info!("{done}");
        }
        agent.say_installed(files::before(install)?);
        // A burst of changes is looked at once.
        std::thread::sleep(PAUSE);
        watch.wait()?;
    }
}

impl Agent {
    fn say_installed(&self, problem: Option<String>) {
        *self.uninstalled.lock().expect(POISONED) = problem;
    }
    /// What stands between this node's runtime and weft.
    pub fn install_problem(&self) -> Option<String> {
        self.uninstalled.lock().expect(POISONED).clone()
    }
}
