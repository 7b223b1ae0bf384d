//! Whether the peers of a network that is joined in a multicast group are heard there. Each node
//! says so into the group from time to time, by a frame that no bridge passes on to pods, and the
//! kernel learns from whom it heard it: a network whose group nobody is heard in is never well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_core::{
    attachment::Phase,
    join::Receive,
    name::{IfName, Mac, NetworkName, NodeName},
};

use super::{Agent, POISONED, Serving};

/// How often a node says that it is there.
const EVERY: Duration = Duration::from_secs(5);
/// The same as long as somebody is missing.
const MISSING_EVERY: Duration = Duration::from_millis(500);
/// A peer that was not heard for so long is missing.
const HEARD_MAX: Duration = Duration::from_secs(20);
/// A peer that was named only now has so long to be heard before the underlay is blamed: it says that it is
/// there twice.
const AWAITED_MAX: Duration = EVERY.saturating_mul(2);

/// Since when peers are named, by network.
type Named = BTreeMap<(NetworkName, NodeName), Instant>;

/// Bridges keep what is sent to this address to themselves (IEEE 802.1Q, 8.6.3).
const TO: Mac = Mac([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0f]);
/// For experiments of whoever runs the network (IEEE 802, 9.2.3).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Who was heard in a network's group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hearing {
    pub group: IpAddr,
    pub dev: IfName,
    pub heard: Vec<NodeName>,
    pub missing: Vec<NodeName>,
    /// Not heard, but named only now.
    pub awaited: Vec<NodeName>,
    /// How many VTEPs were heard whose nodes nobody has named.
    pub strangers: usize,
}

impl Hearing {
    /// Those that were named only lately are not missing yet.
    fn forgive(&mut self, named: &mut Named, network: &NetworkName, now: Instant) {
        named.retain(|(of, peer), _| {
            of != network || self.heard.contains(peer) || self.missing.contains(peer)
        });
        let mut since =
            |peer: &NodeName| *named.entry((network.clone(), peer.clone())).or_insert(now);
        // Who was heard before may not need it again.
        for peer in &self.heard {
            since(peer);
        }
        let lately = |peer: &NodeName| now.duration_since(since(peer)) < AWAITED_MAX;
        let missing = std::mem::take(&mut self.missing);
        (self.awaited, self.missing) = missing.into_iter().partition(lately);
    }

    /// What is wrong, and what may be the cause.
    pub fn problem(&self) -> Option<String> {
        let Self { group, dev, .. } = self;
        let all =
            |names: &[NodeName]| names.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
        let why = "the underlay drops multicast to it (a switch that snoops without a querier, a \
                   router within `ttl`), or their agents do not run";
        match (self.heard.is_empty(), self.missing.is_empty()) {
            (_, true) if !self.awaited.is_empty() => {
                Some(format!("not heard in group {group} by dev {dev} yet: {}", all(&self.awaited)))
            }
            (false, true) => None,
            (true, true) if self.strangers > 0 => None,
            (true, true) => Some(format!("no peer was heard in group {group} by dev {dev}")),
            (true, false) => Some(format!(
                "no peer was heard in group {group} by dev {dev}, and the store or `peers` lists {}: \
                 {why}",
                all(&self.missing)
            )),
            (false, false) => Some(format!(
                "not heard in group {group} by dev {dev}: {}; {} was: {why}",
                all(&self.missing),
                all(&self.heard)
            )),
        }
    }
}

pub(super) fn spawn(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let agent = agent.clone();
    std::thread::Builder::new().name("hear".into()).spawn(move || run(&agent))?;
    Ok(())
}

fn run(agent: &Agent) {
    let mut announced: BTreeMap<NetworkName, Receive> = BTreeMap::new();
    let mut named = Named::new();
    loop {
        let serving = agent.serving();
        announced.retain(|name, _| serving.networks.contains_key(name));
        named.retain(|(name, _), _| serving.networks.contains_key(name));
        let hearings: BTreeMap<NetworkName, Hearing> = serving
            .networks
            .keys()
            .filter_map(|name| {
                let mut hearing = hear(agent, &serving, name, &mut announced)?;
                hearing.forgive(&mut named, name, Instant::now());
                Some((name.clone(), hearing))
            })
            .collect();
        let well = hearings.values().all(|hearing| hearing.problem().is_none());
        *agent.hearings.lock().expect(POISONED) = hearings;
        std::thread::sleep(if well && serving.rounds > 0 { EVERY } else { MISSING_EVERY });
    }
}

