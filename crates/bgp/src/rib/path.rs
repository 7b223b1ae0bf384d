//! One path in eight bytes: who said it, what of it is known, and two marks.

const STALE: u32 = 1 << 31;
const EXTERNAL_ONLY: u32 = 1 << 30;
const PEER: u32 = (1 << 24) - 1;
const OWN: u32 = PEER;

/// A path. Ordered by nothing that matters: for equality and lists alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path {
    who: u32,
    /// Its attributes and next hop: a number in `Routes`.
    pub route: u32,
}

impl Path {
    pub fn of(peer: u32, route: u32) -> Self {
        Self { who: peer, route }
    }

    pub fn own(route: u32, external_only: bool) -> Self {
        Self { who: OWN | if external_only { EXTERNAL_ONLY } else { 0 }, route }
    }

    pub fn is_own(self) -> bool {
        self.peer() == OWN
    }

    pub fn is_of(self, peer: u32) -> bool {
        self.peer() == peer
    }

    /// The number of the neighbour that said it; of one of our own, a number that nobody has.
    pub fn peer(self) -> u32 {
        self.who & PEER
    }

    pub fn is_stale(self) -> bool {
        self.who & STALE != 0
    }

    pub fn is_external_only(self) -> bool {
        self.who & EXTERNAL_ONLY != 0
    }

    pub fn stale(self) -> Self {
        Self { who: self.who | STALE, ..self }
    }

    pub fn fresh(self) -> Self {
        Self { who: self.who & !STALE, ..self }
    }
}
