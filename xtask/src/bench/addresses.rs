//! Many pods on a few nodes that share one range through a real etcd: how long an address takes as the
//! agents measure it, and how long everything takes.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use weft_linux::{Netns, rig, sandbox};

use super::contender::{ask, call};
use crate::run::{self, cargo, step, target};

#[derive(Args)]
pub struct Addresses {
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Pods in all
    #[arg(long, default_value_t = 1000)]
    pods: usize,
    /// Agents, each in a namespace of its own
    #[arg(long, default_value_t = 10)]
    agents: usize,
    /// ADDs under way on each of them
    #[arg(long, default_value_t = 1)]
    at_a_time: usize,
}

const DIR: &str = "/run/addresses";
const ETCD: &str = "192.0.2.254";
const RANGE: &str = "10.77.0.0/21";
const PATIENCE: Duration = Duration::from_secs(60);
/// No address is to take longer.
const AIM_MICROS: u64 = 50_000;

/// A program that ends with the benchmark.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Node {
    netns: Netns,
    dir: PathBuf,
}

/// What the agents say of their addresses.
#[derive(Default)]
struct Taken {
    count: u64,
    sum: u64,
    slowest: u64,
    within_aim: u64,
}

pub fn addresses(asked: &Addresses) -> anyhow::Result<()> {
    let plugin = run::plugin()?;
    let build = ["build", "--release", "--package", "weft", "--features", "etcd"];
    step("build weft", cargo().args(build))?;
    let weft = target().join("release/weft");
    let data = target().join("bench-etcd");
    let _ = fs::remove_dir_all(&data);
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    let wire = Netns::create()?;
    rig::bridge(&wire, "br0")?;
    rig::addr(&wire, "br0", format!("{ETCD}/24").parse()?)?;
    wire.run(|| rig::up_here("lo"))??;
    let _etcd = etcd(&wire, &data)?;
    let nodes: Vec<Node> = (0..asked.agents).map(|n| node(&wire, n)).collect::<Result<_, _>>()?;
    let agents: Vec<Running> =
        nodes.iter().map(|node| start(node, &weft)).collect::<Result<_, _>>()?;
    serve(&nodes, &weft)?;
    let names: Vec<(usize, PathBuf, Netns)> = (0..asked.pods)
        .map(|n| namespace(n).map(|(path, netns)| (n, path, netns)))
        .collect::<Result<_, _>>()?;
    let start = Instant::now();
    let given = all(asked, &nodes, |node, n| add(&plugin, node, n, &names[n].1))?;
    let took = start.elapsed();
    let different: BTreeSet<&String> = given.iter().collect();
    ensure!(different.len() == asked.pods, "{} addresses for {} pods", different.len(), asked.pods);
    let mut taken = Taken::default();
    for node in &nodes {
        taken.add(&metrics(node)?);
    }
    let start = Instant::now();
    all(asked, &nodes, |node, n| cni(&plugin, node, "DEL", n, &names[n].1).map(drop))?;
    let deleted = start.elapsed();
    drop(agents);
    let _ = fs::remove_dir_all(&data);
    report(asked, took, deleted, &taken);
    Ok(())
}

fn report(asked: &Addresses, took: Duration, deleted: Duration, taken: &Taken) {
    let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1000.0;
    let mean = millis(taken.sum) / f64::from(u32::try_from(taken.count.max(1)).unwrap_or(1));
    println!("{} pods on {} agents, range {RANGE}, etcd", asked.pods, asked.agents);
    println!("  all added   {:>8.2} s", took.as_secs_f64());
    println!("  all deleted {:>8.2} s", deleted.as_secs_f64());
    println!("  an address, on average {mean:>8.3} ms");
    println!("  the slowest            {:>8.3} ms", millis(taken.slowest));
    println!("  above 50 ms            {:>8}", taken.count - taken.within_aim);
    if asked.json {
        let figures = json!({
            "added_s": took.as_secs_f64(), "deleted_s": deleted.as_secs_f64(),
            "mean_ms": mean, "slowest_ms": millis(taken.slowest),
            "above_50_ms": taken.count - taken.within_aim,
        });
        let (pods, agents) = (asked.pods, asked.agents);
        let said =
            json!({"bench": "addresses", "pods": pods, "agents": agents, "figures": figures});
        println!("{said}");
    }
}

fn etcd(wire: &Netns, data: &Path) -> anyhow::Result<Running> {
    fs::create_dir_all(DIR)?;
    let log = fs::File::create(Path::new(DIR).join("etcd.log"))?;
    let url = format!("http://{ETCD}:2379");
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(data);
    etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380"]).stdout(Stdio::null()).stderr(log);
    let child = wire.run(|| etcd.spawn())?.context("start etcd (Debian package etcd-server)")?;
    Ok(Running(child))
}

