//! What a neighbour was told of one family (Adj-RIB-Out), and what it is yet to be told: by slot, eight
//! bytes for each route that was told, nothing for one that was not. What was said is known by its
//! hash alone, which nobody outside can aim at: enough to know that it need not be said again.

use std::{collections::BTreeSet, num::NonZeroU64};

const PAGE: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Out {
    told: Vec<Option<Box<[Option<Said>; PAGE]>>>,
    pub count: u32,
    /// From this slot on all are yet to be looked at.
    walk: Option<u32>,
    /// Of the rest, these.
    dirty: BTreeSet<u32>,
    /// The next of these, if it is there.
    turn: u32,
    /// Those that became so after the end was asked for.
    later: BTreeSet<u32>,
    /// BoRR is to be said first.
    begin: bool,
    ends: Ends,
}

/// What is to be said once all that was pending is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub refresh: bool,
    pub rib: bool,
}

/// The attributes and the next hop that were said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said(NonZeroU64);

impl Said {
    /// Something that is to be said again, whatever it was.
    const ANYTHING: Self = Self(NonZeroU64::MIN);

    pub fn of(hash: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(hash.max(1)))
    }
}

impl Out {
    pub fn told(&self, slot: u32) -> Option<Said> {
        self.told.get(slot as usize / PAGE)?.as_ref()?[slot as usize % PAGE]
    }

    pub fn tell(&mut self, slot: u32, new: Option<Said>) {
        let old = self.told(slot);
        if old == new {
            return;
        }
        let (page, at) = (slot as usize / PAGE, slot as usize % PAGE);
        if self.told.len() <= page {
            self.told.resize_with(page + 1, || None);
        }
        self.told[page].get_or_insert_with(|| Box::new([None; PAGE]))[at] = new;
        self.count = self.count + u32::from(new.is_some()) - u32::from(old.is_some());
    }

    /// Forgets all; answers the slots of what was told.
    pub fn drain(&mut self) -> Vec<u32> {
        let told = std::mem::take(self).told;
        let places = told.iter().flat_map(|page| match page {
            Some(page) => &page[..],
            None => &[None; PAGE],
        });
        (0u32..).zip(places).filter_map(|(slot, said)| said.map(|_| slot)).collect()
    }

    /// All is to be said again.
    pub fn again(&mut self, marked: bool) {
        for said in self.told.iter_mut().flatten().flat_map(|page| page.iter_mut()).flatten() {
            *said = Said::ANYTHING;
        }
        self.look_again();
        self.begin |= marked;
        self.ends.refresh |= marked;
    }

    /// What is to be told may be another for any prefix.
    pub fn look_again(&mut self) {
        self.walk = Some(0);
        self.dirty.clear();
        self.later.clear();
    }

    pub fn mark(&mut self, slot: u32) {
        if self.walk.is_some_and(|walk| walk <= slot) || self.dirty.contains(&slot) {
            return;
        }
        let ending = self.ends != Ends::default();
        if ending { &mut self.later } else { &mut self.dirty }.insert(slot);
    }

    /// Was taken, and was not said after all.
    pub fn put_back(&mut self, slot: u32) {
        self.dirty.insert(slot);
    }

    pub fn end_of_rib(&mut self) {
        self.ends.rib = true;
    }

    pub fn begins(&mut self) -> bool {
        std::mem::take(&mut self.begin)
    }

    /// The next slot that is to be looked at, of so many that there are. In turn, so that one that
    /// changes all the time does not hold up the others.
    pub fn next(&mut self, slots: u32) -> Option<u32> {
        if let Some(slot) = self.next_dirty() {
            return Some(slot);
        }
        let slot = self.walk?;
        self.walk = Some(slot + 1).filter(|next| *next < slots);
        (slot < slots).then_some(slot)
    }

    fn next_dirty(&mut self) -> Option<u32> {
        let slot = self.dirty.range(self.turn..).next().or(self.dirty.first()).copied()?;
        self.turn = slot + 1;
        self.dirty.remove(&slot);
        Some(slot)
    }

    /// What is to be said now that nothing was left to take.
    pub fn ends(&mut self) -> Ends {
        self.dirty = std::mem::take(&mut self.later);
        std::mem::take(&mut self.ends)
    }

    pub fn is_idle(&self) -> bool {
        let nothing = self.walk.is_none() && self.dirty.is_empty() && self.later.is_empty();
        nothing && !self.begin && self.ends == Ends::default()
    }
}
