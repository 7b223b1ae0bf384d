//! A bell: rung by many, heard by one. What was rung while nobody listened is heard once.

use std::{
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use super::POISONED;

/// Why the loop should look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    pub view: bool,
    /// A stranger changed links, addresses, routes or rules: what was learnt of the host is stale.
    pub kernel: bool,
    pub other: bool,
}

impl Reasons {
    pub const VIEW: Self = Self { view: true, kernel: false, other: false };
    pub const KERNEL: Self = Self { view: false, kernel: true, other: false };
    pub const OTHER: Self = Self { view: false, kernel: false, other: true };

    pub fn any(self) -> bool {
        self.view || self.kernel || self.other
    }
}

#[derive(Default)]
pub struct Wake {
    rung: Mutex<Reasons>,
    bell: Condvar,
}

impl Wake {
    pub fn ring(&self, why: Reasons) {
        let mut rung = self.rung.lock().expect(POISONED);
        rung.view |= why.view;
        rung.kernel |= why.kernel;
        rung.other |= why.other;
        self.bell.notify_one();
    }

    /// Waits until rung, for at most `longest`; then until it is quiet, so that many rings that
    /// come together are one. Returns why; nothing if the time ran out.
    pub fn wait(&self, longest: Duration, gather: impl Fn(Reasons) -> Gather) -> Reasons {
        let end = Instant::now() + longest;
        let mut rung = self.rung.lock().expect(POISONED);
        while !rung.any() {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            rung = self.bell.wait_timeout(rung, left).expect(POISONED).0;
        }
        let start = Instant::now();
        while rung.any() && start.elapsed() < gather(*rung).most {
            let quiet = gather(*rung).quiet;
            let (heard, silence) = self.bell.wait_timeout(rung, quiet).expect(POISONED);
            rung = heard;
            if silence.timed_out() {
                break;
            }
        }
        std::mem::take(&mut rung)
    }
}

/// How long rings are taken for one: until none came for so long, and no longer than the most.
#[derive(Clone, Copy)]
pub struct Gather {
    pub quiet: Duration,
    pub most: Duration,
}
