//! The fake server's HTTP: which request means what.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    How, Request, Shared, patch, watch,
    world::{Answer, Asked, World},
};

pub(super) async fn run(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let app = Router::new().fallback(answer).with_state(shared);
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    axum::serve(listener, app).await.unwrap();
}

/// A `Status`, as every refusal is one.
pub fn status(code: u16, reason: &str, message: &str, details: Value) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    patch::set(&mut status, "details", &details);
    status
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path_and_query().map_or_else(String::new, ToString::to_string);
    shared
        .requests
        .lock()
        .unwrap()
        .push(Request { method: method.to_string(), path: path.clone() });
    let _ = shared.frozen.subscribe().wait_for(|frozen| !frozen).await;
    let fault = shared.fault(method.as_str(), &path);
    if let Some(How::Status(code, status)) = &fault {
        return said(*code, status);
    }
    let wanted = shared.world.lock().unwrap().token.clone();
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some_and(|wanted| token != Some(&format!("Bearer {wanted}"))) {
        return said(401, &status(401, "Unauthorized", "Unauthorized", Value::Null));
    }
    let query = query(uri.query().unwrap_or_default());
    let Some(asked) = asked(uri.path()) else { return nothing() };
    if shared.world.lock().unwrap().is_withdrawn(&asked.collection) {
        return nothing();
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let metadata_only = accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"));
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let lost = matches!(fault, Some(How::Lost));
        return watch::stream(shared.clone(), asked, &query, metadata_only, lost).await;
    }
    let form = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let (code, mut object) = {
        let mut world = shared.world.lock().unwrap();
        let done = act(&mut world, &method, &asked, &query, (form.unwrap_or_default(), &body));
        shared.told(world.revision());
        done
    };
    if metadata_only {
        object = partial(object);
    }
    if matches!(fault, Some(How::Lost)) {
        let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("lost"))]);
        return Response::new(Body::from_stream(broken));
    }
    said(code, &object)
}

fn act(
    world: &mut World,
    method: &Method,
    asked: &Path,
    query: &BTreeMap<String, String>,
    (form, body): (&str, &[u8]),
) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let word = |name: &str| query.get(name).cloned().unwrap_or_default();
    let of = asked.asked();
    match (method, of.name) {
        (&Method::GET, "") => {
            let wanted = watch::Selector::new(query);
            let limit = word("limit").parse().unwrap_or(0);
            world.list(&of, limit, &word("continue"), |object| wanted.takes(object))
        }
        (&Method::GET, _) => world.fetch(&of),
        (&Method::POST, "") => world.create(&of, body),
        (&Method::PUT, _) => world.update(&of, true, |_| Ok(body)),
        (&Method::PATCH, _) => world.update(&of, false, |old| {
            // What a patch does not speak of is not compared.
            let mut unversioned = old.clone();
            patch::set(&mut unversioned["metadata"], "resourceVersion", &Value::Null);
            patch::apply(form, &unversioned, &body)
        }),
        (&Method::DELETE, _) => world.delete(&of, &body),
        _ => (
            405,
            status(405, "MethodNotAllowed", "the server does not allow this method", Value::Null),
        ),
    }
}

/// A request's path, taken apart.
pub struct Path {
    pub collection: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

impl Path {
    fn asked(&self) -> Asked<'_> {
        Asked {
            collection: &self.collection,
            namespace: &self.namespace,
            name: &self.name,
            subresource: &self.subresource,
        }
    }
}

/// `/api/v1/…` and `/apis/GROUP/VERSION/…`, then the kind, with or without a namespace before it.
fn asked(path: &str) -> Option<Path> {
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match *words.first()? {
        "api" => words.split_at_checked(2)?,
        "apis" => words.split_at_checked(3)?,
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest[0] != "status" => {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let word = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
    Some(Path {
        collection: format!("/{}/{}", group.join("/"), rest.first()?),
        namespace: namespace.to_owned(),
        name: word(1),
        subresource: word(2),
    })
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), unquote(value))).collect()
}

fn unquote(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = after.get(..2).filter(|_| *first == b'%');
        let coded =
            coded.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(coded.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if coded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}

/// Nothing but metadata, of one object or of a list.
pub fn partial(mut object: Value) -> Value {
    if let Some(items) = object["items"].as_array_mut() {
        items.iter_mut().for_each(|item| *item = partial(item.take()));
        if items.is_empty() {
            object["items"] = Value::Null;
        }
        object["kind"] = json!("PartialObjectMetadataList");
        object["apiVersion"] = json!("meta.k8s.io/v1");
        return object;
    }
    if object["kind"] == "Status" {
        return object;
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

pub fn said(code: u16, value: &Value) -> Response {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}

/// What a server says that has no such kind of object.
fn nothing() -> Response {
    Response::builder()
        .status(StatusCode::NOT_FOUND)
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Body::from("404 page not found\n"))
        .unwrap()
}

impl Shared {
    fn fault(&self, method: &str, path: &str) -> Option<How> {
        let mut faults = self.faults.lock().unwrap();
        let of = |fault: &super::Fault| fault.method == method && path.contains(&fault.path);
        let at = faults.next.iter().position(of)?;
        let fault = &mut faults.next[at];
        let how = fault.how.clone();
        fault.times -= 1;
        if fault.times == 0 {
            faults.next.remove(at);
        }
        Some(how)
    }
}
