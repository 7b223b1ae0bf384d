//! What was refused, said once: a runtime that is refused a pod comes again and again.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The same is not said again within this time.
const AGAIN: Duration = Duration::from_secs(600);
/// What is remembered of what was said.
const SAID_MAX: usize = 512;

#[derive(Default)]
pub struct Refusals(Mutex<VecDeque<(Instant, String)>>);

impl Refusals {
    /// True if it was not said just now.
    pub fn is_news(&self, what: String, now: Instant) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.retain(|(when, _)| now.duration_since(*when) < AGAIN);
        if said.iter().any(|(_, said)| *said == what) {
            return false;
        }
        said.truncate(SAID_MAX - 1);
        said.push_front((now, what));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_once_in_a_while() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let news = |what: &str, after| refusals.is_news(what.to_owned(), start + after);
        assert!(news("a", Duration::ZERO) && news("b", Duration::ZERO));
        assert!(!news("a", AGAIN / 2) && news("a", AGAIN));
        (0..2 * SAID_MAX).for_each(|n| assert!(news(&n.to_string(), AGAIN)));
        assert_eq!(refusals.0.lock().unwrap().len(), SAID_MAX);
    }
}
