//! The ways to etcd: one connection per endpoint, made when first needed. Work goes to the endpoint
//! that last answered; from one that fails it goes on to the next. A connection that failed is
//! dropped, and its successor reads files and password anew and logs in anew: certificates,
//! passwords and tokens may change under a running agent. What is asked is not known here.

use std::{
    collections::BTreeMap,
    error::Error as _,
    future::Future,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, Error};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{EtcdConfig, OPERATION_MAX, StoreError, options};

/// How long one of several endpoints may take before the next is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// Before asking again what etcd could not do just now: it elects a leader, as a rule.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Endpoints {
    config: EtcdConfig,
    ways: Vec<Way>,
    /// The endpoint that is asked first.
    first: AtomicUsize,
}

#[derive(Default)]
struct Way {
    connection: Mutex<Connection>,
    /// Something was answered since it was made.
    proven: AtomicBool,
}

#[derive(Default)]
struct Connection {
    client: Option<Client>,
    /// Clients made so far: tells the one that failed from its successor.
    made: u64,
}

/// What one endpoint said instead of an answer.
struct Refusal {
    why: String,
    then: Then,
    /// Of which client.
    made: Option<u64>,
}

#[derive(PartialEq, Eq)]
enum Then {
    /// Every endpoint would say the same.
    Stop,
    /// This one is of no use.
    Next,
    /// Etcd works, but not just now.
    Wait,
    /// Our login is no longer good.
    Login,
}

impl Endpoints {
    /// Touches no network: an etcd that is away is no reason not to start.
    pub(super) async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        options::check(config).map_err(|bad| failed(config, "connect", bad))?;
        for endpoint in &config.endpoints {
            let options = options::read(config)
                .map_err(|error| failed(config, "connect", error.to_string()))?;
            let made = Client::connect([endpoint], Some(options)).await;
            made.map_err(|error| failed(config, &options::made_of(config), say(&error)))?;
        }
        let ways = config.endpoints.iter().map(|_| Way::default()).collect();
        Ok(Self { config: config.clone(), ways, first: AtomicUsize::new(0) })
    }

    pub(super) fn several(&self) -> bool {
        self.ways.len() > 1
    }

    pub(super) fn failed(&self, what: &str, error: impl ToString) -> StoreError {
        failed(&self.config, what, error.to_string())
    }

    /// Has it done within `OPERATION_MAX`, by whichever endpoint can. It may be done twice, where
    /// the first answer was lost.
    pub(super) async fn ask<T, Work>(
        &self,
        what: &str,
        work: impl Fn(Client) -> Work,
    ) -> Result<T, StoreError>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + OPERATION_MAX;
        let mut said = BTreeMap::new();
        let (mut logins, mut wait) = (0, false);
        for tries in 1.. {
            let at = self.first.load(Ordering::Relaxed) % self.ways.len();
            let refusal = match self.ask_one(at, end, &work).await {
                Ok(done) => {
                    self.ways[at].proven.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(refusal) => refusal,
            };
            said.insert(at, self.doubted(at, refusal.why));
            wait |= refusal.then == Then::Wait;
            if refusal.then == Then::Login {
                logins += 1;
                wait |= logins == 1;
            }
            let stop = refusal.then == Then::Stop;
            if !stop {
                self.leave(at, refusal.made);
            }
            let round = tries % self.ways.len() == 0;
            if stop || Instant::now() >= end || (round && !wait) {
                break;
            }
            if round {
                tokio::time::sleep(PAUSE).await;
                wait = false;
            }
        }
        Err(self.failed(what, self.list(&said)))
    }

    async fn ask_one<T, Work>(
        &self,
        at: usize,
        end: Instant,
        work: impl Fn(Client) -> Work,
    ) -> Result<T, Refusal>
    where
        Work: Future<Output = Result<T, Error>>,
    {
        let most = if self.several() { ATTEMPT_MAX } else { OPERATION_MAX };
        let end = end.min(Instant::now() + most);
        let left = || end.saturating_duration_since(Instant::now());
        let silent = |made| Refusal {
            why: format!("no answer within {} s", most.as_secs()),
            then: Then::Next,
            made,
        };
        let (made, client) = timeout(left(), self.client(at)).await.map_err(|_| silent(None))??;
        match timeout(left(), work(client)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Refusal { made: Some(made), ..refusal(&error) }),
            Err(_) => Err(silent(Some(made))),
        }
    }

    /// Logs in if need be; others wait for that rather than log in beside.
    async fn client(&self, at: usize) -> Result<(u64, Client), Refusal> {
        let mut way = self.ways[at].connection.lock().await;
        if let Some(client) = &way.client {
            return Ok((way.made, client.clone()));
        }
        let stop = |why| Refusal { why, then: Then::Stop, made: None };
        let user = options::user(&self.config).map_err(|error| stop(error.to_string()))?;
        let options = options::read(&self.config).map_err(|error| stop(error.to_string()))?;
        let options = match user {
            Some((user, password)) => {
                options.with_user(user, password).with_auto_token_refresh(true)
            }
            None => options,
        };
        let client = Client::connect([&self.config.endpoints[at]], Some(options))
            .await
            .map_err(|error| refusal(&error))?;
        way.client = Some(client.clone());
        way.made += 1;
        Ok((way.made, client))
    }

    /// Others may have left it already, and have made a new connection to it.
    fn leave(&self, at: usize, made: Option<u64>) {
        let next = (at + 1) % self.ways.len();
        let _ = self.first.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        // Where it is being made anew, there is nothing left to drop.
        if let Ok(mut way) = self.ways[at].connection.try_lock()
            && Some(way.made) == made
        {
            way.client = None;
            self.ways[at].proven.store(false, Ordering::Relaxed);
        }
    }

    /// With what may be behind it: a server that does not like how it is spoken to hangs up.
    fn doubted(&self, at: usize, why: String) -> String {
        const HUNG_UP: [&str; 6] = [
            "connection closed",
            "connection reset",
            "fatal alert",
            "broken pipe",
            "reset by peer",
            "http2 error",
        ];
        let hung_up = HUNG_UP.iter().any(|word| why.to_lowercase().contains(word));
        if !hung_up || self.ways[at].proven.load(Ordering::Relaxed) {
            return why;
        }
        match self.config.tls.as_ref().map(|tls| &tls.cert) {
            None => format!("{why}: if this etcd wants TLS, write https:// and set store.etcd.tls"),
            Some(None) => format!(
                "{why}: if this etcd wants a client's certificate, set store.etcd.tls.cert and key"
            ),
            Some(Some(cert)) => format!(
                "{why}: does this etcd accept the client's certificate {}, and is it still valid?",
                cert.display()
            ),
        }
    }

    fn list(&self, said: &BTreeMap<usize, String>) -> String {
        if !self.several() {
            return said.values().cloned().collect();
        }
        let each = said.iter().map(|(at, why)| format!("{}: {why}", self.config.endpoints[*at]));
        each.collect::<Vec<_>>().join("; ")
    }
}

