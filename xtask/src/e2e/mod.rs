//! `cargo xtask e2e`: our own acceptance on a cluster that somebody else made: pods on each node, who
//! reaches whom by which name, policies, several networks, ports of nodes. It leaves nothing behind.

mod kubectl;
mod objects;
mod probe;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::{
    kubectl::Kubectl,
    objects::{HOST_PORT, PORT},
    probe::{Report, url},
};

#[derive(Args)]
pub struct E2e {
    /// The cluster, by a credential that may do everything there
    #[arg(long)]
    kubeconfig: PathBuf,
    /// An image that the nodes have or can pull: busybox, or agnhost of Kubernetes' own tests
    #[arg(long, default_value = "busybox:1.37")]
    image: String,
    /// Leave out what the cluster does not have: services, ports, policies, networks
    #[arg(long, value_delimiter = ',')]
    skip: Vec<String>,
}

const PARTS: [&str; 4] = ["services", "ports", "policies", "networks"];
/// How long pods may take to be ready, and a policy to be in force.
const PATIENCE: &str = "120s";
const SETTLE: Duration = Duration::from_secs(20);

/// What there is to talk to.
struct Site {
    kubectl: Kubectl,
    namespace: String,
    image: String,
    nodes: Vec<Node>,
}

struct Node {
    name: String,
    addrs: Vec<String>,
}

struct Pod {
    name: String,
    addrs: Vec<String>,
}

impl E2e {
    pub fn run(&self) -> anyhow::Result<()> {
        for part in &self.skip {
            ensure!(
                PARTS.contains(&part.as_str()),
                "--skip {part}: known are {}",
                PARTS.join(", ")
            );
        }
        let start = Instant::now();
        let kubectl = Kubectl::new(self.kubeconfig.clone())?;
        let nodes = nodes(&kubectl)?;
        println!("nodes: {}", nodes.iter().map(|n| &*n.name).collect::<Vec<_>>().join(", "));
        let namespace = format!("weft-e2e-{}", std::process::id());
        let site = Site { kubectl, namespace, image: self.image.clone(), nodes };
        site.kubectl.apply(&[objects::namespace(&site.namespace)])?;
        let mut report = Report::default();
        let done = self.parts(&site, &mut report);
        site.clean(&mut report);
        done?;
        println!(
            "{} checks, {} failed, {} s",
            report.all,
            report.failed,
            start.elapsed().as_secs()
        );
        ensure!(report.failed == 0, "{} of {} checks failed", report.failed, report.all);
        Ok(())
    }

    fn parts(&self, site: &Site, report: &mut Report) -> anyhow::Result<()> {
        let pods = site.pods()?;
        site.everybody(report, &pods)?;
        let wanted = |part: &str| !self.skip.iter().any(|skipped| skipped == part);
        if wanted("services") {
            site.services(report, &pods)?;
        }
        if wanted("ports") {
            site.ports(report, &pods)?;
        }
        if wanted("policies") {
            site.policies(report, &pods)?;
        }
        if wanted("networks") {
            site.networks(report)?;
        }
        Ok(())
    }
}

