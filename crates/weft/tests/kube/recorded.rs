//! The fake API server answers as Kubernetes 1.36 did, request by request. Recorded of a
//! kube-apiserver with weft's definitions; left out is who set which field.

use axum::http::{
    Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value;

use super::fake::FakeApi;

/// The first record that was written then had the revision after this.
const BEFORE: u64 = 434;
const RECORDS: &str = "/apis/weft.network/v1/records";

#[tokio::test(flavor = "multi_thread")]
async fn the_fake_server_says_what_the_real_one_said() {
    let api = FakeApi::start_at(BEFORE);
    api.withdraw("/apis/weft.network/v1/nothings", true);
    let steps: Vec<Value> = serde_json::from_str(include_str!("recorded.json")).unwrap();
    let mut token = String::new();
    for step in &steps {
        let what = step["what"].as_str().unwrap();
        let (code, text) = ask(&api, step, &token).await;
        assert_eq!(u64::from(code), step["code"].as_u64().unwrap(), "{what}: {text}");
        let answer = match &step["answer"] {
            Value::Array(_) => {
                text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
            }
            Value::String(_) => Value::from(text.trim_end()),
            _ => serde_json::from_str(&text).unwrap(),
        };
        if let Some(next) = answer["metadata"]["continue"].as_str() {
            token = next.to_owned();
        }
        assert_eq!(alike(answer), alike(step["answer"].clone()), "{what}");
    }
    // A word too little would be as wrong as a wrong one.
    assert_eq!(api.all(RECORDS).len(), 2);
}

async fn ask(api: &FakeApi, step: &Value, token: &str) -> (u16, String) {
    let text = |of: &str| step[of].as_str();
    let path = text("path").unwrap().replace("TOKEN", token);
    let mut request = Request::builder().method(text("method").unwrap()).uri(path);
    for (header, of) in [(ACCEPT, "accept"), (CONTENT_TYPE, "type")] {
        if let Some(value) = text(of) {
            request = request.header(header, value);
        }
    }
    let body =
        if step["body"].is_null() { Vec::new() } else { step["body"].to_string().into_bytes() };
    let client = kube::Client::try_from(kube::Config::new(api.url().parse().unwrap())).unwrap();
    let answer = client.send(request.body(body.into()).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let body = axum::body::Body::new(answer.into_body());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

/// What differs from run to run is left out, and how a server words what only people read.
fn alike(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for own in ["uid", "creationTimestamp", "remainingItemCount", "continue", "causes"] {
                fields.remove(own);
            }
            // The real one says `Record` where it says it of the precondition alone.
            if let Some(Value::String(kind)) = fields.get_mut("kind") {
                kind.to_lowercase().trim_end_matches('s').clone_into(kind);
            }
            if let Some(Value::String(said)) = fields.get_mut("message") {
                said.truncate(20);
                *said = said.to_lowercase().replace(|c: char| c.is_ascii_digit(), "");
            }
            fields.values_mut().for_each(|field| *field = alike(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = alike(item.take())),
        _ => {}
    }
    value
}
