//! What can befall an API server: it ends and comes back, forgets, breaks off, repeats itself, loses
//! its history, refuses who asks. And what is the store's own: networks beside records.

use serde_json::{Value, json};
use weft::store::{
    Created, Event, Replaced, Store, StoreConfig,
    kubernetes::{NETWORKS, RECORDS, name},
};

use super::{PATIENCE, config, fake::FakeApi, listener::Listener, open, refusal, until};

pub fn config_of(api: &FakeApi, name: &str) -> StoreConfig {
    config(json!({"kubernetes": {"kubeconfig": api.kubeconfig(name)}}))
}

fn network(name: &str, join: &str) -> Value {
    json!({
        "apiVersion": "weft.network/v1", "kind": "Network", "metadata": {"name": name},
        "spec": {"attach": {"kind": "veth"}, "join": {"kind": join}, "ranges": ["10.1.0.0/16"]},
    })
}

fn lists(api: &FakeApi) -> usize {
    api.requests().iter().filter(|request| request.is_list()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_and_comes_back_loses_no_change_and_is_not_listed_again() {
    let mut api = FakeApi::start();
    let store = open(&config_of(&api, "ends")).await;
    let mut listener = Listener::to(&store).await;
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(first).await;
    api.requests();
    api.stop();
    listener.until("away", |listener| listener.away.is_some()).await;
    let error = store.put("nodes/a", b"x".to_vec()).await.unwrap_err().to_string();
    assert!(error.contains(&format!("write nodes/a at the API server {}", api.url())), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    api.again();
    let last = store.put("nodes/a", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    // Networks are followed beside the records, and come back by themselves.
    listener.until("back", |listener| listener.away.is_none()).await;
    assert_eq!((listener.snapshots, lists(&api)), (1, 0));
    assert_eq!(listener.records["nodes/a"], b"2");
}

/// Breaks are nobody's business as long as the server answers.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_made_again_without_a_word() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "breaks")).await;
    let mut listener = Listener::to(&store).await;
    api.requests();
    for n in 0..5 {
        api.disconnect();
        let last = store.put(&format!("nodes/n{n}"), b"1".to_vec()).await.unwrap();
        listener.until_at(last).await;
    }
    assert_eq!((listener.breaks, listener.snapshots, lists(&api)), (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_forgot_is_listed_anew() {
    let mut api = FakeApi::start();
    let store = open(&config_of(&api, "forgets")).await;
    let mut listener = Listener::to(&store).await;
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let gone = store.put("nodes/b", b"1".to_vec()).await.unwrap();
    listener.until_at(gone).await;
    api.stop();
    listener.until("away", |listener| listener.away.is_some()).await;
    api.delete(RECORDS, &name("nodes/b"));
    let last = api.put(RECORDS, record("nodes/c", "2"));
    api.expire();
    api.again();
    listener.until_at(last).await;
    assert_eq!(listener.snapshots, 2, "a list, and nothing torn before it");
    assert_eq!(listener.records.keys().collect::<Vec<_>>(), ["nodes/a", "nodes/c"]);
}

fn record(key: &str, value: &str) -> Value {
    json!({
        "apiVersion": "weft.network/v1", "kind": "Record", "metadata": {"name": name(key)},
        "spec": {"key": key, "value": value},
    })
}

/// A bookmark carries a quiet watch over what the server forgets.
#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_spares_the_next_list() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "bookmark")).await;
    let mut listener = Listener::to(&store).await;
    api.requests();
    // Of another kind: what is followed here does not change.
    api.put("/api/v1/pods", json!({"metadata": {"name": "p", "namespace": "n"}}));
    api.bookmark();
    // Both watches go on from the bookmark.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    api.expire();
    api.disconnect();
    let last = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.snapshots, lists(&api)), (1, 0));
}

/// In the middle of a list the connection breaks, or the pages left are forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_breaks_off_is_begun_again_and_shows_one_moment() {
    let api = FakeApi::start();
    for n in 0..2500 {
        api.put(RECORDS, record(&format!("nodes/n{n}"), "1"));
    }
    let store = Store::open(&config_of(&api, "midlist")).await.unwrap();
    api.lose("GET", "records?limit=500&continue", 1);
    assert_eq!(store.list().await.unwrap().0.len(), 2500);
    api.refuse("GET", "records?limit=500&continue", 1, 410, "Expired");
    assert_eq!(store.list().await.unwrap().0.len(), 2500);
    let asked: Vec<_> =
        api.requests().into_iter().filter(|of| of.path.contains("/records?")).collect();
    assert_eq!(
        asked.len(),
        6 + 2 + 5,
        "a page is asked for again, a forgotten list begun again: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_told_twice_are_heard_once_and_disorder_is_listed_anew() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "garbled")).await;
    let mut listener = Listener::to(&store).await;
    api.garble(true, false);
    let mut last = 0;
    for n in 0..50 {
        last = store.put(&format!("nodes/n{}", n % 7), format!("{n}").into_bytes()).await.unwrap();
    }
    listener.until_at(last).await;
    assert_eq!((listener.snapshots, listener.heard.len()), (1, 50));

    api.garble(false, true);
    // Told together, so that they can change places.
    api.freeze(true);
    api.put(RECORDS, record("nodes/x", "1"));
    let last = api.put(RECORDS, record("nodes/y", "2"));
    api.freeze(false);
    listener
        .until("both", |l| l.records.contains_key("nodes/x") && l.records.contains_key("nodes/y"))
        .await;
    assert!(listener.revision >= last && listener.snapshots == 2, "{}", listener.snapshots);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_history_is_listed_anew() {
    let api = FakeApi::start_at(5000);
    let store = open(&config_of(&api, "history")).await;
    let mut listener = Listener::to(&store).await;
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(first).await;
    api.restore(100);
    listener.until("a list of now", |listener| listener.revision < 5000).await;
    let last = store.put("nodes/b", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert!(listener.records.contains_key("nodes/a") && listener.records.contains_key("nodes/b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_away_until_it_thaws() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "frozen")).await;
    let mut listener = Listener::to(&store).await;
    api.freeze(true);
    let error = store.put("nodes/a", b"1".to_vec()).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 5 s"), "{error}");
    api.disconnect();
    listener.until("away", |listener| listener.away.is_some()).await;
    api.freeze(false);
    listener.until("back", |listener| listener.away.is_none()).await;
    let last = store.put("nodes/b", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
}

/// The first answer was lost: what was done is not taken for another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_known_for_ones_own() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "lost")).await;
    api.lose("POST", "/records", 1);
    let created = store.create("blocks/n/10.1.0.0-24", b"me".to_vec()).await.unwrap();
    let Created::New(revision) = created else { panic!("{created:?}") };
    api.lose("PATCH", "/records", 1);
    let replaced =
        store.replace("blocks/n/10.1.0.0-24", b"me too".to_vec(), revision).await.unwrap();
    let Replaced::Done(revision) = replaced else { panic!("{replaced:?}") };
    api.lose("DELETE", "/records", 1);
    assert!(store.delete_if("blocks/n/10.1.0.0-24", revision).await.unwrap());
    assert!(api.all(RECORDS).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_asked_again() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "busy")).await;
    for (code, reason) in
        [(429, "TooManyRequests"), (503, "ServiceUnavailable"), (500, "InternalError")]
    {
        api.refuse("PATCH", "/records", 2, code, reason);
        store.put("nodes/a", format!("{code}").into_bytes()).await.unwrap();
    }
}

/// A network is written by users; its own revision is never a record's.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_changes_acknowledges_no_record() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "networks")).await;
    let first = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let mut events = store.watch();
    let mut heard = async || {
        tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().expect("a watch goes on")
    };
    let Event::Snapshot { revision: listed, .. } = heard().await else { panic!() };
    assert_eq!(listed, first);
    // The next record's change is held up, while networks go on.
    let made = api.put(NETWORKS, network("default", "vxlan"));
    assert!(made > listed);
    let Event::Put(entry) = heard().await else { panic!() };
    assert_eq!((entry.key.as_str(), entry.revision), ("networks/default", listed));
    let second = store.put("nodes/a", b"2".to_vec()).await.unwrap();
    let Event::Put(entry) = heard().await else { panic!() };
    assert_eq!((entry.key.as_str(), entry.revision), ("nodes/a", second));
    api.put(NETWORKS, network("default", "host-gw"));
    let Event::Put(entry) = heard().await else { panic!() };
    assert_eq!((entry.key.as_str(), entry.revision), ("networks/default", second));
    // What is not its spec is not told; that it goes is.
    let mut object = network("default", "host-gw");
    object["status"] = json!({"conditions": []});
    api.put(NETWORKS, object);
    api.delete(NETWORKS, "default");
    let Event::Delete { key, revision } = heard().await else { panic!() };
    assert_eq!((key.as_str(), revision), ("networks/default", second));
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_written_and_swapped_by_their_own_revision() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "swap")).await;
    let text = |join: &str| {
        json!({"ranges": ["10.1.0.0/16"], "join": {"kind": join}, "mtu": null})
            .to_string()
            .into_bytes()
    };
    store.put("networks/default", text("vxlan")).await.unwrap();
    let spec = api.get(NETWORKS, "default").unwrap()["spec"].clone();
    assert_eq!(spec, json!({"ranges": ["10.1.0.0/16"], "join": {"kind": "vxlan"}}));
    let was = store.get("networks/default").await.unwrap().unwrap().revision;
    store.put("nodes/a", b"1".to_vec()).await.unwrap();
    let replaced = store.replace("networks/default", text("bgp"), was).await.unwrap();
    assert!(matches!(replaced, Replaced::Done(_)), "{replaced:?}");
    assert!(matches!(
        store.replace("networks/default", text("auto"), was).await.unwrap(),
        Replaced::Conflict(Some(_))
    ));
    // What a user put on it stays.
    let mut object = api.get(NETWORKS, "default").unwrap();
    object["metadata"]["labels"] = json!({"team": "net"});
    api.put(NETWORKS, object);
    store.put("networks/default", text("auto")).await.unwrap();
    let object = api.get(NETWORKS, "default").unwrap();
    assert_eq!(object["metadata"]["labels"]["team"], "net");
    assert_eq!(object["spec"]["join"]["kind"], "auto");
    assert!(store.delete("networks/default").await.unwrap());
    let said = store.put("networks/default", b"7".to_vec()).await.unwrap_err().to_string();
    assert!(said.contains("a network is a JSON object"), "{said}");
}

/// What users make under a record's kind by hand is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_under_a_foreign_name_is_left_alone() {
    let api = FakeApi::start();
    let store = open(&config_of(&api, "foreign")).await;
    let mut foreign = record("nodes/a", "of a user");
    foreign["metadata"]["name"] = json!("mine");
    api.put(RECORDS, foreign);
    let mut listener = Listener::to(&store).await;
    assert!(listener.records.is_empty() && store.list().await.unwrap().0.is_empty());
    let last = store.put("nodes/a", b"ours".to_vec()).await.unwrap();
    listener.until_at(last).await;
    api.delete(RECORDS, "mine");
    let last = store.put("nodes/b", b"ours".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.records.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_refused_is_said_and_its_successor_taken() {
    let api = FakeApi::start();
    let config = config_of(&api, "refused");
    let store = open(&config).await;
    let mut listener = Listener::to(&store).await;
    api.take_only("new");
    api.disconnect();
    listener.until("away", |listener| listener.away.is_some()).await;
    let StoreConfig::Kubernetes(of) = &config else { panic!() };
    let path = of.kubeconfig.clone().unwrap();
    for said in [store.list().await.unwrap_err().to_string(), listener.away.clone().unwrap()] {
        let wanted = format!(
            "it has expired or is not of this cluster; renew the kubeconfig {}",
            path.display()
        );
        assert!(said.contains("401 Unauthorized") && said.contains(&wanted), "{said}");
    }
    std::fs::write(&path, api.kubeconfig_text("new")).unwrap();
    listener.until("back", |listener| listener.away.is_none()).await;
    until("answers", async || store.list().await.is_ok()).await;
    assert_eq!(listener.snapshots, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_had_is_said_with_what_to_do() {
    let api = FakeApi::start();
    api.withdraw(RECORDS, true);
    let said = refusal(&config_of(&api, "nothing")).await;
    assert!(
        said.contains("list /apis/weft.network/v1/records") && said.contains("weft crds"),
        "{said}"
    );
    api.withdraw(RECORDS, false);
    api.refuse("GET", "/records", 1, 403, "Forbidden");
    let said = refusal(&config_of(&api, "forbidden")).await;
    assert!(
        said.contains("403 Forbidden") && said.contains("give weft's role this right"),
        "{said}"
    );

    let file = |text: &str| {
        let path = super::dir("bad-kubeconfig").join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        config(json!({"kubernetes": {"kubeconfig": path}}))
    };
    let said = refusal(&config(json!({"kubernetes": {"kubeconfig": "/run/none"}}))).await;
    assert!(
        said.contains("read the kubeconfig /run/none") && said.contains("No such file"),
        "{said}"
    );
    let said = refusal(&file("{")).await;
    assert!(said.contains("read the kubeconfig"), "{said}");
    let said = refusal(&file("clusters: []")).await;
    assert!(said.contains("it must name a current context"), "{said}");
    let said = refusal(&config(json!({"kubernetes": {}}))).await;
    assert!(said.contains("outside a pod set store.kubernetes.kubeconfig"), "{said}");
    let said =
        refusal(&file(&api.kubeconfig_text("x").replace("127.0.0.1", "nowhere.invalid"))).await;
    assert!(said.contains("list") && said.contains("nowhere.invalid"), "{said}");
}

/// Who has begun a list has not come to its end: it is told neither that it is there, nor what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_list_that_breaks_off_is_begun_again_and_told_when_it_is_whole() {
    let api = FakeApi::start();
    for n in 0..400 {
        api.put(RECORDS, record(&format!("nodes/n{n}"), "1"));
    }
    let store = Store::open(&config_of(&api, "cut")).await.unwrap();
    api.lose("GET", "/records?watch=true", 4);
    let mut listener = Listener::idle(&store);
    listener.until("away", |listener| listener.away.is_some()).await;
    listener.until("a list", |listener| listener.snapshots > 0).await;
    assert!(listener.away.is_some() && listener.records.len() == 400, "{:?}", listener.away);
    listener.until("back", |listener| listener.away.is_none()).await;
    let asked = api.requests().into_iter().filter(|of| of.is_list() && of.is_watch());
    assert_eq!(asked.filter(|of| of.path.contains("/records?")).count(), 5);
    let last = store.put("nodes/n0", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.breaks, listener.snapshots), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_while_a_list_is_streamed_is_gone() {
    let api = FakeApi::start();
    let mut ghost = record("nodes/ghost", "1");
    ghost["metadata"]["resourceVersion"] = json!("1000");
    for n in 0..400 {
        api.put(RECORDS, record(&format!("nodes/n{n}"), "1"));
    }
    let store = Store::open(&config_of(&api, "ghost")).await.unwrap();
    api.ghost(RECORDS, ghost);
    let mut listener = Listener::to(&store).await;
    assert_eq!(listener.records.len(), 401);
    let last = store.put("nodes/n0", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.records.len(), listener.snapshots), (400, 1));
    assert!(!listener.records.contains_key("nodes/ghost"));
}

/// Servers before Kubernetes 1.34 give no list as a stream; a list whose pages were forgotten is begun again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_in_pages_is_what_is_streamed() {
    for pages in [false, true] {
        let api = FakeApi::start();
        for n in 0..1200 {
            api.put(RECORDS, record(&format!("nodes/n{n}"), "1"));
        }
        if pages {
            api.pages_only();
            api.refuse("GET", "records?limit=500&continue", 1, 410, "Expired");
        }
        let config = config_of(&api, if pages { "pages" } else { "stream" });
        let store = Store::open(&config).await.unwrap();
        let mut listener = Listener::to(&store).await;
        let last = store.put("nodes/n7", b"2".to_vec()).await.unwrap();
        listener.until_at(last).await;
        assert_eq!((listener.records.len(), listener.snapshots), (1200, 1), "pages {pages}");
        assert_eq!(listener.records["nodes/n7"], b"2");
        let asked = api.requests();
        let paged = asked.iter().filter(|of| of.path.contains("/records?limit=500")).count();
        assert_eq!(paged, if pages { 5 } else { 0 }, "{asked:?}");
    }
}

/// One object that is not as it should be hides no other and stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_not_be_read_is_said_and_the_rest_goes_on() {
    let api = FakeApi::start();
    let odd = |key: &str| {
        let mut odd = record(key, "1");
        odd["spec"]["value"] = json!(7);
        odd
    };
    api.put(RECORDS, odd("nodes/odd"));
    api.put(RECORDS, record("nodes/a", "1"));
    let store = open(&config_of(&api, "odd")).await;
    let mut listener = Listener::to(&store).await;
    let problems = || store.kubernetes().unwrap().server().watches().problems(|_| false);
    let expected =
        format!("records {} can't be read, and lists go on without it", name("nodes/odd"));
    assert!(problems()[0].starts_with(&expected), "{:?}", problems());
    api.requests();
    let known = store.put("nodes/b", b"1".to_vec()).await.unwrap();
    listener.until_at(known).await;
    api.put(RECORDS, odd("nodes/b"));
    let last = store.put("nodes/c", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!(listener.records.keys().collect::<Vec<_>>(), ["nodes/a", "nodes/b", "nodes/c"]);
    assert_eq!((listener.snapshots, lists(&api), problems().len()), (1, 0, 2));
    // As it should be again; and what is gone is not told as it was, so that a list tells.
    api.put(RECORDS, record("nodes/b", "2"));
    api.delete(RECORDS, &name("nodes/odd"));
    until("a list", async || problems().is_empty() && lists(&api) > 0).await;
    let last = store.put("nodes/d", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.records["nodes/b"].as_slice(), listener.breaks), (&b"2"[..], 0));
}
