//! One who listens to a store, and checks what every listener may rely on: a snapshot first, then
//! changes in the order of their revisions.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc::Receiver;
use weft::store::{Event, Store};

use super::PATIENCE;

pub struct Listener {
    events: Receiver<Event>,
    pub records: BTreeMap<String, Vec<u8>>,
    pub revision: u64,
    pub snapshots: usize,
    /// Up to where the last snapshot went.
    listed: u64,
    /// Revisions heard of.
    pub heard: BTreeSet<u64>,
    pub away: Option<String>,
    pub breaks: usize,
}

impl Listener {
    /// One that has heard what there is.
    pub async fn to(store: &Store) -> Self {
        let mut listener = Self::idle(store);
        listener.until("a snapshot", |listener| listener.snapshots == 1).await;
        listener
    }

    /// One that has yet to listen.
    pub fn idle(store: &Store) -> Self {
        Self {
            events: store.watch(),
            records: BTreeMap::new(),
            revision: 0,
            snapshots: 0,
            listed: 0,
            heard: BTreeSet::new(),
            away: None,
            breaks: 0,
        }
    }

    /// Each of these changes was heard, or a list that it is in. (A member that lags behind the one
    /// that was listened to is listed anew.)
    pub fn knows(&self, revisions: &[u64]) -> bool {
        revisions.iter().all(|r| *r <= self.listed || self.heard.contains(r))
    }

    async fn hear(&mut self) {
        match self.events.recv().await.expect("a watch that goes on") {
            Event::Snapshot { entries, revision } => {
                self.snapshots += 1;
                (self.revision, self.listed) = (revision, revision);
                self.records = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            }
            Event::Put(entry) => {
                self.pass(entry.revision);
                self.records.insert(entry.key, entry.value);
            }
            Event::Delete { key, revision } => {
                self.pass(revision);
                self.records.remove(&key);
            }
            Event::Away { why } => {
                assert!(self.away.is_none(), "told twice that it is away");
                self.away = Some(why);
                self.breaks += 1;
            }
            Event::Back => {
                assert!(self.away.take().is_some(), "back, but was not away");
            }
        }
    }

    fn pass(&mut self, revision: u64) {
        assert!(self.snapshots > 0, "a change before the first list");
        if revision == 0 {
            // Written by hand, so as old as anything.
            return;
        }
        // Two deletions of files that are heard of together have one revision.
        assert!(revision >= self.revision, "{revision} after {}", self.revision);
        self.revision = revision;
        self.heard.insert(revision);
    }

    pub async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let hears = async {
            while !is(self) {
                self.hear().await;
            }
        };
        let heard = tokio::time::timeout(PATIENCE, hears).await.is_ok();
        assert!(heard, "never heard: {what}; at {}, away: {:?}", self.revision, self.away);
    }

    pub async fn until_at(&mut self, revision: u64) {
        self.until(&format!("revision {revision}"), |me| me.revision >= revision).await;
    }
}
