//! What a runtime asked: environment and configuration, checked against the spec.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AddResult, CniError, Code, VERSIONS};
use crate::{
    attachment::{AttachmentId, PodName},
    name::{IfName, Mac, NetworkName},
};

/// One call as the plugin met it, unread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    pub command: String,
    pub container: String,
    pub netns: String,
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// Standard input.
    pub config: String,
    /// The name of the program that called the plugin.
    pub runtime: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl FromStr for Version {
    type Err = CniError;
    fn from_str(text: &str) -> Result<Self, CniError> {
        let all = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
        let at = VERSIONS.iter().position(|version| *version == text);
        at.map(|at| all[at]).ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                "incompatible CNI version",
                format!("cniVersion {text:?}; weft-cni speaks {}", VERSIONS.join(", ")),
            )
        })
    }
}
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSIONS[*self as usize])
    }
}

/// A call that can be carried out.
#[derive(Clone, Debug)]
pub struct Call {
    pub verb: Verb,
    pub version: Version,
    /// `name` of the configuration.
    pub name: String,
    /// The weft network; none: the cluster's default.
    pub network: Option<NetworkName>,
    /// None for GC, STATUS and VERSION.
    pub id: Option<AttachmentId>,
    pub netns: String,
    pub pod: Option<PodName>,
    pub ips: Vec<IpAddr>,
    pub mac: Option<Mac>,
    pub prev: Option<AddResult>,
    pub dns: Value,
    /// GC: what is still in use, as container and interface.
    pub valid: Vec<(String, String)>,
    pub runtime: String,
}

fn environment(what: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidEnvironment, "invalid environment variable", what)
}
fn config(what: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidConfig, "invalid network configuration", what)
}

impl Request {
    /// The version in which even an error is to be said.
    pub fn version_said(&self) -> String {
        let config: Option<Value> = serde_json::from_str(&self.config).ok();
        let said = config.and_then(|config| config["cniVersion"].as_str().map(str::to_owned));
        said.filter(|said| VERSIONS.contains(&said.as_str())).unwrap_or_else(|| "1.1.0".into())
    }

    pub fn parse(&self) -> Result<Call, CniError> {
        let verb = self.verb()?;
        let written: Value = serde_json::from_str(&self.config).map_err(|error| {
            CniError::new(
                Code::Decode,
                "the network configuration on standard input is not JSON",
                error.to_string(),
            )
        })?;
        let said = written["cniVersion"].as_str().unwrap_or("0.1.0");
        let version: Version = said.parse()?;
        let needs = match verb {
            Verb::Check => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
            _ => Version::V0_3_0,
        };
        if version < needs {
            return Err(CniError::new(
                Code::IncompatibleVersion,
                format!("{} came with CNI {needs}", self.command),
                format!("the configuration says cniVersion {version}; raise it"),
            ));
        }
        let id = match verb {
            Verb::Add | Verb::Del | Verb::Check => Some(self.id(&written)?),
            _ => None,
        };
        if matches!(verb, Verb::Add | Verb::Check) && self.netns.is_empty() {
            return Err(environment("CNI_NETNS is not set"));
        }
        let mut call = Call {
            verb,
            version,
            name: name(&written)?,
            network: network(&written)?,
            id,
            netns: self.netns.clone(),
            pod: None,
            ips: Vec::new(),
            mac: None,
            prev: written.get("prevResult").map(AddResult::parse).transpose()?,
            dns: written["dns"].clone(),
            valid: Vec::new(),
            runtime: self.runtime.clone(),
        };
        self.args(&mut call)?;
        capabilities(&written["runtimeConfig"], &mut call)?;
        if verb == Verb::Gc {
            call.valid = valid(&written)?;
        }
        if !written["ipam"]["type"].is_null() {
            return Err(CniError::new(
                Code::UnsupportedField,
                "unsupported field `ipam`",
                "weft leases addresses itself, from the network's ranges: remove `ipam`",
            ));
        }
        Ok(call)
    }

    fn verb(&self) -> Result<Verb, CniError> {
        Ok(match self.command.as_str() {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            "" => {
                return Err(environment("CNI_COMMAND is not set; weft-cni is called by a runtime"));
            }
            other => {
                return Err(environment(format!(
                    "CNI_COMMAND {other:?}: one of ADD, DEL, CHECK, GC, STATUS, VERSION"
                )));
            }
        })
    }

