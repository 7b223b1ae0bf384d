//! Policies, namespaces and pods as files of a directory, written as Kubernetes writes them: for clusters
//! without it. A file that can't be read leaves what it said before in force: for an agent that never
//! read it, what the agent before wrote, so nothing counts as listed until each was read once.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use serde::Deserialize;
use serde_json::Value;
use weft_core::policy::{
    cluster::{Labels, NamedPort, ObjectName, Pod},
    spec::{PolicySpec, Protocol},
};

use super::{super::Agent, Said};

const RETRY: Duration = Duration::from_millis(500);

#[derive(Clone, PartialEq)]
enum Object {
    Namespace(Labels),
    Pod(Pod),
    Policy(PolicySpec),
}

/// By kind, since one of each may have the same name.
type Objects = BTreeMap<(&'static str, ObjectName), Object>;

pub(super) fn spawn(agent: &Arc<Agent>, dir: PathBuf) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("policy-files".into()).spawn(move || {
        let mut files = BTreeMap::new();
        let mut told = Objects::new();
        loop {
            if let Err(error) = follow(&agent, &dir, &mut files, &mut told) {
                tracing::warn!(error = format!("{error:#}"), dir = %dir.display(), "policies can't be read");
                std::thread::sleep(RETRY);
            }
        }
    })?;
    Ok(())
}

fn follow(
    agent: &Agent,
    dir: &Path,
    files: &mut BTreeMap<PathBuf, Objects>,
    told: &mut Objects,
) -> anyhow::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(dir, changes).context("watch")?;
    loop {
        let read = read(dir, files)?;
        tell(agent, files, told, read);
        let mut ready = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, nix::poll::PollTimeout::NONE)?;
        let events = inotify.read_events()?;
        let gone = AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_MOVE_SELF;
        if events.iter().any(|event| event.mask.intersects(gone)) {
            bail!("the directory is gone, or another is in its place");
        }
    }
}

struct Read {
    /// False if of some file it is not known what it says or said.
    whole: bool,
    unread: Vec<String>,
}

fn read(dir: &Path, files: &mut BTreeMap<PathBuf, Objects>) -> anyhow::Result<Read> {
    let mut there = BTreeMap::new();
    let mut read = Read { whole: true, unread: Vec::new() };
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|k| kind == *k))
        {
            continue;
        }
        match text(&path).and_then(|text| objects(&text)) {
            Ok(objects) => _ = there.insert(path, objects),
            Err(error) => {
                let known = files.remove_entry(&path);
                read.whole &= known.is_some();
                let stands = if known.is_some() { "; what it said before stands" } else { "" };
                read.unread.push(format!("{}: {error:#}{stands}", path.display()));
                there.extend(known);
            }
        }
    }
    *files = there;
    Ok(read)
}

/// One that is no file, such as a FIFO, could keep its reader for good.
fn text(path: &Path) -> anyhow::Result<String> {
    anyhow::ensure!(fs::metadata(path)?.is_file(), "it is no regular file");
    Ok(fs::read_to_string(path)?)
}

fn tell(agent: &Agent, files: &BTreeMap<PathBuf, Objects>, told: &mut Objects, read: Read) {
    let Some(policies) = &agent.policies else { return };
    let now: Objects = files.values().flatten().map(|(key, o)| (key.clone(), o.clone())).collect();
    policies.hear(agent, |said| {
        for ((_, name), was) in told.iter().filter(|(key, _)| !now.contains_key(*key)) {
            was.forget(said, name);
        }
        for (key, object) in now.iter().filter(|(key, object)| told.get(*key) != Some(*object)) {
            object.clone().say(said, &key.1);
        }
        // A file that comes later and says nothing takes nothing back.
        if read.whole {
            said.listed();
        }
        said.unread(read.unread);
    });
    *told = now;
}

impl Object {
    fn say(self, said: &mut Said, name: &ObjectName) {
        match self {
            Self::Namespace(labels) => said.namespace(&name.name, Some(labels)),
            Self::Pod(pod) => said.pod(name, Some(pod)),
            Self::Policy(spec) => said.policy(name, Some(spec)),
        }
    }

    fn forget(&self, said: &mut Said, name: &ObjectName) {
        match self {
            Self::Namespace(_) => said.namespace(&name.name, None),
            Self::Pod(_) => said.pod(name, None),
            Self::Policy(_) => said.policy(name, None),
        }
    }
}

fn objects(text: &str) -> anyhow::Result<Objects> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML")?;
    documents.into_iter().filter(|document| !document.is_null()).map(object).collect()
}

