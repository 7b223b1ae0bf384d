//! Debian's podman with its CNI backend: every call is a process of its own, there is no daemon that
//! remembers, and no Kubernetes. It reads weft's configuration as it is.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

use super::containerd::prepare;
use crate::{lan::lan, story::*};

/// Podman on a node, with images, containers and locks of its own.
struct Podman<'a> {
    node: &'a Node,
    dir: PathBuf,
}

impl<'a> Podman<'a> {
    fn on(node: &'a Node, networks: &[&str]) -> Self {
        let dir = node.dir().join("podman");
        let (conf, bin) = (dir.join("net.d"), dir.join("bin"));
        [&conf, &bin].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let plugin = node.plugin("ADD", "", Path::new(""), &[]);
        fs::copy(plugin.get_program(), bin.join("weft-cni")).unwrap();
        for network in networks {
            let mut plugin = node.cni_config(network);
            let fields = plugin.as_object_mut().unwrap();
            fields.retain(|field, _| field != "cniVersion" && field != "name");
            plugin["capabilities"] = json!({"portMappings": true, "ips": true, "mac": true});
            // 1.0.0 is the newest that podman 4.3 knows.
            let list = json!({"cniVersion": "1.0.0", "name": network, "plugins": [plugin]});
            let path = conf.join(format!("10-{network}.conflist"));
            fs::write(path, list.to_string()).unwrap();
        }
        let this = Self { node, dir };
        fs::write(this.dir.join("containers.conf"), this.config(networks[0])).unwrap();
        this.done(&["import", "/run/image/layer.tar", "busybox"]);
        this
    }