fn failed(config: &EtcdConfig, what: &str, error: String) -> StoreError {
    let endpoints = config.endpoints.iter().map(|endpoint| options::shown(endpoint));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    StoreError::Etcd { what: what.to_owned(), endpoints, error }
}

fn refusal(error: &Error) -> Refusal {
    const UNAVAILABLE: i32 = 14;
    const UNAUTHENTICATED: i32 = 16;
    let then = match error {
        Error::GRpcStatus(status) => {
            let message = status.message();
            match status.code() as i32 {
                _ if message.contains("auth store is old") => Then::Login,
                UNAUTHENTICATED => Then::Login,
                // What is not etcd's own word is the connection's.
                _ if !message.starts_with("etcdserver:") => Then::Next,
                UNAVAILABLE => Then::Wait,
                _ if message.contains("too many requests") => Then::Wait,
                _ => Then::Stop,
            }
        }
        // A watch is refused in its stream: so is one with an old login.
        Error::WatchError(why) if why.contains("permission denied") => Then::Login,
        Error::WatchError(why) if why.contains("auth token") => Then::Login,
        _ => Then::Next,
    };
    Refusal { why: say(error), then, made: None }
}

/// The error with its cause, without the layers between; and what to do, where only an operator can.
pub(super) fn say(error: &Error) -> String {
    let (text, mut cause) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        Error::TransportError(error) => (error.to_string(), error.source()),
        Error::WatchError(why) => (why.clone(), None),
        _ => (error.to_string(), None),
    };
    let mut innermost = String::new();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    let said = match innermost.as_str() {
        "" => text,
        inner if text.contains(inner) => text,
        inner if text.is_empty() => inner.to_owned(),
        inner => format!("{text}: {inner}"),
    };
    match advice(&said) {
        Some(advice) => format!("{said}: {advice}"),
        None => said,
    }
}

fn advice(said: &str) -> Option<&'static str> {
    const ADVICE: [(&str, &str); 3] = [
        (
            "database space exceeded",
            "etcd is full and takes no writes; compact it (`etcdctl compact REVISION`), \
             `etcdctl defrag` every member, then `etcdctl alarm disarm`",
        ),
        ("user name is empty", "this etcd wants a login; set store.etcd.user and password"),
        (
            "authentication is not enabled",
            "this etcd has no logins; leave out store.etcd.user and password",
        ),
    ];
    ADVICE.iter().find(|(of, _)| said.contains(of)).map(|(_, advice)| *advice)
}
