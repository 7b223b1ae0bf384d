//! Our side: a detector on a thread of the test's process, or in a process of its own that can be
//! killed.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft::bgp::Detector;
use weft_bgp::bfd::{Report, Settings};
use weft_linux::Netns;

use crate::{
    peer::Session,
    site::{PATIENCE, until},
};

const KEEP: &str = "/run/bfd.json";

pub type News = (IpAddr, Result<(), String>, Instant);

pub struct Ours {
    pub detector: Detector,
    news: Receiver<News>,
    /// Of others than was asked for.
    aside: RefCell<Vec<News>>,
}

pub fn settings(sessions: &[Session]) -> BTreeMap<IpAddr, Settings> {
    let one = |session: &Session| Settings {
        local: session.ends.ours,
        interval: Duration::from_millis(session.interval_ms.into()),
        multiplier: session.multiplier,
        multihop: session.multihop,
        on_link: false,
    };
    sessions.iter().map(|session| (session.ends.theirs, one(session))).collect()
}

fn detector(keep: &str, told: impl Fn(News) + Send + 'static) -> Detector {
    let news = move |peer, what| told((peer, what, Instant::now()));
    Detector::start(keep.into(), Box::new(news)).unwrap()
}

impl Ours {
    pub fn start(netns: &Netns, sessions: &[Session]) -> Self {
        Self::keeping(KEEP, netns, sessions)
    }

    pub fn keeping(keep: &str, netns: &Netns, sessions: &[Session]) -> Self {
        let (tell, news) = channel();
        let detector =
            netns.run(|| detector(keep, move |news| tell.send(news).unwrap_or_default())).unwrap();
        detector.configure(settings(sessions));
        Self { detector, news, aside: RefCell::default() }
    }

    /// The next news of this neighbour.
    pub fn hears(&self, peer: IpAddr) -> News {
        let end = Instant::now() + PATIENCE;
        let mut aside = self.aside.borrow_mut();
        loop {
            if let Some(at) = aside.iter().position(|news| news.0 == peer) {
                return aside.remove(at);
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(news) = self.news.recv_timeout(left) else {
                panic!(
                    "no news of {peer}: {:#?} {:?}",
                    self.report(peer),
                    self.detector.problems()
                );
            };
            aside.push(news);
        }
    }

    pub fn until_up(&self, peer: IpAddr) {
        assert_eq!(self.hears(peer).1, Ok(()));
    }

    pub fn until_down(&self, peer: IpAddr) -> (String, Instant) {
        let (_, what, when) = self.hears(peer);
        (what.unwrap_err(), when)
    }

    pub fn no_news(&self) -> bool {
        self.news.try_recv().is_err() && self.aside.borrow().is_empty()
    }

    pub fn report(&self, peer: IpAddr) -> Report {
        self.detector.reports().remove(&peer).unwrap_or_else(|| panic!("no session with {peer}"))
    }

    pub fn until_reports(&self, peer: IpAddr, what: &str, holds: impl Fn(&Report) -> bool) {
        until(what, || self.detector.reports().get(&peer).is_some_and(&holds));
    }
}

/// A program that has a detector and nothing else.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// This test's program, which does `in_its_own_process` when the test begins.
    pub fn start(netns: &Netns, test: &str, sessions: &[Session]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env("WEFT_BFD", words(sessions));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn()).unwrap().unwrap();
        let (said, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let ours = |line: String| line.strip_prefix("bfd: ").map(str::to_owned);
            out.lines()
                .map_while(Result::ok)
                .filter_map(ours)
                .for_each(|line| drop(said.send(line)));
        });
        Self { child, lines }
    }

    pub fn hears(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("news")
    }

    pub fn no_news(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It ends as before a planned restart.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Never returns if this process is a `Program`.
pub fn in_its_own_process() {
    let Ok(words) = env::var("WEFT_BFD") else { return };
    let detector = detector(KEEP, |(peer, what, _)| match what {
        Ok(()) => println!("\nbfd: {peer} up"),
        Err(why) => println!("\nbfd: {peer} down: {why}"),
    });
    detector.configure(settings(&sessions(&words)));
    // Until its beginner has no more to say.
    let _ = std::io::stdin().read_line(&mut String::new());
    detector.stop(false);
    std::process::exit(0);
}

fn words(sessions: &[Session]) -> String {
    let one = |session: &Session| {
        let Session { ends, multihop, interval_ms, multiplier } = session;
        format!("{} {} {multihop} {interval_ms} {multiplier}\n", ends.ours, ends.theirs)
    };
    sessions.iter().map(one).collect()
}

fn sessions(words: &str) -> Vec<Session> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [ours, theirs, multihop, interval, multiplier] = words[..] else { panic!("{line}") };
        let ends =
            crate::site::Ends { ours: ours.parse().unwrap(), theirs: theirs.parse().unwrap() };
        Session {
            ends,
            multihop: multihop.parse().unwrap(),
            interval_ms: interval.parse().unwrap(),
            multiplier: multiplier.parse().unwrap(),
        }
    };
    words.lines().map(one).collect()
}

/// What a successor would go on from.
pub fn kept() -> String {
    fs::read_to_string(KEEP).unwrap_or_default()
}
