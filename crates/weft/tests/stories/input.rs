//! Input that is wrong: answered with what to do, and nothing is half made.

use crate::story::*;

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
            "expected one of `vxlan`, `host-gw`, `auto`",
        ),
        ("blue", json!({"ranges": ["10.2.0.0/16"], "attach": "macvlan"}), "`veth` or `bridge`"),
        ("blue", json!({"ranges": ["10.2.0.0/16"], "joins": "auto"}), "known here: attach"),
        ("blue", json!({"ranges": ["10.2.0.0/16"]}), "VNI 1 is network net's"),
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
