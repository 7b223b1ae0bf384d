//! Sets of addresses as ranges, and what is open to them as entries of which no two overlap.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    firewall::{Open, Ports},
    spec::Protocol,
};

/// Addresses of one family as numbers: ranges in order, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

/// Addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    v4: Ranges,
    v6: Ranges,
}

/// What is open to addresses, whoever has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ground {
    /// Everything of any protocol.
    any: Space,
    /// No two overlap, and none has an address that everything is open to.
    ports: BTreeMap<Ports, Space>,
}

impl Space {
    pub(super) fn everybody() -> Self {
        let all = |bits: u32| Ranges(vec![(0, last_of(bits))]);
        Self { v4: all(32), v6: all(128) }
    }

    /// The networks, but for those excepted.
    pub(super) fn of(nets: &[IpNet], except: &[IpNet]) -> Self {
        Self::union(nets).minus(&Self::union(except))
    }

    fn union(nets: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(_) => v4.push(bounds(*net)),
                IpNet::V6(_) => v6.push(bounds(*net)),
            }
        }
        Self { v4: Ranges::union(v4), v6: Ranges::union(v6) }
    }

    fn minus(&self, other: &Self) -> Self {
        Self { v4: self.v4.minus(&other.v4), v6: self.v6.minus(&other.v6) }
    }

    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(_) => self.v4.contains(number(addr)),
            IpAddr::V6(_) => self.v6.contains(number(addr)),
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty()
    }

    /// As few networks as will do. None: everybody.
    fn peers(&self) -> Vec<Option<IpNet>> {
        if *self == Self::everybody() {
            return vec![None];
        }
        let v4 = self.v4.0.iter().flat_map(|range| networks(*range, 32));
        v4.chain(self.v6.0.iter().flat_map(|range| networks(*range, 128))).map(Some).collect()
    }
}

impl Ranges {
    fn union(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match out.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => out.push((first, last)),
            }
        }
        Self(out)
    }

    fn minus(&self, other: &Self) -> Self {
        let mut out = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().copied().peekable();
        for (mut first, last) in self.0.iter().copied() {
            while holes.next_if(|hole| hole.1 < first).is_some() {}
            let mut rest = true;
            while let Some(hole) = holes.peek().copied().filter(|hole| hole.0 <= last) {
                if hole.0 > first {
                    out.push((first, hole.0 - 1));
                }
                rest = hole.1 < last;
                if !rest {
                    break;
                }
                first = hole.1 + 1;
                holes.next();
            }
            if rest {
                out.push((first, last));
            }
        }
        Self(out)
    }

    fn contains(&self, number: u128) -> bool {
        let at = self.0.partition_point(|range| range.1 < number);
        self.0.get(at).is_some_and(|range| range.0 <= number)
    }
}

impl Ground {
    /// What each of these addresses is open to, together.
    pub(super) fn of<'a>(opens: impl IntoIterator<Item = (&'a Space, Option<Ports>)>) -> Self {
        let mut any = Vec::new();
        let mut by_protocol: BTreeMap<Protocol, Vec<(Ports, &Space)>> = BTreeMap::new();
        for (space, ports) in opens {
            match ports {
                None => any.push(space),
                Some(ports) => by_protocol.entry(ports.protocol).or_default().push((ports, space)),
            }
        }
        let any = merged(&any);
        let ports = by_protocol.into_values().flat_map(|items| strips(items, &any)).collect();
        Self { any, ports }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Open> {
        let any = self.any.peers().into_iter().map(|peer| Open { peer, ports: None });
        let some = self.ports.iter().flat_map(|(ports, space)| {
            space.peers().into_iter().map(|peer| Open { peer, ports: Some(*ports) })
        });
        any.chain(some)
    }

    /// Whether this is open to the address, whoever has it.
    pub(super) fn holds(&self, addr: IpAddr, ports: Option<Ports>) -> bool {
        let near = |ports: Ports| self.near(ports).any(|(_, space)| space.contains(addr));
        self.any.contains(addr) || ports.is_some_and(near)
    }

    /// What `ports` add for one address to what is open to it anyway: merged, without overlap.
    pub(super) fn beside(&self, addr: IpAddr, ports: &[Option<Ports>]) -> Vec<Open> {
        if ports.is_empty() || self.any.contains(addr) {
            return Vec::new();
        }
        let open = |ports| Open { peer: Some(addr.into()), ports };
        if ports.contains(&None) {
            return vec![open(None)];
        }
        let mut wanted: Vec<Ports> = ports.iter().copied().flatten().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let wanted = joined(wanted);
        wanted.into_iter().flat_map(|ports| self.gaps(addr, ports)).map(|p| open(Some(p))).collect()
    }

    /// Those of `ports` that are not open to the address.
    fn gaps(&self, addr: IpAddr, ports: Ports) -> Vec<Ports> {
        let mut out = Vec::new();
        let mut first = u32::from(ports.first);
        let there = self.near(ports).filter(|(_, space)| space.contains(addr)).map(|(p, _)| *p);
        let end = std::iter::once(u32::from(ports.last) + 1);
        for (from, to) in
            there.map(|p| (u32::from(p.first), u32::from(p.last))).chain(end.map(|end| (end, end)))
        {
            if from > first {
                out.extend(strip(ports.protocol, first, from.min(u32::from(ports.last) + 1)));
            }
            first = first.max(to + 1);
        }
        out
    }

    /// Entries that have a port in common with these.
    fn near(&self, ports: Ports) -> impl Iterator<Item = (&Ports, &Space)> {
        let start = Ports { last: 0, ..ports };
        let before = self.ports.range(..start).next_back();
        let reaches = move |p: &Ports| {
            p.protocol == ports.protocol && p.last >= ports.first && p.first <= ports.last
        };
        let from = self.ports.range(start..).take_while(move |(p, _)| reaches(p));
        before.into_iter().filter(move |(p, _)| reaches(p)).chain(from)
    }
}

