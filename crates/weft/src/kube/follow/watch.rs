//! One follower: it lists, as a stream where the server can, watches, and goes on after breaks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use axum::http::header::{ACCEPT_ENCODING, HeaderValue};
use futures::{AsyncBufRead, AsyncBufReadExt};
use tokio::{sync::mpsc, time::timeout};

use super::{
    super::client::{ApiServer, KubeError, jitter},
    Bare, Collection, Followed, Meta, Page, Told, few,
    list::{FIRST_PAGE_TIME_MAX, PAGE_TIME_MAX, Pages},
    read::{self, Unread, Word},
    request,
};
use crate::store::OPERATION_MAX;

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
/// Changes, or pages of a list, that a listener may lag behind before the watch waits for it.
const TOLD_MAX: usize = 64;
/// Objects of a streamed list that are told together.
const PAGE: usize = 128;
/// Revisions remembered to tell a change that is told twice from one out of order.
const HEARD_MAX: usize = 1024;
/// What a line may have grown to before its room is given back.
const LINE_KEPT: usize = 1 << 16;

/// What came of one word of the server's.
enum Heard {
    News,
    /// Something earlier than what was heard already, and it was not heard itself, or something that
    /// can't be told as it was: more may be missing.
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
        unread: BTreeSet::new(),
    }));
    listener
}

struct Follower<T> {
    server: ApiServer,
    of: Collection,
    told: mpsc::Sender<Told<T>>,
    /// The revision up to which the listener knows everything; none: it is to be listed.
    at: Option<u64>,
    /// The listener was told so.
    away: bool,
    /// Breaks since a list came to its end, or a watch went on.
    breaks: usize,
    /// As many as the last list had.
    objects: usize,
    heard: VecDeque<u64>,
    /// Objects that could not be read, by label.
    unread: BTreeSet<String>,
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
        if follower.breaks == 0 {
            retry = RETRY_FIRST;
        }
        follower.breaks += 1;
        // One connection that broke is not the server.
        if follower.breaks > 1 && !follower.away {
            follower.away = true;
            follower.server.watches().away(&follower.of, Some(&error));
            follower.tell(Told::Away { why: error.to_string() }).await;
        }
        tokio::select! {
            () = tokio::time::sleep(jitter(retry)) => {}
            () = follower.told.closed() => {}
        }
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// A list that comes as a stream.
struct Streamed<T> {
    objects: Vec<T>,
    all: usize,
    /// Nothing of it was told yet.
    first: bool,
    /// What went while it came, by label: a page may have it.
    gone: BTreeMap<String, T>,
}

impl<T: Followed> Streamed<T> {
    fn new() -> Self {
        Self { objects: Vec::new(), all: 0, first: true, gone: BTreeMap::new() }
    }
    fn put(&mut self, object: T) {
        if !self.gone.is_empty() {
            self.gone.remove(&object.meta().label());
        }
        self.objects.push(object);
    }
    fn gone(&mut self, object: T) {
        self.gone.insert(object.meta().label(), object);
    }
    fn page(&mut self, last: Option<u64>) -> Page<T> {
        let first = std::mem::take(&mut self.first);
        self.all += self.objects.len();
        Page { objects: std::mem::take(&mut self.objects), first, last }
    }
}

impl<T: Followed> Follower<T> {
    async fn go_on(&mut self) -> End {
        let ended = match self.at {
            Some(at) => self.watch(Some(at)).await,
            None => match self.watch(None).await {
                // A server that gives no list as a stream says so: its lists come in pages.
                Err(error) if matches!(error.code, Some(400 | 422)) => self.paged().await,
                ended => ended,
            },
        };
        match ended {
            Ok(end) => end,
            Err(error) if error.is_expired() => End::Expired,
            Err(error) => End::Failed(error),
        }
    }

    async fn paged(&mut self) -> Result<End, KubeError> {
        let (server, of) = (self.server.clone(), self.of.clone());
        let mut pages = Pages::new(&server, &of);
        let mut all = 0;
        loop {
            let page = pages.next().await?;
            all = if page.first { 0 } else { all } + page.objects.len();
            let last = page.last;
            self.tell(Told::Page(page)).await;
            if let Some(revision) = last {
                self.listed(revision, all).await;
                return self.watch(Some(revision)).await;
            }
        }
    }

    /// The listener knows everything up to the revision. A server that never comes to the end of a list
    /// is not back.
    async fn listed(&mut self, revision: u64, objects: usize) {
        self.objects = objects;
        self.heard.clear();
        self.at = Some(revision);
        self.back().await;
    }

    /// From a revision on; None: from a list of everything on.
    async fn watch(&mut self, from: Option<u64>) -> Result<End, KubeError> {
        let what = format!("watch {}", self.of.path);
        let query = query(from);
        let request = request(&self.of, &query, "PartialObjectMetadata");
        let mut request = request.map_err(|error| self.server.failed(&what, &error))?;
        // A stream that is packed is held back until there is enough of it.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = self.server.client().await;
        // The answer begins at once, and goes on when there is a change.
        let most = if from.is_some() { OPERATION_MAX } else { FIRST_PAGE_TIME_MAX };
        let begun = match (timeout(most, client.request_stream(request)).await, from) {
            (Ok(begun), _) => begun.map_err(|error| self.server.failed(&what, &error))?,
            (Err(_), Some(from)) => return self.is_another(&what, from).await,
            (Err(_), None) => return Err(self.server.silent(&what, most)),
        };
        if from.is_some() {
            self.back().await;
        }
        self.hear(&what, std::pin::pin!(begun), from.is_none()).await
    }

