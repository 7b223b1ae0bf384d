//! Pods whose addresses a network's own DHCP server gives: a real one (dnsmasq) on the nodes' second
//! switch. It gives for two minutes at least, so it asks for renewal after seconds.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::{
    citizens::address,
    services::{ENDPOINT, seen_at, serve, serve_at},
    story::*,
};

const SERVER: &str = "10.77.0.2";
/// Longer than a pod waits for its address, and not much.
const BOUND: Duration = Duration::from_secs(13);

/// A host of the second switch with a DHCP server on it.
pub struct Server {
    netns: Netns,
    dir: PathBuf,
    daemon: Option<Child>,
}

impl Server {
    /// The host alone, at this address.
    fn plug(site: &Site, name: &str, addr: &str) -> Self {
        let netns = Netns::create().unwrap();
        let switch = site.wire.lan().unwrap();
        rig::pair(&netns, "eth0", switch, name, 1500).unwrap();
        rig::port(switch, name, "br0").unwrap();
        rig::addr(&netns, "eth0", format!("{addr}/24").parse().unwrap()).unwrap();
        let dir = site.plan.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        Self { netns, dir, daemon: None }
    }

    /// Gives addresses of this range, to be renewed after so many seconds and rebound after others:
    /// three at least, or dnsmasq goes by its own.
    pub fn serve(&mut self, range: &str, (t1, t2): (u32, u32)) {
        self.end();
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args([
            "--conf-file=/dev/null",
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--port=0",
            "--interface=eth0",
            "--dhcp-option=option:router,10.77.0.1",
            "--dhcp-authoritative",
            "--no-ping",
            "--user=root",
            "--group=root",
            "--pid-file=",
        ]);
        dnsmasq.arg(format!("--dhcp-range={range},255.255.255.0,2m"));
        dnsmasq.arg(format!("--dhcp-option=option:T1,{t1}"));
        dnsmasq.arg(format!("--dhcp-option=option:T2,{t2}"));
        dnsmasq.arg(format!("--dhcp-leasefile={}", self.dir.join("leases").display()));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"));
        dnsmasq.stdout(Stdio::null()).stderr(log.unwrap());
        let before = self.said("DHCP, IP range");
        self.daemon = Some(self.netns.run(|| dnsmasq.spawn()).unwrap().expect("dnsmasq-base"));
        until("serving", || self.said("DHCP, IP range") > before);
    }

    fn end(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
    /// How many lines of its log say this.
    fn said(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }
    /// Addresses that it has given, by its own file.
    pub fn given(&self) -> Vec<String> {
        let file = fs::read_to_string(self.dir.join("leases")).unwrap_or_default();
        file.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
        self.end();
    }
}

fn network(mode: &str) -> Value {
    network_of(&json!({"kind": "macvlan", "parent": "eth1", "mode": mode}))
}

fn network_of(attach: &Value) -> Value {
    let join = json!({"kind": "underlay", "addresses": "dhcp"});
    json!({"attach": attach, "join": join, "ranges": ["10.77.0.0/24"]})
}

/// Nodes with a network `net` whose server is to be plugged in.
fn lan(nodes: usize, mode: &str) -> Site {
    lan_of(nodes, &network(mode))
}

fn lan_of(nodes: usize, network: &Value) -> Site {
    let site = built(&Plan { lan: true, families: Families::V4, ..plan(nodes) });
    site.start().unwrap();
    site.apply("net", network).unwrap();
    for node in &site.nodes {
        node.wait_until("serving it", |node| {
            let status = node.status()?;
            Ok(status["converged"] == true && status["networks"]["net"]["leases"].is_array())
        })
        .unwrap();
    }
    site
}

/// The same with a server that renews soon.
pub fn served(nodes: usize, mode: &str) -> (Site, Server) {
    served_to(lan(nodes, mode))
}

/// The same, for pods by this attach.
pub fn served_by(nodes: usize, attach: &Value) -> (Site, Server) {
    served_to(lan_of(nodes, &network_of(attach)))
}

fn served_to(site: Site) -> (Site, Server) {
    let mut server = Server::plug(&site, "dhcp", SERVER);
    server.serve("10.77.0.100,10.77.0.119", (3, 100));
    (site, server)
}

fn addr(pod: &Pod) -> String {
    pod.addrs[0].to_string()
}

fn inside(pod: &Pod) -> String {
    sh(&pod.netns, "ip -o -4 addr show dev eth0; ip route")
}

fn problems(node: &Node) -> String {
    node.status().unwrap()["problems"].to_string()
}

/// Who sends to whom is answered, by the address that it leased.
pub fn passes(pod: &Pod, site: &Site) {
    let world =
        site.wire.world.run(|| std::net::UdpSocket::bind("203.0.113.1:7")).unwrap().unwrap();
    world.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let socket = pod.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(b"hello", "203.0.113.1:7").unwrap();
    let (_, from) = world.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), pod.addrs[0]);
}

