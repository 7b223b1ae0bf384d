//! A node whose way out comes by router advertisements: turning forwarding on must not cost it.

use std::process::{Child, Command, Stdio};

use crate::story::*;

/// Seconds that an advertisement is good for.
const LIFETIME: u64 = 4;

/// A real router's daemon on the segment, advertising ten times a second.
pub fn start_radvd(site: &Site, dev: &str, more: &str) -> Child {
    let (config, log) = (site.plan.dir.join("radvd.conf"), site.plan.dir.join("radvd.log"));
    let interface = format!(
        "interface {dev} {{
           AdvSendAdvert on; AdvIntervalOpt on;
           MinRtrAdvInterval 0.07; MaxRtrAdvInterval 0.1; MinDelayBetweenRAs 0.03;
           AdvDefaultLifetime {LIFETIME}; {more}
         }};"
    );
    std::fs::write(&config, interface).unwrap();
    let mut radvd = Command::new("radvd");
    radvd.args(["--nodaemon", "--logmethod", "stderr", "--pidfile", "/run/radvd.pid", "--config"]);
    radvd.arg(config).stdout(Stdio::null()).stderr(std::fs::File::create(log).unwrap());
    site.wire.world.run(|| radvd.spawn()).unwrap().expect("Debian package radvd")
}

/// Seconds until the advertised default route expires; none if there is none.
fn expires(node: &Node) -> Option<u64> {
    let routes = sh(&node.netns, "ip -6 route show default proto ra");
    let after = routes.split_once("expires ")?.1;
    after.split_once("sec")?.0.parse().ok()
}

fn knobs(node: &Node) -> String {
    let files = "/proc/sys/net/ipv6/conf/eth0/accept_ra /proc/sys/net/ipv6/conf/all/forwarding";
    sh(&node.netns, &format!("cat {files}")).replace('\n', " ")
}

fn signal(child: &Child, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

#[test]
fn a_way_out_that_is_advertised_outlives_forwarding_and_goes_on_being_refreshed() {
    let site = built(&plan(2));
    let (node, other) = (&site.nodes[0], &site.nodes[1]);
    for node in &site.nodes {
        sh(&node.netns, "ip -6 route del default");
    }
    let mut radvd = start_radvd(&site, "seg0", "");
    until("advertised", || site.nodes.iter().all(|node| expires(node).is_some()));
    assert_eq!(knobs(node), "1 0 ");
    // What happens where nobody minds the order.
    signal(&radvd, Signal::SIGSTOP);
    sh(&other.netns, "sysctl -w net.ipv6.conf.all.forwarding=1");
    assert_eq!(expires(other), None, "forwarding alone costs the route, or this proves nothing");
    // While nothing is advertised, a route that was lost would stay lost.
    node.start(&[]).unwrap();
    node.wait_until("synced", |node| Ok(node.status()?["store"]["synced"] == true)).unwrap();
    site.apply("net", &site.network("veth", "vxlan", 1)).unwrap();
    node.wait_until("forwarding", |node| Ok(knobs(node) == "2 1 " && node.plan()?.is_empty()))
        .unwrap();
    assert!(expires(node).is_some(), "accept_ra was set too late");
    signal(&radvd, Signal::SIGCONT);
    // Longer than any one advertisement lasts.
    let start = Instant::now();
    until("refreshed", || {
        let left = expires(node);
        assert!(left.is_some(), "gone after {:?}", start.elapsed());
        start.elapsed() > Duration::from_secs(LIFETIME + 1) && left >= Some(LIFETIME - 1)
    });
    assert_eq!(expires(other), None, "the other node still hears no advertisement");
    let pod = node.add_pod("p", "net").unwrap();
    node.delete_pod(pod).unwrap();
    nothing_left(node);
    node.kill().unwrap();
    uninstall(node);
    assert_eq!(knobs(node), "1 0 ");
    assert!(expires(node).is_some(), "put back in the order that keeps the route");
    radvd.kill().unwrap();
    radvd.wait().unwrap();
}
