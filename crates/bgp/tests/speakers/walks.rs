//! Anything happens to speakers, in any order, and in the end all is as it should be: everybody knows
//! everybody's routes, no other route stays, nobody is stuck.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use weft_bgp::config::Config;

use crate::{
    net::{Net, Numbers},
    setting::{addr, node, originated},
};

/// Longer than any retry, restart and hold time.
const CALM: Duration = Duration::from_secs(500);

/// The nodes of a world and who has a session with whom.
struct World {
    configs: BTreeMap<u8, Config>,
}

fn mesh(size: u8) -> World {
    World { configs: (1..=size).map(|local| (local, node(local, 1..=size))).collect() }
}

/// 1 and 2 reflect to all others.
fn reflected(size: u8) -> World {
    let config = |local| {
        let mut config = node(local, if local <= 2 { 1..=size } else { 1..=2 });
        for (remote, neighbour) in &mut config.neighbours {
            neighbour.client = local <= 2 && *remote > addr(2);
        }
        config
    };
    World { configs: (1..=size).map(|local| (local, config(local))).collect() }
}

fn walk(world: &World, seed: u64, steps: u32) {
    let configs = world.configs.iter().map(|(node, config)| (addr(*node), config.clone()));
    let mut net = Net::new(seed, configs.collect());
    let mut story = vec![];
    for _ in 0..steps {
        let local = 1 + u8::try_from(net.numbers.below(world.configs.len() as u64)).unwrap();
        let now = net.now;
        story.push(format!("{now:?} {}", mishap(&mut net, world, local)));
        let pause = [20, 200, 2000, 20_000][usize::try_from(net.numbers.below(4)).unwrap()];
        let pause = net.numbers.below(pause);
        net.run(Duration::from_millis(pause));
    }
    calm(&mut net, world);
    let wrong = wrong(&net, world);
    assert!(wrong.is_empty(), "seed {seed}\n{}\n{}", story.join("\n"), wrong.join("\n"));
}

fn mishap(net: &mut Net, world: &World, local: u8) -> String {
    let (here, size) = (addr(local), world.configs.len() as u64);
    let runs = net.nodes[&here].speaker.is_some();
    let there = addr(1 + u8::try_from(net.numbers.below(size)).unwrap());
    match net.numbers.below(9) {
        0 if here != there => {
            net.cut(here, there);
            format!("cut {here} {there}")
        }
        1 => {
            net.heal();
            "heal".to_owned()
        }
        2 if runs => {
            net.kill(here);
            format!("kill {here}")
        }
        3 if runs => {
            net.power_off(here);
            format!("power off {here}")
        }
        4 if runs => {
            let for_good = net.numbers.below(2) == 0;
            net.stop(here, for_good);
            format!("stop {here} {for_good}")
        }
        5 if !runs => {
            net.boot(here);
            format!("boot {here}")
        }
        // After the power was off there is nothing to go on from, and it is as good as a boot.
        6 if !runs && !net.is_off(here) => {
            net.restart(here);
            format!("restart {here}")
        }
        _ => {
            let (config, what) = changed(&mut net.numbers, &world.configs[&local], there);
            net.configure(here, config);
            format!("{here} {what} {there}")
        }
    }
}

fn changed(numbers: &mut Numbers, right: &Config, there: IpAddr) -> (Config, &'static str) {
    let mut config = right.clone();
    let turn = numbers.below(10);
    if turn == 0 {
        config.originated = originated(200 + u8::try_from(numbers.below(3)).unwrap());
        return (config, "other routes");
    }
    if turn == 1 {
        config.router_id = "10.9.9.9".parse().unwrap();
        return (config, "other router id");
    }
    if turn == 2 {
        config.neighbours.remove(&there);
        return (config, "no neighbour");
    }
    let Some(neighbour) = config.neighbours.get_mut(&there) else { return (config, "as it was") };
    let what = match turn {
        3 => (neighbour.hold_time = 3, "hold time").1,
        4 => (neighbour.remote_as += 1, "AS").1,
        5 => (neighbour.import.else_pass = false, "import").1,
        6 => (neighbour.routes_max = 0, "limit").1,
        7 => (neighbour.graceful_restart = None, "no graceful restart").1,
        8 => (neighbour.passive = true, "passive").1,
        _ => "as it was",
    };
    (config, what)
}

fn calm(net: &mut Net, world: &World) {
    net.heal();
    for (local, config) in &world.configs {
        net.nodes.get_mut(&addr(*local)).unwrap().config = config.clone();
        if net.nodes[&addr(*local)].speaker.is_none() {
            net.boot(addr(*local));
        } else {
            net.configure(addr(*local), config.clone());
        }
    }
    net.run(CALM);
}

/// What is not as it should be.
fn wrong(net: &Net, world: &World) -> Vec<String> {
    let mut wrong = vec![];
    for (local, config) in &world.configs {
        for remote in config.neighbours.keys() {
            let report = net.report(addr(*local), *remote);
            let odd = report.state != "established" || report.restarting;
            if odd || report.stale.values().any(|n| *n > 0) {
                wrong.push(format!("{report:?}"));
            }
        }
        let (is, should) = (known(net, *local), expected(world, *local));
        if is != should {
            wrong.push(format!("node {local} knows {is:?} instead of {should:?}"));
        }
        if net.speaker_of(addr(*local)).settling() {
            wrong.push(format!("node {local} is settling"));
        }
    }
    wrong
}

type Routes = BTreeMap<IpNet, BTreeSet<IpAddr>>;

fn known(net: &Net, local: u8) -> Routes {
    let learnt = net.learnt(addr(local)).into_iter();
    learnt.map(|l| (l.prefix, l.hops.iter().map(|hop| hop.via).collect())).collect()
}

fn expected(world: &World, local: u8) -> Routes {
    let others = world.configs.keys().filter(|other| **other != local);
    let routes = others.flat_map(|other| {
        let via6: IpAddr = format!("fd00::{other:x}").parse().unwrap();
        let via = move |prefix: &IpNet| if prefix.addr().is_ipv4() { addr(*other) } else { via6 };
        originated(*other).into_keys().map(move |prefix| (prefix, BTreeSet::from([via(&prefix)])))
    });
    routes.collect()
}

#[test]
fn two_speakers_end_well() {
    (1..=150).for_each(|seed| walk(&mesh(2), seed, 30));
}

#[test]
fn three_speakers_end_well() {
    (1..=60).for_each(|seed| walk(&mesh(3), seed, 40));
}

#[test]
fn five_speakers_and_their_reflectors_end_well() {
    (1..=25).for_each(|seed| walk(&reflected(5), seed, 50));
}
