//! Following one kind of object: a list in pages, then every change since. After a break it goes on
//! where it was, by the last revision heard; only what the server no longer knows is listed anew,
//! at a time that differs from node to node. Nothing polls. What the objects mean is not known here.

use std::{collections::VecDeque, time::Duration};

use axum::http::{Request, header::ACCEPT};
use futures::StreamExt;
use kube::{Client, core::WatchEvent};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{sync::mpsc, time::timeout};

use super::client::{ApiServer, KubeError, jitter};
use crate::store::OPERATION_MAX;

/// Objects asked for at once when listing.
const PAGE: usize = 1000;
/// A page takes as long as a server needs that thousands ask at once after its restart; whether it is
/// there at all, the first tells.
const PAGE_TIME_MAX: Duration = Duration::from_secs(30);
const FIRST_PAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// Lists begun anew because the server forgot what the first page showed.
const LISTS_MAX: usize = 3;
/// Between tries to go on; doubles, with jitter.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long the server is asked to let one watch run, and by how much that differs from watch to
/// watch: thousands that began together do not end together.
const WATCH_LEAST: Duration = Duration::from_secs(300);
const WATCH_SPREAD: Duration = Duration::from_secs(300);
/// The server says where it is each minute; silent for longer than this it is gone.
const SILENT_MAX: Duration = Duration::from_secs(140);
/// Where a server forgot what all nodes know, as when it was restarted, they list anew within this
/// time for each object that there is, and no later than the bound.
const SPREAD_EACH: Duration = Duration::from_millis(1);
const SPREAD_MAX: Duration = Duration::from_secs(20);
/// Changes that a listener may lag behind before the watch waits for it.
const TOLD_MAX: usize = 1024;
/// Revisions remembered to tell a change that is told twice from one out of order.
const HEARD_MAX: usize = 1024;

/// What is followed: a collection, or what a selector leaves of it.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Such as `/api/v1/nodes` or `/apis/weft.network/v1/records`.
    pub path: String,
    /// `fieldSelector`, such as `metadata.name=node-a`.
    pub fields: Option<String>,
    /// Nothing but `metadata` is asked for.
    pub metadata_only: bool,
}

impl Collection {
    pub fn all(path: &str) -> Self {
        Self { path: path.to_owned(), fields: None, metadata_only: false }
    }
    pub fn named(path: &str, name: &str) -> Self {
        Self { fields: Some(format!("metadata.name={name}")), ..Self::all(path) }
    }
    pub fn metadata(path: &str) -> Self {
        Self { metadata_only: true, ..Self::all(path) }
    }
}

/// Of an object's metadata, what every follower needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: Option<String>,
    pub uid: String,
    pub resource_version: String,
    /// Grows with each change of what is wanted (`spec`).
    pub generation: i64,
}

impl Meta {
    /// Revisions of one kind of object are numbers that grow (Kubernetes 1.35 and later promise
    /// it, etcd always did it). 0: none.
    pub fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// An object that can be followed.
pub trait Followed: DeserializeOwned + Clone + Send + 'static {
    fn meta(&self) -> &Meta;
}

