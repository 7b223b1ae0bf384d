//! What a neighbour was told of one family (Adj-RIB-Out), and what it is yet to be told: by slot, four
//! bytes for each route that was told, nothing for one that was not.

use std::collections::BTreeSet;

const PAGE: usize = 256;
const NOTHING: u32 = u32::MAX;
/// Something that is to be said again, whatever it was.
const ANYTHING: u32 = u32::MAX - 1;

#[derive(Debug, Default)]
pub(super) struct Out {
    told: Vec<Option<Box<[u32; PAGE]>>>,
    pub count: u32,
    /// From this slot on all are yet to be looked at.
    walk: Option<u32>,
    /// Of the rest, these.
    dirty: BTreeSet<u32>,
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

/// What a neighbour was told of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Route(u32),
    Forgotten,
}

impl Out {
    pub fn told(&self, slot: u32) -> Option<Told> {
        match self.place(slot) {
            NOTHING => None,
            ANYTHING => Some(Told::Forgotten),
            route => Some(Told::Route(route)),
        }
    }

    /// Answers the route that was told before.
    pub fn tell(&mut self, slot: u32, route: Option<u32>) -> Option<u32> {
        let old = self.place(slot);
        let new = route.unwrap_or(NOTHING);
        if old != new {
            let (page, at) = (slot as usize / PAGE, slot as usize % PAGE);
            if self.told.len() <= page {
                self.told.resize_with(page + 1, || None);
            }
            self.told[page].get_or_insert_with(|| Box::new([NOTHING; PAGE]))[at] = new;
            self.count = self.count + u32::from(old == NOTHING) - u32::from(new == NOTHING);
        }
        (old < ANYTHING).then_some(old)
    }

    /// All that was told, by slot, with the routes whose uses end with this.
    pub fn drain(&mut self) -> Vec<(u32, Option<u32>)> {
        let told = std::mem::take(self).told;
        let places = (0u32..).zip(told.iter().flat_map(|page| match page {
            Some(page) => &page[..],
            None => &[NOTHING; PAGE],
        }));
        let said = places.filter(|(_, route)| **route != NOTHING);
        said.map(|(slot, route)| (slot, (*route < ANYTHING).then_some(*route))).collect()
    }

    /// All is to be said again. Answers what was told before, whose uses end with this.
    pub fn again(&mut self, marked: bool) -> Vec<u32> {
        let mut forgotten = Vec::new();
        for place in self.told.iter_mut().flatten().flat_map(|page| page.iter_mut()) {
            if *place < ANYTHING {
                forgotten.push(std::mem::replace(place, ANYTHING));
            }
        }
        self.look_again();
        self.begin |= marked;
        self.ends.refresh |= marked;
        forgotten
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

    /// Up to so many slots that are to be looked at, of so many that there are.
    pub fn take(&mut self, most: usize, slots: u32) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(slot) = self.dirty.pop_first()
        {
            taken.push(slot);
        }
        while taken.len() < most
            && let Some(slot) = self.walk
        {
            if slot < slots {
                taken.push(slot);
            }
            self.walk = Some(slot + 1).filter(|next| *next < slots);
        }
        taken
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

    fn place(&self, slot: u32) -> u32 {
        let page = self.told.get(slot as usize / PAGE).and_then(Option::as_ref);
        page.map_or(NOTHING, |page| page[slot as usize % PAGE])
    }
}
