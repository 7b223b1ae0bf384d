//! Hearing of changes in the kernel. What we caused ourselves is told by the port number that the
//! kernel puts on a notification, and passed over; so are neighbours that were only learnt.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Mutex,
};

use netlink_sys::{Socket, SocketAddr, protocols};
use nix::poll::{PollFd, PollFlags, poll};

use weft_core::{
    mark,
    name::{IfName, Mac},
};

use crate::{
    kernel::{Deed, Error, Kernel, Links, Ports, Unsigned},
    nft,
    observe::CHILDREN,
    socket,
    uapi::*,
    wire::{self, Message, u16_at, u32_at},
};

/// RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, IPV4_NETCONF,
/// IPV6_NETCONF, NEXTHOP.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 9, 11, 24, 25, 32];
const NFNLGRP_NFTABLES: u32 = 7;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so on.
const NFTA_TABLE: u16 = 1;
/// RTNLGRP_LINK, NSID: of every namespace that has a number here.
const GROUPS_ELSEWHERE: [u32; 2] = [1, 28];
/// The kernel tells nobody of tables of iptables' old kind, so they are looked for.
const LEGACY_EVERY: u16 = 500; // Milliseconds.
const RECEIVE: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stranger changed something; what, in a word.
    Changed(&'static str),
    /// A stranger changed the table of policies, and maybe others.
    Policies,
    /// A link that is in its pod's namespace alone went, or a pod's namespace did.
    PodGone,
    /// More was missed than the socket could hold: look at everything.
    Overrun,
}

pub struct Watch {
    route: Socket,
    nft: Socket,
    /// None: without CAP_NET_BROADCAST nothing is heard from elsewhere.
    elsewhere: Option<Socket>,
    ports: Ports,
    links: Links,
    unsigned: Unsigned,
    buffer: Mutex<Vec<u8>>,
    /// What was last told of each link of the host's.
    told: Mutex<BTreeMap<u32, Told>>,
    /// Pods' links that are about to go.
    doomed: Mutex<BTreeSet<u32>>,
    legacy: String,
}

impl Watch {
    /// Listens in the calling thread's namespace, which must be the kernel's.
    pub fn new(kernel: &Kernel) -> Result<Self, Error> {
        let open = |protocol, groups: &[u32]| -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            socket::grow(&socket);
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let elsewhere = open(protocols::NETLINK_ROUTE, &GROUPS_ELSEWHERE).and_then(|socket| {
            socket.set_listen_all_namespaces(true)?;
            Ok(socket)
        });
        Ok(Self {
            elsewhere: elsewhere.ok(),
            route: open(protocols::NETLINK_ROUTE, &GROUPS).map_err(Error::Open)?,
            nft: open(protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).map_err(Error::Open)?,
            ports: kernel.ports.clone(),
            links: kernel.links.clone(),
            unsigned: kernel.unsigned.clone(),
            buffer: Mutex::new(vec![0; RECEIVE]),
            told: Mutex::default(),
            doomed: Mutex::default(),
            legacy: nft::legacy_tables(),
        })
    }

