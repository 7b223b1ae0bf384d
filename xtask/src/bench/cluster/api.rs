//! As much of an API server as an agent asks of it: lists in pages or as a stream, watches, and writes
//! of its own records. A thread for each connection.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use serde_json::{Value, json};
use weft_core::view::{ack_key, claim_key, node_key, object_name};

use super::{Cluster, objects};
use crate::bench::scale;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Nodes,
    Namespaces,
    Policies,
    Networks,
    Records,
}

/// The revision of what was there before anything changed.
const MADE: u64 = 1000;

/// What the server is asked.
struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    metadata_only: bool,
    body: Vec<u8>,
}

pub struct Api {
    pub at: SocketAddr,
    world: Arc<World>,
}

struct World {
    asked: Sizes,
    revision: AtomicU64,
    records: Mutex<BTreeMap<String, Record>>,
    watches: Mutex<Vec<(Kind, Sender<Arc<str>>)>>,
}

pub type Sizes = &'static Cluster;

struct Record {
    key: String,
    value: String,
    revision: u64,
}

impl Api {
    pub fn start(asked: Sizes) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let world = Arc::new(World {
            asked,
            revision: AtomicU64::new(1_000_000),
            records: Mutex::new(records(asked)?),
            watches: Mutex::default(),
        });
        let serving = world.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let world = serving.clone();
                // A client that goes away is no matter.
                std::thread::spawn(move || drop(world.serve(&stream)));
            }
        });
        Ok(Self { at, world })
    }

    /// A pod ends, or another takes its place.
    pub fn pod(&self, n: u32, runs: bool) {
        let pod = objects::pod(self.world.asked, n, self.world.next(), runs);
        self.world.tell(Kind::Pods, "MODIFIED", &pod);
    }

    /// A node's block moves.
    pub fn peer(&self, n: u16, at: u16) {
        let key = format!("nodes/node-{n}");
        self.world.write(&object_name(&key), &key, &scale::record(n, at).to_string());
    }
}

/// What all nodes but the measured one have said: each has a block, and has seen everything.
fn records(asked: Sizes) -> anyhow::Result<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    let mut add = |key: String, value: Value| {
        let (name, value) = (object_name(&key), value.to_string());
        records.insert(name, Record { key, value, revision: MADE });
    };
    for n in 1..asked.nodes {
        let node = objects::node_name(u32::from(n)).parse()?;
        let block = ipnet::IpNet::new(scale::block(n).into(), 24)?;
        add(node_key(&node), scale::record(n, n));
        add(ack_key(&node), json!({"schema": 1, "revision": MADE}));
        let claim = json!({"schema": 1, "node": node, "boot": "bench"});
        add(claim_key(&"default".parse()?, &block), claim);
    }
    Ok(records)
}

