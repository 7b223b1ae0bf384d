//! Hearing of changes by inotify. A burst is read together under the lock and told in the order
//! of revisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::sync::mpsc;

use super::{Event, FileStore, StoreError, check_key};

const RETRY: Duration = Duration::from_millis(500);
/// How often it is asked whether anybody still listens, in milliseconds.
const LISTENING: u16 = 1000;

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
    let failed = |errno: Errno| store.failed("watch", errno.into());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    let mut watched = Watched { inotify, dirs: BTreeMap::new() };
    let (entries, revision) = {
        // Watches first, then the list, both while nobody writes: nothing falls in between.
        let _lock = store.lock_to_read()?;
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
    while !events.is_closed() {
        let mut ready = [PollFd::new(watched.inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, LISTENING) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let Some(changes) = watched.changes(store, &mut known)? else { return Ok(()) };
        for event in changes {
            if events.blocking_send(event).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Watched {
    /// What became of the keys that were heard of, in order; none: a new list is needed. While
    /// nobody writes, and of all that was written: of a burst that is read in two halves, the
    /// first would show revisions beyond the second's.
    fn changes(
        &self,
        store: &FileStore,
        known: &mut BTreeMap<String, u64>,
    ) -> Result<Option<Vec<Event>>, StoreError> {
        let _lock = store.lock_to_read()?;
        let Some(keys) = self.changed_keys(store)? else { return Ok(None) };
        let mut changes: Vec<(u64, Event)> = Vec::new();
        for key in keys {
            match store.read(&key)? {
                // One without a revision was written by hand: what is in it may be new.
                Some(entry) if entry.revision > 0 && known.get(&key) == Some(&entry.revision) => {}
                Some(entry) => {
                    known.insert(key, entry.revision);
                    changes.push((entry.revision, Event::Put(entry)));
                }
                None if known.remove(&key).is_some() => {
                    let revision = store.revision()?;
                    changes.push((revision, Event::Delete { key, revision }));
                }
                None => {}
            }
        }
        changes.sort_by_key(|(revision, _)| *revision);
        Ok(Some(changes.into_iter().map(|(_, event)| event).collect()))
    }

    fn add_tree(&mut self, root: &Path, dir: String) -> nix::Result<()> {
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
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

    /// Of all that is to be heard now. None: a new list is needed.
    fn changed_keys(&self, store: &FileStore) -> Result<Option<BTreeSet<String>>, StoreError> {
        let mut keys = BTreeSet::new();
        loop {
            match self.inotify.read_events() {
                Ok(heard) => {
                    let Some(more) = self.keys_of(store, &heard) else { return Ok(None) };
                    keys.extend(more);
                }
                Err(Errno::EAGAIN) => return Ok(Some(keys)),
                Err(errno) => return Err(store.failed("watch", errno.into())),
            }
        }
    }

    fn keys_of(&self, store: &FileStore, heard: &[InotifyEvent]) -> Option<BTreeSet<String>> {
        let mut keys = BTreeSet::new();
        let lost = AddWatchFlags::IN_Q_OVERFLOW
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        for event in heard {
            if event.mask.intersects(lost) {
                return None;
            }
            let name = event.name.as_ref()?.to_string_lossy().into_owned();
            let dir = self.dirs.get(&event.wd)?;
            let key = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if check_key(&key).is_err() {
                continue;
            }
            match std::fs::symlink_metadata(store.dir.join(&key)) {
                Ok(found) if found.is_dir() => return None,
                Ok(found) if !found.is_file() => {}
                _ if event.mask.contains(AddWatchFlags::IN_ISDIR) => return None,
                _ => drop(keys.insert(key)),
            }
        }
        Some(keys)
    }
}
