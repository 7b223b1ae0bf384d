//! How well each kind of object is heard, for whom asks what is wrong.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    KubeError,
    follow::{Collection, Unread},
};

/// Objects that can't be read are named, but no more of one kind than these.
const NAMED_MAX: usize = 3;

/// Path and selector.
type Key = (String, Option<String>);

#[derive(Default)]
pub struct Watches(Mutex<BTreeMap<Key, Watch>>);

#[derive(Default)]
struct Watch {
    /// Since when nothing is heard, and why.
    away: Option<(Instant, String)>,
    /// By label, why.
    unread: BTreeMap<String, String>,
}

impl Watches {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Key, Watch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn away(&self, of: &Collection, why: Option<&KubeError>) {
        let mut all = self.all();
        let watch = all.entry(key(of)).or_default();
        let said = |why: &KubeError| (Instant::now(), format!("{}: {}", why.server, why.why));
        watch.away = why.map(said);
    }

    pub(super) fn unread(&self, of: &Collection, unread: &Unread) {
        let (label, why) = (unread.meta.label(), unread.why.clone());
        let mut all = self.all();
        let watch = all.entry(key(of)).or_default();
        if watch.unread.get(&label) != Some(&why) {
            tracing::warn!(
                object = label,
                path = of.path,
                why,
                "can't be read: what a watch told of it before stays, a list goes on without it"
            );
            watch.unread.insert(label, why);
        }
    }

    /// What was wrong with the object is not wrong any more, or it is gone.
    pub(super) fn read(&self, of: &Collection, label: &str) {
        if let Some(watch) = self.all().get_mut(&key(of)) {
            watch.unread.remove(label);
        }
    }

    pub(super) fn all_read(&self, of: &Collection) {
        if let Some(watch) = self.all().get_mut(&key(of)) {
            watch.unread.clear();
        }
    }

    /// What an operator should know. Of the store's own kinds the store says itself that it is away.
    pub fn problems(&self, of_store: impl Fn(&str) -> bool) -> Vec<String> {
        let all = self.all();
        let mut problems = unheard(all.iter().filter(|((path, _), _)| !of_store(path)));
        for ((path, _), watch) in all.iter() {
            let named = watch.unread.iter().take(NAMED_MAX);
            problems.extend(named.map(|(label, why)| {
                format!("{} {label} can't be read, and lists go on without it: {why}", kind(path))
            }));
            let more = watch.unread.len().saturating_sub(NAMED_MAX);
            if more > 0 {
                problems.push(format!("{more} more {} can't be read", kind(path)));
            }
        }
        problems
    }
}

/// Kinds that are not heard of, together where that has one cause.
fn unheard<'a>(watches: impl Iterator<Item = (&'a Key, &'a Watch)>) -> Vec<String> {
    let mut causes = BTreeMap::<&str, (Vec<&str>, u64)>::new();
    for ((path, _), watch) in watches {
        let Some((since, why)) = &watch.away else { continue };
        let (kinds, seconds) = causes.entry(why).or_default();
        if kinds.last() != Some(&kind(path)) {
            kinds.push(kind(path));
        }
        *seconds = since.elapsed().as_secs().max(*seconds);
    }
    let say = |(why, (kinds, seconds)): (&str, (Vec<&str>, u64))| {
        format!(
            "{} were not heard of for {seconds} s, what was known of them stays in force: the API server \
             {why}",
            kinds.join(", ")
        )
    };
    causes.into_iter().map(say).collect()
}

fn kind(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn key(of: &Collection) -> Key {
    (of.path.clone(), of.fields.clone())
}
