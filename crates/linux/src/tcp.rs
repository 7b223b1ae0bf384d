//! TCP sockets as routing protocols want them: from a certain address, signed (RFC 2385), with a TTL
//! that says how far away the other may be (RFC 5082), and never waited for. What is said over them
//! is others' business.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect as connect_to,
        listen as listen_on, socket,
    },
};

use crate::sockets::set;

/// IP precedence 6, internetwork control (RFC 4271, appendix E).
const PRECEDENCE: libc::c_int = 0xc0;
/// Bytes that wait in the kernel until they are sent: a message that is to go soon does not stand
/// behind megabytes.
const UNSENT_MAX: libc::c_int = 256 << 10;
/// Connections that are not yet accepted.
const BACKLOG: i32 = 128;

/// What a packet's TTL (IPv6: hop limit) is, and what it must be at least to be taken; none: the
/// kernel's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    pub sent: Option<u8>,
    pub least: Option<u8>,
}

/// Waits for connections to any address of one family in the calling thread's namespace. What it says
/// before a connection stands has the largest TTL, since some who connect ask for that.
pub fn listen(ipv6: bool, port: u16) -> io::Result<TcpListener> {
    let any: IpAddr =
        if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = open(ipv6)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1)?;
    if ipv6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1)?;
    }
    set_sent(&socket, ipv6, Some(u8::MAX))?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, &1)?;
    bind(socket.as_raw_fd(), &storage(SocketAddr::new(any, port)))?;
    listen_on(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

/// The next connection, and from where; none: nobody has connected.
pub fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    match listener.accept() {
        Ok((stream, from)) => {
            stream.set_nonblocking(true)?;
            Ok(Some((stream, from)))
        }
        // One that had ended before it was accepted is none.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED)) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Begins to connect. Once it can be written to, `take_error` says what came of it.
pub fn connect(
    from: IpAddr,
    to: SocketAddr,
    hops: Hops,
    password: Option<&str>,
) -> io::Result<TcpStream> {
    let socket = open(to.is_ipv6())?;
    set_hops(&socket, to.is_ipv6(), hops)?;
    if password.is_some() {
        sign(&socket, to.ip(), password)?;
    }
    // The port is chosen when it is known whom to: each may have it once more.
    set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1)?;
    bind(socket.as_raw_fd(), &storage(SocketAddr::new(from, 0)))?;
    match connect_to(socket.as_raw_fd(), &storage(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// What a connection with the other is to be like, whoever of both began it.
pub fn set_hops(socket: &impl AsRawFd, ipv6: bool, hops: Hops) -> io::Result<()> {
    set_sent(socket, ipv6, hops.sent)?;
    let Some(least) = hops.least else { return Ok(()) };
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    };
    set(socket, level, option, &libc::c_int::from(least))
}

/// The TTL that a connection which was accepted came with; none once it was asked for. What was said
/// over it before `set_hops` was not looked at.
pub fn came_with(socket: &impl AsRawFd, ipv6: bool) -> Option<u8> {
    let mut headers = [0u8; 128];
    let mut length = libc::socklen_t::try_from(headers.len()).ok()?;
    // SAFETY: the descriptor is open; the kernel writes no more than the length says.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let at = if ipv6 { 7 } else { 8 };
    (done == 0 && length > 8).then(|| headers[at])
}

/// How long what was said may stay unanswered by the other's kernel, or not be read by his program,
/// until the connection is given up (RFC 5482; ETIMEDOUT).
pub fn set_patience(socket: &impl AsRawFd, patience: Duration) -> io::Result<()> {
    let millis = libc::c_uint::try_from(patience.as_millis()).unwrap_or(libc::c_uint::MAX);
    set(socket, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &millis)
}

/// Signs and checks every packet with the peer (RFC 2385), or does so no more. On a listener this
/// holds for whoever connects from there, and what is accepted has it already.
pub fn sign(socket: &impl AsRawFd, peer: IpAddr, password: Option<&str>) -> io::Result<()> {
    let key = password.unwrap_or_default().as_bytes();
    if key.len() > libc::TCP_MD5SIG_MAXKEYLEN {
        let most = libc::TCP_MD5SIG_MAXKEYLEN;
        let why = format!("a password of {} bytes, TCP-MD5 takes {most} at most", key.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut signature = Md5Signature {
        addr: [0; 128],
        flags: TCP_MD5SIG_FLAG_PREFIX,
        prefix_len: if peer.is_ipv6() { 128 } else { 32 },
        key_len: u16::try_from(key.len()).unwrap_or(0),
        ifindex: 0,
        key: [0; libc::TCP_MD5SIG_MAXKEYLEN],
    };
    signature.key[..key.len()].copy_from_slice(key);
    let family = if peer.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    signature.addr[..2].copy_from_slice(&u16::try_from(family).unwrap_or(0).to_ne_bytes());
    match peer {
        // Behind the port; that of IPv6 behind its flow too.
        IpAddr::V4(addr) => signature.addr[4..8].copy_from_slice(&addr.octets()),
        IpAddr::V6(addr) => signature.addr[8..24].copy_from_slice(&addr.octets()),
    }
    match set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG_EXT, &signature) {
        // There was none to be taken away.
        Err(error) if key.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Err(io::Error::other("this kernel has no TCP-MD5 (CONFIG_TCP_MD5SIG)"))
        }
        done => done,
    }
}

/// Packets that the kernel has dropped in the calling thread's namespace since the namespace was
/// made, because they had no signature, or one that nobody wanted, or another than they should.
pub fn badly_signed() -> io::Result<u64> {
    let counters = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let both = names.split_whitespace().zip(values.split_whitespace());
    Ok(both
        .filter(|(name, _)| name.starts_with("TCPMD5"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}

/// `struct tcp_md5sig` (linux/tcp.h).
#[repr(C, align(8))]
struct Md5Signature {
    addr: [u8; 128],
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: i32,
    key: [u8; libc::TCP_MD5SIG_MAXKEYLEN],
}

const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;

fn open(ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    // What is accepted inherits all of it.
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1)?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &UNSENT_MAX)?;
    if ipv6 {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &PRECEDENCE)?;
    } else {
        set(&socket, libc::IPPROTO_IP, libc::IP_TOS, &PRECEDENCE)?;
    }
    Ok(socket)
}

fn set_sent(socket: &impl AsRawFd, ipv6: bool, ttl: Option<u8>) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TTL)
    };
    // -1: the kernel's default again.
    set(socket, level, option, &ttl.map_or(-1, libc::c_int::from))
}

fn storage(addr: SocketAddr) -> SockaddrStorage {
    match addr {
        SocketAddr::V4(addr) => addr.into(),
        SocketAddr::V6(addr) => addr.into(),
    }
}
