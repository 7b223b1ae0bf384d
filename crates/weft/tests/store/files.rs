//! What can befall the store in files: a writer killed, a disk full or read-only, a lock held,
//! strangers' files, a directory that goes and comes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
};
use weft::store::{Created, OPERATION_MAX, Store};

use super::{PATIENCE, dir, file, listener::Listener};

/// A writer that is killed at any moment leaves whole records and a revision that never goes back.
#[tokio::test(flavor = "multi_thread")]
async fn files_whose_writer_is_killed_are_whole() {
    let open = file("killed");
    if std::env::var_os("WEFT_TEST_WRITER").is_some() {
        let store = Store::open(&open).await.unwrap();
        for n in 0u64.. {
            let value = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(3000));
            store.put(&format!("nodes/n{}", n % 5), value.into_bytes()).await.unwrap();
        }
    }
    let store = Store::open(&open).await.unwrap();
    let mut highest = 0;
    for round in 0..25u64 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["files::files_whose_writer_is_killed_are_whole", "--exact"])
            .env("WEFT_TEST_WRITER", "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let enough = highest + 3 + round % 7;
        let reached = async {
            while store.list().await.unwrap().1 < enough {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
        writer.kill().unwrap();
        writer.wait().unwrap();
        let (entries, revision) = store.list().await.unwrap();
        assert!(revision >= enough);
        for entry in entries {
            let value: serde_json::Value =
                serde_json::from_slice(&entry.value).expect("a whole record");
            assert!(value["n"].is_u64() && entry.revision <= revision);
        }
        highest = store.put("nodes/mine", b"{\"n\":0}".to_vec()).await.unwrap();
        assert!(highest > revision, "never given twice");
    }
}

/// A file system of the test's own, 256 kB large.
fn small_disk(name: &str) -> std::path::PathBuf {
    let dir = dir(name);
    mount(Some("tmpfs"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=256k")).unwrap();
    dir
}

fn all(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|found| found.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_half_made() {
    let dir = small_disk("full");
    let store = Store::open(&file("full")).await.unwrap();
    let mut listener = Listener::to(&store).await;
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    // A record that does not fit: others still do.
    let said = store.put("nodes/big", vec![b'x'; 400_000]).await.unwrap_err().to_string();
    assert!(said.contains("write nodes/big in the store directory /run/store-full"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(all(&dir), [".lock", ".revision", "nodes"], "what was begun is not left");
    let second = store.put("nodes/b", b"2".to_vec()).await.unwrap();
    assert!(second > first);
    // To the last byte, by a stranger.
    let ballast = dir.join(".ballast");
    let wrote = fs::write(&ballast, vec![0; 400_000]);
    assert!(wrote.is_err(), "the disk is full");
    let before = store.list().await.unwrap();
    for _ in 0..3 {
        let said = store.put("nodes/a", b"3".to_vec()).await.unwrap_err().to_string();
        assert!(said.contains("No space left on device"), "{said}");
        let said = store.create("nodes/c", b"3".to_vec()).await.unwrap_err().to_string();
        assert!(said.contains("/run/store-full"), "{said}");
    }
    assert_eq!(store.list().await.unwrap(), before, "nothing lost, nothing half made");
    fs::remove_file(&ballast).unwrap();
    let Created::New(third) = store.create("nodes/c", b"3".to_vec()).await.unwrap() else {
        panic!()
    };
    assert!(third > before.1, "never goes back");
    listener.until_at(third).await;
    assert_eq!((listener.records.len(), listener.breaks), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_directory_is_read() {
    let dir = small_disk("read-only");
    let config = file("read-only");
    let store = Store::open(&config).await.unwrap();
    let last = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let remount = |flags| {
        mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_REMOUNT | flags, Some("size=256k"))
            .unwrap();
    };
    remount(MsFlags::MS_RDONLY);
    for said in [
        store.put("nodes/a", b"2".to_vec()).await.unwrap_err().to_string(),
        store.create("nodes/b", b"2".to_vec()).await.unwrap_err().to_string(),
        store.delete("nodes/a").await.unwrap_err().to_string(),
    ] {
        assert!(said.contains("/run/store-read-only: Read-only file system"), "{said}");
    }
    let again = Store::open(&config).await.unwrap();
    let mut listener = Listener::to(&again).await;
    assert_eq!((listener.records.len(), listener.revision, listener.breaks), (1, last, 0));
    remount(MsFlags::empty());
    let last = store.put("nodes/a", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.records["nodes/a"], b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_is_said_in_time() {
    let store = Store::open(&file("held")).await.unwrap();
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let lock = fs::File::open(dir("held").join(".lock")).unwrap();
    let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusive) else { panic!() };
    let start = Instant::now();
    let (put, list) = tokio::join!(store.put("nodes/a", b"2".to_vec()), store.list());
    assert!(start.elapsed() < OPERATION_MAX * 2, "{:?}", start.elapsed());
    for said in [put.unwrap_err().to_string(), list.unwrap_err().to_string()] {
        assert!(said.contains("take .lock in the store directory /run/store-held"), "{said}");
    }
    drop(lock);
    assert_eq!(store.get("nodes/a").await.unwrap().unwrap().value, b"1");
    store.put("nodes/a", b"2".to_vec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_files_are_left_alone() {
    let dir = dir("strangers");
    let store = Store::open(&file("strangers")).await.unwrap();
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let mut listener = Listener::to(&store).await;
    for stranger in ["README", "nodes/a~", "nodes/.a.swp", "nodes/#a#"] {
        fs::write(dir.join(stranger), "a stranger's").unwrap();
    }
    // To read it would take for ever.
    nix::unistd::mkfifo(&dir.join("nodes/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.join("nodes/zero")).unwrap();
    let last = store.put("nodes/b", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.records.len(), listener.breaks), (2, 0));
    assert_eq!(store.list().await.unwrap().0.len(), 2);
    assert_eq!(Listener::to(&store).await.records.len(), 2);

    // What is written by hand, without a revision, is heard each time.
    for value in [&b"by hand"[..], b"by hand again"] {
        fs::write(dir.join("nodes/tmp~"), value).unwrap();
        fs::rename(dir.join("nodes/tmp~"), dir.join("nodes/z")).unwrap();
        listener
            .until("the hand's", |me| me.records.get("nodes/z").is_some_and(|v| v == value))
            .await;
    }
    assert!(dir.join("README").exists() && dir.join("nodes/a~").exists());

    // Without the last revision given, none that is in use is given again.
    fs::remove_file(dir.join(".revision")).unwrap();
    assert!(store.put("nodes/a", b"3".to_vec()).await.unwrap() > last);
    fs::write(dir.join(".revision"), "").unwrap();
    let said = store.put("nodes/a", b"4".to_vec()).await.unwrap_err().to_string();
    assert!(said.contains("read .revision") && said.contains("write a number there"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_goes_and_comes_is_listed_anew() {
    let dir = dir("goes");
    let store = Store::open(&file("goes")).await.unwrap();
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let mut listener = Listener::to(&store).await;
    let hidden = dir.with_extension("hidden");
    fs::rename(&dir, &hidden).unwrap();
    listener.until("away", |listener| listener.away.is_some()).await;
    let said = store.put("nodes/a", b"2".to_vec()).await.unwrap_err().to_string();
    assert!(said.contains("/run/store-goes: No such file"), "{said}");
    fs::rename(&hidden, &dir).unwrap();
    listener.until("back", |listener| listener.away.is_none()).await;
    let last = store.put("nodes/b", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.records.len(), 2);
}
