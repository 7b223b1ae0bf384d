//! What every story uses: a cluster that ends with the story, commands in a namespace, and
//! questions to a node. No story is told here.

use std::{collections::BTreeSet, fs, ops::Deref, process::Command};

pub use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use nix::sys::signal::Signal;
pub use serde_json::{Value, json};
pub use weft::lab::{
    Cluster, Families, Flow, FlowKind, Node, Plan, Pod, Report, Responder, Switch, Topology,
    largest, reach, too_big,
};
pub use weft_linux::{Netns, rig};

pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_weft").into()
}

/// In the caller's sandbox: a test that is not in one must not touch the host.
pub fn plan(nodes: usize) -> Plan {
    assert_eq!(std::process::id() / 100, 0, "run by `cargo xtask test`, which makes a sandbox");
    Plan { nodes, pods: 1, ..Plan::default() }
}

/// A cluster for as long as this lives. Its end makes room for the next of the same test, whose
/// nodes and pods have the same names.
pub struct Site {
    cluster: Cluster,
    _end: End,
}

/// Dropped after the cluster, whose agents must be gone by then.
struct End(PathBuf);

impl Deref for Site {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for name in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            forget(&name.path());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Takes away a namespace's file.
pub fn forget(path: &Path) {
    let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Nodes on a wire, no agent started yet.
pub fn built(plan: &Plan) -> Site {
    site(plan, Cluster::build(plan, &program()).unwrap())
}

pub fn site(plan: &Plan, cluster: Cluster) -> Site {
    Site { cluster, _end: End(plan.dir.clone()) }
}

/// Starts the agents and gives them the network `net`; waits for nothing.
pub fn begin(site: &Site, attach: &str, join: &str) {
    site.start().unwrap();
    site.apply("net", &site.network(attach, join, 1)).unwrap();
}

/// Rewrites a node's agent.yaml, before its agent starts.
pub fn configure(node: &Node, change: impl FnOnce(&mut Value)) {
    let path = node.dir().join("agent.yaml");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// What dies with a boot is gone: pods, `/run`, every link, route and rule of the node. The next boot
/// has another name.
pub fn reboot(node: &Node, pods: impl IntoIterator<Item = Pod>) {
    node.kill().unwrap();
    pods.into_iter().for_each(|pod| forget(&pod.path));
    for name in fs::read_dir(node.dir()).unwrap().flatten() {
        // The configuration and the cache are on a disk.
        if !["agent.yaml", "cache", "agent.log"].iter().any(|kept| name.file_name() == *kept) {
            let path = name.path();
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
        }
    }
    sh(
        &node.netns,
        "set +e
         nft flush ruleset
         for ip in ip 'ip -6'; do
           $ip route show proto 119 | while read dst block rest; do
             [ $dst = blackhole ] && dst=\"blackhole $block\"
             $ip route del $dst proto 119; done; done
         for dev in $(ls /sys/class/net | grep ^weft); do ip link del $dev || true; done
         for family in ipv4 ipv6; do
           echo 0 > /proc/sys/net/$family/$([ $family = ipv4 ] && echo ip_forward || echo conf/all/forwarding)
         done",
    );
    let boot = node.dir().join("boot_id");
    let file = "/proc/sys/kernel/random/boot_id";
    fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&boot), file, None::<&str>, bind, None::<&str>).unwrap();
    node.start(&[]).unwrap();
    // The others' boot is the one that it was.
    until("started", || node.status().is_ok_and(|status| status["store"]["synced"] == true));
    nix::mount::umount2(file, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

/// A cluster whose network `net` serves by this attach and join.
pub fn cluster_of(plan: &Plan, attach: &str, join: &str) -> Site {
    let site = built(plan);
    begin(&site, attach, join);
    site.settled("net", join).unwrap();
    site
}

pub fn cluster(nodes: usize, attach: &str, join: &str) -> Site {
    cluster_of(&plan(nodes), attach, join)
}

/// A pod on every node, each answering whoever asks.
pub fn answering(site: &Site) -> (Vec<Pod>, Vec<Responder>) {
    let pods = site.add_pods("net", "").unwrap();
    let echo = responders(&pods);
    (pods, echo)
}

pub fn responders<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<Responder> {
    pods.into_iter().map(|pod| Responder::start(pod).unwrap()).collect()
}

/// The released plugin in place of the lab's, where the caller has built it (`cargo xtask test`).
pub fn with_released_plugin(site: &Site) {
    if let Some(plugin) = std::env::var_os("WEFT_CNI") {
        let place = site.plan.dir.join("bin/weft-cni");
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink(plugin, place).unwrap();
    }
}

/// A namespace with a file below /run/netns, as a runtime makes one before it calls ADD.
pub fn namespace(name: &str) -> (Netns, PathBuf) {
    let (netns, path) = (Netns::create().unwrap(), PathBuf::from("/run/netns").join(name));
    netns.bind(&path).unwrap();
    (netns, path)
}

/// The same numbers in every run (xorshift64*): what fails once fails again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

pub fn sh(netns: &Netns, command: &str) -> String {
    let out = netns.run(|| Command::new("sh").args(["-ec", command]).output().unwrap()).unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub fn reaches(from: &Pod, to: &Pod) -> bool {
    let both = |ipv4: bool| to.addr(ipv4).is_none_or(|addr| reach(&from.netns, addr).is_some());
    both(true) && both(false)
}

pub fn empty_plan(node: &Node) {
    node.wait_until("without anything to do", |node| Ok(node.plan()?.is_empty())).unwrap();
}

pub fn pods(node: &Node) -> Vec<Value> {
    node.ask("GET", "/v1/pods", None).unwrap().as_array().unwrap().clone()
}

/// Every address that the ledger has, once.
pub fn leases(node: &Node) -> BTreeSet<String> {
    let all: Vec<String> = pods(node)
        .iter()
        .flat_map(|pod| pod["addrs"].as_array().unwrap().clone())
        .map(|addr| addr.as_str().unwrap().to_owned())
        .collect();
    let different: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(all.len(), different.len(), "an address was given twice: {all:?}");
    different
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "not {what} within 30 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn pod_links(node: &Node) -> usize {
    sh(&node.netns, "ip -o link show type veth")
        .lines()
        .filter(|line| line.contains("weft"))
        .count()
}

/// `weft uninstall` on the node, whose agent is stopped; what it says.
pub fn uninstall(node: &Node) -> String {
    let (mut weft, config) = (Command::new(program()), node.dir().join("agent.yaml"));
    weft.args(["uninstall", "--config"]).arg(config);
    let out = node.netns.run(|| weft.output().unwrap()).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The end of every story: no attachment, no link, nothing to do.
pub fn nothing_left(node: &Node) {
    node.wait_until("free", |node| Ok(node.status()?["pods"] == 0)).unwrap();
    until("without a link of a pod", || pod_links(node) == 0);
    empty_plan(node);
}
