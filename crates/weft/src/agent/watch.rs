//! What the store tells: kept as the view, and on disk for a start while the store is away.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use weft_core::view::View;

use super::{Agent, Shown, wake::Reasons};
use crate::store::Event;

const CACHE: &str = "view.json";
/// The view on disk is at most this much older than the one in use.
const CACHE_EVERY: Duration = Duration::from_secs(2);

/// The records behind the view, as the store has them.
type Records = BTreeMap<String, (String, u64)>;

pub async fn run(agent: Arc<Agent>) {
    let mut events = agent.store.watch();
    let mut records = Records::new();
    let mut stale = false;
    let mut tick = tokio::time::interval(CACHE_EVERY);
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                stale |= take(&agent, &mut records, event);
                agent.wake.ring(Reasons::VIEW);
                agent.claimer.notify_one();
            }
            _ = tick.tick(), if stale => {
                stale = false;
                if let Err(error) = save(&agent.config.cache_dir, &records) {
                    tracing::warn!(%error, "could not keep the view on disk");
                }
                weft_linux::memory::give_back();
            }
        }
    }
}

/// True if the records changed.
fn take(agent: &Agent, records: &mut Records, event: Event) -> bool {
    let mut shown = agent.shown_mut();
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    match event {
        Event::Snapshot { entries, revision } => {
            *shown = Shown { synced: true, ..Shown::default() };
            shown.view.revision = revision;
            records.clear();
            for entry in entries {
                shown.view.put(&entry.key, &entry.value, entry.revision);
                records.insert(entry.key, (text(entry.value), entry.revision));
            }
            tracing::info!(revision, records = records.len(), "the store's full list is here");
            true
        }
        Event::Put(entry) => {
            shown.view.put(&entry.key, &entry.value, entry.revision);
            records.insert(entry.key, (text(entry.value), entry.revision));
            true
        }
        Event::Delete { key, revision } => {
            shown.view.delete(&key, revision);
            records.remove(&key);
            true
        }
        Event::Away { why } => {
            tracing::warn!(why, "the store is away; serving from the last view");
            shown.away = Some(why);
            false
        }
        Event::Back => {
            tracing::info!("the store is back");
            shown.away = None;
            false
        }
    }
}

fn save(cache_dir: &Path, records: &Records) -> anyhow::Result<()> {
    let tmp = cache_dir.join("view.tmp");
    fs::write(&tmp, serde_json::to_vec(records)?)?;
    fs::rename(tmp, cache_dir.join(CACHE))?;
    Ok(())
}

/// The view that the last run left. It may serve, but never sweeps.
pub fn cached(cache_dir: &Path) -> View {
    let read = fs::read(cache_dir.join(CACHE)).ok();
    let records: Records =
        read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut view = View::default();
    for (key, (value, revision)) in &records {
        view.put(key, value.as_bytes(), *revision);
    }
    view
}
