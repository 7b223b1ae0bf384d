//! A real etcd on loopback, one member or three; SIGKILLed when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft::store::StoreConfig;

use super::{dir, endpoints, open};

pub struct Etcd {
    child: Child,
    pub dir: PathBuf,
    pub url: String,
    words: Vec<String>,
}

impl Etcd {
    pub fn start(name: &str, port: u16) -> Self {
        Self::start_with(name, port, &[])
    }

    pub fn start_with(name: &str, port: u16, more: &[&str]) -> Self {
        Self::member(name, port, &[(name, port + 1)], "http", more)
    }

    /// With a server's certificate, as `more` says.
    pub fn start_tls(name: &str, port: u16, more: &[&str]) -> Self {
        Self::member(name, port, &[(name, port + 1)], "https", more)
    }

    /// Three members, on ports `port`, 2 and 4 behind it.
    pub fn cluster(name: &str, port: u16) -> Vec<Self> {
        let names: Vec<String> = ["a", "b", "c"].map(|end| format!("{name}-{end}")).into();
        let ports = [port, port + 2, port + 4];
        let peers: Vec<_> =
            names.iter().map(String::as_str).zip(ports.map(|port| port + 1)).collect();
        let member = |(name, port): (&String, u16)| Self::member(name, port, &peers, "http", &[]);
        names.iter().zip(ports).map(member).collect()
    }

    fn member(name: &str, port: u16, peers: &[(&str, u16)], scheme: &str, more: &[&str]) -> Self {
        let dir = dir(name);
        let url = format!("{scheme}://127.0.0.1:{port}");
        let peer = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster = peers.iter().map(|(name, port)| format!("{name}={}", peer(*port)));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let own = peer(port + 1);
        let data = dir.join("data");
        let words = [
            ["--name", name],
            ["--data-dir", data.to_str().unwrap()],
            ["--listen-client-urls", &url],
            ["--advertise-client-urls", &url],
            ["--listen-peer-urls", &own],
            ["--initial-advertise-peer-urls", &own],
            ["--initial-cluster", &cluster],
            ["--logger", "zap"],
        ];
        let words = words.iter().flatten().chain(more).map(ToString::to_string).collect::<Vec<_>>();
        Self { child: run(&dir, &words), dir, url, words }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
    pub fn again(&mut self) {
        self.child = run(&self.dir, &self.words);
    }
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn config(&self) -> StoreConfig {
        endpoints(&[&self.url])
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    pub fn ctl(&self, words: &[&str]) -> String {
        let out = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url))
            .args(["--dial-timeout=20s", "--command-timeout=20s"])
            .args(words)
            .output()
            .unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    pub async fn until_healthy(&self) {
        drop(open(&self.config()).await);
    }
}

fn run(dir: &Path, words: &[String]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new("etcd")
        .env("ETCD_UNSUPPORTED_ARCH", "arm64")
        .args(words)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start etcd (Debian package etcd-server)")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
