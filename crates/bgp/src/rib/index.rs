//! Where in a list a thing stands, by its hash: open addressing with linear probing, eight bytes a
//! place, half to seven eighths full. The list itself is the caller's, who hashes and compares; no
//! answer depends on the order of places, which differs from run to run (the hash has a secret).

use std::hash::{BuildHasher, RandomState};

/// The low half of a hash, and what has it: nothing else is asked unless that is equal.
type Place = (u32, u32);

const EMPTY: Place = (0, u32::MAX);

#[derive(Debug)]
pub(super) struct Index {
    places: Vec<Place>,
    len: usize,
}

/// The secret of this process, so that nobody can choose what collides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secret(u64);

impl Secret {
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0u8) | 1)
    }

    pub fn of_words(self, words: &[u64]) -> u64 {
        words.iter().fold(self.0, |state, word| mix(state ^ word, 0x9e37_79b9_7f4a_7c15))
    }

    pub fn of_bytes(self, bytes: &[u8]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let state = words.iter().fold(self.0 ^ bytes.len() as u64, |state, word| {
            mix(state ^ u64::from_le_bytes(*word), 0x9e37_79b9_7f4a_7c15)
        });
        let last = rest.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        mix(state ^ last, self.0)
    }
}

/// Folds the product of 128 bits, which spreads each bit of both over all.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xa076_1d64_78bd_642f) * u128::from(b);
    let high = (product >> 64) as u64;
    high ^ low(product)
}

#[allow(clippy::cast_possible_truncation)] // The low half is what is wanted.
fn low(wide: u128) -> u64 {
    wide as u64
}

impl Index {
    pub fn new() -> Self {
        Self { places: vec![EMPTY; 16], len: 0 }
    }

    pub fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = low_half(hash);
        let mut at = self.home(tag);
        loop {
            match self.places[at] {
                EMPTY => return None,
                (other, id) if other == tag && is(id) => return Some(id),
                _ => at = self.next(at),
            }
        }
    }

    /// Of a thing that is not in it.
    pub fn insert(&mut self, hash: u64, id: u32) {
        if (self.len + 1) * 8 > self.places.len() * 7 {
            let wider = vec![EMPTY; self.places.len() * 2];
            let narrow = std::mem::replace(&mut self.places, wider);
            narrow.into_iter().filter(|place| *place != EMPTY).for_each(|place| self.place(place));
        }
        self.place((low_half(hash), id));
        self.len += 1;
    }

    /// Of a thing that is in it. Those behind it move up, so that no search ends too early.
    pub fn remove(&mut self, hash: u64, id: u32) {
        let mut hole = self.home(low_half(hash));
        while self.places[hole].1 != id {
            hole = self.next(hole);
        }
        let mut at = self.next(hole);
        while self.places[at] != EMPTY {
            let home = self.home(self.places[at].0);
            if self.distance(home, at) >= self.distance(hole, at) {
                self.places[hole] = self.places[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.places[hole] = EMPTY;
        self.len -= 1;
    }

    fn place(&mut self, place: Place) {
        let mut at = self.home(place.0);
        while self.places[at] != EMPTY {
            at = self.next(at);
        }
        self.places[at] = place;
    }

    fn home(&self, tag: u32) -> usize {
        tag as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.places.len() - 1)
    }
}

#[allow(clippy::cast_possible_truncation)] // The low half is what is wanted.
fn low_half(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_and_not_taken_out_is_found() {
        let hash = |id: u32| u64::from(id % 7) * 3;
        let mut index = Index::new();
        let mut inside = std::collections::BTreeSet::new();
        let mut random = 88_172_645_463_325_252u64;
        for _ in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let id = u32::try_from(random % 100).unwrap();
            if inside.insert(id) {
                index.insert(hash(id), id);
            } else {
                inside.remove(&id);
                index.remove(hash(id), id);
            }
            for id in 0..100 {
                let found = index.find(hash(id), |other| other == id);
                assert_eq!(found.is_some(), inside.contains(&id));
            }
        }
    }
}
