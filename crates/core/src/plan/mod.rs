//! The difference between the kernel we want and the kernel we have. Nothing here performs it.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::state::{Key, Object, State};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    Put(Object),
    Drop(Key),
    /// A link that the kernel cannot edit is removed and made anew. What stood on it goes with it
    /// and is put back by the changes that follow: traffic over these keys is interrupted.
    Recreate {
        object: Object,
        interrupts: Vec<Key>,
    },
}

impl Change {
    pub fn key(&self) -> Key {
        match self {
            Self::Put(object) | Self::Recreate { object, .. } => object.key(),
            Self::Drop(key) => key.clone(),
        }
    }
}

impl State {
    /// What it is after the kernel has taken `change`.
    pub fn take(&mut self, change: &Change) {
        match change {
            Change::Put(object) => self.put(object.clone()),
            Change::Drop(key) => self.drop(key),
            Change::Recreate { object, .. } => {
                self.drop(&object.key());
                self.put(object.clone());
            }
        }
    }
}

/// Returns the changes that turn `actual` into `desired`: first make, then break.
///
/// New objects go in before stale ones come out, so a route that moves is never absent. The
/// exception is a link whose immutable attribute changes: it goes first.
pub fn plan(desired: &State, actual: &State) -> Vec<Change> {
    // Only a link that is made anew needs a state of its own to plan from; copying is what planning
    // for thousands of peers would cost most.
    let mut kept = Cow::Borrowed(actual);
    let mut changes = Vec::new();
    for want in desired.objects() {
        let Some(was) = actual.get(&want.key()).filter(|was| !want.edits(was)) else { continue };
        let interrupts = was.dev().map(|dev| kept.standing_on(dev).cloned().collect());
        kept.to_mut().drop(&want.key());
        changes.push(Change::Recreate {
            object: want.clone(),
            interrupts: interrupts.unwrap_or_default(),
        });
        kept.to_mut().put(want.clone());
    }
    let mut make: Vec<&Object> =
        desired.objects().filter(|want| kept.get(&want.key()) != Some(want)).collect();
    make.sort_by_key(|object| (object.class(), object.depth()));
    let mut stale: Vec<&Object> =
        kept.objects().rev().filter(|was| !desired.contains(&was.key())).collect();
    stale.sort_by_key(|object| std::cmp::Reverse((object.class(), object.depth())));
    changes.extend(make.into_iter().cloned().map(Change::Put));
    // A sysctl has no mark and no absence: the value found first is put back at uninstall.
    let stale = stale.into_iter().map(Object::key).filter(|key| !matches!(key, Key::Sysctl(_)));
    changes.extend(stale.map(Change::Drop));
    changes
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(object) => write!(f, "+ {object}"),
            Self::Drop(key) => write!(f, "- {key}"),
            Self::Recreate { object, interrupts } => {
                write!(f, "! {object}")?;
                match interrupts.len() {
                    0 => Ok(()),
                    n => write!(f, " (made anew; interrupts {n} objects that stand on it)"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
