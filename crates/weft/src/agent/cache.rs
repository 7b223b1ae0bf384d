//! The view on disk, for a start while the store is away: a log of records, one JSON object a
//! line, in which the last word on a key counts. It is written at the cost of what changed, and
//! none of it is kept in memory. What the records mean is core's.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weft_core::view::View;

use crate::store::{Entry, Event};

const FILE: &str = "view.jsonl";
/// A log that has grown by more than this, and to twice what it was, is written anew.
const GROWTH_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    revision: u64,
    /// None: the record was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

pub struct Cache {
    path: PathBuf,
    /// Lines not yet on disk.
    pending: Vec<u8>,
    /// They begin a new log: a full list was heard.
    anew: bool,
    /// Bytes of the log as last written anew, and added since.
    whole: usize,
    added: usize,
}

impl Cache {
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE), pending: Vec::new(), anew: false, whole: 0, added: 0 }
    }

    /// Notes what was heard from the store.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Snapshot { entries, .. } => {
                self.pending.clear();
                self.anew = true;
                entries.iter().for_each(|entry| self.line(&entry.key, entry));
            }
            Event::Put(entry) => self.line(&entry.key, entry),
            Event::Delete { key, revision } => {
                self.write(&Line { key: key.clone(), revision: *revision, value: None });
            }
            Event::Away { .. } | Event::Back => {}
        }
    }

    fn line(&mut self, key: &str, entry: &Entry) {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        self.write(&Line { key: key.to_owned(), revision: entry.revision, value: Some(value) });
    }

    fn write(&mut self, line: &Line) {
        // A `Vec` takes every byte.
        let _ = serde_json::to_writer(&mut self.pending, line);
        self.pending.push(b'\n');
    }

    pub fn stale(&self) -> bool {
        self.anew || !self.pending.is_empty()
    }

    /// Brings the disk up to date. After an error the log lacks records: `note` a full list.
    pub fn save(&mut self) -> io::Result<()> {
        let lines = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.anew) {
            return self.begin(&lines);
        }
        self.added += lines.len();
        if self.added > GROWTH_MAX.max(self.whole) {
            let mut last = lines_of(&fs::read(&self.path)?);
            last.extend(lines_of(&lines));
            let kept = last.into_values().filter(|line| line.value.is_some());
            kept.for_each(|line| self.write(&line));
            let lines = std::mem::take(&mut self.pending);
            return self.begin(&lines);
        }
        let mut log = fs::OpenOptions::new().append(true).open(&self.path)?;
        log.write_all(&lines)
    }

    fn begin(&mut self, lines: &[u8]) -> io::Result<()> {
        (self.whole, self.added) = (lines.len(), 0);
        // On disk before it takes the old one's place: a node that loses power has one of the two.
        let tmp = self.path.with_extension("tmp");
        let mut log = fs::File::create(&tmp)?;
        log.write_all(lines)?;
        log.sync_all()?;
        fs::rename(tmp, &self.path)
    }
}

/// The view that the last run left. It may serve, but never sweeps.
pub fn view(dir: &Path) -> View {
    let mut view = View::default();
    for line in lines_of(&fs::read(dir.join(FILE)).unwrap_or_default()).into_values() {
        if let Some(value) = &line.value {
            view.put(&line.key, value.as_bytes(), line.revision);
        }
    }
    view
}

/// The last word on each key. A line that its writer did not finish is none.
fn lines_of(log: &[u8]) -> BTreeMap<String, Line> {
    let lines = log.split(|byte| *byte == b'\n');
    let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.map(|line| (line.key.clone(), line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: u64, value: &str) -> Event {
        Event::Put(Entry { key: key.into(), value: value.into(), revision })
    }

    fn node(mtu: u16) -> String {
        format!(
            r#"{{"schema":1,"boot":"b","version":"0","underlay":[],"mtu":{mtu},"networks":{{}}}}"#
        )
    }

    #[test]
    fn what_was_heard_last_is_read_again_whenever_the_writer_died() {
        let dir = std::env::temp_dir().join(format!("weft-cache-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mtus = |view: &View| -> Vec<(String, u16)> {
            let nodes = view.nodes.iter();
            nodes.map(|(name, node)| (name.to_string(), node.record.mtu.get())).collect()
        };
        assert!(view(&dir).nodes.is_empty());
        let mut cache = Cache::new(&dir);
        let entry =
            |key: &str, mtu| Entry { key: key.into(), value: node(mtu).into(), revision: 1 };
        let entries = vec![entry("nodes/a", 1500), entry("nodes/b", 1500)];
        cache.note(&Event::Snapshot { entries, revision: 1 });
        cache.save().unwrap();
        cache.note(&put("nodes/b", 2, &node(1400)));
        cache.note(&put("nodes/c", 3, &node(9000)));
        cache.note(&Event::Delete { key: "nodes/a".into(), revision: 4 });
        assert!(cache.stale());
        cache.save().unwrap();
        assert!(!cache.stale());
        let want = vec![("b".to_owned(), 1400), ("c".to_owned(), 9000)];
        assert_eq!(mtus(&view(&dir)), want);
        let mut torn = fs::read(dir.join(FILE)).unwrap();
        torn.splice(0..0, *b"\xff{garbled\xfe\n");
        torn.extend(b"{\"key\":\"nodes/b\",\"re");
        fs::write(dir.join(FILE), torn).unwrap();
        assert_eq!(mtus(&view(&dir)), want, "a garbled line and an unfinished one are none");
        fs::remove_dir_all(&dir).unwrap();
        cache.note(&put("nodes/d", 5, &node(1500)));
        assert!(cache.save().is_err(), "a lost log is not gone on with");
    }

    #[test]
    fn a_log_does_not_outgrow_what_it_tells() {
        let dir = std::env::temp_dir().join(format!("weft-cache-long-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut cache = Cache::new(&dir);
        cache.note(&Event::Snapshot { entries: Vec::new(), revision: 0 });
        cache.save().unwrap();
        let mut largest = 0;
        for revision in 1..40_000 {
            cache.note(&put("nodes/a", revision, &node(1500)));
            if revision % 500 == 0 {
                cache.save().unwrap();
                largest = largest.max(fs::metadata(dir.join(FILE)).unwrap().len());
            }
        }
        assert!(largest < 2 << 20, "{largest}");
        assert_eq!(view(&dir).nodes.len(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
