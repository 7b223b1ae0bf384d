//! What a call may be, and what is said to one that may not.

use super::request;
use crate::cni::{Call, Code, Endpoint, Request, VERSIONS, Verb, Version};

/// A configuration of 1.1.0 with more fields.
fn newest(fields: &str) -> String {
    format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"weft-cni"{fields}}}"#)
}

fn said(parsed: Result<Call, crate::cni::CniError>) -> String {
    match parsed {
        Ok(_) => "yes".into(),
        Err(error) => format!("{} {error}", error.code),
    }
}

#[test]
fn each_verb_is_taken_from_the_version_on_that_brought_it() {
    let table = [
        ("ADD", "yes yes yes yes yes"),
        ("DEL", "yes yes yes yes yes"),
        ("CHECK", "1 1 yes yes yes"),
        ("GC", "1 1 1 1 yes"),
        ("STATUS", "1 1 1 1 yes"),
        ("VERSION", "yes yes yes yes yes"),
    ];
    assert_eq!(table.len(), Verb::ALL.len());
    for (verb, row) in table {
        let answers = VERSIONS.map(|version| {
            let config = format!(
                r#"{{"cniVersion":"{version}","name":"n","type":"weft-cni","prevResult":{{}},
                   "cni.dev/valid-attachments":[]}}"#
            );
            let said = said(request(verb, &config).parse());
            said.split(' ').next().unwrap().to_owned()
        });
        assert_eq!(answers.join(" "), row, "{verb} in {VERSIONS:?}");
    }
}

