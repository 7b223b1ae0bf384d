//! How long something took, each time, as a histogram: for metrics, so that the slowest is seen.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds in microseconds.
pub const BOUNDS: [u64; 8] = [100, 1_000, 5_000, 10_000, 25_000, 50_000, 250_000, 1_000_000];

#[derive(Default)]
pub struct Timing {
    /// Up to each bound, and beyond the last.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
    longest: AtomicU64,
}

impl Timing {
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(micros, Ordering::Relaxed);
        self.longest.fetch_max(micros, Ordering::Relaxed);
    }

    /// How many took up to each bound, and how many there were.
    pub fn counts(&self) -> Vec<u64> {
        let each = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let up_to = each.scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        up_to.collect()
    }

    /// In microseconds.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The longest since the agent began, in microseconds.
    pub fn longest(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_up_to_its_bound_and_the_longest_is_kept() {
        let timing = Timing::default();
        for micros in [40, 100, 101, 60_000, 2_000_000] {
            timing.note(Duration::from_micros(micros));
        }
        assert_eq!(timing.counts(), [2, 3, 3, 3, 3, 3, 4, 4, 5]);
        assert_eq!((timing.sum(), timing.longest()), (2_060_241, 2_000_000));
    }
}
