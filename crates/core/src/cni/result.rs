//! The result of ADD, in each version's form, and back from a `prevResult`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{CniError, Code, Version};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddResult {
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Ip>,
    pub routes: Vec<RouteOut>,
    pub dns: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    pub mtu: Option<u16>,
    /// The namespace, for an interface inside it.
    pub sandbox: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub address: IpNet,
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOut {
    pub dst: IpNet,
    pub gw: Option<IpAddr>,
    pub mtu: Option<u16>,
}

impl AddResult {
    /// In the caller's version. MTUs came with 1.1.0; the `version` of an address went with 1.0.0.
    pub fn render(&self, version: Version) -> Value {
        let interfaces = self.interfaces.iter().map(|interface| {
            let mut out = json!({"name": interface.name, "mac": interface.mac});
            set(&mut out, "sandbox", interface.sandbox.as_ref().map(|s| json!(s)));
            set(
                &mut out,
                "mtu",
                interface.mtu.filter(|_| version >= Version::V1_1_0).map(|m| json!(m)),
            );
            out
        });
        let ips = self.ips.iter().map(|ip| {
            let mut out = json!({"address": ip.address});
            let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            set(&mut out, "version", (version < Version::V1_0_0).then(|| json!(family)));
            set(&mut out, "gateway", ip.gateway.map(|g| json!(g)));
            set(&mut out, "interface", ip.interface.map(|i| json!(i)));
            out
        });
        let routes = self.routes.iter().map(|route| {
            let mut out = json!({"dst": route.dst});
            set(&mut out, "gw", route.gw.map(|g| json!(g)));
            set(
                &mut out,
                "mtu",
                route.mtu.filter(|_| version >= Version::V1_1_0).map(|m| json!(m)),
            );
            out
        });
        let dns = if self.dns.is_object() { self.dns.clone() } else { json!({}) };
        json!({
            "cniVersion": version.to_string(),
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": routes.collect::<Vec<_>>(),
            "dns": dns,
        })
    }

    /// A result of any version.
    pub fn parse(value: &Value) -> Result<Self, CniError> {
        let bad = |what: &str| {
            CniError::new(Code::Decode, "prevResult can't be read", format!("{what}: {value}"))
        };
        let list = |of: &str| value[of].as_array().cloned().unwrap_or_default();
        let text = |of: &Value| of.as_str().map(str::to_owned);
        let mtu = |of: &Value| of.as_u64().and_then(|mtu| u16::try_from(mtu).ok());
        let mut result = Self { dns: value["dns"].clone(), ..Self::default() };
        for interface in list("interfaces") {
            result.interfaces.push(Interface {
                name: text(&interface["name"]).ok_or_else(|| bad("interface without a name"))?,
                mac: text(&interface["mac"]).unwrap_or_default(),
                mtu: mtu(&interface["mtu"]),
                sandbox: text(&interface["sandbox"]).filter(|s| !s.is_empty()),
            });
        }
        for ip in list("ips") {
            let address = ip["address"].as_str().and_then(|a| a.parse().ok());
            result.ips.push(Ip {
                address: address.ok_or_else(|| bad("ips: not an address with prefix"))?,
                gateway: ip["gateway"].as_str().and_then(|g| g.parse().ok()),
                interface: ip["interface"].as_u64().and_then(|i| usize::try_from(i).ok()),
            });
        }
        for route in list("routes") {
            let dst = route["dst"].as_str().and_then(|d| d.parse().ok());
            result.routes.push(RouteOut {
                dst: dst.ok_or_else(|| bad("routes: not a prefix"))?,
                gw: route["gw"].as_str().and_then(|g| g.parse().ok()),
                mtu: mtu(&route["mtu"]),
            });
        }
        Ok(result)
    }

    /// Ours behind what the plugins before us in the chain made.
    pub fn behind(self, mut earlier: Self) -> Self {
        let shift = earlier.interfaces.len();
        earlier.interfaces.extend(self.interfaces);
        earlier.ips.extend(
            self.ips
                .into_iter()
                .map(|ip| Ip { interface: ip.interface.map(|index| index + shift), ..ip }),
        );
        earlier.routes.extend(self.routes);
        if earlier.dns.as_object().is_none_or(Map::is_empty) {
            earlier.dns = self.dns;
        }
        earlier
    }
}

fn set(out: &mut Value, field: &str, value: Option<Value>) {
    if let (Some(out), Some(value)) = (out.as_object_mut(), value) {
        out.insert(field.to_owned(), value);
    }
}
