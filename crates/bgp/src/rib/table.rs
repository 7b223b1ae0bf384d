//! The prefixes of one family and their paths. Each prefix has a number, its slot, for as long as it
//! has a path, or somebody is yet to hear that it has none: tables of who was told what are by slot.
//! A prefix with one path, which is nearly all of a large table, has it inline: 16 bytes for IPv4, 28
//! for IPv6, and nine to sixteen of the index.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    index::{Index, Secret},
    path::Path,
};
use crate::attrs::Family;

/// A prefix in the form that both families share: the address at the top of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub bits: u128,
    pub len: u8,
}

impl Key {
    pub fn of(prefix: &IpNet) -> Self {
        Self { bits: bits(prefix.network()), len: prefix.prefix_len() }
    }

    /// The first so many bits of an address.
    pub fn around(addr: IpAddr, len: u8) -> Self {
        Self { bits: bits(addr) & mask(len), len }
    }

    pub fn last(self) -> u128 {
        self.bits | !mask(self.len)
    }
}

pub(super) fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()) << 96,
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[derive(Debug)]
enum Keys {
    V4(Vec<(u32, u8)>),
    /// In four parts, which need no padding.
    V6(Vec<([u32; 4], u8)>),
}

impl Keys {
    fn get(&self, slot: u32) -> Key {
        match self {
            Self::V4(keys) => {
                let (addr, len) = keys[slot as usize];
                Key { bits: u128::from(addr) << 96, len }
            }
            Self::V6(keys) => {
                let (parts, len) = keys[slot as usize];
                let bits = parts.iter().fold(0, |bits, part| bits << 32 | u128::from(*part));
                Key { bits, len }
            }
        }
    }

    #[allow(clippy::cast_possible_truncation)] // Each part is 32 bits of it.
    fn set(&mut self, slot: u32, key: Key) {
        let part = |at: u32| (key.bits >> at) as u32;
        match self {
            Self::V4(keys) => put(keys, slot, (part(96), key.len)),
            Self::V6(keys) => put(keys, slot, ([part(96), part(64), part(32), part(0)], key.len)),
        }
    }
}

/// In the place of an old one, or behind the last.
fn put<T>(list: &mut Vec<T>, slot: u32, item: T) {
    match list.get_mut(slot as usize) {
        Some(place) => *place = item,
        None => list.push(item),
    }
}

/// The paths of a prefix, the best first.
#[derive(Clone, Copy, Debug)]
enum Paths {
    None,
    One(Path),
    /// A number in `many`.
    Many(u32),
}

#[derive(Debug)]
pub(super) struct Table {
    family: Family,
    secret: Secret,
    keys: Keys,
    paths: Vec<Packed>,
    many: Vec<Vec<Path>>,
    many_free: Vec<u32>,
    index: Index,
    free: Vec<u32>,
    /// How many prefixes there are of each length, so that a search asks for no other.
    lengths: Vec<u32>,
}

/// `Paths` in the eight bytes of one path.
#[derive(Clone, Copy, Debug)]
struct Packed(Path);

impl Packed {
    const NONE: u32 = (1 << 24) - 2;
    const MANY: u32 = (1 << 24) - 3;
    const FREE: u32 = (1 << 24) - 4;

    fn new(paths: Paths) -> Self {
        match paths {
            Paths::None => Self(Path::of(Self::NONE, 0)),
            Paths::One(path) => Self(path),
            Paths::Many(at) => Self(Path::of(Self::MANY, at)),
        }
    }

    fn paths(self) -> Paths {
        match self.0.peer() {
            Self::NONE | Self::FREE => Paths::None,
            Self::MANY => Paths::Many(self.0.route),
            _ => Paths::One(self.0),
        }
    }
}

impl Table {
    pub fn new(family: Family, secret: Secret) -> Self {
        let (keys, longest) = match family {
            Family::Ipv4 => (Keys::V4(Vec::new()), 32),
            Family::Ipv6 => (Keys::V6(Vec::new()), 128),
        };
        Self {
            family,
            secret,
            keys,
            paths: Vec::new(),
            many: Vec::new(),
            many_free: Vec::new(),
            index: Index::new(),
            free: Vec::new(),
            lengths: vec![0; longest + 1],
        }
    }

    /// One more than the highest slot.
    #[allow(clippy::cast_possible_truncation)] // Slots are numbers of 32 bits.
    pub fn slots(&self) -> u32 {
        self.paths.len() as u32
    }

    pub fn find(&self, key: Key) -> Option<u32> {
        self.index.find(hash(self.secret, key), |slot| self.keys.get(slot) == key)
    }

