//! One frame by one device, and who was heard on a tunnel that learns. What a frame says, and what
//! to make of who was heard, is others' business.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use weft_core::name::{IfName, Mac};

use crate::{
    kernel::{Error, Kernel},
    uapi::*,
    wire::{self, u32_at},
};

/// The kernel counts in hundredths of a second towards programs (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// A MAC that a tunnel learnt, behind which VTEP it is, and how long ago it was last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub mac: Mac,
    pub vtep: IpAddr,
    pub ago: Duration,
}

impl Kernel {
    /// Sends a whole Ethernet frame.
    pub fn send_frame(&self, dev: &IfName, frame: &[u8]) -> io::Result<()> {
        let index = self.with(|socket| socket.index_of(dev))?;
        self.netns.run(|| send(index, frame))?
    }

    /// What the tunnel `dev` has learnt.
    pub fn heard(&self, dev: &IfName) -> Result<Vec<Heard>, Error> {
        self.with(|socket| {
            let index = socket.index_of(dev)?;
            socket.dump(
                RTM_GETNEIGH,
                &ndmsg(AF_BRIDGE, 0, 0, 0),
                |_| {},
                |message| {
                    if u32_at(message.body, 4)? != index {
                        return None;
                    }
                    let (mut mac, mut vtep, mut ago) = (None, None, None);
                    for (kind, value) in wire::attrs(message.body.get(12..)?) {
                        match kind {
                            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
                            NDA_DST => vtep = wire::ip(value),
                            // `struct nda_cacheinfo`: confirmed, used, updated. Which of the latter
                            // two hearing renews, kernels differ in.
                            NDA_CACHEINFO => ago = Some(u32_at(value, 4)?.min(u32_at(value, 8)?)),
                            _ => {}
                        }
                    }
                    Some(Heard { mac: mac?, vtep: vtep?, ago: TICK * ago? })
                },
            )
        })
        .map_err(|error| Error::Read { what: "tunnel's FDB", error })
    }
}

const AF_PACKET: u16 = 17;
/// Bytes of a `sockaddr_ll`.
const LENGTH: libc::socklen_t = 20;

fn send(index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: no memory is passed; the descriptor that it returns is nobody else's.
    #[allow(unsafe_code)]
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeros is a valid `sockaddr_ll`; the kernel reads it and `frame` only during the
    // call, and no more than the lengths say.
    #[allow(unsafe_code)]
    let sent = unsafe {
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = AF_PACKET;
        to.sll_ifindex = index.cast_signed();
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            LENGTH,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
