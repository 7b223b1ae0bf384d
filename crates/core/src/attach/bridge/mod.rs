//! A veth pair whose host end is a port of the network's bridge: pods of one node share a link,
//! with broadcast. The bridge is the pods' next hop, with the second address of each block; where
//! the join makes one link of all nodes, with the second address of the range on every node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Attaching, Birth, Ground, NextHop, Segment};
use crate::{
    attachment::Attachment,
    name::{IfName, Mac, NetworkName},
    state::{Hop, Kind, Knob, Link, Object, Route, State},
};

/// It has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Bridge {}

fn host_end(pod: &Attachment, on: &Ground<'_>) -> Link {
    Link {
        dev: pod.host_end(),
        kind: Kind::Veth,
        mtu: on.wire.max(on.accept),
        mac: Mac::derived(&["host end", pod.host_end().as_str()]),
        master: Some(device(on.network)),
    }
}

impl Attaching for Bridge {
    fn birth(&self, pod: &Attachment, on: &Ground<'_>) -> Birth {
        Birth::Pair { host: host_end(pod, on), pod: super::veth_end(pod, on) }
    }

    fn outside(&self, pod: &Attachment, on: &Ground<'_>) -> State {
        // Neighbours are written: a bridge without a link-local address can't ask for them
        // (ndisc_send_ns). The route says what the pod takes, so that the routing code answers a
        // packet that is too large; the links alone would drop it without a word.
        let (bridge, host) = (device(on.network), pod.host_end());
        let link = Object::Link(host_end(pod, on));
        let mut state: State = [link, Object::Up { dev: host.clone() }].into_iter().collect();
        for ip in &pod.addrs {
            state.put(Object::Neigh { dev: bridge.clone(), ip: *ip, mac: pod.mac });
            if on.segment.host_access() {
                let (dst, to) = (IpNet::from(*ip), Hop::Link(bridge.clone()));
                state.put(Object::Route(Route { dst, to, mtu: Some(on.accept) }));
            }
        }
        // A pod that has yet to speak is known all the same: questions for it stay on this node.
        if on.segment.is_wide() {
            state.put(Object::Behind { dev: host, mac: pod.mac });
        }
        state
    }

    /// What leaves here under an address of another of the pod's links asks for its neighbour from a
    /// link-local address or not at all (ndisc_send_ns).
    fn beside(&self, pod: &Attachment) -> State {
        super::link_local(pod).into_iter().collect()
    }

    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        let net = match on.segment {
            Segment::Node => on.block_of(addr),
            Segment::Network { host_access: true } => on.range_of(addr),
            Segment::Network { host_access: false } => return None,
        };
        Some(NextHop { ip: net.map_or(addr, first_of), mac: Some(mac(on)) })
    }

    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        let net = if on.segment.is_wide() { on.range_of(addr) } else { on.block_of(addr) };
        let prefix = net.map_or_else(|| IpNet::from(addr).prefix_len(), IpNet::prefix_len);
        IpNet::new(addr, prefix).unwrap_or_else(|_| addr.into())
    }

    fn reached_past_routes(&self) -> bool {
        true
    }

    fn node(&self, on: &Ground<'_>) -> State {
        // The tunnel's port needs its bridge before there is a block.
        if on.blocks.is_empty() && !on.segment.is_wide() {
            return State::default();
        }
        let dev = device(on.network);
        let (kind, mtu) = (Kind::Bridge, on.wire.max(on.accept));
        let link = Link { dev: dev.clone(), kind, mtu, mac: mac(on), master: None };
        let own = match on.segment {
            Segment::Node => on.blocks.iter().map(|block| own_address(&dev, block)).collect(),
            Segment::Network { host_access: true } => on_all_nodes(&dev, on),
            Segment::Network { host_access: false } => Vec::new(),
        };
        let mut state: State =
            [Object::Link(link), Object::Up { dev: dev.clone() }].into_iter().chain(own).collect();
        if on.segment.host_access() && on.ranges.iter().any(|range| range.addr().is_ipv4()) {
            // As long as no port of the node leads to a pod, which asks for the contrary.
            state.put(Object::Sysctl { knob: Knob::RouteLocalnet(dev), value: 0 });
        }
        state
    }

    fn described(&self) -> String {
        "bridge".into()
    }
}

fn own_address(dev: &IfName, block: &IpNet) -> Object {
    let addr = IpNet::new(first_of(block), block.prefix_len()).unwrap_or(*block);
    Object::Addr { dev: dev.clone(), addr }
}

/// The gateway's address, the node's own, and the range by the latter: from the gateway's address
/// a pod elsewhere would answer its own node.
fn on_all_nodes(dev: &IfName, on: &Ground<'_>) -> Vec<Object> {
    let mut objects = Vec::new();
    for range in on.ranges {
        let addr = IpNet::new(first_of(range), range.prefix_len()).unwrap_or(*range);
        objects.push(Object::Anycast { dev: dev.clone(), addr });
        let own = on.blocks.iter().filter(|block| range.contains(*block)).map(first_of);
        let own: Vec<IpAddr> = own.collect();
        objects
            .extend(own.iter().map(|own| Object::Addr { dev: dev.clone(), addr: (*own).into() }));
        objects.extend(own.first().map(|own| {
            let to = Hop::From(dev.clone(), *own);
            Object::Route(Route { dst: *range, to, mtu: Some(on.send) })
        }));
    }
    objects
}

pub fn device(network: &NetworkName) -> IfName {
    IfName::derived("weftb-", network.as_str())
}

/// On a segment over all nodes the same everywhere: a pod's next hop is at home wherever it runs.
fn mac(on: &Ground<'_>) -> Mac {
    if on.segment.is_wide() {
        Mac::derived(&["gateway", on.network.as_str()])
    } else {
        Mac::derived(&["bridge", on.node.as_str(), on.network.as_str()])
    }
}

/// The second address: of a block, where the first is the tunnel's; or of a range.
pub fn first_of(net: &IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + 1).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + 1).into(),
    }
}
