//! One agent whose store is the API server: what it says on networks, which blocks it takes, and that
//! nothing is lost to it while the server is away.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::fake::FakeApi;

const PATIENCE: Duration = Duration::from_secs(30);
const NETWORKS: &str = "/apis/weft.network/v1/networks";
const RECORDS: &str = "/apis/weft.network/v1/records";
const NODES: &str = "/api/v1/nodes";
const EVENTS: &str = "/apis/events.k8s.io/v1/events";

struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Agent {
    fn start(api: &FakeApi, name: &str, pod_cidrs: &str) -> Self {
        assert_eq!(std::process::id() / 100, 0, "run by `cargo xtask test`, which makes a sandbox");
        let dir = PathBuf::from("/run").join(format!("agent-{name}"));
        fs::create_dir_all(&dir).unwrap();
        let config = json!({
            "node": "node-a",
            "store": {"kubernetes": {"kubeconfig": api.kubeconfig(name), "podCidrs": pod_cidrs}},
            "runDir": dir.join("run"),
            "cacheDir": dir.join("cache"),
        });
        fs::write(dir.join("agent.yaml"), config.to_string()).unwrap();
        Self { child: Self::run(&dir), dir }
    }

    fn run(dir: &Path) -> Child {
        let log = fs::File::create(dir.join("log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["agent", "--config"])
            .arg(dir.join("agent.yaml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn again(&mut self) {
        self.end();
        self.child = Self::run(&self.dir);
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn asked(&self, what: &str) -> String {
        let control = self.dir.join("run/control.sock");
        let out = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args([what, "--json", "--control"])
            .arg(control)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn until(&self, what: &str, is: impl Fn() -> bool) {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

fn network(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "weft.network/v1", "kind": "Network",
        "metadata": {"name": name, "generation": 1}, "spec": spec,
    })
}

fn node(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDRs": cidrs},
    })
}

fn accepted(api: &FakeApi, network: &str) -> (String, String) {
    let object = api.get(NETWORKS, network).unwrap_or_default();
    let condition = &object["status"]["conditions"][0];
    let text = |of: &str| condition[of].as_str().unwrap_or_default().to_owned();
    (text("status"), text("message"))
}

fn keys(api: &FakeApi, prefix: &str) -> Vec<String> {
    let all = api.all(RECORDS);
    let keys = all.iter().filter_map(|record| record["spec"]["key"].as_str().map(str::to_owned));
    keys.filter(|key| key.starts_with(prefix)).collect()
}

#[test]
fn a_network_that_contradicts_something_is_told_so_and_the_rest_goes_on() {
    let api = FakeApi::start();
    api.put(NETWORKS, network("default", json!({"ranges": ["10.1.0.0/16"], "default": true})));
    api.put(
        NETWORKS,
        network("second", json!({"ranges": ["10.1.0.0/17"], "join": {"kind": "host-gw"}})),
    );
    api.put(NETWORKS, network("odd", json!({"ranges": ["10.3.0.0/16"], "mtu": 7})));
    let agent = Agent::start(&api, "conditions", "auto");
    agent.until("default is accepted", || accepted(&api, "default").0 == "True");
    agent.until("second is refused", || accepted(&api, "second").0 == "False");
    agent.until("odd is refused", || accepted(&api, "odd").0 == "False");
    let (_, said) = accepted(&api, "second");
    assert_eq!(said, "network second: 10.1.0.0/17 overlaps 10.1.0.0/16 of network default");
    assert!(
        accepted(&api, "odd").1.contains("an MTU: 576 to 65535"),
        "{:?}",
        accepted(&api, "odd")
    );
    agent.until("its users hear by an event", || {
        let of = |event: &Value| {
            let note = event["note"].as_str().unwrap_or_default();
            event["regarding"]["name"] == "second"
                && event["metadata"]["namespace"] == "default"
                && note.contains("10.1.0.0/17 overlaps")
        };
        api.all(EVENTS).iter().any(of)
    });
    agent.until("a block of what is accepted", || keys(&api, "blocks/").len() == 1);

    // Said once, and said anew when it changes.
    let writes = |api: &FakeApi| {
        api.requests().iter().filter(|request| request.path.ends_with("/status")).count()
    };
    assert_eq!(writes(&api), 3);
    let mut good =
        network("second", json!({"ranges": ["10.2.0.0/16"], "join": {"kind": "host-gw"}}));
    good["metadata"]["generation"] = json!(2);
    api.put(NETWORKS, good);
    agent.until("second is accepted", || accepted(&api, "second").0 == "True");
    assert_eq!(writes(&api), 1);
}

#[test]
fn a_nodes_pod_cidrs_are_its_blocks() {
    let api = FakeApi::start();
    api.put(NETWORKS, network("default", json!({"ranges": ["10.1.0.0/16"], "default": true})));
    // The first of all Nodes is this one.
    api.put(NODES, node("node-a", &[]));
    api.put(NODES, node("node-b", &["10.1.3.0/24"]));
    let agent = Agent::start(&api, "cidrs", "auto");
    agent.until("it waits and says so", || {
        agent.log().contains("this Node has no podCIDR for it yet")
    });
    assert!(keys(&api, "blocks/").is_empty());
    api.put(NODES, node("node-a", &["10.1.7.0/24"]));
    agent.until("it claims what it was given", || {
        keys(&api, "blocks/") == ["blocks/default/10.1.7.0-24"]
    });
}

/// An agent that begins while the server is away serves from what it knew.
#[test]
fn a_server_that_is_away_disturbs_nothing() {
    let mut api = FakeApi::start();
    api.put(NETWORKS, network("default", json!({"ranges": ["10.1.0.0/16"], "default": true})));
    api.put(NODES, node("node-a", &[]));
    let mut agent = Agent::start(&api, "away", "auto");
    agent.until("a block", || keys(&api, "blocks/").len() == 1);
    agent.until("it is on disk", || {
        fs::read_to_string(agent.dir.join("cache/view.jsonl"))
            .is_ok_and(|log| log.contains("blocks/"))
    });
    agent.until("it is served", || agent.asked("status").contains("10.1."));
    api.stop();
    agent.until("away", || agent.log().contains("the store is away; serving from the last view"));
    agent.again();
    agent.until("it is served by the next one", || agent.asked("ipam").contains("10.1."));
    agent.until("it says so", || agent.asked("status").contains("Connection refused"));
    api.again();
    agent.until("back", || agent.log().contains("the store's full list is here"));
    assert_eq!(keys(&api, "blocks/").len(), 1, "no block beside");
}

#[test]
fn what_the_server_does_not_tell_is_said_by_status() {
    let api = FakeApi::start();
    api.put(NETWORKS, network("default", json!({"ranges": ["10.1.0.0/16"], "default": true})));
    api.put(NODES, node("node-a", &["10.1.7.0/24", "nonsense"]));
    api.refuse("GET", "networkpolicies", usize::MAX, 403, "Forbidden");
    let agent = Agent::start(&api, "untold", "auto");
    let status = || agent.asked("status");
    agent.until("policies are missed", || {
        let said = status();
        said.contains("networkpolicies were not heard of for")
            && said.contains("give weft's role this right")
    });
    agent.until("one podCIDR is none", || status().contains("nonsense\\\" is no prefix: left out"));
    agent.until("the other is taken", || keys(&api, "blocks/") == ["blocks/default/10.1.7.0-24"]);
    api.mend();
    api.put(NODES, node("node-a", &["10.1.7.0/24"]));
    agent.until("all is well", || {
        let said = status();
        !said.contains("were not heard of") && !said.contains("can't be read")
    });
    api.take_only("another");
    api.disconnect();
    agent.until("what to do is said", || {
        let said = status();
        let kinds = "namespaces, nodes, pods, networkpolicies, servicecidrs were not heard of";
        said.contains(kinds) && said.contains("renew the kubeconfig /run/")
    });
}
