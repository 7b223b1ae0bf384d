//! A neighbour that says what it likes: our codec on a plain socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use weft_bgp::{
    attrs::{AsPath, Attrs, Family, NextHop, Segment},
    wire::{Agreed, Capability, Frames, Message, Notification, Open, PORT, Packer, read, write},
};
use weft_linux::{Netns, tcp};

use crate::site::{PATIENCE, ip, net};

pub struct Raw {
    pub stream: TcpStream,
    frames: Frames,
    agreed: Agreed,
}

impl Raw {
    /// Connects from one of a host's addresses, as soon as somebody listens.
    pub fn connect(host: &Netns, from: &str, to: &str) -> Self {
        let to = SocketAddr::new(ip(to), PORT);
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let connect = || tcp::connect(ip(from), to, tcp::Hops::default(), None);
            let stream = host.run(connect).unwrap().unwrap();
            stream.set_nonblocking(false).unwrap();
            // It blocks until TCP stands or not.
            if (&stream).write(&[]).is_ok() && stream.peer_addr().is_ok() {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let agreed = Agreed {
                    four_octet_as: true,
                    ipv4: true,
                    ipv6: true,
                    ipv4_over_ipv6: false,
                    external: true,
                };
                return Self { stream, frames: Frames::default(), agreed };
            }
            assert!(std::time::Instant::now() < end, "nobody listens at {to}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn open(asn: u32, hold_time: u16) -> Open {
        let capabilities = vec![
            Capability::Multiprotocol(Family::Ipv4),
            Capability::Multiprotocol(Family::Ipv6),
            Capability::RouteRefresh,
            Capability::FourOctetAs(asn),
        ];
        Open { asn, hold_time, router_id: "10.0.0.3".parse().unwrap(), capabilities }
    }

    /// Until the session is established, on this side at least.
    pub fn establish(&mut self, asn: u32, hold_time: u16) {
        self.say(&Message::Open(Self::open(asn, hold_time)));
        assert!(matches!(self.hear(), Some(Message::Open(_))), "an OPEN");
        self.say(&Message::Keepalive);
        assert_eq!(self.hear(), Some(Message::Keepalive));
    }

    pub fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        write(message, &self.agreed, &mut bytes);
        self.bytes(&bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        // Whoever has closed hears no more.
        let _ = self.stream.write_all(bytes);
    }

    pub fn announce(&mut self, path: &[u32], prefixes: &[String]) {
        let path = AsPath(vec![Segment::Sequence(path.to_vec())]);
        let attrs = Attrs { as_path: path, ..Attrs::default() };
        let hop = NextHop::V4("10.0.0.3".parse().unwrap());
        self.pack(prefixes, || Packer::announce(&attrs, hop, Family::Ipv4, &self.agreed).unwrap());
    }

    pub fn withdraw(&mut self, prefixes: &[String]) {
        self.pack(prefixes, || Packer::withdraw(Family::Ipv4));
    }

    fn pack(&self, prefixes: &[String], new: impl Fn() -> Packer) {
        let (mut bytes, mut packer) = (Vec::new(), new());
        for prefix in prefixes {
            let prefix = net(prefix);
            if !packer.add(&prefix) {
                std::mem::replace(&mut packer, new()).finish(&mut bytes);
                assert!(packer.add(&prefix));
            }
        }
        packer.finish(&mut bytes);
        (&self.stream).write_all(&bytes).unwrap();
    }

    /// The next message; none: the other side has closed.
    pub fn hear(&mut self) -> Option<Message> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.frames.cut().unwrap() {
                return Some(read(&message, &self.agreed).unwrap().unwrap());
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.frames.push(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing heard: {error}"),
            }
        }
    }

    /// What the other side says last.
    pub fn last_words(&mut self) -> Option<Notification> {
        loop {
            if let Message::Notification(why) = self.hear()? {
                return Some(why);
            }
        }
    }
}