/// An object of which nothing else counts.
#[derive(Clone, Debug, Deserialize)]
pub struct Bare {
    pub metadata: Meta,
}
impl Followed for Bare {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What a follower tells.
#[derive(Clone, Debug)]
pub enum Told<T> {
    /// All there is. Comes before any change, and again where changes may have been missed.
    List {
        objects: Vec<T>,
        revision: u64,
    },
    Put(T),
    /// As it was last, with the revision at which it went.
    Gone(T),
    /// Everything up to this revision was told.
    At(u64),
    Away {
        why: String,
    },
    Back,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    resource_version: String,
    r#continue: Option<String>,
}
impl PageMeta {
    fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// What came of one word of the server's.
enum Heard {
    News,
    /// Something earlier than what was heard already, and it was not heard itself: more may be missing.
    Disorder,
}

/// Follows for as long as somebody listens.
pub fn follow<T: Followed>(server: ApiServer, of: Collection) -> mpsc::Receiver<Told<T>> {
    let (told, listener) = mpsc::channel(TOLD_MAX);
    tokio::spawn(run(Follower {
        server,
        of,
        told,
        at: None,
        away: false,
        breaks: 0,
        objects: 0,
        heard: VecDeque::new(),
    }));
    listener
}

/// All objects as they were at one moment, and that moment's revision.
pub async fn list<T: Followed>(
    server: &ApiServer,
    of: &Collection,
) -> Result<(Vec<T>, u64), KubeError> {
    let mut lists = 1;
    loop {
        match list_once(server, of).await {
            Err(error) if error.is_expired() && lists < LISTS_MAX => lists += 1,
            listed => return listed,
        }
    }
}

/// Every page shows the collection as the first one did.
async fn list_once<T: Followed>(
    server: &ApiServer,
    of: &Collection,
) -> Result<(Vec<T>, u64), KubeError> {
    let mut objects = Vec::new();
    let mut token = String::new();
    loop {
        let page = page::<T>(server, of, PAGE, &token).await?;
        let revision = page.metadata.revision();
        objects.extend(page.items);
        match page.metadata.r#continue.filter(|token| !token.is_empty()) {
            Some(next) => token = next,
            None => return Ok((objects, revision)),
        }
    }
}

/// So many objects at the most, if there are any, and the server's revision: as cheap as a list can be.
pub async fn few<T: Followed>(
    server: &ApiServer,
    of: &Collection,
    most: usize,
) -> Result<(Vec<T>, u64), KubeError> {
    let page = page::<T>(server, of, most, "").await?;
    Ok((page.items, page.metadata.revision()))
}

async fn page<T: Followed>(
    server: &ApiServer,
    of: &Collection,
    limit: usize,
    token: &str,
) -> Result<Page<T>, KubeError> {
    let query = [("limit", limit.to_string()), ("continue", token.to_owned())];
    let list = |client: Client| {
        let request = request(of, &query, "PartialObjectMetadataList");
        async move { client.request(request?).await }
    };
    let most = if token.is_empty() { FIRST_PAGE_TIME_MAX } else { PAGE_TIME_MAX };
    server.ask_within(most, &format!("list {}", of.path), list).await
}

fn request(
    of: &Collection,
    query: &[(&str, String)],
    metadata: &str,
) -> Result<Request<Vec<u8>>, kube::Error> {
    let fields = of.fields.iter().map(|fields| ("fieldSelector", fields.clone()));
    let query = query.iter().cloned().chain(fields).filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={}", crate::cli::client::quote(&value)))
        .collect();
    let accept = if of.metadata_only {
        format!("application/json;as={metadata};g=meta.k8s.io;v=v1,application/json")
    } else {
        "application/json".into()
    };
    Request::get(format!("{}?{}", of.path, query.join("&")))
        .header(ACCEPT, accept)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)
}

struct Follower<T> {
    server: ApiServer,
    of: Collection,
    told: mpsc::Sender<Told<T>>,
    /// The revision up to which the listener knows everything; none: it is to be listed.
    at: Option<u64>,
    /// The listener was told so.
    away: bool,
    /// Breaks since the server last spoke.
    breaks: usize,
    /// As many as the last list had.
    objects: usize,
    heard: VecDeque<u64>,
}

/// Why a watch ended.
enum End {
    /// As watches do: it goes on.
    Over,
    /// The server no longer knows what came after.
    Expired,
    Failed(KubeError),
}

async fn run<T: Followed>(mut follower: Follower<T>) {
    let mut retry = RETRY_FIRST;
    while !follower.told.is_closed() {
        let error = match follower.go_on().await {
            End::Over => {
                retry = RETRY_FIRST;
                continue;
            }
            End::Expired => {
                follower.at = None;
                let spread = SPREAD_EACH * u32::try_from(follower.objects).unwrap_or(u32::MAX);
                // A server that forgets at once what it lists is not asked without end.
                tokio::time::sleep(jitter(spread.clamp(RETRY_FIRST, SPREAD_MAX))).await;
                continue;
            }
            End::Failed(error) => error,
        };
        follower.breaks += 1;
        // One connection that broke is not the server.
        if follower.breaks > 1 && !follower.away {
            follower.away = true;
            follower.tell(Told::Away { why: error.to_string() }).await;
        }
        tokio::select! {
            () = tokio::time::sleep(jitter(retry)) => {}
            () = follower.told.closed() => {}
        }
        retry = (retry * 2).min(RETRY_MAX);
    }
}

