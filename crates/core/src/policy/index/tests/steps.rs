//! Random changes of a small cluster, one object at a time.

use super::{
    scratch::{World, openness},
    *,
};
use crate::policy::{
    firewall::{ListChange, Open, Ports},
    spec::Protocol,
};

/// xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// Up to `most` of them, joined.
    fn some(&mut self, of: &[&str], most: usize, by: &str) -> String {
        let n = self.below(most + 1);
        (0..n).map(|_| self.pick(of)).collect::<Vec<_>>().join(by)
    }
}

const ADDRS: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "10.0.1.2", "fd00::1", "fd00::2", "fd00::3"];
const LABELS: [&str; 6] = ["app=web", "app=db", "tier=a", "tier=b", "env=x", "app=x"];
const NAMED: [&str; 4] = ["http:TCP:80", "http:TCP:81", "dns:UDP:53", "http:UDP:80"];
const SELECTORS: [&str; 8] = [
    "{}",
    r#"{"matchLabels":{"app":"web"}}"#,
    r#"{"matchLabels":{"app":"db"}}"#,
    r#"{"matchLabels":{"app":"web","tier":"a"}}"#,
    r#"{"matchExpressions":[{"key":"app","operator":"In","values":["web","db","web"]}]}"#,
    r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#,
    r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#,
    r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#,
];
const BLOCKS: [&str; 6] = [
    r#"{"cidr":"10.0.0.0/24"}"#,
    r#"{"cidr":"10.0.0.0/24","except":["10.0.0.2/32"]}"#,
    r#"{"cidr":"10.0.0.2/32"}"#,
    r#"{"cidr":"0.0.0.0/0"}"#,
    r#"{"cidr":"fd00::/126","except":["fd00::1/128"]}"#,
    r#"{"cidr":"10.0.0.0/24","except":["11.0.0.0/24"]}"#,
];
const PORTS: [&str; 9] = [
    "{}",
    r#"{"port":80}"#,
    r#"{"port":81}"#,
    r#"{"port":70,"endPort":80}"#,
    r#"{"port":75,"endPort":100}"#,
    r#"{"port":"http"}"#,
    r#"{"port":"dns","protocol":"UDP"}"#,
    r#"{"port":53,"protocol":"UDP"}"#,
    r#"{"port":9,"endPort":8}"#,
];

