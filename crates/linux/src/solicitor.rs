//! A device's ear and mouth for ARP and neighbour discovery: packet sockets that hear nothing else.
//! They see what the device's own stack does, so not what its children took; frames of other
//! VLANs are left out.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use weft_core::name::{IfName, Mac};

use crate::{
    kernel::Kernel,
    sockets::set,
    solicit::{self, ALL_NODES, Neighbour, probers_group},
};

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
/// Frames that are read before others are served.
const BURST: usize = 256;

/// More no network of Ethernet's size carries.
const FRAME_MAX: usize = 1514;

/// Its end waits for the kernel (`packet_release`).
pub struct Solicitor {
    arp: OwnedFd,
    nd: OwnedFd,
    pub index: u32,
    /// The device's own.
    pub mac: Mac,
}

impl Kernel {
    /// None: there is no such device, or it is down.
    pub fn solicitor(&self, dev: &IfName) -> io::Result<Option<Solicitor>> {
        let Some(link) = self.link(dev)?.filter(|link| link.up) else { return Ok(None) };
        let (arp, nd) = self.netns.run(|| {
            io::Result::Ok((open(link.index, ETH_P_ARP)?, open(link.index, ETH_P_IPV6)?))
        })??;
        let solicitor = Solicitor { arp, nd, index: link.index, mac: link.mac };
        solicitor.member(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_MULTICAST, ALL_NODES)?;
        Ok(Some(solicitor))
    }
}

impl Solicitor {
    /// Asks by the device's own MAC whether anybody has the address.
    pub fn probe(&self, addr: IpAddr) -> io::Result<()> {
        self.send(&solicit::probe(self.mac, addr))
    }

    /// Asks for the address by a MAC, which may be another than the device's; whoever has it
    /// answers that MAC alone. IPv6 needs `local`, the MAC's link-local address.
    pub fn ask(&self, mac: Mac, local: Ipv6Addr, addr: IpAddr) -> io::Result<()> {
        self.send(&solicit::question(mac, local, addr))
    }

    /// Has the device take in frames for another MAC, as a macvlan link has it do.
    pub fn take_in(&self, mac: Mac) -> io::Result<()> {
        self.member(libc::PACKET_ADD_MEMBERSHIP, libc::PACKET_MR_UNICAST, mac)
    }

    /// Hears, or hears no more, who else asks for the address before he takes it.
    pub fn listen(&self, addr: IpAddr, to_it: bool) -> io::Result<()> {
        let how = if to_it { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
        match addr {
            // Broadcast.
            IpAddr::V4(_) => Ok(()),
            IpAddr::V6(addr) => self.member(how, libc::PACKET_MR_MULTICAST, probers_group(addr)),
        }
    }

    /// What to wait for, where others are waited for too.
    pub fn ears(&self) -> [BorrowedFd<'_>; 2] {
        [self.arp.as_fd(), self.nd.as_fd()]
    }

    /// What was heard since the last call.
    pub fn heard(&self) -> io::Result<Vec<Neighbour>> {
        let mut heard = Vec::new();
        let mut frame = [0; FRAME_MAX];
        for ear in [&self.arp, &self.nd] {
            for _ in 0..BURST {
                let Some((length, others, index)) = receive(ear, &mut frame)? else { break };
                // Of a VLAN that has a device here it is heard on the NIC as well, without its tag.
                if index != self.index {
                    continue;
                }
                let said = solicit::read(&frame[..length]);
                // Of a VLAN that nobody here is in nothing else is left (net/core/dev.c,
                // `check_vlan_id`).
                let here =
                    |said: &Neighbour| !others || said.to.is_unicast() && said.to != self.mac;
                heard.extend(said.filter(here));
            }
        }
        Ok(heard)
    }

    /// Waits for somebody of whom `who` makes something.
    pub fn wait<T>(
        &self,
        longest: Duration,
        who: impl Fn(&Neighbour) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let end = Instant::now() + longest;
        loop {
            if let Some(found) = self.heard()?.iter().find_map(&who) {
                return Ok(Some(found));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut ears = self.ears().map(|ear| PollFd::new(ear, PollFlags::POLLIN));
            // A millisecond more, so that it is not asked again and again for less than one.
            let left = PollTimeout::try_from(left + Duration::from_millis(1));
            poll(&mut ears, left.unwrap_or(PollTimeout::MAX))?;
        }
    }

    fn member(&self, how: i32, kind: i32, mac: Mac) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&mac.0);
        let of = libc::packet_mreq {
            mr_ifindex: self.index.cast_signed(),
            mr_type: u16::try_from(kind).unwrap_or(0),
            mr_alen: 6,
            mr_address: address,
        };
        set(&self.nd, libc::SOL_PACKET, how, &of)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: `arp` is open; the frame is as long as the length says. It is bound to the device.
        #[allow(unsafe_code)]
        let sent = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::send(self.arp.as_raw_fd(), frame.as_ptr().cast(), frame.len(), flags)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn open(index: u32, protocol: u16) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol nothing comes in until it is bound.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let mut program = FILTER.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)?;
    // SAFETY: all zeros is a valid `sockaddr_ll`; the kernel reads it only during the call.
    #[allow(unsafe_code)]
    let bound = unsafe {
        let mut at: libc::sockaddr_ll = std::mem::zeroed();
        at.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        at.sll_protocol = protocol.to_be();
        at.sll_ifindex = index.cast_signed();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length)
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// ARP, or IPv6 with ICMPv6 as its first header and type 135 or 136 (linux/filter.h).
const FILTER: [(u16, u8, u8, u32); 10] = [
    (LOAD_HALF, 0, 0, 12),
    (IF_EQUAL, 6, 0, ETH_P_ARP as u32),
    (IF_EQUAL, 0, 6, ETH_P_IPV6 as u32),
    (LOAD_BYTE, 0, 0, 20),
    (IF_EQUAL, 0, 4, 58),
    (LOAD_BYTE, 0, 0, 54),
    (IF_EQUAL, 1, 0, 135),
    (IF_EQUAL, 0, 1, 136),
    (RETURN, 0, 0, u32::MAX),
    (RETURN, 0, 0, 0),
];

/// Returns the frame's length, whether the kernel takes it for another host's, and the device that it
/// is of; none if there is no frame.
fn receive(socket: &OwnedFd, frame: &mut [u8]) -> io::Result<Option<(usize, bool, u32)>> {
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the descriptor is open; all zeros is a valid `sockaddr_ll`; the kernel writes no more
    // than the lengths say.
    #[allow(unsafe_code)]
    let (received, from) = unsafe {
        let mut from: libc::sockaddr_ll = std::mem::zeroed();
        let received = libc::recvfrom(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut length,
        );
        (received, from)
    };
    match usize::try_from(received) {
        Ok(length) => {
            let others = from.sll_pkttype == libc::PACKET_OTHERHOST;
            Ok(Some((length, others, from.sll_ifindex.cast_unsigned())))
        }
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        },
    }
}