    /// Waits for the next change that a stranger made.
    pub fn wait(&mut self) -> io::Result<Event> {
        loop {
            {
                let all = [&self.route, &self.nft].into_iter().chain(&self.elsewhere);
                let mut ready: Vec<PollFd<'_>> =
                    all.map(|socket| PollFd::new(borrow(socket), PollFlags::POLLIN)).collect();
                match poll(&mut ready, LEGACY_EVERY) {
                    Ok(0) if self.legacy_changed() => return Ok(Event::Changed("iptables")),
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            let route = self.read(&self.route, |message| {
                self.note_doomed(message);
                let strange = self.strange(true, message);
                strange.then(|| self.word(message.kind, message.body).map(Event::Changed)).flatten()
            })?;
            if let Some(event) = route {
                return Ok(event);
            }
            if let Some(event) = self.read_all(&self.nft, |m| self.of_nft(m))? {
                return Ok(event);
            }
            let Some(elsewhere) = &self.elsewhere else { continue };
            if let Some(event) = self.read(elsewhere, |m| pod_gone(m).then_some(Event::PodGone))? {
                return Ok(event);
            }
        }
    }

    fn legacy_changed(&mut self) -> bool {
        let now = nft::legacy_tables();
        let changed = now != self.legacy;
        self.legacy = now;
        changed
    }

    /// True of what this process did not do itself.
    fn strange(&self, routing: bool, message: &Message<'_>) -> bool {
        let ports = self.ports.read().expect("no code that holds this lock panics");
        !ports.contains(&(routing, message.port))
    }

    fn of_nft(&self, message: &Message<'_>) -> Option<Event> {
        // A table's name is what every object of one is told by.
        let table = || wire::attrs(message.body.get(4..)?).find(|(kind, _)| *kind == NFTA_TABLE);
        self.strange(false, message).then(|| match table() {
            Some((_, name)) if wire::text(name) == mark::POLICY_TABLE => Event::Policies,
            _ => Event::Changed("nftables"),
        })
    }

    /// The first thing that `event` makes something of.
    fn read(
        &self,
        socket: &Socket,
        event: impl Fn(&Message<'_>) -> Option<Event>,
    ) -> io::Result<Option<Event>> {
        self.gather(socket, |buffer| wire::messages(buffer).find_map(|m| event(&m)))
    }

    /// As that, where what concerns policies goes before all else that was told with it.
    fn read_all(
        &self,
        socket: &Socket,
        event: impl Fn(&Message<'_>) -> Option<Event>,
    ) -> io::Result<Option<Event>> {
        self.gather(socket, |buffer| {
            let mut events = wire::messages(buffer).filter_map(|m| event(&m));
            let first = events.next()?;
            Some(if events.any(|event| event == Event::Policies) { Event::Policies } else { first })
        })
    }

    fn gather(
        &self,
        socket: &Socket,
        event: impl Fn(&[u8]) -> Option<Event>,
    ) -> io::Result<Option<Event>> {
        let mut buffer = self.buffer.lock().expect("no code that holds this lock panics");
        loop {
            let length = match socket.recv(&mut &mut buffer[..], 0) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.unsigned.lock().expect("no code that holds this lock panics").clear();
                    return Ok(Some(Event::Overrun));
                }
                Err(error) => return Err(error),
            };
            if let Some(event) = event(&buffer[..length]) {
                return Ok(Some(event));
            }
        }
    }
}

impl Watch {
    /// What kind of thing changed, if it matters.
    fn word(&self, kind: u16, body: &[u8]) -> Option<&'static str> {
        match kind {
            RTM_NEWLINK | RTM_DELLINK => {
                (self.new_of_link(kind, body) && link(kind, body)).then_some("link")
            }
            RTM_NEWADDR | RTM_DELADDR => Some("address"),
            // The local table follows addresses, which are told apart.
            RTM_NEWROUTE | RTM_DELROUTE => (body.get(4) == Some(&RT_TABLE_MAIN)).then_some("route"),
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some("nexthop"),
            RTM_NEWNETCONF => sysctl(body).then_some("sysctl"),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.neighbour(kind, body).then_some("neighbour"),
            _ => None,
        }
    }

    /// Written entries matter; of those that were only learnt none. What becomes of a written one
    /// that is deleted is told as failed, so on our own links, where nothing is learnt but by
    /// bridges, every deletion counts.
    fn neighbour(&self, kind: u16, body: &[u8]) -> bool {
        let (Some(index), Some(state)) = (u32_at(body, 4), u16_at(body, 8)) else { return true };
        if self.own_deed(kind, index, body) || self.is_doomed(index) {
            return false;
        }
        if state & NUD_PERMANENT != 0 {
            return true;
        }
        // A bridge's written entries have no address and are not permanent; a port's own MAC is.
        if body.first() == Some(&AF_BRIDGE) && state & NUD_NOARP != 0 {
            return true;
        }
        let links = self.links.lock().expect("no code that holds this lock panics");
        let ours = links.get(&index).is_none_or(|(dev, _)| dev.is_ours());
        kind == RTM_DELNEIGH && body.first() != Some(&AF_BRIDGE) && ours
    }
}

impl Watch {
    /// A link that goes takes its neighbours along, which the kernel tells one by one and unsigned.
    fn note_doomed(&self, message: &Message<'_>) {
        // Of bridges' ports there are notifications of their own.
        let (Some(0), Some(index)) = (message.body.first(), u32_at(message.body, 4)) else {
            return;
        };
        let mut doomed = self.doomed.lock().expect("no code that holds this lock panics");
        match message.kind {
            RTM_DELLINK => drop(doomed.remove(&index)),
            RTM_NEWLINK => {
                let mut attrs = wire::attrs(message.body.get(16..).unwrap_or_default());
                let group = attrs.find(|(kind, _)| *kind == IFLA_GROUP);
                if group.is_some_and(|(_, of)| u32_at(of, 0) == Some(mark::DOOMED_GROUP)) {
                    doomed.insert(index);
                }
            }
            _ => {}
        }
    }

