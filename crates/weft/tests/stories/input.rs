//! Input that is wrong: answered with what to do, and nothing is half made.

use std::io::Write;

use crate::story::*;

/// A network that is one L2 domain, with `over` laid over it.
fn bridged(over: Value) -> Value {
    let mut network = json!({
        "ranges": ["10.2.0.0/16"], "attach": "bridge", "join": {"kind": "vxlan-bridged", "vni": 2},
    });
    for (field, value) in over.as_object().unwrap() {
        network[field] = value.clone();
    }
    network
}

/// What pods have on-link can't change under them, nor whether their nodes are there.
#[test]
fn a_domain_stays_one_and_no_other_network_becomes_one() {
    let site = built(&plan(1));
    site.start().unwrap();
    let node = &site.nodes[0];
    let put = |name: &str, network: &Value| {
        node.ask("PUT", &format!("/v1/networks/{name}"), Some(network.clone()))
    };
    let plain = site.network("bridge", "vxlan", 1);
    for (name, network, join) in
        [("net", &plain, "vxlan"), ("blue", &bridged(json!({})), "vxlan-bridged")]
    {
        put(name, network).unwrap();
        site.nodes[0]
            .wait_until("with a block", |node| {
                let network = &node.status()?["networks"][name];
                Ok(network["join"] == join && !network["blocks"].as_array().unwrap().is_empty())
            })
            .unwrap();
    }
    let mut domain = plain.clone();
    domain["join"] = json!({"kind": "vxlan-bridged", "vni": 1});
    for (name, network) in [
        ("net", domain),
        ("blue", bridged(json!({"join": {"kind": "vxlan", "vni": 2}}))),
        ("blue", bridged(json!({"hostAccess": false}))),
    ] {
        let said = put(name, &network).unwrap_err().to_string();
        assert!(said.contains("what is on-link for pods that run can't change"), "{said}");
    }
    put("blue", &bridged(json!({"mtu": 1300}))).unwrap();
    // A port is something else: it is the tunnel's, not the pods'.
    put("blue", &bridged(json!({"join": {"kind": "vxlan-bridged", "vni": 2, "port": 8472}})))
        .unwrap();
    node.wait_until("on the other port", |node| {
        let link = sh(&node.netns, "ip -d link show weftx4-2 2>/dev/null || true");
        Ok(link.contains("dstport 8472") && node.plan()?.is_empty())
    })
    .unwrap();
}

