//! What may be written, what becomes of it, and what is said of the rest.

use super::*;
use crate::attachment::Attachment;

/// As a list is understood: `NAMESPACE/NAME@INTERFACE ip … mac … via …`.
fn understood(text: &str) -> String {
    let one = |element: &Element| {
        let asked = &element.request;
        let mut words = vec![element.to_string()];
        words.extend(asked.ifname.as_ref().map(|name| format!("@{name}")));
        words.extend(asked.ips.iter().map(|ip| format!("ip {ip}")));
        words.extend(asked.mac.map(|mac| format!("mac {mac}")));
        words.extend(asked.default_route.iter().map(|by| format!("via {by}")));
        words.join(" ")
    };
    match read(text) {
        Ok(elements) => elements.iter().map(one).collect::<Vec<_>>().join(", "),
        Err(why) => why.to_string(),
    }
}

#[test]
fn lists_as_they_are_written_and_understood() {
    let table = [
        ("", ""),
        (" \n", ""),
        ("blue", "blue"),
        ("blue,red", "blue, red"),
        (" blue , red ", "blue, red"),
        ("ns1/blue@data", "ns1/blue @data"),
        ("ns1 / blue @ data", "ns1/blue @data"),
        ("a.b-c/d.e", "a.b-c/d.e"),
        ("blue,blue", "blue, blue"),
        ("[]", ""),
        (r#"[{"name":"blue"}]"#, "blue"),
        (
            r#"[{"name":"blue","namespace":"ns1","interface":"data","ips":["10.2.0.9/16","fd00::9"],
                "mac":"02:00:00:00:00:09","default-route":["10.2.0.1"]},{"name":"red"}]"#,
            "ns1/blue @data ip 10.2.0.9 ip fd00::9 mac 02:00:00:00:00:09 via 10.2.0.1, red",
        ),
        (r#"[{"name":"blue","interfaceRequest":"data"}]"#, "blue @data"),
        (r#"[{"name":"blue","interface":"a","interfaceRequest":"b"}]"#, "blue @a"),
        (r#"[{"name":"blue","ips":null,"mac":"","cni-args":{},"portMappings":[]}]"#, "blue"),
        (r#"[{"name":"blue","ips":["10.2.0.9","10.2.0.9"]}]"#, "blue ip 10.2.0.9"),
    ];
    for (text, expected) in table {
        assert_eq!(understood(text), expected, "{text}");
    }
}

#[test]
fn lists_that_can_not_be() {
    const FORM: &str = "write [NAMESPACE/]NAME[@INTERFACE], with commas between";
    const RULE: &str = "is no name: a-z, 0-9, `-` and `.`, a letter or digit at both ends";
    const IFNAME: &str =
        "is not an interface name: 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`";
    let table = [
        ("blue,", format!("network 2 of the list \"\": {FORM}")),
        ("a/b/c", format!("network 1 of the list \"a/b/c\": {FORM}")),
        ("a@b@c", format!("network 1 of the list \"a@b@c\": {FORM}")),
        ("@net1", format!("network 1 of the list \"@net1\": {FORM}")),
        ("Blue", format!("network 1 of the list: \"Blue\" {RULE}")),
        ("ns_1/blue", format!("network 1 of the list: \"ns_1\" {RULE}")),
        ("/blue", format!("network 1 of the list: \"\" {RULE}")),
        ("red,blue-", format!("network 2 of the list: \"blue-\" {RULE}")),
        ("blue@", format!("network 1 of the list: \"\" {IFNAME}")),
        ("blue@a b", format!("network 1 of the list: \"a b\" {IFNAME}")),
        ("blue@longer-than-fifteen", format!("network 1 of the list: \"longer-than-fifteen\" {IFNAME}")),
        ("[", "the list of networks is not JSON: EOF while parsing a list at line 1 column 1".into()),
        (r#"{"name":"a"}"#, "the list of networks is JSON, but no list: put it between [ and ]".into()),
        (r#"["a"]"#, r#"network 1 of the list: "a" is no object with a `name`"#.into()),
        (r#"[{"namespace":"a"}]"#, "network 1 of the list has no `name`".into()),
        (r#"[{"name":7}]"#, "network 1 of the list: `name` 7 is not a string".into()),
        (r#"[{"name":"A"}]"#, format!("network 1 of the list: \"A\" {RULE}")),
        (r#"[{"name":"a","interface":"x/y"}]"#, format!("network 1 of the list: \"x/y\" {IFNAME}")),
        (
            r#"[{"name":"a","ips":"10.2.0.9"}]"#,
            r#"network 1 of the list: `ips`: "10.2.0.9" is not a list"#.into(),
        ),
        (
            r#"[{"name":"a","ips":["10.2.0.256"]}]"#,
            r#"network 1 of the list: `ips`: "10.2.0.256" is not an address"#.into(),
        ),
        (r#"[{"name":"a","ips":[9]}]"#, "network 1 of the list: `ips`: 9 is not a string".into()),
        (
            r#"[{"name":"a","ips":["10.2.0.8","10.2.0.9"]}]"#,
            "network 1 of the list: `ips`: there can be one of each family".into(),
        ),
        (
            r#"[{"name":"a","default-route":["10.2.0.8","10.2.0.9"]}]"#,
            "network 1 of the list: `default-route`: there can be one of each family".into(),
        ),
        (
            r#"[{"name":"a","mac":"01:00:00:00:00:01"}]"#,
            "network 1 of the list: `mac`: 01:00:00:00:00:01 is not a unicast address".into(),
        ),
        (
            r#"[{"name":"a","nmae":"b"}]"#,
            "network 1 of the list: unknown field `nmae` (known here: name, namespace, interface, ips, \
             mac, default-route)"
                .into(),
        ),
        (
            r#"[{"name":"a"},{"name":"b","portMappings":[{"hostPort":80}]}]"#,
            r#"network 2 of the list: `portMappings` [{"hostPort":80}] is not supported: a port of the "#
                .to_owned()
                + "node leads to the pod's first network alone: use `hostPort`",
        ),
        (
            r#"[{"name":"a","bandwidth":{"ingressRate":1}}]"#,
            r#"network 1 of the list: `bandwidth` {"ingressRate":1} is not supported: bounds are set "#
                .to_owned()
                + "on the pod's first network alone, by its own annotations",
        ),
        (
            r#"[{"name":"a","cni-args":{"vlan":7}}]"#,
            r#"network 1 of the list: `cni-args` {"vlan":7} is not supported: weft reads `ips`, `mac`, "#
                .to_owned()
                + "`interface` and `default-route` beside the name",
        ),
        (
            r#"[{"name":"a","infiniband-guid":"00:11"}]"#,
            r#"network 1 of the list: `infiniband-guid` "00:11" is not supported: weft has no "#.to_owned()
                + "InfiniBand networks",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(understood(text), expected, "{text}");
    }
    let many = vec!["a"; FURTHER_MAX + 1].join(",");
    assert_eq!(understood(&many), "33 networks are asked for: a pod has at most 32");
}

#[test]
fn one_where_there_must_be_one() {
    assert_eq!(read_one("ns/a").unwrap().to_string(), "ns/a");
    for (text, many) in [(" ", 0), ("a,b", 2)] {
        let said = read_one(text).unwrap_err().to_string();
        assert_eq!(said, format!("{many} networks are named where there must be one"));
    }
}

#[test]
fn names_of_interfaces() {
    let names = |text: &str| {
        let names = interfaces(&IfName::new("eth0"), &read(text).unwrap());
        let joined =
            |names: Vec<IfName>| names.iter().map(IfName::as_str).collect::<Vec<_>>().join(" ");
        names.map_or_else(|why| why.to_string(), joined)
    };
    let taken = |at: usize, name: &str, of: &str| {
        format!(
            "network {at} of the list: the pod has an interface {name} already; ask for another name by \
             `{of}@NAME` or `\"interface\"`"
        )
    };
    let table = [
        ("a,b,c", "net1 net2 net3".to_owned()),
        ("a@x,b,c@y", "x net2 y".into()),
        ("a,a", "net1 net2".into()),
        ("a@net2,b", taken(2, "net2", "b")),
        ("a@eth0", taken(1, "eth0", "a")),
        ("a,b@lo", taken(2, "lo", "b")),
        (
            r#"[{"name":"a","default-route":["10.0.0.1"]},{"name":"b","default-route":["fd00::1"]}]"#,
            "`default-route` is asked of a and b: only one network can lead everywhere".into(),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(names(text), expected, "{text}");
    }
}

#[test]
fn what_a_definition_stands_for() {
    const WRITE: &str = r#"write {"cniVersion": "1.1.0", "type": "weft-cni", "network": "blue"}"#;
    let table = [
        ("", "blue".to_owned()),
        (r#"{"type":"weft-cni"}"#, "blue".into()),
        (r#"{"cniVersion":"0.3.1","name":"x","type":"weft-cni","network":"red"}"#, "red".into()),
        (r#"{"plugins":[{"type":"weft-cni","network":"red"}]}"#, "red".into()),
        (r#"{"type":"weft-cni","network":"red","ipam":{}}"#, "red".into()),
        ("{", "`spec.config` is not JSON: EOF while parsing an object at line 1 column 1".into()),
        ("[]", format!("`spec.config` is no object: {WRITE}")),
        (
            r#"{"type":"macvlan","master":"eth1"}"#,
            format!(
                "`spec.config` calls the plugin \"macvlan\", which weft does not run: make a network of \
                 weft's and {WRITE}"
            ),
        ),
        (
            r#"{"plugins":[{"type":"weft-cni"},{"type":"tuning"}]}"#,
            format!(
                "`spec.config` is a list of several plugins, of which weft runs none but its own: {WRITE}"
            ),
        ),
        (
            r#"{"type":"weft-cni","netwrk":"red"}"#,
            "`spec.config`: unknown field `netwrk`: \"red\": is `network` meant? weft-cni's own fields \
             are network, networks, socket, agentWait"
                .into(),
        ),
        (
            r#"{"type":"weft-cni","ipam":{"type":"host-local"}}"#,
            "`spec.config`: unsupported field `ipam`: {\"type\":\"host-local\"}: weft leases addresses \
             itself, from the network's ranges: remove `ipam`"
                .into(),
        ),
    ];
    for (config, expected) in table {
        let found = network("blue", config);
        let found = found.map_or_else(|why| why.to_string(), |name| name.to_string());
        assert_eq!(found, expected, "{config}");
    }
    let said = network("blue.green", "").unwrap_err().to_string();
    assert!(
        said.ends_with(r#"as {"cniVersion": "1.1.0", "type": "weft-cni", "network": "NAME"}"#),
        "{said}"
    );
}

#[test]
fn what_a_pod_is_told() {
    let pod =
        |ifname: &str, network: &str, addrs: &[&str], further: serde_json::Value| -> Attachment {
            serde_json::from_value(serde_json::json!({
            "schema": 1, "cni": "weft", "container": "c1", "ifname": ifname, "phase": "attached",
            "network": network, "attach": "veth", "runtime": "test", "netns": "/run/netns/x",
            "cookie": 1, "host_end": "weft0", "mac": "02:00:00:00:00:01", "addrs": addrs,
            "default_route": further.is_null(), "further": further,
        }))
        .unwrap()
        };
    let first = pod("eth0", "default", &["10.1.0.2", "fd00:1::2"], serde_json::Value::Null);
    let beside = serde_json::json!({"first": "eth0", "selected": "ns1/blue"});
    let second = pod("net1", "blue", &["10.2.0.2"], beside);
    let by = || vec!["169.254.1.1".parse().unwrap()];
    let said = status([(&first, by(), Some(1450)), (&second, by(), None)]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        said,
        serde_json::json!([
            {"name": "default", "interface": "eth0", "ips": ["10.1.0.2", "fd00:1::2"], "dns": {},
             "mac": "02:00:00:00:00:01", "default": true, "mtu": 1450, "gateway": ["169.254.1.1"]},
            {"name": "ns1/blue", "interface": "net1", "ips": ["10.2.0.2"], "dns": {},
             "mac": "02:00:00:00:00:01"},
        ])
    );
}
