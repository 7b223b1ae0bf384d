//! What a node's own namespace should hold: all networks, all peers, all pods, in one state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    attach::{
        Footing, Ground, Meet, Parent, Standing,
        access::{self, Access},
        bridge,
        sources::{self, Together},
    },
    attachment::{Attachment, Phase},
    join::Receive,
    learnt::Beside,
    name::{IfName, Mtu, NetworkName, NodeName},
    network::{Network, Untracked},
    paths::{Nic, Stage},
    policy::{Rule, Ruleset},
    state::{Knob, Object, State},
};

/// One network as this node serves it.
pub struct Served<'a> {
    pub name: &'a NetworkName,
    pub network: &'a Network,
    pub blocks: &'a [IpNet],
    pub stage: &'a Stage,
    /// What pods reach by the node whose link is no way to it.
    pub access: Option<&'a Access>,
}

/// What the host itself asks us to mind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Devices whose route came by a router advertisement: forwarding would make them forget it.
    pub ra_devices: Vec<IfName>,
    /// Underlay devices that drop what comes by another way than they would answer (RFC 3704, 2.2).
    pub strict_devices: Vec<IfName>,
    /// Some other program translates addresses here, so replies must be tracked.
    pub foreign_nat: bool,
    /// The kernel can let what passes a bridge pass the rules too (br_netfilter is loaded).
    pub bridge_calls: bool,
    /// The underlay device's MTU.
    pub wire: Option<Mtu>,
    /// The underlay's devices and addresses.
    pub nics: Vec<Nic>,
    /// What pods' links are children of, where its NIC is there.
    pub parents: BTreeMap<Parent, Standing>,
    /// Routes that its neighbours in BGP have said, to what is no node's block.
    pub learnt: Arc<Beside>,
}

impl Host {
    /// True if nothing differs but the routes that its neighbours have said.
    pub fn same_but_learnt(&self, other: &Self) -> bool {
        let learnt = other.learnt.clone();
        *self == *other || Self { learnt, ..self.clone() } == *other
    }
}

impl Served<'_> {
    pub fn ground<'a>(&'a self, node: &'a NodeName, host: &'a Host) -> Ground<'a> {
        Ground {
            node,
            network: self.name,
            ranges: &self.network.ranges,
            blocks: self.blocks,
            segment: self.network.segment(),
            gateways: self.network.join.kind().gateways(),
            send: self.stage.send,
            accept: self.stage.accept,
            wire: host.wire.unwrap_or(Mtu::ETHERNET),
            nics: &host.nics,
            parent: self
                .network
                .attach
                .kind()
                .parent()
                .and_then(|parent| host.parents.get(parent).copied()),
            answers: self
                .stage
                .hold
                .iter()
                .filter(|held| matches!(held, Receive::VxlanLearnt { .. }))
                .filter_map(Receive::device)
                .collect(),
            access: self.access,
        }
    }
}

/// `pods` are the attachments of this node in any network; those that are not attached hold nothing but
/// what others are guarded from them by.
pub fn node<'a>(
    node: &NodeName,
    host: &Host,
    served: &[Served<'_>],
    pods: impl Iterator<Item = &'a Attachment> + Clone,
) -> State {
    let mut state = State::default();
    let network_of = |pod: &Attachment| {
        served.iter().find(|net| *net.name == pod.network).map(|net| net.network)
    };
    let together = Together::of(pods.clone(), network_of);
    for network in served {
        let ground = network.ground(node, host);
        state.merge(network.network.attach.kind().node(&ground));
        for receive in &network.stage.hold {
            state.merge(receive.hold(&ground));
        }
        state.extend(network.stage.choices.values().flat_map(|peer| peer.objects()));
        let parent = network.network.attach.kind().parent();
        let ready = |parent: &Parent| host.parents.get(parent).is_some_and(|nic| nic.ready);
        let there = parent.is_none_or(ready);
        let ours = pods.clone().filter(|pod| pod.network == *network.name);
        for pod in ours.clone().filter(|_| network.network.spoof_check) {
            state.extend(sources::outside(pod, &ground, together.others(pod)));
        }
        for pod in ours.filter(|pod| holds(pod)) {
            state.merge(if there {
                pod.attach.outside(pod, &ground)
            } else {
                // What comes in by a device that is not there needs no guard.
                access::outside(pod, &ground)
            });
        }
    }
    state.extend(host.learnt.objects());
    let translated = host.foreign_nat || pods.clone().any(Attachment::is_mapped);
    state.extend(sysctls(host, served, translated));
    let ruleset = ruleset(host, served, translated);
    if ruleset != Ruleset::default() {
        state.put(Object::Table { ruleset });
    }
    state
}