/// Says that this node is there, and looks who said so. None: the network has no group.
fn hear(
    agent: &Agent,
    serving: &Serving,
    name: &NetworkName,
    announced: &mut BTreeMap<NetworkName, Receive>,
) -> Option<Hearing> {
    let here = serving.networks.get(name)?;
    let group = here.network.join.kind().group()?;
    let held = here
        .stage
        .hold
        .iter()
        .find(|held| matches!(held, Receive::VxlanGroup { .. } | Receive::VxlanLearnt { .. }));
    let (held, dev) = held.and_then(|held| Some((held, held.device()?)))?;
    let said = say(agent, &dev, voice(name, &agent.node));
    // Who learnt this node at another address sends there until it hears something else.
    if said && announced.get(name) != Some(held) {
        announce(agent, name, held, &dev);
        announced.insert(name.clone(), held.clone());
    }
    let learnt = agent.kernel.heard(&dev).unwrap_or_default();
    let is_heard = |peer: &NodeName| {
        let voice = voice(name, peer);
        learnt.iter().any(|heard| heard.mac == voice && heard.ago < HEARD_MAX)
    };
    // Those that the store lists, and those that it need not know.
    let named = agent.config.peers.iter().filter(|peer| **peer != agent.node);
    let named: BTreeSet<NodeName> = here.stage.choices.keys().chain(named).cloned().collect();
    let (heard, missing) = named.into_iter().partition(is_heard);
    let lately = learnt.iter().filter(|heard| heard.ago < HEARD_MAX);
    let strangers = lately.map(|heard| heard.vtep).collect::<BTreeSet<_>>().len();
    Some(Hearing { group, dev, heard, missing, awaited: Vec::new(), strangers })
}

/// Says for each MAC that is behind this VTEP that it is here.
fn announce(agent: &Agent, name: &NetworkName, held: &Receive, dev: &IfName) {
    let pods: Vec<Mac> = {
        let ledger = agent.ledger();
        let ours = ledger.attachments().filter(|pod| pod.network == *name);
        ours.filter(|pod| pod.phase == Phase::Attached).map(|pod| pod.mac).collect()
    };
    let macs = match held {
        Receive::VxlanLearnt { mac, .. } => vec![*mac],
        _ => pods,
    };
    for mac in macs {
        say(agent, dev, mac);
    }
}

/// True if a frame from this MAC left for the group.
fn say(agent: &Agent, dev: &IfName, from: Mac) -> bool {
    let frame = [&TO.0[..], &from.0, &ETHERTYPE, &[0; 46]].concat();
    let sent = agent.kernel.send_frame(dev, &frame);
    if let Err(error) = &sent {
        tracing::debug!(%dev, %error, "could not send into the group");
    }
    sent.is_ok()
}

/// A MAC of its own: what has an entry from the store is not learnt.
fn voice(network: &NetworkName, node: &NodeName) -> Mac {
    Mac::derived(&["voice", network.as_str(), node.as_str()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hearing(heard: &[&str], missing: &[&str]) -> Hearing {
        let names = |all: &[&str]| all.iter().map(|name| name.parse().unwrap()).collect();
        Hearing {
            group: "239.1.1.1".parse().unwrap(),
            dev: IfName::new("weftx4-1"),
            heard: names(heard),
            missing: names(missing),
            awaited: Vec::new(),
            strangers: 0,
        }
    }

    #[test]
    fn the_underlay_is_blamed_after_a_fair_time_alone_and_nobody_is_well_before() {
        let (network, begin, mut named) = ("net".parse().unwrap(), Instant::now(), Named::new());
        let mut said = |after: u64, heard: &[&str], missing: &[&str]| {
            let mut hearing = hearing(heard, missing);
            hearing.forgive(&mut named, &network, begin + Duration::from_secs(after));
            hearing.problem().unwrap_or_default()
        };
        let (yet, blame) = ("by dev weftx4-1 yet: node-b", "the underlay drops multicast");
        assert!(said(0, &[], &["node-b"]).ends_with(yet));
        assert!(said(9, &[], &["node-b"]).ends_with(yet));
        assert!(said(10, &[], &["node-b"]).contains(blame));
        assert_eq!(said(11, &["node-b"], &[]), "");
        // One that is new has its own time; one that was heard long ago has had it.
        assert!(said(12, &["node-b"], &["node-c"]).ends_with("yet: node-c"));
        let both = said(13, &[], &["node-b", "node-c"]);
        assert!(both.contains("lists node-b: the underlay"), "{both}");
        assert!(said(22, &["node-b"], &["node-c"]).contains("node-c; node-b was: the underlay"));
        // Who is no longer named and comes back is new.
        assert_eq!(said(23, &["node-b"], &[]), "");
        assert!(said(24, &["node-b"], &["node-c"]).ends_with("yet: node-c"));
        // Heard at once, then silent.
        assert_eq!(said(30, &["node-b", "node-d"], &[]), "");
        assert!(said(51, &["node-b"], &["node-d"]).contains("node-d; node-b was: the underlay"));
    }
}
