//! Changes on their way to the kernel: gathered while nothing stands in the way of sending them
//! together, as a device without a number yet, a sysctl or the table does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use ipnet::IpNet;
use weft_core::{
    mark,
    name::{IfName, Mac},
    plan::Change,
    state::{Group, Hop, Key, Kind, Knob, Link, Object, Route},
};

use crate::{
    encode::{self, Hold},
    kernel::{Deed, Refusal, Unsigned},
    netns::Netns,
    nft::{Elemental, Nft},
    observe::{self, Hops, HostLink},
    shaped, socket,
    wire::Batch,
};

/// Requests in one send; beyond it the answers might not fit the socket's buffer.
pub(crate) const BATCH_MAX: u32 = 1024;

/// The namespace that is written to.
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) nft: Option<&'a Nft>,
    pub(crate) unsigned: &'a Unsigned,
}

pub(crate) struct Writer<'a> {
    place: Place<'a>,
    socket: &'a mut socket::Link,
    hops: &'a mut Hops,
    batch: Batch,
    /// The change behind each request of the batch.
    sent: Vec<&'a Change>,
    indexes: BTreeMap<IfName, u32>,
    /// Devices that the batch makes or removes: what their names mean changes with it.
    moving: BTreeSet<IfName>,
    /// Changes of one table of elements, one behind the other.
    elements: Vec<&'a Change>,
    refusals: Vec<Refusal>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(place: Place<'a>, socket: &'a mut socket::Link, hops: &'a mut Hops) -> Self {
        let batch = socket.batch();
        let (sent, indexes, moving) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let (elements, refusals) = (Vec::new(), Vec::new());
        Self { place, socket, hops, batch, sent, indexes, moving, elements, refusals }
    }

    pub(crate) fn finish(mut self) -> Vec<Refusal> {
        self.flush_elements();
        self.flush();
        self.refusals
    }

    pub(crate) fn change(&mut self, change: &'a Change) {
        let table = Elemental::of(&change.key());
        if self.elements.first().is_some_and(|first| Elemental::of(&first.key()) != table) {
            self.flush_elements();
        }
        if table.is_some() {
            self.flush();
            self.elements.push(change);
            return;
        }
        let done = match change {
            Change::Put(object) => self.put(object),
            Change::Drop(key) => self.take(key),
            Change::Recreate { object, .. } => {
                self.take(&object.key()).and_then(|()| self.put(object))
            }
        };
        if let Err(error) = done {
            self.refuse(change, error.raw_os_error().unwrap_or(libc::EIO), error_text(&error));
        }
        while self.sent.len() < self.batch.count as usize {
            self.sent.push(change);
        }
        if self.batch.count >= BATCH_MAX {
            self.flush();
        }
    }

    fn put(&mut self, object: &Object) -> io::Result<()> {
        match object {
            Object::Link(link) => return self.put_link(link),
            Object::Up { dev } => {
                if dev.as_str() != "lo" {
                    encode::no_own_addresses(&mut self.batch, dev);
                }
                encode::set_up(&mut self.batch, dev, true);
            }
            Object::Sysctl { knob, value } => {
                self.flush();
                // The calling thread may be in another namespace, and /proc/sys shows its own.
                let path = format!("/proc/sys/{}", knob.path());
                let written = self.place.netns.run(|| fs::write(path, value.to_string()))?;
                return match (written, knob) {
                    // A host without IPv6 has nothing that could be told to be deaf.
                    (Err(error), Knob::AcceptRa(_)) if error.kind() == io::ErrorKind::NotFound => {
                        Ok(())
                    }
                    (written, _) => written,
                };
            }
            Object::Table { ruleset } => {
                self.flush();
                return self.nft()?.replace(ruleset).map_err(io::Error::other);
            }
            Object::Apart { dev, mac } => {
                self.flush();
                return self.nft()?.set_apart(dev, *mac).map_err(io::Error::other);
            }
            // Written together.
            Object::Sources { .. } | Object::Port { .. } | Object::Hidden { .. } => {}
            Object::Shaped { dev, limit } => {
                let index = self.index(dev)?;
                shaped::put(&mut self.batch, index, limit);
            }
            Object::Addr { dev, addr } => self.put_addr(dev, addr, Hold::Plain)?,
            Object::Member { dev, addr } => self.put_addr(dev, addr, Hold::Member)?,
            Object::Anycast { dev, addr } => self.put_addr(dev, addr, Hold::Anycast)?,
            Object::Neigh { dev, ip, mac } => {
                let index = self.index(dev)?;
                encode::neigh(&mut self.batch, index, *ip, Some(mac));
            }
            Object::Proxy { dev, ip } => {
                let index = self.index(dev)?;
                encode::proxy(&mut self.batch, true, index, *ip);
            }
            Object::Fdb { dev, mac, dst } => {
                let index = self.index(dev)?;
                self.did(Deed::Fdb(index, *mac, Some(*dst)));
                encode::fdb(&mut self.batch, index, mac, Some(*dst));
            }
            Object::Flood { dev, dst } => {
                let index = self.index(dev)?;
                self.did(Deed::Fdb(index, Mac([0; 6]), Some(*dst)));
                encode::flood(&mut self.batch, true, index, *dst);
            }
            Object::Behind { dev, mac } => {
                let index = self.index(dev)?;
                self.did(Deed::Behind(index, *mac, true));
                encode::behind(&mut self.batch, true, index, mac);
            }
            Object::NextHop { dev, via } => {
                let index = self.index(dev)?;
                let id = self.hop_id(dev, *via);
                encode::nexthop(&mut self.batch, id, index, *via, dev.is_ours());
            }
            Object::Group { hops } => {
                let id = |hop| self.hops.ids.get(hop).copied();
                let members: Option<Vec<u32>> = hops.hops().iter().map(id).collect();
                let absent = || io::Error::other("one of its nexthop objects is not there");
                let members = members.ok_or_else(absent)?;
                let id = self.group_id(hops);
                encode::group(&mut self.batch, id, &members);
            }
            Object::Route(route) => {
                let through = self.through(route)?;
                encode::route(&mut self.batch, route, through);
            }
        }
        Ok(())
    }

    fn did(&self, deed: Deed) {
        self.place.unsigned.lock().expect("no code that holds this lock panics").insert(deed);
    }

    fn put_addr(&mut self, dev: &IfName, addr: &IpNet, hold: Hold) -> io::Result<()> {
        let index = self.index(dev)?;
        // One that is there keeps its scope when it is only replaced.
        if hold == Hold::Anycast {
            encode::delete_addr(&mut self.batch, index, addr);
        }
        encode::addr(&mut self.batch, index, addr, hold);
        Ok(())
    }

    fn put_link(&mut self, link: &Link) -> io::Result<()> {
        let master = match &link.master {
            Some(master) => self.index(master)?,
            None => 0,
        };
        // Whether it is there must be asked of the kernel as it will be after what was gathered.
        self.flush();
        match self.socket.index_of(&link.dev) {
            Ok(index) => {
                let mut batch = self.socket.batch();
                encode::get_link(&mut batch, index);
                let found = self.socket.ask(&batch, observe::link)?.pop().flatten();
                self.batch = self.socket.batch();
                let Some((HostLink { ours: Some(was), group, .. }, was_master)) = found else {
                    return Err(io::Error::other("a link of another kind has this name"));
                };
                // Only a pod's name is sure to be nobody else's: its group is put back.
                if group != mark::LINK_GROUP && !link.dev.is_host_end() {
                    let stranger = "a link of this name is not weft's: rename or delete it";
                    return Err(io::Error::other(stranger));
                }
                let masters = (master, was_master.unwrap_or(0));
                encode::edit_link(&mut self.batch, link, &was, index, masters);
            }
            Err(_)
                if matches!(link.kind, Kind::Veth | Kind::Macvlan { .. } | Kind::Ipvlan { .. }) =>
            {
                return Err(io::Error::other("a pod's link is made by attach alone"));
            }
            Err(_) => {
                self.moving.insert(link.dev.clone());
                let lower = match &link.kind {
                    Kind::VxlanGroup { lower, .. } | Kind::Vlan { lower, .. } => {
                        self.index(lower).map_err(|error| {
                            io::Error::new(error.kind(), format!("device {lower}: {error}"))
                        })?
                    }
                    _ => 0,
                };
                encode::create_link(&mut self.batch, link, master, lower);
            }
        }
        if master != 0 {
            encode::set_port(&mut self.batch, &link.dev, &link.kind);
        }
        Ok(())
    }

    fn take(&mut self, key: &Key) -> io::Result<()> {
        match key {
            Key::Link(dev) => {
                self.indexes.remove(dev);
                self.moving.insert(dev.clone());
                encode::delete_link(&mut self.batch, dev);
            }
            Key::Up(dev) => encode::set_up(&mut self.batch, dev, false),
            // The latter are written together.
            Key::Sysctl(_) | Key::Sources(_) | Key::Port(_) | Key::Hidden(..) => {}
            Key::Table => {
                self.flush();
                return self.nft()?.remove().map_err(io::Error::other);
            }
            Key::Apart(dev, mac) => {
                self.flush();
                return self.nft()?.join_again(dev, *mac).map_err(io::Error::other);
            }
            Key::Shaped(dev) => {
                if let Ok(index) = self.index(dev) {
                    shaped::take(&mut self.batch, index);
                }
            }
            Key::Addr(dev, addr) => {
                if let Ok(index) = self.index(dev) {
                    encode::delete_addr(&mut self.batch, index, addr);
                }
            }
            Key::Neigh(dev, ip) => {
                if let Ok(index) = self.index(dev) {
                    self.did(Deed::NeighGone(index, *ip));
                    encode::neigh(&mut self.batch, index, *ip, None);
                }
            }
            Key::Proxy(dev, ip) => {
                if let Ok(index) = self.index(dev) {
                    encode::proxy(&mut self.batch, false, index, *ip);
                }
            }
            Key::Fdb(dev, mac) => {
                if let Ok(index) = self.index(dev) {
                    self.did(Deed::Fdb(index, *mac, None));
                    encode::fdb(&mut self.batch, index, mac, None);
                }
            }
            Key::Flood(dev, dst) => {
                if let Ok(index) = self.index(dev) {
                    self.did(Deed::Fdb(index, Mac([0; 6]), None));
                    encode::flood(&mut self.batch, false, index, *dst);
                }
            }
            Key::Behind(dev, mac) => {
                if let Ok(index) = self.index(dev) {
                    self.did(Deed::Behind(index, *mac, false));
                    encode::behind(&mut self.batch, false, index, mac);
                }
            }
            Key::NextHop(dev, via) => {
                if let Some(id) = self.hops.ids.remove(&(dev.clone(), *via)) {
                    encode::delete_nexthop(&mut self.batch, id);
                }
            }
            Key::Group(hops) => {
                if let Some(id) = self.hops.groups.remove(hops) {
                    encode::delete_nexthop(&mut self.batch, id);
                }
            }
            Key::Route(dst) => encode::delete_route(&mut self.batch, dst, mark::METRIC),
            Key::Access(dst) => encode::delete_route(&mut self.batch, dst, mark::ACCESS_METRIC),
        }
        Ok(())
    }

    /// The device's number. One that is only being made has none yet: what makes it goes first.
    fn index(&mut self, dev: &IfName) -> io::Result<u32> {
        if let Some(index) = self.indexes.get(dev) {
            return Ok(*index);
        }
        if self.moving.contains(dev) {
            self.flush();
        }
        let index = self.socket.index_of(dev)?;
        self.indexes.insert(dev.clone(), index);
        Ok(index)
    }

    /// The number of the nexthop object of this device and address: as observed, or a free one.
    fn hop_id(&mut self, dev: &IfName, via: std::net::IpAddr) -> (u32, bool) {
        let key = (dev.clone(), via);
        if let Some(id) = self.hops.ids.get(&key) {
            return (*id, false);
        }
        let id = self.free_id();
        self.hops.ids.insert(key, id);
        (id, true)
    }

    fn group_id(&mut self, hops: &Group) -> (u32, bool) {
        if let Some(id) = self.hops.groups.get(hops) {
            return (*id, false);
        }
        let id = self.free_id();
        self.hops.groups.insert(hops.clone(), id);
        (id, true)
    }

    fn free_id(&mut self) -> u32 {
        let ours = mark::NEXTHOP_BASE..mark::NEXTHOP_BASE + 0xff_ffff;
        let behind = self.hops.used.range(ours.clone()).next_back().map_or(ours.start, |id| id + 1);
        let gap = || ours.clone().find(|id| !self.hops.used.contains(id));
        let id = if ours.contains(&behind) { behind } else { gap().unwrap_or(ours.start) };
        self.hops.used.insert(id);
        id
    }

    fn through(&mut self, route: &Route) -> io::Result<u32> {
        match &route.to {
            Hop::Blackhole => Ok(0),
            Hop::Link(dev)
            | Hop::From(dev, _)
            | Hop::Gateway(dev, _)
            | Hop::GatewayFrom(dev, ..) => self.index(dev),
            Hop::Group(hops) => {
                let id = self.hops.groups.get(hops).copied();
                id.ok_or_else(|| io::Error::other("its nexthop group is not there"))
            }
            Hop::NextHop(dev, via) => {
                let id = self.hops.ids.get(&(dev.clone(), *via)).copied();
                id.ok_or_else(|| io::Error::other("its nexthop object is not there"))
            }
        }
    }

    fn nft(&self) -> io::Result<&'a Nft> {
        self.place.nft.ok_or_else(|| io::Error::other("this namespace has no table of ours"))
    }

    /// All in one transaction; if that is refused, each by itself.
    fn flush_elements(&mut self) {
        let changes = std::mem::take(&mut self.elements);
        let Some(table) = changes.first().and_then(|first| Elemental::of(&first.key())) else {
            return;
        };
        let write = |some: &[&Change]| {
            self.nft().and_then(|nft| nft.change(table, some).map_err(io::Error::other))
        };
        let Err(error) = write(&changes) else { return };
        let each = changes.iter().map(|change| match changes.len() {
            1 => Err((*change, error.to_string())),
            _ => write(&[*change]).map_err(|error| (*change, error.to_string())),
        });
        let refused: Vec<_> = each.filter_map(Result::err).collect();
        refused.into_iter().for_each(|(change, why)| self.refuse(change, libc::EIO, why));
    }

    fn flush(&mut self) {
        let next = self.socket.batch();
        let batch = std::mem::replace(&mut self.batch, next);
        let first = batch.last_seq().wrapping_sub(batch.count.saturating_sub(1));
        let mut sent = std::mem::take(&mut self.sent);
        self.moving.clear();
        if batch.count == 0 {
            self.sent = sent;
            return;
        }
        // The requests of the change in hand are not yet in `sent`.
        let in_hand = batch.count as usize - sent.len();
        match self.socket.send(batch) {
            Ok(answers) => {
                for answer in answers {
                    let at = answer.seq.wrapping_sub(first) as usize;
                    if let Some(change) = sent.get(at).copied() {
                        if !benign(change, answer.errno) {
                            self.refuse(change, answer.errno, answer.text);
                        }
                    } else if in_hand > 0 && answer.errno != libc::ENODEV {
                        self.refusals.push(Refusal {
                            what: "make a link anew".into(),
                            errno: answer.errno,
                            text: answer.text,
                        });
                    }
                }
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                sent.dedup();
                sent.into_iter().for_each(|change| self.refuse(change, errno, String::new()));
            }
        }
        self.batch = self.socket.batch();
    }

    fn refuse(&mut self, change: &Change, errno: i32, text: String) {
        match change.key() {
            Key::NextHop(dev, via) => drop(self.hops.ids.remove(&(dev, via))),
            Key::Group(hops) => drop(self.hops.groups.remove(&hops)),
            _ => {}
        }
        self.refusals.push(Refusal { what: change.to_string(), errno, text });
    }
}

/// What was refused because it is so already.
fn benign(change: &Change, errno: i32) -> bool {
    match change {
        Change::Drop(_) => {
            matches!(errno, libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)
        }
        // A host without IPv6 has no IPv6 addresses to forbid.
        Change::Put(Object::Up { .. }) => errno == libc::EAFNOSUPPORT,
        // The number is a stranger's: the next look finds another.
        Change::Put(Object::NextHop { .. } | Object::Group { .. }) => false,
        // It was not there to be deleted first.
        Change::Put(Object::Anycast { .. }) => {
            matches!(errno, libc::EEXIST | libc::EADDRNOTAVAIL)
        }
        Change::Put(_) => errno == libc::EEXIST,
        Change::Recreate { .. } => errno == libc::ENODEV,
    }
}

fn error_text(error: &io::Error) -> String {
    if error.raw_os_error().is_some() { String::new() } else { error.to_string() }
}
