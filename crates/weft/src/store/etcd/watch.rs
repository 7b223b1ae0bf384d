//! Following etcd: a list, then every change since. After a break it goes on where it was; where
//! etcd has compacted that away, or its history is another, it lists again.

use std::time::Duration;

use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};

use super::{ANSWER_MAX, EtcdStore, Event, endpoints::say, range_end, unsigned};
use crate::store::StoreError;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often etcd is asked to say where it is, so that a dead connection is noticed.
const PROGRESS: Duration = Duration::from_secs(5);
/// Silent for so long, although asked, is gone.
const SILENT_MAX: Duration = Duration::from_secs(12);

struct Following {
    store: EtcdStore,
    events: mpsc::Sender<Event>,
    /// The revision up to which the listener knows everything; none: nothing yet.
    known: Option<u64>,
    /// Whose revision that is.
    cluster: Option<u64>,
    /// The listener was told so.
    away: bool,
    /// Breaks since etcd last spoke.
    breaks: usize,
}

pub(super) async fn run(store: EtcdStore, events: mpsc::Sender<Event>) {
    let mut following =
        Following { store, events, known: None, cluster: None, away: false, breaks: 0 };
    let mut retry = RETRY_FIRST;
    while !following.events.is_closed() {
        let error = match following.follow().await {
            Ok(()) => continue,
            Err(error) => error,
        };
        following.breaks += 1;
        // Where there are others, they are asked before etcd is called away.
        if following.breaks == 1 && following.store.endpoints.several() {
            continue;
        }
        if !following.away {
            following.away = true;
            retry = RETRY_FIRST;
            following.tell(Event::Away { why: error.to_string() }).await;
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

impl Following {
    /// Follows until the watch ends. `Ok` means: begin again at once.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let known = match self.known {
            Some(known) => known,
            None => self.list().await?,
        };
        let (mut stream, first) = self.watch(known + 1).await?;
        if first.compact_revision() > 0 || self.is_another(&first, known) {
            // What was missed is no longer to be had.
            self.known = None;
            return Ok(());
        }
        self.back().await;
        let mut ask = tokio::time::interval(PROGRESS);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = stream.message() => {
                    let message = message.map_err(|error| self.failed(say(&error)))?;
                    let message = message.ok_or_else(|| self.failed("it ended"))?;
                    if message.compact_revision() > 0 {
                        self.known = None;
                        return Ok(());
                    }
                    if message.canceled() {
                        return Err(self.failed(message.cancel_reason()));
                    }
                    self.take(&message).await;
                    // Not before: a listener that lags is not etcd's silence.
                    heard = Instant::now();
                }
                _ = ask.tick() => {
                    if heard.elapsed() > SILENT_MAX {
                        return Err(self.failed("etcd is silent"));
                    }
                    stream.request_progress().await.map_err(|error| self.failed(say(&error)))?;
                }
                () = self.events.closed() => return Ok(()),
            }
        }
    }

    async fn list(&mut self) -> Result<u64, StoreError> {
        let (entries, revision) = self.store.list().await?;
        self.back().await;
        self.tell(Event::Snapshot { entries, revision }).await;
        self.known = Some(revision);
        Ok(revision)
    }

    /// The stream of changes, and etcd's word that it has begun.
    async fn watch(&self, from: u64) -> Result<(WatchStream, WatchResponse), StoreError> {
        let options = WatchOptions::new()
            .with_range(range_end(&self.store.prefix))
            .with_start_revision(i64::try_from(from).unwrap_or(i64::MAX))
            .with_progress_notify();
        let watch = |client: Client| {
            let (prefix, options) = (self.store.prefix.clone(), options.clone());
            let mut client = client.watch_client().max_decoding_message_size(ANSWER_MAX);
            async move {
                let mut stream = client.watch(prefix, Some(options)).await?;
                let ended = || Error::WatchError("it ended before it began".into());
                let first = stream.message().await?.ok_or_else(ended)?;
                if first.canceled() && first.compact_revision() == 0 {
                    return Err(Error::WatchError(first.cancel_reason().to_owned()));
                }
                Ok((stream, first))
            }
        };
        self.store.endpoints.ask("watch", watch).await
    }

    /// Etcd was begun anew, or from a copy of earlier days: a watch from what we know would wait
    /// in silence for a revision that is far off. (Or this member lags behind the one that we
    /// listened to; a list then costs little.)
    fn is_another(&mut self, first: &WatchResponse, known: u64) -> bool {
        let Some(header) = first.header() else { return false };
        let cluster = self.cluster.replace(header.cluster_id());
        cluster.is_some_and(|cluster| cluster != header.cluster_id())
            || unsigned(header.revision()) < known
    }

    async fn take(&mut self, message: &WatchResponse) {
        for event in message.events() {
            let Some(entry) = event.kv().map(|kv| self.store.entry(kv)) else { continue };
            let revision = entry.revision;
            let event = match event.event_type() {
                EventType::Put => Event::Put(entry),
                EventType::Delete => Event::Delete { key: entry.key, revision },
            };
            self.tell(event).await;
            self.known = Some(revision.max(self.known.unwrap_or(0)));
        }
        // A watch that has not caught up may be told a revision ahead of its events, where we asked
        // (etcd before 3.4.25 and 3.5.8): only what etcd says unasked, to this watch, counts.
        if message.events().is_empty()
            && message.watch_id() >= 0
            && !message.created()
            && let Some(header) = message.header()
        {
            self.known = Some(unsigned(header.revision()).max(self.known.unwrap_or(0)));
        }
    }

    async fn back(&mut self) {
        self.breaks = 0;
        if std::mem::take(&mut self.away) {
            self.tell(Event::Back).await;
        }
    }

    /// A listener that went away is noticed by the loops.
    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    fn failed(&self, error: impl ToString) -> StoreError {
        self.store.endpoints.failed("watch", error)
    }
}
