//! The thread that has BFD's sockets. It waits for nobody: orders and questions come to it through a
//! channel, what it finds is told by a closure that must return at once, and nothing is logged. It
//! runs before other threads where the system allows it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::{fd::AsFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use weft_bgp::bfd::{Bfd, Change, Packet, Report, Settings};
use weft_linux::bfd::{Ear, Mouth, urgent};

/// A socket that can't be had is tried again so often: a predecessor may be about to end.
const RETRY: Duration = Duration::from_millis(100);
/// Packets that are read from a socket before others are served.
const BURST: usize = 4096;
/// Source ports that are tried at once for a session.
const PORTS: usize = 16;
/// Whoever asks is told within this, or nothing.
const ANSWER: Duration = Duration::from_secs(1);
/// So long neighbours are asked to wait for us while we restart as planned.
const AWAY: Duration = Duration::from_secs(30);
/// And so long we wait for their word that they will.
const POLITE: Duration = Duration::from_millis(300);

/// Who is told what: up, or down and why. Called by the thread itself, so it must return at once.
pub type News = Box<dyn Fn(IpAddr, Result<(), String>) + Send>;

/// The handle. The thread ends with it, as if it were killed.
pub struct Detector {
    orders: Sender<Order>,
    bell: UnixDatagram,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Configure(BTreeMap<IpAddr, Settings>),
    Reports(SyncSender<BTreeMap<IpAddr, Report>>),
    Problems(SyncSender<Vec<String>>),
    Stop { for_good: bool },
    End,
}

impl Detector {
    /// In the caller's network namespace. Sessions that an earlier program kept in the file `keep` go
    /// on at once, before anything is configured.
    pub fn start(keep: PathBuf, news: News) -> io::Result<Self> {
        let (bell, rung) = UnixDatagram::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let (orders, ordered) = channel();
        let seed = u64::from(weft_linux::random()?) << 32 | u64::from(weft_linux::random()?);
        let work = move || Work::begin(keep, news, seed).run(&ordered, &rung);
        let thread = std::thread::Builder::new().name("bfd".into()).spawn(work)?;
        Ok(Self { orders, bell, thread: Some(thread) })
    }

    /// All neighbours that are to be watched from now on. Whoever is not among them is told that BFD
    /// is switched off.
    pub fn configure(&self, wanted: BTreeMap<IpAddr, Settings>) {
        self.order(Order::Configure(wanted));
    }

    pub fn reports(&self) -> BTreeMap<IpAddr, Report> {
        self.ask(Order::Reports)
    }

    /// What keeps it from its work, in words.
    pub fn problems(&self) -> Vec<String> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return vec!["BFD's thread has died, which is a bug; restart the agent".into()];
        }
        self.ask(Order::Problems)
    }

    /// Returns when the thread has ended. `for_good`: neighbours are told that BFD is switched off;
    /// else they are asked to wait for a successor for half a minute, which may take some 0.3 s.
    pub fn stop(self, for_good: bool) {
        self.order(Order::Stop { for_good });
    }

    fn ask<T: Default>(&self, question: impl FnOnce(SyncSender<T>) -> Order) -> T {
        let (answer, answered) = sync_channel(1);
        self.order(question(answer));
        answered.recv_timeout(ANSWER).unwrap_or_default()
    }

    fn order(&self, order: Order) {
        // A thread that has ended takes no orders, and one that is rung already wakes anyhow.
        let _ = self.orders.send(order);
        let _ = self.bell.send(&[0]);
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        self.order(Order::End);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Work {
    keep: PathBuf,
    news: News,
    began: Instant,
    bfd: Bfd,
    /// The version of what the file `keep` says.
    kept: Option<u64>,
    ears: BTreeMap<SocketAddr, Ear>,
    mouths: BTreeMap<IpAddr, Spoken>,
    retry: Option<Instant>,
    problems: BTreeMap<Place, String>,
}

struct Spoken {
    mouth: Mouth,
    local: IpAddr,
    port: u16,
}

/// What a problem is of: a new one takes the place of the old, and success takes it away.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Keep,
    Ear(SocketAddr),
    Mouth(IpAddr),
}