#[test]
fn dhcp_leases_are_kept_over_an_agents_death_and_given_back() {
    let (site, server) = served(2, "bridge");
    let pods = site.add_pods("net", "").unwrap();
    let node = &site.nodes[0];
    assert_ne!(pods[0].addrs, pods[1].addrs);
    let mut given = server.given();
    given.sort();
    let mut have: Vec<String> = pods.iter().map(addr).collect();
    have.sort();
    assert_eq!(given, have, "{}", server.log());
    assert!(server.log().contains("client provides name: a1"), "{}", server.log());
    for pod in &pods {
        let has = inside(pod);
        for word in [&format!("{}/24", addr(pod)), "default via 10.77.0.1 dev eth0"] {
            assert!(has.contains(word), "{word} is not in {has}");
        }
        passes(pod, &site);
    }
    let _echo = responders(&pods);
    assert!(reaches(&pods[0], &pods[1]));
    // Their node reaches each as soon as it has its address.
    assert!(node.plan().unwrap().is_empty() && reach(&node.netns, pods[0].addrs[0]).is_some());
    // It is told, and CHECK finds it as it was made.
    let status = node.status().unwrap();
    let lease = &status["networks"]["net"]["leases"][0];
    assert_eq!((&lease["server"], &lease["router"]), (&json!(SERVER), &json!("10.77.0.1")));
    assert!((1..=120).contains(&lease["left"].as_u64().unwrap()), "{lease}");
    let mut weft = Command::new(program());
    let said = weft.arg("status").env("WEFT_CONTROL", node.control()).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let line = format!("  lease {}/24 from {SERVER} router 10.77.0.1 pod lab/a1: ", addr(&pods[0]));
    assert!(said.contains(&line) && said.contains("blocks by dhcp"), "{said}");
    let explained = node.ask("GET", "/v1/explain?from=a1&to=203.0.113.1", None).unwrap();
    for word in ["from 10.77.0.2 router 10.77.0.1, for ", "by its router 10.77.0.1"] {
        assert!(explained.to_string().contains(word), "{word} is not in {explained}");
    }
    let mut config = node.cni_config("net");
    let (exit, result) = node.cni("ADD", "a1", &pods[0].path, &config, &[]).unwrap();
    assert_eq!((exit, &result["ips"][0]["gateway"]), (0, &json!("10.77.0.1")), "{result}");
    assert_eq!(result["ips"][0]["address"], json!(format!("{}/24", addr(&pods[0]))));
    config["prevResult"] = result;
    let (exit, answer) = node.cni("CHECK", "a1", &pods[0].path, &config, &[]).unwrap();
    assert_eq!(exit, 0, "{answer}");
    // Renewed, by unicast and for the address itself; and again by the agent's successor.
    let renewed = || server.said(&format!("DHCPACK(eth0) {}", addr(&pods[0])));
    let first = renewed();
    until("renewed", || renewed() > first);
    node.kill().unwrap();
    let at_death = renewed();
    node.start(&[]).unwrap();
    until("renewed by the next", || renewed() > at_death + 1);
    assert_eq!(problems(node), "[]");
    assert_eq!(server.said("DHCPNAK"), 0);
    assert_eq!(server.given().len(), 2);
    site.nodes.iter().for_each(empty_plan);
    site.delete_pods(pods).unwrap();
    until("given back", || server.given().is_empty());
    assert_eq!(server.said("DHCPRELEASE"), 2, "once each: {}", server.log());
    site.nodes.iter().for_each(nothing_left);
}

