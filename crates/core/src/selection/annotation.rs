//! The two spellings of a list of networks: `[NAMESPACE/]NAME[@INTERFACE]` with commas between, or
//! JSON.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{BadSelection, Element, FURTHER_MAX, Request, at_place};
use crate::{
    cni::{address, mac},
    name::BadName,
};

/// What an element in JSON may say.
const FIELDS: [&str; 6] = ["name", "namespace", "interface", "ips", "mac", "default-route"];
/// What others' say that weft can't do, and what to do instead.
const REFUSED: [(&str, &str); 6] = [
    ("portMappings", "a port of the node leads to the pod's first network alone: use `hostPort`"),
    ("bandwidth", "bounds are set on the pod's first network alone, by its own annotations"),
    ("cni-args", "weft reads `ips`, `mac`, `interface` and `default-route` beside the name"),
    ("infiniband-guid", "weft has no InfiniBand networks"),
    ("deviceID", "weft gives no devices to pods"),
    ("ipam-claim-reference", "a `static` range of the network keeps a pod's address"),
];
const NAME: &str = "a-z, 0-9, `-` and `.`, a letter or digit at both ends";

fn bad(what: String) -> BadSelection {
    BadSelection(what)
}

/// Reads a list. Nothing but white space is an empty one.
pub fn read(text: &str) -> Result<Vec<Element>, BadSelection> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    // A name has none of these.
    let elements = if text.contains(['[', '{', '"']) {
        json(text)
    } else {
        text.split(',').enumerate().map(|(at, item)| short(at, item.trim())).collect()
    }?;
    if elements.len() > FURTHER_MAX {
        let many = elements.len();
        return Err(bad(format!("{many} networks are asked for: a pod has at most {FURTHER_MAX}")));
    }
    Ok(elements)
}

/// Reads what must be one element.
pub fn read_one(text: &str) -> Result<Element, BadSelection> {
    let many = |many: usize| bad(format!("{many} networks are named where there must be one"));
    let mut elements = read(text)?;
    match (elements.pop(), elements.len()) {
        (Some(element), 0) => Ok(element),
        (None, _) => Err(many(0)),
        (Some(_), more) => Err(many(more + 1)),
    }
}

fn short(at: usize, item: &str) -> Result<Element, BadSelection> {
    const FORM: &str = "[NAMESPACE/]NAME[@INTERFACE], with commas between";
    let wrong = || bad(format!("{} {item:?}: write {FORM}", at_place(at)));
    let (namespace, rest) = match item.split_once('/') {
        Some((namespace, rest)) => (Some(namespace.trim()), rest),
        None => (None, item),
    };
    let (name, interface) = match rest.split_once('@') {
        Some((name, interface)) => (name.trim(), Some(interface.trim())),
        None => (rest.trim(), None),
    };
    if name.contains('/') || interface.is_some_and(|i| i.contains('@')) || name.is_empty() {
        return Err(wrong());
    }
    let mut element = Element { name: named(at, name)?, ..Element::default() };
    element.namespace = namespace.map(|namespace| named(at, namespace)).transpose()?;
    if let Some(interface) = interface {
        element.request.ifname = Some(interface.parse().map_err(|bad| at_fault(at, &bad))?);
    }
    Ok(element)
}

fn at_fault(at: usize, why: &BadName) -> BadSelection {
    bad(format!("{}: {why}", at_place(at)))
}

/// The rule of Kubernetes' names: a DNS subdomain.
fn named(at: usize, name: &str) -> Result<String, BadSelection> {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let right = end(name.chars().next()) && end(name.chars().last()) && name.len() <= 253;
    if right && name.bytes().all(inside) {
        return Ok(name.to_owned());
    }
    Err(bad(format!("{}: {name:?} is no name: {NAME}", at_place(at))))
}

fn json(text: &str) -> Result<Vec<Element>, BadSelection> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| bad(format!("the list of networks is not JSON: {error}")))?;
    let Value::Array(list) = value else {
        return Err(
            bad("the list of networks is JSON, but no list: put it between [ and ]".into()),
        );
    };
    list.iter().enumerate().map(|(at, value)| element(at, value)).collect()
}

fn element(at: usize, value: &Value) -> Result<Element, BadSelection> {
    let place = at_place(at);
    let Value::Object(fields) = value else {
        return Err(bad(format!("{place}: {value} is no object with a `name`")));
    };
    refuse(&place, fields)?;
    let text = |key: &str| text(&place, fields, key);
    let name = text("name")?.ok_or_else(|| bad(format!("{place} has no `name`")))?;
    let namespace = text("namespace")?.map(|namespace| named(at, &namespace)).transpose()?;
    // As Multus wrote it before 3.2.
    let ifname = text("interface")?.or(text("interfaceRequest")?);
    let ifname = ifname.map(|name| name.parse()).transpose();
    let asked = text("mac")?.map(|text| mac(&text)).transpose();
    let request = Request {
        ifname: ifname.map_err(|bad| at_fault(at, &bad))?,
        ips: addresses(&place, fields, "ips")?,
        mac: asked.map_err(|why| bad(format!("{place}: `mac`: {why}")))?,
        default_route: addresses(&place, fields, "default-route")?,
    };
    for (key, addrs) in [("ips", &request.ips), ("default-route", &request.default_route)] {
        for ipv4 in [true, false] {
            if addrs.iter().filter(|addr| addr.is_ipv4() == ipv4).count() > 1 {
                return Err(bad(format!("{place}: `{key}`: there can be one of each family")));
            }
        }
    }
    Ok(Element { namespace, name: named(at, &name)?, request })
}

/// What would be passed over is said; what is empty asks for nothing.
fn refuse(place: &str, fields: &Map<String, Value>) -> Result<(), BadSelection> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    for (key, value) in fields.iter().filter(|(_, value)| !empty(value)) {
        if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| refused == key) {
            return Err(bad(format!("{place}: `{key}` {value} is not supported: {instead}")));
        }
        if !FIELDS.contains(&key.as_str()) && key != "interfaceRequest" {
            let known = FIELDS.join(", ");
            return Err(bad(format!("{place}: unknown field `{key}` (known here: {known})")));
        }
    }
    Ok(())
}

/// An empty text is as good as none.
fn text(
    place: &str,
    fields: &Map<String, Value>,
    key: &str,
) -> Result<Option<String>, BadSelection> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(other) => Err(bad(format!("{place}: `{key}` {other} is not a string"))),
    }
}

fn addresses(
    place: &str,
    fields: &Map<String, Value>,
    key: &str,
) -> Result<Vec<IpAddr>, BadSelection> {
    let wrong = |what: String| bad(format!("{place}: `{key}`: {what}"));
    let list = match fields.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(format!("{other} is not a list"))),
    };
    let read = |value: &Value| {
        let text = value.as_str().ok_or_else(|| wrong(format!("{value} is not a string")))?;
        address(text).map_err(&wrong)
    };
    let mut addrs: Vec<IpAddr> = list.iter().map(read).collect::<Result<_, _>>()?;
    addrs.dedup();
    Ok(addrs)
}
