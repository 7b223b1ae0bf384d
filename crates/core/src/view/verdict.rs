//! Whether a network is taken, as whoever has the view would say it. What one node alone meets is not
//! of it.

use super::{NetworkName, View, network_key};

/// What is said of fields that this version does not know: the rest of the record counts.
pub(super) const UNKNOWN: &str = "unknown fields, kept: ";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is served; beside that something may be said of it.
    Accepted(Option<String>),
    /// It contradicts itself. An earlier form of it may still be served.
    Invalid(String),
    /// It contradicts another network or the underlay.
    Conflict(String),
}

impl View {
    /// None of a network that is not there.
    pub fn verdict(&self, name: &NetworkName) -> Option<Verdict> {
        let said = self.said.get(&network_key(name));
        match said {
            Some(said) if !said.starts_with(UNKNOWN) => {
                return Some(Verdict::Invalid(said.clone()));
            }
            _ => {}
        }
        let network = self.networks.get(name)?;
        if let Some(why) = self.conflicts().remove(name) {
            return Some(Verdict::Conflict(why));
        }
        let addrs = self.nodes.values().flat_map(|node| &node.record.underlay);
        let met = |addr| network.check_underlay(name, &addr).err();
        match addrs.map(|addr| (*addr).into()).find_map(met) {
            Some(bad) => Some(Verdict::Conflict(bad.to_string())),
            None => Some(Verdict::Accepted(said.cloned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_taken_or_it_is_said_why_not() {
        let mut view = View::default();
        let mut put =
            |name: &str, value: &str| view.put(&format!("networks/{name}"), value.as_bytes(), 1);
        put("a", r#"{"ranges": ["10.1.0.0/16"]}"#);
        put("b", r#"{"ranges": ["10.1.128.0/17"], "join": {"kind": "vxlan", "vni": 2}}"#);
        put("c", r#"{"ranges": ["10.2.0.1/16"]}"#);
        put("d", r#"{"ranges": ["10.3.0.0/16"], "join": {"kind": "vxlan", "vni": 4}, "new": 1}"#);
        put("e", r#"{"ranges": ["192.0.2.0/24"], "join": {"kind": "vxlan", "vni": 5}}"#);
        let node = r#"{"boot": "b", "schema": 1, "version": "0", "underlay": ["192.0.2.7"], "mtu": 1500,
                       "networks": {}}"#;
        view.put("nodes/n", node.as_bytes(), 2);
        let verdict = |name: &str| match view.verdict(&name.parse().unwrap()) {
            None => "none".to_owned(),
            Some(Verdict::Accepted(said)) => format!("accepted {}", said.unwrap_or_default()),
            Some(Verdict::Invalid(why)) => format!("invalid {why}"),
            Some(Verdict::Conflict(why)) => format!("conflict {why}"),
        };
        let cases = [
            ("a", "accepted "),
            ("b", "conflict network b: 10.1.128.0/17 overlaps 10.1.0.0/16 of network a"),
            (
                "c",
                "invalid network c: 10.2.0.1/16 has bits set beyond its prefix; write 10.2.0.0/16",
            ),
            (
                "e",
                "conflict network e: 192.0.2.0/24 overlaps 192.0.2.7/32, an address of the underlay",
            ),
            ("f", "none"),
        ];
        for (name, wanted) in cases {
            assert_eq!(verdict(name), wanted);
        }
        assert!(verdict("d").starts_with("accepted unknown fields, kept: new"), "{}", verdict("d"));
    }
}
