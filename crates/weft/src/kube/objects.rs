//! Objects of the cluster as far as weft has use for them: all else is dropped while it is read. Texts
//! that many have in common are kept once. Nothing that somebody wrote can make reading a list fail.

use std::{
    borrow::{Borrow, Cow},
    collections::{BTreeMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, MutexGuard},
};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weft_core::{
    name::NodeName,
    policy::{
        cluster::{Labels, NamedPort, ObjectName, Pod},
        spec::{Direction, PolicySpec, Protocol},
    },
    selection,
};

use super::follow::{Followed, Meta};

/// Of a pod that is the shadow of a file on its node: the UID by which the runtime knows it.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Texts kept before those are looked for that nobody has any more.
const KEPT_LEAST: usize = 4096;

/// A pod: what policies ask, and which further networks it asks for.
#[derive(Clone, Debug)]
pub struct SeenPod {
    pub meta: Meta,
    pub name: ObjectName,
    pub pod: Pod,
    pub asks: Option<Box<Asks>>,
}

/// Annotations of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    pub networks: Option<String>,
    pub default_network: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SeenNamespace {
    pub meta: Meta,
    pub labels: Labels,
}

#[derive(Clone, Debug)]
pub struct SeenPolicy {
    pub meta: Meta,
    pub name: ObjectName,
    pub spec: PolicySpec,
    /// Why nothing of it could be read: it selects every pod of its namespace then, and opens nothing.
    pub unread: Option<String>,
}

impl Followed for SeenPod {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}
impl Followed for SeenNamespace {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}
impl Followed for SeenPolicy {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// Things of which there is one each.
struct Kept<T> {
    all: HashSet<T>,
    most: usize,
    /// True of one that nobody else has.
    unused: fn(&T) -> bool,
}

impl<T: Clone + Hash + Eq> Kept<T> {
    fn new(unused: fn(&T) -> bool) -> Mutex<Self> {
        Mutex::new(Self { all: HashSet::new(), most: KEPT_LEAST, unused })
    }

    /// The one that there is, or what `make` makes of it.
    fn one<Q: Hash + Eq + ?Sized, Of: Borrow<Q>>(&mut self, of: Of, make: fn(Of) -> T) -> T
    where
        T: Borrow<Q>,
    {
        if let Some(known) = self.all.get(of.borrow()) {
            return known.clone();
        }
        if self.all.len() >= self.most {
            let unused = self.unused;
            self.all.retain(|kept| !unused(kept));
            self.most = KEPT_LEAST.max(2 * self.all.len());
        }
        let new = make(of);
        self.all.insert(new.clone());
        new
    }
}

fn lock<T>(kept: &Mutex<Kept<T>>) -> MutexGuard<'_, Kept<T>> {
    kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The text, kept once however many have it.
fn text(of: &str) -> Arc<str> {
    static TEXTS: LazyLock<Mutex<Kept<Arc<str>>>> =
        LazyLock::new(|| Kept::new(|kept| Arc::strong_count(kept) == 1));
    lock(&TEXTS).one::<str, &str>(of, Arc::from)
}

/// Pods that one thing has made have the same labels.
fn labels_once(of: Labels) -> Arc<Labels> {
    static LABELS: LazyLock<Mutex<Kept<Arc<Labels>>>> =
        LazyLock::new(|| Kept::new(|kept| Arc::strong_count(kept) == 1));
    lock(&LABELS).one::<Labels, Labels>(of, Arc::new)
}

/// Nodes are few: none is let go.
fn node_once(name: &str) -> Option<NodeName> {
    static NODES: LazyLock<Mutex<Kept<NodeName>>> = LazyLock::new(|| Kept::new(|_| false));
    let name = name.parse().ok()?;
    Some(lock(&NODES).one::<NodeName, NodeName>(name, |name| name))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(default)]
    generation: i64,
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(borrow, default)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

impl Metadata<'_> {
    fn meta(&self) -> Meta {
        Meta {
            name: self.name.to_string(),
            namespace: Some(self.namespace.to_string()).filter(|name| !name.is_empty()),
            uid: self.uid.to_string(),
            resource_version: self.resource_version.to_string(),
            generation: self.generation,
        }
    }
    fn object_name(&self) -> ObjectName {
        ObjectName { namespace: text(&self.namespace), name: self.name.as_ref().into() }
    }
    fn labels(&self) -> Labels {
        let labels = self.labels.iter().flatten();
        labels.map(|(key, value)| (text(key), text(value))).collect()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        let found = self.annotations.as_ref()?.get(key)?;
        Some(found.as_ref()).filter(|text| !text.trim().is_empty())
    }
}

