//! One whole agent, as it is released, in a cluster that is not there.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};
use weft_linux::{Netns, rig, sandbox};

use super::{
    Cluster,
    api::Api,
    bare::{Bare, bare},
    index, objects,
};
use crate::{
    bench::{
        contender::{Agent, ask, call_as, nic, spawn_agent},
        resident_kb, resident_most_kb,
    },
    dist::{self, arch::Arch},
    run,
};

const PATIENCE: Duration = Duration::from_secs(180);
/// In which what a burst needed is given back.
const SETTLE: Duration = Duration::from_secs(5);
const DIR: &str = "/run/cluster";

struct Site<'a> {
    asked: &'a Cluster,
    api: Api,
    weft: PathBuf,
    plugin: PathBuf,
    bare: Bare,
}

pub fn whole(asked: &Cluster) -> anyhow::Result<()> {
    let weft = asked.weft.clone().map_or_else(|| dist::agent(Arch::Amd64, "release"), Ok)?;
    let plugin = run::plugin()?;
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    nic()?;
    rig::up_here("lo")?;
    fs::create_dir_all("/run/netns")?;
    // For threads that end with the process.
    let api = Api::start(Box::leak(Box::new(asked.clone())))?;
    let bare = bare(api.at)?;
    let site = Site { asked, api, weft, plugin, bare };
    let figures = site.measure()?;
    println!(
        "{} nodes, {} pods ({:.0} MB of JSON), {} policies, {} namespaces, {} pods here",
        asked.nodes,
        site.bare.pods,
        f64::from(site.bare.kilobytes) / 1e3,
        asked.policies,
        asked.namespaces,
        site.local()
    );
    for (name, value) in &figures {
        println!("  {name:<24} {value:>10.1}");
    }
    if asked.json {
        let figures: Map<String, Value> =
            figures.into_iter().map(|(name, value)| (name.into(), json!(value))).collect();
        println!("{}", json!({"bench": "cluster", "figures": figures}));
    }
    Ok(())
}

impl Site<'_> {
    fn local(&self) -> u32 {
        self.asked.pods / u32::from(self.asked.nodes)
    }

    fn measure(&self) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let start = Instant::now();
        let agent = self.start()?;
        let serves = self.attach(&agent, 0)?;
        let lists = start.elapsed().as_secs_f64();
        let (work, peak) = (ran(&agent)?, resident_most_kb(agent.id())? / 1024.0);
        for n in 1..self.local() {
            self.attach(&agent, n)?;
        }
        until("the plan is empty", || ask(&self.weft, Path::new(DIR), &["plan"]))?;
        std::thread::sleep(SETTLE);
        let rest = resident_kb(agent.id())? / 1024.0;
        let idle = self.while_so(&agent, |_| {})?;
        let pods = self.while_so(&agent, |n| self.pod_changes(n))?;
        let nodes = self.while_so(&agent, |n| self.node_changes(n))?;
        std::thread::sleep(SETTLE);
        let bare = self.bare.time.as_secs_f64();
        let each = bare / f64::from(self.bare.pods) * f64::from(self.asked.pod_changes) * 100.0;
        Ok(vec![
            ("serves after, s", lists),
            ("first ADD asked, s", serves),
            ("start, s of a core", work),
            ("bare list, s of a core", bare),
            ("ratio to bare", work / bare),
            ("peak at start, MB", peak),
            ("at rest, MB", rest),
            ("after changes, MB", resident_kb(agent.id())? / 1024.0),
            ("peak in all, MB", resident_most_kb(agent.id())? / 1024.0),
            ("idle, % of a core", idle),
            ("pod changes, %", pods - idle),
            ("bare pod changes, %", each),
            ("node changes, %", nodes - idle),
        ])
    }

    fn start(&self) -> anyhow::Result<Agent> {
        let dir = Path::new(DIR);
        fs::create_dir_all(dir)?;
        let kubeconfig = dir.join("kubeconfig");
        let server = format!("http://{}", self.api.at);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(&kubeconfig, config.to_string())?;
        let config = json!({
            "node": objects::NODE, "store": {"kubernetes": {"kubeconfig": kubeconfig}},
            "runDir": dir, "cacheDir": dir.join("cache"),
        });
        spawn_agent(&self.weft, dir, &config)
    }

    /// One pod of this node, from when it is asked for to the answer, as often as it is refused.
    fn attach(&self, agent: &Agent, n: u32) -> anyhow::Result<f64> {
        let at = n * u32::from(self.asked.nodes);
        let pod = index::name(self.asked, at);
        let path = PathBuf::from(format!("/run/netns/cluster{n}"));
        Netns::create()?.bind(&path)?;
        let socket = Path::new(DIR).join("cni.sock");
        let config = json!({
            "cniVersion": "1.0.0", "name": "default", "type": "weft-cni", "socket": socket,
        });
        let args = format!(
            "K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            pod.namespace,
            pod.name,
            objects::uid(at)
        );
        let start = Instant::now();
        let mut said = String::new();
        until("an address for a pod", || {
            let made = call_as(&self.plugin, "ADD", &format!("c{n}"), &path, &config, &args);
            said = made.as_ref().map_or_else(ToString::to_string, |made| {
                String::from_utf8_lossy(&made.stdout).into_owned()
            });
            made.is_ok_and(|made| made.status.success()) || ran(agent).is_err()
        })
        .with_context(|| said.clone())?;
        ran(agent).context("the agent has ended")?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Percent of a core that the agent takes while something happens each tenth of a second.
    fn while_so(&self, agent: &Agent, happen: impl Fn(u32)) -> anyhow::Result<f64> {
        let (before, start) = (ran(agent)?, Instant::now());
        for tenth in 0..self.asked.seconds * 10 {
            happen(tenth);
            let next = start + Duration::from_millis(100) * (tenth + 1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok((ran(agent)? - before) / start.elapsed().as_secs_f64() * 100.0)
    }

    /// Pods all over the cluster end, and others start in their place.
    fn pod_changes(&self, tenth: u32) {
        let each = self.asked.pod_changes / 10;
        for n in tenth * each..(tenth + 1) * each {
            let at = (n / 2).wrapping_mul(2_654_435_761) % self.asked.pods;
            if !at.is_multiple_of(u32::from(self.asked.nodes)) {
                self.api.pod(at, n % 2 == 1);
            }
        }
    }

    /// Blocks of nodes move away, and back.
    fn node_changes(&self, tenth: u32) {
        let each = self.asked.node_changes.div_ceil(10);
        for n in tenth * each..(tenth + 1) * each {
            let peer = u16::try_from(1 + n / 2 % (u32::from(self.asked.nodes) - 1)).unwrap_or(1);
            self.api.peer(peer, if n % 2 == 0 { 30_000 + peer } else { peer });
        }
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is() {
        ensure!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Seconds that all threads of the agent ran, in its own code and the kernel's for it.
fn ran(agent: &Agent) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.id()))?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks().context("utime")?, ticks().context("stime")?);
    // What proc(5) counts in is a hundredth of a second on every Linux.
    Ok((user + system) / 100.0)
}
