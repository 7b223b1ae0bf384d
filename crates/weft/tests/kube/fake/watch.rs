//! The fake server's watches: changes as lines of JSON, in order unless a test wants it otherwise.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::Response,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch as signal;

use super::{
    Shared,
    serve::{Path, partial, said, status},
    world::Change,
};

struct Watch {
    shared: Arc<Shared>,
    of: Path,
    selector: Selector,
    metadata_only: bool,
    bookmarks: bool,
    /// Changes up to this revision were told.
    at: u64,
    /// How many of the world's changes were looked at.
    seen: usize,
    /// What there is, if it is to be told first.
    initial: Option<Vec<Value>>,
    /// Half of that, after which it breaks.
    lost: bool,
    /// It was told whether it can begin where it wants to.
    begun: bool,
    news: signal::Receiver<u64>,
    breaks: signal::Receiver<u64>,
    frozen: signal::Receiver<bool>,
    end: tokio::time::Instant,
    over: bool,
}

pub(super) async fn stream(
    shared: Arc<Shared>,
    of: Path,
    query: &BTreeMap<String, String>,
    metadata_only: bool,
    lost: bool,
) -> Response {
    let number = |name: &str| query.get(name).and_then(|value| value.parse().ok());
    let initial = query.get("sendInitialEvents").is_some_and(|wanted| wanted == "true");
    if initial && shared.world.lock().unwrap().pages_only {
        return said(422, &unstreamed());
    }
    let initial = initial.then(|| initial_of(&shared, &of, query, metadata_only));
    let (initial, begun) = initial.map_or((None, None), |(lines, at)| (Some(lines), Some(at)));
    let at = begun
        .or_else(|| number("resourceVersion"))
        .unwrap_or_else(|| shared.world.lock().unwrap().revision());
    let mut news = shared.news.subscribe();
    // A revision that is far off is waited for in silence, without so much as a header.
    let _ = news.wait_for(|news| *news >= at).await;
    news.mark_changed();
    let mut breaks = shared.breaks.subscribe();
    breaks.mark_unchanged();
    let watch = Watch {
        selector: Selector::new(query),
        metadata_only,
        bookmarks: query.get("allowWatchBookmarks").is_some_and(|wanted| wanted == "true"),
        at,
        seen: 0,
        initial,
        lost,
        begun: false,
        news,
        breaks,
        frozen: shared.frozen.subscribe(),
        end: tokio::time::Instant::now()
            + Duration::from_secs(number("timeoutSeconds").unwrap_or(3600)),
        over: false,
        of,
        shared,
    };
    let lines = stream::unfold(watch, |mut watch| async {
        let next = watch.next().await?;
        Some((next, watch))
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        while !self.over {
            tokio::select! {
                biased;
                _ = self.breaks.changed() => {
                    self.over = true;
                    return Some(Err(std::io::Error::other("broken by the test")));
                }
                () = tokio::time::sleep_until(self.end) => return None,
                _ = self.news.changed() => {}
            }
            let _ = self.frozen.wait_for(|frozen| !frozen).await;
            if let Some(mut lines) = self.initial.take() {
                self.news.mark_changed();
                if self.lost {
                    lines.truncate(lines.len() / 2);
                    self.end = tokio::time::Instant::now();
                }
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                return Some(Ok(text.into()));
            }
            let lines = self.lines();
            if !lines.is_empty() {
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                return Some(Ok(text.into()));
            }
        }
        None
    }

    fn lines(&mut self) -> Vec<Value> {
        let (changes, forgotten) = {
            let world = self.shared.world.lock().unwrap();
            if world.is_held(&self.of.collection) {
                return Vec::new();
            }
            (world.changes(self.seen).to_vec(), world.forgotten())
        };
        if !std::mem::replace(&mut self.begun, true) && self.at < forgotten {
            self.over = true;
            let said = format!("too old resource version: {} ({forgotten})", self.at);
            return vec![
                json!({"type": "ERROR", "object": status(410, "Expired", &said, Value::Null)}),
            ];
        }
        self.seen += changes.len();
        let mut lines: Vec<Value> = changes.iter().filter_map(|change| self.line(change)).collect();
        let faults = self.shared.faults.lock().unwrap();
        if faults.twice {
            lines = lines.into_iter().flat_map(|line| [line.clone(), line]).collect();
        }
        if faults.disorder {
            lines.reverse();
        }
        lines
    }

    fn line(&mut self, change: &Change) -> Option<Value> {
        let Some((place, old, now, gone)) = &change.what else {
            if change.revision < self.at {
                return None;
            }
            let kind = self.of.collection.clone();
            self.at = change.revision;
            let revision = change.revision.to_string();
            let mark = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": revision}});
            return self.bookmarks.then(|| json!({"type": "BOOKMARK", "object": mark}));
        };
        if change.revision <= self.at {
            return None;
        }
        self.at = change.revision;
        let named = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        if place.0 != self.of.collection
            || !named(&self.of.namespace, &place.1)
            || !named(&self.of.name, &place.2)
        {
            return None;
        }
        let was = old.as_ref().is_some_and(|old| self.selector.takes(old));
        let is = !gone && self.selector.takes(now);
        let word = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        let object = if self.metadata_only { partial((**now).clone()) } else { (**now).clone() };
        Some(json!({"type": word, "object": object}))
    }
}

/// Everything there is, and that it was everything.
fn initial_of(
    shared: &Shared,
    of: &Path,
    query: &BTreeMap<String, String>,
    metadata_only: bool,
) -> (Vec<Value>, u64) {
    let selector = Selector::new(query);
    let world = shared.world.lock().unwrap();
    let all = world.within(&of.collection, &of.namespace);
    let all = all
        .filter(|object| selector.takes(object))
        .map(|object| if metadata_only { partial((*object).clone()) } else { (*object).clone() });
    let mut lines: Vec<Value> =
        all.map(|object| json!({"type": "ADDED", "object": object})).collect();
    let ghost = shared.faults.lock().unwrap().ghost.take_if(|(path, _)| *path == of.collection);
    if let Some((_, object)) = ghost {
        lines.insert(0, json!({"type": "ADDED", "object": object}));
        lines.push(json!({"type": "DELETED", "object": object}));
    }
    let metadata = json!({
        "resourceVersion": world.revision().to_string(),
        "annotations": {"k8s.io/initial-events-end": "true"},
    });
    lines.push(json!({"type": "BOOKMARK", "object": {"kind": "", "metadata": metadata}}));
    (lines, world.revision())
}

/// As servers before Kubernetes 1.34 say it, if they are not told otherwise.
fn unstreamed() -> Value {
    let said = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents \
                is forbidden for watch unless the WatchList feature gate is enabled";
    status(422, "Invalid", said, Value::Null)
}

/// `fieldSelector` and `labelSelector`, of `=`, `==` and `!=`.
pub struct Selector(Vec<(Vec<String>, bool, String)>);

impl Selector {
    pub fn new(query: &BTreeMap<String, String>) -> Self {
        let mut terms = Vec::new();
        for (name, above) in
            [("fieldSelector", None), ("labelSelector", Some(["metadata", "labels"]))]
        {
            let text = query.get(name).map(String::as_str).unwrap_or_default();
            for term in text.split(',').filter(|term| !term.is_empty()) {
                let (path, is, value) = match (term.split_once("!="), term.split_once('=')) {
                    (Some((path, value)), _) => (path, false, value),
                    (None, Some((path, value))) => (path, true, value.trim_start_matches('=')),
                    (None, None) => continue,
                };
                let path = match above {
                    Some(above) => above.into_iter().chain([path]).map(str::to_owned).collect(),
                    None => path.split('.').map(str::to_owned).collect(),
                };
                terms.push((path, is, value.to_owned()));
            }
        }
        Self(terms)
    }

    pub fn takes(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, is, value)| {
            let found = path.iter().fold(object, |object, field| &object[field.as_str()]);
            (found.as_str().unwrap_or_default() == value) == *is
        })
    }
}
