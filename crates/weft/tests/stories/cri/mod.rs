//! Real runtimes: pods that are asked for through the CRI, made by containerd and runc, with the network
//! that `weft-cni` gives them. They need root.

mod containerd;
mod wire;

use std::net::{IpAddr, SocketAddr};

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
    let (done, said) = at.exec(from, &format!("wget -q -T 5 -O - {}", url(addr, port)));
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
        at.end(&pod.pod).unwrap();
        // As the kubelet does where it is not sure.
        at.end(&pod.pod).unwrap();
    }
    site.nodes.iter().for_each(nothing_left);
}

fn through_containerd(plan: &Plan, models: &[(&str, &str)]) {
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
        pods_meet(&site, &runtimes, &format!("{attach} × {join}"), true);
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
    through_containerd(&plan(3), &models);
}

#[test]
fn pods_of_containerd_meet_in_every_underlay() {
    let models = [("veth", "host-gw"), ("bridge", "host-gw"), ("veth", "auto"), ("veth", "bgp")];
    through_containerd(&plan(3), &models);
}

#[test]
fn pods_of_containerd_meet_on_the_physical_network() {
    for mode in ["macvlan/bridge", "macvlan/private", "macvlan/vepa", "macvlan/passthru"] {
        through_containerd(&crate::lan::lan(3), &[(mode, "underlay")]);
    }
}
