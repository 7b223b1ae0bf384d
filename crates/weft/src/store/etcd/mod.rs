//! etcd v3 as the store. Its revisions are ours: `mod_revision` of a key, one counter for all.

mod endpoints;
mod options;
mod watch;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, KeyValue, KvClient, ResponseHeader,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::mpsc;

use self::endpoints::Endpoints;
use super::{Created, Entry, EtcdConfig, Event, OPERATION_MAX, Replaced, StoreError, check_key};

/// Keys asked for at once when listing.
const PAGE: i64 = 1000;
/// Lists begun anew because etcd compacted away what the first page showed.
const LISTS_MAX: usize = 3;
/// The largest answer taken: a page of records, or what a watch missed.
const ANSWER_MAX: usize = 256 << 20;

#[derive(Clone)]
pub struct EtcdStore {
    endpoints: Arc<Endpoints>,
    /// With its closing slash.
    prefix: String,
}

impl EtcdStore {
    /// Connects lazily: an etcd that is away is no reason not to start.
    pub async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        let endpoints = Arc::new(Endpoints::open(config).await?);
        let prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        Ok(Self { endpoints, prefix })
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut lists = 1;
        loop {
            match self.list_once().await {
                Err(StoreError::Etcd { error, .. })
                    if error.contains("compacted") && lists < LISTS_MAX =>
                {
                    lists += 1;
                }
                listed => return listed,
            }
        }
    }

    async fn list_once(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut entries = Vec::new();
        let mut from = self.prefix.clone().into_bytes();
        let mut revision = 0;
        loop {
            let answer = self.page(&from, revision).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, ResponseHeader::revision);
            }
            entries.extend(answer.kvs().iter().map(|kv| self.entry(kv)));
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), b"\0"].concat(),
                _ => return Ok((entries, unsigned(revision))),
            }
        }
    }

    /// Every page shows the store as the first one did.
    async fn page(&self, from: &[u8], revision: i64) -> Result<GetResponse, StoreError> {
        let options = GetOptions::new()
            .with_range(range_end(&self.prefix))
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_limit(PAGE)
            .with_revision(revision);
        let get = |client: Client| {
            let (from, options) = (from.to_vec(), options.clone());
            async move { kv(&client).get(from, Some(options)).await }
        };
        self.endpoints.ask("list", get).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let full = self.key(key)?;
        let get = |client: Client| {
            let full = full.clone();
            async move { kv(&client).get(full, None).await }
        };
        let answer = self.endpoints.ask(&format!("get {key}"), get).await?;
        Ok(answer.kvs().first().map(|kv| self.entry(kv)))
    }

    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        let full = self.key(key)?;
        let put = |client: Client| {
            let (full, value) = (full.clone(), value.clone());
            async move { kv(&client).put(full, value, None).await }
        };
        let answer = self.endpoints.ask(&format!("put {key}"), put).await?;
        Ok(unsigned(answer.header().map_or(0, ResponseHeader::revision)))
    }

    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        match self.compare_and_put(key, value, 0).await? {
            Ok(revision) => Ok(Created::New(revision)),
            Err(Some(entry)) => Ok(Created::Exists(entry)),
            Err(None) => Err(self.endpoints.failed(&format!("create {key}"), "it came and went")),
        }
    }

    pub async fn replace(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Replaced, StoreError> {
        Ok(match self.compare_and_put(key, value, was).await? {
            Ok(revision) => Replaced::Done(revision),
            Err(entry) => Replaced::Conflict(entry),
        })
    }

    /// Writes if the key's revision is `was`, 0 for a key that is not there; else what is there.
    async fn compare_and_put(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Result<u64, Option<Entry>>, StoreError> {
        let full = self.key(key)?;
        let was = i64::try_from(was).unwrap_or(i64::MAX);
        let tries = AtomicUsize::new(0);
        let write = |client: Client| {
            tries.fetch_add(1, Ordering::Relaxed);
            let txn = Txn::new()
                .when([Compare::mod_revision(full.clone(), CompareOp::Equal, was)])
                .and_then([TxnOp::put(full.clone(), value.clone(), None)])
                .or_else([TxnOp::get(full.clone(), None)]);
            async move { kv(&client).txn(txn).await }
        };
        let answer = self.endpoints.ask(&format!("write {key}"), write).await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, ResponseHeader::revision);
            return Ok(Ok(unsigned(revision)));
        }
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| self.entry(kv)),
            _ => None,
        });
        match found {
            // The first try was done, and its answer was lost.
            Some(entry) if tries.into_inner() > 1 && entry.value == value => Ok(Ok(entry.revision)),
            found => Ok(Err(found)),
        }
    }

    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let full = self.key(key)?;
        let delete = |client: Client| {
            let full = full.clone();
            async move { kv(&client).delete(full, None).await }
        };
        Ok(self.endpoints.ask(&format!("delete {key}"), delete).await?.deleted() > 0)
    }

    pub async fn delete_if(&self, key: &str, was: u64) -> Result<bool, StoreError> {
        let full = self.key(key)?;
        let was = i64::try_from(was).unwrap_or(i64::MAX);
        let delete = |client: Client| {
            let txn = Txn::new()
                .when([Compare::mod_revision(full.clone(), CompareOp::Equal, was)])
                .and_then([TxnOp::delete(full.clone(), None)]);
            async move { kv(&client).txn(txn).await }
        };
        Ok(self.endpoints.ask(&format!("delete {key}"), delete).await?.succeeded())
    }

    pub fn watch(self, events: mpsc::Sender<Event>) {
        tokio::spawn(watch::run(self, events));
    }

    fn key(&self, key: &str) -> Result<String, StoreError> {
        check_key(key)?;
        Ok(format!("{}{key}", self.prefix))
    }

    fn entry(&self, kv: &KeyValue) -> Entry {
        let key = String::from_utf8_lossy(kv.key());
        Entry {
            key: key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned(),
            value: kv.value().to_vec(),
            revision: unsigned(kv.mod_revision()),
        }
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_MAX)
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
fn range_end(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
