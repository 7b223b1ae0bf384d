//! Small clusters by dice, for tests alone: few labels, ports and addresses, so that much meets. The
//! same seed gives the same cluster, changes and packets.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    cluster::{Labels, NamedPort, ObjectName, Pod},
    spec::{
        Direction, EgressRule, IngressRule, IpBlock, Operator, Peer, PolicySpec, Port, PortName,
        Protocol, Requirement, Selector,
    },
    verdict::{Cluster, Packet},
};

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["x", "y", ""];
const PORT_NAMES: [&str; 2] = ["web", "dns"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const NODES: [(&str, [&str; 2]); 2] =
    [("n1", ["192.0.2.1", "2001:db8::1"]), ("n2", ["192.0.2.2", "2001:db8::2"])];
/// Of nobody in the cluster.
const STRANGERS: [&str; 4] = ["198.51.100.1", "203.0.113.1", "2001:db8:5::1", "2001:db8:6::1"];
const POD_ADDRS: u16 = 7;
const BLOCKS: [&str; 15] = [
    "0.0.0.0/0",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "10.0.0.3/30",
    "10.0.0.2/32",
    "10.0.0.0/8",
    "192.0.2.2/31",
    "198.51.100.0/24",
    "::/0",
    "fd00::/125",
    "fd00::4/126",
    "fd00::3/126",
    "fd00::2/128",
    "2001:db8::/32",
    "2001:db8:5::/48",
];

/// xorshift64*.
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// What an API server could say next. None: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Policy(ObjectName, Option<PolicySpec>),
    Namespace(Arc<str>, Labels),
    Pod(ObjectName, Option<Pod>),
}

impl Dice {
    /// Seeds one apart give other rolls from the first on.
    pub fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = dice.roll(2));
        dice
    }

    /// 0 to `sides` - 1.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    pub fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())].clone()
    }

    /// As many as the dice say, fewer than `below`.
    fn some<T>(&mut self, below: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.roll(below)).map(|_| one(self)).collect()
    }
}

/// Three namespaces, up to six pods on two nodes, up to four policies.
pub fn cluster(dice: &mut Dice) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, addrs) in NODES {
        let addrs = addrs.iter().map(|addr| addr.parse().expect("written above")).collect();
        cluster.nodes.insert(name.parse().expect("written above"), addrs);
    }
    for name in NAMESPACES {
        cluster.namespaces.insert(name.into(), labels(dice));
    }
    for _ in 0..6 {
        let name = pod_name(dice);
        let pod = pod(&cluster, &name, dice);
        cluster.pods.insert(name, pod);
    }
    for _ in 0..=dice.roll(4) {
        cluster.policies.insert(policy_name(dice), policy(dice));
    }
    cluster
}

/// Of one object: it is new, another, or gone.
pub fn change(cluster: &Cluster, dice: &mut Dice) -> Change {
    match dice.roll(8) {
        0 => Change::Namespace(dice.pick(&NAMESPACES).into(), labels(dice)),
        1..=3 => {
            let gone = dice.one_in(4);
            Change::Policy(policy_name(dice), (!gone).then(|| policy(dice)))
        }
        _ => {
            let (name, gone) = (pod_name(dice), dice.one_in(3));
            let pod = (!gone).then(|| pod(cluster, &name, dice));
            Change::Pod(name, pod)
        }
    }
}

impl Change {
    pub fn apply(self, cluster: &mut Cluster) {
        match self {
            Self::Policy(name, Some(spec)) => _ = cluster.policies.insert(name, spec),
            Self::Policy(name, None) => _ = cluster.policies.remove(&name),
            Self::Namespace(name, labels) => _ = cluster.namespaces.insert(name, labels),
            Self::Pod(name, Some(pod)) => _ = cluster.pods.insert(name, pod),
            Self::Pod(name, None) => _ = cluster.pods.remove(&name),
        }
    }
}

