//! The embedded store: a directory, for one machine and the lab. A record is a file: its first
//! line the revision, the rest its value. Writers of all processes take turns by a lock that dies
//! with its holder; a record is replaced by a rename, so it is never half there.

mod watch;

use std::{
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::mpsc;

use super::{Created, Entry, Event, Replaced, StoreError, check_key};

const LOCK: &str = ".lock";
/// The last revision given. Written before the record that has it, so none is given twice.
const REVISION: &str = ".revision";
const TMP: &str = ".tmp";

#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
}

impl FileStore {
    /// A directory that can't be had now is a store that is away: it may come back.
    pub fn open(dir: &Path) -> Self {
        let store = Self { dir: dir.to_owned() };
        if let Err(error) = store.make() {
            tracing::warn!(%error, "the store is away");
        }
        store
    }

    fn make(&self) -> Result<(), StoreError> {
        fs::create_dir_all(&self.dir).map_err(|error| self.failed("make", error))?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))
            .map_err(|error| self.failed("protect", error))
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        self.blocking(|store| {
            let _lock = store.lock(FlockArg::LockShared)?;
            store.list_locked()
        })
        .await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| store.read(&key)).await
    }

    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            let _lock = store.lock(FlockArg::LockExclusive)?;
            store.write(&key, &value)
        })
        .await
    }

    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            let _lock = store.lock(FlockArg::LockExclusive)?;
            match store.read(&key)? {
                Some(entry) => Ok(Created::Exists(entry)),
                None => store.write(&key, &value).map(Created::New),
            }
        })
        .await
    }

    pub async fn replace(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Replaced, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            let _lock = store.lock(FlockArg::LockExclusive)?;
            let entry = store.read(&key)?;
            if entry.as_ref().is_some_and(|entry| entry.revision == was) {
                return store.write(&key, &value).map(Replaced::Done);
            }
            Ok(Replaced::Conflict(entry))
        })
        .await
    }

    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            check_key(&key)?;
            let _lock = store.lock(FlockArg::LockExclusive)?;
            if store.read(&key)?.is_none() {
                return Ok(false);
            }
            store.next_revision()?;
            let path = store.dir.join(&key);
            fs::remove_file(&path)
                .map_err(|error| store.failed(&format!("remove {key}"), error))?;
            Ok(true)
        })
        .await
    }

    pub fn watch(self, events: mpsc::Sender<Event>) {
        std::thread::spawn(move || watch::run(&self, &events));
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(self.failed("work", io::Error::other(error))))
    }

    fn failed(&self, what: &str, error: io::Error) -> StoreError {
        StoreError::File { what: what.to_owned(), dir: self.dir.clone(), error }
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<fs::File>, StoreError> {
        let open = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir.join(LOCK))
            .map_err(|error| self.failed("open the lock", error))?;
        Flock::lock(open, how).map_err(|(_, errno)| self.failed("take the lock", errno.into()))
    }

    fn list_locked(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut entries = Vec::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let failed = |error| self.failed(&format!("list {dir}"), error);
            for found in fs::read_dir(self.dir.join(&dir)).map_err(failed)? {
                let found = found.map_err(failed)?;
                let name = found.file_name().to_string_lossy().into_owned();
                if name.starts_with('.') {
                    continue;
                }
                let key = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                if found.file_type().map_err(failed)?.is_dir() {
                    dirs.push(key);
                } else {
                    entries.extend(self.read(&key)?);
                }
            }
        }
        Ok((entries, self.revision()?))
    }

    fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        match fs::read(self.dir.join(key)) {
            Ok(bytes) => Ok(Some(parse(key, &bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&format!("read {key}"), error)),
        }
    }

    /// Under the lock.
    fn write(&self, key: &str, value: &[u8]) -> Result<u64, StoreError> {
        check_key(key)?;
        let revision = self.next_revision()?;
        let path = self.dir.join(key);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| self.failed("make a directory", error))?;
        }
        let mut bytes = format!("{revision}\n").into_bytes();
        bytes.extend_from_slice(value);
        self.replace_file(&path, &bytes)
            .map_err(|error| self.failed(&format!("write {key}"), error))?;
        Ok(revision)
    }

    fn revision(&self) -> Result<u64, StoreError> {
        match fs::read_to_string(self.dir.join(REVISION)) {
            Ok(text) => text.trim().parse().map_err(|error| {
                self.failed("read the revision", io::Error::new(io::ErrorKind::InvalidData, error))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(self.failed("read the revision", error)),
        }
    }

    fn next_revision(&self) -> Result<u64, StoreError> {
        let revision = self.revision()? + 1;
        self.replace_file(&self.dir.join(REVISION), revision.to_string().as_bytes())
            .map_err(|error| self.failed("write the revision", error))?;
        Ok(revision)
    }

    /// One temporary name for all: there is one writer at a time, and what a dead one left there
    /// is overwritten.
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let tmp = self.dir.join(TMP);
        let mut file = fs::File::create(&tmp)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// A file without a revision was put there by hand: as old as anything.
fn parse(key: &str, bytes: &[u8]) -> Entry {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let head = end.and_then(|end| std::str::from_utf8(&bytes[..end]).ok()?.parse().ok());
    let (revision, value) = match (head, end) {
        (Some(revision), Some(end)) => (revision, &bytes[end + 1..]),
        _ => (0, bytes),
    };
    Entry { key: key.to_owned(), value: value.to_vec(), revision }
}
