//! The way to the API server, from a kubeconfig or as the service account of this pod. A token in a
//! file is read again each minute (kube does so), a kubeconfig when its credential was refused.
//! What is asked is not known here.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::{
    Client, Config, Error,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::watches::Watches;
use crate::store::{KubernetesConfig, OPERATION_MAX};

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// A connection on which nothing comes for so long is gone. Watches hear a bookmark each minute.
const SILENT_MAX: Duration = Duration::from_secs(150);
/// Before asking again what the server could not do just now; doubles, with jitter.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the API server refused, or why it could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what} at the API server {server}: {why}")]
pub struct KubeError {
    pub what: String,
    pub server: String,
    pub why: String,
    /// The server's own status (HTTP), where it answered.
    pub code: Option<u16>,
    /// It is about one object.
    pub object: bool,
}

impl KubeError {
    /// There is no such object; the server knows its kind.
    pub fn is_missing_object(&self) -> bool {
        self.code == Some(404) && self.object
    }
    pub fn is_conflict(&self) -> bool {
        self.code == Some(409)
    }
    /// What was asked for is older than what the server still knows.
    pub fn is_expired(&self) -> bool {
        self.code == Some(410)
    }
}

/// The API server, as this process may use it. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    kubeconfig: Option<PathBuf>,
    url: String,
    client: Mutex<Client>,
    /// The credential was refused: it is to be read anew.
    refused: AtomicBool,
    watches: Watches,
}

impl ApiServer {
    /// Touches no network: a server that is away is no reason not to start.
    pub async fn open(config: &KubernetesConfig) -> Result<Self, KubeError> {
        let kubeconfig = config.kubeconfig.clone();
        let config = read(kubeconfig.as_deref()).await?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|error| unread(kubeconfig.as_deref(), &error))?;
        let (client, refused) = (Mutex::new(client), AtomicBool::new(false));
        let watches = Watches::default();
        Ok(Self(Arc::new(Inner { kubeconfig, url, client, refused, watches })))
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// How well what it says is heard.
    pub fn watches(&self) -> &Watches {
        &self.0.watches
    }

    /// For work of one's own: `failed` is to be told what comes of it.
    pub async fn client(&self) -> Client {
        let mut client = self.0.client.lock().await;
        if self.0.refused.swap(false, Ordering::Relaxed)
            && let Ok(config) = read(self.0.kubeconfig.as_deref()).await
            && let Ok(anew) = Client::try_from(config)
        {
            *client = anew;
        }
        client.clone()
    }

    /// Says what the error means and what to do. A credential that was refused is read anew next time.
    pub fn failed(&self, what: &str, error: &Error) -> KubeError {
        let code = code(error);
        if code == Some(401) {
            self.0.refused.store(true, Ordering::Relaxed);
        }
        let why = say(error, self.0.kubeconfig.as_deref());
        KubeError { code, object: of_object(error), ..self.refusal(what, why) }
    }

    /// Has it done within `OPERATION_MAX`, again where the server could not just now. It may be done
    /// twice, where the first answer was lost.
    pub async fn ask<T, Work>(
        &self,
        what: &str,
        work: impl Fn(Client) -> Work,
    ) -> Result<T, KubeError>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        self.ask_within(OPERATION_MAX, what, work).await
    }

    /// The same, where one answer may take longer: a page of a large collection.
    pub async fn ask_within<T, Work>(
        &self,
        most: Duration,
        what: &str,
        work: impl Fn(Client) -> Work,
    ) -> Result<T, KubeError>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + OPERATION_MAX;
        let mut pause = PAUSE_FIRST;
        loop {
            let left =
                end.saturating_duration_since(Instant::now()) + most.saturating_sub(OPERATION_MAX);
            let error = match timeout(left, work(self.client().await)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.silent(what, most)),
            };
            let wait = jitter(pause);
            if !passes(&error) || Instant::now() + wait >= end {
                return Err(self.failed(what, &error));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    pub(super) fn silent(&self, what: &str, most: Duration) -> KubeError {
        self.refusal(what, format!("no answer within {} s", most.as_secs()))
    }

    /// What is wrong by our own judgement.
    pub fn refusal(&self, what: &str, why: String) -> KubeError {
        let (what, server) = (what.to_owned(), self.0.url.clone());
        KubeError { what, server, why, code: None, object: false }
    }
}