    fn is_doomed(&self, index: u32) -> bool {
        self.doomed.lock().expect("no code that holds this lock panics").contains(&index)
    }
}

/// What matters of a link of the host's: its flags, name, address, MTU, master and kind.
#[derive(PartialEq, Eq)]
struct Told {
    flags: u32,
    attrs: Vec<(u16, Vec<u8>)>,
}

impl Watch {
    /// False of what was told already: a NIC is spoken of whenever it gets a child or loses one
    /// (`NETDEV_CHANGEUPPER`), which says nothing of the NIC.
    fn new_of_link(&self, kind: u16, body: &[u8]) -> bool {
        const MATTER: [u16; 6] =
            [IFLA_IFNAME, IFLA_ADDRESS, IFLA_MTU, IFLA_MASTER, IFLA_GROUP, IFLA_LINKINFO];
        let (Some(index), Some(flags)) = (u32_at(body, 4), u32_at(body, 8)) else { return true };
        let attrs = wire::attrs(body.get(16..).unwrap_or_default());
        let attrs: Vec<_> = attrs
            .filter(|(kind, _)| MATTER.contains(kind))
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        let name = attrs.iter().find(|(kind, _)| *kind == IFLA_IFNAME);
        let ours = name.is_some_and(|(_, name)| wire::text(name).starts_with(IfName::PREFIX));
        // A part of what there is to tell, as bridges tell of their ports.
        let part = body.first() != Some(&0);
        let mut told = self.told.lock().expect("no code that holds this lock panics");
        if kind == RTM_DELLINK || ours || part {
            told.remove(&index);
            return true;
        }
        let now = Told { flags: flags & (IFF_UP | IFF_RUNNING | IFF_LOWER_UP), attrs };
        let news = told.get(&index) != Some(&now);
        told.insert(index, now);
        news
    }
}

impl Watch {
    /// True, once, of what this process wrote or removed.
    fn own_deed(&self, kind: u16, index: u32, body: &[u8]) -> bool {
        let (mut mac, mut dst, mut bridged) = (Mac([0; 6]), None, false);
        for (kind, value) in wire::attrs(body.get(12..).unwrap_or_default()) {
            match kind {
                NDA_LLADDR => mac = value.try_into().map_or(mac, Mac),
                NDA_DST => dst = wire::ip(value),
                NDA_MASTER => bridged = true,
                _ => {}
            }
        }
        let gone = kind == RTM_DELNEIGH;
        let deed = match (body.first() == Some(&AF_BRIDGE), dst) {
            (true, _) if bridged => Deed::Behind(index, mac, !gone),
            (true, dst) => Deed::Fdb(index, mac, dst.filter(|_| !gone)),
            (false, Some(ip)) if gone => Deed::NeighGone(index, ip),
            (false, _) => return false,
        };
        self.unsigned.lock().expect("no code that holds this lock panics").remove(&deed)
    }
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as the socket that is borrowed here.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(socket.as_raw_fd())
    }
}

/// A pod's child link that went without having been doomed, or a numbered namespace that ended.
fn pod_gone(message: &Message<'_>) -> bool {
    if message.kind != RTM_DELLINK {
        return message.kind == RTM_DELNSID;
    }
    let (mut ours, mut child) = (false, false);
    for (kind, value) in wire::attrs(message.body.get(16..).unwrap_or_default()) {
        match kind {
            IFLA_GROUP => ours = u32_at(value, 0) == Some(mark::LINK_GROUP),
            IFLA_LINKINFO => {
                let mut info = wire::attrs(value);
                let kind = info.find(|(kind, _)| *kind == IFLA_INFO_KIND);
                child = kind.is_some_and(|(_, kind)| CHILDREN.contains(&wire::text(kind).as_str()));
            }
            _ => {}
        }
    }
    ours && child
}

/// Link notifications carry no port, so ours are told by what they say. A pod's link is born down,
/// comes up and leaves in the group of the doomed: none of that is news. That somebody set it down,
/// or deleted it before it was doomed, is.
fn link(kind: u16, body: &[u8]) -> bool {
    const BORN: u32 = u32::MAX;
    let (Some(flags), Some(change)) = (u32_at(body, 8), u32_at(body, 12)) else { return true };
    let (mut pod_end, mut group) = (false, 0);
    for (kind, value) in wire::attrs(body.get(16..).unwrap_or_default()) {
        match kind {
            IFLA_IFNAME => {
                pod_end = wire::text(value).parse().is_ok_and(|dev: IfName| dev.is_host_end())
            }
            IFLA_GROUP => group = u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    let set_down = change != BORN && change & IFF_UP != 0 && flags & IFF_UP == 0;
    !pod_end || (group != mark::DOOMED_GROUP && (kind == RTM_DELLINK || set_down))
}

/// Forwarding, a reverse path filter or answering for others that somebody set. What a new link is born with is told the
/// same way, but all of it in one message.
fn sysctl(body: &[u8]) -> bool {
    let told = wire::attrs(body.get(4..).unwrap_or_default()).map(|(kind, _)| kind);
    let told: Vec<u16> = told.filter(|kind| *kind != NETCONFA_IFINDEX).collect();
    matches!(told[..], [NETCONFA_FORWARDING | NETCONFA_RP_FILTER | NETCONFA_PROXY_NEIGH])
}
