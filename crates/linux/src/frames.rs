//! Whole Ethernet frames, sent by one device.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// A packet socket (packet(7)) that hears nothing. It holds its namespace as long as it lives, and its end
/// waits for the kernel (`packet_release`): not for a thread that somebody waits for.
pub struct Frames {
    socket: OwnedFd,
    index: u32,
}

impl Frames {
    /// By a device of this thread's namespace.
    pub fn by_name(dev: &str) -> io::Result<Self> {
        Self::by(if_nametoindex(dev)?)
    }

    pub(crate) fn by(index: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self { socket: socket(AddressFamily::Packet, SockType::Raw, flags, None)?, index })
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: all-zero bytes are a valid `sockaddr_ll`, a plain struct of the C interface.
        #[allow(unsafe_code)]
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        to.sll_ifindex = self.index.cast_signed();
        let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: the descriptor is open; frame and address are as long as the lengths say.
        #[allow(unsafe_code)]
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                length,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
