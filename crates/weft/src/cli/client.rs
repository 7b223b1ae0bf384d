//! Asks the agent over its control socket: HTTP/1.1, one request a connection.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;

const ANSWER_MAX: Duration = Duration::from_secs(30);

pub fn ask(socket: &Path, method: &str, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no agent answers at {}; is `weft agent` running on this node? \
             (--control or WEFT_CONTROL names another socket)",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the agent's answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the agent broke off its answer")?;
    let value: Value = serde_json::from_str(body)
        .or_else(|_| serde_json::from_str(&dechunked(body)))
        .unwrap_or_else(|_| Value::String(body.trim().to_owned()));
    if head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
        return Ok(value);
    }
    match value["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => bail!("{}", value.as_str().unwrap_or(head)),
    }
}

/// The body of a chunked answer.
fn dechunked(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, tail)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        let Some(chunk) = tail.get(..length).filter(|_| length > 0) else { break };
        whole.push_str(chunk);
        rest = tail.get(length + 2..).unwrap_or_default();
    }
    whole
}

/// Percent-encoding of a query's value.
pub fn quote(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}