#[test]
fn bad_input_is_answered_and_nothing_is_half_made() {
    let cluster = cluster(1, "veth", "vxlan");
    let node = &cluster.nodes[0];
    let put = |name: &str, network: Value| {
        let path = format!("/v1/networks/{name}");
        node.ask("PUT", &path, Some(network)).unwrap_err().to_string()
    };
    let cases = [
        (
            "blue",
            json!({"ranges": ["10.1.128.0/17"], "join": "host-gw"}),
            "overlaps 10.1.0.0/16 of network net",
        ),
        ("blue", json!({"ranges": ["192.0.0.0/16"], "join": "host-gw"}), "of the underlay"),
        (
            "blue",
            json!({"ranges": ["10.2.0.0/16"], "join": "vxlam"}),
            "expected one of `vxlan`, `host-gw`, `bgp`, `auto`, `vxlan-bridged`, `underlay`",
        ),
        (
            "blue",
            json!({"ranges": ["10.2.0.0/16"], "attach": "macvtap"}),
            "`veth`, `bridge`, `macvlan`",
        ),
        ("blue", json!({"ranges": ["10.2.0.0/16"], "joins": "auto"}), "known here: attach"),
        ("blue", json!({"ranges": ["10.2.0.0/16"]}), "VNI 1 is network net's"),
        (
            "blue",
            json!({"ranges": ["10.2.0.0/16"], "join": {"kind": "vxlan-bridged", "vni": 2}}),
            "needs `attach: bridge`",
        ),
        ("blue", bridged(json!({"blockPrefix4": 16})), "the first is kept for the gateway"),
        ("blue", bridged(json!({"hostAccess": false, "default": true})), "no way to their node"),
        ("blue", bridged(json!({"join": {"kind": "vxlan-bridged"}})), "VNI 1 is network net's"),
        ("blue", bridged(json!({"ranges": ["10.1.0.0/17"], "hostAccess": false})), "overlaps"),
        (
            "blue",
            json!({"ranges": ["10.2.0.0/16"], "join": "host-gw", "hostAccess": false}),
            "for joins vxlan-bridged and underlay alone",
        ),
        ("blue", json!({"ranges": []}), "no range"),
        ("Blue_", json!({"ranges": ["10.2.0.0/16"]}), "a network name"),
        (
            "net",
            json!({"ranges": ["10.1.0.0/16", "fd00:1::/64"], "attach": "bridge"}),
            "pods that run can't change",
        ),
    ];
    for (name, network, says) in cases {
        let said = put(name, network.clone());
        assert!(said.contains(says), "{network}: {said}");
    }
    let mut config = node.cni_config("net");
    config["network"] = json!("nowhere");
    let path = PathBuf::from("/run/netns/x");
    Netns::create().unwrap().bind(&path).unwrap();
    let (exit, answer) = node.cni("ADD", "x", &path, &config, &[]).unwrap();
    assert_eq!(exit, 1);
    assert!(answer.to_string().contains("networks: net"), "{answer}");
    let (exit, answer) =
        node.cni("ADD", "x", Path::new("/run/netns/gone"), &node.cni_config("net"), &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(3)), "{answer}");
    assert_eq!(node.ask("GET", "/v1/networks", None).unwrap().as_object().unwrap().len(), 1);
    assert!(pods(node).is_empty());
    empty_plan(node);
}

/// One ADD that is wrong, and what is said of it.
struct Wrong {
    what: &'static str,
    env: &'static [(&'static str, &'static str)],
    config: Value,
    code: u64,
    says: &'static str,
}

/// `config` is laid over a right one.
fn wrong(
    what: &'static str,
    env: &'static [(&'static str, &'static str)],
    config: Value,
    code: u64,
    says: &'static str,
) -> Wrong {
    Wrong { what, env, config, code, says }
}

