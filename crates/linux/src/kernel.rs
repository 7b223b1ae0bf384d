//! The seam: one network namespace's kernel. Two verbs, observe and apply, and the few acts that
//! are neither: the birth and the end of pods' links, and route look-ups.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use weft_core::{
    attach::Birth,
    mark,
    name::{IfName, Mac, Mtu},
    plan::Change,
    policy::Ruleset,
    state::{Key, Kind, Knob, Object, State},
};

use crate::{
    encode,
    netns::Netns,
    nft::{self, Finding, Nft, Passing},
    observe::{self, Found, Hops, HostLink, Observed, RouteTo},
    refusal::Refusal,
    shaped,
    socket::{self, Answer},
    uapi::RTPROT_RA,
    writer::{BATCH_MAX, Place, Writer},
};

pub(crate) const POISONED: &str = "no code that holds this lock panics";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a netlink socket: {0}")]
    Open(io::Error),
    #[error("read the kernel's {what}: {error}")]
    Read { what: &'static str, error: io::Error },
    #[error(transparent)]
    Nft(#[from] nft::Error),
}

impl Error {
    /// True if this kernel has no word for what was asked.
    pub fn is_unsupported(&self) -> bool {
        let Self::Nft(nft::Error::Write { error, .. }) = self else { return false };
        error.raw_os_error() == Some(libc::EOPNOTSUPP)
    }
}

/// Port numbers of our own sockets: what they cause need not wake us. Those of routing sockets
/// (true) and of nftables ones are counted apart by the kernel.
pub(crate) type Ports = Arc<RwLock<BTreeSet<(bool, u32)>>>;
/// What this process did and the kernel tells of without its port number, until that was heard.
pub(crate) type Unsigned = Arc<Mutex<BTreeSet<Deed>>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    /// An FDB entry written, with where it leads, or removed (`__vxlan_fdb_notify`).
    Fdb(u32, Mac, Option<IpAddr>),
    /// A bridge's FDB entry written, or removed (`fdb_notify`).
    Behind(u32, Mac, bool),
    /// A neighbour removed (`neigh_cleanup_and_release`).
    NeighGone(u32, IpAddr),
}

/// Every link by its number, as last observed.
pub(crate) type Links = Arc<Mutex<BTreeMap<u32, (IfName, Mtu)>>>;

pub struct Kernel {
    pub(crate) netns: Netns,
    pool: Mutex<Vec<socket::Link>>,
    hops: Mutex<Hops>,
    pub(crate) links: Links,
    pub(crate) nft: Option<Nft>,
    pub(crate) ports: Ports,
    pub(crate) unsigned: Unsigned,
    writes: AtomicU64,
    /// For connection tracking, once it was needed.
    pub(crate) flows: Mutex<Option<socket::Link>>,
}

impl Kernel {
    /// The calling thread's namespace.
    pub fn here() -> Result<Self, Error> {
        let netns = Netns::current().map_err(Error::Open)?;
        let nft = Nft::open()?;
        let kernel = Self::around(netns, Some(nft));
        if let Some(port) = kernel.nft.as_ref().map(Nft::port) {
            kernel.ports.write().expect(POISONED).insert((false, port));
        }
        Ok(kernel)
    }

    /// Another namespace, such as a pod's. It has no table of ours.
    pub fn of(netns: &Netns) -> Result<Self, Error> {
        Ok(Self::around(netns.try_clone().map_err(Error::Open)?, None))
    }

    /// As `of`, by going there: the calling thread stays inside for good, so it must be one that
    /// ends soon. Returns the namespace's cookie too.
    pub fn enter(netns: &Netns) -> Result<(Self, u64), Error> {
        let kernel = Self::of(netns)?;
        netns.enter().map_err(Error::Open)?;
        let socket = socket::Link::route().map_err(Error::Open)?;
        let cookie = crate::netns::cookie_here().map_err(Error::Open)?;
        kernel.ports.write().expect(POISONED).insert((true, socket.port));
        kernel.pool.lock().expect(POISONED).push(socket);
        Ok((kernel, cookie))
    }

