//! What an agent cannot do without: the pods' bytes received, and decoded into what is needed of them,
//! which is let go at once.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Deserialize;

const PAGE: usize = 500;

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow)]
    items: Vec<Pod<'a>>,
}
#[derive(Deserialize)]
struct ListMeta {
    r#continue: Option<String>,
}
#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    status: Status<'a>,
}
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}
#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, rename = "podIPs")]
    pod_ips: Vec<PodIp<'a>>,
}
#[derive(Deserialize)]
struct PodIp<'a> {
    #[serde(borrow)]
    ip: Cow<'a, str>,
}

pub struct Bare {
    pub pods: u32,
    pub kilobytes: u32,
    /// Of one core.
    pub time: Duration,
}

/// Lists all pods on a thread of its own, whose time is told.
pub fn bare(server: SocketAddr) -> anyhow::Result<Bare> {
    let work = std::thread::spawn(move || -> anyhow::Result<Bare> {
        let before = ran()?;
        let (pods, bytes) = list(server)?;
        let (pods, kilobytes) = (u32::try_from(pods)?, u32::try_from(bytes / 1000)?);
        Ok(Bare { pods, kilobytes, time: ran()?.saturating_sub(before) })
    });
    work.join().map_err(|_| anyhow::anyhow!("the bare reader panicked"))?
}

/// How long this thread ran.
fn ran() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split_whitespace().next().context("schedstat")?.parse()?))
}

fn list(server: SocketAddr) -> anyhow::Result<(usize, usize)> {
    let stream = TcpStream::connect(server)?;
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let (mut pods, mut bytes, mut token) = (0, 0, String::new());
    let mut body = Vec::new();
    loop {
        let path = format!("/api/v1/pods?limit={PAGE}&continue={token}");
        (&stream).write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        body.resize(length(&mut reader)?, 0);
        reader.read_exact(&mut body)?;
        let page: List<'_> = serde_json::from_slice(&body)?;
        bytes += body.len();
        let whole = page.items.iter().filter(|pod| {
            let has_addr = !pod.status.pod_ips.iter().any(|at| at.ip.contains(' '));
            has_addr && !pod.metadata.labels.is_empty() && !pod.metadata.name.is_empty()
        });
        pods += whole.count();
        match page.metadata.r#continue {
            Some(next) => token = next,
            None => return Ok((pods, bytes)),
        }
    }
}

/// Of the body that follows.
fn length(reader: &mut impl BufRead) -> anyhow::Result<usize> {
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the answer broke off");
        if line.trim().is_empty() {
            return length.context("an answer without a length");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
    }
}
