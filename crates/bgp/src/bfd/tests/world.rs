//! Two ends and a link between them, on a clock that jumps from one deadline to the next.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{
    Time,
    bfd::{Bfd, Change, Control, Report, Settings, State, timing::Dice},
};

pub const A: usize = 0;
pub const B: usize = 1;
/// How long a packet is on its way.
pub const DELAY: Duration = Duration::from_millis(2);

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn addr(end: usize) -> IpAddr {
    if end == A { [10, 0, 0, 1].into() } else { [10, 0, 0, 2].into() }
}

pub fn other(end: usize) -> usize {
    1 - end
}

/// What an end is to be told of the other.
pub fn watch(end: usize, interval: Duration, multiplier: u8) -> BTreeMap<IpAddr, Settings> {
    let settings =
        Settings { local: addr(end), interval, multiplier, multihop: false, on_link: false };
    BTreeMap::from([(addr(other(end)), settings)])
}

pub struct World {
    pub now: Time,
    /// None: it does not run.
    pub ends: [Option<Bfd>; 2],
    /// Of a thousand packets so many are lost.
    pub loss: u32,
    /// Packets from these ends are all lost.
    pub cut: [bool; 2],
    way: Vec<(Time, usize, Vec<u8>)>,
    pub dice: Dice,
    pub sent: Vec<(Time, usize, Control)>,
    pub heard: Vec<(Time, usize)>,
    pub changes: Vec<(Time, usize, Change)>,
}

impl World {
    /// Both know of each other, and nothing was said yet.
    pub fn new(seed: u64, a: (Duration, u8), b: (Duration, u8)) -> Self {
        let mut world = Self {
            now: ms(1000),
            ends: [Some(Bfd::new(seed)), Some(Bfd::new(!seed))],
            loss: 0,
            cut: [false; 2],
            way: Vec::new(),
            dice: Dice::new(seed ^ 0x5555),
            sent: Vec::new(),
            heard: Vec::new(),
            changes: Vec::new(),
        };
        world.configure(A, a.0, a.1);
        world.configure(B, b.0, b.1);
        world
    }

    /// Both up, all times agreed, and nothing of that remembered.
    pub fn up(seed: u64, a: (Duration, u8), b: (Duration, u8)) -> Self {
        let mut world = Self::new(seed, a, b);
        world.run(ms(10_000));
        assert_eq!(world.states(), [State::Up, State::Up], "{:?}", world.changes);
        world.forget();
        world
    }

    pub fn forget(&mut self) {
        self.sent.clear();
        self.heard.clear();
        self.changes.clear();
    }

    pub fn configure(&mut self, end: usize, interval: Duration, multiplier: u8) {
        let now = self.now;
        self.end(end).configure(watch(end, interval, multiplier), now);
        self.settle(end);
    }

    /// Whatever is on its way never comes.
    pub fn lose_all(&mut self) {
        self.way.clear();
    }

    pub fn end(&mut self, end: usize) -> &mut Bfd {
        self.ends[end].as_mut().expect("it runs")
    }

    pub fn report(&self, end: usize) -> Report {
        let reports = self.ends[end].as_ref().expect("it runs").reports(self.now);
        reports[&addr(other(end))].clone()
    }

    pub fn states(&self) -> [State; 2] {
        [self.report(A).state, self.report(B).state]
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.deliver();
            for end in [A, B] {
                if self.ends[end].is_some() {
                    self.settle(end);
                }
            }
        }
        self.now = end;
    }

    fn next(&self) -> Option<Time> {
        let deadlines = self.ends.iter().flatten().filter_map(Bfd::deadline);
        deadlines.chain(self.way.iter().map(|(at, ..)| *at)).min()
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, way) = std::mem::take(&mut self.way).into_iter().partition(|(at, ..)| *at <= now);
        self.way = way;
        let due: Vec<(Time, usize, Vec<u8>)> = due;
        for (_, to, bytes) in due {
            let Some(bfd) = &mut self.ends[to] else { continue };
            if bfd.receive(addr(other(to)), addr(to), 255, 3784, &bytes, now).is_ok() {
                self.heard.push((now, to));
            }
        }
    }

    /// Does what is due at this end and takes out what it says.
    pub fn settle(&mut self, end: usize) {
        let now = self.now;
        let bfd = self.ends[end].as_mut().expect("it runs");
        bfd.tick(now);
        while let Some(packet) = bfd.transmit() {
            assert_eq!((packet.peer, packet.local), (addr(other(end)), addr(end)));
            self.sent.push((now, end, Control::read(&packet.bytes).unwrap()));
            let lost = self.cut[end] || self.dice.between(0, 999) < self.loss;
            if !lost {
                self.way.push((now + DELAY, other(end), packet.bytes.to_vec()));
            }
        }
        while let Some((_, change)) = bfd.event() {
            self.changes.push((now, end, change));
        }
    }

    /// The end dies without a word. What a successor would find is returned.
    pub fn kill(&mut self, end: usize) -> Vec<u8> {
        self.ends[end].take().expect("it runs").keep()
    }

    pub fn restart(&mut self, end: usize, kept: &[u8]) {
        let seed = self.dice.roll();
        self.ends[end] = Some(Bfd::restored(kept, seed, self.now));
        self.settle(end);
    }

    pub fn last_heard(&self, end: usize) -> Time {
        self.heard.iter().rev().find(|(_, by)| *by == end).expect("something was heard").0
    }

    /// When each end was told that the other is down.
    pub fn downs(&self, end: usize) -> Vec<Time> {
        let down = |change: &Change| matches!(change, Change::Down { .. });
        let of = self.changes.iter().filter(|(_, by, change)| *by == end && down(change));
        of.map(|(at, ..)| *at).collect()
    }
}
