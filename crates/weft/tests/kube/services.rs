//! Ranges of Services as the API server says them, for pods on a physical network whose network says none.

use crate::{fake::FakeApi, pods::Kubernetes, story::*};

const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn cidrs(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": cidrs},
    })
}

/// ADD for a container of which no cluster knows, as podman calls it.
fn add(node: &Node, network: &str, name: &str) -> Netns {
    let (netns, path) = namespace(name);
    let args = format!("IgnoreUnknown=1;K8S_POD_NAME={name}");
    let config = node.cni_config(network);
    let (exit, answer) = node.cni("ADD", name, &path, &config, &[("CNI_ARGS", &args)]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    netns
}

fn known(pod: &Netns) -> Vec<String> {
    let routes = sh(pod, "ip route show dev weft-eth0; ip -6 route show dev weft-eth0");
    let by_node = routes.lines().filter_map(|line| line.split(' ').next());
    let is_range = |dst: &&str| dst.starts_with("10.96.") || dst.starts_with("10.112.");
    by_node.filter(|dst| is_range(dst) || dst.starts_with("fd96:")).map(str::to_owned).collect()
}

/// Kubernetes before 1.33 has no such objects; another error when the agent begins says nothing of that.
#[test]
fn a_server_that_has_no_service_ranges_is_not_asked_for_their_changes() {
    let kube = Kubernetes::on(&plan(1));
    let node = kube.node();
    node.kill().unwrap();
    kube.api(|api| {
        api.requests();
        api.withdraw(SERVICE_CIDRS, true);
        api.refuse("GET", SERVICE_CIDRS, 1, 401, "Unauthorized");
    });
    node.start(&[]).unwrap();
    let mut asked = Vec::new();
    until("asked for again", || {
        let requests = kube.api(|api| api.requests());
        asked.extend(requests.into_iter().filter(|of| of.path.starts_with(SERVICE_CIDRS)));
        asked.len() > 1
    });
    assert!(!asked.iter().any(crate::fake::Request::is_watch), "{asked:?}");
    nothing_left(node);
}

#[test]
fn pods_on_a_physical_network_know_the_clusters_services() {
    let kube = Kubernetes::on(&Plan { lan: true, ..plan(1) });
    let node = kube.node();
    kube.api(|api| api.put(SERVICE_CIDRS, cidrs("kubernetes", &["10.96.0.0/12", "fd96::/108"])));
    let attach = json!({"kind": "macvlan", "parent": "eth1", "mode": "bridge"});
    let lan = kube.site.lan_network(&attach);
    kube.network("lan", &lan);
    let pod = add(node, "lan", "a");
    until("known", || known(&pod) == ["10.96.0.0/12", "fd96::/108"]);
    kube.api(|api| api.put(SERVICE_CIDRS, cidrs("more", &["10.112.0.0/16"])));
    until("one more", || known(&pod) == ["10.96.0.0/12", "10.112.0.0/16", "fd96::/108"]);
    kube.api(|api| api.delete(SERVICE_CIDRS, "more"));
    until("gone", || known(&pod) == ["10.96.0.0/12", "fd96::/108"]);
    empty_plan(node);
    // An agent that begins while the server is away takes none from a pod, and gives them to what it heals.
    node.kill().unwrap();
    kube.api(FakeApi::stop);
    node.start(&[]).unwrap();
    node.wait_until("serving", |node| Ok(node.status()?["converged"] == true)).unwrap();
    assert_eq!(known(&pod), ["10.96.0.0/12", "fd96::/108"]);
    node.netns.run(|| kube.api(FakeApi::again)).unwrap();
    // Who says which, is believed: none.
    let mut none = lan;
    none["services"] = json!([]);
    kube.network("lan", &none);
    until("none", || known(&pod).is_empty());
    node.cni("DEL", "a", Path::new(""), &node.cni_config("lan"), &[]).unwrap();
    nothing_left(node);
    // What is kept of them goes with all else.
    let kept = node.dir().join("cache");
    assert!(kept.join("services.json").exists());
    node.kill().unwrap();
    uninstall(node);
    assert!(!kept.exists(), "{:?}", std::fs::read_dir(kept).map(Iterator::collect::<Vec<_>>));
}
