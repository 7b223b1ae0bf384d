//! Traffic for measuring: everything on one core, so that what is measured is the work that a
//! packet costs, not how much of the machine it gets.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use weft_linux::Netns;

use super::path::meter::{Mark, Worker, float, pin};

const WARM: Duration = Duration::from_millis(150);
const TIME: Duration = Duration::from_millis(500);
/// Fits into any socket's buffer.
const BURST: usize = 64;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Bytes, one TCP connection.
    Stream,
    /// Datagrams of 64 bytes received.
    Packets,
    /// Requests of one byte answered, on one connection.
    Requests,
    /// Connections made, asked once and closed.
    Connects,
}

impl Load {
    pub const ALL: [Self; 4] = [Self::Stream, Self::Packets, Self::Requests, Self::Connects];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "tcp_stream",
            Self::Packets => "udp_64",
            Self::Requests => "request_response",
            Self::Connects => "connect_request",
        }
    }
}

/// One run.
#[derive(Clone, Copy)]
pub struct Taken {
    /// What got through in a second on the clock, neighbours' turns on the core included.
    pub per_s: f64,
    /// Time on the core for each, ns.
    pub cost: f64,
    /// Share of the core that the load had; the rest was a neighbour's.
    pub share: f64,
    /// Share of packets that the kernel received on other cores.
    pub elsewhere: f64,
    /// Share of datagrams that were sent and never received: work that nobody counts.
    pub lost: f64,
}

/// What the threads of a run share.
#[derive(Clone, Default)]
struct Run {
    stop: Arc<AtomicBool>,
    got: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

/// What gets through from one namespace to an address in another.
pub fn measure(load: Load, from: &Netns, to: &Netns, addr: IpAddr) -> io::Result<Taken> {
    let run = Run::default();
    match load {
        Load::Packets => packets(from, to, addr, &run),
        _ => connections(load, from, to, addr, &run),
    }
}

/// One thread sends a few, then takes them in: two that wake each other would spend most of the
/// time on that, and lose what the one sends before the other has its turn.
fn packets(from: &Netns, to: &Netns, addr: IpAddr, run: &Run) -> io::Result<Taken> {
    let sink = to.run(|| UdpSocket::bind((addr, 0)))??;
    sink.set_read_timeout(Some(Duration::from_millis(50)))?;
    let source = from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    source.connect(sink.local_addr()?)?;
    let (started, workers) = channel();
    let working = run.clone();
    let worker = thread::spawn(move || {
        let _ = started.send(pin());
        let mut buffer = [0; 128];
        while !working.stop.load(Ordering::Relaxed) {
            let sent = (0..BURST).filter(|_| source.send(&[0; 64]).is_ok()).count();
            let got = (0..sent).take_while(|_| sink.recv(&mut buffer).is_ok()).count();
            working.sent.fetch_add(sent as u64, Ordering::Relaxed);
            working.got.fetch_add(got as u64, Ordering::Relaxed);
        }
    });
    let taken = watch(run, &workers, 1);
    let _ = worker.join();
    taken
}

fn connections(load: Load, from: &Netns, to: &Netns, addr: IpAddr, run: &Run) -> io::Result<Taken> {
    let listener = to.run(|| TcpListener::bind((addr, 0)))??;
    let target = listener.local_addr()?;
    let (started, workers) = channel();
    let (serving, up) = (run.clone(), started.clone());
    let server = thread::spawn(move || {
        let _ = up.send(pin());
        while let Ok((stream, _)) = listener.accept() {
            if serving.stop.load(Ordering::Relaxed) {
                break;
            }
            serve(load, stream, &serving);
        }
    });
    let (asking, netns) = (run.clone(), from.try_clone()?);
    let client = thread::spawn(move || ask(load, target, &netns, &started, &asking));
    let taken = watch(run, &workers, 2);
    let asked = client.join();
    // The server waits for one more.
    let _ = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)));
    let _ = server.join();
    let asked = asked.unwrap_or_else(|_| Err(io::Error::other("the client panicked")));
    match (taken, asked) {
        // What the end itself breaks off is no error; a path on which nothing came through is.
        (Ok(taken), Err(error)) if taken.per_s == 0.0 => Err(error),
        (Err(_), Err(error)) => Err(error),
        (taken, _) => taken,
    }
}

fn serve(load: Load, mut stream: TcpStream, run: &Run) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = vec![0; 65536];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || run.stop.load(Ordering::Relaxed) {
            return;
        }
        if load == Load::Stream {
            run.got.fetch_add(length as u64, Ordering::Relaxed);
        } else if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn ask(
    load: Load,
    target: SocketAddr,
    netns: &Netns,
    started: &Sender<Worker>,
    run: &Run,
) -> io::Result<()> {
    let _ = started.send(pin());
    netns.enter()?;
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(2));
    let mut stream = connect()?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let (chunk, mut answer) = (vec![0; 65536], [0]);
    while !run.stop.load(Ordering::Relaxed) {
        if load == Load::Stream {
            stream.write_all(&chunk)?;
            continue;
        }
        if load == Load::Connects {
            stream = connect()?;
        }
        stream.write_all(&[1])?;
        stream.read_exact(&mut answer)?;
        run.got.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Lets it run warm, then counts. Ends the run in any case.
fn watch(run: &Run, started: &Receiver<Worker>, threads: usize) -> io::Result<Taken> {
    let worker = |_| started.recv_timeout(PATIENCE).map_err(io::Error::other);
    let workers: io::Result<Vec<_>> = (0..threads).map(worker).collect();
    let taken = workers.and_then(|workers| count(run, &workers));
    run.stop.store(true, Ordering::Relaxed);
    taken
}

fn count(run: &Run, workers: &[Worker]) -> io::Result<Taken> {
    thread::sleep(WARM);
    let read = || (run.got.load(Ordering::Relaxed), run.sent.load(Ordering::Relaxed));
    let (got, sent) = read();
    let start = Mark::now(workers)?;
    thread::sleep(TIME);
    let end = Mark::now(workers)?;
    let now = read();
    let (got, sent) = (float(now.0 - got), float(now.1 - sent));
    let span = start.until(&end);
    let work = float(span.work);
    Ok(Taken {
        per_s: got / span.time.as_secs_f64(),
        cost: work / got,
        share: work / 1e9 / span.time.as_secs_f64(),
        elsewhere: span.elsewhere,
        lost: if sent > 0.0 { (1.0 - got / sent).max(0.0) } else { 0.0 },
    })
}
