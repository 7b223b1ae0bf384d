//! The rules for the variables `CNI_*` (spec, section 2, "Parameters").
//!
//! `CNI_PATH` is not asked for although the spec has the runtime set it for GC: it lists where
//! delegated plugins are found, and weft has none.

use std::net::IpAddr;

use super::{CniError, Code, Request, Verb, config};
use crate::{
    attachment::PodName,
    name::{IfName, Mac},
};

fn invalid(variable: &str, what: impl Into<String>) -> CniError {
    let msg = format!("invalid environment variable {variable}");
    CniError::new(Code::InvalidEnvironment, msg, what)
}

pub(super) fn verb(command: &str) -> Result<Verb, CniError> {
    if let Some((_, verb)) = Verb::ALL.into_iter().find(|(name, _)| *name == command) {
        return Ok(verb);
    }
    let choices = Verb::ALL.map(|(name, _)| name).join(", ");
    if command.is_empty() {
        return Err(missing(
            &["CNI_COMMAND"],
            &format!("weft-cni is called by a runtime, with one of {choices}"),
        ));
    }
    Err(invalid("CNI_COMMAND", format!("{command:?}: one of {choices}")))
}

fn missing(variables: &[&str], why: &str) -> CniError {
    let msg = format!("missing environment variables {}", variables.join(", "));
    CniError::new(Code::InvalidEnvironment, msg, why)
}

/// Checks what names an attachment. Returns the interface, for the verbs that concern one.
pub(super) fn attachment(verb: Verb, request: &Request) -> Result<Option<IfName>, CniError> {
    if !verb.has_attachment() {
        return Ok(None);
    }
    let needed = [
        ("CNI_CONTAINERID", &request.container, true),
        ("CNI_NETNS", &request.netns, verb != Verb::Del),
        ("CNI_IFNAME", &request.ifname, true),
    ];
    let absent: Vec<&str> = needed
        .into_iter()
        .filter(|(_, value, needed)| *needed && value.is_empty())
        .map(|(name, ..)| name)
        .collect();
    if !absent.is_empty() {
        return Err(missing(&absent, &format!("{} needs them", request.command)));
    }
    if !is_word(&request.container) {
        return Err(invalid("CNI_CONTAINERID", format!("{:?}: {WORD}", request.container)));
    }
    let ifname = request.ifname.parse();
    ifname.map(Some).map_err(|bad: crate::name::BadName| invalid("CNI_IFNAME", bad.to_string()))
}

/// The rule of container ids and network names.
pub(super) const WORD: &str = "letters, digits, `_`, `.` and `-`, a letter or digit first";

pub(super) fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `CNI_ARGS`: `KEY=VALUE` with `;` between.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub(super) pod: Option<PodName>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) mac: Option<Mac>,
    pub(super) warnings: Vec<String>,
}

impl Args {
    pub(super) fn parse(text: &str) -> Result<Self, CniError> {
        let bad = |what| invalid("CNI_ARGS", what);
        let (mut args, mut strange, mut ignore) = (Self::default(), Vec::new(), false);
        let mut pod = PodName { namespace: String::new(), name: String::new(), uid: String::new() };
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| bad(format!("{pair:?} is not KEY=VALUE")))?;
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                // The container id says the same.
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IP" => args.ips = vec![config::address(value).map_err(bad)?],
                "MAC" => args.mac = Some(config::mac(value).map_err(bad)?),
                "IgnoreUnknown" => {
                    ignore = matches!(value, "1" | "true" | "TRUE" | "True" | "t" | "T");
                }
                _ => strange.push(key),
            }
        }
        if !ignore && !strange.is_empty() {
            let keys = strange.join(", ");
            args.warnings.push(format!("CNI_ARGS has keys that weft-cni does not read: {keys}"));
        }
        args.pod = (!pod.name.is_empty()).then_some(pod);
        Ok(args)
    }
}
