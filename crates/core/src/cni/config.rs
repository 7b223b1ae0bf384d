//! The rules for the configuration on standard input (spec, sections 1 and 3; CONVENTIONS.md).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    AddResult, CniError, Code,
    environment::{WORD, is_word},
};
use crate::{
    bandwidth::{Bandwidth, LEAST_RATE, Limit},
    name::{BadName, Mac, NetworkName},
    policy::spec::Protocol,
    ports::PortMapping,
    selection::{self, Element},
};

/// What is weft's own, beside the spec's keys.
const OURS: [&str; 4] = ["network", "networks", "socket", "agentWait"];
/// Capabilities that are acted on (CONVENTIONS.md, "Dynamic plugin specific fields").
const CAPABILITIES: [&str; 4] = ["bandwidth", "ips", "mac", "portMappings"];
/// The spec's keys that need no word: acted on, or meant for the runtime.
const STANDARD: [&str; 13] = [
    "args",
    "capabilities",
    "cniVersion",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "dns",
    "ipam",
    "loadOnlyInlinedPlugins",
    "name",
    "prevResult",
    "runtimeConfig",
    "type",
];

pub(super) struct Config(Map<String, Value>);

fn invalid(what: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, "invalid network configuration", what)
}
fn undecodable(what: impl Into<String>) -> CniError {
    let msg = "the network configuration on standard input can't be read";
    CniError::new(Code::Decode, msg, what)
}

