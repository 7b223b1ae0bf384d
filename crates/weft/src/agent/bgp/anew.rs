//! A process that finds nothing of what an earlier one had learnt, as that could not be written or can't be
//! read: what the kernel holds stays until neighbours have had the time to say it again.

use std::time::{Duration, Instant};

use weft_bgp::report::NeighbourReport;

use super::parting::stand;
use crate::bgp::{Desired, Known};

/// Longer than this no neighbour is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Since when that is so.
#[derive(Default)]
pub struct Anew(Option<Instant>);

impl Anew {
    pub fn begin(&mut self) {
        self.0 = Some(Instant::now());
    }

    pub fn begun(&self) -> bool {
        self.0.is_some()
    }

    /// True as long as what is missing may be said again.
    pub fn waits(
        &mut self,
        known: &Known,
        told: Option<&Desired>,
        reports: impl FnOnce() -> Vec<NeighbourReport>,
    ) -> bool {
        let Some(since) = self.0 else { return false };
        // Something was kept: who said it is waited for as was agreed.
        let kept = known.settling && !known.routes.is_empty();
        let over = since.elapsed() > PATIENCE;
        if kept || over || told.is_some_and(|told| stand(told, &reports())) {
            self.0 = None;
        }
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_gone_before_it_is_known_who_would_say_it() {
        let mut anew = Anew::default();
        assert!(!anew.waits(&Known::default(), None, Vec::new), "it did not begin");
        anew.begin();
        assert!(anew.waits(&Known::default(), None, Vec::new));
        let unread = Known { settling: true, ..Known::default() };
        assert!(anew.waits(&unread, None, Vec::new));
    }
}
