//! Following etcd: a list, then every change since. After a break it goes on where it was; where
//! etcd has compacted that away, it lists again.

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse};
use tokio::sync::mpsc;

use super::{EtcdStore, Event, range_end, unsigned};
use crate::store::StoreError;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often etcd is asked to say where it is, so that a dead connection is noticed.
const PROGRESS: Duration = Duration::from_secs(5);
/// Silent for so long, although asked, is gone.
const SILENT_MAX: Duration = Duration::from_secs(12);

pub(super) async fn run(store: EtcdStore, events: mpsc::Sender<Event>) {
    // The revision up to which the listener knows everything; none: nothing yet.
    let mut known: Option<u64> = None;
    let mut away = false;
    let mut retry = RETRY_FIRST;
    while !events.is_closed() {
        let error = match follow(&store, &events, &mut known, &mut away).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if !away {
            away = true;
            if events.send(Event::Away { why: error.to_string() }).await.is_err() {
                return;
            }
            retry = RETRY_FIRST;
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Follows until the watch ends. `Ok` means: begin again at once.
async fn follow(
    store: &EtcdStore,
    events: &mpsc::Sender<Event>,
    known: &mut Option<u64>,
    away: &mut bool,
) -> Result<(), StoreError> {
    if known.is_none() {
        let (entries, revision) = store.list().await?;
        back(events, away).await;
        let _ = events.send(Event::Snapshot { entries, revision }).await;
        *known = Some(revision);
    }
    let from = i64::try_from(known.unwrap_or(0) + 1).unwrap_or(i64::MAX);
    let options = WatchOptions::new()
        .with_range(range_end(&store.prefix))
        .with_start_revision(from)
        .with_progress_notify();
    let mut client = store.client.watch_client();
    let mut stream =
        store.bounded("watch", client.watch(store.prefix.clone(), Some(options))).await?;
    let mut ask = tokio::time::interval(PROGRESS);
    let mut heard = tokio::time::Instant::now();
    loop {
        tokio::select! {
            message = stream.message() => {
                let message = message.map_err(|error| store.failed("watch", error))?;
                let Some(message) = message else { return Err(store.failed("watch", "it ended")) };
                heard = tokio::time::Instant::now();
                if message.compact_revision() > 0 {
                    // What was missed is no longer to be had.
                    *known = None;
                    return Ok(());
                }
                if message.canceled() {
                    return Err(store.failed("watch", message.cancel_reason()));
                }
                back(events, away).await;
                tell(store, events, &message, known).await;
            }
            _ = ask.tick() => {
                if heard.elapsed() > SILENT_MAX {
                    return Err(store.failed("watch", "etcd is silent"));
                }
                stream.request_progress().await.map_err(|error| store.failed("watch", error))?;
            }
            () = events.closed() => return Ok(()),
        }
    }
}

async fn back(events: &mpsc::Sender<Event>, away: &mut bool) {
    if std::mem::take(away) {
        let _ = events.send(Event::Back).await;
    }
}

async fn tell(
    store: &EtcdStore,
    events: &mpsc::Sender<Event>,
    message: &WatchResponse,
    known: &mut Option<u64>,
) {
    for event in message.events() {
        let Some(entry) = event.kv().map(|kv| store.entry(kv)) else { continue };
        *known = Some(entry.revision.max(known.unwrap_or(0)));
        let event = match event.event_type() {
            EventType::Put => Event::Put(entry),
            EventType::Delete => Event::Delete { key: entry.key, revision: entry.revision },
        };
        // A listener that went away is noticed by the caller.
        let _ = events.send(event).await;
    }
    if message.events().is_empty()
        && let Some(header) = message.header()
    {
        *known = Some(unsigned(header.revision()).max(known.unwrap_or(0)));
    }
}