impl Config {
    pub(super) fn read(text: &str) -> Result<Self, CniError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(config)) if config.contains_key("plugins") => Err(invalid(
                "this is a list (`plugins`): a runtime passes one plugin's configuration of it",
            )),
            Ok(Value::Object(config)) => Ok(Self(config)),
            Ok(other) => Err(undecodable(format!("{}, not a JSON object", kind(&other)))),
            Err(error) => Err(undecodable(format!("not JSON: {error}"))),
        }
    }

    /// JSON's `null` is what an empty Go value may look like: as good as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn version_said(&self) -> Result<Option<String>, CniError> {
        match self.get("cniVersion") {
            None => Ok(None),
            Some(Value::String(said)) => Ok(Some(said.clone()).filter(|said| !said.is_empty())),
            Some(other) => Err(undecodable(format!("`cniVersion` {other} is not a string"))),
        }
    }

    pub(super) fn name(&self) -> Result<String, CniError> {
        match self.get("name") {
            None => Err(invalid("there is no `name`")),
            Some(Value::String(name)) if is_word(name) => Ok(name.clone()),
            Some(other) => Err(invalid(format!("`name` {other}: {WORD}"))),
        }
    }

    pub(super) fn network(&self) -> Result<Option<NetworkName>, CniError> {
        match self.get("network") {
            None => Ok(None),
            Some(Value::String(name)) => {
                name.parse().map(Some).map_err(|bad: BadName| invalid(format!("`network`: {bad}")))
            }
            Some(other) => Err(invalid(format!("`network` {other} is not a name"))),
        }
    }

    /// Further networks for the same pod, as the annotation of Kubernetes lists them.
    pub(super) fn networks(&self) -> Result<Vec<Element>, CniError> {
        let bad = |what: String| invalid(format!("`networks`: {what}"));
        let elements = match self.get("networks") {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => selection::read(text),
            Some(list) => selection::read(&list.to_string()),
        };
        let elements = elements.map_err(|why| bad(why.to_string()))?;
        match elements.iter().find(|element| element.namespace.is_some()) {
            Some(element) => Err(bad(format!(
                "{element}: a network of weft's is in no namespace; those are NetworkAttachmentDefinitions'"
            ))),
            None => Ok(elements),
        }
    }

    /// Keys that nobody reads. Runtimes may add some, so they are only said; but one that looks
    /// like a key of ours is taken for it and refused: the pod would land in another network.
    pub(super) fn unread(&self) -> Result<Vec<String>, CniError> {
        let known = |key: &str| {
            OURS.contains(&key) || STANDARD.contains(&key) || key.starts_with("cni.dev/")
        };
        let mut warnings = Vec::new();
        for (key, value) in self.0.iter().filter(|(key, _)| !known(key)) {
            if let Some(meant) = OURS.iter().find(|own| distance(key, own) <= TYPING_ERRORS) {
                return Err(CniError::new(
                    Code::UnsupportedField,
                    format!("unknown field `{key}`: {value}"),
                    format!("is `{meant}` meant? weft-cni's own fields are {}", OURS.join(", ")),
                ));
            }
            warnings.push(format!("`{key}` in the configuration is not read by weft-cni"));
        }
        warnings.extend(self.unread_capabilities());
        Ok(warnings)
    }

    pub(super) fn refuse_ipam(&self) -> Result<(), CniError> {
        match self.get("ipam") {
            Some(ipam) if ipam.as_object().is_none_or(|ipam| !ipam.is_empty()) => {
                Err(CniError::new(
                    Code::UnsupportedField,
                    format!("unsupported field `ipam`: {ipam}"),
                    "weft leases addresses itself, from the network's ranges: remove `ipam`",
                ))
            }
            _ => Ok(()),
        }
    }

    /// What goes into the result as it stands.
    pub(super) fn dns(&self) -> Result<Value, CniError> {
        let Some(dns) = self.get("dns") else { return Ok(Value::Null) };
        let fields = dns.as_object().ok_or_else(|| invalid(format!("`dns` {dns} is no object")))?;
        for (key, value) in fields {
            let texts = || value.as_array().is_some_and(|all| all.iter().all(Value::is_string));
            let right = match key.as_str() {
                "nameservers" | "search" | "options" => value.is_null() || texts(),
                "domain" => value.is_null() || value.is_string(),
                _ => true,
            };
            if !right {
                return Err(invalid(format!("`dns.{key}` {value}: the spec wants strings")));
            }
        }
        Ok(dns.clone())
    }

    pub(super) fn prev_result(&self) -> Result<Option<AddResult>, CniError> {
        self.get("prevResult").map(AddResult::parse).transpose()
    }

    /// The capability `ips`, else the same by the older way `args.cni.ips`.
    pub(super) fn ips(&self) -> Result<Option<Vec<IpAddr>>, CniError> {
        let runtime = self.runtime_config("ips")?.map(|ips| ("runtimeConfig.ips", ips));
        let args = self.get("args").map(|args| &args["cni"]["ips"]).filter(|ips| !ips.is_null());
        let Some((path, ips)) = runtime.or(args.map(|ips| ("args.cni.ips", ips))) else {
            return Ok(None);
        };
        let bad = |what: String| invalid(format!("`{path}`: {what}"));
        let list = ips.as_array().ok_or_else(|| bad(format!("{ips} is not a list")))?;
        let mut asked = Vec::new();
        for ip in list {
            let text = ip.as_str().ok_or_else(|| bad(format!("{ip} is not a string")))?;
            let ip = address(text).map_err(bad)?;
            if !asked.contains(&ip) {
                asked.push(ip);
            }
        }
        Ok(Some(asked))
    }

    /// The capability `mac`.
    pub(super) fn mac(&self) -> Result<Option<Mac>, CniError> {
        let Some(value) = self.runtime_config("mac")? else { return Ok(None) };
        let bad = |what| invalid(format!("`runtimeConfig.mac`: {what}"));
        match value.as_str() {
            Some("") => Ok(None),
            Some(text) => mac(text).map(Some).map_err(bad),
            None => Err(bad(format!("{value} is not a string"))),
        }
    }

    /// The capability `portMappings`: what has no port of the node's asks for nothing.
    pub(super) fn ports(&self) -> Result<Vec<PortMapping>, CniError> {
        let Some(value) = self.runtime_config("portMappings")? else { return Ok(Vec::new()) };
        let bad = |what: String| invalid(format!("`runtimeConfig.portMappings`: {what}"));
        let list = value.as_array().ok_or_else(|| bad(format!("{value} is not a list")))?;
        let mut ports: Vec<PortMapping> = Vec::new();
        for given in list {
            let Some(port) = port(given).map_err(bad)? else { continue };
            if let Some(other) = ports.iter().find(|other| other.meets(&port)) {
                if *other == port {
                    continue;
                }
                return Err(bad(format!("{port} and {other} are asked for by one pod")));
            }
            ports.push(port);
        }
        Ok(ports)
    }

    /// The capability `bandwidth`, in bits and bits a second; zero is no limit.
    pub(super) fn bandwidth(&self) -> Result<Option<Bandwidth>, CniError> {
        let Some(value) = self.runtime_config("bandwidth")? else { return Ok(None) };
        let bad = |what: String| invalid(format!("`runtimeConfig.bandwidth`: {what}"));
        if !value.is_object() {
            return Err(bad(format!("{value} is no object")));
        }
        let number = |key: &str| match field(value, key) {
            Value::Null => Ok(0),
            given => {
                given.as_u64().ok_or_else(|| bad(format!("`{key}` {given} is no number of bits")))
            }
        };
        let limit = |way: &str| {
            let (rate, burst) = (format!("{way}Rate"), format!("{way}Burst"));
            let (bits, burst) = (number(&rate)?, number(&burst)?);
            match Limit::of_bits(bits, burst) {
                None if bits > 0 => {
                    let why = format!("less than {LEAST_RATE} bits a second are refused");
                    Err(bad(format!("`{rate}` {bits}: {why}")))
                }
                limit => Ok(limit),
            }
        };
        let asked = Bandwidth { ingress: limit("ingress")?, egress: limit("egress")? };
        Ok(Some(asked).filter(|asked| *asked != Bandwidth::default()))
    }

    /// Capabilities that a runtime passes and nobody reads.
    fn unread_capabilities(&self) -> Vec<String> {
        let Some(Value::Object(all)) = self.get("runtimeConfig") else { return Vec::new() };
        let unread = all.keys().filter(|key| !CAPABILITIES.contains(&key.as_str()));
        unread.map(|key| format!("`runtimeConfig.{key}` is not read by weft-cni")).collect()
    }

    fn runtime_config(&self, capability: &str) -> Result<Option<&Value>, CniError> {
        match self.get("runtimeConfig") {
            None => Ok(None),
            Some(Value::Object(all)) => Ok(all.get(capability).filter(|value| !value.is_null())),
            Some(other) => Err(invalid(format!("`runtimeConfig` {other} is no object"))),
        }
    }

    /// GC: container and interface of every attachment that lives. The key must be there, for
    /// nothing is freed on a guess; `null` under it is an empty Go list.
    pub(super) fn valid_attachments(&self) -> Result<Vec<(String, String)>, CniError> {
        const KEY: &str = "cni.dev/valid-attachments";
        // Runtimes built before the spec's own text was corrected say it so.
        const OLD: &str = "cni.dev/attachments";
        let list = match self.0.get(KEY).or_else(|| self.0.get(OLD)) {
            None => {
                return Err(invalid(format!("GC without `{KEY}`: nothing is freed on a guess")));
            }
            Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(invalid(format!("`{KEY}` {other} is not a list"))),
        };
        let entry = |entry: &Value| {
            let (container, ifname) = (entry["containerID"].as_str()?, entry["ifname"].as_str()?);
            Some((container.to_owned(), ifname.to_owned()))
        };
        let bad = |given| invalid(format!("`{KEY}`: {given} lacks containerID or ifname"));
        list.iter().map(|given| entry(given).ok_or_else(|| bad(given))).collect()
    }
}

