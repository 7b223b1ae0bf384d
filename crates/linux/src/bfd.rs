//! Sockets for BFD's packets (RFC 5881, 4 and 5): those that hear say what TTL a packet came in with
//! and to which address; those that speak have a port of their own and send with TTL 255. And what
//! keeps their thread running when the machine is busy.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    cmsg_space,
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind,
        recvmsg, setsockopt, socket,
        sockopt::{
            Ipv4PacketInfo, Ipv4RecvTtl, Ipv4Tos, Ipv4Ttl, Ipv6RecvHopLimit, Ipv6RecvPacketInfo,
            Ipv6TClass, Ipv6Ttl, Ipv6V6Only, Priority, RcvBuf, RcvBufForce,
        },
    },
};

/// Internetwork control, above what people send (RFC 4594).
const CS6: i32 = 0xc0;
/// The highest that needs no privilege.
const PRIORITY: i32 = 6;
/// As much as may wait while the thread does not run: three seconds of some 500 neighbours, of which
/// each packet costs the kernel 768 bytes.
const WAITING: usize = 4 << 20;

/// Hears what comes to one UDP port, by one family, to any address.
pub struct Ear {
    socket: OwnedFd,
    port: u16,
    said_beside: Vec<u8>,
}

/// What came with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub from: IpAddr,
    pub to: IpAddr,
    pub ttl: u8,
    pub length: usize,
}

impl Ear {
    /// In the calling thread's namespace. The port is had alone (no SO_REUSEADDR): of two programs
    /// that share it, the kernel would give each packet to one of them only.
    pub fn open(at: SocketAddr) -> io::Result<Self> {
        Self::try_open(at).map_err(|error| {
            let port = at.port();
            let words = match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "UDP port {port} is taken by another BFD daemon: stop it (ss -ulnp sport = \
                     :{port} names it), or switch BFD off here"
                ),
                _ => format!("hear BFD packets at {at}: {error}"),
            };
            io::Error::new(error.kind(), words)
        })
    }

    fn try_open(at: SocketAddr) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, flags, None)?;
        if at.is_ipv4() {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
            setsockopt(&socket, Ipv4RecvTtl, &true)?;
        } else {
            setsockopt(&socket, Ipv6V6Only, &true)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        }
        // More than net.core.rmem_max is for the privileged.
        if setsockopt(&socket, RcvBufForce, &WAITING).is_err() {
            setsockopt(&socket, RcvBuf, &WAITING)?;
        }
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
        let said_beside = cmsg_space!(libc::in6_pktinfo, libc::c_int);
        Ok(Self { socket, port: at.port(), said_beside })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// One packet that came in, if any. What does not say where it went and with what TTL is left out.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Heard>> {
        let mut place = [IoSliceMut::new(buffer)];
        loop {
            let received = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut place,
                Some(&mut self.said_beside),
                MsgFlags::MSG_DONTWAIT,
            );
            let message = match received {
                Ok(message) => message,
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let (mut to, mut ttl) = (None, None);
            for said in message.cmsgs()? {
                match said {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        to = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        to = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                    }
                    ControlMessageOwned::Ipv4Ttl(value)
                    | ControlMessageOwned::Ipv6HopLimit(value) => ttl = u8::try_from(value).ok(),
                    _ => {}
                }
            }
            let from = message.address.as_ref().and_then(ip);
            if let (Some(from), Some(to), Some(ttl)) = (from, to, ttl) {
                return Ok(Some(Heard { from, to, ttl, length: message.bytes }));
            }
        }
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn ip(addr: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
}

/// Sends the packets of one session.
pub struct Mouth(UdpSocket);

impl Mouth {
    /// In the calling thread's namespace.
    pub fn open(local: IpAddr, port: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((local, port))?;
        socket.set_nonblocking(true)?;
        if local.is_ipv4() {
            setsockopt(&socket, Ipv4Ttl, &255)?;
            setsockopt(&socket, Ipv4Tos, &CS6)?;
        } else {
            setsockopt(&socket, Ipv6Ttl, &255)?;
            setsockopt(&socket, Ipv6TClass, &CS6)?;
        }
        setsockopt(&socket, Priority, &PRIORITY)?;
        // Never read: nobody is to fill it.
        setsockopt(&socket, RcvBuf, &0)?;
        Ok(Self(socket))
    }

    /// Not connected, so that no ICMP error of an earlier packet makes this one fail.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.0.send_to(bytes, to).map(|_| ())
    }
}

/// Has the calling thread run before others: in real time if that is allowed, else by a better
/// nice value, else as it is.
pub fn urgent() {
    // What the kernel calls `sched_param`; the C libraries' differ.
    let parameters: libc::c_int = 1;
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the calling thread (0) is meant, and the kernel only reads `parameters` during the call.
    // By its number, since musl refuses the function of this name.
    #[allow(unsafe_code)]
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) };
    if done != 0 {
        // SAFETY: numbers alone; 0 means the calling thread.
        #[allow(unsafe_code)]
        unsafe {
            libc::setpriority(libc::PRIO_PROCESS, 0, -10);
        }
    }
}