/// Every one that touches a pod: from and to pods, nodes and strangers, of every protocol, to the ports
/// that rules name and one that none names.
pub fn packets(cluster: &Cluster) -> Vec<Packet> {
    let pods: BTreeSet<IpAddr> = cluster.pods.values().flat_map(|pod| pod.addrs.clone()).collect();
    let strangers = STRANGERS.iter().map(|addr| addr.parse().expect("written above"));
    let nodes = cluster.nodes.values().flatten().copied();
    let all: BTreeSet<IpAddr> = pods.iter().copied().chain(nodes).chain(strangers).collect();
    let ports = PROTOCOLS.iter().flat_map(|protocol| (80..84).map(|port| Some((*protocol, port))));
    let ports: Vec<_> = ports.chain([None]).collect();
    let mut packets = Vec::new();
    for source in &all {
        for destination in &all {
            let one_family = source.is_ipv4() == destination.is_ipv4();
            if !one_family || !(pods.contains(source) || pods.contains(destination)) {
                continue;
            }
            let to = |port: &Option<_>| Packet {
                source: *source,
                destination: *destination,
                port: *port,
            };
            packets.extend(ports.iter().map(to));
        }
    }
    packets
}

fn pod_name(dice: &mut Dice) -> ObjectName {
    let namespace = dice.pick(&NAMESPACES).into();
    ObjectName { namespace, name: dice.pick(&["one", "two", "three"]).into() }
}

fn policy_name(dice: &mut Dice) -> ObjectName {
    let namespace = dice.pick(&NAMESPACES).into();
    ObjectName { namespace, name: dice.pick(&["p", "q"]).into() }
}

/// Of one family, of both, or of the node's network, with addresses that no other has.
fn pod(cluster: &Cluster, name: &ObjectName, dice: &mut Dice) -> Pod {
    let others = cluster.pods.iter().filter(|(other, _)| *other != name);
    let used: BTreeSet<IpAddr> = others.flat_map(|(_, pod)| pod.addrs.clone()).collect();
    let families =
        dice.pick(&[[true, true], [true, true], [true, false], [false, true], [false; 2]]);
    let mut addrs = Vec::new();
    for (wanted, family) in families.into_iter().zip([v4, v6]) {
        let free: Vec<_> = (1..=POD_ADDRS).map(family).filter(|a| !used.contains(a)).collect();
        if wanted && !free.is_empty() {
            addrs.push(dice.pick(&free));
        }
    }
    let named = |dice: &mut Dice| NamedPort {
        name: dice.pick(&PORT_NAMES).into(),
        protocol: dice.pick(&PROTOCOLS),
        port: number(dice),
    };
    Pod {
        uid: format!("{name} {:08x}", dice.roll(1 << 30)).into(),
        labels: Arc::new(labels(dice)),
        addrs,
        node: NODES.get(dice.roll(2)).map(|(name, _)| name.parse().expect("written above")),
        ports: dice.some(4, named),
    }
}

fn v4(host: u16) -> IpAddr {
    IpAddr::from([10, 0, 0, host.to_be_bytes()[1]])
}

fn v6(host: u16) -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host])
}

fn labels(dice: &mut Dice) -> Labels {
    dice.some(3, |dice| (dice.pick(&KEYS).into(), dice.pick(&VALUES).into())).into_iter().collect()
}

fn policy(dice: &mut Dice) -> PolicySpec {
    use Direction::{Egress, Ingress};
    let types = [vec![], vec![Ingress], vec![Egress], vec![Ingress, Egress]];
    PolicySpec {
        pod_selector: selector(dice),
        policy_types: dice.pick(&types),
        ingress: dice.some(3, |dice| IngressRule { from: peers(dice), ports: ports(dice) }),
        egress: dice.some(3, |dice| EgressRule { to: peers(dice), ports: ports(dice) }),
    }
}

fn peers(dice: &mut Dice) -> Vec<Peer> {
    dice.some(4, |dice| {
        let (block, namespaces, pods) = dice.pick(&[
            (true, false, false),
            (true, false, false),
            (false, true, false),
            (false, false, true),
            (false, false, true),
            (false, true, true),
        ]);
        // What the API refuses, now and then: a block beside selectors, or nothing at all.
        let block = (block || dice.one_in(20)) && !dice.one_in(20);
        Peer {
            ip_block: block.then(|| ip_block(dice)),
            namespace_selector: namespaces.then(|| selector(dice)),
            pod_selector: pods.then(|| selector(dice)),
            unreadable: dice.one_in(30).then(|| "a peer of a later API".to_owned()),
        }
    })
}