    async fn hear(
        &mut self,
        what: &str,
        mut stream: impl AsyncBufRead + Unpin,
        listing: bool,
    ) -> Result<End, KubeError> {
        let mut list = listing.then(Streamed::new);
        if listing {
            self.all_read();
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            line.shrink_to(LINE_KEPT);
            let most = if list.is_some() { PAGE_TIME_MAX } else { SILENT_MAX };
            let read = tokio::select! {
                read = timeout(most, stream.read_until(b'\n', &mut line)) => read,
                () = self.told.closed() => return Ok(End::Over),
            };
            match read {
                Err(_) => return Err(self.server.silent(what, most)),
                Ok(Ok(_)) if line.ends_with(b"\n") => {}
                // The end; what a line has before that is torn.
                Ok(Ok(_)) if list.is_some() => {
                    return Err(self.server.refusal(what, "the list broke off".into()));
                }
                Ok(Ok(_)) => return Ok(End::Over),
                Ok(Err(error)) => {
                    return Err(self.server.failed(what, &kube::Error::ReadEvents(error)));
                }
            }
            let word = read::word(&line);
            let heard = match &mut list {
                Some(some) => match self.take_listed(what, some, word).await? {
                    Some(revision) => {
                        self.listed(revision, some.all).await;
                        list = None;
                        Heard::News
                    }
                    None => Heard::News,
                },
                None => self.take(what, word).await?,
            };
            if matches!(heard, Heard::Disorder) {
                return Ok(End::Expired);
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

    /// One word of a list that comes as a stream. Its revision, with the last.
    async fn take_listed(
        &mut self,
        what: &str,
        list: &mut Streamed<T>,
        word: Result<Word<T>, Box<Unread>>,
    ) -> Result<Option<u64>, KubeError> {
        match word {
            Ok(Word::Added(object) | Word::Modified(object)) => list.put(object),
            Ok(Word::Deleted(object)) => list.gone(object),
            Ok(Word::Bookmark(mark)) if mark.all_told() => {
                let last = Some(mark.revision());
                let page = list.page(last);
                self.tell(Told::Page(page)).await;
                for object in std::mem::take(&mut list.gone).into_values() {
                    self.tell(Told::Gone(object)).await;
                }
                return Ok(last);
            }
            Ok(Word::Bookmark(_)) => {}
            Ok(Word::Error(status)) => {
                return Err(self.server.failed(what, &kube::Error::Api(status)));
            }
            Err(unread) => self.note(&unread),
        }
        if list.objects.len() >= PAGE {
            let page = list.page(None);
            self.tell(Told::Page(page)).await;
        }
        Ok(None)
    }

    async fn take(
        &mut self,
        what: &str,
        word: Result<Word<T>, Box<Unread>>,
    ) -> Result<Heard, KubeError> {
        let (told, revision) = match word {
            Ok(Word::Added(object) | Word::Modified(object)) => {
                let revision = object.meta().revision();
                self.is_read(object.meta());
                (Some(Told::Put(object)), revision)
            }
            Ok(Word::Deleted(object)) => {
                let revision = object.meta().revision();
                self.is_read(object.meta());
                (Some(Told::Gone(object)), revision)
            }
            Ok(Word::Bookmark(mark)) => {
                let revision = mark.revision();
                if self.at < Some(revision) {
                    self.at = Some(revision);
                    self.tell(Told::At(revision)).await;
                }
                return Ok(Heard::News);
            }
            Ok(Word::Error(status)) => {
                return Err(self.server.failed(what, &kube::Error::Api(status)));
            }
            Err(unread) => {
                self.note(&unread);
                match unread.meta.revision() {
                    // Nothing is known of it: neither what it is, nor when.
                    0 => return Ok(Heard::News),
                    // What it was can't be told; a list lacks it.
                    _ if unread.gone => return Ok(Heard::Disorder),
                    revision => (None, revision),
                }
            }
        };
        if self.at >= Some(revision) {
            let twice = self.heard.contains(&revision);
            return Ok(if twice { Heard::News } else { Heard::Disorder });
        }
        self.heard.truncate(HEARD_MAX - 1);
        self.heard.push_front(revision);
        self.at = Some(revision);
        if let Some(told) = told {
            self.tell(told).await;
        }
        Ok(Heard::News)
    }

    /// What is known of the object stays; an operator is told.
    fn note(&mut self, unread: &Unread) {
        self.server.watches().unread(&self.of, unread);
        self.unread.insert(unread.meta.label());
    }

    fn is_read(&mut self, meta: &Meta) {
        if !self.unread.is_empty() && self.unread.remove(&meta.label()) {
            self.server.watches().read(&self.of, &meta.label());
        }
    }

    /// A list tells anew which objects can't be read.
    fn all_read(&mut self) {
        self.unread.clear();
        self.server.watches().all_read(&self.of);
    }

    async fn back(&mut self) {
        self.breaks = 0;
        if std::mem::take(&mut self.away) {
            self.server.watches().away(&self.of, None);
            self.tell(Told::Back).await;
        }
    }

    /// A listener that went away is noticed by the loops.
    async fn tell(&self, told: Told<T>) {
        let _ = self.told.send(told).await;
    }
}

fn query(from: Option<u64>) -> Vec<(&'static str, String)> {
    let run = WATCH_LEAST + jitter(WATCH_SPREAD);
    let mut query = vec![
        ("watch", "true".into()),
        ("allowWatchBookmarks", "true".into()),
        ("timeoutSeconds", run.as_secs().to_string()),
    ];
    match from {
        Some(from) => query.push(("resourceVersion", from.to_string())),
        None => {
            query.push(("sendInitialEvents", "true".into()));
            query.push(("resourceVersionMatch", "NotOlderThan".into()));
        }
    }
    query
}