/// Both ways, each seen as itself.
pub fn meets_its_node(node: &Node, pod: &Pod) -> Result<(), String> {
    let (host, own) = (address(node, true), pod.addrs[0]);
    for tcp in [true, false] {
        let probed = seen_at(&node.netns, SocketAddr::new(own, ENDPOINT), tcp);
        let asked = seen_at(&pod.netns, SocketAddr::new(host, ENDPOINT), tcp);
        if (probed, asked) != (Some(host), Some(own)) {
            return Err(format!("tcp {tcp}: node to {own} {probed:?}, and back {asked:?}"));
        }
    }
    Ok(())
}

#[test]
fn dhcp_a_pod_and_its_node_meet_as_long_as_it_has_its_address() {
    let (site, mut server) = served(1, "private");
    let node = &site.nodes[0];
    serve_at(&node.netns, &[address(node, true)]);
    let pods = ["a1", "a2", "a3"].map(|name| {
        let pod = node.add_pod(name, "net").unwrap();
        serve(&pod);
        assert_eq!(meets_its_node(node, &pod), Ok(()), "{name}, once ADD has answered");
        pod
    });
    empty_plan(node);
    // The address is lost: perhaps another host's, to be reached by the network.
    fs::remove_file(server.dir.join("leases")).unwrap();
    server.serve("10.77.0.200,10.77.0.210", (3, 100));
    let way = |pod: &Pod| sh(&node.netns, &format!("ip route get {}", pod.addrs[0]));
    for pod in &pods {
        until("taken away", || !inside(pod).contains(&addr(pod)));
        until("no way to it", || !way(pod).contains("weftn"));
    }
    empty_plan(node);
    server.serve("10.77.0.100,10.77.0.119", (3, 100));
    for pod in &pods {
        until("there again", || meets_its_node(node, pod).is_ok());
    }
    empty_plan(node);
    pods.into_iter().for_each(|pod| node.delete_pod(pod).unwrap());
    nothing_left(node);
}

#[test]
fn dhcp_an_address_that_a_node_has_is_not_for_pods() {
    let (site, mut server) = served(2, "bridge");
    server.serve("10.77.0.100,10.77.0.100", (50, 100));
    let node = &site.nodes[0];
    let (_netns, path) = namespace("taken");
    let config = node.cni_config("net");
    for owner in &site.nodes {
        sh(&owner.netns, "ip addr add 10.77.0.100/24 dev eth1");
        // One that is not known yet is found by asking, and declined: its server gives it no more.
        let record = site.plan.dir.join("store/nodes").join(&owner.name);
        until("told", || fs::read_to_string(&record).unwrap().contains("10.77.0.100"));
        node.kill().unwrap();
        node.start(&[]).unwrap();
        until("known", || {
            let (exit, answer) = node.cni("ADD", "taken", &path, &config, &[]).unwrap();
            let said = "gives 10.77.0.100, which is a node's own";
            let refused = exit == 1 && answer["details"].to_string().contains(said);
            assert_eq!(node.cni("DEL", "taken", &path, &config, &[]).unwrap().0, 0);
            refused
        });
        nothing_left(node);
        sh(&owner.netns, "ip addr del 10.77.0.100/24 dev eth1");
    }
    until("served once it is nobody's", || {
        node.cni("ADD", "taken", &path, &config, &[]).unwrap().0 == 0
    });
    assert_eq!(node.cni("DEL", "taken", &path, &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

#[test]
fn dhcp_without_a_server_is_said_in_time_and_nothing_is_half_made() {
    let site = lan(1, "private");
    site.apply("other", &site.network("veth", "vxlan", 1)).unwrap();
    let node = &site.nodes[0];
    node.wait_until("serving both", |node| {
        Ok(node.status()?["networks"]["other"]["blocks"].as_array().is_some_and(|b| !b.is_empty()))
    })
    .unwrap();
    let (netns, path) = namespace("alone");
    let config = node.cni_config("net");
    let start = Instant::now();
    let (exit, answer) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| node.cni("ADD", "alone", &path, &config, &[]).unwrap());
        until("asking", || sh(&netns, "ip -o link").contains("eth0"));
        // Nobody else waits for it: pods come and go, and the loop goes round.
        let rounds = || node.status().unwrap()["rounds"].as_u64().unwrap();
        let before = rounds();
        sh(&node.netns, "ip link add stranger type veth peer name stranger2");
        let pod = node.add_pod("other", "other").unwrap();
        node.delete_pod(pod).unwrap();
        until("another round", || rounds() > before);
        let guarded = sh(&node.netns, "nft list set netdev weft apart-eth1");
        assert!(guarded.contains("elements"), "guarded from while it asks: {guarded}");
        assert!(sh(&netns, "ip -o link").contains("eth0"), "not taken for an ADD that died");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
        asking.join().unwrap()
    });
    assert!(start.elapsed() > Duration::from_secs(9) && start.elapsed() < BOUND);
    assert_eq!((exit, &answer["code"]), (1, &json!(11)), "{answer}");
    let said = answer["details"].as_str().unwrap();
    for word in
        ["network net: no DHCP server answered within 10 s on the network of eth1", "tcpdump"]
    {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    nothing_left(node);
    until("without its link", || sh(&netns, "ip -o link").lines().count() == 1);
    // A runtime that gives up is noticed.
    let mut plugin = node.plugin("ADD", "alone", &path, &[]);
    let mut plugin = plugin.spawn().unwrap();
    std::io::Write::write_all(&mut plugin.stdin.take().unwrap(), config.to_string().as_bytes())
        .unwrap();
    until("asking", || sh(&netns, "ip -o link").contains("eth0"));
    let start = Instant::now();
    plugin.kill().unwrap();
    plugin.wait().unwrap();
    assert_eq!(node.cni("DEL", "alone", &path, &config, &[]).unwrap().0, 0);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    nothing_left(node);
    // And as soon as there is one, it serves.
    let mut server = Server::plug(&site, "dhcp", SERVER);
    server.serve("10.77.0.100,10.77.0.100", (50, 100));
    let (exit, answer) = node.cni("ADD", "alone", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["ips"][0]["address"]), (0, &json!("10.77.0.100/24")), "{answer}");
    assert_eq!(node.cni("DEL", "alone", &path, &config, &[]).unwrap().0, 0);
    nothing_left(node);
}