    pub fn find_or_make(&mut self, key: Key) -> u32 {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or(self.slots());
        self.keys.set(slot, key);
        put(&mut self.paths, slot, Packed::new(Paths::None));
        self.index.insert(hash(self.secret, key), slot);
        self.lengths[usize::from(key.len)] += 1;
        slot
    }

    /// Forgets a prefix that has no paths, and of which nobody is yet to hear.
    pub fn release(&mut self, slot: u32) {
        let key = self.keys.get(slot);
        self.index.remove(hash(self.secret, key), slot);
        self.lengths[usize::from(key.len)] -= 1;
        self.paths[slot as usize] = Packed(Path::of(Packed::FREE, 0));
        self.free.push(slot);
    }

    /// It is a prefix's, with paths or without.
    pub fn is_there(&self, slot: u32) -> bool {
        self.paths.get(slot as usize).is_some_and(|packed| packed.0.peer() != Packed::FREE)
    }

    pub fn key(&self, slot: u32) -> Key {
        self.keys.get(slot)
    }

    pub fn prefix(&self, slot: u32) -> IpNet {
        let Key { bits, len } = self.keys.get(slot);
        #[allow(clippy::cast_possible_truncation)] // An IPv4 address is the top 32 bits.
        let net = match self.family {
            Family::Ipv4 => {
                Ipv4Net::new(Ipv4Addr::from_bits((bits >> 96) as u32), len).map(IpNet::from)
            }
            Family::Ipv6 => Ipv6Net::new(Ipv6Addr::from_bits(bits), len).map(IpNet::from),
        };
        net.expect("a length that came from a prefix of this family")
    }

    pub fn paths(&self, slot: u32) -> &[Path] {
        match self.paths[slot as usize].paths() {
            Paths::None => &[],
            Paths::One(_) => std::slice::from_ref(&self.paths[slot as usize].0),
            Paths::Many(at) => &self.many[at as usize],
        }
    }

    pub fn path_of(&self, slot: u32, peer: u32) -> Option<Path> {
        self.paths(slot).iter().copied().find(|path| path.is_of(peer))
    }

    /// In the place of the path of the same neighbour, if there is one.
    pub fn set_path(&mut self, slot: u32, path: Path) {
        match self.paths[slot as usize].paths() {
            Paths::None => self.paths[slot as usize] = Packed::new(Paths::One(path)),
            Paths::One(old) if old.is_of(path.peer()) => self.paths[slot as usize].0 = path,
            Paths::One(old) => {
                let at = self.make_many(vec![old, path]);
                self.paths[slot as usize] = Packed::new(Paths::Many(at));
            }
            Paths::Many(at) => {
                let paths = &mut self.many[at as usize];
                match paths.iter_mut().find(|old| old.is_of(path.peer())) {
                    Some(old) => *old = path,
                    None => paths.push(path),
                }
            }
        }
    }

    pub fn remove_path(&mut self, slot: u32, peer: u32) {
        match self.paths[slot as usize].paths() {
            Paths::One(path) if path.is_of(peer) => {
                self.paths[slot as usize] = Packed::new(Paths::None);
            }
            Paths::Many(at) => {
                let paths = &mut self.many[at as usize];
                paths.retain(|path| !path.is_of(peer));
                if let [only] = paths[..] {
                    self.paths[slot as usize] = Packed::new(Paths::One(only));
                    self.many[at as usize] = Vec::new();
                    self.many_free.push(at);
                }
            }
            _ => {}
        }
    }

    /// Puts a path first: the best.
    pub fn put_first(&mut self, slot: u32, best: Path) {
        if let Paths::Many(at) = self.paths[slot as usize].paths() {
            let paths = &mut self.many[at as usize];
            if let Some(place) = paths.iter().position(|path| *path == best) {
                paths.swap(0, place);
            }
        }
    }

    /// Slots of the prefixes that cover the address, the longest first.
    pub fn covering(&self, addr: IpAddr) -> impl Iterator<Item = u32> + '_ {
        let there = |(len, count): (u8, &u32)| (*count > 0).then_some(len);
        let lengths: Vec<u8> = (0..).zip(&self.lengths).filter_map(there).collect();
        lengths.into_iter().rev().filter_map(move |len| self.find(Key::around(addr, len)))
    }

    #[allow(clippy::cast_possible_truncation)] // As many as there were routes.
    fn make_many(&mut self, paths: Vec<Path>) -> u32 {
        let at = self.many_free.pop().unwrap_or(self.many.len() as u32);
        put(&mut self.many, at, paths);
        at
    }
}

fn hash(secret: Secret, key: Key) -> u64 {
    let (high, low) = ((key.bits >> 64) as u64, key.bits.to_le_bytes());
    let low = u64::from_le_bytes(*low.first_chunk().expect("16 bytes"));
    secret.of_words(&[high ^ u64::from(key.len), low])
}
