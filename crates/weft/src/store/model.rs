//! A store in memory for tests of what many agents do with one: each operation is a step, before or
//! behind which the one who asked may be made to die.
// It has the form of every other store.
#![allow(clippy::unused_async)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::mpsc;

use super::{Created, Entry, Event, Replaced, StoreError, check_key};

#[derive(Clone, Default)]
pub struct ModelStore(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    records: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
    /// All changes in order.
    log: Vec<Event>,
    fuse: Option<Fuse>,
}

/// Dies at an operation, which is done or not.
#[derive(Clone, Copy)]
pub struct Fuse {
    pub operations: u32,
    pub done: bool,
}

/// What the one who asked dies of.
pub struct Died;

impl ModelStore {
    pub fn light(&self, fuse: Option<Fuse>) {
        self.inner().fuse = fuse;
    }

    /// Changes from the `from`-th on.
    pub fn changes(&self, from: usize) -> Vec<Event> {
        self.inner().log[from..].to_vec()
    }
    pub fn all_changes(&self) -> usize {
        self.inner().log.len()
    }
    pub fn entries(&self) -> (Vec<Entry>, u64) {
        let inner = self.inner();
        (inner.records.keys().filter_map(|key| inner.entry(key)).collect(), inner.revision)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn step<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner();
        let dies = inner.fuse.as_mut().is_some_and(|fuse| {
            fuse.operations = fuse.operations.saturating_sub(1);
            fuse.operations == 0
        });
        if !dies {
            return work(&mut inner);
        }
        if inner.fuse.take().is_some_and(|fuse| fuse.done) {
            work(&mut inner);
        }
        drop(inner);
        std::panic::resume_unwind(Box::new(Died));
    }

    fn change<T>(&self, key: &str, work: impl FnOnce(&mut Inner) -> T) -> Result<T, StoreError> {
        check_key(key)?;
        Ok(self.step(work))
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        Ok(self.entries())
    }
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.change(key, |inner| inner.entry(key))
    }
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        self.change(key, |inner| inner.write(key, value))
    }
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        self.change(key, |inner| match inner.entry(key) {
            Some(entry) => Created::Exists(entry),
            None => Created::New(inner.write(key, value)),
        })
    }
    pub async fn replace(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Replaced, StoreError> {
        self.change(key, |inner| match inner.entry(key) {
            Some(entry) if entry.revision == was => Replaced::Done(inner.write(key, value)),
            other => Replaced::Conflict(other),
        })
    }
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.change(key, |inner| inner.remove(key, |_| true))
    }
    pub async fn delete_if(&self, key: &str, was: u64) -> Result<bool, StoreError> {
        self.change(key, |inner| inner.remove(key, |revision| revision == was))
    }
    /// Nobody watches: a test hands out the changes as it likes.
    pub fn watch(self, _: mpsc::Sender<Event>) {}
}

impl Inner {
    fn entry(&self, key: &str) -> Option<Entry> {
        let (value, revision) = self.records.get(key)?.clone();
        Some(Entry { key: key.to_owned(), value, revision })
    }

    fn write(&mut self, key: &str, value: Vec<u8>) -> u64 {
        self.revision += 1;
        self.records.insert(key.to_owned(), (value, self.revision));
        self.log.extend(self.entry(key).map(Event::Put));
        self.revision
    }

    fn remove(&mut self, key: &str, may: impl FnOnce(u64) -> bool) -> bool {
        if !self.records.get(key).is_some_and(|(_, revision)| may(*revision)) {
            return false;
        }
        self.revision += 1;
        self.records.remove(key);
        self.log.push(Event::Delete { key: key.to_owned(), revision: self.revision });
        true
    }
}
