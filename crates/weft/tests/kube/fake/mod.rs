//! An API server of our own for tests: objects of any kind in memory, served over loopback HTTP as
//! Kubernetes serves them, as far as we use it (`recorded.json` is what the real one said). What can
//! befall a real one is done to it by hand: it breaks, forgets, refuses, repeats itself.
#![allow(dead_code)]

mod patch;
mod serve;
mod watch;
mod world;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::Value;
use tokio::{runtime::Runtime, sync::watch as signal};

use world::World;

pub struct FakeApi {
    shared: Arc<Shared>,
    at: SocketAddr,
    /// What serves; none while the server is stopped.
    runtime: Option<Runtime>,
}

/// What serves and what tests turn.
struct Shared {
    world: Mutex<World>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Request>>,
    /// The revision up to which there is news, bookmarks counted.
    news: signal::Sender<u64>,
    /// Connections made before it was raised break.
    breaks: signal::Sender<u64>,
    frozen: signal::Sender<bool>,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
}

impl Request {
    pub fn is_list(&self) -> bool {
        let streamed = self.path.contains("sendInitialEvents=true");
        self.method == "GET" && (self.path.contains("limit=") || streamed)
    }
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=true")
    }
}

#[derive(Default)]
struct Faults {
    /// Each change is told twice.
    twice: bool,
    /// Two changes that are told together change places.
    disorder: bool,
    /// What a streamed list has, and tells at once to be gone, by its collection.
    ghost: Option<(String, Value)>,
    next: Vec<Fault>,
}

/// What befalls requests whose method is `method` and whose path has `path` in it.
struct Fault {
    method: &'static str,
    path: String,
    times: usize,
    how: How,
}

#[derive(Clone)]
enum How {
    /// Answered with this status, and not done.
    Status(u16, Value),
    /// Done, but the answer breaks off: of a streamed list in the middle.
    Lost,
}

impl FakeApi {
    /// On a port that is free.
    pub fn start() -> Self {
        Self::start_at(1000)
    }

    /// The first change will have the revision after this one.
    pub fn start_at(revision: u64) -> Self {
        let shared = Shared {
            world: Mutex::new(World::new(revision)),
            faults: Mutex::default(),
            requests: Mutex::default(),
            news: signal::Sender::new(revision),
            breaks: signal::Sender::new(0),
            frozen: signal::Sender::new(false),
        };
        let mut api =
            Self { shared: Arc::new(shared), at: ([127, 0, 0, 1], 0).into(), runtime: None };
        api.again();
        api
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// A kubeconfig for it, in a file of this name below `/run` (tests have one of their own).
    pub fn kubeconfig(&self, name: &str) -> std::path::PathBuf {
        let dir = std::path::PathBuf::from("/run").join(format!("fake-api-{name}"));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("kubeconfig");
        std::fs::write(&path, self.kubeconfig_text("good")).unwrap();
        path
    }

    pub fn kubeconfig_text(&self, token: &str) -> String {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url()}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
        .to_string()
    }

    /// The server's process ends: connections break, and new ones are refused.
    pub fn stop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // A runtime does not end inside another one.
        let end = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(1)));
        end.join().unwrap();
    }

    /// And comes back at its place, with what was in etcd.
    pub fn again(&mut self) {
        assert!(self.runtime.is_none(), "it runs");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind(self.at).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.at = listener.local_addr().unwrap();
        runtime.spawn(serve::run(self.shared.clone(), listener));
        self.runtime = Some(runtime);
    }

    /// Every connection breaks, once; what is being listed or watched breaks off.
    pub fn disconnect(&self) {
        self.shared.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Nothing is answered, as long as it is so.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.send_replace(frozen);
    }

    /// What came before now is forgotten: who asks for changes since is told so, and so is who asks
    /// for another page.
    pub fn expire(&self) {
        self.world().expire();
    }

    /// Watches are told how far everything is.
    pub fn bookmark(&self) {
        let revision = self.world().revision();
        self.world().bookmark(revision);
        self.shared.news.send_modify(|news| *news = (*news).max(revision));
    }

    /// Every change is told twice; two that are told together change places.
    pub fn garble(&self, twice: bool, disorder: bool) {
        let mut faults = self.shared.faults.lock().unwrap();
        (faults.twice, faults.disorder) = (twice, disorder);
    }

    /// The next requests of this kind are refused: `reason` as Kubernetes says it.
    pub fn refuse(&self, method: &'static str, path: &str, times: usize, code: u16, reason: &str) {
        let message = format!("refused by the test: {reason}");
        let status = serve::status(code, reason, &message, Value::Null);
        self.fault(method, path, times, How::Status(code, status));
    }

    /// The next requests of this kind are done, but their answers break off.
    pub fn lose(&self, method: &'static str, path: &str, times: usize) {
        self.fault(method, path, times, How::Lost);
    }

    /// The next list of the collection that is streamed has this object among the first, which goes before
    /// the list has come to its end.
    pub fn ghost(&self, collection: &str, object: Value) {
        self.shared.faults.lock().unwrap().ghost = Some((collection.to_owned(), object));
    }

    /// No refusal is in force any more.
    pub fn mend(&self) {
        self.shared.faults.lock().unwrap().next.clear();
    }

    /// It gives no list as a stream.
    pub fn pages_only(&self) {
        self.world().pages_only = true;
    }

    /// Changes of one kind are told to nobody, as long as it is so.
    pub fn hold(&self, collection: &str, held: bool) {
        self.world().hold(collection, held);
        self.shared.news.send_modify(|_| {});
    }

    /// There is no such kind of object: its definition was not installed.
    pub fn withdraw(&self, collection: &str, withdrawn: bool) {
        self.world().withdraw(collection, withdrawn);
    }

    /// The token that is taken; any, at first.
    pub fn take_only(&self, token: &str) {
        self.world().token = Some(token.to_owned());
    }

    /// Writes an object without a request: `path` is its collection's.
    pub fn put(&self, path: &str, object: Value) -> u64 {
        self.change(|world| world.put(path, object))
    }

    /// Deletes it without a request.
    pub fn delete(&self, path: &str, name: &str) -> u64 {
        self.change(|world| world.delete_by_hand(path, name))
    }

    pub fn get(&self, path: &str, name: &str) -> Option<Value> {
        self.world().get(path, name).map(|object| (*object).clone())
    }

    pub fn all(&self, path: &str) -> Vec<Value> {
        self.world().all(path).iter().map(|object| (**object).clone()).collect()
    }

    /// The revision now.
    pub fn revision(&self) -> u64 {
        self.world().revision()
    }

    /// The whole history is another, as of a copy of earlier days: counting begins at `revision`.
    pub fn restore(&self, revision: u64) {
        self.world().restore(revision);
        self.shared.news.send_replace(revision);
        self.disconnect();
    }

    /// What was asked since this was called last.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    fn change(&self, work: impl FnOnce(&mut World) -> u64) -> u64 {
        let revision = work(&mut self.world());
        self.shared.told(revision);
        revision
    }

    fn fault(&self, method: &'static str, path: &str, times: usize, how: How) {
        let fault = Fault { method, path: path.to_owned(), times, how };
        self.shared.faults.lock().unwrap().next.push(fault);
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn told(&self, revision: u64) {
        self.news.send_modify(|news| *news = (*news).max(revision));
    }
}
