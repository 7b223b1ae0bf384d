//! One node of the lab: a namespace, an agent in it, and pods that a runtime would have made.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weft_linux::Netns;

use super::wire::Place;
use crate::cli::client;

/// How long an agent may take for anything that the lab waits for.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Node {
    pub name: String,
    pub netns: Netns,
    pub place: Place,
    dir: PathBuf,
    program: PathBuf,
    agent: Mutex<Option<Child>>,
}

/// A pod: its namespace and what ADD answered.
pub struct Pod {
    pub name: String,
    pub node: String,
    pub netns: Netns,
    pub path: PathBuf,
    pub addrs: Vec<std::net::IpAddr>,
    pub network: String,
}

impl Pod {
    pub fn addr(&self, ipv4: bool) -> Option<std::net::IpAddr> {
        self.addrs.iter().find(|addr| addr.is_ipv4() == ipv4).copied()
    }
}

impl Node {
    /// Makes the namespace's file and the agent's configuration. `lab` is the lab's directory.
    pub fn new(
        name: &str,
        netns: Netns,
        place: Place,
        lab: &Path,
        program: &Path,
        store: &Value,
    ) -> anyhow::Result<Self> {
        let dir = lab.join(name);
        fs::create_dir_all(&dir)?;
        let config = json!({
            "node": name,
            "store": store,
            "runDir": dir,
            "cacheDir": dir.join("cache"),
            "labels": place.labels(),
        });
        fs::write(dir.join("agent.yaml"), serde_json::to_vec_pretty(&config)?)?;
        let (program, agent) = (program.to_owned(), Mutex::new(None));
        Ok(Self { name: name.into(), netns, place, dir, program, agent })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Starts the agent in the node's namespace.
    pub fn start(&self, env: &[(String, String)]) -> anyhow::Result<()> {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.dir.join("agent.log"))?;
        let mut command = Command::new(&self.program);
        command
            .args(["agent", "--config"])
            .arg(self.dir.join("agent.yaml"))
            .envs(env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // A child has the namespace of the thread that makes it.
        let child = self.netns.run(|| command.spawn())?.context("start the agent")?;
        *self.agent() = Some(child);
        Ok(())
    }

    fn agent(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.agent.lock().expect("nobody panics while holding a child")
    }

    pub fn pid(&self) -> Option<u32> {
        self.agent().as_ref().map(Child::id)
    }

    /// Ends the agent as SIGKILL does.
    pub fn kill(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.agent().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits for an agent that is to die by itself.
    pub fn wait_for_death(&self) -> anyhow::Result<()> {
        if let Some(mut child) = self.agent().take() {
            child.wait()?;
        }
        Ok(())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
        let pid = self.pid().context("the agent does not run")?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        client::ask(&self.control(), method, path, body)
    }

    pub fn status(&self) -> anyhow::Result<Value> {
        self.ask("GET", "/v1/status", None)
    }

    /// Changes that the agent would make now.
    pub fn plan(&self) -> anyhow::Result<Vec<String>> {
        Ok(serde_json::from_value(self.ask("GET", "/v1/plan", None)?["changes"].take())?)
    }

    /// Polls until `what` holds of this node.
    pub fn wait_until(
        &self,
        what: &str,
        mut holds: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = holds(self);
            if matches!(now, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = now.err().map(|error| format!(": {error:#}")).unwrap_or_default();
                let log = self.log();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                let status = self.status().map(|status| status.to_string()).unwrap_or_default();
                bail!(
                    "{}: not {what} within {} s{why}\n{status}\n{}",
                    self.name,
                    PATIENCE.as_secs(),
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The plugin as a runtime starts it, with its streams piped.
    pub fn plugin(
        &self,
        command: &str,
        container: &str,
        netns: &Path,
        env: &[(&str, &str)],
    ) -> Command {
        let mut plugin = Command::new(self.dir.with_file_name("bin").join("weft-cni"));
        plugin
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        plugin
    }

    /// Runs the plugin as a runtime does. Returns its exit code and what it printed.
    pub fn cni(
        &self,
        command: &str,
        container: &str,
        netns: &Path,
        config: &Value,
        env: &[(&str, &str)],
    ) -> anyhow::Result<(i32, Value)> {
        let mut plugin = self.plugin(command, container, netns, env);
        let mut plugin = plugin.spawn().context("start the plugin")?;
        if let Some(mut stdin) = plugin.stdin.take() {
            stdin.write_all(config.to_string().as_bytes())?;
        }
        let out = plugin.wait_with_output()?;
        let value = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
        Ok((out.status.code().unwrap_or(-1), value))
    }

    pub fn cni_config(&self, network: &str) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": network, "type": "weft-cni", "network": network,
            "socket": self.dir.join("cni.sock"),
        })
    }

    /// Makes a namespace and calls ADD for it.
    pub fn add_pod(&self, name: &str, network: &str) -> anyhow::Result<Pod> {
        let path = PathBuf::from("/run/netns").join(name);
        fs::create_dir_all("/run/netns")?;
        let netns = Netns::create()?;
        netns.bind(&path)?;
        let args = format!("K8S_POD_NAMESPACE=lab;K8S_POD_NAME={name}");
        let config = self.cni_config(network);
        let (exit, answer) = self.cni("ADD", name, &path, &config, &[("CNI_ARGS", &args)])?;
        if exit != 0 {
            bail!("ADD of {name} on {}: {answer}", self.name);
        }
        let ips = answer["ips"].as_array().cloned().unwrap_or_default();
        let addrs = ips
            .iter()
            .filter_map(|ip| Some(ip["address"].as_str()?.parse::<ipnet::IpNet>().ok()?.addr()));
        Ok(Pod {
            name: name.into(),
            node: self.name.clone(),
            netns,
            path,
            addrs: addrs.collect(),
            network: network.into(),
        })
    }

    pub fn delete_pod(&self, pod: Pod) -> anyhow::Result<()> {
        let config = self.cni_config(&pod.network);
        let (exit, answer) = self.cni("DEL", &pod.name, &pod.path, &config, &[])?;
        if exit != 0 {
            bail!("DEL of {} on {}: {answer}", pod.name, self.name);
        }
        let _ = nix::mount::umount2(&pod.path, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&pod.path);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
