//! Who learns it, each as a process of its own that does nothing else: no kernel routes, nobody else
//! to tell.

use std::{
    fs,
    io::Read,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use weft_linux::Netns;

use super::feeder;

pub const ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const AS: u32 = 65001;
/// The kernel's clock of processes, in ticks a second.
const TICKS: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Weft,
    Bird,
    Gobgp,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Weft, Self::Bird, Self::Gobgp];

    pub fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Bird => "BIRD",
            Self::Gobgp => "GoBGP",
        }
    }
}

pub struct Receiver {
    kind: Kind,
    child: Child,
    netns: Netns,
    dir: PathBuf,
}

impl Receiver {
    pub fn start(
        kind: Kind,
        ours: &Path,
        netns: &Netns,
        dir: &Path,
        routes: u32,
    ) -> anyhow::Result<Self> {
        let at = |name: &str| dir.join(name).display().to_string();
        let mut command = match kind {
            Kind::Weft => {
                let mut command = Command::new(ours);
                command.args([routes.to_string(), ADDR.to_string(), feeder::ADDR.to_string()]);
                command.args([AS.to_string(), feeder::AS.to_string(), at("keep")]);
                command
            }
            Kind::Bird => {
                fs::write(dir.join("config"), bird())?;
                let mut command = Command::new("bird");
                command.args(["-f", "-c", &at("config"), "-s", &at("ctl"), "-P", &at("pid")]);
                command
            }
            Kind::Gobgp => {
                fs::write(dir.join("config"), gobgp())?;
                let api = format!("unix://{}", at("ctl"));
                let mut command = Command::new("gobgpd");
                command.args(["-f", &at("config"), "--api-hosts", &api, "--pprof-disable"]);
                command
            }
        };
        let log = fs::File::create(dir.join("log"))?;
        command.stdin(Stdio::piped()).stderr(log.try_clone()?);
        command.stdout(if kind == Kind::Weft { Stdio::piped() } else { log.into() });
        let child = netns.run(|| command.spawn())?.with_context(|| format!("start {kind:?}"))?;
        Ok(Self { kind, child, netns: netns.try_clone()?, dir: dir.to_owned() })
    }

    pub fn has_all(&mut self, routes: u32) -> anyhow::Result<bool> {
        let ctl = self.dir.join("ctl").display().to_string();
        match self.kind {
            Kind::Weft => {
                let mut word = [0; 4];
                self.child.stdout.as_mut().context("its output")?.read_exact(&mut word)?;
                Ok(true)
            }
            Kind::Bird => {
                let said = self.says("birdc", &["-s", &ctl, "show", "route", "count"])?;
                Ok(said.contains(&format!("{routes} of {routes} routes")))
            }
            Kind::Gobgp => {
                let ctl = format!("unix://{ctl}");
                let words = ["--target", &ctl, "global", "rib", "summary", "-a", "ipv4"];
                Ok(self.says("gobgp", &words)?.contains(&format!("Destination: {routes},")))
            }
        }
    }

    fn says(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(words);
        let out = self.netns.run(|| command.output())?.with_context(|| format!("run {program}"))?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Seconds of CPU, megabytes resident, and megabytes resident at most.
    pub fn costs(&self) -> anyhow::Result<[f64; 3]> {
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let (stat, status) = (of("stat")?, of("status")?);
        // Behind the program's name, which may have blanks: state is the first.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok());
        let cpu = (ticks(11).context("utime")? + ticks(12).context("stime")?) / TICKS;
        let kilobytes = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line")?;
            Ok(line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>()? / 1000.0)
        };
        Ok([cpu, kilobytes("VmRSS")?, kilobytes("VmHWM")?])
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bird() -> String {
    format!(
        "log stderr all;\nrouter id {ADDR};\nprotocol device {{}}\nprotocol bgp feeder {{\n local {ADDR} \
         as {AS};\n neighbor {} as {};\n passive on;\n ipv4 {{ import all; export all; }};\n}}\n",
        feeder::ADDR,
        feeder::AS
    )
}

fn gobgp() -> String {
    format!(
        "[global.config]\n as = {AS}\n router-id = \"{ADDR}\"\n[[neighbors]]\n[neighbors.config]\n \
         neighbor-address = \"{}\"\n peer-as = {}\n[neighbors.transport.config]\n passive-mode = true\n",
        feeder::ADDR,
        feeder::AS
    )
}