/// A field of what a runtime passes: containerd writes its names as Go does, with a capital.
fn field<'a>(of: &'a Value, key: &str) -> &'a Value {
    let fields = of.as_object().into_iter().flatten();
    let mut named = fields.filter(|(name, _)| name.eq_ignore_ascii_case(key));
    named.next().map_or(&Value::Null, |(_, value)| value)
}

/// One of the capability `portMappings`. Go's empty values are nothing.
fn port(given: &Value) -> Result<Option<PortMapping>, String> {
    let number = |key: &str| match field(given, key) {
        Value::Null => Ok(0),
        value => value.as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
            format!("`{key}` {value} of {given} is no port, which is a number up to 65535")
        }),
    };
    if !given.is_object() {
        return Err(format!("{given} is no object"));
    }
    let (host_port, container_port) = (number("hostPort")?, number("containerPort")?);
    let text = |key: &str| match field(given, key) {
        Value::Null => Ok(""),
        value => value.as_str().ok_or_else(|| format!("`{key}` {value} is not a string")),
    };
    let protocol = match text("protocol")?.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(format!("`protocol` {other:?}: one of tcp, udp, sctp")),
    };
    let host_ip = match text("hostIP")? {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("`hostIP` {text:?} is not an address"))?),
    };
    match (host_port, container_port) {
        (0, _) => Ok(None),
        (_, 0) => Err(format!("{given} names no `containerPort`")),
        _ => Ok(Some(PortMapping { host_port, container_port, protocol, host_ip })),
    }
}

/// With or without a prefix; the network's own is used.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()));
    bare.ok_or_else(|| format!("{text:?} is not an address"))
}

pub(crate) fn mac(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|bad: BadName| bad.to_string())?;
    if mac.is_unicast() { Ok(mac) } else { Err(format!("{mac} is not a unicast address")) }
}

/// The network that one plugin's configuration names.
pub(crate) fn network_of(text: &str) -> Result<Option<NetworkName>, CniError> {
    let config = Config::read(text)?;
    config.unread()?;
    config.refuse_ipam()?;
    config.network()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// How many wrong letters still let us guess what was meant. Two letters changed about are two.
const TYPING_ERRORS: usize = 2;

/// Letters to insert, remove or replace to get from one to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let lower = |text: &str| text.to_ascii_lowercase().into_bytes();
    let (from, to) = (lower(from), lower(to));
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