fn list<'a>(value: &'a Value, of: &str) -> impl Iterator<Item = &'a Value> {
    value[of].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn nodes(kubectl: &Kubectl) -> anyhow::Result<Vec<Node>> {
    let all = kubectl.get(&["nodes"])?;
    let ready = |node: &&Value| {
        list(&node["status"], "conditions").any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let nodes = list(&all, "items").filter(ready).map(|node| {
        let addrs = list(&node["status"], "addresses").filter(|a| a["type"] == "InternalIP");
        let addrs = addrs.map(|addr| text(&addr["address"])).collect();
        Node { name: text(&node["metadata"]["name"]), addrs }
    });
    let nodes: Vec<Node> = nodes.collect();
    ensure!(
        !nodes.is_empty(),
        "no node of the cluster is Ready: `kubectl describe nodes` says why"
    );
    Ok(nodes)
}

impl Site {
    /// Two pods on each node.
    fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let named = |(at, node): (usize, &Node)| {
            ["a", "b"].map(|which| {
                objects::pod(&self.namespace, &format!("{which}{at}"), &node.name, &self.image)
            })
        };
        let pods: Vec<Value> = self.nodes.iter().enumerate().flat_map(named).collect();
        self.account()?;
        self.start(&pods)
    }

    /// Pods need the namespace's account, which comes a moment after the namespace.
    fn account(&self) -> anyhow::Result<()> {
        let end = Instant::now() + SETTLE;
        while let Err(error) = self.kubectl.get(&["-n", &self.namespace, "sa", "default"]) {
            ensure!(Instant::now() < end, "{error:#}");
            std::thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    fn start(&self, pods: &[Value]) -> anyhow::Result<Vec<Pod>> {
        self.kubectl.apply(pods)?;
        let names: Vec<String> =
            pods.iter().map(|pod| format!("pod/{}", text(&pod["metadata"]["name"]))).collect();
        let mut wait = vec!["wait", "-n", &self.namespace, "--for=condition=Ready"];
        let timeout = format!("--timeout={PATIENCE}");
        wait.push(&timeout);
        wait.extend(names.iter().map(String::as_str));
        if let Err(error) = self.kubectl.say(&wait, None) {
            let events = ["get", "events", "-n", &self.namespace, "--field-selector=type=Warning"];
            let events = self.kubectl.say(&events, None).unwrap_or_default();
            bail!("{error:#}\n{events}");
        }
        let all = self.kubectl.get(&["-n", &self.namespace, "pods"])?;
        let of = |pod: &Value| Pod {
            name: text(&pod["metadata"]["name"]),
            addrs: list(&pod["status"], "podIPs").map(|ip| text(&ip["ip"])).collect(),
        };
        let started =
            |pod: &&Value| names.contains(&format!("pod/{}", text(&pod["metadata"]["name"])));
        Ok(list(&all, "items").filter(started).map(of).collect())
    }

    fn everybody(&self, report: &mut Report, pods: &[Pod]) -> anyhow::Result<()> {
        let urls: Vec<String> =
            pods.iter().flat_map(|pod| &pod.addrs).map(|addr| url(addr, PORT)).collect();
        let families = pods.iter().map(|pod| pod.addrs.len()).min().unwrap_or_default();
        report.say(&format!("pods have {families} addresses each"), families > 0);
        for pod in pods {
            probe::works(self, &pod.name)?;
            report.reach(self, &pod.name, "every pod", &urls, true)?;
        }
        Ok(())
    }

    fn services(&self, report: &mut Report, pods: &[Pod]) -> anyhow::Result<()> {
        self.kubectl.apply(&[objects::service(&self.namespace)])?;
        let service = self.kubectl.get(&["-n", &self.namespace, "service", "e2e"])?;
        let cluster = list(&service["spec"], "clusterIPs").map(|ip| url(&text(ip), 80));
        let cluster: Vec<String> = cluster.collect();
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        let port = u16::try_from(port).context("the Service got no port of the nodes")?;
        // Nodes answer in the Service's families alone.
        let families = cluster.iter().map(|url| url.contains('[')).collect::<Vec<_>>();
        let of_nodes = self.nodes.iter().flat_map(|node| &node.addrs);
        let of_nodes: Vec<String> = of_nodes
            .filter(|addr| families.contains(&addr.contains(':')))
            .map(|addr| url(addr, port))
            .collect();
        for pod in pods {
            report.settle(self, &pod.name, "the Service's ClusterIP", &cluster, true)?;
            report.settle(self, &pod.name, "the Service's port of each node", &of_nodes, true)?;
        }
        if self.kubectl.get(&["-n", "kube-system", "service", "kube-dns"]).is_err() {
            println!("not tried: names, since the cluster has no Service kube-dns");
            return Ok(());
        }
        let name = [format!("http://e2e.{}/", self.namespace)];
        for pod in pods {
            report.settle(self, &pod.name, "the Service's name", &name, true)?;
        }
        Ok(())
    }

    fn ports(&self, report: &mut Report, pods: &[Pod]) -> anyhow::Result<()> {
        let Some(node) = self.nodes.first() else { return Ok(()) };
        let mut pod = objects::pod(&self.namespace, "port", &node.name, &self.image);
        let port = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
        pod["spec"]["containers"][0]["ports"] = port;
        let has = self.start(&[pod])?;
        let ipv6 = has.iter().flat_map(|pod| &pod.addrs).any(|addr| addr.contains(':'));
        let addrs = node.addrs.iter().filter(|addr| ipv6 || !addr.contains(':'));
        let urls: Vec<String> = addrs.map(|addr| url(addr, HOST_PORT)).collect();
        for pod in pods {
            report.settle(self, &pod.name, "a pod's port of its node", &urls, true)?;
        }
        Ok(())
    }

    fn policies(&self, report: &mut Report, pods: &[Pod]) -> anyhow::Result<()> {
        let Some(friend) = pods.first() else { return Ok(()) };
        for from in [None, Some(friend.name.as_str())] {
            self.kubectl.apply(&[objects::policy(&self.namespace, from)])?;
            for pod in pods {
                let others = pods.iter().filter(|other| other.name != pod.name);
                let urls: Vec<String> =
                    others.flat_map(|other| &other.addrs).map(|a| url(a, PORT)).collect();
                let let_in = from == Some(pod.name.as_str());
                let whom = if let_in { "pods that let it in" } else { "pods that let it not in" };
                report.settle(self, &pod.name, whom, &urls, let_in)?;
            }
        }
        self.kubectl.say(&["delete", "-n", &self.namespace, "networkpolicy", "e2e"], None)?;
        let urls: Vec<String> = pods.iter().flat_map(|p| &p.addrs).map(|a| url(a, PORT)).collect();
        for pod in pods {
            report.settle(self, &pod.name, "every pod once the policy is gone", &urls, true)?;
        }
        Ok(())
    }

    /// Pods in a second network too, where the cluster knows NetworkAttachmentDefinitions.
    fn networks(&self, report: &mut Report) -> anyhow::Result<()> {
        self.kubectl.apply(&objects::network(&self.namespace, &self.namespace))?;
        let pods: Vec<Value> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let name = format!("two{at}");
                let mut pod = objects::pod(&self.namespace, &name, &node.name, &self.image);
                pod["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/networks": "second"});
                pod
            })
            .collect();
        let pods = self.start(&pods)?;
        let mut urls = Vec::new();
        for pod in &pods {
            let second = self.kubectl.exec(
                &self.namespace,
                &pod.name,
                "ip -4 -o addr show net1 | sed 's/.*inet //; s/[ /].*//'",
            )?;
            let second = second.trim();
            report
                .say(&format!("{} has {second} on net1", pod.name), second.starts_with("10.199."));
            urls.push(url(second, PORT));
        }
        for pod in &pods {
            report.settle(self, &pod.name, "pods in the second network", &urls, true)?;
        }
        Ok(())
    }

    fn clean(&self, report: &mut Report) {
        let namespace = ["delete", "namespace", &self.namespace, "--timeout=60s"];
        let gone = self.kubectl.say(&namespace, None);
        // It may never have been made, and the cluster may not know the kind.
        let network = ["delete", "networks.weft.network", &self.namespace, "--ignore-not-found"];
        let _ = self.kubectl.say(&network, None);
        if let Err(error) = gone {
            report.say(&format!("clean up: {error:#}"), false);
        }
    }
}
