//! Where the cluster's records are kept. A store knows keys, values and the order of changes;
//! what they mean is core's. One folder each.

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod file;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(test)]
pub mod model;

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Changes that a listener may lag behind before the store waits for it.
pub const EVENTS_MAX: usize = 1024;
/// How long one operation may take.
pub const OPERATION_MAX: Duration = Duration::from_secs(5);

/// The `store` of the agent's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreConfig {
    File(FileConfig),
    Etcd(EtcdConfig),
    Kubernetes(KubernetesConfig),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileConfig {
    pub dir: PathBuf,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesConfig {
    /// None: the service account of the pod that this runs in.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    #[serde(default)]
    pub pod_cidrs: PodCidrs,
}

/// What the blocks that the controller manager gives each Node (`podCIDRs`) are to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodCidrs {
    /// This node's blocks of the default network, if they lie in its ranges and Nodes have any.
    #[default]
    Auto,
    /// This node's blocks, and nothing else is.
    Required,
    /// Nothing.
    Ignored,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    #[serde(default = "prefix")]
    pub prefix: String,
    #[serde(default)]
    pub tls: Option<Tls>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// What is written for debugging goes to logs, a password does not.
impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("password_file", &self.password_file)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    pub ca: PathBuf,
    #[serde(default)]
    pub cert: Option<PathBuf>,
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The name in the servers' certificate, where it is not the endpoint's.
    #[serde(default)]
    pub domain: Option<String>,
}

fn prefix() -> String {
    "/weft".into()
}

/// One record. The revision is store-wide, and of this key's last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All there is. Comes before any change, and again whenever changes may have been missed.
    Snapshot {
        entries: Vec<Entry>,
        revision: u64,
    },
    Put(Entry),
    Delete {
        key: String,
        revision: u64,
    },
    Away {
        why: String,
    },
    Back,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    New(u64),
    Exists(Entry),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    Done(u64),
    /// Somebody else changed it meanwhile; this is what stands there now.
    Conflict(Option<Entry>),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{what} in the store directory {dir}: {error}")]
    File { what: String, dir: PathBuf, error: std::io::Error },
    #[error("key {0:?}: a key is words of a-z, 0-9, `.`, `:` and `-` with `/` between")]
    Key(String),
    #[error("{what} at etcd {endpoints}: {error}")]
    Etcd { what: String, endpoints: String, error: String },
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    Kubernetes(#[from] crate::kube::KubeError),
    #[error("key {key:?} can't be written: {why}")]
    Value { key: String, why: String },
    #[error("this build has no store `{0}`: use a release, or build with `--features {0}`{1}")]
    NotBuilt(&'static str, &'static str),
}

#[derive(Clone)]
pub enum Store {
    File(file::FileStore),
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::EtcdStore>),
    #[cfg(feature = "kubernetes")]
    Kubernetes(kubernetes::KubernetesStore),
    #[cfg(test)]
    Model(model::ModelStore),
}

macro_rules! each {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::File($store) => $call,
            #[cfg(feature = "etcd")]
            Self::Etcd($store) => $call,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes($store) => $call,
            #[cfg(test)]
            Self::Model($store) => $call,
        }
    };
}

impl Store {
    /// The store, where it is the API server.
    #[cfg(feature = "kubernetes")]
    pub fn kubernetes(&self) -> Option<&kubernetes::KubernetesStore> {
        match self {
            Self::Kubernetes(store) => Some(store),
            _ => None,
        }
    }

    #[cfg_attr(not(any(feature = "etcd", feature = "kubernetes")), allow(clippy::unused_async))]
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        match config {
            StoreConfig::File(config) => Ok(Self::File(file::FileStore::open(&config.dir))),
            #[cfg(feature = "etcd")]
            StoreConfig::Etcd(config) => {
                etcd::EtcdStore::open(config).await.map(|store| Self::Etcd(Box::new(store)))
            }
            #[cfg(not(feature = "etcd"))]
            StoreConfig::Etcd(_) => {
                Err(StoreError::NotBuilt("etcd", " (needs protobuf-compiler and libprotobuf-dev)"))
            }
            #[cfg(feature = "kubernetes")]
            StoreConfig::Kubernetes(config) => {
                kubernetes::KubernetesStore::open(config).await.map(Self::Kubernetes)
            }
            #[cfg(not(feature = "kubernetes"))]
            StoreConfig::Kubernetes(_) => Err(StoreError::NotBuilt("kubernetes", "")),
        }
    }

    pub async fn list(&self) -> Result<(Vec<Entry>, u64), StoreError> {
        each!(self, store => store.list().await)
    }
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        each!(self, store => store.get(key).await)
    }
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        each!(self, store => store.put(key, value).await)
    }
    /// Writes it if nothing stands there.
    pub async fn create(&self, key: &str, value: Vec<u8>) -> Result<Created, StoreError> {
        each!(self, store => store.create(key, value).await)
    }
    /// Writes it if what stands there still has revision `was`.
    pub async fn replace(
        &self,
        key: &str,
        value: Vec<u8>,
        was: u64,
    ) -> Result<Replaced, StoreError> {
        each!(self, store => store.replace(key, value, was).await)
    }
    /// True if something was removed.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        each!(self, store => store.delete(key).await)
    }
    /// Removes it if what stands there still has revision `was`. True if it did.
    pub async fn delete_if(&self, key: &str, was: u64) -> Result<bool, StoreError> {
        each!(self, store => store.delete_if(key, was).await)
    }
    /// Changes in the order of their revisions, after a snapshot.
    pub fn watch(&self) -> mpsc::Receiver<Event> {
        let (events, listener) = mpsc::channel(EVENTS_MAX);
        each!(self, store => store.clone().watch(events));
        listener
    }
}

/// Keys become paths in one store and end behind a prefix in another.
fn check_key(key: &str) -> Result<(), StoreError> {
    let word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b':' | b'-'))
    };
    if key.split('/').all(word) { Ok(()) } else { Err(StoreError::Key(key.to_owned())) }
}