/// Between half of it and all of it, so that many who failed together do not ask together.
pub fn jitter(of: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    // Each `RandomState` hashes with keys of its own.
    let random = RandomState::new().hash_one(()) % 1000;
    of / 2 + of / 2 * u32::try_from(random).unwrap_or(0) / 1000
}

async fn read(kubeconfig: Option<&Path>) -> Result<Config, KubeError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| unread(kubeconfig, &error))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(read, &options).await;
            config.map_err(|error| unread(kubeconfig, &error))?
        }
        None => Config::incluster().map_err(|error| unread(None, &error))?,
    };
    config.connect_timeout = Some(CONNECT_MAX);
    config.read_timeout = Some(SILENT_MAX);
    config.reset_reader_on_write = true;
    // `ask` does so itself, within its bound.
    config.default_retry = false;
    Ok(config)
}

fn unread(kubeconfig: Option<&Path>, error: &(dyn std::error::Error + 'static)) -> KubeError {
    let (what, advice) = match kubeconfig {
        Some(path) => (
            format!("read the kubeconfig {}", path.display()),
            "it must name a current context with its cluster and user, and be readable for weft",
        ),
        None => (
            "read the service account of this pod".into(),
            "outside a pod set store.kubernetes.kubeconfig; inside one \
             automountServiceAccountToken must not be false",
        ),
    };
    let why = format!("{}: {advice}", with_cause(error));
    KubeError { what, server: "(not known yet)".into(), why, code: None, object: false }
}

/// The server's own status, where it answered.
fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The server names the object that it speaks of.
fn of_object(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.details.as_ref().is_some_and(|of| !of.name.is_empty()),
        _ => false,
    }
}

/// True of what may be otherwise in a moment.
fn passes(error: &Error) -> bool {
    match error {
        // An answer of 500 names what failed behind the API server, such as its etcd.
        Error::Api(status) => matches!(status.code, 429 | 500 | 502 | 503 | 504),
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// The error with its innermost cause; and what to do, where only an operator can.
pub fn say(error: &Error, kubeconfig: Option<&Path>) -> String {
    let credential = || match kubeconfig {
        Some(path) => format!("renew the kubeconfig {}", path.display()),
        None => "restart this pod, whose service account may have been made anew".into(),
    };
    let Error::Api(status) = error else {
        let said = with_cause(error);
        return match advice(&said) {
            Some(advice) => format!("{said}: {advice}"),
            None => said,
        };
    };
    match status.code {
        401 => format!(
            "the credential was refused (401 Unauthorized): it has expired or is not of this \
             cluster; {}",
            credential()
        ),
        403 => format!(
            "{} (403 Forbidden): give weft's role this right; the manifest of this version has it",
            status.message
        ),
        404 if !of_object(error) => {
            "the server has no such resource (404): install weft's resource definitions, \
             `weft crds | kubectl apply -f -`"
                .into()
        }
        code => format!("{} ({code} {})", status.message, status.reason),
    }
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let mut innermost = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    match innermost.as_str() {
        "" => text,
        inner if text.contains(inner) => text,
        // What kube calls the layer says nothing to an operator.
        inner if matches!(text.split(':').next(), Some("ServiceError" | "HyperError")) => {
            inner.to_owned()
        }
        inner => format!("{text}: {inner}"),
    }
}

fn advice(said: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 5] = [
        (
            "UnknownIssuer",
            "the CA of the kubeconfig is not that of this server: get its present one",
        ),
        ("NotValidForName", "the server's certificate is for another name"),
        ("certificate expired", "the server's certificate has expired"),
        ("Connection refused", "is the API server running, and is this its address?"),
        ("failed to lookup address", "the server's name is not known here"),
    ];
    ADVICE.iter().find(|(of, _)| said.contains(of)).map(|(_, advice)| *advice)
}
