//! What can befall one etcd: death, compaction, a freeze, another history, logins, a full disk.

use std::time::Instant;

use weft::store::{Created, OPERATION_MAX, Store, StoreConfig};

use super::{PATIENCE, config, endpoints, listener::Listener, open, refusal, server::Etcd, until};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_dies_and_comes_back_loses_no_change() {
    let mut etcd = Etcd::start("etcd-dies", 23800);
    let store = open(&etcd.config()).await;
    let mut listener = Listener::to(&store).await;
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(first).await;
    etcd.kill();
    listener.until("away", |listener| listener.away.is_some()).await;
    let error = store.put("nodes/a", b"x".to_vec()).await.unwrap_err().to_string();
    assert!(error.contains("put nodes/a at etcd http://127.0.0.1:23800: "), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    etcd.again();
    etcd.ctl(&["put", "/weft/nodes/a", "2"]);
    listener.until_at(first + 1).await;
    assert_eq!((listener.away.take(), listener.snapshots), (None, 1), "heard as a change");
    assert_eq!(listener.records["nodes/a"], b"2");

    // What was compacted away meanwhile is listed anew.
    etcd.kill();
    listener.until("away", |listener| listener.away.is_some()).await;
    etcd.again();
    etcd.ctl(&["put", "/weft/nodes/a", "3"]);
    etcd.ctl(&["put", "/weft/nodes/b", "4"]);
    etcd.ctl(&["compact", &(first + 3).to_string()]);
    listener.until_at(first + 3).await;
    assert_eq!(listener.records["nodes/a"], b"3");
    assert_eq!(listener.records["nodes/b"], b"4");
}

/// A watch that breaks again before it has caught up must not think that it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_while_it_catches_up_misses_nothing() {
    let mut etcd = Etcd::start("etcd-breaks", 23720);
    let store = open(&etcd.config()).await;
    // Does not listen, so that the watch is stopped amid what it has to tell.
    let mut listener = Listener::to(&store).await;
    let mut writers = Vec::new();
    for writer in 0..8 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut last = 0;
            for n in 0..600 {
                last = store.put(&format!("nodes/n{writer}-{n}"), vec![b'x'; 600]).await.unwrap();
            }
            last
        }));
    }
    let mut last = 0;
    for writer in writers {
        last = last.max(writer.await.unwrap());
    }
    etcd.kill();
    etcd.again();
    // It has begun again, with thousands still to tell; and breaks.
    listener.until("away", |listener| listener.away.is_some()).await;
    listener.until("back", |listener| listener.away.is_none()).await;
    assert!(listener.heard.len() < 4000, "much is left: {} heard", listener.heard.len());
    etcd.kill();
    etcd.again();
    listener.until_at(last).await;
    let first = *listener.heard.first().unwrap();
    assert_eq!((listener.snapshots, listener.breaks), (1, 2), "heard as changes");
    assert_eq!(listener.heard.len() as u64, last - first + 1, "each of them");
    assert_eq!(listener.records.len(), 4800);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_is_away_until_it_thaws() {
    let etcd = Etcd::start("etcd-frozen", 23730);
    let store = open(&etcd.config()).await;
    let mut listener = Listener::to(&store).await;
    etcd.freeze();
    let start = Instant::now();
    let (put, create, list) =
        tokio::join!(store.put("nodes/a", vec![]), store.create("nodes/b", vec![]), store.list());
    let bound = OPERATION_MAX.as_secs_f32() + 1.0;
    assert!(start.elapsed().as_secs_f32() < bound, "{:?}", start.elapsed());
    for said in [put.unwrap_err(), create.unwrap_err(), list.unwrap_err()].map(|e| e.to_string()) {
        assert!(said.contains("http://127.0.0.1:23730: "), "{said}");
    }
    listener.until("away", |listener| listener.away.is_some()).await;
    assert!(start.elapsed().as_secs() < 12, "noticed after {:?}", start.elapsed());
    // A fresh one starts nevertheless.
    let late = Store::open(&etcd.config()).await.unwrap();
    etcd.thaw();
    listener.until("back", |listener| listener.away.is_none()).await;
    until("answers", async || late.list().await.is_ok()).await;
    let last = late.put("nodes/c", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(
        listener.records,
        late.list()
            .await
            .map(|(entries, _)| {
                entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
            })
            .unwrap()
    );
}

/// An etcd that was begun anew counts from one again: its list replaces what was known.
#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_lost_its_data_is_listed_anew() {
    let mut etcd = Etcd::start("etcd-lost", 23740);
    let store = open(&etcd.config()).await;
    let mut listener = Listener::to(&store).await;
    for n in 0..20 {
        store.put(&format!("nodes/n{n}"), b"1".to_vec()).await.unwrap();
    }
    listener.until("all", |listener| listener.records.len() == 20).await;
    etcd.kill();
    std::fs::remove_dir_all(etcd.dir.join("data")).unwrap();
    etcd.again();
    until("answers", async || store.list().await.is_ok()).await;
    store.put("nodes/new", b"2".to_vec()).await.unwrap();
    let only: Vec<u8> = b"2".to_vec();
    listener
        .until("the new list", |me| me.records == [("nodes/new".to_owned(), only.clone())].into())
        .await;
    assert!(listener.revision < 20 && listener.snapshots >= 2);
}

