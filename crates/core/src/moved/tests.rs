//! Every pair of choices for two peers in two networks: what is planned for the moved alone leads
//! to the same kernel as planning everything.

use std::{collections::BTreeMap, net::IpAddr};

use super::*;
use crate::{
    attach::bridge::first_of,
    attachment::Attachment,
    desired::{self, Host},
    join::{Receive, bridged::Domain},
    learnt::Beside,
    name::{IfName, Mac, Mtu, NetworkName, NodeName},
    network::Network,
    paths::{Choice, Choices, Leg, Path, Stage},
    view::{Part, Resident},
};

/// What a peer can be at: absent, direct, by tunnel, with another block, with another MAC. A block
/// that both peers claim is among them, one that is this node's own, and a next hop that both
/// networks use.
fn worlds() -> Vec<Choices> {
    let peer = |name: u8| {
        let own = format!("10.1.{name}.0/24");
        let direct = Receive::Direct { underlay: [192, 0, 2, name].into() };
        let tunnel = |mac| Receive::Vxlan {
            underlay: [192, 0, 2, name].into(),
            vni: 7.try_into().unwrap(),
            port: 4789,
            mac: Mac([2, 0, 0, 0, 0, mac]),
        };
        vec![
            None,
            Some(choice(direct.clone(), &[&own])),
            Some(choice(direct, &["10.1.9.0/24"])),
            Some(choice(tunnel(name), &[&own, "10.1.9.0/24"])),
            Some(choice(tunnel(9), &[&own])),
        ]
    };
    pairs(peer)
}

/// The same by BGP: by the peer itself, by one router or by two at once, which both peers share, each
/// block by another.
fn worlds_by_bgp() -> Vec<Choices> {
    pairs(|name| {
        let own = format!("10.1.{name}.0/24");
        let by = |legs: &[(&str, &[u8])]| {
            let blocks: Vec<&str> = legs.iter().map(|(block, _)| *block).collect();
            let receive = Receive::Bgp { underlay: [192, 0, 2, name].into() };
            let mut choice = choice(receive, &blocks);
            let path = choice.v4.as_mut().unwrap().path.as_mut().unwrap();
            path.legs = legs
                .iter()
                .map(|(block, hops)| Leg {
                    block: block.parse().unwrap(),
                    hops: hops
                        .iter()
                        .map(|n| (IfName::new("eth0"), IpAddr::from([192, 0, 2, *n])))
                        .collect::<Vec<_>>()
                        .into(),
                })
                .collect();
            Some(choice)
        };
        vec![
            None,
            by(&[(&own, &[name])]),
            by(&[(&own, &[253, 254])]),
            by(&[(&own, &[254]), ("10.1.9.0/24", &[253])]),
            by(&[("10.1.9.0/24", &[253, 254])]),
        ]
    })
}

/// The same on a bridged segment: a pod or none, one that both peers tell of, one with an address
/// of this node's own, a peer reached over the other family, and two at one address.
fn bridged_worlds() -> Vec<Choices> {
    pairs(|name| {
        let own = format!("10.1.{name}.0/24");
        let pod = |addr: &str, mac| {
            let addrs = vec![addr.parse().unwrap()];
            vec![Resident { mac: Mac([2, 0, 0, 0, 1, mac]), addrs }]
        };
        let at = |underlay: IpAddr, pods, blocks: &[&str]| {
            let (vni, mac) = (7.try_into().unwrap(), Mac([2, 0, 0, 0, 0, name]));
            let receive = Receive::VxlanBridged { underlay, vni, port: 4789, mac };
            let domain = Box::new(Domain::new(&"blue".parse().unwrap(), true, pods));
            Some(PeerChoice { domain: Some(domain), ..choice(receive, blocks) })
        };
        let near: IpAddr = [192, 0, 2, name].into();
        vec![
            None,
            at(near, vec![], &[&own]),
            at(near, pod(&format!("10.1.{name}.2"), name), &[&own]),
            at([192, 0, 2, 9].into(), pod("10.1.8.2", name), &[&own, "10.1.8.0/24"]),
            at("2001:db8::9".parse().unwrap(), pod("10.1.9.2", 9), &["10.1.9.0/24"]),
        ]
    })
}

fn pairs(peer: impl Fn(u8) -> Vec<Option<PeerChoice>>) -> Vec<Choices> {
    let mut worlds = Vec::new();
    for first in peer(1) {
        for second in peer(2) {
            let both = [("a", first.clone()), ("b", second)];
            let there = both.into_iter().filter_map(|(name, choice)| {
                Some((name.parse::<NodeName>().unwrap(), Arc::new(choice?)))
            });
            worlds.push(there.collect());
        }
    }
    worlds
}

