//! etcd v3 as the store. Its revisions are ours: `mod_revision` of a key, one counter for all.

mod watch;

use std::{fs, future::Future, io, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity,
    KeyValue, SortOrder, SortTarget, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::mpsc;

use super::{Created, Entry, EtcdConfig, Event, OPERATION_MAX, Replaced, StoreError, check_key};

/// Keys asked for at once when listing.
const PAGE: i64 = 1000;
/// A server that is silent so long is taken for gone.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct EtcdStore {
    client: Client,
    /// With its closing slash.
    prefix: String,
    endpoints: String,
}

impl EtcdStore {
    /// Connects lazily: an etcd that is away is no reason not to start.
    pub async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        let endpoints = config.endpoints.join(", ");
        let failed = |what: &str, error: String| StoreError::Etcd {
            what: what.to_owned(),
            endpoints: endpoints.clone(),
            error,
        };
        if config.endpoints.is_empty() {
            return Err(failed("connect", "no endpoint is given: set store.etcd.endpoints".into()));
        }
        let options =
            options(config).map_err(|error| failed("read credentials", error.to_string()))?;
        let client = Client::connect(&config.endpoints, Some(options))
            .await
            .map_err(|error| failed("connect", error.to_string()))?;
        let prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        Ok(Self { client, prefix, endpoints })
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        let mut entries = Vec::new();
        let mut from = self.prefix.clone();
        let mut revision = 0;
        loop {
            let mut client = self.client.kv_client();
            // Every page shows the store as the first one did.
            let options = GetOptions::new()
                .with_range(range_end(&self.prefix))
                .with_sort(SortTarget::Key, SortOrder::Ascend)
                .with_limit(PAGE)
                .with_revision(revision);
            let answer = self.bounded("list", client.get(from.clone(), Some(options))).await?;
            if revision == 0 {
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            entries.extend(answer.kvs().iter().map(|kv| self.entry(kv)));
            match answer.kvs().last() {
                Some(last) if answer.more() => {
                    from = format!("{}\0", String::from_utf8_lossy(last.key()));
                }
                _ => return Ok((entries, unsigned(revision))),
            }
        }
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut client = self.client.kv_client();
        let answer = self.bounded(&format!("get {key}"), client.get(self.key(key)?, None)).await?;
        Ok(answer.kvs().first().map(|kv| self.entry(kv)))
    }

    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        let mut client = self.client.kv_client();
        let put = client.put(self.key(key)?, value, None);
        let answer = self.bounded(&format!("put {key}"), put).await?;
        Ok(unsigned(answer.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        match self.compare_and_put(key, value, 0).await? {
            Ok(revision) => Ok(Created::New(revision)),
            Err(Some(entry)) => Ok(Created::Exists(entry)),
            Err(None) => Err(self.failed(&format!("create {key}"), "it came and went")),
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
        let txn = Txn::new()
            .when([Compare::mod_revision(full.clone(), CompareOp::Equal, was)])
            .and_then([TxnOp::put(full.clone(), value, None)])
            .or_else([TxnOp::get(full, None)]);
        let mut client = self.client.kv_client();
        let answer = self.bounded(&format!("write {key}"), client.txn(txn)).await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            return Ok(Ok(unsigned(revision)));
        }
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| self.entry(kv)),
            _ => None,
        });
        Ok(Err(found))
    }

    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let mut client = self.client.kv_client();
        let delete = client.delete(self.key(key)?, None::<DeleteOptions>);
        Ok(self.bounded(&format!("delete {key}"), delete).await?.deleted() > 0)
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

    async fn bounded<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(OPERATION_MAX, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(what, error)),
            Err(_) => {
                Err(self.failed(what, format!("no answer within {} s", OPERATION_MAX.as_secs())))
            }
        }
    }

    fn failed(&self, what: &str, error: impl ToString) -> StoreError {
        StoreError::Etcd {
            what: what.to_owned(),
            endpoints: self.endpoints.clone(),
            error: error.to_string(),
        }
    }
}

fn options(config: &EtcdConfig) -> io::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(OPERATION_MAX)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_ANSWER)
        .with_keep_alive_while_idle(true);
    if let Some(user) = &config.user {
        let password = match (&config.password, &config.password_file) {
            (Some(password), _) => password.clone(),
            (None, Some(file)) => fs::read_to_string(file)?.trim().to_owned(),
            (None, None) => String::new(),
        };
        options = options.with_user(user, password);
    }
    if let Some(tls) = &config.tls {
        let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(fs::read(&tls.ca)?));
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            with = with.identity(Identity::from_pem(fs::read(cert)?, fs::read(key)?));
        }
        if let Some(domain) = &tls.domain {
            with = with.domain_name(domain);
        }
        options = options.with_tls(with);
    }
    Ok(options)
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
fn range_end(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
