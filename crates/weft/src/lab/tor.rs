//! The racks' routers: real ones, FRR in the first and BIRD in the second where both are installed.
//! Each is in the AS of its rack's nodes and reflects their routes; between the racks is eBGP. Their
//! configuration is what an operator would write; they are ended with the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use weft_linux::Netns;

/// AS numbers of the racks, nodes and router alike (RFC 6996: private).
pub const AS: [u32; 2] = [64601, 64602];
/// The routers' addresses towards their nodes.
pub const TOR: [&str; 2] = ["192.0.2.254", "198.51.100.254"];
/// How long a daemon may take to start.
const PATIENCE: Duration = Duration::from_secs(10);
const NODES: [&str; 2] = ["192.0.2.0/24", "198.51.100.0/24"];
/// Their addresses on the cable between them.
const CABLE: [&str; 2] = ["10.254.0.0", "10.254.0.1"];

/// A program that routers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Frr,
    Bird,
}

impl Program {
    fn path(self) -> &'static str {
        match self {
            Self::Frr => "/usr/lib/frr/bgpd",
            Self::Bird => "/usr/sbin/bird",
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            Self::Frr => "FRR",
            Self::Bird => "BIRD",
        }
    }
}

/// One program for each rack, or why there is none.
pub fn installed() -> anyhow::Result<[Program; 2]> {
    let there = |program: &Program| Path::new(program.path()).exists();
    let programs: Vec<Program> = [Program::Frr, Program::Bird].into_iter().filter(there).collect();
    let (first, last) = programs.first().zip(programs.last()).context(
        "the racks' routers run FRR or BIRD, and neither is installed: `apt-get install bird2` (or \
         frr); without, `weft lab` shows join bgp between the nodes alone",
    )?;
    Ok([*first, *last])
}

/// FRR wants its user to be in a group of its own, which the sandbox has no number for, and leaves
/// directories in `/var/tmp`: both are the sandbox's own from here on.
fn prepare_frr(lab: &Path) -> anyhow::Result<()> {
    let group = lab.join("group");
    if group.exists() {
        return Ok(());
    }
    fs::write(&group, "root:x:0:\nfrr:x:0:root\nfrrvty:x:0:root\n")?;
    let none = None::<&str>;
    mount(Some(&group), "/etc/group", none, MsFlags::MS_BIND, none).context("bind /etc/group")?;
    mount(Some("tmpfs"), "/var/tmp", Some("tmpfs"), MsFlags::empty(), none)
        .context("mount a tmpfs on /var/tmp")
}

/// A rack's router at work.
pub struct Router {
    pub rack: usize,
    pub program: Program,
    dir: PathBuf,
    daemons: Mutex<Vec<Child>>,
}

impl Router {
    /// Starts its daemons in the namespace. `lab` is the lab's directory.
    pub fn start(rack: usize, program: Program, netns: &Netns, lab: &Path) -> anyhow::Result<Self> {
        let dir = lab.join(format!("tor-{}", rack + 1));
        fs::create_dir_all(&dir)?;
        if program == Program::Frr {
            prepare_frr(lab)?;
        }
        let config = match program {
            Program::Frr => frr(rack),
            Program::Bird => bird(rack),
        };
        fs::write(dir.join("router.conf"), config)?;
        let router = Self { rack, program, dir, daemons: Mutex::default() };
        router.run(netns)?;
        Ok(router)
    }

    /// Runs its daemons, those that were killed before too.
    pub fn run(&self, netns: &Netns) -> anyhow::Result<()> {
        match self.program {
            Program::Frr => {
                for daemon in ["zebra", "bfdd", "bgpd"] {
                    self.frr(netns, daemon)?;
                }
                Ok(())
            }
            Program::Bird => self.bird(netns),
        }
    }

    /// Ends them as a crash does.
    pub fn kill(&self) -> anyhow::Result<()> {
        for mut child in self.children().drain(..).rev() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn children(&self) -> std::sync::MutexGuard<'_, Vec<Child>> {
        self.daemons.lock().expect("nobody panics while holding a child")
    }