/// One protocol's ports, cut where any entry begins or ends; neighbours with the same addresses are one again.
fn strips(mut items: Vec<(Ports, &Space)>, any: &Space) -> Vec<(Ports, Space)> {
    items.sort_unstable_by_key(|(ports, _)| *ports);
    let Some(protocol) = items.first().map(|(ports, _)| ports.protocol) else { return Vec::new() };
    let edges = |(ports, _): &(Ports, &Space)| [u32::from(ports.first), u32::from(ports.last) + 1];
    let mut cuts: Vec<u32> = items.iter().flat_map(edges).collect();
    cuts.sort_unstable();
    cuts.dedup();

    let mut coming = items.into_iter().peekable();
    let mut now: Vec<(Ports, &Space)> = Vec::new();
    let mut out: Vec<(Ports, Space)> = Vec::new();
    for cut in cuts.windows(2) {
        now.retain(|(ports, _)| u32::from(ports.last) >= cut[0]);
        now.extend(std::iter::from_fn(|| coming.next_if(|(p, _)| u32::from(p.first) <= cut[0])));
        let spaces: Vec<&Space> = now.iter().map(|(_, space)| *space).collect();
        let space = merged(&spaces).minus(any);
        let Some(ports) = strip(protocol, cut[0], cut[1]).filter(|_| !space.is_empty()) else {
            continue;
        };
        match out.last_mut() {
            Some((before, same)) if *same == space && touch(*before, ports) => {
                before.last = ports.last;
            }
            _ => out.push((ports, space)),
        }
    }
    out
}

/// Ports from `first` up to, and without, `end`.
fn strip(protocol: Protocol, first: u32, end: u32) -> Option<Ports> {
    let first = u16::try_from(first).ok()?;
    let last = u16::try_from(end.checked_sub(1)?).ok()?;
    (first <= last).then_some(Ports { protocol, first, last })
}

fn joined(sorted: Vec<Ports>) -> Vec<Ports> {
    let mut out: Vec<Ports> = Vec::with_capacity(sorted.len());
    for ports in sorted {
        match out.last_mut() {
            Some(before) if touch(*before, ports) => before.last = before.last.max(ports.last),
            _ => out.push(ports),
        }
    }
    out
}

/// Whether the second, which does not begin before the first, begins in it or right behind it.
fn touch(before: Ports, ports: Ports) -> bool {
    before.protocol == ports.protocol && u32::from(ports.first) <= u32::from(before.last) + 1
}

fn merged(spaces: &[&Space]) -> Space {
    if let [one] = spaces {
        return (*one).clone();
    }
    let all = |family: fn(&Space) -> &Ranges| {
        Ranges::union(spaces.iter().flat_map(|space| family(space).0.iter().copied()).collect())
    };
    Space { v4: all(|space| &space.v4), v6: all(|space| &space.v6) }
}

fn bounds(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

fn last_of(bits: u32) -> u128 {
    u128::MAX >> (128 - bits)
}

/// The networks that make up a range.
fn networks((first, last): (u128, u128), bits: u8) -> Vec<IpNet> {
    let mut out = Vec::new();
    let mut from = Some(first);
    while let Some(first) = from.filter(|first| *first <= last) {
        let mut free = first.trailing_zeros().min(bits.into());
        while last_of_block(first, free) > last {
            free -= 1;
        }
        out.extend(network(first, bits - u8::try_from(free).unwrap_or(bits), bits));
        from = last_of_block(first, free).checked_add(1);
    }
    out
}

fn last_of_block(first: u128, free: u32) -> u128 {
    first | u128::MAX.checked_shr(128 - free).unwrap_or(0)
}

fn network(first: u128, len: u8, bits: u8) -> Option<IpNet> {
    if bits == 128 {
        return Ipv6Net::new(Ipv6Addr::from(first), len).ok().map(IpNet::V6);
    }
    let addr = u32::try_from(first).ok().map(Ipv4Addr::from)?;
    Ipv4Net::new(addr, len).ok().map(IpNet::V4)
}
