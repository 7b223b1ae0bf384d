//! A real BFD daemon as our neighbour: FRR's bfdd (with zebra, which tells it of links) or BIRD.

use std::{
    fmt::Write,
    fs,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::mount::{MsFlags, mount};
use serde_json::Value;
use weft_linux::Netns;

use crate::site::{Ends, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Frr,
    Bird,
}

/// One session that it has with us.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub ends: Ends,
    pub multihop: bool,
    pub interval_ms: u32,
    /// So many of our packets may be missed there; of theirs three.
    pub multiplier: u8,
}

impl Session {
    pub fn new(ends: Ends, multihop: bool) -> Self {
        Self { ends, multihop, interval_ms: 300, multiplier: 3 }
    }
}

/// Its processes end with it.
pub struct Peer {
    kind: Kind,
    netns: Netns,
    dir: PathBuf,
    children: Vec<Child>,
}

impl Peer {
    pub fn start(kind: Kind, netns: &Netns, sessions: &[Session]) -> Self {
        let dir = PathBuf::from("/run/peer");
        fs::create_dir_all(&dir).unwrap();
        let netns = netns.try_clone().unwrap();
        let mut peer = Self { kind, netns, dir, children: Vec::new() };
        match kind {
            Kind::Frr => peer.start_frr(sessions),
            Kind::Bird => peer.start_bird(sessions),
        }
        peer
    }

    fn start_frr(&mut self, sessions: &[Session]) {
        // FRR wants its user, here root, in the group of its shell.
        let groups = fs::read_to_string("/etc/group").unwrap();
        let with_root = |line: &str| {
            let more = if line.starts_with("frrvty:") { ",root" } else { "" };
            format!("{line}{more}\n")
        };
        fs::write("/run/group", groups.lines().map(with_root).collect::<String>()).unwrap();
        let none = None::<&str>;
        mount(Some("/run/group"), "/etc/group", none, MsFlags::MS_BIND, none).unwrap();
        let mut config = String::from("log stdout\nbfd\n");
        for Session { ends, multihop, interval_ms, .. } in sessions {
            let multihop = if *multihop { " multihop" } else { "" };
            write!(
                config,
                " peer {}{multihop} local-address {}\n  detect-multiplier 3\n  \
                 receive-interval {interval_ms}\n  transmit-interval {interval_ms}\n exit\n",
                ends.ours, ends.theirs
            )
            .unwrap();
        }
        fs::write(self.path("bfdd.conf"), config + "exit\n").unwrap();
        fs::write(self.path("zebra.conf"), "log stdout\n").unwrap();
        for (name, more) in [("zebra", ""), ("bfdd", "--bfdctl")] {
            let (dir, zserv) = (self.path(""), self.path("zserv.api"));
            let (pid, config) =
                (self.path(&format!("{name}.pid")), self.path(&format!("{name}.conf")));
            let control = format!("unix:{}", self.path("bfdd.sock"));
            let mut words = vec!["-u", "root", "-g", "root", "-P", "0", "--vty_socket", &dir];
            words.extend(["-z", &zserv, "-i", &pid, "-f", &config]);
            if !more.is_empty() {
                words.extend([more, &control]);
            }
            self.spawn(&format!("/usr/lib/frr/{name}"), &words);
            until(&format!("{name} answers"), || self.vtysh(name, &["show version"]).is_some());
        }
    }

    fn start_bird(&mut self, sessions: &[Session]) {
        let interval = sessions.first().map_or(300, |session| session.interval_ms);
        let times = format!("{{ interval {interval} ms; idle tx interval 1 s; multiplier 3; }}");
        let mut config = format!(
            "log \"{}\" all;\nrouter id 10.0.0.2;\nprotocol device {{}}\nprotocol bfd watch {{\n \
             debug {{ states, events }};\n interface \"*\" {times};\n multihop {times};\n",
            self.path("log")
        );
        for Session { ends: Ends { ours, theirs }, multihop, .. } in sessions {
            let more = if *multihop { "multihop on" } else { "" };
            let dev = if *multihop { "" } else { "dev \"eth0\"" };
            writeln!(config, " neighbor {ours} {dev} local {theirs} {more};").unwrap();
        }
        fs::write(self.path("bird.conf"), config + "}\n").unwrap();
        let (config, socket) = (self.path("bird.conf"), self.path("ctl"));
        self.spawn("bird", &["-f", "-c", &config, "-s", &socket]);
        until("bird answers", || self.birdc("show status").is_some());
    }