/// True if the node holds something for the pod: also while its link waits for an address or to be
/// freed, where that is in the pod's namespace alone and others are guarded from it.
fn holds(pod: &Attachment) -> bool {
    pod.phase == Phase::Attached || pod.host_end.is_none()
}

/// True if a reply between two pods of one bridge may have to be translated back on its way, which
/// the bridge alone would not do.
pub fn bridged_behind_services(host: &Host, served: &[Served<'_>]) -> bool {
    host.foreign_nat && bridges(served).next().is_some()
}

fn bridges<'a>(served: &'a [Served<'a>]) -> impl Iterator<Item = &'a Served<'a>> {
    routed(served).filter(|net| net.network.attach.kind().reached_past_routes())
}

/// Networks whose packets pass the node's routing: not those that are the physical one, nor those
/// that no node is in.
fn routed<'a>(served: &'a [Served<'a>]) -> impl Iterator<Item = &'a Served<'a>> {
    served.iter().filter(|net| net.network.is_routed())
}

/// False where a pod's node does not see what comes to the pod: by way of it, the answer would look
/// like something new. Such a pod is to see the sender's node.
fn answers_in_sight(net: &&Served<'_>) -> bool {
    net.network.attach.kind().footing() != Footing::Routed { translates: false }
}

/// Networks whose packets pass it in part: pods reach what lies behind their node.
fn accessible<'a>(served: &'a [Served<'a>]) -> impl Iterator<Item = &'a Served<'a>> {
    served.iter().filter(|net| net.access.is_some())
}

fn sysctls(host: &Host, served: &[Served<'_>], translated: bool) -> Vec<Object> {
    let has = |ipv4: bool| {
        let passing = routed(served).chain(accessible(served));
        let mut ranges = passing.flat_map(|net| &net.network.ranges);
        ranges.any(|range| range.addr().is_ipv4() == ipv4)
    };
    let set = |knob: Knob, value: u8| Object::Sysctl { knob, value };
    let mut sysctls = Vec::new();
    if has(true) {
        sysctls.push(set(Knob::Forward4, 1));
    }
    if has(false) {
        sysctls.push(set(Knob::Forward6, 1));
        sysctls.extend(host.ra_devices.iter().map(|dev| set(Knob::AcceptRa(dev.clone()), 2)));
    }
    if host.bridge_calls && translated && bridges(served).next().is_some() {
        sysctls.extend(has(true).then(|| set(Knob::BridgeCall4, 1)));
        sysctls.extend(has(false).then(|| set(Knob::BridgeCall6, 1)));
    }
    if routed(served).next().is_some() {
        sysctls.extend(host.strict_devices.iter().map(|dev| set(Knob::RpFilter(dev.clone()), 2)));
    }
    sysctls
}

fn ruleset(host: &Host, served: &[Served<'_>], translated: bool) -> Ruleset {
    let mut ruleset = Ruleset::default();
    // As soon as anything is translated, the kernel tracks the tunnels' own packets too.
    let access = accessible(served).next().is_some();
    let ports = served.iter().flat_map(|net| &net.stage.hold).filter_map(Receive::port);
    let ports: BTreeSet<u16> = ports.collect();
    ruleset.raw.extend(ports.iter().flat_map(|port| no_tunnels(served, *port)));
    if translated || access || served.iter().any(|net| net.network.masquerades()) {
        ruleset.raw.extend(ports.into_iter().map(|port| Rule::NoTrackPort { port }));
    }
    if translated && !host.bridge_calls {
        // Its answer would pass the bridge alone, and not be translated back.
        let back = bridges(served).map(|net| bridge::device(net.name));
        ruleset.nat.extend(back.map(|dev| Rule::MasqueradeBack { dev }));
    }
    for net in served.iter().filter(|net| net.network.join.shared().is_none()) {
        let untracked = match net.network.untracked {
            // Nobody translates what no host sees, and others may have the same addresses.
            _ if !net.network.host_access => true,
            Untracked::Always => true,
            Untracked::Never => false,
            Untracked::Auto => !translated,
        };
        for range in &net.network.ranges {
            if untracked && access {
                // What a pod of another network sends to one of this by the node may have one of the
                // node's own addresses here, and its reply is to be translated back.
                let own = net.blocks.iter().filter(|block| range.contains(*block));
                let own = own.filter_map(first_two);
                ruleset.raw.extend(own.map(|to| Rule::Keep { from: *range, to }));
            }
            if untracked {
                ruleset.raw.push(Rule::NoTrack { from: *range, to: *range });
            }
            if net.network.masquerades() {
                let family = |other: &&IpNet| other.addr().is_ipv4() == range.addr().is_ipv4();
                let all = routed(served).filter(answers_in_sight);
                let all = all.flat_map(|net| &net.network.ranges).filter(family);
                ruleset.nat.extend(all.map(|to| Rule::Keep { from: *range, to: *to }));
                // What is sent to many has no connection to hide, and with br_netfilter it passes
                // here even between pods of one bridge.
                let many = to_many(range).into_iter();
                ruleset.nat.extend(many.map(|to| Rule::Keep { from: *range, to }));
                ruleset.nat.push(Rule::Masquerade { from: *range });
            }
        }
    }
    if access {
        ruleset.forward.extend(accessible(served).flat_map(|net| apart(net.network)));
        ruleset.nat.extend([Rule::MasqueradeAccess, Rule::MasqueradeLed]);
    }
    ruleset
}

/// What keeps pods from sending into a tunnel what would pass for another node's. Where nodes have addresses
/// of a network themselves, it is theirs to guard.
fn no_tunnels<'a>(served: &'a [Served<'_>], port: u16) -> impl Iterator<Item = Rule> + use<'a> {
    let of_pods = served.iter().filter(|net| net.network.join.shared().is_none());
    let ranges = of_pods.flat_map(|net| &net.network.ranges);
    ranges.map(move |from| Rule::NoTunnel { from: *from, port })
}

/// What keeps pods of one node from meeting by way of it, where they are not to.
fn apart(network: &Network) -> Vec<Rule> {
    let unless_translated = match network.attach.kind().meet_by_node() {
        Meet::Freely => return Vec::new(),
        Meet::Translated => true,
        Meet::Never => false,
    };
    let rule = |range: &IpNet| Rule::Apart { range: *range, unless_translated };
    network.ranges.iter().map(rule).collect()
}

/// The node's own addresses in one of its blocks: the tunnel's and the bridge's.
fn first_two(block: &IpNet) -> Option<IpNet> {
    IpNet::new(block.network(), block.max_prefix_len() - 1).ok()
}

/// Multicast and broadcast, of the family of `range`.
fn to_many(range: &IpNet) -> Vec<IpNet> {
    let many: &[&str] = match range {
        IpNet::V4(_) => &["224.0.0.0/4", "255.255.255.255/32"],
        IpNet::V6(_) => &["ff00::/8"],
    };
    many.iter().map(|net| net.parse().expect("written above")).collect()
}
