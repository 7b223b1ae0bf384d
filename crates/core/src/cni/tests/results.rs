//! Results in every version's form, against the forms and examples that the spec prints.

use serde_json::{Map, Value, json};

use crate::cni::{AddResult, Interface, Ip, RouteOut, Version};

/// As ADD of a dual-stack pod ends.
fn ours() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface {
                name: "weft0".into(),
                mac: "02:00:00:00:00:02".into(),
                mtu: Some(1500),
                ..Interface::default()
            },
            Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1450),
                sandbox: Some("/run/netns/x".into()),
                more: Map::new(),
            },
        ],
        ips: ["10.1.0.2/32", "fd00::2/128"]
            .map(|address| Ip {
                address: address.parse().unwrap(),
                gateway: Some("169.254.1.1".parse().unwrap()),
                interface: Some(1),
                more: Map::new(),
            })
            .into(),
        routes: vec![RouteOut {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
            mtu: Some(1450),
            more: Map::new(),
        }],
        dns: json!({"nameservers": ["10.1.0.1"]}),
        more: Map::new(),
    }
}

#[test]
fn each_version_has_its_form() {
    let before_1_0 = json!({
        "interfaces": [
            {"name": "weft0", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
        ],
        "ips": [
            {"version": "4", "address": "10.1.0.2/32", "gateway": "169.254.1.1", "interface": 1},
            {"version": "6", "address": "fd00::2/128", "gateway": "169.254.1.1", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
        "dns": {"nameservers": ["10.1.0.1"]},
    });
    let mut of_1_0 = before_1_0.clone();
    for ip in of_1_0["ips"].as_array_mut().unwrap() {
        ip.as_object_mut().unwrap().remove("version");
    }
    let mut of_1_1 = of_1_0.clone();
    of_1_1["interfaces"][0]["mtu"] = json!(1500);
    of_1_1["interfaces"][1]["mtu"] = json!(1450);
    of_1_1["routes"][0]["mtu"] = json!(1450);
    for version in Version::ALL {
        let mut expected = match version {
            Version::V1_1_0 => of_1_1.clone(),
            Version::V1_0_0 => of_1_0.clone(),
            _ => before_1_0.clone(),
        };
        expected["cniVersion"] = json!(version.as_str());
        let out = ours().render(version);
        assert_eq!(out, expected, "{version}");
        // What the runtime hands back is what it was given.
        assert_eq!(AddResult::parse(&out).unwrap().render(version), out, "{version}");
    }
    assert_eq!(
        AddResult::default().render(Version::V0_3_0),
        json!({"cniVersion": "0.3.0", "interfaces": [], "ips": [], "routes": [], "dns": {}})
    );
}

/// The result of `bridge` in the spec's appendix, "Add example".
fn of_the_spec() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55"},
            {"name": "veth3243", "mac": "55:44:33:22:11:11"},
            {"name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/var/run/netns/blue"},
        ],
        "dns": {"nameservers": ["10.1.0.1"]},
    })
}

#[test]
fn ours_goes_behind_what_the_chain_has_made() {
    let earlier = AddResult::parse(&of_the_spec()).unwrap();
    let out = ours().behind(earlier).render(Version::V1_1_0);
    let theirs = of_the_spec();
    for list in ["interfaces", "ips", "routes"] {
        let count = theirs[list].as_array().unwrap().len();
        assert_eq!(&out[list].as_array().unwrap()[..count], theirs[list].as_array().unwrap());
    }
    assert_eq!(out["interfaces"][4]["name"], "eth0");
    assert_eq!(out["ips"][0]["interface"], 2);
    assert_eq!(out["ips"][1]["interface"], 4, "our second interface is the fifth now");
    assert_eq!(out["dns"], theirs["dns"], "who was first decides");

    let mut silent = of_the_spec();
    silent["dns"] = json!({});
    let out = ours().behind(AddResult::parse(&silent).unwrap());
    assert_eq!(out.dns, json!({"nameservers": ["10.1.0.1"]}));
}

