//! Options of sockets that the standard library lacks: of datagrams, fragmentation and path MTU.

use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// What a socket does with a packet that is larger than the path (`ip(7)`, IP_MTU_DISCOVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discover {
    /// Sets DF and refuses what is larger than the known path MTU.
    Do,
    /// Sets DF and sends whatever the device takes.
    Probe,
}

pub fn discover(socket: &UdpSocket, how: Discover) -> io::Result<()> {
    let value = match how {
        Discover::Do => libc::IP_PMTUDISC_DO,
        Discover::Probe => libc::IP_PMTUDISC_PROBE,
    };
    if socket.local_addr()?.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &value)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &value)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, &1)
    }
}

/// The path MTU that the kernel knows for a connected socket's destination.
pub fn path_mtu(socket: &UdpSocket) -> io::Result<usize> {
    let (level, option) = if socket.local_addr()?.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut value: libc::c_int = 0;
    let mut length = INT;
    // SAFETY: the descriptor is open, and `value` is an int, as `length` says.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        usize::try_from(value).map_err(io::Error::other)
    } else {
        Err(io::Error::last_os_error())
    }
}

const INT: libc::socklen_t = 4;

/// One option of a socket; the value is an int, or a plain struct of the C interface.
pub(crate) fn set<T>(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the descriptor is open; the value is as long as the length says, and whatever it
    // points to outlives the call.
    #[allow(unsafe_code)]
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
