//! What CRI-O calls, in its order (ocicni over libcni): 1.0.0 at first, the namespace by its path below
//! /var/run/netns, K8S_POD_* in CNI_ARGS; a failed ADD is undone by DEL and tried again; DEL comes without
//! a namespace, and twice.

use crate::story::*;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;\
                    K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=8ffe41ab-15ea-4d84-a6d4-5d1b1d6a3d2c";

#[test]
fn what_crio_calls_is_answered() {
    let site = cluster(1, "veth", "host-gw");
    let node = &site.nodes[0];
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut config = node.cni_config("net");
        config["cniVersion"] = json!(version);
        config["capabilities"] = json!({"portMappings": true, "bandwidth": true, "aliases": true});
        let (netns, path) = namespace("8ffe41ab-15ea-4d84-a6d4-5d1b1d6a3d2c");
        let path = Path::new("/var/run/netns").join(path.file_name().unwrap());
        let call = |verb: &str, netns: &Path, config: &Value| {
            node.cni(verb, "c0ffee", netns, config, &[("CNI_ARGS", ARGS)]).unwrap()
        };
        // An ADD that fails (a port that is none) is undone, though nothing was made.
        let mut bad = config.clone();
        bad["runtimeConfig"] = json!({"portMappings": [{"hostPort": 99999, "containerPort": 1}]});
        assert_eq!(call("ADD", &path, &bad).0, 1);
        assert_eq!(call("DEL", &path, &bad).0, 0, "what ADD refused, DEL does not");
        let mut asked = config.clone();
        asked["runtimeConfig"] = json!({"portMappings": [], "aliases": {"net": ["web"]},
            "bandwidth": {"ingressRate": 0, "ingressBurst": 0}});
        let (exit, answer) = call("ADD", &path, &asked);
        assert_eq!(exit, 0, "{version}: {answer}");
        assert_eq!(answer["cniVersion"], version);
        // No loopback plugin was called.
        assert!(sh(&netns, "ip -o link show lo").contains("LOOPBACK,UP"), "{version}");
        let mut check = asked.clone();
        check["prevResult"] = answer.clone();
        let (exit, said) = call("CHECK", &path, &check);
        // CHECK came with 0.4.0.
        assert_eq!(exit, i32::from(version == "0.3.1"), "{version}: {said}");
        // The same again is answered the same.
        assert_eq!(call("ADD", &path, &asked), (0, answer), "{version}");
        forget(Path::new("/run/netns/8ffe41ab-15ea-4d84-a6d4-5d1b1d6a3d2c"));
        drop(netns);
        for _ in 0..2 {
            assert_eq!(call("DEL", Path::new(""), &check).0, 0, "{version}: without a namespace");
        }
        assert_eq!(call("DEL", &path, &config).0, 0, "{version}: a path that leads nowhere");
        nothing_left(node);
    }
    assert!(node.log().contains("`runtimeConfig.aliases` is not read"));
}
