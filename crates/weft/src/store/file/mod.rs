//! The embedded store: a directory, for one machine and the lab. A record is a file: its first
//! line the revision, the rest its value. Writers of all processes take turns by a lock that dies
//! with its holder; a record is replaced by a rename, so it is never half there.

mod watch;

use std::{
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::sync::mpsc;

use super::{Created, Entry, Event, OPERATION_MAX, Replaced, StoreError, check_key};

const LOCK: &str = ".lock";
/// The last revision given. Written before the record that has it, so none is given twice.
const REVISION: &str = ".revision";
const TMP: &str = ".tmp";
/// Between looks at a lock that another holds: a write takes about so long.
const LOCK_LOOK: Duration = Duration::from_millis(1);

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
        let private = |meta: fs::Metadata| meta.permissions().mode() & 0o777 == 0o700;
        if fs::metadata(&self.dir).is_ok_and(private) {
            return Ok(());
        }
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))
            .map_err(|error| self.failed("protect", error))
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        self.blocking(|store| {
            let _lock = store.lock_to_read()?;
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
            let _lock = store.lock_to_write()?;
            store.write(&key, &value)
        })
        .await
    }

    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            let _lock = store.lock_to_write()?;
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
            let _lock = store.lock_to_write()?;
            let entry = store.read(&key)?;
            if entry.as_ref().is_some_and(|entry| entry.revision == was) {
                return store.write(&key, &value).map(Replaced::Done);
            }
            Ok(Replaced::Conflict(entry))
        })
        .await
    }

    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.delete_where(key, |_| true).await
    }

    pub async fn delete_if(&self, key: &str, was: u64) -> Result<bool, StoreError> {
        self.delete_where(key, move |entry| entry.revision == was).await
    }

    async fn delete_where(
        &self,
        key: &str,
        holds: impl FnOnce(&Entry) -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.blocking(move |store| {
            let _lock = store.lock_to_write()?;
            if !store.read(&key)?.as_ref().is_some_and(holds) {
                return Ok(false);
            }
            store.next_revision()?;
            let path = store.dir.join(&key);
            fs::remove_file(&path)
                .and_then(|()| sync_parent(&path))
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

    fn lock_to_write(&self) -> Result<Flock<fs::File>, StoreError> {
        let open = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir.join(LOCK))
            .map_err(|error| self.failed("open .lock", error))?;
        self.lock(open, FlockArg::LockExclusiveNonblock)
    }

    /// What can't be written any more can still be read.
    fn lock_to_read(&self) -> Result<Flock<fs::File>, StoreError> {
        match fs::File::open(self.dir.join(LOCK)) {
            Ok(open) => self.lock(open, FlockArg::LockSharedNonblock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.lock_to_write(),
            Err(error) => Err(self.failed("open .lock", error)),
        }
    }

    /// Waiting in the kernel would have no bound, and its holder may be stopped.
    fn lock(&self, mut file: fs::File, how: FlockArg) -> Result<Flock<fs::File>, StoreError> {
        let end = Instant::now() + OPERATION_MAX;
        loop {
            file = match Flock::lock(file, how) {
                Ok(lock) => return Ok(lock),
                Err((file, Errno::EWOULDBLOCK)) if Instant::now() < end => file,
                Err((_, Errno::EWOULDBLOCK)) => {
                    let held = format!(
                        "another process has held it for {} s (`fuser .lock` tells which)",
                        OPERATION_MAX.as_secs()
                    );
                    return Err(self.failed("take .lock", io::Error::other(held)));
                }
                Err((_, errno)) => return Err(self.failed("take .lock", errno.into())),
            };
            std::thread::sleep(LOCK_LOOK);
        }
    }

    fn list_locked(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut entries = Vec::new();
        for key in self.keys()? {
            entries.extend(self.read(&key)?);
        }
        Ok((entries, self.revision()?))
    }

    /// Of all files that can be records. What else lies there is a stranger's: left alone.
    fn keys(&self) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            let failed = |error| self.failed(&format!("list /{dir}"), error);
            for found in fs::read_dir(self.dir.join(&dir)).map_err(failed)? {
                let found = found.map_err(failed)?;
                let name = found.file_name().to_string_lossy().into_owned();
                let key = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let kind = found.file_type().map_err(failed)?;
                if check_key(&key).is_err() || !(kind.is_dir() || kind.is_file()) {
                    continue;
                }
                if kind.is_dir() { dirs.push(key) } else { keys.push(key) }
            }
        }
        Ok(keys)
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
                let bad = format!(
                    "{error}; write a number there that is higher than the first line of any record"
                );
                self.failed("read .revision", io::Error::new(io::ErrorKind::InvalidData, bad))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.highest(),
            Err(error) => Err(self.failed("read .revision", error)),
        }
    }

    /// Where the last revision given is not known: one that is in use is not given again.
    fn highest(&self) -> Result<u64, StoreError> {
        let mut highest = 0;
        for key in self.keys()? {
            highest = highest.max(self.read(&key)?.map_or(0, |entry| entry.revision));
        }
        Ok(highest)
    }

    fn next_revision(&self) -> Result<u64, StoreError> {
        let revision = self.revision()? + 1;
        self.replace_file(&self.dir.join(REVISION), revision.to_string().as_bytes())
            .map_err(|error| self.failed("write .revision", error))?;
        Ok(revision)
    }

    /// One temporary name for all: there is one writer at a time, and what a dead one left there
    /// is overwritten. One that could not be finished is not left: the disk may be full of it.
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let tmp = self.dir.join(TMP);
        let written = fs::File::create(&tmp).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&tmp, path)).inspect_err(|_| {
            let _ = fs::remove_file(&tmp);
        })?;
        sync_parent(path)
    }
}

/// A name is on disk only once its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
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