#[test]
fn a_result_that_is_passed_through_stays_whole() {
    let mut newest = of_the_spec();
    newest["interfaces"][2]["mtu"] = json!(65536);
    newest["interfaces"][2]["pciID"] = json!("0000:04:00.5");
    newest["interfaces"][2]["socketPath"] = json!("/run/x.sock");
    newest["routes"][0] = json!({"dst": "::/0", "gw": "fe80::1", "mtu": 1400, "advmss": 1340,
        "priority": 0, "table": 254, "scope": 0});
    newest["ips"].as_array_mut().unwrap().push(json!({"address": "fd00::5/64"}));
    newest["of-tomorrow"] = json!({"kept": [1, null]});
    let parsed = AddResult::parse(&newest).unwrap();
    assert_eq!(AddResult::default().behind(parsed.clone()).render(Version::V1_1_0), newest);

    let older = parsed.render(Version::V1_0_0);
    assert_eq!(older["interfaces"][2], of_the_spec()["interfaces"][2]);
    assert_eq!(older["routes"][0], json!({"dst": "::/0", "gw": "fe80::1"}));
}

#[test]
fn results_of_every_version_are_read() {
    let old = json!({
        "cniVersion": "0.3.1",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
        "ips": [{"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0}],
        "routes": [{"dst": "10.2.0.0/16", "gw": "10.1.0.254"}],
        "dns": {},
    });
    let parsed = AddResult::parse(&old).unwrap();
    assert_eq!(parsed.render(Version::V0_3_1), old);
    assert_eq!(parsed.ips[0].address, "10.1.0.5/16".parse().unwrap(), "host bits are kept");

    let mut by_the_letter = old.clone();
    by_the_letter["cniVersion"] = json!("0.3.0");
    let ips = by_the_letter.as_object_mut().unwrap().remove("ips").unwrap();
    by_the_letter["ip"] = ips;
    assert_eq!(AddResult::parse(&by_the_letter).unwrap(), parsed);
    // IPAM plugins leave things out; a Go program writes null for an empty list.
    let short = json!({"ips": [{"address": "10.1.0.5/16", "gateway": ""}], "routes": null});
    assert_eq!(AddResult::parse(&short).unwrap().ips[0].gateway, None);
    assert_eq!(AddResult::parse(&json!({})).unwrap(), AddResult::default());
}

#[test]
fn what_is_wrong_with_a_result_is_said_with_its_place() {
    let cases = [
        (json!("x"), "prevResult: \"x\": not an object"),
        (json!({"ips": {}}), "prevResult.ips: {}: not a list"),
        (json!({"ips": [7]}), "prevResult.ips[0]: 7: not an object"),
        (json!({"ips": [{}]}), "prevResult.ips[0].address: null: it must be there"),
        (
            json!({"ips": [{"address": "10.1.0.5/16", "gateway": "x"}]}),
            "prevResult.ips[0].gateway: \"x\": ",
        ),
        (
            json!({"ips": [{"address": "10.1.0.5/16", "interface": -1}]}),
            "prevResult.ips[0].interface: -1: not a number that fits",
        ),
        (json!({"interfaces": [{"mac": ""}]}), "prevResult.interfaces[0].name: null: "),
        (json!({"interfaces": [{"name": 7}]}), "prevResult.interfaces[0].name: 7: not a string"),
        (json!({"routes": [{"dst": "default"}]}), "prevResult.routes[0].dst: \"default\": "),
    ];
    for (value, says) in cases {
        let error = AddResult::parse(&value).unwrap_err();
        assert_eq!(error.code, 6, "{value}");
        assert!(error.details.starts_with(says), "{value}: {error}");
    }
    assert_eq!(AddResult::parse(&json!({"cniVersion": "0.2.0"})).unwrap_err().code, 1);
}
