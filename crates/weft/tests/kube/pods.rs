//! Pods whose annotations ask for further networks, and policies, as the API server says them: a real
//! agent in a node's namespace, with a server of our own beside it.

use std::sync::Mutex;

use weft_core::selection::{NETWORKS, STATUS};

use crate::{fake::FakeApi, story::*};

const PODS: &str = "/api/v1/pods";
const EVENTS: &str = "/apis/events.k8s.io/v1/events";
const DEFINITIONS: &str = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions";
const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const NETWORKS_OF_WEFT: &str = "/apis/weft.network/v1/networks";

/// One node whose agent's store is the server.
pub struct Kubernetes {
    pub site: Site,
    api: Mutex<FakeApi>,
}

impl Kubernetes {
    fn start() -> Self {
        Self::on(&plan(1))
    }

    pub fn on(plan: &Plan) -> Self {
        let site = built(plan);
        let node = &site.nodes[0];
        // Where the agent reaches it: what it serves on is the node's own loopback.
        let api = node.netns.run(FakeApi::start).unwrap();
        let kubeconfig = api.kubeconfig("pods");
        configure(node, |config| {
            config["store"] = json!({"kubernetes": {"kubeconfig": kubeconfig}})
        });
        api.put("/api/v1/namespaces", json!({"metadata": {"name": "ns", "labels": {"team": "a"}}}));
        for (name, n) in [("net", 1), ("blue", 2)] {
            api.put(NETWORKS_OF_WEFT, network(name, &site.network("veth", "vxlan", n)));
        }
        site.start().unwrap();
        node.wait_until("serving", |node| {
            let status = node.status()?;
            let served = |name: &str| !status["networks"][name].is_null();
            Ok(status["converged"] == true && served("net") && served("blue"))
        })
        .unwrap();
        Self { site, api: Mutex::new(api) }
    }

    pub fn node(&self) -> &Node {
        &self.site.nodes[0]
    }

    pub fn network(&self, name: &str, spec: &Value) {
        self.api(|api| api.put(NETWORKS_OF_WEFT, network(name, spec)));
    }

    pub fn api<T>(&self, ask: impl FnOnce(&mut FakeApi) -> T) -> T {
        ask(&mut self.api.lock().unwrap())
    }