fn wrong_adds() -> Vec<Wrong> {
    let ips = |ip: &str| json!({"runtimeConfig": {"ips": [ip]}});
    let mac = |mac: &str| json!({"runtimeConfig": {"mac": mac}});
    let none = Value::Null;
    vec![
        wrong("no version", &[], json!({"cniVersion": null}), 1, "0.3.0"),
        wrong("old version", &[], json!({"cniVersion": "0.2.0"}), 1, "1.1.0"),
        wrong("future version", &[], json!({"cniVersion": "9.0.0"}), 1, "1.1.0"),
        wrong("version of a type", &[], json!({"cniVersion": 1.1}), 6, "cniVersion"),
        wrong("name of a type", &[], json!({"name": ["net"]}), 7, "`name`"),
        wrong("no name", &[], json!({"name": ""}), 7, "letters, digits"),
        wrong("name that climbs", &[], json!({"name": "../net"}), 7, "letters, digits"),
        wrong("network of a type", &[], json!({"network": 5}), 7, "`network`"),
        wrong("misspelt key", &[], json!({"netwrok": "net"}), 2, "`network`"),
        wrong("ipam", &[], json!({"ipam": {"type": "host-local"}}), 2, "remove `ipam`"),
        wrong("dns of a type", &[], json!({"dns": "192.0.2.53"}), 7, "`dns`"),
        wrong("runtimeConfig of a type", &[], json!({"runtimeConfig": []}), 7, "no object"),
        wrong("ips of a type", &[], json!({"runtimeConfig": {"ips": "x"}}), 7, "not a list"),
        wrong("ip that is none", &[], ips("10.1.0"), 7, "runtimeConfig.ips"),
        wrong("ip of elsewhere", &[], ips("192.0.2.99"), 7, "not in this node's blocks"),
        wrong("ip by CNI_ARGS", &[("CNI_ARGS", "IP=192.0.2.99")], none.clone(), 7, "this node's"),
        wrong("mac that is none", &[], mac("02:00:00:00:00"), 7, "runtimeConfig.mac"),
        wrong("mac of many", &[], mac("01:00:5e:00:00:01"), 7, "runtimeConfig.mac"),
        wrong("prevResult of a type", &[], json!({"prevResult": 7}), 6, "prevResult"),
        wrong("socket that is no path", &[], json!({"socket": "cni.sock"}), 7, "`socket`"),
        wrong("wait of a type", &[], json!({"agentWait": "long"}), 7, "agentWait"),
        wrong("container climbs", &[("CNI_CONTAINERID", "../x")], none.clone(), 4, "letters"),
        wrong("no container", &[("CNI_CONTAINERID", "")], none.clone(), 4, "CNI_CONTAINERID"),
        wrong("ifname long", &[("CNI_IFNAME", "a234567890123456")], none.clone(), 4, "IFNAME"),
        wrong("ifname climbs", &[("CNI_IFNAME", "..")], none.clone(), 4, "CNI_IFNAME"),
        wrong("ifname a path", &[("CNI_IFNAME", "a/b")], none.clone(), 4, "CNI_IFNAME"),
        wrong("ifname taken", &[("CNI_IFNAME", "lo")], none.clone(), 101, "already"),
        wrong("no namespace", &[("CNI_NETNS", "")], none.clone(), 4, "CNI_NETNS"),
        wrong("namespace gone", &[("CNI_NETNS", "/run/netns/gone")], none.clone(), 3, "gone"),
        wrong("a file", &[("CNI_NETNS", "/proc/version")], none.clone(), 4, "CNI_NETNS"),
        wrong("another kind", &[("CNI_NETNS", "/proc/self/ns/uts")], none.clone(), 4, "CNI_NETNS"),
        wrong("the host", &[("CNI_NETNS", "/run/netns/node-a")], none.clone(), 4, "one of its own"),
        wrong("args odd", &[("CNI_ARGS", "IP")], none, 4, "KEY=VALUE"),
    ]
}

/// Exit code and answer of an ADD whose configuration is any text.
fn add(node: &Node, path: &Path, config: &str, env: &[(&str, &str)]) -> (Option<i32>, Value) {
    let mut plugin = node.plugin("ADD", "x", path, env).spawn().unwrap();
    plugin.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
    let out = plugin.wait_with_output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    (out.status.code(), serde_json::from_str(&said).unwrap_or(Value::String(said)))
}

