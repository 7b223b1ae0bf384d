//! The guided run's part on DHCP: a real server (dnsmasq, where it is installed) on the nodes' second switch
//! gives pods their addresses.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use serde_json::json;
use weft_linux::{Netns, rig};

use super::{Cluster, Pod, Responder, guide::clean, probe::reach, show::Show};

const NETWORK: &str = "leased";

/// A host of the second switch that gives addresses.
struct Server {
    daemon: Child,
    leases: PathBuf,
    _netns: Netns,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Server {
    /// None: there is no such program here.
    fn start(cluster: &Cluster) -> anyhow::Result<Option<Self>> {
        let switch = cluster.wire.lan()?;
        let (netns, leases) = (Netns::create()?, cluster.plan.dir.join("dhcp.leases"));
        rig::pair(&netns, "eth0", switch, "dhcp", 1500)?;
        rig::port(switch, "dhcp", "br0")?;
        rig::addr(&netns, "eth0", "10.77.0.2/24".parse()?)?;
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args(["--conf-file=/dev/null", "--no-daemon", "--port=0", "--interface=eth0"]);
        dnsmasq.args(["--dhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,1h", "--no-ping"]);
        dnsmasq.args(["--dhcp-authoritative", "--pid-file="]);
        dnsmasq.arg(format!("--dhcp-leasefile={}", leases.display()));
        dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match netns.run(|| dnsmasq.spawn())? {
            Ok(daemon) => Ok(Some(Self { daemon, leases, _netns: netns })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rig::delete_link(switch, "dhcp")?;
                Ok(None)
            }
            Err(error) => Err(error).context("start dnsmasq"),
        }
    }

    fn given(&self) -> usize {
        fs::read_to_string(&self.leases).unwrap_or_default().lines().count()
    }
}

pub fn run(cluster: &Cluster, show: &Show) -> anyhow::Result<()> {
    show.step("\n== addresses by DHCP: macvlan on eth1, the network's own server gives them");
    let Some(server) = Server::start(cluster)? else {
        show.step("   left out, no server is installed (dnsmasq)");
        return Ok(());
    };
    let network = json!({
        "attach": {"kind": "macvlan", "parent": "eth1", "mode": "bridge"},
        "join": {"kind": "underlay", "addresses": "dhcp"}, "ranges": ["10.77.0.0/24"],
    });
    cluster.apply(NETWORK, &network)?;
    for node in &cluster.nodes {
        node.wait_until("serving it", |node| {
            let status = node.status()?;
            Ok(status["converged"] == true && status["networks"][NETWORK]["leases"].is_array())
        })?;
    }
    let pods = cluster.add_pods_of(1, NETWORK, "")?;
    let responders: Vec<Responder> = pods.iter().map(Responder::start).collect::<Result<_, _>>()?;
    for from in &pods {
        let others = pods.iter().filter(|to| to.name != from.name);
        for addr in others.flat_map(|to: &Pod| &to.addrs) {
            ensure!(reach(&from.netns, *addr).is_some(), "{} does not reach {addr}", from.name);
        }
    }
    let lease = &cluster.nodes[0].status()?["networks"][NETWORK]["leases"][0];
    ensure!(server.given() == pods.len(), "the server gave {} addresses", server.given());
    let word = |field: &str| lease[field].as_str().unwrap_or("?").to_owned();
    show.step(&format!(
        "   {} pods, each with a lease, as {} of {} from {}; they reach each other",
        pods.len(),
        word("addr"),
        word("pod"),
        word("server"),
    ));
    drop(responders);
    cluster.delete_pods(pods)?;
    cluster.nodes[0].wait_until("given back", |_| Ok(server.given() == 0))?;
    clean(cluster, &[NETWORK])?;
    show.step("   pods deleted: every address is given back");
    // Before the server's namespace, which would take it along at some time of its own.
    rig::delete_link(cluster.wire.lan()?, "dhcp")?;
    drop(server);
    Ok(())
}
