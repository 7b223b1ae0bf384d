//! NetworkPolicies, of every kind of link: who reaches whom under them, from a pod's first instruction
//! on, while the agent is away, and after somebody was at the tables.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    plugin::some_call_waits,
    services::{ENDPOINT, SERVICE, cluster_ip, kube_proxy, load, seen_at, serve},
    story::*,
};

/// What the cluster says: a directory of objects that all agents read.
pub struct Objects(PathBuf);

impl Objects {
    fn new(plan: &Plan) -> Self {
        let dir = plan.dir.join("policies");
        fs::create_dir_all(&dir).unwrap();
        let objects = Self(dir);
        objects.put("ns", &json!({"kind": "Namespace", "metadata": {"name": "lab"}}));
        objects
    }

    fn put(&self, file: &str, object: &Value) {
        let (new, path) = (self.0.join("new"), self.0.join(file).with_extension("json"));
        fs::write(&new, object.to_string()).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.0.join(file).with_extension("json")).unwrap();
    }

    /// As the API server has it: before it runs, a pod has no address.
    pub fn pod(&self, node: &Node, name: &str, addrs: &[IpAddr]) {
        let ips: Vec<Value> = addrs.iter().map(|addr| json!({"ip": addr})).collect();
        self.put(
            &format!("pod-{name}"),
            &json!({"kind": "Pod", "metadata": {"namespace": "lab", "name": name, "labels": {"app": name}},
                "spec": {"nodeName": node.name}, "status": {"podIPs": ips}}),
        );
    }

    pub fn policy(&self, name: &str, spec: &Value) {
        let metadata = json!({"namespace": "lab", "name": name});
        let object = json!({"kind": "NetworkPolicy", "metadata": metadata, "spec": spec});
        self.put(&format!("policy-{name}"), &object);
    }
}