#[test]
fn an_add_that_is_wrong_is_answered_by_the_specs_code_and_leaves_nothing() {
    let site = cluster(1, "veth", "vxlan");
    with_released_plugin(&site);
    let node = &site.nodes[0];
    let (netns, path) = namespace("x");
    let refused = |what: &str, config: &str, env: &[(&str, &str)], code: u64, says: &str| {
        let (exit, answer) = add(node, &path, config, env);
        assert_eq!((exit, answer["code"].as_u64()), (Some(1), Some(code)), "{what}: {answer}");
        let text = format!("{}: {}", answer["msg"], answer["details"]);
        assert!(text.contains(says), "{what}: {says} is not in {text}");
        until(&format!("nothing left of {what}"), || pods(node).is_empty() && pod_links(node) == 0);
    };
    for text in ["", "{", "[]", "\"net\"", "null", "{}}", "\u{0}"] {
        refused(text, text, &[], 6, "can't be read");
    }
    for case in wrong_adds() {
        let mut config = node.cni_config("net");
        for (key, value) in case.config.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        refused(case.what, &config.to_string(), case.env, case.code, case.says);
    }
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "nothing but lo in the pod");
    // What is the pod's already, and what is another pod's.
    sh(&netns, "ip link add eth0 type veth peer name other");
    let right = node.cni_config("net");
    refused("interface there", &right.to_string(), &[], 101, "of this name already");
    assert!(sh(&netns, "ip -o link").contains("other@eth0"), "the stranger's is left");
    sh(&netns, "ip link del eth0");
    let other = node.add_pod("other", "net").unwrap();
    let mut taken = right.clone();
    taken["runtimeConfig"] = json!({"ips": [other.addrs[1]]});
    let (exit, answer) = add(node, &path, &taken.to_string(), &[]);
    assert_eq!((exit, &answer["code"]), (Some(1), &json!(7)), "{answer}");
    assert!(answer["details"].to_string().contains("is taken"), "{answer}");
    assert_eq!(leases(node).len(), 2, "the other pod's");
    // Nothing of all that stands in the way of a right one.
    let (exit, answer) = add(node, &path, &right.to_string(), &[]);
    assert_eq!(exit, Some(0), "{answer}");
    assert_eq!(node.cni("DEL", "x", &path, &right, &[]).unwrap().0, 0);
    node.delete_pod(other).unwrap();
    nothing_left(node);
}

#[test]
fn a_network_that_is_full_says_so_and_gives_the_address_free_longest() {
    let site = built(&plan(1));
    site.start().unwrap();
    let mut network = site.network("veth", "host-gw", 1);
    network["ranges"] = json!(["10.1.0.0/28", "fd00:1::/64"]);
    network["blockPrefix4"] = json!(29);
    site.apply("net", &network).unwrap();
    site.settled("net", "host-gw").unwrap();
    let node = &site.nodes[0];
    let blocks = || {
        let all = node.ask("GET", "/v1/ipam", None).unwrap();
        all.as_array().unwrap().iter().filter(|b| !b["block"].to_string().contains(':')).count()
    };
    let mut full: Vec<Pod> =
        (0..5).map(|n| node.add_pod(&format!("p{n}"), "net").unwrap()).collect();
    assert_eq!(blocks(), 1);
    full.extend((5..10).map(|n| node.add_pod(&format!("p{n}"), "net").unwrap()));
    assert_eq!((blocks(), leases(node).len()), (2, 20), "a second block once the first was full");
    let (netns, path) = namespace("more");
    let config = node.cni_config("net");
    let (exit, answer) = node.cni("ADD", "more", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    let said = answer["details"].as_str().unwrap();
    for word in ["network net", "all 10 addresses of this node's IPv4 blocks are taken"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert_eq!((leases(node).len(), pod_links(node), pods(node).len()), (20, 10, 10));
    assert_eq!(sh(&netns, "ip -o link").lines().count(), 1);
    empty_plan(node);
    // The one that came back first goes first.
    let mut back = Vec::new();
    for n in [7, 2] {
        let pod = full.remove(n);
        back.push(pod.addr(true).unwrap());
        node.delete_pod(pod).unwrap();
        until("free", || pods(node).len() == 9 - (back.len() - 1));
    }
    for addr in &back {
        let pod = node.add_pod(&format!("again-{addr}"), "net").unwrap();
        assert_eq!(pod.addr(true).as_ref(), Some(addr));
        full.push(pod);
    }
    // An ADD that found nothing waits for what comes free meanwhile.
    let gone = full.remove(0);
    let freed = gone.addr(true);
    let refusals = || node.log().matches("no free block").count();
    let before = refusals();
    let late = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.add_pod("late", "net").unwrap());
        until("looking for a block", || refusals() > before);
        node.delete_pod(gone).unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(late.addr(true), freed);
    full.push(late);
    leases(node);
    site.delete_pods(full).unwrap();
    nothing_left(node);
}
