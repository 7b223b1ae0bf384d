//! A router between two wires: packets are put on the one, and those that it hands on are heard on the
//! other. One that must pass follows all others: what has not come before it, comes no more.

use std::{
    cell::Cell,
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use weft_core::{
    checksum::checksum,
    policy::{spec::Protocol, verdict::Packet},
};
use weft_linux::Netns;

const MAC: &str = "02:00:00:00:00:01";
const LAST: u32 = u32::MAX;
const ETHERTYPE: [[u8; 2]; 2] = [[0x86, 0xdd], [0x08, 0x00]];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    First,
    Answer,
}

pub struct Router {
    pub netns: Netns,
    wire: OwnedFd,
    ear: OwnedFd,
    next: Cell<u32>,
}

impl Router {
    pub fn new() -> Self {
        let (netns, wires) = (Netns::create().unwrap(), Netns::create().unwrap());
        wires.bind(std::path::Path::new("/run/wires")).unwrap();
        sh(
            &netns,
            &format!(
                "ip link add in address {MAC} type veth peer name w-in netns /run/wires
                 ip link add out type veth peer name w-out netns /run/wires
                 sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                   net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in.rp_filter=0 \
                   net.ipv4.conf.default.rp_filter=0
                 ip link set lo up; ip link set in up; ip link set out up
                 ip addr add 203.0.113.250/32 dev out; ip addr add 203.0.113.251/32 dev in
                 ip addr add 2001:db8:ff::1/128 dev out nodad; ip addr add 2001:db8:ff::2/128 dev in nodad
                 ip route add default via 203.0.113.254 dev out onlink
                 ip -6 route add default via 2001:db8:ff::254 dev out onlink
                 for to in 203.0.113.254 2001:db8:ff::254; do
                   ip neigh replace $to lladdr 02:00:00:00:00:02 dev out nud permanent; done"
            ),
        );
        sh(&wires, "ip link set w-in up; ip link set w-out up");
        let open = |dev: &str| wires.run(|| packets(dev)).unwrap().unwrap();
        let (wire, ear) = (open("w-in"), open("w-out"));
        // What must pass and does not is an error, and no wait.
        setsockopt(&ear, sockopt::ReceiveTimeout, &TimeVal::new(5, 0)).unwrap();
        nix::mount::umount("/run/wires").unwrap();
        Self { netns, wire, ear, next: Cell::new(1) }
    }

    /// A packet's, which no other has.
    pub fn number(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// The numbers of those that the router hands on.
    pub fn send(&self, some: impl Iterator<Item = (u32, Packet, Flags)>) -> BTreeSet<u32> {
        some.for_each(|(number, packet, flags)| self.put(&frame(number, &packet, flags)));
        let any = |text: &str| text.parse().unwrap();
        let last = Packet {
            source: any("198.51.100.250"),
            destination: any("198.51.100.251"),
            port: Some((Protocol::Udp, 9)),
        };
        self.put(&frame(LAST, &last, Flags::First));
        let mut passed = BTreeSet::new();
        loop {
            let number = self.hear();
            if number == LAST {
                return passed;
            }
            passed.insert(number);
        }
    }

    fn put(&self, frame: &[u8]) {
        nix::unistd::write(&self.wire, frame).unwrap();
    }

    fn hear(&self) -> u32 {
        let mut buffer = [0; 256];
        loop {
            let length = nix::unistd::read(&self.ear, &mut buffer).unwrap();
            // What the kernel says of itself on a new link is shorter, or says something else.
            let told = length >= 8 && buffer[length - 8..length - 4] == *b"weft";
            if told {
                return u32::from_be_bytes(buffer[length - 4..length].try_into().unwrap());
            }
        }
    }

    pub fn rules(&self) -> String {
        sh(&self.netns, "nft list ruleset")
    }
}

fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output().unwrap()).unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A packet socket of one device, of the calling thread's namespace.
fn packets(dev: &str) -> io::Result<OwnedFd> {
    const ALL: u16 = 3_u16.to_be();
    let index = nix::net::if_::if_nametoindex(dev)?;
    // SAFETY: plain system calls; the address is a struct that outlives the call, of the length told;
    // the descriptor is new and nobody else's.
    #[allow(unsafe_code)]
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ALL));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut addr: libc::sockaddr_ll = std::mem::zeroed();
        addr.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        addr.sll_protocol = ALL;
        addr.sll_ifindex = index.cast_signed();
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
        if libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), length) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}

/// A whole frame: `weft` and the number stand at its end.
fn frame(number: u32, packet: &Packet, flags: Flags) -> Vec<u8> {
    let answer = flags == Flags::Answer;
    let (mut from, mut to) = (packet.source, packet.destination);
    if answer {
        std::mem::swap(&mut from, &mut to);
    }
    let [high, low] = (1024 + u16::try_from(number % 60_000).unwrap()).to_be_bytes();
    let (protocol, mut segment) = match packet.port {
        None if from.is_ipv4() => (1, vec![8, 0, 0, 0, high, low, 0, 1]),
        None => (58, vec![128, 0, 0, 0, high, low, 0, 1]),
        Some((protocol, port)) => {
            let [first, second] = port.to_be_bytes();
            let ports =
                if answer { [first, second, high, low] } else { [high, low, first, second] };
            let mut segment = ports.to_vec();
            segment.extend_from_slice(match protocol {
                Protocol::Tcp if answer => &[0, 0, 0, 9, 0, 0, 0, 2, 0x50, 0x12, 16, 0, 0, 0, 0, 0],
                Protocol::Tcp => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 16, 0, 0, 0, 0, 0],
                Protocol::Udp => &[0, 16, 0, 0],
                Protocol::Sctp => &[0, 0, 0, 0, 0, 0, 0, 0],
            });
            (protocol.number(), segment)
        }
    };
    segment.extend_from_slice(b"weft");
    segment.extend_from_slice(&number.to_be_bytes());
    let at = match protocol {
        1 | 58 => 2,
        6 => 16,
        17 => 6,
        // SCTP's is a CRC, which nobody asks for here.
        _ => usize::MAX,
    };
    if at != usize::MAX {
        let sum = sum(from, to, protocol, &segment);
        segment[at..at + 2].copy_from_slice(&sum);
    }
    let mac = [2, 0, 0, 0, 0, 1];
    let source = [2, 0, 0, 0, 0, 3];
    [
        &mac[..],
        &source,
        &ETHERTYPE[usize::from(from.is_ipv4())],
        &header(from, to, protocol, &segment),
        &segment,
    ]
    .concat()
}

fn sum(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> [u8; 2] {
    let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
    match (from, to) {
        _ if protocol == 1 => checksum(&[segment]),
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            checksum(&[&from.octets(), &to.octets(), &[0, protocol], &length, segment])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => checksum(&[
            &from.octets(),
            &to.octets(),
            &[0, 0],
            &length,
            &[0, 0, 0, protocol],
            segment,
        ]),
        _ => unreachable!("both of one family"),
    }
}

fn header(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [a, b] = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, a, b, 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [a, b] = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, a, b, protocol, 64];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            header
        }
        _ => unreachable!("both of one family"),
    }
}
