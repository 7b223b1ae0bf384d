//! Where in a list a thing stands, by its hash: open addressing with linear probing, four bytes a
//! place, half to seven eighths full. The list itself is the caller's, who hashes and compares; no
//! answer depends on the order of places, which differs from run to run (the hash has a secret).

use std::hash::{BuildHasher, RandomState};

const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Index {
    places: Vec<u32>,
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
        let mut at = self.home(hash);
        loop {
            match self.places[at] {
                EMPTY => return None,
                id if is(id) => return Some(id),
                _ => at = self.next(at),
            }
        }
    }

    /// Of a thing that is not in it.
    pub fn insert(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 8 > self.places.len() * 7 {
            self.grow(hash_of);
        }
        self.place(hash, id);
        self.len += 1;
    }

    /// Of a thing that is in it. Those behind it move up, so that no search ends too early.
    pub fn remove(&mut self, hash: u64, id: u32, hash_of: impl Fn(u32) -> u64) {
        let mut hole = self.home(hash);
        while self.places[hole] != id {
            hole = self.next(hole);
        }
        let mut at = self.next(hole);
        while self.places[at] != EMPTY {
            let home = self.home(hash_of(self.places[at]));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.places[hole] = self.places[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.places[hole] = EMPTY;
        self.len -= 1;
    }

    fn place(&mut self, hash: u64, id: u32) {
        let mut at = self.home(hash);
        while self.places[at] != EMPTY {
            at = self.next(at);
        }
        self.places[at] = id;
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let wider = vec![EMPTY; self.places.len() * 2];
        for id in std::mem::replace(&mut self.places, wider) {
            if id != EMPTY {
                self.place(hash_of(id), id);
            }
        }
    }

    #[allow(clippy::cast_possible_truncation)] // Masked to the places that there are.
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.places.len() - 1)
    }
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
                index.insert(hash(id), id, hash);
            } else {
                inside.remove(&id);
                index.remove(hash(id), id, hash);
            }
            for id in 0..100 {
                let found = index.find(hash(id), |other| other == id);
                assert_eq!(found.is_some(), inside.contains(&id));
            }
        }
    }
}
