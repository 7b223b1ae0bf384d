//! Real runtimes: pods that are asked for through the CRI, made by containerd and runc, with the network
//! that `weft-cni` gives them. They need root.

mod containerd;
mod podman;
mod wire;

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use containerd::{Containerd, Started, prepare};
use wire::PortMapping;

use crate::story::*;

fn url(addr: IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(addr, port))
}

/// True if `from` gets `name` from the address.
fn gets(
    at: &Containerd<'_>,
    from: &Started,
    addr: IpAddr,
    port: u16,
    name: &str,
) -> Result<(), String> {
    let (done, said) = at.exec(from, &format!("wget -q -O - {}", url(addr, port)));
    if done && said.trim() == name { Ok(()) } else { Err(said) }
}

/// Every pod reaches every other, over every address; and ends without a trace.
fn pods_meet(site: &Site, runtimes: &[Containerd<'_>], model: &str, mapped: bool) {
    let port = PortMapping { container_port: 8080, host_port: 8000, ..PortMapping::default() };
    let ports: &[PortMapping] = if mapped { &[port] } else { &[] };
    let pods: Vec<Started> =
        runtimes.iter().enumerate().map(|(n, at)| at.pod(&format!("pod-{n}"), ports)).collect();
    for (from, at) in pods.iter().zip(runtimes) {
        for to in &pods {
            assert!(to.addrs.len() == 2, "{model}: {:?}", to.addrs);
            for addr in &to.addrs {
                let got = gets(at, from, *addr, 8080, &to.name);
                assert_eq!(got, Ok(()), "{model}: {} to {} at {addr}", from.name, to.name);
            }
        }
        let (up, said) = at.exec(from, "ip -o link show lo | grep -q LOOPBACK,UP");
        assert!(up, "{model}: {said}");
    }
    for (n, to) in pods.iter().enumerate().filter(|_| mapped) {
        for ipv4 in [true, false] {
            let addr = crate::citizens::address(&site.nodes[n], ipv4);
            let got = gets(&runtimes[0], &pods[0], addr, 8000, &to.name);
            assert_eq!(got, Ok(()), "{model}: the port of {}", site.nodes[n].name);
        }
    }
    for (at, pod) in runtimes.iter().zip(&pods) {
        // As the kubelet does where it is not sure.
        at.stop(&pod.pod).unwrap();
        at.end(&pod.pod).unwrap();
    }
    site.nodes.iter().for_each(nothing_left);
}

fn through_containerd(plan: &Plan, models: &[(&str, &str)], mapped: bool) {
    prepare();
    let site = built(plan);
    with_released_plugin(&site);
    site.start().unwrap();
    for (n, (attach, join)) in models.iter().enumerate() {
        let number = u8::try_from(n + 1).unwrap();
        let name = format!("net{number}");
        site.apply(&name, &site.network(attach, join, number)).unwrap();
    }
    let runtimes: Vec<Containerd<'_>> = site.nodes.iter().map(Containerd::start).collect();
    for (n, (attach, join)) in models.iter().enumerate() {
        let name = format!("net{}", n + 1);
        site.settled(&name, join).unwrap();
        runtimes.iter().for_each(|at| at.use_network(&name));
        pods_meet(&site, &runtimes, &format!("{attach} × {join}"), mapped);
    }
}

#[test]
fn pods_of_containerd_meet_in_every_overlay() {
    let models = [
        ("veth", "vxlan"),
        ("bridge", "vxlan"),
        ("bridge", "vxlan-bridged"),
        ("veth", "vxlan+multicast"),
        ("bridge", "vxlan-bridged+multicast"),
    ];
    through_containerd(&plan(3), &models, true);
}

#[test]
fn pods_of_containerd_meet_in_every_underlay() {
    let models = [("veth", "host-gw"), ("bridge", "host-gw"), ("veth", "auto"), ("veth", "bgp")];
    through_containerd(&plan(3), &models, true);
}

#[test]
fn pods_of_containerd_meet_on_the_physical_network() {
    for mode in ["macvlan/bridge", "macvlan/private", "macvlan/vepa", "macvlan/passthru"] {
        through_containerd(&crate::lan::lan(3), &[(mode, "underlay")], false);
    }
}

const PODS: u32 = 500;
const AT_ONCE: u32 = 4;

/// What `cargo xtask bench cri` runs.
#[test]
#[ignore = "a benchmark of minutes"]
fn pods_start_and_stop_while_the_agent_is_killed_every_second() {
    prepare();
    let site = cluster(1, "veth", "host-gw");
    with_released_plugin(&site);
    let node = &site.nodes[0];
    let runtime = Containerd::start(node);
    let before = sh(&node.netns, "ip -o link; ip -o addr; ip route; ip -6 route; nft list tables");
    let (next, failed, over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let mut kills = 0;
    let start = Instant::now();
    let one = |n: u32| {
        let made = runtime.run(&format!("pod-{n}"), &[]);
        let ended = made.and_then(|(pod, _)| runtime.end(&pod));
        if let Err(why) = ended {
            println!("pod-{n}: {why}");
            failed.fetch_add(1, Ordering::Relaxed);
        }
    };
    let worker = || {
        let mine = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        mine.take_while(|n| *n < PODS).for_each(one);
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        let over = &over;
        scope.spawn(move || {
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            node.kill().unwrap();
            node.start(&[]).unwrap();
            kills += 1;
        }
    });
    let took = start.elapsed();
    until("the agent is back", || {
        node.status().is_ok_and(|status| status["store"]["synced"] == true)
    });
    nothing_left(node);
    let after =
        || sh(&node.netns, "ip -o link; ip -o addr; ip route; ip -6 route; nft list tables");
    let count = |text: &str| text.lines().count();
    until("as before", || count(&after()) == count(&before));
    let left = std::fs::read_dir(node.dir().join("attachments")).unwrap().count();
    println!(
        "{PODS} pods through the CRI, {AT_ONCE} at once: {:.1} started and stopped a second, \
         {} failures, the agent killed {kills} times, {left} records left",
        f64::from(PODS) / took.as_secs_f64(),
        failed.load(Ordering::Relaxed),
    );
    assert_eq!((failed.load(Ordering::Relaxed), left), (0, 0));
}