/// A namespace with two NICs on the wire: its own, and the parent of its pods' links.
fn node(wire: &Netns, n: usize) -> anyhow::Result<Node> {
    let netns = Netns::create()?;
    netns.run(|| rig::up_here("lo"))??;
    for dev in ["eth0", "eth1"] {
        let port = format!("n{n}-{dev}");
        rig::pair(&netns, dev, wire, &port, 1500)?;
        rig::port(wire, &port, "br0")?;
    }
    rig::addr(&netns, "eth0", format!("192.0.2.{}/24", n + 1).parse()?)?;
    Ok(Node { netns, dir: Path::new(DIR).join(format!("node-{n}")) })
}

fn start(node: &Node, weft: &Path) -> anyhow::Result<Running> {
    fs::create_dir_all(&node.dir)?;
    let config = json!({
        "node": node.dir.file_name().unwrap_or_default().to_string_lossy(),
        "store": {"etcd": {"endpoints": [format!("http://{ETCD}:2379")]}},
        "runDir": node.dir, "cacheDir": node.dir.join("cache"),
    });
    let file = node.dir.join("agent.yaml");
    fs::write(&file, config.to_string())?;
    let log = fs::File::create(node.dir.join("log"))?;
    let mut agent = Command::new(weft);
    agent.args(["agent", "--config"]).arg(file).stderr(log);
    Ok(Running(node.netns.run(|| agent.spawn())?.context("start the agent")?))
}

/// Makes the network and waits until every node serves it.
fn serve(nodes: &[Node], weft: &Path) -> anyhow::Result<()> {
    let network = json!({
        "attach": {"kind": "macvlan", "parent": "eth1"}, "join": "underlay", "ranges": [RANGE],
    });
    let file = Path::new(DIR).join("network.yaml");
    fs::write(&file, network.to_string())?;
    let file = file.to_string_lossy();
    let first = nodes.first().context("no agent")?;
    until("a network", || ask(weft, &first.dir, &["network", "apply", "lan", "--file", &file]))?;
    for node in nodes {
        until("all well", || ask(weft, &node.dir, &["status"]))?;
        until("a block", || {
            get(node, "/v1/status").is_ok_and(|status| status.contains("\"blocks\":[\"10.77."))
        })?;
    }
    Ok(())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        ensure!(Instant::now() < end, "not {what} within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn namespace(n: usize) -> anyhow::Result<(PathBuf, Netns)> {
    fs::create_dir_all("/run/netns")?;
    let path = PathBuf::from(format!("/run/netns/pod-{n}"));
    let netns = Netns::create()?;
    netns.bind(&path)?;
    Ok((path, netns))
}

/// Calls for every pod, each node's pods in threads of their own.
fn all<T: Send>(
    asked: &Addresses,
    nodes: &[Node],
    call: impl Fn(&Node, usize) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let workers = nodes.len() * asked.at_a_time;
    let call = &call;
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..workers)
            .map(|worker| {
                let node = &nodes[worker % nodes.len()];
                let pods = (worker..asked.pods).step_by(workers);
                scope.spawn(move || pods.map(|n| call(node, n)).collect::<Result<Vec<T>, _>>())
            })
            .collect();
        let mut done = Vec::new();
        for worker in working {
            match worker.join() {
                Ok(some) => done.extend(some?),
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(done)
    })
}

fn add(plugin: &Path, node: &Node, n: usize, netns: &Path) -> anyhow::Result<String> {
    let answer = cni(plugin, node, "ADD", n, netns)?;
    let address = answer["ips"][0]["address"].as_str().with_context(|| format!("ADD: {answer}"))?;
    Ok(address.to_owned())
}

fn cni(plugin: &Path, node: &Node, verb: &str, n: usize, netns: &Path) -> anyhow::Result<Value> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "weft-cni", "network": "lan",
        "socket": node.dir.join("cni.sock"),
    });
    let out = call(plugin, verb, &format!("pod{n}"), netns, &config)?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{verb} of pod {n}: {said}");
    Ok(serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
}

fn get(node: &Node, path: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(node.dir.join("control.sock"))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn metrics(node: &Node) -> anyhow::Result<Taken> {
    let text = get(node, "/metrics")?;
    let value = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
    };
    Ok(Taken {
        count: value("weft_address_microseconds_count")?,
        sum: value("weft_address_microseconds_sum")?,
        slowest: value("weft_address_slowest_microseconds")?,
        within_aim: value(&format!("weft_address_microseconds_bucket{{le=\"{AIM_MICROS}\"}}"))?,
    })
}

impl Taken {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.slowest = self.slowest.max(other.slowest);
        self.within_aim += other.within_aim;
    }
}
