//! What of the API server's objects the store reads and writes, and how keys and objects' names go
//! together. What the records say is not known here.

use serde::Deserialize;
use serde_json::{Map, Value};
use weft_core::view::object_name;

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
    #[serde(default)]
    pub status: NetworkStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    pub conditions: Vec<Map<String, Value>>,
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
        if metadata.name != object_name(&spec.key) {
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