    fn id(&self, written: &Value) -> Result<AttachmentId, CniError> {
        let container = &self.container;
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let begins = container.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins || !container.bytes().all(word) {
            return Err(environment(format!(
                "CNI_CONTAINERID {container:?}: letters, digits, `_`, `.` and `-`, a letter or digit first"
            )));
        }
        let ifname: IfName =
            self.ifname.parse().map_err(|bad| environment(format!("CNI_IFNAME {bad}")))?;
        Ok(AttachmentId { cni: name(written)?, container: container.clone(), ifname })
    }

    /// `CNI_ARGS`: `KEY=VALUE` with `;` between. Keys that are not ours are others'.
    fn args(&self, call: &mut Call) -> Result<(), CniError> {
        let mut pod = PodName { namespace: String::new(), name: String::new(), uid: String::new() };
        for pair in self.args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| environment(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")))?;
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                "IP" => call.ips.push(address(value).map_err(environment)?),
                "MAC" => call.mac = Some(mac(value).map_err(environment)?),
                _ => {}
            }
        }
        call.pod = (!pod.name.is_empty()).then_some(pod);
        Ok(())
    }
}

/// `name` of a configuration (spec, section 1).
fn name(written: &Value) -> Result<String, CniError> {
    let name = written["name"].as_str().unwrap_or_default();
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && name.bytes().all(word) {
        Ok(name.to_owned())
    } else {
        Err(config(format!(
            "`name` {name:?}: letters, digits, `_`, `.` and `-`, a letter or digit first"
        )))
    }
}

fn network(written: &Value) -> Result<Option<NetworkName>, CniError> {
    match &written["network"] {
        Value::Null => Ok(None),
        Value::String(name) => {
            name.parse().map(Some).map_err(|bad| config(format!("`network` {bad}")))
        }
        other => Err(config(format!("`network` {other} is not a name"))),
    }
}

/// `runtimeConfig`: the capabilities `ips` and `mac`.
fn capabilities(written: &Value, call: &mut Call) -> Result<(), CniError> {
    for ip in written["ips"].as_array().into_iter().flatten() {
        let text = ip.as_str().unwrap_or_default();
        call.ips.push(address(text).map_err(|bad| config(format!("runtimeConfig.ips: {bad}")))?);
    }
    if let Some(text) = written["mac"].as_str() {
        call.mac = Some(mac(text).map_err(|bad| config(format!("runtimeConfig.mac: {bad}")))?);
    }
    for ipv4 in [true, false] {
        if call.ips.iter().filter(|ip| ip.is_ipv4() == ipv4).count() > 1 {
            return Err(config("more than one address of a family is asked for"));
        }
    }
    Ok(())
}

/// With or without a prefix; the network's own is used.
fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()));
    bare.ok_or_else(|| format!("{text:?} is not an address"))
}

fn mac(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|bad: crate::name::BadName| bad.to_string())?;
    if mac.is_unicast() { Ok(mac) } else { Err(format!("{mac} is not a unicast address")) }
}

