//! What every store must do, whatever it is kept in.

use weft::store::{Created, Entry, Replaced, Store, StoreConfig};

use super::{file, listener::Listener, open, server::Etcd};

/// More than a listener may lag behind (`EVENTS_MAX`), and than etcd lists at once.
const MANY: u64 = 2500;

#[tokio::test(flavor = "multi_thread")]
async fn files() {
    suite(&file("files")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let etcd = Etcd::start("etcd", 23790);
    suite(&etcd.config()).await;
}

#[cfg(feature = "kubernetes")]
#[tokio::test(flavor = "multi_thread")]
async fn kubernetes() {
    let api = super::fake::FakeApi::start();
    suite(&super::kubernetes::config_of(&api, "suite")).await;
}

async fn suite(config: &StoreConfig) {
    let store = open(config).await;
    assert!(store.list().await.unwrap().0.is_empty());
    one_record(&store).await;
    claims(&store).await;
    many_records(&store).await;
    few_records_often(&store).await;
}

async fn one_record(store: &Store) {
    let mut listener = Listener::to(store).await;
    assert!(listener.records.is_empty());
    let block = "blocks/n/10.1.0.0-24";
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let Created::New(second) = store.create(block, b"2".to_vec()).await.unwrap() else { panic!() };
    assert!(second > first);
    let entry = Entry { key: block.into(), value: b"2".to_vec(), revision: second };
    // Its own value, too, is another's once it stands there.
    for value in [b"3", b"2"] {
        let taken = store.create(block, value.to_vec()).await.unwrap();
        assert_eq!(taken, Created::Exists(entry.clone()));
    }
    let conflict = store.replace(block, b"4".to_vec(), first).await.unwrap();
    assert_eq!(conflict, Replaced::Conflict(Some(entry)));
    let Replaced::Done(third) = store.replace(block, b"4".to_vec(), second).await.unwrap() else {
        panic!()
    };
    assert!(third > second);
    assert_eq!(
        store.replace("nodes/none", b"5".to_vec(), 1).await.unwrap(),
        Replaced::Conflict(None)
    );
    let stands = store.get("nodes/a").await.unwrap().unwrap().revision;
    assert!(!store.delete_if("nodes/a", stands - 1).await.unwrap());
    assert!(store.get("nodes/a").await.unwrap().is_some(), "it is another by now");
    assert!(store.delete_if("nodes/a", stands).await.unwrap());
    assert!(!store.delete_if("nodes/a", stands).await.unwrap());
    store.put("nodes/a", b"again".to_vec()).await.unwrap();
    assert!(store.delete("nodes/a").await.unwrap());
    assert!(!store.delete("nodes/a").await.unwrap());
    assert_eq!(store.get("nodes/a").await.unwrap(), None);
    for key in ["../escape", "", "a//b", "/a", "nodes/A", ".lock"] {
        let said = store.put(key, Vec::new()).await.unwrap_err().to_string();
        assert!(said.contains("a key is words"), "{key}: {said}");
    }
    // The listener may see a key's last state instead of each, but ends where the store does.
    listener.until_at(third + 1).await;
    assert_eq!(listener.records, [(block.to_owned(), b"4".to_vec())].into());
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
                let value = format!("{claimer}").into_bytes();
                if let Created::New(_) = store.create(&key, value).await.unwrap() {
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

/// Thousands are written while others list and listen; one does not listen until all is done.
async fn many_records(store: &Store) {
    let mut lagging = Listener::idle(store);
    let mut listener = Listener::to(store).await;
    let base = listener.revision;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut last = 0;
            for n in 0..MANY {
                // In no order of keys, so that a list in pages would show it if they were not one.
                let key = format!("nodes/n{:04}", n * 7 % MANY);
                last =
                    store.put(&key, format!("{n} {}", "x".repeat(100)).into_bytes()).await.unwrap();
            }
            last
        }
    });
    let mut lists = 0;
    while !writer.is_finished() {
        let (entries, revision) = store.list().await.unwrap();
        let nodes = entries.iter().filter(|entry| entry.key.starts_with("nodes/n"));
        let mut written: Vec<u64> = nodes
            .inspect(|entry| assert!(entry.revision <= revision, "of one moment"))
            .map(|entry| {
                String::from_utf8_lossy(&entry.value).split(' ').next().unwrap().parse().unwrap()
            })
            .collect();
        written.sort_unstable();
        assert_eq!(
            written,
            (0..revision - base).collect::<Vec<_>>(),
            "all up to {revision}, and no more"
        );
        lists += 1;
    }
    assert!(lists > 3, "the test listed while it wrote: {lists} times");
    let last = writer.await.unwrap();
    for listener in [&mut listener, &mut lagging] {
        listener.until_at(last).await;
        let (entries, _) = store.list().await.unwrap();
        let entries = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(listener.records, entries);
        assert_eq!(listener.breaks, 0);
    }
}

/// The same few are written again and again: whatever of it is heard, is heard in order.
async fn few_records_often(store: &Store) {
    let mut listener = Listener::to(store).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut last = 0;
            for n in 0..MANY {
                let key = format!("acks/a-node-with-a-long-name-{}", n % 60);
                last = store.put(&key, format!("{n}").into_bytes()).await.unwrap();
            }
            last
        }
    });
    let last = writer.await.unwrap();
    listener.until_at(last).await;
    let (entries, _) = store.list().await.unwrap();
    let entries = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(listener.records, entries);
}
