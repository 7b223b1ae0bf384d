//! Who is fed: each a program of its own with one neighbour, that keeps its routes to itself.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Context;
use weft_linux::Netns;

use super::{
    FED, FEEDER,
    feed::{FED_AS, FEEDER_AS},
};
use crate::bench::resident_kb;

pub enum Receiver {
    Weft { speaker: PathBuf },
    Bird,
    Gobgp,
}

/// A receiver at work; it ends with this.
pub struct Running {
    child: Child,
    ask: Ask,
}

/// How it says the number of its routes.
enum Ask {
    /// It tells by itself what it has taken, and what it has told on.
    Told(Arc<[AtomicU32; 2]>),
    Bird(PathBuf),
    Gobgp,
}

impl Receiver {
    pub fn all(speaker: &Path) -> Vec<Self> {
        vec![Self::Weft { speaker: speaker.to_owned() }, Self::Bird, Self::Gobgp]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Weft { .. } => "weft",
            Self::Bird => "bird",
            Self::Gobgp => "gobgp",
        }
    }

    pub fn start(&self, netns: &Netns, dir: &Path) -> anyhow::Result<Running> {
        let mut command = match self {
            Self::Weft { speaker } => {
                let mut command = Command::new(speaker);
                command.args([FED, FEEDER, &FED_AS.to_string(), &FEEDER_AS.to_string()]);
                command.arg(dir.join("kept"));
                command
            }
            Self::Bird => {
                let config = dir.join("bird.conf");
                fs::write(&config, bird())?;
                let mut command = Command::new("/usr/sbin/bird");
                command.arg("-f").arg("-c").arg(config).arg("-P").arg(dir.join("bird.pid"));
                command.arg("-s").arg(socket(dir));
                command
            }
            Self::Gobgp => {
                let config = dir.join("gobgp.toml");
                fs::write(&config, gobgp())?;
                let mut command = Command::new("/usr/bin/gobgpd");
                command.arg("-f").arg(config).args(["--api-hosts", "127.0.0.1:50051"]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let start = || command.spawn();
        let mut child = netns.run(start)?.with_context(|| format!("start {}", self.name()))?;
        let said = child.stdout.take().context("its output")?;
        let told = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let counts = told.clone();
        // Read to its end, or a program that talks would stop at a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                for (count, word) in counts.iter().zip(["routes", "known"]) {
                    count.store(number(&line, word), Ordering::Relaxed);
                }
            }
        });
        let ask = match self {
            Self::Weft { .. } => Ask::Told(told),
            Self::Bird => Ask::Bird(socket(dir)),
            Self::Gobgp => Ask::Gobgp,
        };
        Ok(Running { child, ask })
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("bird.ctl")
}

fn bird() -> String {
    format!(
        "router id {FED};
protocol device {{}}
protocol bgp feeder {{
  local {FED} as {FED_AS};
  neighbor {FEEDER} as {FEEDER_AS};
  passive;
  ipv4 {{ import all; export none; }};
}}
"
    )
}

fn gobgp() -> String {
    format!(
        "[global.config]
as = {FED_AS}
router-id = \"{FED}\"
[[neighbors]]
[neighbors.config]
neighbor-address = \"{FEEDER}\"
peer-as = {FEEDER_AS}
[neighbors.transport.config]
passive-mode = true
"
    )
}

impl Running {
    /// Routes that it has taken.
    pub fn routes(&self, netns: &Netns) -> anyhow::Result<u32> {
        match &self.ask {
            Ask::Told(told) => Ok(told[0].load(Ordering::Relaxed)),
            Ask::Bird(socket) => {
                let mut birdc = Command::new("/usr/sbin/birdc");
                birdc.arg("-s").arg(socket).args(["show", "protocols", "all", "feeder"]);
                // "Routes:         100000 imported, 0 exported, 100000 preferred"
                Ok(number(&said(netns, &mut birdc)?, "Routes:"))
            }
            Ask::Gobgp => {
                let mut gobgp = Command::new("/usr/bin/gobgp");
                gobgp.args(["global", "rib", "summary"]);
                // "Destination: 100000, Path: 100000"
                Ok(number(&said(netns, &mut gobgp)?, "Destination:"))
            }
        }
    }

    /// True if it has told so many on, where it tells them on at all.
    pub fn knows(&self, routes: u32) -> bool {
        match &self.ask {
            Ask::Told(told) => told[1].load(Ordering::Relaxed) >= routes,
            Ask::Bird(_) | Ask::Gobgp => true,
        }
    }

    /// Megabytes of memory that are its own.
    pub fn resident(&self) -> anyhow::Result<f64> {
        Ok(resident_kb(self.child.id())? / 1000.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(netns: &Netns, command: &mut Command) -> anyhow::Result<String> {
    let out = netns.run(|| command.output())??;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The number that follows a word; 0 where there is none.
fn number(text: &str, word: &str) -> u32 {
    let rest = text.split_once(word).map(|(_, rest)| rest.trim_start()).unwrap_or_default();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}