    fn config(&self, default: &str) -> String {
        let dir = self.dir.display();
        format!(
            "[network]
             network_backend = \"cni\"
             cni_plugin_dirs = [\"{dir}/bin\"]
             network_config_dir = \"{dir}/net.d\"
             default_network = \"{default}\"
             [engine]
             cgroup_manager = \"cgroupfs\"
             events_logger = \"file\"
             runtime = \"runc\"
             [containers]
             default_sysctls = []
             log_driver = \"k8s-file\"
             apparmor_profile = \"unconfined\"
             seccomp_profile = \"unconfined\"\n"
        )
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("podman");
        for (option, place) in [("root", "root"), ("runroot", "run"), ("tmpdir", "tmp")] {
            command.arg(format!("--{option}")).arg(self.dir.join(place));
        }
        command.args(["--storage-driver", "vfs"]).args(args);
        command.env("CONTAINERS_CONF", self.dir.join("containers.conf"));
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.node.netns.run(|| self.command(args).output().unwrap()).unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let out = self.call(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {said}\n{}", self.node.log());
        String::from_utf8(out.stdout).unwrap()
    }

    /// A container that answers HTTP at port 8080 with its name.
    fn serve(&self, name: &str, options: &[&str]) {
        let serve = format!("echo {name} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
        let command = ["busybox", "/bin/sh", "-c", &serve];
        self.done(&[&RUN[..], &["--name", name], options, &command].concat());
        self.serves(name);
    }

    fn serves(&self, name: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.gets(name, "127.0.0.1", 8080) != name {
            let logs = || self.call(&["logs", name]);
            assert!(Instant::now() < end, "{}: {:?}", self.gets(name, "127.0.0.1", 8080), logs());
        }
    }

    /// What a container gets from there.
    fn gets(&self, from: &str, addr: &str, port: u16) -> String {
        let host = if addr.contains(':') { format!("[{addr}]") } else { addr.into() };
        let url = format!("http://{host}:{port}/");
        let out = self.call(&["exec", from, "wget", "-q", "-O", "-", &url]);
        let said = [out.stdout, out.stderr].concat();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    fn shell(&self, name: &str, script: &str) -> String {
        self.done(&["exec", name, "sh", "-c", script])
    }

    /// What podman itself says that a container has in a network.
    fn has(&self, name: &str, network: &str) -> Has {
        let said: Value = serde_json::from_str(&self.done(&["inspect", name])).unwrap();
        let of = said[0]["NetworkSettings"]["Networks"][network].clone();
        let text = |field: &str| of[field].as_str().unwrap_or_default().to_owned();
        let addrs = [text("IPAddress"), text("GlobalIPv6Address")];
        Has { addrs, mac: text("MacAddress") }
    }
}

const RUN: [&str; 4] = ["run", "-d", "--cgroup-parent", "/weft-cri-podman"];
const SLEEP: [&str; 3] = ["busybox", "sleep", "1000000"];

/// Which of several it calls for first, podman leaves to chance.
const BOTH: [&str; 4] =
    ["--network", "net:interface_name=eth0", "--network", "lan:interface_name=eth1"];

struct Has {
    addrs: [String; 2],
    mac: String,
}

fn networks() -> Site {
    prepare();
    // Podman's locks are shared memory of one name.
    let shm = (Some("tmpfs"), "/dev/shm", Some("tmpfs"));
    nix::mount::mount(shm.0, shm.1, shm.2, nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    let site = built(&lan(2));
    with_released_plugin(&site);
    begin(&site, "veth", "host-gw");
    site.settled("net", "host-gw").unwrap();
    let attach = json!({"kind": "macvlan", "parent": "eth1", "mode": "bridge"});
    site.apply("lan", &site.lan_network(&attach)).unwrap();
    site.settled("lan", "underlay").unwrap();
    site
}

#[test]
fn containers_of_podman_meet_and_end_without_a_trace() {
    let site = networks();
    let [here, there] = [0, 1].map(|n| Podman::on(&site.nodes[n], &["net", "lan"]));
    let list: Value =
        serde_json::from_str(&here.done(&["network", "inspect", "net", "lan"])).unwrap();
    assert!(list.as_array().unwrap().iter().all(|net| net["driver"] == "weft-cni"), "{list}");

    let mac = "02:00:00:00:50:0d";
    here.serve("web", &["--network", "net", "-p", "8000:8080", "--mac-address", mac]);
    here.serve("two", &[&["-p", "8001:8080"], &BOTH[..]].concat());
    // podman 4.3 calls for several networks in no order. Who asks from the network that the asked one has a
    // link to as well is answered by that link, and so not by the node's port: this one asks from `net`.
    there.serve("far", &["--network", "net"]);
    there.done(&["network", "connect", "lan", "far"]);
    let (web, far) = (here.has("web", "net"), there.has("far", "lan"));
    assert_eq!(web.mac, mac);
    for addr in &web.addrs {
        assert_eq!(there.gets("far", addr, 8080), "web");
    }
    for ipv4 in [true, false] {
        let port = crate::citizens::address(&site.nodes[0], ipv4).to_string();
        assert_eq!(there.gets("far", &port, 8000), "web", "the port of the node");
        assert_eq!(there.gets("far", &port, 8001), "two", "asked for with each of two networks");
    }
    let routes = there.shell("far", "ip route; ip -6 route");
    let ways_out = routes.lines().filter(|line| line.starts_with("default")).count();
    assert_eq!(ways_out, 2, "one in each family: {routes}");

    // A further network comes and goes while it runs.
    here.done(&["network", "connect", "lan", "web"]);
    for addr in &far.addrs {
        assert_eq!(here.gets("web", addr, 8080), "far");
    }
    for addr in here.has("web", "lan").addrs {
        assert_eq!(there.gets("far", &addr, 8080), "web");
    }
    here.done(&["network", "disconnect", "lan", "web"]);
    assert!(!here.shell("web", "ip -o link").contains("eth1"));
    assert_eq!(there.gets("far", &web.addrs[0], 8080), "web");

    here.done(&["rm", "-f", "-t", "0", "two"]);
    asked_for_by_name(&here, &web.addrs[0]);
    // Podman names containers, and no namespace.
    let named = || pods(&site.nodes[0]).into_iter().map(|pod| pod["pod"].clone());
    until("freed", || named().eq(["web"]));

    here.done(&["restart", "-t", "0", "web"]);
    here.serves("web");
    assert_eq!(there.gets("far", &here.has("web", "net").addrs[1], 8080), "web");
    here.done(&["stop", "-t", "0", "web"]);
    here.done(&["rm", "web"]);
    there.done(&["rm", "-f", "-t", "0", "far"]);
    site.nodes.iter().for_each(nothing_left);
}

/// An address of one's choice, and one that can't be.
fn asked_for_by_name(at: &Podman<'_>, beside: &str) {
    let wish = format!("{}.99", beside.rsplit_once('.').unwrap().0);
    at.serve("wish", &["--network", "net", "--ip", &wish]);
    assert_eq!(at.has("wish", "net").addrs[0], wish);
    let taken = [&RUN[..], &["--network", "net", "--ip", &wish], &SLEEP].concat();
    let out = at.call(&taken);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains(&wish), "{said}");
    at.done(&["rm", "-f", "-t", "0", "-a", "--filter", "name=wish"]);
}

#[test]
fn podman_killed_leaves_no_more_than_the_namespaces_that_it_forgot() {
    let site = networks();
    let node = &site.nodes[0];
    let podman = Podman::on(node, &["net", "lan"]);
    let mut dice = Dice(0x00b0_d3a9);
    for n in 0..12 {
        let name = format!("c{n}");
        let args = [&RUN[..], &["--name", &name, "-p", "8000:80"], &BOTH, &SLEEP].concat();
        let mut run = node.netns.run(|| podman.command(&args).spawn().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(40 * dice.roll(12)));
        let _ = run.kill();
        run.wait().unwrap();
        // As its user does next; what podman has lost sight of by then it does not take apart.
        podman.call(&["rm", "-f", "-t", "0", &name]);
    }
    podman.done(&["rm", "-f", "-t", "0", "-a"]);
    let namespaces = || -> BTreeSet<PathBuf> {
        fs::read_dir("/run/netns").unwrap().map(|name| name.unwrap().path()).collect()
    };
    let left = namespaces();
    node.wait_until("free of what ended", |_| {
        let kept = |pod: &Value| left.contains(Path::new(pod["netns"].as_str().unwrap()));
        Ok(pods(node).iter().all(kept))
    })
    .unwrap();
    println!("{} namespaces that podman forgot, {} pods in them", left.len(), pods(node).len());
    left.iter().for_each(|path| forget(path));
    nothing_left(node);
    // Ports and addresses are free again.
    podman.serve("after", &["--network", "net", "-p", "8000:8080"]);
    podman.done(&["rm", "-f", "-t", "0", "after"]);
    nothing_left(node);
}