#[test]
fn dhcp_killed_at_every_step_leaks_no_lease() {
    let (site, server) = served(1, "private");
    let node = &site.nodes[0];
    let steps = ["add.after-offer", "add.after-ack", "add.after-lease", "add.after-address"];
    let config = |wait: u32| {
        let mut config = node.cni_config("net");
        config["agentWait"] = json!(wait);
        config
    };
    for point in steps.into_iter().chain(crate::kill::ADD_FAULTS) {
        let (netns, path) = namespace("killed");
        crate::kill::restart(node, &crate::kill::fault(point));
        let (exit, answer) = std::thread::scope(|scope| {
            let adding =
                scope.spawn(|| node.cni("ADD", "killed", &path, &config(20), &[]).unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            adding.join().unwrap()
        });
        assert_eq!(exit, 0, "{point}: {answer}");
        assert_eq!(server.given().len(), 1, "{point}: the same client, the same lease");
        empty_plan(node);
        assert!(sh(&netns, "ip -o -4 addr show eth0").contains(&server.given()[0]), "{point}");
        assert_eq!(node.cni("DEL", "killed", &path, &config(20), &[]).unwrap().0, 0);
        until("given back", || server.given().is_empty());
        // The runtime does not wait, and calls DEL.
        crate::kill::restart(node, &crate::kill::fault(point));
        let (exit, _) = node.cni("ADD", "killed", &path, &config(0), &[]).unwrap();
        assert_eq!(exit, 1, "{point}");
        node.wait_for_death().unwrap();
        node.start(&[]).unwrap();
        assert_eq!(node.cni("DEL", "killed", &path, &config(20), &[]).unwrap().0, 0, "{point}");
        until(&format!("{point}: given back"), || server.given().is_empty());
        nothing_left(node);
        assert_eq!(sh(&netns, "ip -o link").lines().count(), 1, "{point}");
        forget(&path);
    }
    for point in crate::kill::DEL_FAULTS {
        let (_netns, path) = namespace("killed");
        crate::kill::restart(node, &crate::kill::fault(point));
        assert_eq!(node.cni("ADD", "killed", &path, &config(20), &[]).unwrap().0, 0);
        std::thread::scope(|scope| {
            let deleting =
                scope.spawn(|| node.cni("DEL", "killed", &path, &config(20), &[]).unwrap());
            node.wait_for_death().unwrap();
            node.start(&[]).unwrap();
            assert_eq!(deleting.join().unwrap().0, 0, "{point}");
        });
        until(&format!("{point}: given back"), || server.given().is_empty());
        nothing_left(node);
        forget(&path);
    }
}

#[test]
fn dhcp_an_address_that_is_refused_is_taken_away_and_given_again() {
    let (site, mut server) = served(1, "bridge");
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    let had = addr(&pod);
    // Its server has forgotten it, and gives others.
    fs::remove_file(server.dir.join("leases")).unwrap();
    server.serve("10.77.0.200,10.77.0.210", (3, 100));
    until("taken away", || !inside(&pod).contains(&had));
    assert!(server.said("DHCPNAK") > 0);
    node.wait_until("saying it", |node| {
        let said = node.status()?["problems"].to_string();
        let words = ["pod lab/a1 has lost its address", &had, "delete the pod", "refused"];
        Ok(words.iter().all(|word| said.contains(word)))
    })
    .unwrap();
    assert_eq!(inside(&pod).trim(), "", "no address, no route");
    let mut config = node.cni_config("net");
    config["prevResult"] = json!({"cniVersion": "1.1.0", "interfaces": [], "ips": []});
    let (exit, answer) = node.cni("CHECK", "a1", &pod.path, &config, &[]).unwrap();
    assert!(exit == 1 && answer.to_string().contains("is lost"), "{answer}");
    empty_plan(node);
    // Another address is of no use, and none is taken from it.
    node.wait_until("saying what is offered", |node| {
        Ok(node.status()?["problems"].to_string().contains(&format!("not {had}")))
    })
    .unwrap();
    assert_eq!(server.given().len(), 0);
    // Over a restart as well; and as soon as the server gives it again, the pod has it.
    node.kill().unwrap();
    node.start(&[]).unwrap();
    node.wait_until("knowing it", |node| {
        Ok(node.status()?["problems"].to_string().contains("has lost its address"))
    })
    .unwrap();
    server.serve("10.77.0.100,10.77.0.119", (3, 100));
    until("there again", || inside(&pod).contains(&format!("{had}/24")));
    passes(&pod, &site);
    node.wait_until("quiet", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
    node.delete_pod(pod).unwrap();
    until("given back", || server.given().is_empty());
    nothing_left(node);
}

/// Has the pods' leases end so many seconds from now, or before; while no agent runs.
fn shorten(node: &Node, left: i64) {
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let now: i64 = uptime.split('.').next().unwrap().parse().unwrap();
    // Of ten seconds, of which the server was to be asked in the second and in the third.
    let terms = [("since", now + left - 10), ("time", 10), ("t1", 1), ("t2", 2)];
    for record in fs::read_dir(node.dir().join("attachments")).unwrap().flatten() {
        let mut pod: Value = serde_json::from_slice(&fs::read(record.path()).unwrap()).unwrap();
        terms.iter().for_each(|(field, value)| pod["lease"][*field] = json!(value));
        fs::write(record.path(), pod.to_string()).unwrap();
    }
}

#[test]
fn dhcp_a_lease_that_ran_out_is_asked_for_again() {
    let (site, mut server) = served(1, "bridge");
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    let had = addr(&pod);
    node.kill().unwrap();
    shorten(node, -1);
    // Who asks so has no address yet, and is answered as such.
    let asked = server.said("broadcast response");
    node.start(&[]).unwrap();
    until("acknowledged", || server.said("broadcast response") > asked);
    node.wait_until("kept", |node| {
        let status = node.status()?;
        Ok(status["problems"] == json!([])
            && status["networks"]["net"]["leases"][0]["left"].as_u64() > Some(60))
    })
    .unwrap();
    assert!(!node.log().contains("has lost"), "it had it all the time");
    assert!(inside(&pod).contains(&had));
    // Nobody there to ask: it may not be used any more.
    node.kill().unwrap();
    shorten(node, -1);
    server.end();
    node.start(&[]).unwrap();
    until("taken away", || !inside(&pod).contains(&had));
    node.wait_until("saying it", |node| {
        Ok(node.status()?["problems"].to_string().contains("ran out while no agent ran"))
    })
    .unwrap();
    server.serve("10.77.0.100,10.77.0.119", (3, 100));
    until("there again", || inside(&pod).contains(&had));
    // It runs out while there is an agent, which asks everybody until then.
    node.kill().unwrap();
    shorten(node, 7);
    server.end();
    node.start(&[]).unwrap();
    node.wait_until("in danger", |node| {
        let said = node.status()?["problems"].to_string();
        Ok(said.contains("is not renewed and ends in") && said.contains("no DHCP server answered"))
    })
    .unwrap();
    assert!(inside(&pod).contains(&had), "it may be used until it ends");
    until("taken away", || !inside(&pod).contains(&had));
    assert!(problems(node).contains("its lease ran out: no DHCP server answered"));
    server.serve("10.77.0.100,10.77.0.119", (3, 100));
    until("there again", || inside(&pod).contains(&had));
    passes(&pod, &site);
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn dhcp_a_server_that_goes_is_said_and_another_takes_over() {
    let site = lan(1, "bridge");
    let mut first = Server::plug(&site, "dhcp", SERVER);
    first.serve("10.77.0.100,10.77.0.119", (3, 8));
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    first.end();
    node.wait_until("saying it", |node| {
        let said = node.status()?["problems"].to_string();
        Ok(said.contains("is not renewed and ends in") && said.contains("did not answer"))
    })
    .unwrap();
    let mut second = Server::plug(&site, "second", "10.77.0.3");
    fs::copy(first.dir.join("leases"), second.dir.join("leases")).unwrap();
    second.serve("10.77.0.100,10.77.0.119", (3, 8));
    node.wait_until("with the other", |node| {
        let status = node.status()?;
        Ok(status["networks"]["net"]["leases"][0]["server"] == "10.77.0.3"
            && status["problems"] == json!([]))
    })
    .unwrap();
    assert!(inside(&pod).contains(&addr(&pod)));
    // Renewed by unicast at its own MAC address, and given back there.
    let acks = second.said("DHCPACK");
    until("renewed", || second.said("DHCPACK") > acks + 1);
    node.delete_pod(pod).unwrap();
    until("given back", || second.given().is_empty());
    nothing_left(node);
}

#[test]
fn dhcp_one_pod_has_the_whole_nic_and_the_next_is_another_client() {
    let (site, server) = served(1, "passthru");
    let node = &site.nodes[0];
    let mut had = Vec::new();
    for name in ["first", "second"] {
        let pod = node.add_pod(name, "net").unwrap();
        passes(&pod, &site);
        had.push(fs::read_to_string(server.dir.join("leases")).unwrap());
        node.delete_pod(pod).unwrap();
        until("given back", || server.given().is_empty());
        nothing_left(node);
    }
    let field = |lease: &String, n: usize| lease.trim().split(' ').nth(n).unwrap().to_owned();
    assert_eq!(field(&had[0], 1), field(&had[1], 1), "one MAC address");
    assert_ne!(field(&had[0], 4), field(&had[1], 4), "two identifiers");
}

#[test]
fn dhcp_an_offer_that_is_of_another_network_is_named() {
    let site = lan(1, "bridge");
    let mut server = Server::plug(&site, "dhcp", "192.168.5.2");
    server.serve("192.168.5.100,192.168.5.119", (50, 100));
    let node = &site.nodes[0];
    let (netns, path) = namespace("astray");
    let (exit, answer) = node.cni("ADD", "astray", &path, &node.cni_config("net"), &[]).unwrap();
    assert_eq!(exit, 1);
    let said = answer["details"].as_str().unwrap();
    assert!(said.contains("server 192.168.5.2 gives 192.168.5."), "{said}");
    assert!(said.contains("which is outside 10.77.0.0/24"), "{said}");
    assert!(server.given().is_empty(), "it was not taken");
    nothing_left(node);
    until("without its link", || sh(&netns, "ip -o link").lines().count() == 1);
    // An address by name, where it can be had.
    server.end();
    let mut server = Server::plug(&site, "right", SERVER);
    server.serve("10.77.0.100,10.77.0.119", (50, 100));
    let mut config = node.cni_config("net");
    config["runtimeConfig"] = json!({"ips": ["10.77.0.117"]});
    let (exit, answer) = node.cni("ADD", "astray", &path, &config, &[]).unwrap();
    assert_eq!((exit, &answer["ips"][0]["address"]), (0, &json!("10.77.0.117/24")), "{answer}");
    config["runtimeConfig"] = json!({"ips": ["fd00::1"]});
    let (_netns, other) = namespace("other");
    let (exit, answer) = node.cni("ADD", "other", &other, &config, &[]).unwrap();
    assert!(exit == 1 && answer.to_string().contains("gives one IPv4 address"), "{answer}");
}

#[test]
fn dhcp_a_pod_whose_namespace_died_is_gone_and_its_lease_is_said_to_end_by_itself() {
    let (site, server) = served(1, "bridge");
    let node = &site.nodes[0];
    let pod = node.add_pod("a1", "net").unwrap();
    forget(&pod.path);
    drop(pod);
    until("gone", || pods(node).is_empty());
    nothing_left(node);
    assert!(node.log().contains("is not given back; it ends by itself"), "{}", node.log());
    assert_eq!((server.said("DHCPRELEASE"), server.given().len()), (0, 1));
    // What is taken away for good is given back.
    let pod = node.add_pod("a2", "net").unwrap();
    assert_eq!(server.given().len(), 2);
    node.kill().unwrap();
    uninstall(node);
    until("given back", || server.given().len() == 1);
    assert!(!server.given().contains(&addr(&pod)));
}

#[test]
fn dhcp_a_network_that_makes_no_sense_is_refused() {
    let (site, _server) = served(1, "bridge");
    let node = &site.nodes[0];
    let put = |network: Value| {
        node.ask("PUT", "/v1/networks/net", Some(network)).map_err(|error| error.to_string())
    };
    let with = |field: &str, value: Value| {
        let mut network = network("bridge");
        match field.split_once('.') {
            Some((outer, inner)) => network[outer][inner] = value,
            None => network[field] = value,
        }
        network
    };
    for (network, says) in [
        (
            with("ranges", json!(["10.77.0.0/24", "fd00:77::/64"])),
            "fd00:77::/64 can't be served with `addresses: dhcp`, which is IPv4 only",
        ),
        (with("ranges", json!(["fd00:77::/64"])), "IPv4 only"),
        (
            with("join.gateway", json!(["10.77.0.1"])),
            "`join.gateway` has no meaning with `addresses: dhcp`",
        ),
        (with("join.exclude", json!(["10.77.0.9"])), "`join.exclude` has no meaning"),
        (with("join.static", json!(["10.77.0.9"])), "`join.static` has no meaning"),
        (with("blockPrefix4", json!(28)), "`blockPrefix4` has no meaning"),
        (with("join.addresses", json!("dhpc")), "`chunks` or `dhcp`"),
        (with("attach", json!("veth")), "join underlay"),
    ] {
        let said = put(network.clone()).unwrap_err();
        assert!(said.contains(says), "{network}: {said}");
    }
    // Not under pods that have their addresses from elsewhere.
    let pod = node.add_pod("a1", "net").unwrap();
    let said = put(with("join.addresses", json!("chunks"))).unwrap_err();
    assert!(said.contains("make another network for addresses that are given by weft"), "{said}");
    put(network("bridge")).unwrap();
    node.delete_pod(pod).unwrap();
    nothing_left(node);
}

#[test]
fn dhcp_pods_have_their_leases_again_when_their_parent_is_back() {
    let (site, mut server) = served(1, "private");
    let node = &site.nodes[0];
    // Just as many as there are addresses, all at once: some are offered the same.
    server.serve("10.77.0.100,10.77.0.107", (3, 100));
    let pods: Vec<Pod> = std::thread::scope(|scope| {
        let adding: Vec<_> = (1..=8)
            .map(|n| scope.spawn(move || node.add_pod(&format!("a{n}"), "net").unwrap()))
            .collect();
        adding.into_iter().map(|adding| adding.join().unwrap()).collect()
    });
    assert_eq!(leases(node).len(), 8);
    assert_eq!(server.given().len(), 8);
    sh(&node.netns, "ip link del eth1");
    node.wait_until("saying it", |_| Ok(problems(node).contains("no device eth1"))).unwrap();
    site.wire.plug_second(&node.netns, &node.name).unwrap();
    for pod in &pods {
        let way = "ip -o -4 addr show dev eth0 2>/dev/null && ip route || true";
        until("there again", || {
            let has = sh(&pod.netns, way);
            has.contains(&addr(pod)) && has.contains("default via")
        });
        passes(pod, &site);
    }
    let acks = server.said("DHCPACK");
    until("all are renewed", || server.said("DHCPACK") >= acks + 8);
    node.wait_until("quiet", |node| Ok(node.status()?["problems"] == json!([]))).unwrap();
    site.delete_pods(pods).unwrap();
    until("given back", || server.given().is_empty());
    nothing_left(node);
}

/// One client's exchange on a link that it may share.
fn leased_by(container: &str, link: &weft_linux::HostLink, there: &weft_linux::Kernel) -> IpAddr {
    use weft_core::{
        attachment::AttachmentId,
        dhcp::{Client, Exchange, News, Purpose, Step},
        name::Mac,
    };
    let id =
        AttachmentId { cni: "net".into(), container: container.into(), ifname: link.dev.clone() };
    let client = Client::new(&id, link.mac, Some(container));
    let socket = there.dhcp_socket(&link.dev).unwrap();
    let (range, xid) = ("10.77.0.0/24".parse().unwrap(), weft_linux::random().unwrap());
    let now = weft_linux::since_boot;
    let mut exchange = Exchange::new(client, range, Purpose::Obtain(None), xid, now());
    loop {
        match exchange.step(now(), xid) {
            Step::Send(packet, _) => socket.send(&packet, Mac([0xff; 6])).unwrap(),
            Step::Over(why) => panic!("{container}: {why}"),
            Step::Wait(until) => {
                let longest = until.saturating_sub(now());
                weft_linux::DhcpSocket::wait([&socket], longest).unwrap();
                let heard = socket.receive().unwrap();
                let news = heard.and_then(|(packet, _)| exchange.hear(&packet, now()));
                if let Some(News::Leased(terms, _)) = news {
                    return terms.addr.into();
                }
            }
        }
    }
}

#[test]
fn dhcp_clients_that_share_a_mac_address_have_an_address_each() {
    let (site, server) = served(1, "bridge");
    // As pods do on one NIC that admits one MAC address: all hear all answers.
    let host = Server::plug(&site, "shared", "10.77.0.5");
    let there = weft_linux::Kernel::of(&host.netns).unwrap();
    let link = there.link(&"eth0".parse().unwrap()).unwrap().unwrap();
    let names = ["c1", "c2", "c3", "c4"];
    let addrs: BTreeSet<IpAddr> = std::thread::scope(|scope| {
        let (there, link) = (&there, &link);
        let asking = names.map(|name| scope.spawn(move || leased_by(name, link, there)));
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    assert_eq!((addrs.len(), server.given().len()), (names.len(), names.len()));
    // The same client again has what it had.
    let again = names.map(|name| leased_by(name, &link, &there));
    assert_eq!(addrs, again.into_iter().collect());
    assert_eq!(server.given().len(), names.len());
}

#[test]
fn dhcp_an_address_that_somebody_has_is_declined_and_another_is_given() {
    let site = lan(1, "bridge");
    let node = &site.nodes[0];
    let mut server = Server::plug(&site, "dhcp", SERVER);
    server.serve("10.77.0.50,10.77.0.51", (60, 100));
    let stranger = Server::plug(&site, "stranger", "10.77.0.50");
    let pod = node.add_pod("a1", "net").unwrap();
    assert_eq!(pod.addrs, ["10.77.0.51".parse::<IpAddr>().unwrap()]);
    // There is no third address.
    let started = Instant::now();
    let why = node.add_pod("a2", "net").err().unwrap().to_string();
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    let mac = crate::lan::mac(&stranger.netns, "eth0");
    assert!(server.said("DHCPDECLINE(eth0) 10.77.0.50") > 0, "{}", server.log());
    let has = node.log().contains(&format!("10.77.0.50, which {mac} has: declined"));
    assert!(has || why.contains(&mac), "{why}");
    assert_eq!(server.given(), ["10.77.0.51"], "what is declined is nobody's");
    node.delete_pod(pod).unwrap();
    until("given back", || server.given().is_empty());
    nothing_left(node);
}