impl Work {
    fn begin(keep: PathBuf, news: News, seed: u64) -> Self {
        urgent();
        let kept = fs::read(&keep).unwrap_or_default();
        Self {
            keep,
            news,
            began: Instant::now(),
            bfd: Bfd::restored(&kept, seed, Duration::ZERO),
            kept: None,
            ears: BTreeMap::new(),
            mouths: BTreeMap::new(),
            retry: None,
            problems: BTreeMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn run(mut self, ordered: &Receiver<Order>, rung: &UnixDatagram) {
        loop {
            self.read();
            while let Ok(order) = ordered.try_recv() {
                match order {
                    Order::End => return,
                    Order::Stop { for_good: true } => return self.leave(),
                    Order::Stop { for_good: false } => return self.pause(rung),
                    order => self.obey(order),
                }
            }
            self.serve();
            self.wait(rung, None);
        }
    }

    /// What has come in was read before: nobody is judged by the clock alone, however late it is.
    fn serve(&mut self) {
        self.bfd.tick(self.now());
        self.note();
        self.speak();
        self.tell();
    }

    fn obey(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Configure(wanted) => self.bfd.configure(wanted, now),
            // Whoever asked may have given up.
            Order::Reports(answer) => drop(answer.try_send(self.bfd.reports(now))),
            Order::Problems(answer) => {
                drop(answer.try_send(self.problems.values().cloned().collect()));
            }
            Order::Stop { .. } | Order::End => {}
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 256];
        for ear in self.ears.values_mut() {
            for _ in 0..BURST {
                let Ok(Some(heard)) = ear.receive(&mut buffer) else { break };
                let now = self.began.elapsed();
                let bytes = &buffer[..heard.length];
                let (from, to, ttl) = (heard.from, heard.to, heard.ttl);
                // What is refused is counted with its session.
                let _ = self.bfd.receive(from, to, ttl, ear.port(), bytes, now);
            }
        }
    }

    /// Sockets and file follow the sessions. The file first, then the packets: what a neighbour was
    /// told, a successor knows.
    fn note(&mut self) {
        let version = self.bfd.version();
        let changed = self.kept != Some(version);
        if changed || self.retry.is_some_and(|when| when <= Instant::now()) {
            self.listen();
        }
        if changed {
            self.write();
            self.kept = Some(version);
            self.mouths.retain(|peer, _| self.bfd.speaks_to(*peer));
            let bfd = &self.bfd;
            self.problems.retain(|place, _| match place {
                Place::Mouth(peer) => bfd.speaks_to(*peer),
                Place::Ear(_) | Place::Keep => true,
            });
        }
    }

    fn listen(&mut self) {
        let wanted = self.bfd.listens();
        self.ears.retain(|at, _| wanted.contains(at));
        self.problems.retain(|place, _| !matches!(place, Place::Ear(_)));
        self.retry = None;
        for at in wanted {
            if self.ears.contains_key(&at) {
                continue;
            }
            match Ear::open(at) {
                Ok(ear) => drop(self.ears.insert(at, ear)),
                Err(error) => {
                    self.problems.insert(Place::Ear(at), error.to_string());
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn write(&mut self) {
        let written = replace(&self.keep, &self.bfd.keep());
        self.problems.remove(&Place::Keep);
        if let Err(error) = written {
            let words = format!(
                "write {}: {error}; after a restart neighbours will see BFD go down",
                self.keep.display()
            );
            self.problems.insert(Place::Keep, words);
        }
    }

    fn speak(&mut self) {
        while let Some(packet) = self.bfd.transmit() {
            let place = Place::Mouth(packet.peer);
            match self.send(&packet) {
                Ok(()) if self.problems.is_empty() => {}
                Ok(()) => drop(self.problems.remove(&place)),
                Err(error) => {
                    let (from, to) = (packet.local, packet.peer);
                    let words = format!("send BFD packets from {from} to {to}: {error}");
                    self.problems.insert(place, words);
                }
            }
        }
    }

    fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let to = SocketAddr::new(packet.peer, packet.port);
        let same =
            |spoken: &&Spoken| spoken.local == packet.local && spoken.port == packet.source_port;
        if let Some(spoken) = self.mouths.get(&packet.peer).filter(same) {
            return spoken.mouth.send(to, &packet.bytes);
        }
        let mut port = packet.source_port;
        let mut opened = Mouth::open(packet.local, port);
        for _ in 0..PORTS {
            if !opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                break;
            }
            let Some(other) = self.bfd.another_port(packet.peer) else { break };
            port = other;
            opened = Mouth::open(packet.local, port);
        }
        let mouth = opened?;
        let sent = mouth.send(to, &packet.bytes);
        self.mouths.insert(packet.peer, Spoken { mouth, local: packet.local, port });
        sent
    }

    fn tell(&mut self) {
        while let Some((peer, change)) = self.bfd.event() {
            match change {
                Change::Up => (self.news)(peer, Ok(())),
                Change::Down { why, .. } => (self.news)(peer, Err(why)),
            }
        }
    }

    fn wait(&self, rung: &UnixDatagram, most: Option<Duration>) {
        let retry = self.retry.map(|when| when.saturating_duration_since(Instant::now()));
        let due = self.bfd.deadline().map(|due| due.saturating_sub(self.now()));
        let longest = due.into_iter().chain(retry).chain(most).min();
        let ears = self.ears.values().map(AsFd::as_fd);
        let fds = ears.chain([rung.as_fd()]);
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // Interrupted or not, the loop looks at everything.
        let _ = ppoll(&mut fds, longest.map(TimeSpec::from_duration), None);
        let mut once = [0; 16];
        while rung.recv(&mut once).is_ok() {}
    }

    /// For good.
    fn leave(mut self) {
        self.bfd.stop(self.now());
        self.speak();
        // Left behind, it would only have a successor ask for what nobody knows any more.
        let _ = fs::remove_file(&self.keep);
    }

    /// For a restart.
    fn pause(mut self, rung: &UnixDatagram) {
        let end = Instant::now() + POLITE;
        self.bfd.ask_patience(AWAY, self.now());
        loop {
            self.serve();
            let left = end.saturating_duration_since(Instant::now());
            if self.bfd.is_settled() || left.is_zero() {
                return;
            }
            self.wait(rung, Some(left));
            self.read();
        }
    }
}

/// Whole or not at all. Not synced: it is to outlive this program, not the boot.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}