    fn spawn(&mut self, program: &str, words: &[&str]) {
        let mut command = Command::new(program);
        command.args(words).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.children.push(self.netns.run(|| command.spawn()).unwrap().unwrap());
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn says(&self, program: &str, words: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        let out = self.netns.run(|| command.args(words).output()).unwrap().unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }

    fn vtysh(&self, daemon: &str, lines: &[&str]) -> Option<String> {
        let dir = self.path("");
        let mut words = vec!["--vty_socket", &dir, "-d", daemon];
        lines.iter().for_each(|line| words.extend(["-c", line]));
        self.says("vtysh", &words)
    }

    fn birdc(&self, words: &str) -> Option<String> {
        self.says("birdc", &["-s", &self.path("ctl"), words])
    }

    fn frr_says(&self, question: &str, of: IpAddr) -> Value {
        let said = self.vtysh("bfdd", &[question]).unwrap_or_default();
        let all: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
        all.into_iter().find(|peer| peer["peer"] == of.to_string()).unwrap_or_default()
    }

    /// What it says of the session with us, for people.
    pub fn shows(&self, of: IpAddr) -> String {
        match self.kind {
            Kind::Frr => self.frr_says("show bfd peers json", of).to_string(),
            Kind::Bird => {
                let said = self.birdc("show bfd sessions").unwrap_or_default();
                let of = of.to_string();
                let mut lines = said.lines();
                lines.find(|line| line.starts_with(&of)).unwrap_or_default().to_owned()
            }
        }
    }

    pub fn is_up(&self, of: IpAddr) -> bool {
        let shown = self.shows(of);
        match self.kind {
            Kind::Frr => shown.contains("\"status\":\"up\""),
            Kind::Bird => shown.contains(" Up "),
        }
    }

    /// How often it saw us go down.
    pub fn downs(&self, of: IpAddr) -> u64 {
        match self.kind {
            Kind::Frr => {
                let counters = self.frr_says("show bfd peers counters json", of);
                counters["session-down"].as_u64().unwrap()
            }
            Kind::Bird => {
                let log = fs::read_to_string(self.path("log")).unwrap();
                let of = format!("Session to {of} changed state from Up to ");
                u64::try_from(log.matches(&of).count()).unwrap()
            }
        }
    }

    /// Its operator switches BFD off, or on again.
    pub fn switch(&self, sessions: &[Session], on: bool) {
        if self.kind == Kind::Bird {
            self.birdc(if on { "enable watch" } else { "disable watch" }).unwrap();
            return;
        }
        for Session { ends: Ends { ours, theirs }, multihop, .. } in sessions {
            let multihop = if *multihop { " multihop" } else { "" };
            let peer = format!("peer {ours}{multihop} local-address {theirs}");
            let what = if on { "no shutdown" } else { "shutdown" };
            self.vtysh("bfdd", &["configure terminal", "bfd", &peer, what]).unwrap();
        }
    }

    /// That we want to send so often.
    pub fn knows_interval(&self, of: IpAddr, ms: u32) -> bool {
        let shown = self.shows(of);
        match self.kind {
            Kind::Frr => shown.contains(&format!("\"remote-transmit-interval\":{ms},")),
            // Time in which it takes us for dead.
            Kind::Bird => {
                let seconds = f64::from(ms.max(300)) * 3.0 / 1000.0;
                shown.ends_with(&format!("{seconds:.3}"))
            }
        }
    }

    /// That BFD is switched off on our side.
    pub fn was_told_goodbye(&self, of: IpAddr) -> bool {
        match self.kind {
            Kind::Frr => self.shows(of).contains("\"remote-diagnostic\":\"administratively down\""),
            Kind::Bird => self.shows(of).contains(" Down "),
        }
    }

    /// It dies without a goodbye.
    pub fn kill(&mut self) {
        self.children.iter_mut().for_each(|child| drop(child.kill()));
        self.children.drain(..).for_each(|mut child| drop(child.wait()));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