fn valid(written: &Value) -> Result<Vec<(String, String)>, CniError> {
    let list = written["cni.dev/valid-attachments"].as_array().ok_or_else(|| {
        config("GC without `cni.dev/valid-attachments`: nothing is freed on a guess")
    })?;
    list.iter()
        .map(|entry| {
            let (container, ifname) = (entry["containerID"].as_str(), entry["ifname"].as_str());
            container
                .zip(ifname)
                .map(|(container, ifname)| (container.to_owned(), ifname.to_owned()))
                .ok_or_else(|| config(format!("`cni.dev/valid-attachments`: {entry}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: &str, config: &str) -> Request {
        Request {
            command: command.into(),
            container: "abc".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u".into(),
            config: config.into(),
            runtime: "test".into(),
        }
    }

    #[test]
    fn each_mistake_has_the_specs_code_and_says_what_to_do() {
        const GOOD: &str = r#"{"cniVersion":"1.1.0","name":"n","type":"weft-cni"}"#;
        let env = |change: fn(&mut Request)| {
            let mut request = request("ADD", GOOD);
            change(&mut request);
            request
        };
        let cases = [
            (request("ADD", "{"), 6, "not JSON"),
            (request("ADD", r#"{"name":"n"}"#), 1, "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
            (request("ADD", r#"{"cniVersion":"9.9.9","name":"n"}"#), 1, "\"9.9.9\""),
            (
                request("CHECK", r#"{"cniVersion":"0.3.1","name":"n"}"#),
                1,
                "CHECK came with CNI 0.4.0",
            ),
            (request("GC", r#"{"cniVersion":"1.0.0","name":"n"}"#), 1, "GC came with CNI 1.1.0"),
            (request("STATUS", r#"{"cniVersion":"1.0.0","name":"n"}"#), 1, "STATUS came with"),
            (request("GC", GOOD), 7, "valid-attachments"),
            (request("ADD", r#"{"cniVersion":"1.1.0"}"#), 7, "`name` \"\""),
            (
                request("ADD", r#"{"cniVersion":"1.1.0","name":"n","network":"A b"}"#),
                7,
                "a network name",
            ),
            (
                request("ADD", r#"{"cniVersion":"1.1.0","name":"n","ipam":{"type":"host-local"}}"#),
                2,
                "remove `ipam`",
            ),
            (
                request(
                    "ADD",
                    r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"ips":["x"]}}"#,
                ),
                7,
                "not an address",
            ),
            (
                request(
                    "ADD",
                    r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#,
                ),
                7,
                "not a unicast",
            ),
            (
                request(
                    "ADD",
                    r#"{"cniVersion":"1.1.0","name":"n","runtimeConfig":{"ips":["10.0.0.2","10.0.0.3/24"]}}"#,
                ),
                7,
                "more than one address",
            ),
            (request("FLY", GOOD), 4, "one of ADD, DEL, CHECK"),
            (env(|r| r.command.clear()), 4, "CNI_COMMAND is not set"),
            (env(|r| r.container = "../x".into()), 4, "CNI_CONTAINERID"),
            (env(|r| r.ifname = "a-name-of-16-byt".into()), 4, "CNI_IFNAME"),
            (env(|r| r.netns.clear()), 4, "CNI_NETNS is not set"),
            (env(|r| r.args = "K8S".into()), 4, "not KEY=VALUE"),
        ];
        for (request, code, says) in cases {
            let error = request.parse().unwrap_err();
            assert_eq!(error.code, code, "{request:?}: {error}");
            assert!(error.to_string().contains(says), "{request:?}: {error}");
            assert_eq!(error.render("1.1.0")["code"], code);
        }
    }

    #[test]
    fn a_good_call_is_read_whole() {
        let call = request(
            "ADD",
            r#"{"cniVersion":"0.4.0","name":"n","type":"weft-cni","network":"blue","future":1,
               "runtimeConfig":{"ips":["10.1.0.9/16","fd00::9"],"mac":"02:00:00:00:00:01","bandwidth":{}}}"#,
        )
        .parse()
        .unwrap();
        assert_eq!((call.verb, call.version), (Verb::Add, Version::V0_4_0));
        assert_eq!(call.network.unwrap().as_str(), "blue");
        assert_eq!(call.ips.len(), 2);
        assert_eq!(call.pod.unwrap().name, "web-0");
        assert_eq!(
            request("DEL", r#"{"cniVersion":"0.3.0","name":"n"}"#).parse().unwrap().verb,
            Verb::Del
        );
    }

    #[test]
    fn results_in_every_version_come_back() {
        let result = AddResult {
            interfaces: vec![super::super::Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1450),
                sandbox: Some("/run/netns/x".into()),
            }],
            ips: vec![super::super::Ip {
                address: "10.1.0.2/32".parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(0),
            }],
            routes: vec![],
            dns: Value::Null,
        };
        for text in VERSIONS {
            let version: Version = text.parse().unwrap();
            let out = result.render(version);
            assert_eq!(out["cniVersion"], text);
            assert_eq!(out["ips"][0]["version"].is_null(), version >= Version::V1_0_0, "{text}");
            assert_eq!(out["interfaces"][0]["mtu"].is_null(), version < Version::V1_1_0, "{text}");
            let back = AddResult::parse(&out).unwrap();
            assert_eq!(back.ips, result.ips, "{text}");
            let chained = result.clone().behind(back);
            assert_eq!(chained.ips[1].interface, Some(1), "ours point at ours");
        }
    }
}
