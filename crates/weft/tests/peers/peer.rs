//! A real BGP daemon as our neighbour, with a configuration written by the test.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use weft_linux::Netns;

use crate::{bird, frr, gobgp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Frr,
    Bird,
    Gobgp,
}

/// What the daemon is told to be.
#[derive(Clone, Debug)]
pub struct Setup {
    pub kind: Kind,
    pub asn: u32,
    pub addr: IpAddr,
    /// Whom it speaks with.
    pub others: Vec<Other>,
    pub routes: Vec<IpNet>,
    /// What it learns goes to its kernel (FRR and BIRD).
    pub kernel: bool,
}

#[derive(Clone, Debug)]
pub struct Other {
    pub addr: IpAddr,
    pub asn: u32,
    /// It waits, and never connects.
    pub passive: bool,
    pub password: Option<&'static str>,
    pub hold: u16,
    /// Graceful restart, seconds.
    pub restart: Option<u16>,
    /// GTSM.
    pub security: bool,
    /// BFD's interval, in milliseconds, three of which may be missed.
    pub bfd: Option<u16>,
    /// More lines about this neighbour, in the daemon's own words.
    pub more: &'static str,
}

impl Other {
    pub fn new(addr: &str, asn: u32) -> Self {
        Self {
            addr: addr.parse().unwrap(),
            asn,
            passive: false,
            password: None,
            hold: 9,
            restart: None,
            security: false,
            bfd: None,
            more: "",
        }
    }
}

/// A route that it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub next_hop: IpAddr,
    pub stale: bool,
}

pub type Routes = BTreeMap<IpNet, Told>;

/// Runs for as long as this lives, or until it is killed.
pub struct Peer {
    pub setup: Setup,
    pub netns: Netns,
    pub dir: PathBuf,
    pub children: Vec<(String, Child)>,
}

impl Peer {
    pub fn start(netns: &Netns, setup: Setup) -> Self {
        let dir = PathBuf::from(format!("/run/peer-{}", setup.addr).replace(':', "_"));
        fs::create_dir_all(&dir).unwrap();
        let netns = netns.try_clone().unwrap();
        let mut peer = Self { setup, netns, dir, children: Vec::new() };
        peer.begin(false);
        peer
    }

    /// `again`: it is told that it restarts.
    fn begin(&mut self, again: bool) {
        match self.setup.kind {
            Kind::Frr => frr::begin(self),
            Kind::Bird => bird::begin(self, again),
            Kind::Gobgp => gobgp::begin(self, again),
        }
    }

    /// SIGKILL, to what speaks BGP.
    pub fn kill(&mut self) {
        let (name, child) = self.children.last_mut().unwrap();
        child.kill().unwrap_or_else(|error| panic!("kill {name}: {error}"));
        child.wait().unwrap();
        self.children.pop();
    }

    pub fn again(&mut self) {
        self.begin(true);
    }

    pub fn spawn(&mut self, program: &str, words: &[&str]) {
        let log = self.dir.join(format!("{}.log", program.rsplit('/').next().unwrap()));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.netns.run(|| command.spawn()).unwrap();
        let child = child.unwrap_or_else(|error| panic!("start {program}: {error}"));
        self.children.push((program.to_owned(), child));
    }

    /// What a command line says, once it succeeds.
    pub fn says(&self, program: &str, words: &[&str]) -> String {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match self.tries(program, words) {
                Ok(said) => return said,
                Err(why) if Instant::now() > end => panic!("{program} {words:?}: {why}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub fn tries(&self, program: &str, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.dir);
        let out = self.netns.run(|| command.output()).unwrap();
        let out = out.unwrap_or_else(|error| panic!("run {program}: {error}"));
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(said);
        }
        Err(said + &String::from_utf8_lossy(&out.stderr))
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// What it has learnt of this neighbour.
    pub fn routes_of(&self, from: IpAddr) -> Routes {
        match self.setup.kind {
            Kind::Frr => frr::routes(self, from),
            Kind::Bird => bird::routes(self, from),
            Kind::Gobgp => gobgp::routes(self, from),
        }
    }

    pub fn announce(&mut self, prefix: &str) {
        let prefix: IpNet = prefix.parse().unwrap();
        self.setup.routes.push(prefix);
        match self.setup.kind {
            Kind::Frr => frr::announce(self, prefix, true),
            Kind::Bird => bird::announce(self),
            Kind::Gobgp => gobgp::announce(self, prefix, true),
        }
    }

    pub fn withdraw(&mut self, prefix: &str) {
        let prefix: IpNet = prefix.parse().unwrap();
        self.setup.routes.retain(|route| *route != prefix);
        match self.setup.kind {
            Kind::Frr => frr::announce(self, prefix, false),
            Kind::Bird => bird::announce(self),
            Kind::Gobgp => gobgp::announce(self, prefix, false),
        }
    }

    /// Asks this neighbour for all its routes again.
    pub fn refresh(&self, from: IpAddr) {
        match self.setup.kind {
            Kind::Frr => frr::refresh(self, from),
            Kind::Bird => bird::refresh(self, from),
            Kind::Gobgp => gobgp::refresh(self, from),
        }
    }

    pub fn log(&self) -> String {
        let files = fs::read_dir(&self.dir).unwrap().map(|file| file.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
        logs.map(|path| format!("== {}\n{}", path.display(), read(&path))).collect()
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        for (_, child) in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
