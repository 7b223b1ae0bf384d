//! Who takes part: weft, the reference plugins, and the kernel's own floor. Each is a program that
//! is started for one ADD or DEL, as a runtime does.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weft_linux::{Netns, rig};

const REFERENCE: &str = "/usr/lib/cni";
const DIR: &str = "/run/bench";

pub enum Contender {
    Weft {
        plugin: PathBuf,
    },
    /// The same, for a network on the second NIC.
    WeftMacvlan {
        plugin: PathBuf,
    },
    Reference {
        kind: &'static str,
    },
    Floor {
        program: PathBuf,
    },
}

impl Contender {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Weft { .. } => "weft",
            Self::WeftMacvlan { .. } => "weft macvlan",
            Self::Reference { kind: "bridge" } => "reference bridge",
            Self::Reference { kind: "macvlan" } => "reference macvlan",
            Self::Reference { .. } => "reference ptp",
            Self::Floor { .. } => "floor",
        }
    }

    fn config(&self) -> Value {
        match self {
            Self::Weft { .. } => json!({
                "cniVersion": "1.0.0", "name": "bench", "type": "weft-cni",
                "socket": format!("{DIR}/weft/cni.sock"),
            }),
            Self::WeftMacvlan { .. } => json!({
                "cniVersion": "1.0.0", "name": "bench-lan", "type": "weft-cni", "network": "lan",
                "socket": format!("{DIR}/weft/cni.sock"),
            }),
            Self::Reference { kind: "macvlan" } => json!({
                "cniVersion": "1.0.0", "name": "ref-macvlan", "type": "macvlan",
                "master": "eth2", "mode": "bridge",
                "ipam": {
                    "type": "host-local", "dataDir": format!("{DIR}/macvlan"),
                    "ranges": [[{"subnet": "10.204.0.0/16"}]],
                },
            }),
            Self::Reference { kind } => json!({
                "cniVersion": "1.0.0", "name": format!("ref-{kind}"), "type": kind,
                "bridge": "ref0", "isGateway": true,
                "ipam": {
                    "type": "host-local", "dataDir": format!("{DIR}/{kind}"),
                    "ranges": [[{"subnet": if *kind == "bridge" { "10.201.0.0/16" } else { "10.202.0.0/16" }}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }),
            Self::Floor { .. } => Value::Null,
        }
    }

    /// The time from start to end of the one program that a runtime would start.
    pub fn call(&self, verb: &str, n: usize, netns: &Path) -> anyhow::Result<Duration> {
        let (mut command, input) = self.command(verb, n, netns);
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", self.name()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // The floor reads nothing.
            let _ = stdin.write_all(&input);
        }
        let out = child.wait_with_output()?;
        let took = start.elapsed();
        if !out.status.success() {
            let said = [out.stdout, out.stderr].concat();
            bail!("{} {verb} {n}: {}", self.name(), String::from_utf8_lossy(&said));
        }
        Ok(took)
    }

    fn command(&self, verb: &str, n: usize, netns: &Path) -> (Command, Vec<u8>) {
        let program = match self {
            Self::Weft { plugin } | Self::WeftMacvlan { plugin } => plugin.clone(),
            Self::Reference { kind } => Path::new(REFERENCE).join(kind),
            Self::Floor { program } => program.clone(),
        };
        let mut command = Command::new(program);
        command.env_clear();
        if let Self::Floor { .. } = self {
            let dev = format!("floor{n}");
            if verb == "ADD" {
                let addr = format!("10.203.{}.{}", n / 256, n % 256);
                command.arg("add").arg(netns).args([(10_000 + n).to_string(), dev, addr]);
            } else {
                command.args(["del", &dev]);
            }
            return (command, Vec::new());
        }
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("bench{n}"))
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        (command, self.config().to_string().into_bytes())
    }
}

/// An agent of weft's, ended when dropped.
pub struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    pub fn id(&self) -> u32 {
        self.0.id()
    }
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> anyhow::Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.id())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }
}

pub fn start_weft(weft: &Path) -> anyhow::Result<Agent> {
    let network = json!({"ranges": ["10.200.0.0/16"], "blockPrefix4": 20, "default": true});
    start_agent(weft, &Path::new(DIR).join("weft"), &network)
}

