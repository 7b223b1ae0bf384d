//! What a runtime asked, as one call that can be carried out. The rules for the environment and
//! for the configuration stand in files of their own.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{AddResult, CniError, Code, VERSIONS, Version, config::Config, environment};
use crate::{
    attachment::{self, AttachmentId, PodName},
    bandwidth::Bandwidth,
    name::{Mac, NetworkName},
    ports::PortMapping,
    selection::{Element, Further},
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
    /// Asked for; at most one of a family.
    pub ips: Vec<IpAddr>,
    pub mac: Option<Mac>,
    /// Ports of the node that are to lead to the pod.
    pub ports: Vec<PortMapping>,
    /// Further networks that the same ADD attaches the pod to.
    pub networks: Vec<Element>,
    /// The routers by which everything is to be reached that nothing else is known for; none: whichever
    /// network leads out first has the pod's default routes.
    pub routers: Vec<IpAddr>,
    /// Families (true: IPv4) in which another network of the same ADD is to lead everywhere.
    pub led: Vec<bool>,
    /// Of a further network: whose ADD asked for it, and how.
    pub further: Option<attachment::Further>,
    pub bandwidth: Option<Bandwidth>,
    /// What the plugins before us in the chain made; for CHECK, what ADD answered in the end.
    pub prev: Option<AddResult>,
    pub dns: Value,
    /// GC: what is still in use, as container and interface.
    pub valid: Vec<(String, String)>,
    pub runtime: String,
    /// What was said and is not acted on, for the log.
    pub warnings: Vec<String>,
}

impl Call {
    /// The call that attaches the same pod to a further network.
    pub fn beside(&self, id: &AttachmentId, further: &Further) -> Self {
        let asked = &further.request;
        Self {
            network: Some(further.network.clone()),
            id: Some(AttachmentId { ifname: further.ifname.clone(), ..id.clone() }),
            ips: asked.ips.clone(),
            mac: asked.mac,
            ports: Vec::new(),
            bandwidth: None,
            networks: Vec::new(),
            routers: asked.default_route.clone(),
            further: Some(attachment::Further {
                first: id.ifname.clone(),
                selected: further.selected.clone(),
            }),
            prev: None,
            dns: Value::Null,
            ..self.clone()
        }
    }
}

impl Verb {
    pub const ALL: [(&str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("GC", Self::Gc),
        ("STATUS", Self::Status),
        ("VERSION", Self::Version),
    ];

    /// The version of the spec that brought it.
    fn since(self) -> Version {
        match self {
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
        }
    }

    /// Concerns one container's interface.
    pub fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl Request {
    /// The version in which even an error is to be said.
    pub fn version_said(&self) -> String {
        let config: Option<Value> = serde_json::from_str(&self.config).ok();
        let said = config.and_then(|config| config["cniVersion"].as_str().map(str::to_owned));
        said.filter(|said| VERSIONS.contains(&said.as_str()))
            .unwrap_or_else(|| Version::NEWEST.to_string())
    }

    /// The answer to VERSION. Who asks without a version, by hand, is told all the same.
    pub fn versions(&self) -> Result<Value, CniError> {
        let said = match self.config.trim() {
            "" => None,
            _ => Config::read(&self.config)?.version_said()?,
        };
        let said = said.unwrap_or_else(|| Version::NEWEST.to_string());
        Ok(json!({"cniVersion": said, "supportedVersions": VERSIONS}))
    }

    /// Checks everything that the operation needs. DEL and GC need little, and nothing else in
    /// their configuration can make them fail: they must succeed to the fullest extent possible
    /// (spec, section 2, "DEL").
    pub fn parse(&self) -> Result<Call, CniError> {
        let verb = environment::verb(&self.command)?;
        let mut call = Call {
            verb,
            version: Version::NEWEST,
            name: String::new(),
            network: None,
            id: None,
            netns: self.netns.clone(),
            pod: None,
            ips: Vec::new(),
            mac: None,
            ports: Vec::new(),
            networks: Vec::new(),
            routers: Vec::new(),
            led: Vec::new(),
            further: None,
            bandwidth: None,
            prev: None,
            dns: Value::Null,
            valid: Vec::new(),
            runtime: self.runtime.clone(),
            warnings: Vec::new(),
        };
        if verb == Verb::Version {
            return Ok(call);
        }
        let ifname = environment::attachment(verb, self)?;
        let config = Config::read(&self.config)?;
        call.version = version(&config, verb, &self.command)?;
        call.name = config.name()?;
        call.id = ifname.map(|ifname| AttachmentId {
            cni: call.name.clone(),
            container: self.container.clone(),
            ifname,
        });
        match verb {
            Verb::Add | Verb::Check => self.attach(&mut call, &config)?,
            Verb::Status => network(&mut call, &config)?,
            Verb::Gc => call.valid = config.valid_attachments()?,
            Verb::Del => call.pod = environment::Args::parse(&self.args).ok().and_then(|a| a.pod),
            Verb::Version => {}
        }
        Ok(call)
    }

    fn attach(&self, call: &mut Call, config: &Config) -> Result<(), CniError> {
        network(call, config)?;
        call.dns = config.dns()?;
        call.prev = config.prev_result()?;
        if call.prev.is_none() && call.verb == Verb::Check {
            return Err(CniError::new(
                Code::InvalidConfig,
                "CHECK without prevResult",
                "the runtime must pass the result of ADD as `prevResult`",
            ));
        }
        let args = environment::Args::parse(&self.args)?;
        call.warnings.extend(args.warnings);
        call.pod = args.pod;
        // What the configuration asks for goes before CNI_ARGS, which is deprecated.
        call.networks = config.networks()?;
        call.ips = config.ips()?.unwrap_or(args.ips);
        call.mac = config.mac()?.or(args.mac);
        call.ports = config.ports()?;
        call.bandwidth = config.bandwidth()?;
        for ipv4 in [true, false] {
            if call.ips.iter().filter(|ip| ip.is_ipv4() == ipv4).count() > 1 {
                let asked: Vec<_> = call.ips.iter().map(ToString::to_string).collect();
                return Err(CniError::new(
                    Code::InvalidConfig,
                    "more than one address of a family is asked for",
                    format!("{}; a pod has one of each family in a network", asked.join(", ")),
                ));
            }
        }
        Ok(())
    }
}

/// Which network is meant, once the configuration says nothing that we would have to pass over.
fn network(call: &mut Call, config: &Config) -> Result<(), CniError> {
    call.warnings.extend(config.unread()?);
    config.refuse_ipam()?;
    call.network = config.network()?;
    Ok(())
}

fn version(config: &Config, verb: Verb, command: &str) -> Result<Version, CniError> {
    // A configuration without one is of 0.1.0, which knew the field not yet.
    let said = config.version_said()?.unwrap_or_else(|| "0.1.0".into());
    let version: Version = said.parse()?;
    if version < verb.since() {
        return Err(CniError::new(
            Code::IncompatibleVersion,
            format!("{command} came with CNI {}", verb.since()),
            format!("the configuration says cniVersion {version}; raise it"),
        ));
    }
    Ok(version)
}
