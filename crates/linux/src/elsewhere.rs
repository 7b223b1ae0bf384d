//! Links that are in another namespace alone, as seen and ended from this one by the number that it
//! has given to the other; and what this one does on account of them.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use weft_core::name::IfName;

use crate::{
    announce::Announcement,
    encode,
    kernel::{Error, Kernel},
    netns::Netns,
    nft::Nft,
    observe::{self, HostLink},
    uapi::{NETNSA_NSID, RTN_LOCAL},
    wire::{self, Message, u32_at},
};

/// How long the kernel may take to be ready for its own address, which takes it microseconds.
const OWN_MAX: Duration = Duration::from_millis(50);
const OWN_LOOK: Duration = Duration::from_micros(50);

impl Kernel {
    /// Waits until the namespace takes what is sent to its own IPv6 address: the route for that is
    /// made behind the address (net/ipv6/addrconf.c, `addrconf_dad_work`), and an answer to what was
    /// sent from the address before would be lost.
    pub fn until_own(&self, addr: IpAddr) {
        let start = Instant::now();
        let own = || {
            self.with(|socket| {
                let mut batch = socket.batch();
                encode::route_lookup(&mut batch, addr);
                let kinds = socket.ask(&batch, |message| message.body.get(7).copied())?;
                Ok(kinds.into_iter().flatten().any(|kind| kind == RTN_LOCAL))
            })
        };
        while !own().unwrap_or(false) && start.elapsed() < OWN_MAX {
            std::thread::sleep(OWN_LOOK);
        }
    }

    /// A link of this namespace.
    pub fn link(&self, dev: &IfName) -> io::Result<Option<HostLink>> {
        self.named(dev, None)
    }

    /// A link in the namespace that has this number here; none too if no namespace has it.
    pub fn link_there(&self, nsid: u32, dev: &IfName) -> io::Result<Option<HostLink>> {
        self.named(dev, Some(nsid))
    }

    fn named(&self, dev: &IfName, nsid: Option<u32>) -> io::Result<Option<HostLink>> {
        self.with(|socket| {
            let mut batch = socket.batch();
            encode::get_named(&mut batch, dev, nsid);
            let link = socket.ask(&batch, observe::link)?.pop().flatten();
            Ok(link.map(|(link, _)| link))
        })
    }

    /// Frees a link in the namespace that has this number here, and waits until it is gone.
    pub fn free_there(&self, nsid: u32, dev: &IfName) -> io::Result<()> {
        let answers = self.write(|socket| {
            let mut batch = socket.batch();
            encode::delete_there(&mut batch, dev, nsid);
            socket.send(batch)
        })?;
        match answers.first() {
            Some(answer) if answer.errno != libc::ENODEV && answer.errno != libc::EINVAL => {
                Err(io::Error::from_raw_os_error(answer.errno))
            }
            _ => Ok(()),
        }
    }

    /// The number of another namespace in this one, given to it now if it had none. With it the
    /// kernel tells this namespace of links there, and of the end of all of it.
    pub fn number(&self, netns: &Netns) -> io::Result<u32> {
        let there = netns.as_fd().as_raw_fd();
        self.with(|socket| {
            let mut batch = socket.batch();
            // It has one already: EEXIST.
            encode::number_netns(&mut batch, there);
            socket.send(batch)?;
            let mut batch = socket.batch();
            encode::get_nsid(&mut batch, there);
            let read = |message: &Message<'_>| {
                let mut attrs = wire::attrs(message.body.get(4..)?);
                let (_, nsid) = attrs.find(|(kind, _)| *kind == NETNSA_NSID)?;
                u32_at(nsid, 0)
            };
            let nsid = socket.ask(&batch, read)?.pop().flatten();
            let nsid = nsid.filter(|nsid| nsid.cast_signed() >= 0);
            nsid.ok_or_else(|| io::Error::other("the namespace got no number"))
        })
    }

    /// That a link here has these addresses now, ready to be told to its network.
    pub fn announcement(&self, dev: &IfName, addrs: &[IpAddr]) -> io::Result<Announcement> {
        let link = self.link(dev)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        Announcement::new(&self.netns, link.index, link.mac, addrs)
    }

    /// Takes away what keeps pods apart, whatever it has become.
    pub fn remove_apart(&self) -> Result<(), Error> {
        self.nft.as_ref().map_or(Ok(()), Nft::remove_apart).map_err(Error::from)
    }
}