/// With exceptions that lie within, and now and then one that does not.
fn ip_block(dice: &mut Dice) -> IpBlock {
    let blocks = BLOCKS.map(|block| block.parse().expect("written above"));
    let cidr: IpNet = dice.pick(&blocks);
    let within: Vec<IpNet> =
        blocks.into_iter().filter(|block| cidr.contains(block) && cidr != *block).collect();
    let mut except = Vec::new();
    if !within.is_empty() {
        except = dice.some(3, |dice| dice.pick(&within));
    }
    if dice.one_in(10) {
        except.push(dice.pick(&blocks));
    }
    IpBlock { cidr, except }
}

fn ports(dice: &mut Dice) -> Vec<Port> {
    dice.some(3, |dice| {
        let port = match dice.roll(5) {
            0 => None,
            1 => Some(PortName::Name(dice.pick(&PORT_NAMES).to_owned())),
            _ => Some(PortName::Number(number(dice))),
        };
        // Below the beginning at times, or of a name or of nothing, as the API refuses.
        let odds = if matches!(port, Some(PortName::Number(_))) { 2 } else { 10 };
        let end_port = dice.one_in(odds).then(|| number(dice));
        let unreadable = dice.one_in(30).then(|| "a port of a later API".to_owned());
        Port { protocol: dice.pick(&PROTOCOLS), port, end_port, unreadable }
    })
}

fn number(dice: &mut Dice) -> u16 {
    dice.pick(&[80, 81, 82])
}

fn selector(dice: &mut Dice) -> Selector {
    let mut selector = Selector::default();
    let kind = dice.roll(4);
    if kind == 1 || kind == 3 {
        let (key, value) = (dice.pick(&KEYS).to_owned(), dice.pick(&VALUES).to_owned());
        selector.match_labels.insert(key, value);
    }
    if kind >= 2 {
        selector.match_expressions = (0..=dice.roll(2)).map(|_| requirement(dice)).collect();
    }
    selector
}

fn requirement(dice: &mut Dice) -> Requirement {
    use Operator::{DoesNotExist, Exists, In, NotIn};
    let operator = dice.pick(&[In, NotIn, Exists, DoesNotExist]);
    let mut values = Vec::new();
    if matches!(operator, In | NotIn) {
        values = (0..=dice.roll(2)).map(|_| dice.pick(&VALUES).to_owned()).collect();
    }
    Requirement { key: dice.pick(&KEYS).to_owned(), operator, values }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::verdict::{Reason, Side};

    /// A check by these cases says something only if all kinds of verdicts are among them, often.
    #[test]
    fn every_reason_is_frequent() {
        let (mut all, mut open) = (0, 0);
        let [mut itself, mut node, mut unselected, mut opened, mut isolated, mut no_pod] = [0; 6];
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let cluster = cluster(&mut dice);
            let packets = packets(&cluster);
            for _ in 0..100.min(packets.len()) {
                let verdict = cluster.verdict(&dice.pick(&packets));
                all += 1;
                open += usize::from(verdict.is_open());
                for side in [verdict.egress, verdict.ingress] {
                    *match side {
                        Side::NoPod(_) => &mut no_pod,
                        Side::Pod(_, Reason::Itself) => &mut itself,
                        Side::Pod(_, Reason::OwnNode(_)) => &mut node,
                        Side::Pod(_, Reason::Unselected) => &mut unselected,
                        Side::Pod(_, Reason::Opened { .. }) => &mut opened,
                        Side::Pod(_, Reason::Isolated { .. }) => &mut isolated,
                    } += 1;
                }
            }
        }
        assert!(open * 10 > all && open * 10 < all * 9, "{open} of {all} are open");
        for (what, count) in [
            ("itself", itself),
            ("node", node),
            ("unselected", unselected),
            ("opened", opened),
            ("isolated", isolated),
            ("no pod", no_pod),
        ] {
            assert!(count * 50 > all, "{what}: {count} of {all}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same() {
        let run = |seed| {
            let mut dice = Dice::new(seed);
            let mut cluster = cluster(&mut dice);
            (0..20).for_each(|_| change(&cluster, &mut dice).apply(&mut cluster));
            cluster
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