#[derive(Deserialize)]
struct Written {
    kind: String,
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: Arc<str>,
    #[serde(default = "default_namespace")]
    namespace: Arc<str>,
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: std::net::IpAddr,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<weft_core::name::NodeName>,
    containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<Exposed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exposed {
    #[serde(default)]
    name: Option<Arc<str>>,
    container_port: u16,
    #[serde(default)]
    protocol: Protocol,
}

fn default_namespace() -> Arc<str> {
    "default".into()
}

fn object(document: Value) -> anyhow::Result<((&'static str, ObjectName), Object)> {
    let Written { kind, metadata, spec, status } = serde_json::from_value(document)?;
    let Metadata { name, namespace, uid, labels } = metadata;
    let what = || format!("{kind} {namespace}/{name}");
    Ok(match kind.as_str() {
        "Namespace" => {
            (("Namespace", ObjectName { namespace: "".into(), name }), Object::Namespace(labels))
        }
        "NetworkPolicy" => {
            only_known(&spec).with_context(what)?;
            let spec = serde_json::from_value(spec).with_context(what)?;
            (("NetworkPolicy", ObjectName { namespace, name }), Object::Policy(spec))
        }
        "Pod" => {
            let spec: PodSpec = serde_json::from_value(spec).with_context(what)?;
            let ports = spec.containers.into_iter().flat_map(|container| container.ports);
            let named = |port: Exposed| {
                let Exposed { name, container_port, protocol } = port;
                name.map(|name| NamedPort { name, protocol, port: container_port })
            };
            let pod = Pod {
                uid,
                labels: Arc::new(labels),
                addrs: status.pod_ips.into_iter().map(|at| at.ip).collect(),
                node: spec.node_name,
                ports: ports.filter_map(named).collect(),
            };
            (("Pod", ObjectName { namespace, name }), Object::Pod(pod))
        }
        _ => bail!("{}: only Namespace, Pod and NetworkPolicy are read", what()),
    })
}

/// A field that is misspelt would open more than is meant. Deeper ones are refused where they are read.
fn only_known(spec: &Value) -> anyhow::Result<()> {
    only(spec, "spec", &["podSelector", "policyTypes", "ingress", "egress"])?;
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (n, rule) in spec[rules].as_array().into_iter().flatten().enumerate() {
            only(rule, &format!("spec.{rules}[{n}]"), &[peers, "ports"])?;
        }
    }
    Ok(())
}

fn only(value: &Value, path: &str, fields: &[&str]) -> anyhow::Result<()> {
    let all = value.as_object().into_iter().flat_map(serde_json::Map::keys);
    match all.into_iter().find(|field| !fields.contains(&field.as_str())) {
        Some(unknown) => bail!("unknown field {path}.{unknown}; there are {}", fields.join(", ")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_never_understood_keeps_the_list_from_being_whole() {
        let dir = std::env::temp_dir().join(format!("weft-policies-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let namespace = "{kind: Namespace, metadata: {name: lab}}";
        let policy = "{kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}";
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).unwrap();
        let mut files = BTreeMap::new();
        let mut read = || {
            let Read { whole, unread } = read(&dir, &mut files).unwrap();
            (whole, files.values().flatten().count(), unread.join("; "))
        };
        write("ns.yaml", namespace);
        write("policy.yaml", "kind: [");
        write("README", "no object");
        let (whole, count, why) = read();
        assert_eq!((whole, count), (false, 1), "it may have said that a pod is closed");
        assert!(why.contains("policy.yaml: not YAML"), "{why}");
        write("policy.yaml", policy);
        assert_eq!(read(), (true, 2, String::new()));
        write("policy.yaml", "kind: [");
        let (whole, count, why) = read();
        assert_eq!((whole, count), (true, 2), "what it said stays");
        assert!(why.ends_with("; what it said before stands"), "{why}");
        fs::remove_file(dir.join("policy.yaml")).unwrap();
        assert_eq!(read(), (true, 1, String::new()));
        // Nobody will ever write into it.
        nix::unistd::mkfifo(&dir.join("pipe.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(read().2.contains("pipe.yaml: it is no regular file"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_misspelt_field_opens_nothing() {
        let read = |spec: &str| {
            let text = format!("{{kind: NetworkPolicy, metadata: {{name: p}}, spec: {spec}}}");
            objects(&text).map_err(|error| format!("{error:#}"))
        };
        for (spec, said) in [
            ("{podselector: {}}", "unknown field spec.podselector"),
            ("{podSelector: {matchlabels: {a: b}}}", "unknown field `matchlabels`"),
            ("{podSelector: {}, ingress: [{form: []}]}", "unknown field spec.ingress[0].form"),
            ("{podSelector: {}, egress: [{}, {from: []}]}", "unknown field spec.egress[1].from"),
        ] {
            let why = read(spec).err().unwrap();
            assert!(why.contains(said), "{spec}: {why}");
        }
        // An entry that can't be read is nobody, and the rest of the policy stands.
        let block = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, excpt: [10.1.0.0/16]}}]}]}";
        let objects = read(block).unwrap();
        let Some(Object::Policy(spec)) = objects.values().next() else { panic!("{block}") };
        let why = spec.ingress[0].from[0].unreadable.as_deref().unwrap();
        assert!(why.contains("excpt") && spec.ingress[0].from[0].ip_block.is_none(), "{why}");
    }
}
