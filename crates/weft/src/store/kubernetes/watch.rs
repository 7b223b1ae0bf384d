//! Two streams of changes made one. The records' order is the order: what changes of a network is
//! told with the revision up to which the records were, so that nobody who acknowledges a revision
//! acknowledges a record that he has not seen.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

use super::{
    KubernetesStore,
    object::{NETWORKS, NetworkObject, RECORDS, Record},
};
use crate::{
    kube::follow::{Collection, Told, Whole, follow},
    store::{Entry, Event},
};

struct Merger {
    store: KubernetesStore,
    events: mpsc::Sender<Event>,
    /// As last heard. None: they were not listed yet.
    networks: Option<BTreeMap<String, NetworkObject>>,
    /// The revision up to which the listener knows every record; none: nothing yet.
    records: Option<u64>,
    /// Of lists that are being told.
    listed: (Whole<NetworkObject>, Whole<Record>),
    /// Why one or the other can't be followed; the listener was told when there was a first.
    away: [Option<String>; 2],
}

pub(super) async fn run(store: KubernetesStore, events: mpsc::Sender<Event>) {
    let server = store.server.clone();
    let mut networks = follow::<NetworkObject>(server.clone(), Collection::all(NETWORKS));
    let mut records = follow::<Record>(server, Collection::all(RECORDS));
    let (listed, away) = Default::default();
    let mut merger = Merger { store, events, networks: None, records: None, listed, away };
    loop {
        // A list of records is told with the networks, so these are waited for.
        let records_too = merger.networks.is_some();
        tokio::select! {
            Some(told) = networks.recv() => {
                merger.network(told).await;
                let all = merger.networks.clone().unwrap_or_default();
                merger.store.networks.send_replace(Arc::new(all));
            }
            Some(told) = records.recv(), if records_too => merger.record(told).await,
            () = merger.events.closed() => return,
            else => return,
        }
    }
}

impl Merger {
    async fn record(&mut self, told: Told<Record>) {
        match told {
            Told::Page(page) => {
                let Some((objects, revision)) = self.listed.1.add(page) else { return };
                self.records = Some(revision);
                let networks = self.networks.iter().flat_map(BTreeMap::values);
                let networks = networks.map(|network| network.entry(revision));
                let records = objects.into_iter().filter_map(Record::entry);
                let entries = networks.chain(records).collect();
                self.tell(Event::Snapshot { entries, revision }).await;
            }
            Told::Put(record) => {
                self.records = Some(record.metadata.revision());
                if let Some(entry) = record.entry() {
                    self.tell(Event::Put(entry)).await;
                }
            }
            Told::Gone(record) => {
                // What went while a list came went before its end.
                let revision = record.metadata.revision().max(self.records.unwrap_or(0));
                self.records = Some(revision);
                if let Some(Entry { key, .. }) = record.entry() {
                    self.tell(Event::Delete { key, revision }).await;
                }
            }
            Told::At(revision) => self.records = Some(revision),
            Told::Away { why } => self.away(1, Some(why)).await,
            Told::Back => self.away(1, None).await,
        }
    }

    async fn network(&mut self, told: Told<NetworkObject>) {
        match told {
            Told::Page(page) => {
                let Some((objects, _)) = self.listed.0.add(page) else { return };
                let now = objects.into_iter().map(|object| (object.key(), object)).collect();
                self.networks_are(now).await;
            }
            Told::Put(network) => self.put(network).await,
            Told::Gone(network) => {
                let key = network.key();
                self.networks.iter_mut().for_each(|known| drop(known.remove(&key)));
                self.gone(key).await;
            }
            Told::At(_) => {}
            Told::Away { why } => self.away(0, Some(why)).await,
            Told::Back => self.away(0, None).await,
        }
    }

    /// A new list of networks is told as what changed: it is no reason to tell thousands of records.
    async fn networks_are(&mut self, now: BTreeMap<String, NetworkObject>) {
        let was = self.networks.take().unwrap_or_default();
        self.networks = Some(BTreeMap::new());
        for key in was.keys().filter(|key| !now.contains_key(*key)) {
            self.gone(key.clone()).await;
        }
        for (key, network) in now {
            if was.get(&key).is_some_and(|known| known.spec == network.spec) {
                self.networks.get_or_insert_default().insert(key, network);
            } else {
                self.put(network).await;
            }
        }
    }

    async fn put(&mut self, network: NetworkObject) {
        let entry = self.records.map(|revision| network.entry(revision));
        let known = self.networks.get_or_insert_default().insert(network.key(), network.clone());
        // Its status or a label changed, which is not ours to tell.
        let news = known.is_none_or(|known| known.spec != network.spec);
        // Before there were records it is told with them.
        if let Some(entry) = entry.filter(|_| news) {
            self.tell(Event::Put(entry)).await;
        }
    }

    async fn gone(&mut self, key: String) {
        if let Some(revision) = self.records {
            self.tell(Event::Delete { key, revision }).await;
        }
    }

    async fn away(&mut self, of: usize, why: Option<String>) {
        let was = self.away.iter().any(Option::is_some);
        self.away[of] = why;
        match (was, self.away.iter().flatten().next()) {
            (false, Some(why)) => self.tell(Event::Away { why: why.clone() }).await,
            (true, None) => self.tell(Event::Back).await,
            _ => {}
        }
    }

    /// A listener that went away is noticed by the loop.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}
