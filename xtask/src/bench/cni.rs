//! ADD and DEL as a runtime sees them: the start of one program to its end. Contenders take turns
//! within each round, so that a machine that is slow for a while is slow for all.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Map, Value, json};
use weft_linux::{Netns, sandbox};

use super::{
    Rounds,
    contender::{Contender, add_macvlan, nic, start_weft},
};
use crate::run::{self, MUSL, cargo, step, target};

/// Calls of one contender in a row before the next has its turn.
const TURN: usize = 16;
const AT_A_TIME: usize = 8;

/// Samples by what was measured: contender, verb, pods present, how many at a time.
type Samples = BTreeMap<(&'static str, &'static str, usize, usize), Vec<f64>>;

pub fn cni(rounds: &Rounds) -> anyhow::Result<()> {
    let plugin = run::plugin()?;
    let floor = [
        "build",
        "--package",
        "weft-linux",
        "--bin",
        "weft-floor",
        "--profile",
        "plugin",
        "--target",
        MUSL,
    ];
    step("build the floor", cargo().args(floor))?;
    step("build weft", cargo().args(["build", "--release", "--package", "weft"]))?;
    let floor = target().join(MUSL).join("plugin/weft-floor");
    let weft = target().join("release/weft");
    sandbox::enter().context("a benchmark touches no namespace but its own")?;
    let mut samples = Samples::new();
    let contenders = [
        Contender::Weft { plugin: plugin.clone() },
        Contender::WeftMacvlan { plugin },
        Contender::Floor { program: floor },
        Contender::Reference { kind: "bridge" },
        Contender::Reference { kind: "ptp" },
        Contender::Reference { kind: "macvlan" },
    ];
    nic()?;
    let _agent = start_weft(&weft)?;
    add_macvlan(&weft)?;
    let pods = Pods::new(rounds.present.iter().max().copied().unwrap_or(0) + TURN * AT_A_TIME)?;
    for present in &rounds.present {
        // The first round warms up.
        for round in 0..=rounds.turns {
            eprintln!("{present} pods present, round {round} of {}", rounds.turns);
            for contender in &contenders {
                let taken =
                    measure(contender, &pods, *present).with_context(|| contender.name())?;
                if round > 0 {
                    taken.into_iter().for_each(|(key, times)| {
                        samples.entry(key).or_default().extend(times);
                    });
                }
            }
        }
    }
    report(&samples, rounds);
    Ok(())
}

/// Namespaces made beforehand, as runtimes do.
struct Pods(Vec<(Netns, PathBuf)>);

impl Pods {
    fn new(count: usize) -> anyhow::Result<Self> {
        std::fs::create_dir_all("/run/netns")?;
        let make = |n: usize| {
            let (netns, path) = (Netns::create()?, PathBuf::from(format!("/run/netns/bench{n}")));
            netns.bind(&path)?;
            Ok((netns, path))
        };
        (0..count).map(make).collect::<anyhow::Result<_>>().map(Self)
    }
    fn path(&self, n: usize) -> &Path {
        &self.0[n].1
    }
}

/// One contender's turn.
fn measure(contender: &Contender, pods: &Pods, present: usize) -> anyhow::Result<Samples> {
    let mut samples = Samples::new();
    let mut take = |verb, at_a_time, millis| {
        samples.entry((contender.name(), verb, present, at_a_time)).or_default().push(millis);
    };
    for n in 0..present {
        contender.call("ADD", n, pods.path(n))?;
    }
    for (verb, key) in [("ADD", "add"), ("DEL", "del")] {
        for n in present..present + TURN {
            take(key, 1, millis(contender.call(verb, n, pods.path(n))?));
        }
        settle();
    }
    for (verb, key) in [("ADD", "add"), ("DEL", "del")] {
        let took = together(contender, pods, present, verb)?;
        take(key, AT_A_TIME, millis(took) / count(TURN * AT_A_TIME));
        settle();
    }
    for n in 0..present {
        contender.call("DEL", n, pods.path(n))?;
    }
    settle();
    Ok(samples)
}

/// What a DEL left to be freed behind is not counted against the next.
fn settle() {
    // Links that are in their pods' namespaces alone can't be freed in one message.
    std::thread::sleep(Duration::from_millis(500));
}

fn together(
    contender: &Contender,
    pods: &Pods,
    present: usize,
    verb: &str,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..AT_A_TIME)
            .map(|caller| {
                scope.spawn(move || {
                    (0..TURN).try_for_each(|i| {
                        let n = present + caller * TURN + i;
                        contender.call(verb, n, pods.path(n)).map(drop)
                    })
                })
            })
            .collect();
        callers.into_iter().try_for_each(|caller| {
            caller.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked")))
        })
    })?;
    Ok(start.elapsed())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

fn quantile(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn report(samples: &Samples, rounds: &Rounds) {
    let mut medians = BTreeMap::new();
    let mut figures = Map::new();
    println!(
        "{:<18} {:<4} {:>8} {:>5} {:>10} {:>10} {:>10}",
        "contender", "verb", "present", "x", "median ms", "p99 ms", "per s"
    );
    for ((name, verb, present, at_a_time), values) in samples {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (median, p99) = (quantile(&sorted, 50), quantile(&sorted, 99));
        medians.insert((*name, *verb, *present, *at_a_time), median);
        let per_second = 1000.0 / median;
        println!(
            "{name:<18} {verb:<4} {present:>8} {at_a_time:>5} {median:>10.2} {p99:>10.2} {per_second:>10.0}"
        );
        let key = format!("{}.{verb}.present{present}.x{at_a_time}", name.replace(' ', "_"));
        figures.insert(key, json!({"median_ms": median, "p99_ms": p99, "per_s": per_second, "samples": sorted.len()}));
    }
    let mut ratios = Map::new();
    for verb in ["add", "del"] {
        for present in &rounds.present {
            for at_a_time in [1, AT_A_TIME] {
                let of =
                    |name: &'static str| medians.get(&(name, verb, *present, at_a_time)).copied();
                let Some(ours) = of("weft") else { continue };
                let suffix = format!(".present{present}.x{at_a_time}");
                let mut put = |name: &str, value: Option<f64>| {
                    if let Some(value) = value {
                        println!("{verb}.{name}{suffix} = {value:.2}");
                        ratios.insert(format!("{verb}.{name}{suffix}"), json!(value));
                        if *present == 0 && at_a_time == 1 {
                            ratios.insert(format!("{verb}.{name}"), json!(value));
                        }
                    }
                };
                put("ratio_to_floor", of("floor").map(|floor| ours / floor));
                put(
                    "reference_over_ours",
                    of("reference bridge").map(|reference| reference / ours),
                );
                let macvlan = of("reference macvlan").zip(of("weft macvlan"));
                put(
                    "macvlan_reference_over_ours",
                    macvlan.map(|(reference, ours)| reference / ours),
                );
            }
        }
    }
    if rounds.json {
        let all: Value =
            json!({"bench": "cni", "rounds": rounds.turns, "figures": figures, "ratios": ratios});
        println!("{all}");
    }
}
