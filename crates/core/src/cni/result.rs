//! The result of ADD, in each version's form, and back from a `prevResult` (spec, section 5).

use std::{fmt::Display, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{CniError, Code, Version};

/// Each part keeps in `more` what other plugins of a chain said and we have no use for: a result
/// that was passed in must come out whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<RouteOut>,
    pub dns: Value,
    pub more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// Empty where the link has none.
    pub mac: String,
    pub mtu: Option<u32>,
    /// The namespace, for an interface inside it.
    pub sandbox: Option<String>,
    pub more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ip {
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub interface: Option<usize>,
    pub more: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteOut {
    pub dst: IpNet,
    pub gw: Option<IpAddr>,
    pub mtu: Option<u32>,
    pub more: Map<String, Value>,
}

/// Fields that came with 1.1.0; an older caller may refuse them.
const NEW_IN_1_1: [&str; 7] =
    ["mtu", "socketPath", "pciID", "advmss", "priority", "table", "scope"];

impl AddResult {
    /// In the caller's version.
    pub fn render(&self, version: Version) -> Value {
        let part = |more: &Map<String, Value>, fields: Vec<(&str, Option<Value>)>| {
            let mut out = more.clone();
            let said = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
            out.extend(said);
            out.retain(|key, _| version >= Version::V1_1_0 || !NEW_IN_1_1.contains(&key.as_str()));
            Value::Object(out)
        };
        let interface = |interface: &Interface| {
            let mac = (!interface.mac.is_empty()).then(|| json!(interface.mac));
            part(
                &interface.more,
                vec![
                    ("name", Some(json!(interface.name))),
                    ("mac", mac),
                    ("mtu", interface.mtu.map(Into::into)),
                    ("sandbox", interface.sandbox.clone().map(Into::into)),
                ],
            )
        };
        let ip = |ip: &Ip| {
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            part(
                &ip.more,
                vec![
                    // Left the spec with 1.0.0.
                    ("version", (version < Version::V1_0_0).then(|| json!(family))),
                    ("address", Some(json!(ip.address))),
                    ("gateway", ip.gateway.map(|gateway| json!(gateway))),
                    ("interface", ip.interface.map(Into::into)),
                ],
            )
        };
        let route = |route: &RouteOut| {
            part(
                &route.more,
                vec![
                    ("dst", Some(json!(route.dst))),
                    ("gw", route.gw.map(|gw| json!(gw))),
                    ("mtu", route.mtu.map(Into::into)),
                ],
            )
        };
        let dns = if self.dns.is_object() { self.dns.clone() } else { json!({}) };
        part(
            &self.more,
            vec![
                ("cniVersion", Some(json!(version.as_str()))),
                ("interfaces", Some(self.interfaces.iter().map(interface).collect())),
                ("ips", Some(self.ips.iter().map(ip).collect())),
                ("routes", Some(self.routes.iter().map(route).collect())),
                ("dns", Some(dns)),
            ],
        )
    }

    /// A result of any version that we speak.
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        let mut top = Part::of("prevResult", value)?;
        if let Some(version) = top.text("cniVersion")? {
            version.parse::<Version>()?;
        }
        let mut result = Self { dns: top.take("dns").unwrap_or_default(), ..Self::default() };
        for mut part in top.parts("interfaces")? {
            result.interfaces.push(Interface {
                name: part.needed("name")?,
                mac: part.text("mac")?.unwrap_or_default(),
                mtu: part.number("mtu")?,
                sandbox: part.text("sandbox")?,
                more: part.rest(),
            });
        }
        // The text of 0.3.0 says `ip`, its example and every implementation `ips`.
        for mut part in top.parts("ips")?.into_iter().chain(top.parts("ip")?) {
            part.take("version");
            result.ips.push(Ip {
                address: part.needed("address")?,
                gateway: part.parsed("gateway")?,
                interface: part.number("interface")?,
                more: part.rest(),
            });
        }
        for mut part in top.parts("routes")? {
            result.routes.push(RouteOut {
                dst: part.needed("dst")?,
                gw: part.parsed("gw")?,
                mtu: part.number("mtu")?,
                more: part.rest(),
            });
        }
        result.more = top.rest();
        Ok(result)
    }

    /// Ours behind what the plugins before us in the chain made.
    pub fn behind(self, mut earlier: Self) -> Self {
        let shift = earlier.interfaces.len();
        let shifted = |ip: Ip| Ip { interface: ip.interface.map(|index| index + shift), ..ip };
        earlier.interfaces.extend(self.interfaces);
        earlier.ips.extend(self.ips.into_iter().map(shifted));
        earlier.routes.extend(self.routes);
        if earlier.dns.as_object().is_none_or(Map::is_empty) {
            earlier.dns = self.dns;
        }
        earlier
    }
}

/// An object being taken apart; what nobody takes stays.
struct Part {
    path: String,
    fields: Map<String, Value>,
}

impl Part {
    fn of(path: &str, value: &Value) -> Result<Self, CniError> {
        match value {
            Value::Object(fields) => Ok(Self { path: path.to_owned(), fields: fields.clone() }),
            other => Err(unreadable(path, other, "not an object")),
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.fields.remove(key).filter(|value| !value.is_null())
    }

    /// An empty text is as good as none.
    fn text(&mut self, key: &str) -> Result<Option<String>, CniError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(other) => Err(self.bad(key, &other, "not a string")),
        }
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Option<T>, CniError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|error: T::Err| self.bad(key, &json!(text), &error.to_string()))
    }

    fn needed<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<T, CniError> {
        self.parsed(key)?.ok_or_else(|| self.bad(key, &Value::Null, "it must be there"))
    }

    fn number<T: TryFrom<u64>>(&mut self, key: &str) -> Result<Option<T>, CniError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| number.try_into().ok());
        number.map(Some).ok_or_else(|| self.bad(key, &value, "not a number that fits"))
    }

    fn parts(&mut self, key: &str) -> Result<Vec<Self>, CniError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let path = |at| format!("{}.{key}[{at}]", self.path);
                list.iter().enumerate().map(|(at, value)| Self::of(&path(at), value)).collect()
            }
            Some(other) => Err(self.bad(key, &other, "not a list")),
        }
    }

    fn rest(self) -> Map<String, Value> {
        self.fields
    }

    fn bad(&self, key: &str, value: &Value, why: &str) -> CniError {
        unreadable(&format!("{}.{key}", self.path), value, why)
    }
}

fn unreadable(path: &str, value: &Value, why: &str) -> CniError {
    CniError::new(Code::Decode, "prevResult can't be read", format!("{path}: {value}: {why}"))
}