#[test]
fn each_verb_needs_its_variables_and_no_other() {
    let config = newest(r#","prevResult":{},"cni.dev/valid-attachments":[]"#);
    let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
    let table = [
        ("ADD", "CNI_CONTAINERID CNI_NETNS CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID CNI_NETNS CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID CNI_IFNAME"),
        ("GC", ""),
        ("STATUS", ""),
        ("VERSION", ""),
    ];
    for (verb, needed) in table {
        let mut found = Vec::new();
        for name in names {
            let mut request = request(verb, &config);
            match name {
                "CNI_CONTAINERID" => request.container.clear(),
                "CNI_NETNS" => request.netns.clear(),
                "CNI_IFNAME" => request.ifname.clear(),
                _ => request.args.clear(),
            }
            if let Err(error) = request.parse() {
                assert_eq!(error.code, 4, "{verb} without {name}");
                assert!(error.msg.contains(name), "the message must name the variable: {error}");
                found.push(name);
            }
        }
        assert_eq!(found.join(" "), needed, "{verb}");
    }
}

#[test]
fn each_mistake_has_the_specs_code_and_says_what_to_do() {
    let with = |fields: &str| request("ADD", &newest(fields));
    let env = |change: fn(&mut Request)| {
        let mut request = request("ADD", &newest(""));
        change(&mut request);
        request
    };
    let all_gone: fn(&mut Request) =
        |r| *r = Request { command: "ADD".into(), ..Request::default() };
    let cases = [
        (request("ADD", "{"), 6, "not JSON"),
        (request("ADD", ""), 6, "not JSON"),
        (request("ADD", "[1]"), 6, "a list, not a JSON object"),
        (request("ADD", r#"{"cniVersion":1,"name":"n"}"#), 6, "`cniVersion` 1 is not a string"),
        (request("ADD", r#"{"name":"n"}"#), 1, "\"0.1.0\"; weft-cni speaks 0.3.0, 0.3.1, 0.4.0"),
        (request("ADD", r#"{"cniVersion":"","name":"n"}"#), 1, "\"0.1.0\""),
        (request("ADD", r#"{"cniVersion":"0.2.0","name":"n"}"#), 1, "\"0.2.0\""),
        (request("DEL", r#"{"cniVersion":"9.9.9","name":"n"}"#), 1, "\"9.9.9\""),
        (request("CHECK", r#"{"cniVersion":"0.3.1","name":"n"}"#), 1, "CHECK came with CNI 0.4.0"),
        (request("GC", r#"{"cniVersion":"1.0.0","name":"n"}"#), 1, "GC came with CNI 1.1.0"),
        (request("ADD", r#"{"cniVersion":"1.1.0"}"#), 7, "no `name`"),
        (request("DEL", r#"{"cniVersion":"1.1.0","name":"-n"}"#), 7, "`name` \"-n\": letters"),
        (request("ADD", r#"{"cniVersion":"1.1.0","name":"a/b"}"#), 7, "`name` \"a/b\": letters"),
        (request("CHECK", &newest("")), 7, "CHECK without prevResult"),
        (request("GC", &newest("")), 7, "GC without `cni.dev/valid-attachments`"),
        (
            request("GC", &newest(r#","cni.dev/valid-attachments":[{"containerID":"c"}]"#)),
            7,
            "lacks containerID or ifname",
        ),
        (request("GC", &newest(r#","cni.dev/valid-attachments":"all""#)), 7, "is not a list"),
        (with(r#","network":"A b""#), 7, "a network name: 1 to 63"),
        (with(r#","network":["blue"]"#), 7, "is not a name"),
        (with(r#","ipam":{"type":"host-local"}"#), 2, r#"`ipam`: {"type":"host-local"}"#),
        (with(r#","ipam":{"subnet":"10.0.0.0/8"}"#), 2, "remove `ipam`"),
        (with(r#","netwrok":"blue""#), 2, "`netwrok`: \"blue\": is `network` meant?"),
        (with(r#","agentwait":3"#), 2, "`agentwait`: 3: is `agentWait` meant?"),
        (
            request("STATUS", &newest(r#","netwrks":"b""#)),
            2,
            "are network, networks, socket, agentWait",
        ),
        (with(r#","runtimeConfig":[]"#), 7, "`runtimeConfig` [] is no object"),
        (with(r#","runtimeConfig":{"ips":"10.0.0.2"}"#), 7, "is not a list"),
        (with(r#","runtimeConfig":{"ips":["x"]}"#), 7, "`runtimeConfig.ips`: \"x\" is not an ad"),
        (with(r#","runtimeConfig":{"ips":["10.0.0.2","10.0.0.3/24"]}"#), 7, "10.0.0.2, 10.0.0.3"),
        (with(r#","args":{"cni":{"ips":[7]}}"#), 7, "`args.cni.ips`: 7 is not a string"),
        (with(r#","runtimeConfig":{"mac":"01:00:5e:00:00:01"}"#), 7, "not a unicast"),
        (with(r#","runtimeConfig":{"mac":7}"#), 7, "7 is not a string"),
        (with(r#","dns":{"nameservers":"10.1.0.1"}"#), 7, "`dns.nameservers` \"10.1.0.1\""),
        (with(r#","dns":"10.1.0.1""#), 7, "is no object"),
        (with(r#","prevResult":{"ips":[{"address":"10.1.0.5"}]}"#), 6, "prevResult.ips[0].address"),
        (with(r#","prevResult":{"cniVersion":"0.2.0","ip4":{}}"#), 1, "\"0.2.0\""),
        (request("FLY", &newest("")), 4, "\"FLY\": one of ADD, DEL, CHECK, GC, STATUS, VERSION"),
        (request("add", &newest("")), 4, "CNI_COMMAND: \"add\""),
        (env(|r| r.command.clear()), 4, "CNI_COMMAND"),
        (env(all_gone), 4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        (env(|r| r.container = "../x".into()), 4, "CNI_CONTAINERID: \"../x\": letters"),
        (env(|r| r.container = "a b".into()), 4, "CNI_CONTAINERID"),
        (env(|r| r.container = "é".into()), 4, "CNI_CONTAINERID"),
        (env(|r| r.ifname = "a-name-of-16-byt".into()), 4, "CNI_IFNAME: \"a-name-of-16-byt\" is"),
        (env(|r| r.ifname = "a:b".into()), 4, "CNI_IFNAME"),
        (env(|r| r.ifname = "..".into()), 4, "CNI_IFNAME"),
        (env(|r| r.args = "K8S".into()), 4, "CNI_ARGS: \"K8S\" is not KEY=VALUE"),
        (env(|r| r.args = "IP=ten".into()), 4, "CNI_ARGS: \"ten\" is not an address"),
        (env(|r| r.args = "MAC=02:00".into()), 4, "CNI_ARGS"),
    ];
    for (request, code, says) in cases {
        let error = request.parse().unwrap_err();
        assert_eq!(error.code, code, "{request:?}: {error}");
        assert!(error.to_string().contains(says), "{request:?}: {error}");
        assert!(!error.details.is_empty(), "{request:?}: {error}");
        let out = error.render(&request.version_said());
        assert_eq!(out["code"], code);
        assert!(VERSIONS.contains(&out["cniVersion"].as_str().unwrap()), "{out}");
    }
}

#[test]
fn codes_are_the_specs() {
    use Code::*;
    let table = [
        (IncompatibleVersion, 1),
        (UnsupportedField, 2),
        (UnknownContainer, 3),
        (InvalidEnvironment, 4),
        (Io, 5),
        (Decode, 6),
        (InvalidConfig, 7),
        (TryAgainLater, 11),
        (Unavailable, 50),
        (UnavailableLimited, 51),
    ];
    for (code, number) in table {
        let error = crate::cni::CniError::new(code, "what", "on what");
        assert_eq!(
            error.render("1.0.0").to_string(),
            format!(r#"{{"cniVersion":"1.0.0","code":{number},"details":"on what","msg":"what"}}"#)
        );
    }
    assert!(NotAsPromised as u32 >= 100 && Refused as u32 >= 100, "below are the spec's");
}

#[test]
fn a_good_call_is_read_whole() {
    let config = r#"{"cniVersion":"0.4.0","name":"n","type":"weft-cni","network":"blue",
        "future":1,"cni.dev/tomorrow":2,"capabilities":{"ips":true},"ipam":{},
        "dns":{"nameservers":["10.1.0.1"],"domain":"x"},"prevResult":null,
        "runtimeConfig":{"ips":["10.1.0.9/16","fd00::9","10.1.0.9"],
                         "mac":"02:00:00:00:00:01","bandwidth":{}}}"#;
    let call = request("ADD", config).parse().unwrap();
    assert_eq!((call.verb, call.version), (Verb::Add, Version::V0_4_0));
    assert_eq!(call.network.unwrap().as_str(), "blue");
    assert_eq!(call.id.unwrap().to_string(), "n eth0 of container abc");
    let ips: Vec<String> = call.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.1.0.9", "fd00::9"]);
    assert_eq!(call.mac.unwrap().to_string(), "02:00:00:00:00:01");
    let pod = call.pod.unwrap();
    assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("ns", "web-0", "u"));
    assert_eq!(call.dns["domain"], "x");
    assert_eq!(call.prev, None);
    assert_eq!(call.runtime, "containerd");
    assert_eq!(call.warnings, ["`future` in the configuration is not read by weft-cni"]);
}

#[test]
fn ports_and_bandwidth_are_read_as_each_runtime_writes_them() {
    // CRI-O and podman; containerd.
    let ports = [
        r#"{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"192.0.2.1"}"#,
        r#"{"HostPort":80,"ContainerPort":8080,"Protocol":"tcp","HostIP":"192.0.2.1"}"#,
    ];
    let limits = [
        r#"{"ingressRate":8000000,"ingressBurst":2147483647,"egressRate":0}"#,
        r#"{"IngressRate":8000000,"IngressBurst":4294967295,"EgressRate":0,"EgressBurst":0}"#,
    ];
    for (port, limit) in ports.into_iter().zip(limits) {
        let fields = format!(r#","runtimeConfig":{{"portMappings":[{port}],"bandwidth":{limit}}}"#);
        let call = request("ADD", &newest(&fields)).parse().unwrap();
        assert_eq!(call.ports[0].to_string(), "192.0.2.1:80/tcp");
        assert_eq!(call.ports[0].container_port, 8080);
        let limit = call.bandwidth.unwrap();
        let ingress = limit.ingress.map(|limit| limit.to_string());
        assert_eq!(ingress.as_deref(), Some("tbf rate 8000000bit burst 65536b limit 90536b"));
        assert_eq!(limit.egress, None);
        assert_eq!(call.warnings, [""; 0]);
    }
    for (limit, why) in [
        (r#"{"ingressRate":-1}"#, "`ingressRate` -1 is no number of bits"),
        (r#"{"egressRate":10}"#, "`egressRate` 10: less than 1000 bits a second are refused"),
        ("7", "7 is no object"),
    ] {
        let fields = format!(r#","runtimeConfig":{{"bandwidth":{limit}}}"#);
        let said = said(request("ADD", &newest(&fields)).parse());
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn what_is_asked_for_in_a_newer_way_goes_first() {
    let args = "IP=10.1.0.7/16;MAC=02:00:00:00:00:07;COLOUR=red";
    let cases = [
        ("", "10.1.0.7", "02:00:00:00:00:07"),
        (r#","args":{"cni":{"ips":["10.1.0.8"]}}"#, "10.1.0.8", "02:00:00:00:00:07"),
        (
            r#","args":{"cni":{"ips":["10.1.0.8"]}},
               "runtimeConfig":{"ips":["10.1.0.9"],"mac":"02:00:00:00:00:09"}"#,
            "10.1.0.9",
            "02:00:00:00:00:09",
        ),
    ];
    for (fields, ip, mac) in cases {
        let call = Request { args: args.into(), ..request("ADD", &newest(fields)) };
        let call = call.parse().unwrap();
        assert_eq!(call.ips, [ip.parse::<std::net::IpAddr>().unwrap()], "{fields}");
        assert_eq!(call.mac.unwrap().to_string(), mac, "{fields}");
        assert_eq!(call.warnings, ["CNI_ARGS has keys that weft-cni does not read: COLOUR"]);
    }
    let ignored =
        Request { args: format!("{args};IgnoreUnknown=true"), ..request("ADD", &newest("")) };
    assert!(ignored.parse().unwrap().warnings.is_empty());
}

#[test]
fn nothing_but_its_name_can_make_a_del_or_gc_fail() {
    let broken = r#","network":"A b","netwrok":1,"ipam":{"type":"x"},"dns":7,
        "runtimeConfig":{"ips":["x"],"mac":1},"prevResult":{"ips":7},
        "cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]"#;
    for verb in ["DEL", "GC"] {
        let mut request = request(verb, &newest(broken));
        request.args = "K8S".into();
        request.netns.clear();
        let call = request.parse().unwrap_or_else(|error| panic!("{verb}: {error}"));
        assert_eq!(call.name, "n");
        assert_eq!(call.id.is_some(), verb == "DEL");
    }
    assert_eq!(said(request("ADD", &newest(broken)).parse()).split(' ').next(), Some("2"));
}

#[test]
fn the_list_of_gc_is_read_under_either_name() {
    let entry = r#"[{"containerID":"c","ifname":"eth0","of-tomorrow":1}]"#;
    let one = vec![("c".to_owned(), "eth0".to_owned())];
    let cases = [
        (format!(r#","cni.dev/valid-attachments":{entry}"#), one.clone()),
        (format!(r#","cni.dev/attachments":{entry}"#), one),
        (format!(r#","cni.dev/valid-attachments":[],"cni.dev/attachments":{entry}"#), vec![]),
        (r#","cni.dev/valid-attachments":null"#.to_owned(), vec![]),
    ];
    for (fields, valid) in cases {
        assert_eq!(request("GC", &newest(&fields)).parse().unwrap().valid, valid, "{fields}");
    }
}

#[test]
fn version_is_answered_in_the_askers_version() {
    let supported = r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    let cases = [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"1.1.0","name":"n"}"#, "1.1.0"),
        (r#"{"cniVersion":"0.2.0"}"#, "0.2.0"),
        ("{}", "1.1.0"),
        ("\n", "1.1.0"),
    ];
    for (config, version) in cases {
        let answer = request("VERSION", config).versions().unwrap().to_string();
        assert_eq!(answer, format!(r#"{{"cniVersion":"{version}",{supported}}}"#), "{config}");
    }
    assert_eq!(request("VERSION", "{").versions().unwrap_err().code, 6);
    assert_eq!(request("VERSION", r#"{"cniVersion":2}"#).versions().unwrap_err().code, 6);
}

#[test]
fn the_agent_is_where_the_configuration_says() {
    let cases = [
        ("", "/run/weft/cni.sock 20"),
        (r#","socket":"/x/y.sock","agentWait":0"#, "/x/y.sock 0"),
        (r#","socket":null,"agentWait":300"#, "/run/weft/cni.sock 300"),
        (r#","socket":"y.sock""#, "7 `socket` \"y.sock\": an absolute path of at most 107 bytes"),
        (r#","socket":7"#, "7 `socket` 7: an absolute path"),
        (r#","agentWait":301"#, "7 `agentWait` 301: whole seconds, 0 to 300"),
        (r#","agentWait":"1m""#, "7 `agentWait` \"1m\": whole seconds"),
    ];
    for (fields, expected) in cases {
        let said = match Endpoint::parse(&newest(fields)) {
            Ok(endpoint) => format!("{} {}", endpoint.socket, endpoint.wait.as_secs()),
            Err(error) => format!("{} {}", error.code, error.details),
        };
        assert!(said.starts_with(expected), "{fields}: {said}");
    }
    let long = format!(r#","socket":"/{}""#, "x".repeat(Endpoint::SOCKET_MAX));
    assert_eq!(Endpoint::parse(&newest(&long)).unwrap_err().code, 7);
    assert_eq!(Endpoint::parse("{").unwrap_err().code, 6);
}

#[test]
fn ports_are_read_in_the_runtimes_spelling() {
    let written = [
        // The specification's own.
        r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"192.0.2.1"}"#,
        // containerd 1.6.
        r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":"192.0.2.1"}"#,
    ];
    let ports = written.map(|port| {
        let config = newest(&format!(r#","runtimeConfig":{{"portMappings":[{port}]}}"#));
        request("ADD", &config).parse().unwrap().ports
    });
    assert_eq!(ports[0], ports[1]);
    assert_eq!((ports[1].len(), ports[1][0].host_port), (1, 8080));
}
