//! A link's packets to a DHCP client's port, sent and heard whole: whether the link has an address,
//! or whoever has rules in its namespace, is no matter. Their contents are others' business.

use std::{
    fs::File,
    io::{self, Read},
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH,
    BPF_RET,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
    time::ClockId,
};
use weft_core::{
    dhcp::CLIENT_PORT,
    name::{IfName, Mac},
};

use crate::kernel::Kernel;

/// Larger than any Ethernet link's packets of the kind (jumbo frames).
const PACKET_MAX: usize = 9216;

/// Holds the namespace as long as it lives, and its end waits for the kernel (`packet_release`):
/// not for a thread that somebody waits for.
pub struct DhcpSocket {
    packets: OwnedFd,
    index: u32,
    /// The port taken, so that the kernel does not answer for us that nobody listens there. Some
    /// program inside may have it already.
    _port: Option<UdpSocket>,
}

impl Kernel {
    /// For a link of this namespace.
    pub fn dhcp_socket(&self, dev: &IfName) -> io::Result<DhcpSocket> {
        let link = self.link(dev)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        self.netns.run(|| DhcpSocket::open(link.index))?
    }
}

impl DhcpSocket {
    fn open(index: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Of no protocol, it hears nothing until it is told what to hear.
        let packets = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        filter(&packets)?;
        let addr = link_addr(index, None);
        // SAFETY: the descriptor is open, and the address is as long as `LENGTH` says.
        #[allow(unsafe_code)]
        let bound = unsafe { libc::bind(packets.as_raw_fd(), (&raw const addr).cast(), LENGTH) };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { packets, index, _port: UdpSocket::bind(("0.0.0.0", CLIENT_PORT)).ok() })
    }

    /// Sends an IPv4 packet to who has this MAC address.
    pub fn send(&self, packet: &[u8], to: Mac) -> io::Result<()> {
        let to = link_addr(self.index, Some(to));
        // SAFETY: the descriptor is open; packet and address are as long as the lengths say.
        #[allow(unsafe_code)]
        let sent = unsafe {
            libc::sendto(
                self.packets.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                LENGTH,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// One packet that came in, if any, and from which MAC address.
    pub fn receive(&self) -> io::Result<Option<(Vec<u8>, Mac)>> {
        let (mut packet, mut from, mut length) = (vec![0; PACKET_MAX], link_addr(0, None), LENGTH);
        // SAFETY: the descriptor is open; packet and address take what the lengths say.
        #[allow(unsafe_code)]
        let received = unsafe {
            libc::recvfrom(
                self.packets.as_raw_fd(),
                packet.as_mut_ptr().cast(),
                packet.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut length,
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            let nothing = error.kind() == io::ErrorKind::WouldBlock;
            return if nothing { Ok(None) } else { Err(error) };
        };
        packet.truncate(received);
        let [a, b, c, d, e, f, ..] = from.sll_addr;
        Ok(Some((packet, Mac([a, b, c, d, e, f]))))
    }

    /// Waits until one of them has a packet, or for so long.
    pub fn wait<'a>(
        sockets: impl IntoIterator<Item = &'a Self>,
        longest: Duration,
    ) -> io::Result<()> {
        let fds = sockets.into_iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        // Up, or a wait of less than a millisecond would be none.
        let longest = u16::try_from(longest.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(longest)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for DhcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}

/// Bytes of a `sockaddr_ll`.
const LENGTH: libc::socklen_t = 20;

fn link_addr(index: u32, mac: Option<Mac>) -> libc::sockaddr_ll {
    // SAFETY: all zeros is a valid `sockaddr_ll`, a plain struct of the C interface.
    #[allow(unsafe_code)]
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    addr.sll_protocol = u16::try_from(libc::ETH_P_IP).unwrap_or(0).to_be();
    addr.sll_ifindex = index.cast_signed();
    if let Some(Mac(mac)) = mac {
        addr.sll_halen = 6;
        addr.sll_addr[..6].copy_from_slice(&mac);
    }
    addr
}

/// Lets whole UDP datagrams to the client's port through: a pod may have much other traffic.
fn filter(packets: &OwnedFd) -> io::Result<()> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let mut steps = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 9),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 17),
        step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 6),
        // More fragments, or not the first.
        step(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 0x3fff),
        step(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0),
        step(BPF_LD | BPF_H | BPF_IND, 0, 0, 2),
        step(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, CLIENT_PORT.into()),
        step(BPF_RET | BPF_K, 0, 0, u32::from(u16::MAX)),
        step(BPF_RET | BPF_K, 0, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(steps.len()).unwrap_or(0),
        filter: steps.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0);
    // SAFETY: the program points to as many steps as it says, and the kernel copies them.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::setsockopt(
            packets.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Time since boot, suspended or not: what a lease is measured by.
pub fn since_boot() -> Duration {
    ClockId::CLOCK_BOOTTIME.now().map_or(Duration::ZERO, Duration::from)
}

/// A number that nobody can guess.
pub fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}