/// A second network for the agent of `start_weft`, on the second NIC.
pub fn add_macvlan(weft: &Path) -> anyhow::Result<()> {
    let dir = Path::new(DIR).join("weft");
    let network = json!({
        "attach": {"kind": "macvlan", "parent": "eth1"}, "join": "underlay",
        "ranges": ["10.205.0.0/16"], "blockPrefix4": 20,
    });
    let file = dir.join("lan.yaml");
    std::fs::write(&file, network.to_string())?;
    let apply = ["network", "apply", "lan", "--file", &file.to_string_lossy()];
    anyhow::ensure!(ask(weft, &dir, &apply), "the network on eth1 is not taken");
    Ok(())
}

/// An agent on a store directory of its own, serving one network.
pub fn start_agent(weft: &Path, dir: &Path, network: &Value) -> anyhow::Result<Agent> {
    start_agent_on(weft, dir, &dir.join("store"), "bench", network)
}

/// An agent in the calling thread's namespace.
pub fn start_agent_on(
    weft: &Path,
    dir: &Path,
    store: &Path,
    node: &str,
    network: &Value,
) -> anyhow::Result<Agent> {
    std::fs::create_dir_all(dir)?;
    let config = json!({
        "node": node, "store": {"file": {"dir": store}},
        "runDir": dir, "cacheDir": dir.join("cache"),
    });
    let agent = spawn_agent(weft, dir, &config)?;
    let file = dir.join("network.yaml");
    std::fs::write(&file, network.to_string())?;
    let apply = ["network", "apply", "default", "--file", &file.to_string_lossy()];
    let end = Instant::now() + Duration::from_secs(10);
    while !ask(weft, dir, &apply) || !ask(weft, dir, &["status"]) {
        if Instant::now() > end {
            bail!("the agent is not ready: {}", std::fs::read_to_string(dir.join("log"))?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(agent)
}

/// An agent of this configuration, in the calling thread's namespace; it may not be ready yet.
pub fn spawn_agent(weft: &Path, dir: &Path, config: &Value) -> anyhow::Result<Agent> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("agent.yaml"), config.to_string())?;
    let log = std::fs::File::create(dir.join("log"))?;
    let mut command = Command::new(weft);
    command.args(["agent", "--config"]).arg(dir.join("agent.yaml")).stderr(log);
    Ok(Agent(command.spawn().context("start the agent")?))
}

/// Runs the plugin once, as a runtime does.
pub fn call(
    plugin: &Path,
    verb: &str,
    container: &str,
    netns: &Path,
    config: &Value,
) -> anyhow::Result<Output> {
    call_as(plugin, verb, container, netns, config, "")
}

/// The same, of a pod that `CNI_ARGS` names.
pub fn call_as(
    plugin: &Path,
    verb: &str,
    container: &str,
    netns: &Path,
    config: &Value,
    args: &str,
) -> anyhow::Result<Output> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_ARGS", args)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}

/// Attaches a pod through the plugin. Returns its address.
pub fn attach(
    plugin: &Path,
    dir: &Path,
    name: &str,
    netns: &Path,
) -> anyhow::Result<std::net::IpAddr> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "weft-cni", "socket": dir.join("cni.sock"),
    });
    let out = call(plugin, "ADD", name, netns, &config)?;
    let answer: Value = serde_json::from_slice(&out.stdout)?;
    let address = answer["ips"][0]["address"].as_str().with_context(|| format!("ADD: {answer}"))?;
    Ok(address.split('/').next().unwrap_or_default().parse()?)
}

/// True if the command line, asking the agent in `dir`, says yes.
pub fn ask(weft: &Path, dir: &Path, words: &[&str]) -> bool {
    let mut command = Command::new(weft);
    command.args(words).arg("--control").arg(dir.join("control.sock"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Something for an agent to call its underlay: a link with every benchmark's peers on it.
pub fn nic() -> anyhow::Result<()> {
    let (here, wire) = (Netns::current()?, Netns::create()?);
    rig::pair(&here, "eth0", &wire, "eth0", 1500)?;
    rig::addr(&here, "eth0", "100.127.255.1/10".parse()?)?;
    // For links that are children of one: ours and another's.
    for dev in ["eth1", "eth2"] {
        rig::pair(&here, dev, &wire, dev, 1500)?;
    }
    // Held by the link's other end.
    std::mem::forget(wire);
    Ok(())
}