fn peer(dice: &mut Dice) -> String {
    let (pods, namespaces) = (dice.pick(&SELECTORS), dice.pick(&SELECTORS));
    match dice.below(4) {
        0 => format!(r#"{{"podSelector":{pods}}}"#),
        1 => format!(r#"{{"namespaceSelector":{namespaces}}}"#),
        2 => format!(r#"{{"podSelector":{pods},"namespaceSelector":{namespaces}}}"#),
        _ => format!(r#"{{"ipBlock":{}}}"#, dice.pick(&BLOCKS)),
    }
}

fn rules(dice: &mut Dice, side: &str) -> String {
    let rule = |dice: &mut Dice| {
        let peers: Vec<String> = (0..dice.below(3)).map(|_| peer(dice)).collect();
        let ports = dice.some(&PORTS, 2, ",");
        format!(r#"{{"{side}":[{}],"ports":[{ports}]}}"#, peers.join(","))
    };
    (0..dice.below(3)).map(|_| rule(dice)).collect::<Vec<_>>().join(",")
}

fn policy(dice: &mut Dice) -> PolicySpec {
    let types = dice.pick(&["", r#""Ingress""#, r#""Egress""#, r#""Ingress","Egress""#]);
    let selector = dice.pick(&SELECTORS);
    let (ingress, egress) = (rules(dice, "from"), rules(dice, "to"));
    let text = format!(
        r#"{{"podSelector":{selector},"policyTypes":[{types}],"ingress":[{ingress}],"egress":[{egress}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// One change, told to both.
fn step(dice: &mut Dice, world: &mut World, index: &mut Index) {
    let namespace = dice.pick(&["a", "b", "c"]);
    let is = name(&format!("{namespace}/{}", dice.pick(&["1", "2", "3"])));
    let there = dice.below(4) > 0;
    match dice.below(8) {
        0 => {
            let labels = there.then(|| labels(dice.some(&LABELS, 2, " ").split(' ')));
            set(&mut world.namespaces, &namespace.to_owned(), labels.clone());
            index.namespace(namespace, labels);
        }
        1..=4 => {
            let of =
                [dice.some(&ADDRS, 2, " "), dice.some(&LABELS, 3, " "), dice.some(&NAMED, 2, " ")];
            let pod = there.then(|| pod(&of.join(" ")));
            set(&mut world.pods, &is, pod.clone());
            index.pod(&is, pod);
        }
        5 => {
            let addrs = there.then(|| pod(&dice.some(&ADDRS, 2, " ")).addrs);
            let addrs = addrs.filter(|addrs| !addrs.is_empty());
            index.local(&is, addrs.as_deref().unwrap_or_default());
            set(&mut world.local, &is, addrs);
        }
        _ => {
            let spec = there.then(|| policy(dice));
            set(&mut world.policies, &is, spec.clone());
            index.policy(&is, spec);
        }
    }
}

fn set<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
}

/// What somebody has who hears of changes alone.
fn follow(mirror: &mut Firewall, change: Change) {
    for (name, change) in change.lists {
        match change {
            ListChange::New(list) => assert!(mirror.lists.insert(name, list).is_none()),
            ListChange::Gone => assert!(mirror.lists.remove(&name).is_some()),
            ListChange::Entries { added, removed } => {
                assert!(!added.is_empty() || !removed.is_empty());
                let list = Arc::make_mut(mirror.lists.get_mut(&name).unwrap());
                assert!(removed.iter().all(|open| list.entries.remove(open)));
                assert!(added.into_iter().all(|open| list.entries.insert(open)));
            }
        }
    }
    change.pods.iter().for_each(|(key, list)| set(&mut mirror.pods, key, *list));
}

fn overlap(one: &Open, other: &Open) -> bool {
    let peers = match (one.peer, other.peer) {
        (Some(a), Some(b)) => a.contains(&b) || b.contains(&a),
        _ => true,
    };
    let meet =
        |a: Ports, b: Ports| a.protocol == b.protocol && a.first <= b.last && b.first <= a.last;
    let ports = match (one.ports, other.ports) {
        (Some(a), Some(b)) => meet(a, b),
        (None, None) => true,
        _ => false,
    };
    peers && ports
}

#[test]
fn step_by_step_is_the_same_as_from_nothing() {
    let mut busy = 0;
    for seed in 1..=60_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut world, mut index, mut mirror) = <(World, Index, Firewall)>::default();
        for n in 0..200 {
            step(&mut dice, &mut world, &mut index);
            let want = world.openness();
            assert_eq!(openness(index.firewall()), want, "seed {seed}, step {n}: {world:#?}");
            busy += usize::from(want.len() > 3);
            if dice.below(4) == 0 {
                follow(&mut mirror, index.changes());
                assert_eq!(&mirror, index.firewall(), "seed {seed}, step {n}");
            }
        }
        for list in index.firewall().lists.values() {
            let entries: Vec<&Open> = list.entries.iter().collect();
            for (n, one) in entries.iter().enumerate() {
                assert!(!entries[..n].iter().any(|other| overlap(one, other)), "{entries:?}");
            }
        }
        says_why(&index, &mut dice);
        empty(&mut index, &world);
    }
    assert!(busy > 6_000, "the worlds were too quiet: {busy}");
}

/// What is said of a packet is what its list does.
fn says_why(index: &Index, dice: &mut Dice) {
    for (pod, _) in index.locals() {
        for direction in [Direction::Ingress, Direction::Egress] {
            let list = index.list(pod, direction).map(|list| &index.firewall().lists[&list]);
            for _ in 0..20 {
                let other: IpAddr = dice.pick(&ADDRS).parse().unwrap();
                let protocol = if dice.below(3) == 0 { Protocol::Udp } else { Protocol::Tcp };
                let port = [53, 70, 80, 81, 90][dice.below(5)];
                let packet = Open {
                    peer: Some(other.into()),
                    ports: Some(Ports { protocol, first: port, last: port }),
                };
                let within = |open: &&Open| open.ports.is_none() || overlap(open, &packet);
                let peer = |open: &&Open| open.peer.is_none_or(|peer| peer.contains(&other));
                let open =
                    list.is_none_or(|list| list.entries.iter().filter(peer).any(|o| within(&o)));
                let said = index.judge(pod, direction, other, Some((protocol, port)));
                assert_eq!(!said.drops(), open, "{pod} {direction:?} {packet}: {said}, {list:?}");
            }
        }
    }
}

/// Nothing is left of a cluster that is gone.
fn empty(index: &mut Index, world: &World) {
    world.local.keys().for_each(|name| index.local(name, &[]));
    assert!(index.lists.is_empty() && index.firewall() == &Firewall::default());
    world.pods.keys().for_each(|name| index.pod(name, None));
    world.namespaces.keys().for_each(|name| index.namespace(name, None));
    let Index { cluster, sets, .. } = index;
    assert!(cluster.namespaces.is_empty() && cluster.labels.is_empty() && cluster.ports.is_empty());
    assert!(sets.is_empty());
}
