//! Both stores, by one suite; etcd is a real one, started here and ended with the test.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::sync::mpsc::Receiver;
use weft::store::{Created, Entry, Event, Replaced, Store, StoreConfig};

const PATIENCE: Duration = Duration::from_secs(30);

fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from("/run").join(format!("store-{name}"));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn config(value: serde_json::Value) -> StoreConfig {
    serde_json::from_value(value).unwrap()
}

fn file(name: &str) -> StoreConfig {
    config(serde_json::json!({"file": {"dir": dir(name)}}))
}

/// A real etcd on loopback; SIGKILLed when dropped.
struct Etcd {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Etcd {
    fn start(name: &str, port: u16) -> Self {
        let dir = dir(name);
        Self { child: Self::run(&dir, port), dir, port }
    }

    fn run(dir: &std::path::Path, port: u16) -> Child {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let (client, peer) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 1));
        Command::new("etcd")
            .env("ETCD_UNSUPPORTED_ARCH", "arm64")
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start etcd (Debian package etcd-server)")
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
    fn again(&mut self) {
        self.child = Self::run(&self.dir, self.port);
    }
    fn config(&self) -> StoreConfig {
        config(
            serde_json::json!({"etcd": {"endpoints": [format!("http://127.0.0.1:{}", self.port)]}}),
        )
    }
    fn ctl(&self, words: &[&str]) {
        let endpoint = format!("--endpoints=http://127.0.0.1:{}", self.port);
        let out = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(endpoint)
            .args(words)
            .output()
            .unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn next(events: &mut Receiver<Event>) -> Event {
    tokio::time::timeout(PATIENCE, events.recv())
        .await
        .expect("an event in time")
        .expect("a watch that goes on")
}

async fn until_up(store: &Store) {
    let up = async {
        while store.list().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("the store answers");
}

/// What every store must do.
async fn suite(open: &StoreConfig) {
    let store = Store::open(open).await.unwrap();
    until_up(&store).await;
    let (none, _) = store.list().await.unwrap();
    assert!(none.is_empty());
    let mut events = store.watch();
    assert!(
        matches!(next(&mut events).await, Event::Snapshot { entries, .. } if entries.is_empty())
    );

    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let Created::New(second) = store.create("blocks/n/10.1.0.0-24", b"2".to_vec()).await.unwrap()
    else {
        panic!()
    };
    assert!(second > first);
    let taken = store.create("blocks/n/10.1.0.0-24", b"3".to_vec()).await.unwrap();
    let entry =
        Entry { key: "blocks/n/10.1.0.0-24".into(), value: b"2".to_vec(), revision: second };
    assert_eq!(taken, Created::Exists(entry.clone()));
    assert_eq!(
        store.replace("blocks/n/10.1.0.0-24", b"4".to_vec(), first).await.unwrap(),
        Replaced::Conflict(Some(entry))
    );
    let Replaced::Done(third) =
        store.replace("blocks/n/10.1.0.0-24", b"4".to_vec(), second).await.unwrap()
    else {
        panic!()
    };
    assert!(store.delete("nodes/a").await.unwrap());
    assert!(!store.delete("nodes/a").await.unwrap());
    assert_eq!(store.get("nodes/a").await.unwrap(), None);
    assert!(store.put("../escape", Vec::new()).await.is_err());

    // The listener may see a key's last state instead of each, but ends where the store does, in order.
    let (mut seen, mut last) = (BTreeMap::new(), 0);
    while !(seen.get("blocks/n/10.1.0.0-24") == Some(&b"4".to_vec()) && last > third) {
        match next(&mut events).await {
            Event::Put(entry) => {
                assert!(entry.revision > last, "in the order of revisions");
                last = entry.revision;
                seen.insert(entry.key, entry.value);
            }
            Event::Delete { key, revision } => {
                last = revision;
                seen.remove(&key);
            }
            Event::Snapshot { entries, revision } => {
                last = revision;
                seen = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            }
            Event::Away { why } => panic!("{why}"),
            Event::Back => {}
        }
    }
    claims(&store).await;
}

/// Many claim few: each has exactly one winner.
async fn claims(store: &Store) {
    let mut tasks = Vec::new();
    for claimer in 0..40 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for block in 0..20 {
                let key = format!("blocks/race/10.2.{block}.0-24");
                if let Created::New(_) =
                    store.create(&key, format!("{claimer}").into_bytes()).await.unwrap()
                {
                    won.push(block);
                }
            }
            won
        }));
    }
    let mut won: Vec<i32> = Vec::new();
    for task in tasks {
        won.extend(task.await.unwrap());
    }
    won.sort_unstable();
    assert_eq!(won, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn files() {
    suite(&file("files")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let etcd = Etcd::start("etcd", 23790);
    suite(&etcd.config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_dies_and_comes_back_loses_no_change() {
    let mut etcd = Etcd::start("etcd-dies", 23800);
    let store = Store::open(&etcd.config()).await.unwrap();
    until_up(&store).await;
    let mut events = store.watch();
    assert!(matches!(next(&mut events).await, Event::Snapshot { .. }));
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::Put(entry) if entry.value == b"1"));
    etcd.kill();
    assert!(matches!(next(&mut events).await, Event::Away { .. }));
    let error = store.put("nodes/a", b"x".to_vec()).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:23800"), "{error}");
    etcd.again();
    etcd.ctl(&["--dial-timeout=20s", "--command-timeout=20s", "put", "/weft/nodes/a", "2"]);
    assert_eq!(next(&mut events).await, Event::Back);
    assert!(matches!(next(&mut events).await, Event::Put(entry) if entry.value == b"2"));

    // What was compacted away meanwhile is listed anew.
    etcd.kill();
    assert!(matches!(next(&mut events).await, Event::Away { .. }));
    etcd.again();
    let words = ["--dial-timeout=20s", "--command-timeout=20s"];
    etcd.ctl(&[words[0], words[1], "put", "/weft/nodes/a", "3"]);
    etcd.ctl(&[words[0], words[1], "put", "/weft/nodes/b", "4"]);
    let (_, revision) = {
        until_up(&store).await;
        store.list().await.unwrap()
    };
    etcd.ctl(&[words[0], words[1], "compact", &revision.to_string()]);
    let mut last = BTreeMap::new();
    while last.len() < 2 {
        match next(&mut events).await {
            Event::Put(entry) => drop(last.insert(entry.key, entry.value)),
            Event::Snapshot { entries, .. } => {
                last = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            }
            _ => {}
        }
    }
    assert_eq!(last["nodes/a"], b"3");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_with_a_wrong_password_or_nobody_there_says_so() {
    let etcd = Etcd::start("etcd-auth", 23810);
    let open = Store::open(&etcd.config()).await.unwrap();
    until_up(&open).await;
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    let with = |password: &str| {
        config(serde_json::json!({"etcd": {
            "endpoints": ["http://127.0.0.1:23810"], "user": "root", "password": password,
        }}))
    };
    let good = Store::open(&with("secret")).await.unwrap();
    good.put("nodes/a", b"1".to_vec()).await.unwrap();
    let error = match Store::open(&with("wrong")).await {
        Ok(store) => store.put("nodes/a", b"2".to_vec()).await.unwrap_err(),
        Err(error) => error,
    };
    let said = error.to_string();
    assert!(said.contains("127.0.0.1:23810") && said.contains("authentication failed"), "{said}");
    let nobody = config(serde_json::json!({"etcd": {"endpoints": ["http://127.0.0.1:9"]}}));
    let store = Store::open(&nobody).await.unwrap();
    let said = store.list().await.unwrap_err().to_string();
    assert!(said.contains("list at etcd http://127.0.0.1:9"), "{said}");
}

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
            .args(["files_whose_writer_is_killed_are_whole", "--exact"])
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