    fn frr(&self, netns: &Netns, daemon: &str) -> anyhow::Result<()> {
        let mut command = Command::new(format!("/usr/lib/frr/{daemon}"));
        // One mapped id: no other user to become.
        command.args(["-u", "root", "-g", "root", "-A", "127.0.0.1"]);
        command.arg("-f").arg(self.dir.join("router.conf"));
        command.arg("-i").arg(self.dir.join(format!("{daemon}.pid")));
        command.arg("-z").arg(self.dir.join("zserv"));
        command.arg("--vty_socket").arg(&self.dir);
        match daemon {
            // Started again it keeps the routes that it finds, for as many seconds, until bgpd has said its own.
            "zebra" => command.args(["-s", "1048576", "-K", "30"]),
            "bfdd" => command.arg("--bfdctl").arg(self.dir.join("bfdd.sock")),
            _ => command.arg("-S"),
        };
        self.spawn(netns, command)?;
        // Those that follow look for it.
        if daemon == "zebra" {
            let end = Instant::now() + PATIENCE;
            while !self.dir.join("zserv").exists() {
                ensure!(Instant::now() < end, "zebra did not start: {}", self.log());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    fn bird(&self, netns: &Netns) -> anyhow::Result<()> {
        let mut command = Command::new(Program::Bird.path());
        command.arg("-f").arg("-c").arg(self.dir.join("router.conf"));
        command.arg("-s").arg(self.dir.join("bird.ctl"));
        command.arg("-P").arg(self.dir.join("bird.pid"));
        // It finds out that it restarts gracefully only when told.
        if self.dir.join("started").exists() {
            command.arg("-R");
        }
        fs::write(self.dir.join("started"), "")?;
        self.spawn(netns, command)
    }

    fn spawn(&self, netns: &Netns, mut command: Command) -> anyhow::Result<()> {
        let log = || fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"));
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let child = netns.run(|| command.spawn())?.context("start a rack's router")?;
        self.children().push(child);
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The cluster's BGP settings for these racks: nodes peer with their router alone.
pub fn settings() -> Value {
    let racks = [0, 1];
    let labels = |rack: usize| json!({"rack": (rack + 1).to_string()});
    let nodes = racks.map(|rack| json!({"labels": labels(rack), "asn": AS[rack]}));
    let peers = racks.map(|rack| {
        json!({"name": format!("tor-{}", rack + 1), "address": TOR[rack], "asn": AS[rack],
               "labels": labels(rack), "bfd": {"intervalMs": 300, "multiplier": 3}})
    });
    json!({"mesh": false, "nodes": nodes, "peers": peers})
}

fn frr(rack: usize) -> String {
    let (own, other) = (AS[rack], AS[1 - rack]);
    let (nodes, tor, far) = (NODES[rack], TOR[rack], CABLE[1 - rack]);
    let family = |family: &str| {
        format!(
            " address-family {family} unicast
  neighbor nodes activate
  neighbor nodes route-reflector-client
  neighbor nodes next-hop-self
  neighbor {far} activate
  neighbor {far} next-hop-self
 exit-address-family
"
        )
    };
    let (ipv4, ipv6) = (family("ipv4"), family("ipv6"));
    format!(
        "hostname tor-{name}
log stdout
router bgp {own}
 bgp router-id {tor}
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 neighbor nodes peer-group
 neighbor nodes remote-as {own}
 neighbor nodes timers 10 30
 neighbor nodes bfd
 bgp listen range {nodes} peer-group nodes
 neighbor {far} remote-as {other}
 neighbor {far} timers 10 30
 neighbor {far} timers connect 1
 neighbor {far} advertisement-interval 0
{ipv4}{ipv6}",
        name = rack + 1
    )
}

fn bird(rack: usize) -> String {
    let (own, other) = (AS[rack], AS[1 - rack]);
    let (nodes, tor, near, far) = (NODES[rack], TOR[rack], CABLE[rack], CABLE[1 - rack]);
    format!(
        "router id {tor};
log stderr all;
graceful restart wait 30;
protocol device {{ scan time 1; }}
protocol bfd {{ interface \"*\" {{ interval 300 ms; multiplier 3; }}; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths on; graceful restart; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths on; graceful restart; }}
protocol bgp nodes {{
  local {tor} as {own};
  neighbor range {nodes} as {own};
  dynamic name \"node\";
  direct;
  rr client;
  bfd graceful;
  graceful restart on;
  hold time 30;
  ipv4 {{ import all; export all; next hop self ebgp; }};
  ipv6 {{ import all; export all; next hop self ebgp; }};
}}
protocol bgp tor {{
  local {near} as {own};
  neighbor {far} as {other};
  direct;
  graceful restart on;
  hold time 30;
  connect delay time 1;
  connect retry time 1;
  ipv4 {{ import all; export all; next hop self; }};
  ipv6 {{ import all; export all; next hop self; }};
}}
"
    )
}