    fn around(netns: Netns, nft: Option<Nft>) -> Self {
        Self {
            netns,
            pool: Mutex::default(),
            hops: Mutex::default(),
            links: Links::default(),
            nft,
            ports: Ports::default(),
            unsigned: Unsigned::default(),
            writes: AtomicU64::new(0),
            flows: Mutex::default(),
        }
    }

    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut socket::Link) -> io::Result<T>,
    ) -> io::Result<T> {
        let pooled = self.pool.lock().expect(POISONED).pop();
        let mut socket = match pooled {
            Some(socket) => socket,
            None => {
                let socket = self.netns.run(socket::Link::route)??;
                self.ports.write().expect(POISONED).insert((true, socket.port));
                socket
            }
        };
        let done = work(&mut socket).inspect_err(|_| {
            self.ports.write().expect(POISONED).remove(&(true, socket.port));
        })?;
        // A socket whose exchange failed may hold stale answers; only a good one is kept.
        self.pool.lock().expect(POISONED).push(socket);
        Ok(done)
    }

    /// As `with`, for what changes something.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&mut socket::Link) -> io::Result<T>,
    ) -> io::Result<T> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.with(work)
    }

    /// How often this process has written here. Equal at two moments: what was seen at the first
    /// still stands, but for strangers' changes, of which a `Watch` tells.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// As `observe_node`, for one who only looks: writing goes on by what the loop saw.
    pub fn look_at_node(&self, knobs: &[Knob]) -> Result<Observed, Error> {
        self.read_node(knobs).map(|(observed, _)| observed)
    }

    /// What is ours in a node's namespace, and what the host has besides.
    pub fn observe_node(&self, knobs: &[Knob]) -> Result<Observed, Error> {
        let (observed, hops) = self.read_node(knobs)?;
        {
            let mut links = self.links.lock().expect(POISONED);
            links.clear();
            links.extend(
                observed
                    .links
                    .iter()
                    .map(|link| (link.index, (link.dev.clone(), Mtu::from_kernel(link.mtu)))),
            );
        }
        *self.hops.lock().expect(POISONED) = hops;
        Ok(observed)
    }

    fn read_node(&self, knobs: &[Knob]) -> Result<(Observed, Hops), Error> {
        let read = |what| move |error| Error::Read { what, error };
        let (mut observed, hops) = self.with(observe_routing).map_err(read("links and routes"))?;
        for knob in knobs {
            if let Some(value) = read_knob(knob) {
                observed.ours.put(Object::Sysctl { knob: knob.clone(), value });
            }
        }
        if let Some(nft) = &self.nft {
            observed.ours.extend(nft.apart()?);
            observed.ours.extend(nft.elements()?);
            match nft.observe()? {
                nft::Seen::Absent => {}
                nft::Seen::Ours(ruleset) => observed.ours.put(Object::Table { ruleset }),
                // Differs from whatever is wanted, so it is written anew.
                nft::Seen::Altered => {
                    observed.ours.put(Object::Table { ruleset: Ruleset::default() });
                }
            }
        }
        Ok((observed, hops))
    }

    /// What a pod's namespace holds of these links.
    pub fn observe_pod(&self, devs: &[IfName]) -> Result<State, Error> {
        self.observe_inside(devs, None)
    }

    /// As that, of links that were just made: what they hold beside what is wanted is not looked for
    /// where that takes longer the more pods there are.
    pub fn observe_new_pod(&self, devs: &[IfName], wanted: &State) -> Result<State, Error> {
        self.observe_inside(devs, Some(wanted))
    }

    fn observe_inside(&self, devs: &[IfName], wanted: Option<&State>) -> Result<State, Error> {
        let mut state = self.look_inside(devs, wanted)?;
        for dev in devs {
            // Of links to strangers alone: the others have no such address, and hear nobody.
            let knob = Knob::AcceptRa(dev.clone());
            if state.link(dev).is_some_and(|link| is_child(&link.kind)) {
                // Where there is no IPv6, nothing is heard either.
                let value = self.netns.run(|| read_knob(&knob)).map(|value| value.unwrap_or(0));
                state.extend(value.ok().map(|value| Object::Sysctl { knob, value }));
            }
        }
        Ok(state)
    }

    fn look_inside(&self, devs: &[IfName], wanted: Option<&State>) -> Result<State, Error> {
        self.with(|socket| {
            let links = observe::links(socket)?;
            let lo = links.iter().find(|link| link.loopback && link.up);
            let mut state: State =
                lo.map(|lo| Object::Up { dev: lo.dev.clone() }).into_iter().collect();
            let links: BTreeMap<u32, &HostLink> =
                links.iter().filter(|l| devs.contains(&l.dev)).map(|l| (l.index, l)).collect();
            if links.is_empty() {
                return Ok(state);
            }
            for link in links.values() {
                state.extend(link.ours.clone().map(Object::Link));
                state.extend(link.up.then(|| Object::Up { dev: link.dev.clone() }));
            }
            let names: BTreeMap<u32, IfName> =
                links.iter().map(|(index, link)| (*index, link.dev.clone())).collect();
            for at in observe::addrs(socket)? {
                // Those that the pod itself makes are its own, but for a child of a NIC.
                let is_ours = |link: &HostLink| {
                    link.is_child() || !at.link_local || at.addr == link.mac.link_local()
                };
                let own = links.get(&at.index).filter(|link| is_ours(link));
                state.extend(own.map(|link| at.object(&link.dev)));
            }
            state.extend(match wanted {
                Some(wanted) => observe::wanted_neighbours(socket, &names, wanted)?,
                None => observe::neighbours(socket, &names)?,
            });
            if wanted.is_none_or(|wanted| wanted.keys().any(|k| matches!(k, Key::Shaped(_)))) {
                state.extend(shaped::all(socket, &names)?);
            }
            for route in observe::routes(socket, &names, &Hops::default())? {
                if let Found::Ours(route) = route {
                    state.put(Object::Route(route));
                }
            }
            Ok(state)
        })
        .map_err(|error| Error::Read { what: "pod namespace", error })
    }

    /// Carries out the changes in their order, as few sends as their dependencies allow. One
    /// refusal never stops the rest.
    pub fn apply(&self, changes: &[Change]) -> Vec<Refusal> {
        let applied = self.write(|socket| {
            let mut hops = self.hops.lock().expect(POISONED);
            let mut writer = Writer::new(self.place(), socket, &mut hops);
            changes.iter().for_each(|change| writer.change(change));
            Ok(writer.finish())
        });
        applied.unwrap_or_else(|error| {
            vec![Refusal {
                what: "talk to the kernel".into(),
                errno: error.raw_os_error().unwrap_or(libc::EIO),
                text: String::new(),
            }]
        })
    }

    fn place(&self) -> Place<'_> {
        Place { netns: &self.netns, nft: self.nft.as_ref(), unsigned: &self.unsigned }
    }

    /// Makes a pod's link in one message, the pod's side of it in the pod's namespace.
    pub fn birth(&self, birth: &Birth, netns: &Netns) -> Result<(), Refusal> {
        let what = || match birth {
            Birth::Pair { host, pod } => format!("link {} veth peer {}", host.dev, pod.dev),
            Birth::Child { parent, pod, .. } => {
                format!("link {} on {parent} {}", pod.dev, pod.kind)
            }
        };
        let refused = |error: &io::Error| Refusal {
            what: what(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: String::new(),
        };
        let there = netns.as_fd().as_raw_fd();
        let answers = self.write(|socket| {
            let mut batch = socket.batch();
            match birth {
                Birth::Pair { host, pod } => {
                    let master = match &host.master {
                        Some(master) => socket.index_of(master)?,
                        None => 0,
                    };
                    encode::create_pair(&mut batch, host, pod, there, master);
                    if master != 0 {
                        encode::set_port(&mut batch, &host.dev, &host.kind);
                    }
                }
                Birth::Child { parent, pod, index } => {
                    let parent = socket.index_of(parent)?;
                    encode::create_child(&mut batch, pod, *index, (parent, there));
                }
            }
            socket.send(batch)
        });
        match answers.map_err(|error| refused(&error))?.into_iter().next() {
            None => Ok(()),
            Some(Answer { errno, text, .. }) => Err(Refusal { what: what(), errno, text }),
        }
    }

    /// Marks links as doomed and, with `down`, stops their traffic at once.
    pub fn doom(&self, devs: &[IfName], down: bool) -> Vec<Refusal> {
        let changes = self.write(|socket| {
            let mut batch = socket.batch();
            devs.iter().for_each(|dev| encode::doom(&mut batch, dev, down));
            socket.send(batch)
        });
        let refusal = |errno, text| Refusal { what: "doom links".into(), errno, text };
        match changes {
            Ok(answers) => {
                let real = answers.into_iter().filter(|answer| answer.errno != libc::ENODEV);
                real.map(|answer| refusal(answer.errno, answer.text)).collect()
            }
            Err(error) => vec![refusal(error.raw_os_error().unwrap_or(libc::EIO), String::new())],
        }
    }

    /// Frees all doomed links in one message, and waits until they are gone.
    pub fn reap(&self) -> io::Result<()> {
        let answers = self.write(|socket| {
            let mut batch = socket.batch();
            encode::delete_group(&mut batch, mark::DOOMED_GROUP);
            socket.send(batch)
        })?;
        match answers.first() {
            Some(answer) if answer.errno != libc::ENODEV => {
                Err(io::Error::from_raw_os_error(answer.errno))
            }
            _ => Ok(()),
        }
    }

    pub fn link_exists(&self, dev: &IfName) -> io::Result<bool> {
        self.with(|socket| match socket.index_of(dev) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// `ip route get` for each; none where there is no route, or the address is our own.
    pub fn route_to(&self, ips: &[IpAddr]) -> Vec<Option<RouteTo>> {
        let links = self.links.lock().expect(POISONED).clone();
        self.routes_by(ips, &links)
    }

    /// As that, by links that nobody has looked at yet too.
    pub fn route_now(&self, ip: IpAddr) -> Option<RouteTo> {
        let links = self.host_links().ok()?.into_iter();
        let links = links.map(|link| (link.index, (link.dev, Mtu::from_kernel(link.mtu))));
        self.routes_by(&[ip], &links.collect()).pop().flatten()
    }

    fn routes_by(
        &self,
        ips: &[IpAddr],
        links: &BTreeMap<u32, (IfName, Mtu)>,
    ) -> Vec<Option<RouteTo>> {
        let mut routes = Vec::with_capacity(ips.len());
        for chunk in ips.chunks(BATCH_MAX as usize / 4) {
            let asked = self.with(|socket| {
                let mut batch = socket.batch();
                chunk.iter().for_each(|ip| encode::route_lookup(&mut batch, *ip));
                socket.ask(&batch, |message| observe::route_to(message, links))
            });
            routes.extend(asked.unwrap_or_else(|_| vec![None; chunk.len()]));
        }
        routes
    }

    /// True if another program translates destination addresses on this host.
    pub fn foreign_nat(&self) -> Result<bool, Error> {
        Ok(self.nft.as_ref().map(Nft::foreign_nat).transpose()?.unwrap_or(false))
    }

    /// Chains of other tables that drop what pods forward.
    pub fn foreign_firewall(&self, passing: &Passing<'_>) -> Result<Vec<Finding>, Error> {
        let found = self.nft.as_ref().map(|nft| nft.foreign_firewall(passing)).transpose()?;
        Ok(found.unwrap_or_default())
    }

    /// Every link of the namespace.
    pub fn host_links(&self) -> Result<Vec<HostLink>, Error> {
        self.with(observe::links).map_err(|error| Error::Read { what: "links", error })
    }
}

fn observe_routing(socket: &mut socket::Link) -> io::Result<(Observed, Hops)> {
    let mut observed = Observed { links: observe::links(socket)?, ..Observed::default() };
    let names: BTreeMap<u32, IfName> =
        observed.links.iter().map(|link| (link.index, link.dev.clone())).collect();
    let addrs = observe::addrs(socket)?;
    let (mut ours, mut forwards) = (BTreeMap::new(), false);
    for link in &mut observed.links {
        let own = || addrs.iter().filter(|addr| addr.index == link.index);
        link.addrs = own().filter(|addr| !addr.link_local).map(|addr| addr.addr).collect();
        if !link.dev.is_ours() {
            continue;
        }
        match link.group {
            mark::DOOMED_GROUP => observed.doomed.push(link.dev.clone()),
            mark::LINK_GROUP => {
                ours.insert(link.index, link.dev.clone());
                observed.ours.extend(link.ours.clone().map(Object::Link));
                observed.ours.extend(link.up.then(|| Object::Up { dev: link.dev.clone() }));
                // Only a tunnel's is written by us.
                let own = own().filter(|addr| !addr.link_local || link.kind == "vxlan");
                observed.ours.extend(own.map(|addr| addr.object(&link.dev)));
                forwards |= matches!(link.kind.as_str(), "vxlan" | "bridge");
            }
            _ => {}
        }
    }
    if forwards {
        observed.ours.extend(observe::fdb(socket, &ours)?);
        observed.ours.extend(observe::proxies(socket, &ours)?);
    }
    observed.ours.extend(observe::neighbours(socket, &ours)?);
    observed.ours.extend(shaped::all(socket, &ours)?);
    let hops = observe::hops(socket, &names)?;
    observed.ours.extend(hops.objects());
    for found in observe::routes(socket, &names, &hops)? {
        match found {
            Found::Ours(route) => observed.ours.put(Object::Route(route)),
            Found::Foreign(route) => {
                if route.dst.prefix_len() == 0
                    && let Some(link) =
                        observed.links.iter_mut().find(|link| Some(&link.dev) == route.dev.as_ref())
                {
                    link.default_route = true;
                    link.ra_route |= route.protocol == RTPROT_RA;
                }
                observed.foreign.push(route);
            }
        }
    }
    Ok((observed, hops))
}

/// A sysctl's value; none where it can't be read, as of a link that is not there.
pub fn read_knob(knob: &Knob) -> Option<u8> {
    let text = fs::read_to_string(format!("/proc/sys/{}", knob.path())).ok()?;
    text.trim().parse().ok()
}

fn is_child(kind: &Kind) -> bool {
    matches!(kind, Kind::Macvlan { .. } | Kind::Ipvlan { .. })
}
