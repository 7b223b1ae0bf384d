//! Following one kind of object: a list, then every change since. After a break it goes on where it was,
//! by the last revision heard; only what the server no longer knows is listed anew, at a time that
//! differs from node to node. Nothing polls. What the objects mean is not known here.

mod list;
mod present;
mod read;
mod watch;

use axum::http::{Request, header::ACCEPT};
use serde::{Deserialize, de::DeserializeOwned};

pub use list::{few, list};
pub use present::Present;
pub use read::Unread;
pub use watch::follow;

/// What is followed: a collection, or what a selector leaves of it.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Such as `/api/v1/nodes` or `/apis/weft.network/v1/records`.
    pub path: String,
    /// `fieldSelector`, such as `metadata.name=node-a`.
    pub fields: Option<String>,
    /// Nothing but `metadata` is asked for.
    pub metadata_only: bool,
}

impl Collection {
    pub fn all(path: &str) -> Self {
        Self { path: path.to_owned(), fields: None, metadata_only: false }
    }
    pub fn named(path: &str, name: &str) -> Self {
        Self { fields: Some(format!("metadata.name={name}")), ..Self::all(path) }
    }
    pub fn metadata(path: &str) -> Self {
        Self { metadata_only: true, ..Self::all(path) }
    }
}

/// Of an object's metadata, what every follower needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    pub namespace: Option<String>,
    pub uid: String,
    pub resource_version: String,
    /// Grows with each change of what is wanted (`spec`).
    pub generation: i64,
}

impl Meta {
    /// Revisions of one kind of object are numbers that grow (Kubernetes 1.35 and later promise
    /// it, etcd always did it). 0: none.
    pub fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }

    /// As people name it.
    pub fn label(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// An object that can be followed.
pub trait Followed: DeserializeOwned + Clone + Send + 'static {
    fn meta(&self) -> &Meta;
}

/// An object of which nothing else counts.
#[derive(Clone, Debug, Deserialize)]
pub struct Bare {
    pub metadata: Meta,
}
impl Followed for Bare {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What a follower tells.
#[derive(Clone, Debug)]
pub enum Told<T> {
    /// Some of what there is. All of it comes so before any change, and again where changes may have
    /// been missed.
    Page(Page<T>),
    Put(T),
    /// As it was last, with the revision at which it went: before that of the last page, if it went while
    /// a list came.
    Gone(T),
    /// Everything up to this revision was told.
    At(u64),
    Away {
        why: String,
    },
    Back,
}

/// A part of a list. Kept by nobody who does not need all of it at once.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub objects: Vec<T>,
    /// A list begins with it; one that has begun before has broken off.
    pub first: bool,
    /// It is the last, and everything up to this revision was told.
    pub last: Option<u64>,
}

/// Pages put together, for whom nothing less than all will do.
#[derive(Debug)]
pub struct Whole<T>(Vec<T>);

impl<T> Default for Whole<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Whole<T> {
    /// Everything, and of which revision, with the last page.
    pub fn add(&mut self, page: Page<T>) -> Option<(Vec<T>, u64)> {
        if page.first {
            self.0.clear();
        }
        self.0.extend(page.objects);
        page.last.map(|revision| (std::mem::take(&mut self.0), revision))
    }
}

fn request(
    of: &Collection,
    query: &[(&str, String)],
    metadata: &str,
) -> Result<Request<Vec<u8>>, kube::Error> {
    let fields = of.fields.iter().map(|fields| ("fieldSelector", fields.clone()));
    let query = query.iter().cloned().chain(fields).filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={}", crate::cli::client::quote(&value)))
        .collect();
    let accept = if of.metadata_only {
        format!("application/json;as={metadata};g=meta.k8s.io;v=v1,application/json")
    } else {
        "application/json".into()
    };
    Request::get(format!("{}?{}", of.path, query.join("&")))
        .header(ACCEPT, accept)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)
}