#[derive(Deserialize)]
struct PodObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: PodSpec<'a>,
    #[serde(borrow, default)]
    status: PodStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
    host_network: Option<bool>,
    #[serde(borrow)]
    containers: Option<Vec<Container<'a>>>,
    /// Those that run beside the others have ports too.
    #[serde(borrow)]
    init_containers: Option<Vec<Container<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container<'a> {
    #[serde(borrow)]
    ports: Option<Vec<ContainerPort<'a>>>,
    #[serde(borrow)]
    restart_policy: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(rename = "containerPort")]
    number: i64,
    #[serde(borrow)]
    protocol: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
    #[serde(rename = "podIPs", borrow)]
    pod_ips: Option<Vec<PodIp<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp<'a> {
    #[serde(borrow)]
    ip: Cow<'a, str>,
}

impl PodObject<'_> {
    fn addrs(&self) -> Vec<IpAddr> {
        let over = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if over || self.spec.host_network == Some(true) {
            return Vec::new();
        }
        let ips = self.status.pod_ips.iter().flatten();
        ips.filter_map(|at| at.ip.parse().ok()).collect()
    }

    fn ports(&self) -> Vec<NamedPort> {
        let aside =
            |container: &&Container<'_>| container.restart_policy.as_deref() == Some("Always");
        let aside = self.spec.init_containers.iter().flatten().filter(aside);
        let containers = self.spec.containers.iter().flatten().chain(aside);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        ports.filter_map(named).collect()
    }

    fn asks(&self) -> Option<Box<Asks>> {
        let networks = self.metadata.annotation(selection::NETWORKS).map(str::to_owned);
        let default_network =
            self.metadata.annotation(selection::DEFAULT_NETWORK).map(str::to_owned);
        let asks = Asks { networks, default_network };
        (asks != Asks::default()).then(|| Box::new(asks))
    }
}

fn named(port: &ContainerPort<'_>) -> Option<NamedPort> {
    let name = port.name.as_deref().filter(|name| !name.is_empty())?;
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP" | "") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    let port = u16::try_from(port.number).ok()?;
    Some(NamedPort { name: text(name), protocol, port })
}

impl<'de> Deserialize<'de> for SeenPod {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = PodObject::deserialize(from)?;
        let metadata = &object.metadata;
        let uid = metadata.annotation(MIRROR).unwrap_or(&metadata.uid);
        let pod = Pod {
            uid: uid.into(),
            labels: labels_once(metadata.labels()),
            addrs: object.addrs(),
            node: object.spec.node_name.as_deref().and_then(node_once),
            ports: object.ports(),
        };
        let (meta, name) = (metadata.meta(), metadata.object_name());
        Ok(Self { meta, name, pod, asks: object.asks() })
    }
}

#[derive(Deserialize)]
struct Labelled<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

impl<'de> Deserialize<'de> for SeenNamespace {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Labelled { metadata } = Labelled::deserialize(from)?;
        Ok(Self { meta: metadata.meta(), labels: metadata.labels() })
    }
}

#[derive(Deserialize)]
struct PolicyObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(default)]
    spec: Value,
}

impl<'de> Deserialize<'de> for SeenPolicy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let PolicyObject { metadata, spec } = PolicyObject::deserialize(from)?;
        let spec = if spec.is_null() { Value::Object(serde_json::Map::new()) } else { spec };
        let (spec, unread) = match serde_json::from_value(spec) {
            Ok(spec) => (spec, None),
            Err(error) => (closed(), Some(error.to_string())),
        };
        Ok(Self { meta: metadata.meta(), name: metadata.object_name(), spec, unread })
    }
}