fn with_user(url: &str, user: &str, password: &str) -> StoreConfig {
    config(serde_json::json!({"etcd": {"endpoints": [url], "user": user, "password": password}}))
}

fn want_logins(etcd: &Etcd) {
    etcd.ctl(&["user", "add", "root:secret"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_or_nobody_there_is_said() {
    let mut etcd = Etcd::start("etcd-auth", 23810);
    let url = etcd.url.clone();
    etcd.until_healthy().await;
    let said = refusal(&with_user(&url, "root", "secret")).await;
    assert!(said.contains("this etcd has no logins"), "{said}");
    want_logins(&etcd);
    let good = Store::open(&with_user(&url, "root", "secret")).await.unwrap();
    good.put("nodes/a", b"1".to_vec()).await.unwrap();
    let said = refusal(&with_user(&url, "root", "wrong")).await;
    assert!(said.contains(&url) && said.contains("authentication failed"), "{said}");
    assert!(!said.contains("wrong"), "{said}");
    let said = refusal(&etcd.config()).await;
    assert!(said.contains("this etcd wants a login"), "{said}");
    let said = refusal(&endpoints(&["http://127.0.0.1:9"])).await;
    assert!(said.contains("list at etcd http://127.0.0.1:9: "), "{said}");

    // A password in a file may change, and none is ever written out.
    let file = etcd.dir.join("password");
    std::fs::write(&file, "old-secret\n").unwrap();
    let by_file = config(serde_json::json!({"etcd": {
        "endpoints": [url], "user": "root", "password": "hush-hush", "passwordFile": file,
    }}));
    assert!(!format!("{by_file:?}").contains("hush"), "{by_file:?}");
    let by_file = config(serde_json::json!({"etcd": {
        "endpoints": [url], "user": "root", "passwordFile": file,
    }}));
    let store = Store::open(&by_file).await.unwrap();
    assert!(store.list().await.unwrap_err().to_string().contains("authentication failed"));
    std::fs::write(&file, "secret\n").unwrap();
    assert_eq!(store.list().await.unwrap().0.len(), 1);

    // With a login, too, an etcd that is away is no reason not to start.
    etcd.kill();
    let early = Store::open(&with_user(&url, "root", "secret")).await.unwrap();
    let mut listener = Listener::idle(&early);
    listener.until("away", |listener| listener.away.is_some()).await;
    etcd.again();
    listener.until("the list", |listener| listener.records.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contradictions_in_the_configuration_are_said() {
    let etcd = |more: serde_json::Value| {
        let mut etcd = serde_json::json!({"endpoints": ["http://127.0.0.1:9"]});
        etcd.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config(serde_json::json!({"etcd": etcd}))
    };
    let cases = [
        (serde_json::json!({"endpoints": []}), "set store.etcd.endpoints"),
        (
            serde_json::json!({"endpoints": ["http://me:hush@127.0.0.1:9"]}),
            "http://…@127.0.0.1:9 has a login",
        ),
        (serde_json::json!({"endpoints": ["https://127.0.0.1:9"]}), "set store.etcd.tls.ca"),
        (serde_json::json!({"endpoints": ["http://::1:x"]}), "http://::1:x: invalid"),
        (serde_json::json!({"tls": {"ca": "/ca.pem"}}), "write https://"),
        (serde_json::json!({"user": "root"}), "set store.etcd.password"),
        (serde_json::json!({"password": "hush"}), "set store.etcd.user"),
        (serde_json::json!({"user": "root", "passwordFile": "/none"}), "read the password /none"),
    ];
    for (more, want) in cases {
        let said = Store::open(&etcd(more.clone())).await.err().unwrap().to_string();
        assert!(said.contains(want) && !said.contains("hush"), "{more}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_expires_is_made_anew() {
    let words = ["--auth-token", "simple", "--auth-token-ttl", "2"];
    let mut etcd = Etcd::start_with("etcd-ttl", 23820, &words);
    etcd.until_healthy().await;
    want_logins(&etcd);
    let store = open(&with_user(&etcd.url, "root", "secret")).await;
    let mut listener = Listener::to(&store).await;
    let expired = |etcd: &Etcd| etcd.log().matches("deleted a simple token").count();
    let before = expired(&etcd);
    until("an expired token", async || expired(&etcd) > before).await;
    let last = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.breaks, 0);

    // Users that come and go make logins old.
    etcd.ctl(&["--user", "root:secret", "user", "add", "other:pw"]);
    let last = store.put("nodes/a", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;

    // A server that begins anew knows no token.
    etcd.kill();
    etcd.again();
    until("answers", async || store.list().await.is_ok()).await;
    let last = store.put("nodes/a", b"3".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.records["nodes/a"].as_slice(), listener.snapshots), (b"3".as_slice(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_is_said_and_read_on() {
    let etcd = Etcd::start_with("etcd-full", 23830, &["--quota-backend-bytes", "4000000"]);
    let store = open(&etcd.config()).await;
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let mut listener = Listener::to(&store).await;
    let full = async {
        loop {
            if let Err(error) = store.put("nodes/big", vec![b'x'; 200_000]).await {
                return error.to_string();
            }
        }
    };
    let said = tokio::time::timeout(PATIENCE, full).await.expect("full");
    for part in ["put nodes/big at etcd http://127.0.0.1:23830", "etcd is full", "alarm disarm"] {
        assert!(said.contains(part), "{said}");
    }
    let said = store.create("blocks/n/10.1.0.0-24", b"2".to_vec()).await.unwrap_err().to_string();
    assert!(said.contains("etcd is full"), "{said}");
    assert_eq!(store.get("blocks/n/10.1.0.0-24").await.unwrap(), None, "nothing half made");
    // Reads go on, and so does the watch: what is deleted is heard.
    assert_eq!(store.get("nodes/a").await.unwrap().unwrap().value, b"1");
    assert!(store.delete("nodes/a").await.unwrap());
    let (entries, revision) = store.list().await.unwrap();
    assert_eq!(entries.len(), 1);
    listener.until_at(revision).await;
    assert_eq!((listener.records.len(), listener.breaks), (1, 0));

    // As the error says.
    etcd.ctl(&["compact", &revision.to_string()]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    let Created::New(last) = store.create("blocks/n/10.1.0.0-24", b"2".to_vec()).await.unwrap()
    else {
        panic!()
    };
    listener.until_at(last).await;
    assert_eq!((listener.records.len(), listener.snapshots), (2, 1));
}

/// Records larger than a message usually may be, all in one page; and keys of others beside them.
#[tokio::test(flavor = "multi_thread")]
async fn large_records_and_odd_keys_are_listed() {
    let etcd = Etcd::start("etcd-large", 23840);
    let store = open(&etcd.config()).await;
    let mut listener = Listener::to(&store).await;
    let mut last = 0;
    for n in 0..20 {
        last = store.put(&format!("nodes/n{n}"), vec![b'x'; 500_000]).await.unwrap();
    }
    etcd.ctl(&["put", "/weft0", "not ours"]);
    etcd.ctl(&["put", "/wef/nodes/a", "not ours"]);
    assert_eq!(store.list().await.unwrap().0.len(), 20);
    listener.until_at(last).await;
    let again = Listener::to(&store).await;
    assert_eq!((again.records.len(), listener.records.len()), (20, 20));
}
