//! One frame by one device, and who was heard on a tunnel that learns. What a frame says, and what
//! to make of who was heard, is others' business.

use std::{io, net::IpAddr, time::Duration};

use weft_core::name::{IfName, Mac};

use crate::{
    frames::Frames,
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
        self.netns.run(|| Frames::by(index)?.send(frame))?
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