/// Every pod of the namespace, and nothing that is open.
fn closed() -> PolicySpec {
    PolicySpec {
        policy_types: vec![Direction::Ingress, Direction::Egress],
        ..PolicySpec::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: for<'a> Deserialize<'a>>(object: &Value) -> T {
        // As a list has it: borrowed from the text, and with what must be escaped.
        serde_json::from_str(&object.to_string()).unwrap()
    }

    #[test]
    fn of_a_pod_only_what_counts_is_kept() {
        let object = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "resourceVersion": "7",
                "labels": {"app": "web", "quoted": "a\"b"},
                "annotations": {selection::NETWORKS: " ", "other": "x", selection::DEFAULT_NETWORK: "blue"},
                "managedFields": [{"manager": "kubectl"}], "ownerReferences": []},
            "spec": {"nodeName": "node-a", "containers": [
                {"name": "c", "image": "i", "ports": [
                    {"name": "http", "containerPort": 80}, {"containerPort": 81},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "odd", "containerPort": 70000}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"name": "no", "containerPort": 1}]},
                    {"name": "aside", "restartPolicy": "Always",
                     "ports": [{"name": "side", "containerPort": 9, "protocol": "SCTP"}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}, {"ip": "?"}]},
        });
        let pod: SeenPod = read(&object);
        assert_eq!((pod.name.to_string(), pod.meta.revision()), ("ns/p".into(), 7));
        assert_eq!(pod.pod.addrs, ["10.1.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let ports: Vec<_> = pod.pod.ports.iter().map(|p| (&*p.name, p.port, p.protocol)).collect();
        let expected =
            [("http", 80, Protocol::Tcp), ("dns", 53, Protocol::Udp), ("side", 9, Protocol::Sctp)];
        assert_eq!(ports, expected);
        assert_eq!(pod.pod.labels.get("quoted").map(|value| &**value), Some("a\"b"));
        let asks = pod.asks.clone().unwrap();
        assert_eq!((asks.networks, asks.default_network.as_deref()), (None, Some("blue")));
        // What others have as well is kept once.
        let again: SeenPod = read(&object);
        assert!(Arc::ptr_eq(&pod.pod.labels, &again.pod.labels));
        assert!(Arc::ptr_eq(&pod.name.namespace, &again.name.namespace));
    }

    #[test]
    fn a_pod_has_addresses_of_its_own_only_while_it_runs_and_is_not_the_nodes() {
        let addrs = |spec: Value, phase: &str| {
            let status = json!({"phase": phase, "podIPs": [{"ip": "10.1.0.2"}]});
            let pod: SeenPod =
                read(&json!({"metadata": {"name": "p"}, "spec": spec, "status": status}));
            pod.pod.addrs.len()
        };
        assert_eq!(addrs(json!({}), "Running"), 1);
        assert_eq!(addrs(json!({"hostNetwork": true}), "Running"), 0);
        assert_eq!(addrs(json!({}), "Succeeded") + addrs(json!({}), "Failed"), 0);
        let bare: SeenPod = read(&json!({"metadata": {"name": "p", "labels": null}}));
        assert!(bare.pod.addrs.is_empty() && bare.pod.node.is_none() && bare.asks.is_none());
    }

    #[test]
    fn a_shadow_has_the_uid_of_what_casts_it() {
        let metadata = json!({"name": "p", "uid": "api", "annotations": {MIRROR: "file"}});
        let pod: SeenPod = read(&json!({"metadata": metadata}));
        assert_eq!((&*pod.pod.uid, pod.meta.uid.as_str()), ("file", "api"));
    }

    #[test]
    fn a_policy_that_can_not_be_read_opens_nothing() {
        let policy = |spec: Value| {
            read::<SeenPolicy>(&json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
        };
        assert_eq!(policy(json!({"podSelector": {}})).unread, None);
        let bad =
            policy(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}));
        assert_eq!(bad.spec, closed());
        assert!(bad.unread.unwrap().contains("unknown variant `Is`"));
    }

    #[test]
    fn what_nobody_has_any_more_is_let_go() {
        let mut kept =
            Kept::<Arc<str>>::new(|kept| Arc::strong_count(kept) == 1).into_inner().unwrap();
        let mut one = |of: &str| kept.one::<str, &str>(of, Arc::from);
        let held = one("held");
        for n in 0..3 * KEPT_LEAST {
            one(n.to_string().as_str());
        }
        assert!(Arc::ptr_eq(&held, &one("held")));
        assert!(kept.all.len() <= 2 * KEPT_LEAST);
    }
}
