//! Hearing of changes by inotify. A burst is read together under the lock and told in the order
//! of revisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use nix::{
    fcntl::FlockArg,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::sync::mpsc;

use super::{Entry, Event, FileStore, StoreError};

const RETRY: Duration = Duration::from_millis(500);

/// Ends when nobody listens any more.
pub(super) fn run(store: &FileStore, events: &mpsc::Sender<Event>) {
    let mut away = false;
    while !events.is_closed() {
        match follow(store, events, &mut away) {
            Ok(()) => {}
            Err(error) => {
                if !away && events.blocking_send(Event::Away { why: error.to_string() }).is_err() {
                    return;
                }
                away = true;
                std::thread::sleep(RETRY);
            }
        }
    }
}

struct Watched {
    inotify: Inotify,
    dirs: BTreeMap<WatchDescriptor, String>,
}

/// Follows until something was lost; the caller begins again with a snapshot.
fn follow(
    store: &FileStore,
    events: &mpsc::Sender<Event>,
    away: &mut bool,
) -> Result<(), StoreError> {
    let failed = |errno: nix::errno::Errno| store.failed("watch", errno.into());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
    let mut watched = Watched { inotify, dirs: BTreeMap::new() };
    let (entries, revision) = {
        // Watches first, then the list, both under the lock: nothing falls in between.
        let _lock = store.lock(FlockArg::LockExclusive)?;
        watched.add_tree(&store.dir, String::new()).map_err(failed)?;
        store.list_locked()?
    };
    let mut known: BTreeMap<String, u64> =
        entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
    if std::mem::take(away) && events.blocking_send(Event::Back).is_err() {
        return Ok(());
    }
    if events.blocking_send(Event::Snapshot { entries, revision }).is_err() {
        return Ok(());
    }
    loop {
        let heard = watched.inotify.read_events().map_err(failed)?;
        let Some(keys) = watched.changed_keys(store, &heard) else { return Ok(()) };
        if keys.is_empty() {
            continue;
        }
        for event in changes(store, &keys, &mut known)? {
            if events.blocking_send(event).is_err() {
                return Ok(());
            }
        }
    }
}

/// What became of these keys, in order.
fn changes(
    store: &FileStore,
    keys: &BTreeSet<String>,
    known: &mut BTreeMap<String, u64>,
) -> Result<Vec<Event>, StoreError> {
    let _lock = store.lock(FlockArg::LockShared)?;
    let mut changes: Vec<(u64, Event)> = Vec::new();
    for key in keys {
        match store.read(key)? {
            Some(entry) if known.get(key) == Some(&entry.revision) => {}
            Some(entry) => {
                let Entry { key, revision, .. } = &entry;
                known.insert(key.clone(), *revision);
                changes.push((*revision, Event::Put(entry)));
            }
            None if known.remove(key).is_some() => {
                let revision = store.revision()?;
                changes.push((revision, Event::Delete { key: key.clone(), revision }));
            }
            None => {}
        }
    }
    changes.sort_by_key(|(revision, _)| *revision);
    Ok(changes.into_iter().map(|(_, event)| event).collect())
}

impl Watched {
    fn add_tree(&mut self, root: &Path, dir: String) -> nix::Result<()> {
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE_SELF;
        let path = root.join(&dir);
        let watch = self.inotify.add_watch(&path, flags)?;
        self.dirs.insert(watch, dir.clone());
        for found in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            let name = found.file_name().to_string_lossy().into_owned();
            if found.file_type().is_ok_and(|kind| kind.is_dir()) && !name.starts_with('.') {
                let below = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                self.add_tree(root, below)?;
            }
        }
        Ok(())
    }

    /// None: a new list is needed.
    fn changed_keys(&self, store: &FileStore, heard: &[InotifyEvent]) -> Option<BTreeSet<String>> {
        let mut keys = BTreeSet::new();
        for event in heard {
            let lost = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_DELETE_SELF;
            if event.mask.intersects(lost) {
                return None;
            }
            let name = event.name.as_ref()?.to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let dir = self.dirs.get(&event.wd)?;
            let key = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if event.mask.contains(AddWatchFlags::IN_ISDIR) || store.dir.join(&key).is_dir() {
                return None;
            }
            keys.insert(key);
        }
        Some(keys)
    }
}
