//! Traffic between pods, made by sockets that were opened inside their namespaces: who reaches
//! whom, how fast, how large; and flows that count what a change loses.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use weft_linux::{
    Netns,
    sockets::{Discover, discover, path_mtu},
};

use super::Pod;

const ECHO: u16 = 7;
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// A packet of a flow that is not there so long after the end is lost.
const DRAIN: Duration = Duration::from_secs(1);
/// A flow whose first packet has not arrived so long is begun all the same.
const MEET_MAX: Duration = Duration::from_secs(5);
const TRIES: usize = 4;
const SAMPLES: usize = 5;
/// Bytes that a flow's receiver may leave waiting: a second's worth of jumbo packets.
const QUEUE: usize = 16 << 20;

fn any(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Bytes of IP and UDP headers.
fn headers(ipv4: bool) -> usize {
    if ipv4 { 28 } else { 48 }
}

/// Answers every datagram with itself, as long as it lives.
pub struct Responder {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Responder {
    pub fn start(pod: &Pod) -> io::Result<Self> {
        Self::at(&pod.netns, &pod.addrs)
    }

    pub fn at(netns: &Netns, addrs: &[IpAddr]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for addr in addrs {
            let addr = SocketAddr::new(*addr, ECHO);
            let socket = netns.run(|| UdpSocket::bind(addr))??;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            let stop = stop.clone();
            threads.push(thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn ask(netns: &Netns, to: IpAddr) -> io::Result<UdpSocket> {
    let socket = netns.run(|| UdpSocket::bind((any(to.is_ipv4()), 0)))??;
    socket.connect((to, ECHO))?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(socket)
}

/// Median time of an answer from `to`; none if none came.
pub fn reach(from: &Netns, to: IpAddr) -> Option<Duration> {
    let socket = ask(from, to).ok()?;
    let mut times = Vec::new();
    for n in 0..TRIES + SAMPLES {
        if times.is_empty() && n >= TRIES {
            return None;
        }
        let (sent, mut answer) = (Instant::now(), [0; 64]);
        let stamp = (n as u64).to_be_bytes();
        if socket.send(&stamp).is_ok() {
            while let Ok(length) = socket.recv(&mut answer) {
                if answer[..length] == stamp {
                    times.push(sent.elapsed());
                    break;
                }
            }
        }
    }
    times.sort();
    times.get(times.len() / 2).copied()
}

/// The largest packet with DF set that is answered: the path MTU that the pod was given, or less.
pub fn largest(from: &Netns, to: IpAddr) -> Option<usize> {
    let socket = ask(from, to).ok()?;
    discover(&socket, Discover::Do).ok()?;
    let mut answer = vec![0; 65536];
    for _ in 0..TRIES {
        let mtu = path_mtu(&socket).ok()?;
        let packet = vec![b'w'; mtu - headers(to.is_ipv4())];
        if socket.send(&packet).is_ok()
            && socket.recv(&mut answer).is_ok_and(|length| length == packet.len())
        {
            return Some(mtu);
        }
    }
    None
}

/// Sends a packet of `size` with DF, larger than the path. True if the network answers that it is
/// too big, and by that the pod learns the path's MTU.
pub fn too_big(from: &Netns, to: IpAddr, size: usize) -> io::Result<Option<usize>> {
    let socket = ask(from, to)?;
    discover(&socket, Discover::Probe)?;
    let packet = vec![b'w'; size - headers(to.is_ipv4())];
    for _ in 0..TRIES {
        let _ = socket.send(&packet);
        // The ICMP error is told to the next call on a connected socket.
        match socket.recv(&mut vec![0; 65536]) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32) => {
                return path_mtu(&socket).map(Some);
            }
            _ => {}
        }
        if path_mtu(&socket)? < size {
            return path_mtu(&socket).map(Some);
        }
    }
    Ok(None)
}

/// A stream of packets whose every loss is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// 1 kHz of UDP, 64 bytes of payload.
    Small,
    /// 1 kHz of UDP, each as large as the path allows, DF set.
    Full,
    /// One TCP connection, as fast as it goes.
    Bulk,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub sent: u64,
    pub lost: u64,
    pub resets: u64,
    /// Packets that the sender's own kernel called too large, and that went smaller instead.
    pub resized: u64,
    /// Packets of whatever traffic that the machine itself dropped meanwhile, since no core came to
    /// take them (`net.core.netdev_max_backlog`): what a busy machine loses is not lost by a path.
    pub backlog: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.resets += other.resets;
        self.resized += other.resized;
        self.backlog = self.backlog.max(other.backlog);
    }
}

pub struct Flow {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Report>,
    receiver: JoinHandle<BTreeSet<u64>>,
    kind: FlowKind,
    arrived: Arc<AtomicU64>,
    last: Arc<Mutex<Option<String>>>,
    /// What the machine had dropped when it began.
    backlog: u64,
}

impl Flow {
    pub fn start(kind: FlowKind, from: &Pod, to: &Pod, ipv4: bool) -> anyhow::Result<Self> {
        let addr = to.addr(ipv4).ok_or_else(|| anyhow::anyhow!("no address of the family"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let last = Arc::new(Mutex::new(None));
        let (sender, receiver) = match kind {
            FlowKind::Bulk => bulk(from, to, addr, &stop, &arrived, &last)?,
            _ => datagrams(kind, from, to, addr, &stop, &arrived)?,
        };
        Ok(Self { stop, sender, receiver, kind, arrived, last, backlog: backlog_drops() })
    }

    /// Packets, or bytes, that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Why a TCP connection broke, if it did.
    pub fn broke(&self) -> Option<String> {
        self.last.lock().ok()?.clone()
    }

    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = self.sender.join().unwrap_or_default();
        let received = self.receiver.join().unwrap_or_default();
        if self.kind != FlowKind::Bulk {
            report.lost = report.sent - (received.len() as u64).min(report.sent);
        }
        report.backlog = backlog_drops().saturating_sub(self.backlog);
        report
    }
}

/// The second column of `/proc/net/softnet_stat` (net/core/net-procfs.c), of all CPUs.
fn backlog_drops() -> u64 {
    let stat = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = stat.lines().filter_map(|line| line.split_whitespace().nth(1));
    dropped.filter_map(|hex| u64::from_str_radix(hex, 16).ok()).sum()
}

type Threads = (JoinHandle<Report>, JoinHandle<BTreeSet<u64>>);

fn datagrams(
    kind: FlowKind,
    from: &Pod,
    to: &Pod,
    addr: IpAddr,
    stop: &Arc<AtomicBool>,
    arrived: &Arc<AtomicU64>,
) -> anyhow::Result<Threads> {
    let sink = to.netns.run(|| UdpSocket::bind((addr, 0)))??;
    sink.set_read_timeout(Some(Duration::from_millis(50)))?;
    // What waits for a receiver that had no core for a moment is not lost on the way.
    // Without rights of the host's own, as much as its limit allows.
    setsockopt(&sink, sockopt::RcvBufForce, &QUEUE)
        .or_else(|_| setsockopt(&sink, sockopt::RcvBuf, &QUEUE))?;
    let source = from.netns.run(|| UdpSocket::bind((any(addr.is_ipv4()), 0)))??;
    source.connect(sink.local_addr()?)?;
    meet(&source, &sink);
    if kind == FlowKind::Full {
        discover(&source, Discover::Do)?;
    }
    let (stopped, over) = (stop.clone(), Arc::new(AtomicBool::new(false)));
    let done = over.clone();
    let overhead = headers(addr.is_ipv4());
    let sender = thread::spawn(move || {
        let report = send(kind, &source, overhead, &stopped);
        thread::sleep(DRAIN);
        done.store(true, Ordering::Relaxed);
        report
    });
    let arrived = arrived.clone();
    let receiver = thread::spawn(move || {
        let (mut seen, mut buffer) = (BTreeSet::new(), vec![0; 65536]);
        while !over.load(Ordering::Relaxed) {
            let Ok(length) = sink.recv(&mut buffer) else { continue };
            if let Some(stamp) = buffer[..length].first_chunk::<8>() {
                seen.insert(u64::from_be_bytes(*stamp));
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
        seen
    });
    Ok((sender, receiver))
}

/// Waits until something arrives: a node that has its first pod has yet to be known to others, and what
/// is lost before is no loss of a path that there was.
fn meet(source: &UdpSocket, sink: &UdpSocket) {
    let end = Instant::now() + MEET_MAX;
    let mut met = false;
    while !met && Instant::now() < end {
        // Too short to be counted when it comes late. One that can't leave does not arrive either.
        let _ = source.send(b"hello");
        met = sink.recv(&mut [0; 16]).is_ok();
    }
}

fn send(kind: FlowKind, source: &UdpSocket, overhead: usize, stop: &AtomicBool) -> Report {
    let (mut report, start) = (Report::default(), Instant::now());
    let mut packet = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let due = start + Duration::from_millis(report.sent);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        packet[..8].copy_from_slice(&report.sent.to_be_bytes());
        loop {
            let size = match kind {
                FlowKind::Full => path_mtu(source).map_or(512, |mtu| mtu - overhead),
                _ => 64,
            };
            match source.send(&packet[..size]) {
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EMSGSIZE as i32) => {
                    report.resized += 1;
                }
                // Whatever else kept it from leaving counts as lost.
                _ => break,
            }
            if stop.load(Ordering::Relaxed) {
                return report;
            }
        }
        report.sent += 1;
    }
    report
}

fn bulk(
    from: &Pod,
    to: &Pod,
    addr: IpAddr,
    stop: &Arc<AtomicBool>,
    arrived: &Arc<AtomicU64>,
    last: &Arc<Mutex<Option<String>>>,
) -> anyhow::Result<Threads> {
    let listener = to.netns.run(|| TcpListener::bind((addr, 0)))??;
    let target = listener.local_addr()?;
    let arrived = arrived.clone();
    let receiver = thread::spawn(move || {
        if let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = stream.read(&mut buffer) {
                if length == 0 {
                    break;
                }
                arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        }
        BTreeSet::new()
    });
    let mut stream =
        from.netns.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))??;
    // A connection that stands still for so long is as good as reset.
    stream.set_write_timeout(Some(Duration::from_secs(15)))?;
    let (stop, last) = (stop.clone(), last.clone());
    let sender = thread::spawn(move || {
        let (mut report, chunk) = (Report::default(), vec![b'w'; 16384]);
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = stream.write_all(&chunk) {
                report.resets += 1;
                if let Ok(mut last) = last.lock() {
                    *last = Some(error.to_string());
                }
                break;
            }
            // Leaves the machine's two cores some air: the flow is there to be broken, not to win.
            thread::sleep(Duration::from_millis(1));
        }
        report
    });
    Ok((sender, receiver))
}
