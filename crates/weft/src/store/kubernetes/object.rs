//! What of the API server's objects the store reads and writes, and how keys and objects' names go
//! together. What the records say is not known here.

use serde::Deserialize;
use serde_json::{Map, Value};
use weft_core::name::fnv1a;

use crate::{
    kube::follow::{Followed, Meta},
    store::Entry,
};

pub const GROUP: &str = "weft.network";
pub const VERSION: &str = "v1";
pub const RECORDS: &str = "/apis/weft.network/v1/records";
pub const NETWORKS: &str = "/apis/weft.network/v1/networks";
/// What keys of networks begin with.
pub const NETWORK: &str = "networks/";
/// The label that says of which kind a record is: the first word of its key.
pub const KIND_LABEL: &str = "weft.network/kind";
/// What an object's name may have at most (RFC 1123).
const NAME_MAX: usize = 253;

/// Any record but a network.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    pub metadata: Meta,
    #[serde(default)]
    pub spec: RecordSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RecordSpec {
    pub key: String,
    pub value: String,
}

/// A network as a user writes it.
#[derive(Clone, Debug, Deserialize)]
pub struct NetworkObject {
    pub metadata: Meta,
    #[serde(default)]
    pub spec: Map<String, Value>,
}

impl Followed for Record {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
impl Followed for NetworkObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Record {
    /// None of one that somebody made under a name that is not its key's: it is nobody's record.
    pub fn entry(self) -> Option<Entry> {
        let revision = self.metadata.revision();
        let Self { metadata, spec } = self;
        if metadata.name != name(&spec.key) {
            tracing::warn!(
                record = metadata.name,
                key = spec.key,
                "no record has this name: left alone"
            );
            return None;
        }
        Some(Entry { key: spec.key, value: spec.value.into_bytes(), revision })
    }
}

impl NetworkObject {
    pub fn key(&self) -> String {
        format!("{NETWORK}{}", self.metadata.name)
    }

    /// As it stands at a revision of the records.
    pub fn entry(&self, revision: u64) -> Entry {
        let value = Value::from(self.spec.clone()).to_string().into_bytes();
        Entry { key: self.key(), value, revision }
    }
}

/// The name of the object that holds the record: what can be read of the key, and a hash of all of it.
/// A valid DNS subdomain, the same for the same key whoever asks.
pub fn name(key: &str) -> String {
    let word = |word: &str| {
        let word = word.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        word.trim_matches('-').to_owned()
    };
    let words: Vec<String> = key.split('/').map(word).filter(|word| !word.is_empty()).collect();
    let hash = format!("{:016x}", fnv1a(&[key]));
    let mut readable = words.join(".");
    readable.truncate(NAME_MAX - hash.len() - 1);
    let readable = readable.trim_end_matches(['-', '.']);
    if readable.is_empty() { hash } else { format!("{readable}.{hash}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_subdomains_that_can_be_read_and_differ() {
        let long = format!("nodes/{}", "a.".repeat(126) + "a");
        let keys = [
            "nodes/a",
            "nodes/a.b",
            "nodes/a-b",
            "acks/a",
            "blocks/default/10.1.0.0-24",
            "blocks/default/fd00:1::-112",
            "claims/default/::1",
            "claims/default/1::",
            "settings/bgp",
            "pods/n/a.b",
            "pods/n.a/b",
            &long,
            &long[..long.len() - 2],
        ];
        let names: std::collections::BTreeSet<String> = keys.iter().map(|key| name(key)).collect();
        assert_eq!(names.len(), keys.len());
        for name in &names {
            let label = |label: &str| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            };
            assert!(name.len() <= NAME_MAX && name.split('.').all(label), "{name}");
        }
        assert!(name("blocks/default/10.1.0.0-24").starts_with("blocks.default.10-1-0-0-24."));
        assert_eq!(name("settings/bgp"), name("settings/bgp"));
    }
}
