//! What the store tells: kept as the view, and on disk for a start while the store is away.

use std::{sync::Arc, time::Duration};

use weft_core::view::{ack_key, node_key};

use super::{Agent, cache::Cache, publish, wake::Reasons};
use crate::store::Event;

/// The view on disk is at most this much older than the one in use.
const CACHE_EVERY: Duration = Duration::from_secs(2);
/// How soon a disk that refused is tried again: that takes a full list.
const CACHE_RETRY: Duration = Duration::from_secs(60);
/// Changes taken in at once, while readers of the view wait.
const TAKE_MAX: usize = 256;

pub async fn run(agent: Arc<Agent>) {
    let mut events = agent.store.watch();
    let mut cache = Cache::new(&agent.config.cache_dir);
    let mut heard = Vec::new();
    let mut tick = tokio::time::interval(CACHE_EVERY);
    loop {
        tokio::select! {
            count = events.recv_many(&mut heard, TAKE_MAX) => {
                if count == 0 {
                    return;
                }
                heard.iter().for_each(|event| cache.note(event));
                let ours = heard.iter().any(|event| concerns(&agent, event));
                take(&agent, heard.drain(..));
                if ours {
                    publish::check(&agent);
                }
                agent.wake.ring(Reasons::VIEW);
                agent.claimer.notify_one();
            }
            _ = tick.tick(), if cache.stale() => {
                if let Err(error) = tokio::task::block_in_place(|| cache.save()) {
                    tracing::warn!(%error, "could not keep the view on disk; will write it anew");
                    tick.reset_after(CACHE_RETRY);
                    if let Ok((entries, revision)) = agent.store.list().await {
                        cache.note(&Event::Snapshot { entries, revision });
                    }
                }
                weft_linux::memory::give_back();
            }
        }
    }
}

/// What is ours is written by us alone; where somebody else did, it is written again.
fn concerns(agent: &Agent, event: &Event) -> bool {
    let pods = format!("/{}", agent.node);
    let ours = |key: &str| {
        key == node_key(&agent.node)
            || key == ack_key(&agent.node)
            || key.starts_with("pods/") && key.ends_with(&pods)
    };
    match event {
        Event::Snapshot { .. } => true,
        Event::Put(entry) => ours(&entry.key),
        Event::Delete { key, .. } => ours(key),
        Event::Away { .. } | Event::Back => false,
    }
}

pub(super) fn take(agent: &Agent, events: impl Iterator<Item = Event>) {
    let mut shown = agent.shown_mut();
    for event in events {
        match event {
            Event::Snapshot { entries, revision } => {
                tracing::info!(revision, records = entries.len(), "the store's full list is here");
                (shown.synced, shown.away) = (true, None);
                let entries = entries.iter();
                let entries =
                    entries.map(|entry| (entry.key.as_str(), &entry.value[..], entry.revision));
                shown.view.list(entries, revision);
            }
            Event::Put(entry) => shown.view.put(&entry.key, &entry.value, entry.revision),
            Event::Delete { key, revision } => shown.view.delete(&key, revision),
            Event::Away { why } => {
                tracing::warn!(why, "the store is away; serving from the last view");
                shown.away = Some(why);
            }
            Event::Back => {
                tracing::info!("the store is back");
                shown.away = None;
            }
        }
    }
}