    fn pod(&self, name: &str, annotations: &Value) {
        self.api(|api| {
            api.put(
                PODS,
                json!({
                    "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
                        "labels": {"app": name}, "annotations": annotations},
                    "spec": {"nodeName": "node-a"},
                }),
            )
        });
    }

    fn definition(&self, namespace: &str, name: &str, spec: &Value) {
        let metadata = json!({"name": name, "namespace": namespace});
        self.api(|api| api.put(DEFINITIONS, json!({"metadata": metadata, "spec": spec})));
    }

    fn add(&self, name: &str) -> (i32, Value) {
        let path = PathBuf::from("/run/netns").join(name);
        if !path.exists() {
            namespace(name);
        }
        self.call("ADD", name)
    }

    fn call(&self, verb: &str, name: &str) -> (i32, Value) {
        let args = format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={name};K8S_POD_UID=uid-{name}");
        let (node, path) = (self.node(), PathBuf::from("/run/netns").join(name));
        node.cni(verb, name, &path, &node.cni_config("net"), &[("CNI_ARGS", &args)]).unwrap()
    }

    fn events(&self) -> Vec<String> {
        let events = self.api(|api| api.all(EVENTS));
        let said = |event: &Value| {
            let of = &event["regarding"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}: {}: {}",
                text(&of["kind"]),
                text(&of["name"]),
                text(&event["reason"]),
                text(&event["note"])
            )
        };
        events.iter().map(said).collect()
    }

    /// Waits for an event that says this.
    fn said(&self, what: &str) {
        until(&format!("said: {what}; said was {:?}", self.events()), || {
            self.events().iter().any(|event| event.contains(what))
        });
    }

    fn status(&self, name: &str) -> Value {
        let pod = || {
            self.api(|api| api.get(&PODS.replace("/pods", "/namespaces/ns/pods"), name)).unwrap()
        };
        until("told its networks", || pod()["metadata"]["annotations"][STATUS].is_string());
        serde_json::from_str(pod()["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap()
    }
}

fn network(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "weft.network/v1", "kind": "Network",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn interfaces(name: &str) -> String {
    let netns = Netns::open(&Path::new("/run/netns").join(name)).unwrap();
    sh(&netns, "ip -br link | cut -d@ -f1 | grep -v ^lo | sort | xargs")
}

#[test]
fn a_pods_annotation_names_further_networks_and_it_is_told_what_it_got() {
    let kube = Kubernetes::start();
    kube.definition("ns", "blue", &json!({}));
    kube.definition("other", "b2", &json!({"config": r#"{"type":"weft-cni","network":"blue"}"#}));
    kube.pod("plain", &json!({}));
    kube.pod("both", &json!({NETWORKS: "blue, other/b2@data"}));
    let (exit, answer) = kube.add("plain");
    assert_eq!(exit, 0, "{answer}");
    let before = kube.api(|api| api.requests()).len();
    let (exit, answer) = kube.add("both");
    assert_eq!(exit, 0, "{answer}");
    assert_eq!(interfaces("plain").trim(), "eth0");
    assert_eq!(interfaces("both").trim(), "data eth0 net1");
    assert!(before > 0);
    let status = kube.status("both");
    let names: Vec<_> =
        status.as_array().unwrap().iter().map(|of| (&of["name"], &of["interface"])).collect();
    let expected = json!([["net", "eth0"], ["ns/blue", "net1"], ["other/b2", "data"]]);
    assert_eq!(json!(names), expected, "{status}");
    assert_eq!(status[0]["default"], true);
    assert_eq!(status[1]["ips"].as_array().unwrap().len(), 2, "{status}");
    // Nothing was asked for the pod that asks for nothing.
    let asked = kube.api(|api| api.requests());
    assert!(!asked.iter().any(|request| request.path.contains("plain")), "{asked:?}");
    for name in ["plain", "both"] {
        assert_eq!(kube.call("DEL", name).0, 0);
    }
    nothing_left(kube.node());
}

#[test]
fn what_can_not_be_is_said_to_the_kubelet_and_on_the_pod() {
    let kube = Kubernetes::start();
    kube.definition("ns", "blue", &json!({}));
    kube.definition("ns", "green", &json!({}));
    kube.definition("ns", "sriov", &json!({"config": r#"{"type":"sriov"}"#}));
    let table = [
        ("p1", "nowhere", 7, "there is no NetworkAttachmentDefinition ns/nowhere: make it"),
        ("p2", "green", 7, "further network ns/green as net1: there is no network green"),
        ("p3", "sriov", 7, r#"calls the plugin "sriov", which weft does not run: make a network"#),
        ("p4", "blue,", 7, "network 2 of the list \"\": write [NAMESPACE/]NAME[@INTERFACE]"),
        ("p5", "blue@eth0", 7, "the pod has an interface eth0 already"),
        ("p6", r#"[{"name":"blue","ips":["10.9.9.9"]}]"#, 7, "10.9.9.9"),
    ];
    for (name, networks, code, said) in table {
        kube.pod(name, &json!({NETWORKS: networks}));
        let (exit, answer) = kube.add(name);
        assert_eq!((exit, &answer["code"]), (1, &json!(code)), "{networks}: {answer}");
        let text =
            format!("{}: {}", answer["msg"].as_str().unwrap(), answer["details"].as_str().unwrap());
        assert!(text.contains(said), "{text}");
        kube.said(&format!("Pod {name}: NetworksNotAttached: "));
        kube.said(said);
        assert_eq!(interfaces(name).trim(), "");
    }
    // Once it is as it should be, the same pod starts.
    kube.definition("ns", "nowhere", &json!({"config": r#"{"type":"weft-cni","network":"blue"}"#}));
    assert_eq!(kube.add("p1").0, 0);
    assert_eq!(kube.call("DEL", "p1").0, 0);
    nothing_left(kube.node());
}

#[test]
fn while_the_server_is_away_pods_that_ask_for_nothing_start_and_others_are_told_to_come_again() {
    let kube = Kubernetes::start();
    kube.definition("ns", "blue", &json!({}));
    kube.pod("plain", &json!({}));
    kube.pod("both", &json!({NETWORKS: "blue"}));
    // Known to the agent, then.
    kube.pod("first", &json!({}));
    assert_eq!(kube.add("first").0, 0);
    kube.api(FakeApi::stop);
    let (exit, answer) = kube.add("plain");
    assert_eq!(exit, 0, "{answer}");
    let (exit, answer) = kube.add("both");
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    assert_eq!(interfaces("both").trim(), "");
    kube.node().netns.run(|| kube.api(FakeApi::again)).unwrap();
    assert_eq!(kube.add("both").0, 0);
    kube.status("both");
    for name in ["first", "plain", "both"] {
        assert_eq!(kube.call("DEL", name).0, 0);
    }
    nothing_left(kube.node());
}

#[test]
fn a_pod_is_told_its_networks_though_the_server_fails_at_first() {
    let kube = Kubernetes::start();
    kube.definition("ns", "blue", &json!({}));
    kube.pod("both", &json!({NETWORKS: "blue"}));
    kube.api(|api| api.refuse("PATCH", "/status", 1, 403, "Forbidden"));
    kube.api(|api| api.mend());
    kube.api(|api| api.lose("PATCH", "/status", 2));
    assert_eq!(kube.add("both").0, 0);
    assert_eq!(kube.status("both")[1]["name"], "ns/blue");
    assert_eq!(kube.call("DEL", "both").0, 0);
    nothing_left(kube.node());
}

#[test]
fn a_policy_is_in_force_and_what_of_it_can_not_be_is_said_on_it() {
    let kube = Kubernetes::start();
    kube.pod("a", &json!({}));
    kube.pod("b", &json!({}));
    for name in ["a", "b"] {
        assert_eq!(kube.add(name).0, 0);
    }
    let netns = |name: &str| Netns::open(&Path::new("/run/netns").join(name)).unwrap();
    let line = sh(&netns("b"), "ip -o -4 addr show dev eth0");
    let addr: IpAddr =
        line.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    let echo = Responder::at(&netns("b"), &[addr]).unwrap();
    until("open", || reach(&netns("a"), addr).is_some());
    let policy = json!({
        "metadata": {"name": "shut", "namespace": "ns", "uid": "uid-shut"},
        "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]},
    });
    kube.api(|api| api.put(POLICIES, policy));
    until("shut", || reach(&netns("a"), addr).is_none());
    kube.said("NetworkPolicy shut: ImpossibleRule: spec.ingress[0].from[0]");
    kube.api(|api| {
        api.delete(&POLICIES.replace("/networkpolicies", "/namespaces/ns/networkpolicies"), "shut")
    });
    until("open again", || reach(&netns("a"), addr).is_some());
    drop(echo);
    for name in ["a", "b"] {
        assert_eq!(kube.call("DEL", name).0, 0);
    }
    nothing_left(kube.node());
}

/// Policies are heard of by another watch than pods, which may lag.
#[test]
fn a_pod_waits_for_the_policies_that_were_made_before_it() {
    let kube = Kubernetes::start();
    kube.pod("a", &json!({}));
    assert_eq!(kube.add("a").0, 0);
    kube.api(|api| api.hold(POLICIES, true));
    kube.api(|api| {
        api.put(
            POLICIES,
            json!({
                "metadata": {"name": "shut", "namespace": "ns"},
                "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]},
            }),
        )
    });
    kube.pod("b", &json!({}));
    let (exit, answer) = kube.add("b");
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    let said = "NetworkPolicy ns/shut is there, and was not heard of yet";
    assert!(answer["details"].as_str().unwrap().contains(said), "{answer}");
    assert_eq!(interfaces("b").trim(), "");
    kube.api(|api| api.hold(POLICIES, false));
    assert_eq!(kube.add("b").0, 0);
    let netns = |name: &str| Netns::open(&Path::new("/run/netns").join(name)).unwrap();
    let line = sh(&netns("b"), "ip -o -4 addr show dev eth0");
    let addr: IpAddr =
        line.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap();
    let echo = Responder::at(&netns("b"), &[addr]).unwrap();
    assert!(reach(&netns("a"), addr).is_none(), "it was never open");
    drop(echo);
    // What was heard before holds nobody up.
    kube.pod("c", &json!({}));
    assert_eq!(kube.add("c").0, 0);
    for name in ["a", "b", "c"] {
        assert_eq!(kube.call("DEL", name).0, 0);
    }
    nothing_left(kube.node());
}
