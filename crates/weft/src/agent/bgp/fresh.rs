//! Routes that were learnt a moment ago. A router says a route when it has decided on it, which is
//! before its own kernel or hardware forwards by it; while there is another way, that is waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::bgp::Known;

/// How long a router may take from what it says to what it does.
pub const FRESH: Duration = Duration::from_secs(1);

/// Until when each of them is one.
#[derive(Default)]
pub struct Fresh(BTreeMap<IpNet, Instant>);

impl Fresh {
    /// Of what a process of this node knew when it began nothing is fresh, nor of what is said again
    /// after: it is forwarded by already.
    pub fn note(&mut self, before: Option<&Known>, now: &Known, at: Instant) {
        self.0.retain(|dst, _| now.routes.contains_key(dst));
        let Some(before) = before.filter(|before| !before.settling) else { return };
        let new = now.routes.keys().filter(|dst| !before.routes.contains_key(dst));
        self.0.extend(new.map(|dst| (*dst, at + FRESH)));
    }

    /// True if some are no longer.
    pub fn age(&mut self, at: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, until| *until > at);
        self.0.len() < before
    }

    pub fn has(&self, dst: &IpNet) -> bool {
        self.0.contains_key(dst)
    }

    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use weft_bgp::report::{Course, Learnt};

    use super::*;

    fn known(dsts: &[&str]) -> Known {
        let routes = dsts.iter().map(|dst| {
            let prefix = dst.parse().unwrap();
            let course =
                Course { hops: Vec::new(), why: None, stale: false, as_path: String::new() };
            Learnt { prefix, course: course.into() }
        });
        Known { routes: routes.collect(), settling: false }
    }

    #[test]
    fn what_is_new_is_fresh_for_a_while_unless_it_was_there_at_the_beginning() {
        let (mut fresh, start) = (Fresh::default(), Instant::now());
        let [one, two, three] =
            ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24"].map(|dst| dst.parse().unwrap());
        let kept = known(&["10.1.1.0/24"]);
        fresh.note(None, &kept, start);
        assert!(!fresh.any());
        let unread = Known { settling: true, ..Known::default() };
        fresh.note(Some(&unread), &kept, start);
        assert!(!fresh.any());
        let more = known(&["10.1.1.0/24", "10.1.2.0/24"]);
        fresh.note(Some(&kept), &more, start);
        assert_eq!([one, two].map(|dst| fresh.has(&dst)), [false, true]);
        let later = start + FRESH / 2;
        let other = known(&["10.1.2.0/24", "10.1.3.0/24"]);
        fresh.note(Some(&more), &other, later);
        assert!(!fresh.age(later));
        assert_eq!([two, three].map(|dst| fresh.has(&dst)), [true, true]);
        assert!(fresh.age(start + FRESH));
        assert_eq!([two, three].map(|dst| fresh.has(&dst)), [false, true]);
        fresh.note(Some(&other), &known(&[]), later);
        assert!(!fresh.any(), "what is gone is not kept");
    }
}