impl World {
    fn now(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }
    fn next(&self) -> u64 {
        self.revision.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn tell(&self, kind: Kind, word: &str, object: &str) {
        let line: Arc<str> = event(word, object).into();
        lock(&self.watches).retain(|(of, watch)| *of != kind || watch.send(line.clone()).is_ok());
    }

    fn write(&self, name: &str, key: &str, value: &str) -> String {
        let mut records = lock(&self.records);
        let revision = self.next();
        let (key, value) = (key.to_owned(), value.to_owned());
        let object = objects::record(name, &key, &value, revision);
        let old = records.insert(name.to_owned(), Record { key, value, revision });
        self.tell(Kind::Records, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        object
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read(&mut reader)? {
            let kind = kind(&request.path);
            match (request.method.as_str(), kind) {
                ("GET", Some(kind)) if request.query.contains_key("watch") => {
                    return self.watch(stream, kind, &request);
                }
                ("GET", Some(kind)) => answer(stream, 200, &self.list(kind, &request))?,
                (_, Some(Kind::Records)) => {
                    let (code, body) = self.change(&request);
                    answer(stream, code, &body)?;
                }
                _ => answer(stream, 200, "{}")?,
            }
        }
        Ok(())
    }

    fn change(&self, request: &Request) -> (u16, String) {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let name = request.path.rsplit('/').next().unwrap_or_default();
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let spec = match request.method.as_str() {
            "POST" => &body["spec"],
            _ => &body[0]["value"],
        };
        let name = match request.method.as_str() {
            "POST" => text(&body["metadata"]["name"]),
            _ => name.to_owned(),
        };
        let there = lock(&self.records).contains_key(&name);
        match (request.method.as_str(), there) {
            ("POST", true) => (409, refusal(409, "AlreadyExists", &name)),
            ("PATCH", false) => (404, refusal(404, "NotFound", &name)),
            ("POST" | "PATCH", _) => {
                (200, self.write(&name, &text(&spec["key"]), &text(&spec["value"])))
            }
            _ => (200, "{}".into()),
        }
    }

    /// All objects from `from` on, at most so many, and how many there are.
    fn some(
        &self,
        kind: Kind,
        request: &Request,
        from: usize,
        most: usize,
    ) -> (Vec<String>, usize) {
        let asked = self.asked;
        let made = |count: u32, make: &dyn Fn(u32) -> String| {
            let count = count as usize;
            let range = from..count.min(from.saturating_add(most));
            (range.filter_map(|n| u32::try_from(n).ok()).map(make).collect(), count)
        };
        match kind {
            Kind::Pods => made(asked.pods, &|n| objects::pod(asked, n, MADE, true)),
            Kind::Nodes if request.query.contains_key("fieldSelector") => {
                made(1, &|n| objects::node(n, MADE))
            }
            Kind::Nodes if request.metadata_only => {
                made(asked.nodes.into(), &|n| objects::node_partial(n, MADE))
            }
            Kind::Nodes => made(asked.nodes.into(), &|n| objects::node(n, MADE)),
            Kind::Namespaces => made(asked.namespaces, &|n| objects::namespace_object(n, MADE)),
            Kind::Policies => match within(&request.path) {
                None => made(asked.policies, &|n| objects::policy(asked, n, MADE)),
                Some(namespace) => made(asked.policies / asked.namespaces, &|n| {
                    objects::policy(asked, n * asked.namespaces + namespace, MADE)
                }),
            },
            Kind::Networks => made(1, &|_| objects::network(MADE)),
            Kind::Records => {
                let records = lock(&self.records);
                let some = records.iter().skip(from).take(most).map(|(name, record)| {
                    objects::record(name, &record.key, &record.value, record.revision)
                });
                (some.collect(), records.len())
            }
        }
    }

    fn list(&self, kind: Kind, request: &Request) -> String {
        let number = |name: &str| request.query.get(name).and_then(|text| text.parse().ok());
        let (from, limit) =
            (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
        let (items, all) = self.some(kind, request, from, limit);
        let next = from + items.len();
        let more = if next < all { format!(r#","continue":"{next}""#) } else { String::new() };
        format!(
            r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"{}"{more}}},"items":[{}]}}"#,
            self.now(),
            items.join(",")
        )
    }

    fn watch(&self, stream: &TcpStream, kind: Kind, request: &Request) -> std::io::Result<()> {
        let listed = request.query.contains_key("sendInitialEvents");
        if listed && self.asked.pages {
            let status = refusal(422, "Invalid", "");
            return answer(stream, 422, &status);
        }
        let (watch, news): (_, Receiver<Arc<str>>) = channel();
        lock(&self.watches).push((kind, watch));
        (&*stream).write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        if listed {
            self.initial(stream, kind, request)?;
        }
        for line in news {
            chunk(stream, &line)?;
        }
        Ok(())
    }

    fn initial(&self, stream: &TcpStream, kind: Kind, request: &Request) -> std::io::Result<()> {
        const AT_ONCE: usize = 64;
        let mut from = 0;
        loop {
            let (some, all) = self.some(kind, request, from, AT_ONCE);
            from += some.len();
            let lines: String = some.iter().map(|object| event("ADDED", object)).collect();
            chunk(stream, &lines)?;
            if from >= all {
                break;
            }
        }
        let mark = json!({"metadata": {
            "resourceVersion": self.now().to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }});
        chunk(stream, &event("BOOKMARK", &mark.to_string()))
    }
}

fn event(word: &str, object: &str) -> String {
    format!("{{\"type\":\"{word}\",\"object\":{object}}}\n")
}

fn kind(path: &str) -> Option<Kind> {
    let words = path.split('/');
    let kinds = [
        ("pods", Kind::Pods),
        ("nodes", Kind::Nodes),
        ("networkpolicies", Kind::Policies),
        ("networks", Kind::Networks),
        ("records", Kind::Records),
    ];
    let mut found = words.filter_map(|word| kinds.iter().find(|(name, _)| *name == word));
    found
        .next()
        .map(|(_, kind)| *kind)
        .or((path == "/api/v1/namespaces").then_some(Kind::Namespaces))
}

/// The number of the namespace that is asked about.
fn within(path: &str) -> Option<u32> {
    let (_, rest) = path.split_once("/namespaces/ns-")?;
    rest.split('/').next()?.parse().ok()
}

fn refusal(code: u16, reason: &str, name: &str) -> String {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
        "reason": reason, "code": code, "details": {"name": name},
    })
    .to_string()
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (mut length, mut metadata_only) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        metadata_only |= line.starts_with("accept:") && line.contains("partialobjectmetadata");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path: path.to_owned(), query, metadata_only, body }))
}

fn answer(mut stream: &TcpStream, code: u16, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

fn chunk(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