fn choice(receive: Receive, blocks: &[&str]) -> PeerChoice {
    let blocks: Vec<IpNet> = blocks.iter().map(|block| block.parse().unwrap()).collect();
    let (dev, via): (_, IpAddr) = match &receive {
        Receive::Direct { underlay } | Receive::Bgp { underlay } => ("eth0", *underlay),
        Receive::Vxlan { .. } | Receive::VxlanLearnt { .. } => ("weftx4-7", blocks[0].network()),
        Receive::VxlanBridged { underlay, .. } | Receive::VxlanGroup { underlay, .. } => {
            let dev = if underlay.is_ipv4() { "weftx4-7" } else { "weftx6-7" };
            (dev, first_of(&blocks[0]))
        }
    };
    let path =
        Path { receive, dev: IfName::new(dev), via, mtu: Mtu::ETHERNET, overhead: 0, legs: vec![] };
    let v4 = Some(Choice { path: Some(path), refused: Vec::new() });
    PeerChoice { revision: (1, 0, 0), blocks, ignored: vec![], v4, v6: None, domain: None }
}

fn stage(choices: &Choices) -> Stage {
    let (send, accept) = (Mtu::ETHERNET, Mtu::ETHERNET);
    let part = Part {
        blocks: vec![],
        receives: vec![],
        withdrawing: vec![],
        send,
        accept,
        pods: false,
        hosts: vec![],
    };
    let choices = choices.clone();
    Stage { part, hold: Vec::new(), choices, send, accept, waiting: Vec::new() }
}

#[test]
fn what_moved_is_what_everything_would_say() {
    as_everything(&worlds());
}

#[test]
fn what_moved_by_bgp_is_what_everything_would_say() {
    as_everything(&worlds_by_bgp());
    // Every third: the space is the product of all.
    let some: Vec<Choices> = worlds_by_bgp().into_iter().step_by(3).collect();
    as_everything_beside(&some, &learnt());
}

#[test]
fn what_moved_on_a_segment_is_what_everything_would_say() {
    as_everything(&bridged_worlds());
}

fn as_everything(worlds: &[Choices]) {
    as_everything_beside(worlds, &[Beside::default()]);
}

/// Learnt routes through next hops that the peers' blocks are reached by too.
fn learnt() -> Vec<Beside> {
    let by = |routes: &[(&str, &[u8])]| {
        let hop = |n: &u8| (IfName::new("eth0"), IpAddr::from([192, 0, 2, *n]));
        let routes = routes.iter().map(|(dst, hops)| {
            let hops: Vec<_> = hops.iter().map(hop).collect();
            (dst.parse().unwrap(), hops.into())
        });
        Beside { routes: routes.collect(), ..Beside::default() }
    };
    vec![
        by(&[]),
        by(&[("203.0.113.0/24", &[254])]),
        by(&[("203.0.113.0/24", &[253, 254]), ("203.0.114.0/24", &[253, 254])]),
        by(&[("203.0.113.0/24", &[1]), ("203.0.114.0/24", &[253, 254])]),
    ]
}

fn as_everything_beside(worlds: &[Choices], learnt: &[Beside]) {
    let me: NodeName = "me".parse().unwrap();
    let names: [NetworkName; 2] = ["blue".parse().unwrap(), "red".parse().unwrap()];
    let network: Network = serde_json::from_str(r#"{"ranges":["10.1.0.0/16"]}"#).unwrap();
    let (mut light, mut full) = (0, 0);
    let own = ["10.1.9.0/24".parse().unwrap()];
    // The second network stands still, on every way that the first may share with it.
    let still: Vec<Choices> = worlds.iter().step_by(6).cloned().collect();
    let pairs = worlds.iter().flat_map(|was| worlds.iter().map(move |now| (was, now)));
    let beside = learnt.iter().flat_map(|was| learnt.iter().map(move |now| (was, now)));
    for ((was, now), beside) in pairs.flat_map(|pair| beside.clone().map(move |of| (pair, of))) {
        for (still, own) in still.iter().flat_map(|still| [(still, &[][..]), (still, &own)]) {
            let stages = |first: &Choices| [stage(first), stage(still)];
            let (was, now) = (stages(was), stages(now));
            let served = |stages: &[Stage; 2]| -> BTreeMap<usize, Stage> {
                stages.iter().cloned().enumerate().collect()
            };
            let (was, now) = (served(&was), served(&now));
            let say = |stages, learnt: &Beside| {
                let host = Host { learnt: Arc::new(learnt.clone()), ..Host::default() };
                desired::node(&me, &host, &serve(stages, &names, &network, own), none())
            };
            let (before, want) = (say(&was, beside.0), say(&now, beside.1));
            let of = |stages| serve(stages, &names, &network, own);
            match moved(&of(&was), &of(&now), beside) {
                Some(changes) => {
                    light += 1;
                    let mut kernel = before;
                    changes.iter().for_each(|change| kernel.take(change));
                    assert_eq!(kernel, want, "{was:?} to {now:?}");
                }
                None => full += 1,
            }
        }
    }
    assert!(light > 500 && full > 500, "both ways are taken: {light}, {full}");
}

fn none() -> impl Iterator<Item = &'static Attachment> + Clone {
    std::iter::empty()
}

fn serve<'a>(
    stages: &'a BTreeMap<usize, Stage>,
    names: &'a [NetworkName; 2],
    network: &'a Network,
    blocks: &'a [IpNet],
) -> Vec<Served<'a>> {
    let served = stages.iter().map(|(at, stage)| Served {
        name: &names[*at],
        network,
        blocks,
        stage,
        access: None,
    });
    served.collect()
}
