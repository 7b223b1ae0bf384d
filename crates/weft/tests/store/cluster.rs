//! Three members: those that die or freeze one at a time are not missed; without a quorum the
//! store is away, and nothing is missed when it returns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use weft::store::{Created, Store, StoreConfig};

use super::{endpoints, listener::Listener, open, server::Etcd, until};

fn all(cluster: &[Etcd]) -> StoreConfig {
    endpoints(&cluster.iter().map(|member| member.url.as_str()).collect::<Vec<_>>())
}

/// Writes and claims until told to stop; gives the revisions.
fn write(store: Store, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut revisions = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let n = revisions.len();
            let value = format!("{n}").into_bytes();
            revisions.push(store.put("nodes/a", value.clone()).await.unwrap());
            let key = format!("blocks/n/10.1.{n}.0-24");
            match store.create(&key, value).await.unwrap() {
                Created::New(revision) => revisions.push(revision),
                Created::Exists(entry) => panic!("{entry:?} is there before us"),
            }
        }
        revisions
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_die_one_at_a_time_are_not_missed() {
    let mut cluster = Etcd::cluster("etcd-members", 23900);
    let store = open(&all(&cluster)).await;
    let mut listener = Listener::to(&store).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write(store.clone(), stop.clone());
    // The first is the one that is asked, and that the watch hangs on; then the one after it.
    for member in &mut cluster {
        let (before, breaks) = (listener.revision, listener.breaks);
        member.kill();
        listener.until_at(before + 20).await;
        assert_eq!(listener.breaks, breaks, "a quorum is left: not away");
        member.again();
        member.until_healthy().await;
    }
    stop.store(true, Ordering::Relaxed);
    let revisions = writer.await.unwrap();
    listener.until_at(*revisions.last().unwrap()).await;
    assert!(listener.knows(&revisions));

    // Without a quorum.
    cluster[0].kill();
    cluster[1].kill();
    listener.until("away", |listener| listener.away.is_some()).await;
    let why = listener.away.clone().unwrap();
    assert!(
        why.contains("Connection refused") && why.contains("http://127.0.0.1:23904: "),
        "{why}"
    );
    let mut said = String::new();
    until("the last member knows", async || {
        said = store.put("nodes/a", b"x".to_vec()).await.unwrap_err().to_string();
        said.contains("no leader")
    })
    .await;
    for part in ["put nodes/a", "23900: ", "23902: ", "Connection refused"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    cluster[1].again();
    listener.until("back", |listener| listener.away.is_none()).await;
    let last = store.put("nodes/a", b"back".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.records["nodes/a"], b"back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_freezes_is_not_missed() {
    let cluster = Etcd::cluster("etcd-freezes", 23910);
    let store = open(&all(&cluster)).await;
    let mut listener = Listener::to(&store).await;
    // The watch hangs on the first.
    cluster[0].freeze();
    let start = Instant::now();
    let mut revisions = vec![store.put("nodes/a", b"1".to_vec()).await.unwrap()];
    for n in 0..20 {
        revisions.push(store.put(&format!("nodes/n{n}"), b"1".to_vec()).await.unwrap());
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    listener.until_at(*revisions.last().unwrap()).await;
    assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
    cluster[0].thaw();
    revisions.push(store.put("nodes/a", b"2".to_vec()).await.unwrap());
    listener.until_at(*revisions.last().unwrap()).await;
    assert!(listener.knows(&revisions));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_dead_from_the_start_costs_nothing() {
    let etcd = Etcd::start("etcd-dead", 23920);
    etcd.until_healthy().await;
    let config = endpoints(&["http://127.0.0.1:9", "http://192.0.2.1:2379", &etcd.url]);
    let store = Store::open(&config).await.unwrap();
    let mut listener = Listener::to(&store).await;
    let start = Instant::now();
    for n in 0..50 {
        let last = store.put("nodes/a", format!("{n}").into_bytes()).await.unwrap();
        listener.until_at(last).await;
    }
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert_eq!(listener.breaks, 0);
}
