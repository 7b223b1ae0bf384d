//! The neighbour that says it all: our codec on a plain socket. What it says is packed beforehand.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use anyhow::bail;
use ipnet::{IpNet, Ipv4Net};
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Origin, Segment},
    wire::{Agreed, Capability, Frames, Message, Open, PORT, Packer, Update, read, write},
};
use weft_linux::{Netns, tcp};

use super::receiver;

pub const ADDR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub const AS: u32 = 65003;
/// Different sets of attributes, as routes of some thousand origins have them.
const SETS: u32 = 5000;
/// Prefixes that come in one message: as in a full table, few.
const TOGETHER: u32 = 6;
const HOLD: u16 = 180;
const KEEPALIVE: Duration = Duration::from_secs(20);

fn agreed() -> Agreed {
    Agreed { four_octet_as: true, ipv4: true, external: true, ..Agreed::default() }
}

/// /24s from 20.0.0.0 on, and End-of-RIB.
pub fn updates(routes: u32) -> anyhow::Result<Vec<u8>> {
    let (agreed, mut bytes) = (agreed(), Vec::new());
    for (message, first) in (0..routes).step_by(TOGETHER as usize).enumerate() {
        // Sets come again and again, in no order.
        let set = u32::try_from(message)?.wrapping_mul(2_654_435_761) % SETS;
        let mut packer = Packer::announce(&attrs(set), NextHop::V4(ADDR), Family::Ipv4, &agreed)?;
        for n in first..routes.min(first + TOGETHER) {
            let addr = Ipv4Addr::from((20 << 24) + (n << 8));
            if !packer.add(&IpNet::V4(Ipv4Net::new(addr, 24)?)) {
                bail!("{TOGETHER} prefixes don't fit into a message");
            }
        }
        packer.finish(&mut bytes);
    }
    let end = Update { end_of_rib: Some(Family::Ipv4), ..Update::default() };
    write(&Message::Update(end), &agreed, &mut bytes);
    Ok(bytes)
}

fn attrs(set: u32) -> Attrs {
    let path = (0..2 + set % 4).map(|hop| 1000 + set / (hop + 1)).collect::<Vec<_>>();
    Attrs {
        origin: if set.is_multiple_of(10) { Origin::Incomplete } else { Origin::Igp },
        as_path: AsPath(vec![Segment::Sequence([vec![AS], path].concat())]),
        med: set.is_multiple_of(3).then_some(set),
        communities: (0..set % 5).map(|n| Community((AS << 16) | (set + n))).collect(),
        ..Attrs::default()
    }
}

pub struct Feeder(TcpStream);

/// Until it is dropped, the session goes on.
pub struct Feeding {
    stream: Arc<TcpStream>,
    threads: [Option<JoinHandle<()>>; 2],
}

impl Feeder {
    /// With a session that is established.
    pub fn connect(netns: &Netns) -> anyhow::Result<Self> {
        let mut stream = connect(netns)?;
        let capabilities = vec![
            Capability::Multiprotocol(Family::Ipv4),
            Capability::RouteRefresh,
            Capability::FourOctetAs(AS),
        ];
        let open = Open { asn: AS, hold_time: HOLD, router_id: ADDR, capabilities };
        let (mut bytes, mut frames) = (Vec::new(), Frames::default());
        write(&Message::Open(open), &agreed(), &mut bytes);
        write(&Message::Keepalive, &agreed(), &mut bytes);
        stream.write_all(&bytes)?;
        let mut buffer = [0; 4096];
        loop {
            while let Some(message) = frames.cut().map_err(|why| anyhow::anyhow!("{why}"))? {
                match read(&message, &agreed()) {
                    Ok(Some(Message::Keepalive)) => return Ok(Self(stream)),
                    Ok(Some(Message::Notification(why))) => bail!("the receiver says: {why}"),
                    _ => {}
                }
            }
            match stream.read(&mut buffer)? {
                0 => bail!("the receiver has closed the connection"),
                length => frames.push(&buffer[..length]),
            }
        }
    }

    pub fn say(self, feed: &[u8]) -> Feeding {
        let stream = Arc::new(self.0);
        let (reader, writer, feed) = (stream.clone(), stream.clone(), feed.to_vec());
        let hears = spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while matches!((&*reader).read(&mut buffer), Ok(1..)) {}
        });
        let says = spawn(move || {
            let mut keepalive = Vec::new();
            write(&Message::Keepalive, &agreed(), &mut keepalive);
            let mut said = (&*writer).write_all(&feed);
            while said.is_ok() {
                std::thread::park_timeout(KEEPALIVE);
                said = (&*writer).write_all(&keepalive);
            }
        });
        Feeding { stream, threads: [Some(hears), Some(says)] }
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.iter_mut().filter_map(Option::take) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// As soon as somebody listens.
fn connect(netns: &Netns) -> anyhow::Result<TcpStream> {
    let to = SocketAddr::new(receiver::ADDR.into(), PORT);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let connect = || tcp::connect(ADDR.into(), to, tcp::Hops::default(), None);
        let stream = netns.run(connect)??;
        stream.set_nonblocking(false)?;
        // Nothing is written, but that waits until TCP stands, or not.
        match (&stream).write(&[]) {
            Ok(_) if stream.peer_addr().is_ok() => return Ok(stream),
            _ if Instant::now() > end => bail!("nobody listens at {to}"),
            _ => sleep(Duration::from_millis(20)),
        }
    }
}