impl<T: Followed> Follower<T> {
    async fn go_on(&mut self) -> End {
        let at = match self.at {
            Some(at) => at,
            None => match self.list().await {
                Ok(at) => at,
                Err(error) => return End::Failed(error),
            },
        };
        match self.watch(at).await {
            Ok(end) => end,
            Err(error) if error.is_expired() => End::Expired,
            Err(error) => End::Failed(error),
        }
    }

    async fn list(&mut self) -> Result<u64, KubeError> {
        let (objects, revision) = list(&self.server, &self.of).await?;
        self.back().await;
        self.objects = objects.len();
        self.heard.clear();
        self.at = Some(revision);
        self.tell(Told::List { objects, revision }).await;
        Ok(revision)
    }

    async fn watch(&mut self, from: u64) -> Result<End, KubeError> {
        let what = format!("watch {}", self.of.path);
        let run = WATCH_LEAST + jitter(WATCH_SPREAD);
        let query = [
            ("watch", "true".into()),
            ("allowWatchBookmarks", "true".into()),
            ("resourceVersion", from.to_string()),
            ("timeoutSeconds", run.as_secs().to_string()),
        ];
        let request = request(&self.of, &query, "PartialObjectMetadata");
        let request = request.map_err(|error| self.server.failed(&what, &error))?;
        let client = self.server.client().await;
        // The answer begins at once, and goes on when there is a change.
        let begun = timeout(OPERATION_MAX, client.request_events::<T>(request)).await;
        let Ok(begun) = begun else { return self.is_another(&what, from).await };
        let stream = begun.map_err(|error| self.server.failed(&what, &error))?;
        let mut stream = std::pin::pin!(stream);
        self.back().await;
        loop {
            let next = tokio::select! {
                next = timeout(SILENT_MAX, stream.next()) => next,
                () = self.told.closed() => return Ok(End::Over),
            };
            let event = match next {
                Err(_) => return Err(self.server.silent(&what, SILENT_MAX)),
                Ok(None) => return Ok(End::Over),
                Ok(Some(event)) => event.map_err(|error| self.server.failed(&what, &error))?,
            };
            match self.take(&what, event).await? {
                Heard::News => {}
                Heard::Disorder => return Ok(End::Expired),
            }
        }
    }

    /// A server that was begun anew, or from a copy of earlier days, waits in silence for a revision
    /// that is far off.
    async fn is_another(&self, what: &str, from: u64) -> Result<End, KubeError> {
        let (_, revision) = few::<Bare>(&self.server, &self.of, 1).await?;
        if revision < from {
            Ok(End::Expired)
        } else {
            Err(self.server.silent(what, OPERATION_MAX))
        }
    }

    async fn take(&mut self, what: &str, event: WatchEvent<T>) -> Result<Heard, KubeError> {
        let (told, revision) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let revision = object.meta().revision();
                (Told::Put(object), revision)
            }
            WatchEvent::Deleted(object) => {
                let revision = object.meta().revision();
                (Told::Gone(object), revision)
            }
            WatchEvent::Bookmark(mark) => {
                let revision = mark.metadata.resource_version.parse().unwrap_or(0);
                if self.at < Some(revision) {
                    self.at = Some(revision);
                    self.tell(Told::At(revision)).await;
                }
                return Ok(Heard::News);
            }
            WatchEvent::Error(status) => {
                return Err(self.server.failed(what, &kube::Error::Api(status)));
            }
        };
        if self.at >= Some(revision) {
            let twice = self.heard.contains(&revision);
            return Ok(if twice { Heard::News } else { Heard::Disorder });
        }
        self.heard.truncate(HEARD_MAX - 1);
        self.heard.push_front(revision);
        self.at = Some(revision);
        self.tell(told).await;
        Ok(Heard::News)
    }

    async fn back(&mut self) {
        self.breaks = 0;
        if std::mem::take(&mut self.away) {
            self.tell(Told::Back).await;
        }
    }

    /// A listener that went away is noticed by the loops.
    async fn tell(&self, told: Told<T>) {
        let _ = self.told.send(told).await;
    }
}