fn app(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

/// Only these may come in to `to`, by TCP to one port.
pub fn only(to: &str, from: &[&str]) -> Value {
    let from: Vec<Value> = from.iter().map(|name| app(name)).collect();
    json!({"podSelector": {"matchLabels": {"app": to}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": from, "ports": [{"protocol": "TCP", "port": ENDPOINT}]}]})
}

/// Only to these may it leave.
pub fn only_out(from: &str, to: &[&str]) -> Value {
    let to: Vec<Value> = to.iter().map(|name| app(name)).collect();
    json!({"podSelector": {"matchLabels": {"app": from}}, "policyTypes": ["Egress"], "egress": [{"to": to}]})
}

/// A cluster that reads policies, without a network yet.
fn reading(plan: &Plan) -> (Site, Objects) {
    let site = built(plan);
    let objects = Objects::new(plan);
    for node in &site.nodes {
        configure(node, |config| config["policies"] = json!(objects.0));
    }
    (site, objects)
}

pub fn world(attach: &str, join: &str) -> (Site, Objects) {
    let (site, objects) = reading(&Plan { pods: 2, lan: true, ..plan(2) });
    begin(&site, attach, join);
    site.settled("net", join).unwrap();
    (site, objects)
}

/// a1, a2, b1, b2: each known to the cluster, with its address once it has one.
pub fn add_pods(site: &Site, objects: &Objects) -> Vec<Pod> {
    let names = ["a1", "a2", "b1", "b2"];
    let node = |name: &str| &site.nodes[usize::from(name.starts_with('b'))];
    let add = |name: &&str| {
        objects.pod(node(name), name, &[]);
        let pod = node(name).add_pod(name, "net").unwrap();
        objects.pod(node(name), name, &pod.addrs);
        serve(&pod);
        pod
    };
    names.iter().map(add).collect()
}

/// By TCP and UDP, of both families: which of them pass. None: the families differ.
fn pass(from: &Netns, to: &Pod) -> Option<(bool, bool)> {
    let all = |tcp| {
        let at = |addr: &IpAddr| SocketAddr::new(*addr, ENDPOINT);
        let mut each = to.addrs.iter().map(|addr| seen_at(from, at(addr), tcp).is_some());
        let first = each.next()?;
        each.all(|one| one == first).then_some(first)
    };
    all(true).zip(all(false))
}

fn passing(from: &Netns, to: &Pod) -> (bool, bool) {
    pass(from, to).expect("both families do or neither")
}

fn until_passing(what: &str, from: &Netns, to: &Pod, which: (bool, bool)) {
    until(what, || pass(from, to) == Some(which));
}

const OPEN: (bool, bool) = (true, true);
const SHUT: (bool, bool) = (false, false);
const TCP: (bool, bool) = (true, false);

fn tables(netns: &Netns) -> String {
    sh(netns, "nft list tables")
}

fn policed(netns: &Netns) -> bool {
    tables(netns).contains("weft-policy")
}

pub fn policies_hold(attach: &str, join: &str) {
    let model = format!("{attach} × {join}");
    let (site, objects) = world(attach, join);
    let pods = add_pods(&site, &objects);
    let [a1, a2, b1, b2] = &pods[..] else { panic!() };
    let all = || site.nodes.iter().map(|node| &node.netns).chain(pods.iter().map(|pod| &pod.netns));
    for (from, to) in [(a1, a2), (a2, a1), (b1, a1), (b2, a1), (a1, b1)] {
        until_passing(&format!("{model}: open"), &from.netns, to, OPEN);
    }
    assert!(!all().any(policed), "no policy, no table");
    objects.policy("in", &only("a1", &["a2", "b1"]));
    until_passing(&format!("{model}: shut"), &b2.netns, a1, SHUT);
    assert_eq!(passing(&a2.netns, a1), TCP, "{model}: same node");
    assert_eq!(passing(&b1.netns, a1), TCP, "{model}: other node");
    assert_eq!(passing(&a1.netns, b2), OPEN, "{model}: what it begins itself");
    assert_eq!(passing(&b2.netns, a2), OPEN, "{model}: another pod");
    assert_eq!(passing(&a1.netns, a1), OPEN, "{model}: itself");
    assert_eq!(passing(&site.nodes[0].netns, a1), OPEN, "{model}: its node");
    objects.policy("out", &only_out("a1", &["b1"]));
    until_passing(&format!("{model}: shut in"), &a1.netns, b2, SHUT);
    assert_eq!(passing(&a1.netns, a2), SHUT, "{model}: same node");
    assert_eq!(passing(&a1.netns, b1), OPEN, "{model}: the one that it may reach");
    assert_eq!(passing(&a2.netns, a1), TCP, "{model}: answers leave");
    // Both sides must agree.
    objects.policy("in2", &only("b1", &["a2"]));
    until_passing(&format!("{model}: two sides"), &a1.netns, b1, SHUT);
    assert_eq!(passing(&a2.netns, b1), TCP, "{model}");
    site.nodes.iter().for_each(empty_plan);
    ["in", "out", "in2"].iter().for_each(|name| objects.remove(&format!("policy-{name}")));
    until_passing(&format!("{model}: open again"), &b2.netns, a1, OPEN);
    until("without a table", || !all().any(policed));
    site.delete_pods(pods).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

#[test]
fn policies_hold_with_veth_over_vxlan() {
    policies_hold("veth", "vxlan");
}

#[test]
fn policies_hold_with_veth_over_host_gw() {
    policies_hold("veth", "host-gw");
}

#[test]
fn policies_hold_on_a_bridge() {
    policies_hold("bridge", "vxlan");
}

#[test]
fn policies_hold_in_a_domain() {
    policies_hold("bridge", "vxlan-bridged");
}

#[test]
fn policies_hold_with_macvlan() {
    policies_hold("macvlan/bridge", "underlay");
}

/// Whoever sends without pause from before there is a link, until told to end.
struct Eager {
    ends: Arc<AtomicBool>,
    sent: Vec<Arc<AtomicUsize>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Eager {
    fn start(netns: &Netns, to: &[IpAddr]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let sent: Vec<Arc<AtomicUsize>> = to.iter().map(|_| Arc::default()).collect();
        let threads = to.iter().zip(sent.clone()).map(|(to, sent)| {
            let (ends, to) = (ends.clone(), SocketAddr::new(*to, ENDPOINT + 1));
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = netns.run(|| UdpSocket::bind(any).unwrap()).unwrap();
            thread::spawn(move || {
                while !ends.load(Ordering::SeqCst) {
                    let _ = socket.send_to(b"first!", to);
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), sent, ends }
    }

    /// Waits until it has sent that many more to each.
    fn until_sent(&self, more: usize) {
        let sent = |count: &Arc<AtomicUsize>| count.load(Ordering::SeqCst);
        let goals: Vec<usize> = self.sent.iter().map(|count| sent(count) + more).collect();
        until("sent", || self.sent.iter().zip(&goals).all(|(count, goal)| sent(count) >= *goal));
    }
}

impl Drop for Eager {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Counts what arrives.
struct Arrivals {
    count: Arc<AtomicUsize>,
    marks: Arc<AtomicUsize>,
    /// Sends from the same namespace.
    marker: UdpSocket,
}

const MARK: &[u8] = b"so far";

impl Arrivals {
    fn count_in(netns: &Netns) -> Self {
        let bind = |port| netns.run(|| UdpSocket::bind(("::", port)).unwrap()).unwrap();
        let (socket, marker) = (bind(ENDPOINT + 1), bind(0));
        let (count, marks) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, marked) = (count.clone(), marks.clone());
        thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, _)) = socket.recv_from(&mut bytes) {
                let what = if &bytes[..length] == MARK { &marked } else { &counted };
                what.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { count, marks, marker }
    }

    fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// How many came before now: what the socket holds is read up to a mark of our own.
    fn so_far(&self) -> usize {
        let known = self.marks.load(Ordering::SeqCst);
        self.marker.send_to(MARK, ("::1", ENDPOINT + 1)).unwrap();
        until("read", || self.any() || self.marks.load(Ordering::SeqCst) > known);
        self.count.load(Ordering::SeqCst)
    }
}

/// A pod that sends in its first instruction is denied, and so is what is sent to it.
pub fn denied_from_the_first_instruction(attach: &str, join: &str) {
    let model = format!("{attach} × {join}");
    let (site, objects) = world(attach, join);
    objects.policy(
        "none",
        &json!({"podSelector": {"matchLabels": {"app": "early"}},
        "policyTypes": ["Ingress", "Egress"]}),
    );
    let other = |node: usize, name: &str| {
        objects.pod(&site.nodes[node], name, &[]);
        let pod = site.nodes[node].add_pod(name, "net").unwrap();
        objects.pod(&site.nodes[node], name, &pod.addrs);
        let arrivals = Arrivals::count_in(&pod.netns);
        (pod, arrivals)
    };
    let ((near, at_near), (far, at_far)) = (other(0, "a1"), other(1, "b1"));
    let node = &site.nodes[0];
    objects.pod(node, "early", &[]);
    for round in 0..3 {
        let (netns, path) = namespace("early");
        let targets: Vec<IpAddr> = near.addrs.iter().chain(&far.addrs).copied().collect();
        let eager = Eager::start(&netns, &targets);
        let inside = Arrivals::count_in(&netns);
        let config = node.cni_config("net");
        let args = [("CNI_ARGS", "K8S_POD_NAMESPACE=lab;K8S_POD_NAME=early")];
        let (exit, answer) = node.cni("ADD", "early", &path, &config, &args).unwrap();
        assert_eq!(exit, 0, "{model}: {answer}");
        let ips = answer["ips"].as_array().unwrap().iter();
        let own: Vec<IpAddr> = ips
            .map(|ip| ip["address"].as_str().unwrap().parse::<ipnet::IpNet>().unwrap().addr())
            .collect();
        let from_near = Eager::start(&near.netns, &own);
        let from_far = Eager::start(&far.netns, &own);
        [&eager, &from_near, &from_far].iter().for_each(|eager| eager.until_sent(1000));
        for (what, arrivals) in [("near", &at_near), ("far", &at_far), ("in", &inside)] {
            assert_eq!(arrivals.so_far(), 0, "{model}, round {round}: {what}");
        }
        if round == 2 {
            // All of it would have arrived.
            objects.remove("policy-none");
            until(&format!("{model}: heard"), || {
                [&at_near, &at_far, &inside].iter().all(|arrivals| arrivals.any())
            });
        }
        drop((eager, from_near, from_far));
        let (exit, answer) = node.cni("DEL", "early", &path, &config, &[]).unwrap();
        assert_eq!(exit, 0, "{model}: {answer}");
        drop(netns);
        forget(&path);
    }
    site.delete_pods(vec![near, far]).unwrap();
    site.nodes.iter().for_each(nothing_left);
}

#[test]
fn a_veth_pod_is_denied_from_its_first_instruction() {
    denied_from_the_first_instruction("veth", "vxlan");
}

#[test]
fn a_bridge_pod_is_denied_from_its_first_instruction() {
    denied_from_the_first_instruction("bridge", "vxlan");
}

#[test]
fn a_domain_pod_is_denied_from_its_first_instruction() {
    denied_from_the_first_instruction("bridge", "vxlan-bridged");
}

#[test]
fn a_macvlan_pod_is_denied_from_its_first_instruction() {
    denied_from_the_first_instruction("macvlan/bridge", "underlay");
}

#[test]
fn a_pod_that_the_cluster_does_not_know_is_refused() {
    let (site, objects) = world("veth", "vxlan");
    let (_, path) = namespace("odd");
    let node = &site.nodes[0];
    let args = [("CNI_ARGS", "K8S_POD_NAMESPACE=lab;K8S_POD_NAME=odd")];
    let (exit, answer) = node.cni("ADD", "odd", &path, &node.cni_config("net"), &args).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    assert!(answer["details"].as_str().unwrap().contains("lab/odd"), "{answer}");
    // It is waited for.
    let late = thread::scope(|scope| {
        let call =
            scope.spawn(|| node.cni("ADD", "odd", &path, &node.cni_config("net"), &args).unwrap());
        until("the call is in the agent", some_call_waits);
        objects.pod(node, "odd", &[]);
        call.join().unwrap()
    });
    assert_eq!(late.0, 0, "{}", late.1);
}

/// What was denied stays denied and what was open stays open, whoever is away.
fn the_agent_may_be_away(attach: &str, join: &str) {
    let model = format!("{attach} × {join}");
    let (site, objects) = world(attach, join);
    let pods = add_pods(&site, &objects);
    let [a1, a2, b1, b2] = &pods[..] else { panic!() };
    objects.policy("in", &only("a1", &["a2", "b1"]));
    until_passing("shut", &b2.netns, a1, SHUT);
    let flow = Flow::start(FlowKind::Bulk, a1, b2, true).unwrap();
    let node = &site.nodes[0];
    node.kill().unwrap();
    objects.policy("in", &only("a1", &["b2"]));
    let hidden = objects.0.with_file_name("hidden");
    let holds = |when: &str| {
        assert_eq!(passing(&b2.netns, a1), SHUT, "{model}: {when}");
        assert_eq!(passing(&a2.netns, a1), TCP, "{model}: {when}");
        assert_eq!(passing(&b1.netns, a1), TCP, "{model}: {when}");
    };
    holds("without an agent");
    // It comes back, and can't ask what the policies are.
    fs::rename(&objects.0, &hidden).unwrap();
    node.start(&[]).unwrap();
    until("started", || node.status().is_ok_and(|status| status["converged"] == true));
    holds("with an agent that knows nothing yet");
    let (_, path) = namespace("late");
    let args = [("CNI_ARGS", "K8S_POD_NAMESPACE=lab;K8S_POD_NAME=late")];
    let (exit, answer) = node.cni("ADD", "late", &path, &node.cni_config("net"), &args).unwrap();
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{model}: {answer}");
    // Who may do so in the pod may take its table away, until the next look.
    let inside = policed(&a1.netns);
    if inside {
        sh(&a1.netns, "nft delete table inet weft-policy");
    }
    fs::rename(&hidden, &objects.0).unwrap();
    until("looked into", || policed(&a1.netns) == inside);
    until_passing("as it is now", &b2.netns, a1, TCP);
    assert_eq!(passing(&a2.netns, a1), SHUT, "{model}");
    let report = flow.stop();
    assert_eq!(report.resets, 0, "{model}: {report:?}");
}

#[test]
fn the_agent_of_veth_pods_may_be_away() {
    the_agent_may_be_away("veth", "vxlan");
}

#[test]
fn the_agent_of_bridge_pods_may_be_away() {
    the_agent_may_be_away("bridge", "host-gw");
}

#[test]
fn the_agent_of_macvlan_pods_may_be_away() {
    the_agent_may_be_away("macvlan/bridge", "underlay");
}

/// Judged is where a Service leads, not its address: the first pod of each node stands behind one.
fn services_lead_past_no_policy(attach: &str) {
    let (site, objects) = world(attach, "vxlan");
    let pods = add_pods(&site, &objects);
    let [a1, a2, b1, b2] = &pods[..] else { panic!() };
    let endpoints = [a1, b1, b2];
    for node in &site.nodes {
        load(&node.netns, &(kube_proxy(&endpoints, true) + &kube_proxy(&endpoints, false)));
    }
    let serves = |from: &Pod, n: usize| {
        let at = |ipv4| SocketAddr::new(cluster_ip(n, ipv4), SERVICE);
        let families = [true, false].map(|ipv4| seen_at(&from.netns, at(ipv4), true).is_some());
        assert_eq!(families[0], families[1], "{attach}: {} to service {n}", from.name);
        families[0]
    };
    for pod in &pods {
        until("served", || {
            seen_at(&pod.netns, SocketAddr::new(cluster_ip(0, true), SERVICE), true).is_some()
        });
    }
    objects.policy("in", &only("a1", &["a2", "b1"]));
    objects.policy("out", &only_out("a1", &["b1"]));
    until_passing("shut", &b2.netns, a1, SHUT);
    until_passing("shut in", &a1.netns, b2, SHUT);
    assert!(serves(a2, 0) && serves(b1, 0), "{attach}: those that may");
    assert!(!serves(b2, 0), "{attach}: one that may not");
    assert!(serves(a1, 0), "{attach}: itself");
    assert!(serves(a1, 1) && !serves(a1, 2), "{attach}: where it leads");
}

#[test]
fn services_lead_past_no_policy_of_veth_pods() {
    services_lead_past_no_policy("veth");
}

#[test]
fn services_lead_past_no_policy_of_bridge_pods() {
    services_lead_past_no_policy("bridge");
}

#[test]
fn sabotaged_policies_are_healed_in_a_second() {
    let (site, objects) = world("veth", "host-gw");
    let pods = add_pods(&site, &objects);
    let [a1, a2, _, b2] = &pods[..] else { panic!() };
    objects.policy("in", &only("a1", &["a2"]));
    until_passing("shut", &b2.netns, a1, SHUT);
    let node = &site.nodes[0];
    let table = || sh(&node.netns, "nft -s list table inet weft-policy || true");
    let whole = table();
    for sabotage in [
        "nft flush ruleset",
        "nft delete table inet weft-policy",
        "nft flush table inet weft-policy",
        "nft insert rule inet weft-policy forward accept",
        "nft flush map inet weft-policy ingress4",
        "nft add table inet strange; nft delete table inet weft-policy; nft delete table inet strange",
    ] {
        // While the agent sleeps nothing is healed.
        node.signal(Signal::SIGSTOP).unwrap();
        sh(&node.netns, sabotage);
        assert_ne!(table(), whole, "{sabotage}");
        node.signal(Signal::SIGCONT).unwrap();
        let start = Instant::now();
        until(sabotage, || table() == whole);
        assert!(start.elapsed() < Duration::from_secs(1), "{sabotage}: {:?}", start.elapsed());
        assert_eq!(passing(&b2.netns, a1), SHUT, "{sabotage}");
        assert_eq!(passing(&a2.netns, a1), TCP, "{sabotage}");
    }
    // A stranger's table costs no look at ours, and stays.
    sh(&node.netns, "nft add table inet strange");
    empty_plan(node);
    assert!(tables(&node.netns).contains("strange"));
}

#[test]
fn uninstall_takes_policies_with_it() {
    let (site, objects) = world("bridge", "vxlan");
    let pods = add_pods(&site, &objects);
    objects.policy("in", &only("a1", &["a2"]));
    until("policed", || policed(&site.nodes[0].netns) && policed(&pods[0].netns));
    site.nodes[0].kill().unwrap();
    uninstall(&site.nodes[0]);
    assert_eq!(tables(&site.nodes[0].netns), "");
    assert_eq!(tables(&pods[0].netns), "");
}

#[test]
fn a_bridges_frames_may_pass_the_nodes_rules_too() {
    let (site, objects) = world("bridge", "vxlan");
    for node in &site.nodes {
        sh(
            &node.netns,
            "sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1",
        );
    }
    let pods = add_pods(&site, &objects);
    let [a1, a2, b1, b2] = &pods[..] else { panic!() };
    objects.policy("in", &only("a1", &["a2", "b1"]));
    objects.policy("out", &only_out("a1", &["b1"]));
    until_passing("shut", &b2.netns, a1, SHUT);
    assert_eq!(passing(&a2.netns, a1), TCP);
    assert_eq!(passing(&b1.netns, a1), TCP);
    assert_eq!(passing(&a1.netns, a2), SHUT);
    assert_eq!(passing(&a1.netns, b1), OPEN);
}
