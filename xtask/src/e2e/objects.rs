//! What is made on the cluster, all of it in one namespace but for a network of its own.

use serde_json::{Value, json};

pub const PORT: u16 = 8080;
pub const HOST_PORT: u16 = 18080;
pub const NETWORK_RANGE: &str = "10.199.0.0/16";

/// Answers in both families: busybox's httpd, or agnhost of Kubernetes' own tests.
const SERVE: &str = "if [ -x /agnhost ]; then exec /agnhost netexec --http-port=8080; fi; \
     mkdir -p /tmp/w && hostname > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w";

pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub fn pod(namespace: &str, name: &str, node: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "e2e", "pod": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "c",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", SERVE],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            }],
        },
    })
}

pub fn service(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "e2e", "namespace": namespace},
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"app": "e2e"},
            "ports": [{"port": 80, "targetPort": PORT}],
        },
    })
}

/// Nobody reaches the namespace's pods, but for pods that are named.
pub fn policy(namespace: &str, from: Option<&str>) -> Value {
    let ingress = match from {
        Some(pod) => json!([{"from": [{"podSelector": {"matchLabels": {"pod": pod}}}]}]),
        None => json!([]),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "e2e", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

/// A second network of weft's, and its name for pods.
pub fn network(name: &str, namespace: &str) -> [Value; 2] {
    let network = json!({
        "apiVersion": "weft.network/v1",
        "kind": "Network",
        "metadata": {"name": name},
        "spec": {
            "attach": {"kind": "veth"},
            "join": {"kind": "vxlan", "vni": 7411, "port": 7411},
            "ranges": [NETWORK_RANGE],
        },
    });
    let config = json!({"cniVersion": "1.0.0", "name": name, "type": "weft-cni", "network": name});
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "second", "namespace": namespace},
        "spec": {"config": config.to_string()},
    });
    [network, definition]
}
