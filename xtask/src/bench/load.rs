//! Traffic for measuring: everything on one core, so that what is measured is the work that a
//! packet costs, not how much of the machine it gets.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use weft_linux::Netns;

const TIME: Duration = Duration::from_millis(700);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Bytes a second, one TCP connection.
    Stream,
    /// Datagrams of 64 bytes received a second.
    Packets,
    /// Requests of one byte answered a second on one connection.
    Requests,
    /// Connections made, asked once and closed a second.
    Connects,
}

impl Load {
    pub const ALL: [(Self, &str); 4] = [
        (Self::Stream, "tcp_stream"),
        (Self::Packets, "udp_64"),
        (Self::Requests, "request_response"),
        (Self::Connects, "connect_request"),
    ];
}

fn pin() {
    let mut one = CpuSet::new();
    // A machine that forbids it measures with more noise, not wrongly.
    let _ = one.set(0).and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
}

/// What got through in a second, from one namespace to an address in another.
pub fn measure(load: Load, from: &Netns, to: &Netns, addr: IpAddr) -> io::Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let rate = match load {
        Load::Packets => packets(from, to, addr, &stop, &count)?,
        _ => connections(load, from, to, addr, &stop, &count)?,
    };
    Ok(rate)
}

fn packets(
    from: &Netns,
    to: &Netns,
    addr: IpAddr,
    stop: &Arc<AtomicBool>,
    count: &Arc<AtomicU64>,
) -> io::Result<f64> {
    let sink = to.run(|| UdpSocket::bind((addr, 0)))??;
    sink.set_read_timeout(Some(Duration::from_millis(50)))?;
    let source = from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
    source.connect(sink.local_addr()?)?;
    let (stopped, counted) = (stop.clone(), count.clone());
    let receiver = thread::spawn(move || {
        pin();
        let mut buffer = [0; 128];
        while !stopped.load(Ordering::Relaxed) {
            if sink.recv(&mut buffer).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let stopped = stop.clone();
    let sender = thread::spawn(move || {
        pin();
        while !stopped.load(Ordering::Relaxed) {
            let _ = source.send(&[0; 64]);
        }
    });
    let rate = watch(stop, count);
    let _ = (sender.join(), receiver.join());
    Ok(rate)
}

fn connections(
    load: Load,
    from: &Netns,
    to: &Netns,
    addr: IpAddr,
    stop: &Arc<AtomicBool>,
    count: &Arc<AtomicU64>,
) -> io::Result<f64> {
    let listener = to.run(|| TcpListener::bind((addr, 0)))??;
    let target = listener.local_addr()?;
    let (stopped, counted) = (stop.clone(), count.clone());
    let server = thread::spawn(move || {
        pin();
        while let Ok((stream, _)) = listener.accept() {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            serve(load, stream, &stopped, &counted);
        }
    });
    let (stopped, counted, netns) = (stop.clone(), count.clone(), from.try_clone()?);
    let client = thread::spawn(move || -> io::Result<()> {
        pin();
        netns.enter()?;
        ask(load, target, &stopped, &counted)
    });
    let rate = watch(stop, count);
    let asked = client.join();
    // The server waits for one more.
    let _ = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)));
    let _ = server.join();
    match asked.unwrap_or_else(|_| Err(io::Error::other("the client panicked"))) {
        // What the end itself breaks off is no error; a path on which nothing came through is.
        Err(error) if rate == 0.0 => return Err(error),
        _ => {}
    }
    Ok(rate)
}

fn serve(load: Load, mut stream: TcpStream, stop: &AtomicBool, count: &AtomicU64) {
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = vec![0; 65536];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stop.load(Ordering::Relaxed) {
            return;
        }
        if load == Load::Stream {
            count.fetch_add(length as u64, Ordering::Relaxed);
        } else if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn ask(load: Load, target: SocketAddr, stop: &AtomicBool, count: &AtomicU64) -> io::Result<()> {
    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(2));
    let mut stream = connect()?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let (chunk, mut answer) = (vec![0; 65536], [0]);
    while !stop.load(Ordering::Relaxed) {
        match load {
            Load::Stream => stream.write_all(&chunk)?,
            Load::Connects => {
                stream = connect()?;
                stream.write_all(&[1])?;
                stream.read_exact(&mut answer)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                stream.write_all(&[1])?;
                stream.read_exact(&mut answer)?;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// Lets it run warm, then counts.
fn watch(stop: &AtomicBool, count: &AtomicU64) -> f64 {
    thread::sleep(Duration::from_millis(150));
    let (before, start) = (count.load(Ordering::Relaxed), Instant::now());
    thread::sleep(TIME);
    let got = count.load(Ordering::Relaxed) - before;
    let rate = f64::from(u32::try_from(got / 1000).unwrap_or(u32::MAX))
        .mul_add(1000.0, f64::from(u32::try_from(got % 1000).unwrap_or(0)))
        / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    rate
}
