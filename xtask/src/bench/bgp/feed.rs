//! The neighbour that feeds: one table of routes as UPDATE messages, made once, and a session that
//! says them. Attributes are as in a full table: some thousands of different ones, few prefixes each.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use weft_bgp::{
    attrs::{AsPath, Attrs, Community, Family, NextHop, Segment},
    wire::{self, Agreed, Capability, Frames, Message, Open, Packer},
};

pub const FEEDER_AS: u32 = 65001;
pub const FED_AS: u32 = 64512;
/// Prefixes that come in one message, and messages that share their attributes with a later one.
const TOGETHER: u32 = 8;
const ALIKE: u32 = 3;

pub struct Feed {
    pub routes: u32,
    pub bytes: Arc<Vec<u8>>,
}

fn agreed() -> Agreed {
    Agreed { four_octet_as: true, ipv4: true, external: true, ..Agreed::default() }
}

impl Feed {
    pub fn new(routes: u32) -> anyhow::Result<Self> {
        let (mut bytes, agreed) = (Vec::new(), agreed());
        let mut next = 0;
        while next < routes {
            let attrs = attrs(next / TOGETHER % (routes / TOGETHER / ALIKE).max(1));
            let hop = NextHop::V4(super::FEEDER.parse().unwrap_or(Ipv4Addr::UNSPECIFIED));
            let mut packer = Packer::announce(&attrs, hop, Family::Ipv4, &agreed)?;
            for prefix in (next..routes.min(next + TOGETHER)).map(prefix) {
                packer.add(&prefix);
            }
            packer.finish(&mut bytes);
            next += TOGETHER;
        }
        Ok(Self { routes, bytes: Arc::new(bytes) })
    }
}

/// /24s from 1.0.0.0 on, in an order that is no order.
fn prefix(n: u32) -> IpNet {
    // One to one below 2^21: an odd multiplier permutes the low bits.
    let low = n.wrapping_mul(2_654_435_761) & 0x001f_ffff;
    Ipv4Net::new(Ipv4Addr::from(0x0100_0000 + (low << 8)), 24)
        .map_or_else(|_| IpNet::default(), IpNet::V4)
}

fn attrs(n: u32) -> Attrs {
    let length = 2 + n % 5;
    let path = (0..length).map(|hop| 1000 + (n.wrapping_mul(31 + hop) % 60_000));
    let path = std::iter::once(FEEDER_AS).chain(path).collect();
    Attrs {
        as_path: AsPath(vec![Segment::Sequence(path)]),
        communities: (0..n % 4).map(|c| Community((FEEDER_AS << 16) | (n + c) & 0xffff)).collect(),
        med: n.is_multiple_of(3).then_some(n),
        ..Attrs::default()
    }
}

/// An established session.
pub struct Session {
    stream: TcpStream,
}

impl Session {
    /// Connects and comes to Established, once somebody listens.
    pub fn establish(to: &str, patience: Duration) -> anyhow::Result<Self> {
        let to: SocketAddr = format!("{to}:{}", wire::PORT).parse()?;
        let end = Instant::now() + patience;
        loop {
            match Self::open(to) {
                Ok(session) => return Ok(session),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        let open = Open {
            asn: FEEDER_AS,
            hold_time: 0,
            router_id: super::FEEDER.parse()?,
            capabilities: vec![
                Capability::Multiprotocol(Family::Ipv4),
                Capability::FourOctetAs(FEEDER_AS),
            ],
        };
        let mut bytes = Vec::new();
        wire::write(&Message::Open(open), &agreed(), &mut bytes);
        stream.write_all(&bytes)?;
        let mut frames = Frames::default();
        let mut opened = false;
        loop {
            match next(&mut stream, &mut frames)? {
                Message::Open(_) => {
                    opened = true;
                    let mut bytes = Vec::new();
                    wire::write(&Message::Keepalive, &agreed(), &mut bytes);
                    stream.write_all(&bytes)?;
                }
                Message::Keepalive if opened => return Ok(Self { stream }),
                Message::Notification(why) => bail!("refused: {why:?}"),
                _ => {}
            }
        }
    }

    /// Says it all, and reads what comes meanwhile, or the other might stop reading.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut reading = self.stream.try_clone()?;
        reading.set_read_timeout(None)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while reading.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        self.stream.write_all(bytes).context("say the routes")
    }
}

fn next(stream: &mut TcpStream, frames: &mut Frames) -> anyhow::Result<Message> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = frames.cut().map_err(|why| anyhow::anyhow!("{why:?}"))? {
            let read = wire::read(&frame, &agreed()).map_err(|why| anyhow::anyhow!("{why:?}"))?;
            if let Some(message) = read {
                return Ok(message);
            }
            continue;
        }
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "it closed the connection");
        frames.push(&buffer[..read]);
    }
}
