//! What the server sends, read. An object that can't be read hides no other: what is known of it is its
//! metadata, and why.

use kube::core::Status;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Error, Value};

use super::Meta;

/// With it the server says that all there is was told.
const ALL_TOLD: &str = "k8s.io/initial-events-end";

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub(super) struct Listed<T> {
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(default = "Vec::new", deserialize_with = "items")]
    pub items: Vec<T>,
}

/// Of metadata alone an empty list is `null`.
fn items<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    resource_version: String,
    pub r#continue: Option<String>,
}

impl<T> Listed<T> {
    pub(super) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or(0)
    }
}

/// One word of a watch.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(super) enum Word<T> {
    Added(T),
    Modified(T),
    Deleted(T),
    Bookmark(Mark),
    Error(Box<Status>),
}

#[derive(Debug, Deserialize)]
pub(super) struct Mark {
    metadata: MarkMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MarkMeta {
    resource_version: String,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Mark {
    pub(super) fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or(0)
    }
    pub(super) fn all_told(&self) -> bool {
        self.metadata.annotations.as_ref().is_some_and(|of| of.contains_key(ALL_TOLD))
    }
}

/// An object that is not as its kind should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Unread {
    pub meta: Meta,
    pub why: String,
    pub(super) gone: bool,
}

impl Unread {
    /// What was read of the object can't be.
    pub fn by(meta: Meta, why: String) -> Self {
        Self { meta, why, gone: false }
    }

    fn of(object: &Value, gone: bool, why: &Error) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let meta = Meta {
            name: text("name").unwrap_or_default(),
            namespace: text("namespace"),
            uid: text("uid").unwrap_or_default(),
            resource_version: text("resourceVersion").unwrap_or_default(),
            generation: object["metadata"]["generation"].as_i64().unwrap_or(0),
        };
        Self { meta, why: why.to_string(), gone }
    }
}

/// A page of a list, and what of it could not be read.
pub(super) fn page<T: DeserializeOwned>(text: &str) -> Result<(Listed<T>, Vec<Unread>), Error> {
    if let Ok(listed) = serde_json::from_str(text) {
        return Ok((listed, Vec::new()));
    }
    let Listed { metadata, items } = serde_json::from_str::<Listed<Value>>(text)?;
    let mut listed = Listed { metadata, items: Vec::new() };
    let mut unread = Vec::new();
    for item in items {
        match T::deserialize(&item) {
            Ok(object) => listed.items.push(object),
            Err(error) => unread.push(Unread::of(&item, false, &error)),
        }
    }
    Ok((listed, unread))
}

/// One line of a watch. Where not even JSON can be read of it, the line is no word at all.
pub(super) fn word<T: DeserializeOwned>(line: &[u8]) -> Result<Word<T>, Box<Unread>> {
    serde_json::from_slice(line).map_err(|error| {
        let word: Value = serde_json::from_slice(line).unwrap_or_default();
        Box::new(Unread::of(&word["object"], word["type"] == "DELETED", &error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Number {
        number: u8,
    }

    #[test]
    fn what_can_not_be_read_hides_nothing_else() {
        let bad = r#"{"metadata":{"name":"b","namespace":"n","resourceVersion":"7"},"number":"?"}"#;
        let text = format!(
            r#"{{"metadata":{{"resourceVersion":"9","continue":"x"}},"items":[{{"number":1}},{bad},{{"number":2}}]}}"#
        );
        let (listed, unread) = page::<Number>(&text).unwrap();
        assert_eq!(listed.items, [Number { number: 1 }, Number { number: 2 }]);
        assert_eq!((listed.revision(), listed.metadata.r#continue.as_deref()), (9, Some("x")));
        assert_eq!((unread[0].meta.label(), unread[0].meta.revision()), ("n/b".into(), 7));
        assert!(unread[0].why.contains("invalid type: string"), "{unread:?}");

        for (kind, gone) in [("ADDED", false), ("DELETED", true)] {
            let line = format!(r#"{{"type":"{kind}","object":{bad}}}"#);
            let unread = word::<Number>(line.as_bytes()).unwrap_err();
            assert_eq!((unread.meta.name.as_str(), unread.gone), ("b", gone));
        }
        let torn = word::<Number>(br#"{"type":"ADDED","obj"#).unwrap_err();
        assert_eq!((torn.meta.revision(), torn.gone), (0, false));
        assert!(page::<Number>("{").is_err());
        for nothing in [r#"{"items":null}"#, r#"{"items":[]}"#, "{}"] {
            let (listed, unread) = page::<Number>(nothing).unwrap();
            assert!(listed.items.is_empty() && unread.is_empty(), "{nothing}");
        }
    }

    #[test]
    fn words_are_read() {
        let word = |line: &str| word::<Number>(line.as_bytes()).unwrap();
        let added = word(r#"{"type":"ADDED","object":{"number":3,"more":[]}}"#);
        assert!(matches!(added, Word::Added(Number { number: 3 })));
        let marks = [("", false), (r#","annotations":{"k8s.io/initial-events-end":"true"}"#, true)];
        for (more, all) in marks {
            let line = format!(
                r#"{{"type":"BOOKMARK","object":{{"kind":"Pod","metadata":{{"resourceVersion":"12"{more}}}}}}}"#
            );
            let Word::Bookmark(mark) = word(&line) else { panic!() };
            assert_eq!((mark.revision(), mark.all_told()), (12, all));
        }
        let error = word(
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"m","status":"Failure"}}"#,
        );
        assert!(matches!(error, Word::Error(status) if status.code == 410));
    }
}
