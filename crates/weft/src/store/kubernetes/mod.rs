//! The API server of Kubernetes as the store: networks are objects that users write (`Network`),
//! every other record is a `Record`. Records are one resource, so that their changes have one order;
//! by that order views are acknowledged. A network's own revision counts for nothing but
//! compare-and-swap: in lists and watches it carries the records' (decision 0017).

mod object;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::http::{Request, header::CONTENT_TYPE};
use kube::Client;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

pub use object::{GROUP, KIND_LABEL, NETWORKS, NetworkObject, RECORDS, VERSION};
pub use weft_core::view::object_name as name;

use self::object::{NETWORK, Record};
use super::{Created, Entry, Event, KubernetesConfig, Replaced, StoreError, check_key};
use crate::kube::{
    ApiServer, KubeError,
    follow::{Collection, Meta, list},
};

/// Times that a write is tried which others keep getting before.
const TRIES_MAX: usize = 16;

#[derive(Clone)]
pub struct KubernetesStore {
    server: ApiServer,
    /// Networks as objects, as last heard by whoever watches.
    networks: Arc<tokio::sync::watch::Sender<Networks>>,
}

/// By key.
pub type Networks = Arc<BTreeMap<String, NetworkObject>>;

impl KubernetesStore {
    /// Touches no network: a server that is away is no reason not to start.
    pub async fn open(config: &KubernetesConfig) -> Result<Self, StoreError> {
        Ok(Self { server: ApiServer::open(config).await?, networks: Arc::default() })
    }

    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Networks as users wrote them, with what was said of them; heard while somebody watches.
    pub fn networks(&self) -> tokio::sync::watch::Receiver<Networks> {
        self.networks.subscribe()
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        // Networks first: a record is never of a network that a list lacks.
        let (networks, _) = list::<NetworkObject>(&self.server, &Collection::all(NETWORKS)).await?;
        let (records, revision) = list::<Record>(&self.server, &Collection::all(RECORDS)).await?;
        let networks = networks.iter().map(|network| network.entry(revision));
        let records = records.into_iter().filter_map(Record::entry);
        Ok((networks.chain(records).collect(), revision))
    }

    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        if network(key).is_some() {
            let found = self.fetch::<NetworkObject>(key).await?;
            return Ok(found.map(|network| network.entry(network.metadata.revision())));
        }
        match self.fetch::<Record>(key).await? {
            Some(found) if found.spec.key != key => {
                let why = format!("its object is of key {:?}: delete it", found.spec.key);
                Err(self.server.refusal(&format!("get {key}"), why).into())
            }
            found => Ok(found.and_then(Record::entry)),
        }
    }

    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        let spec = spec_of(key, &value)?;
        for _ in 0..TRIES_MAX {
            match self.write(key, &spec, None).await.0 {
                Ok(written) => return Ok(written.metadata.revision()),
                Err(error) if error.is_missing_object() => {}
                // Another wrote it in between.
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error.into()),
            }
            if let Created::New(revision) = self.create(key, value.clone()).await? {
                return Ok(revision);
            }
        }
        Err(self.busy("put", key))
    }

    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        let object = object_of(key, &spec_of(key, &value)?);
        let (what, path) = (format!("create {key}"), collection(key));
        for _ in 0..TRIES_MAX {
            let (created, again) = self.send(&what, "POST", path, JSON, &object).await;
            match created {
                Ok(created) => return Ok(Created::New(created.metadata.revision())),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
            match self.get(key).await? {
                // The first try was done, and its answer was lost.
                Some(entry) if again && same(key, &entry.value, &value) => {
                    return Ok(Created::New(entry.revision));
                }
                Some(entry) => return Ok(Created::Exists(entry)),
                // Deleted in between.
                None => {}
            }
        }
        Err(self.busy("create", key))
    }

    pub async fn replace(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Replaced, StoreError> {
        let (written, again) = self.write(key, &spec_of(key, &value)?, Some(was)).await;
        match written {
            Ok(written) => return Ok(Replaced::Done(written.metadata.revision())),
            Err(error) if error.is_conflict() || error.is_missing_object() => {}
            Err(error) => return Err(error.into()),
        }
        match self.get(key).await? {
            // The first try was done, and its answer was lost.
            Some(entry) if again && same(key, &entry.value, &value) => {
                Ok(Replaced::Done(entry.revision))
            }
            found => Ok(Replaced::Conflict(found)),
        }
    }

    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.remove(key, &json!({})).await
    }

    pub async fn delete_if(&self, key: &str, was: u64) -> Result<bool, StoreError> {
        self.remove(key, &json!({"preconditions": {"resourceVersion": was.to_string()}})).await
    }

    pub fn watch(self, events: mpsc::Sender<Event>) {
        tokio::spawn(watch::run(self, events));
    }

    async fn remove(&self, key: &str, options: &Value) -> Result<bool, StoreError> {
        check_key(key)?;
        let what = format!("delete {key}");
        match self.send(&what, "DELETE", &path(key), JSON, options).await {
            (Ok(_), _) => Ok(true),
            // The first try was done, and its answer was lost.
            (Err(error), again) if error.is_missing_object() => Ok(again),
            (Err(error), _) if error.is_conflict() => Ok(false),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Writes over what stands there.
    async fn write(&self, key: &str, spec: &Value, was: Option<u64>) -> Sent {
        let mut patch = vec![
            json!({"op": "add", "path": "/spec", "value": spec}),
            // Who set which field is kept for appliers of parts, and would double every record.
            json!({"op": "add", "path": "/metadata/managedFields", "value": [{}]}),
        ];
        patch.extend(was.map(|was| {
            let path = "/metadata/resourceVersion";
            json!({"op": "add", "path": path, "value": was.to_string()})
        }));
        let what = format!("write {key}");
        self.send(&what, "PATCH", &path(key), JSON_PATCH, &Value::from(patch)).await
    }

    /// What came of it, and whether it was tried more than once.
    async fn send(&self, what: &str, method: &str, path: &str, form: &str, body: &Value) -> Sent {
        let tries = AtomicUsize::new(0);
        let body = body.to_string().into_bytes();
        let work = |client: Client| {
            tries.fetch_add(1, Ordering::Relaxed);
            let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, form);
            let request = request.body(body.clone()).map_err(kube::Error::HttpError);
            async move { client.request::<Written>(request?).await }
        };
        let sent = self.server.ask(what, work).await;
        (sent, tries.into_inner() > 1)
    }

    async fn fetch<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let get = |client: Client| {
            let request = Request::get(path(key)).body(Vec::new()).map_err(kube::Error::HttpError);
            async move { client.request::<T>(request?).await }
        };
        match self.server.ask(&format!("get {key}"), get).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing_object() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn busy(&self, what: &str, key: &str) -> StoreError {
        let why = format!("others kept changing it, {TRIES_MAX} times");
        self.server.refusal(&format!("{what} {key}"), why).into()
    }
}

type Sent = (Result<Written, KubeError>, bool);

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";

/// What a write is answered with, as far as it counts. The answer to a delete may have nothing of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    metadata: Meta,
}

/// The network that a key is of.
fn network(key: &str) -> Option<&str> {
    key.strip_prefix(NETWORK).filter(|name| !name.contains('/'))
}

/// True of what the store keeps its records in.
pub fn is_ours(collection: &str) -> bool {
    [NETWORKS, RECORDS].contains(&collection)
}

fn collection(key: &str) -> &'static str {
    if network(key).is_some() { NETWORKS } else { RECORDS }
}

fn path(key: &str) -> String {
    match network(key) {
        Some(name) => format!("{NETWORKS}/{name}"),
        None => format!("{RECORDS}/{}", name(key)),
    }
}

fn spec_of(key: &str, value: &[u8]) -> Result<Value, StoreError> {
    check_key(key)?;
    let bad = |why: &str| StoreError::Value { key: key.to_owned(), why: why.to_owned() };
    if network(key).is_none() {
        let value = std::str::from_utf8(value).map_err(|_| bad("it is not a text"))?;
        return Ok(json!({"key": key, "value": value}));
    }
    match serde_json::from_slice(value) {
        Ok(Value::Object(spec)) => Ok(Value::Object(without_nulls(spec))),
        _ => Err(bad("a network is a JSON object")),
    }
}

/// Where nothing is said the server wants nothing, not `null`.
fn without_nulls(spec: Map<String, Value>) -> Map<String, Value> {
    let said = spec.into_iter().filter(|(_, value)| !value.is_null());
    let said = said.map(|(field, value)| match value {
        Value::Object(value) => (field, Value::Object(without_nulls(value))),
        value => (field, value),
    });
    said.collect()
}

fn object_of(key: &str, spec: &Value) -> Value {
    let kind = key.split('/').next().unwrap_or_default();
    let (kind, metadata) = match network(key) {
        Some(name) => ("Network", json!({"name": name})),
        None => ("Record", json!({"name": name(key), "labels": {KIND_LABEL: kind}})),
    };
    let version = format!("{GROUP}/{VERSION}");
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// True if what stands there is what was to be written. Of a network the server keeps the meaning, not
/// the text.
fn same(key: &str, found: &[u8], value: &[u8]) -> bool {
    let spec = |value: &[u8]| spec_of(key, value).ok();
    found == value || network(key).is_some() && spec(found) == spec(value)
}
