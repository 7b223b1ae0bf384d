//! A veth pair whose host end is a port of the network's bridge: pods of one node share a link,
//! with broadcast. The bridge has the second address of each block and is the pods' next hop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Attaching, Birth, Ground, NextHop};
use crate::{
    attachment::Attachment,
    name::{IfName, Mac},
    state::{Hop, Kind, Link, Object, Route, State},
};

/// It has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {}

fn host_end(pod: &Attachment, on: &Ground<'_>) -> Link {
    Link {
        dev: pod.host_end(),
        kind: Kind::Veth,
        mtu: on.wire.max(on.accept),
        mac: Mac::derived(&["host end", pod.host_end().as_str()]),
        master: Some(device(on)),
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
        let known = pod.addrs.iter().flat_map(|ip| {
            let (dst, to) = (IpNet::from(*ip), Hop::Link(device(on)));
            [
                Object::Neigh { dev: device(on), ip: *ip, mac: pod.mac },
                Object::Route(Route { dst, to, mtu: Some(on.accept) }),
            ]
        });
        let link = Object::Link(host_end(pod, on));
        [link, Object::Up { dev: pod.host_end() }].into_iter().chain(known).collect()
    }

    fn next_hop(&self, addr: IpAddr, on: &Ground<'_>) -> Option<NextHop> {
        Some(NextHop { ip: on.block_of(addr).map_or(addr, gateway_of), mac: Some(mac(on)) })
    }

    fn pod_addr(&self, addr: IpAddr, on: &Ground<'_>) -> IpNet {
        let prefix =
            on.block_of(addr).map_or_else(|| IpNet::from(addr).prefix_len(), IpNet::prefix_len);
        IpNet::new(addr, prefix).unwrap_or_else(|_| addr.into())
    }

    fn reached_past_routes(&self) -> bool {
        true
    }

    fn node(&self, on: &Ground<'_>) -> State {
        if on.blocks.is_empty() {
            return State::default();
        }
        let dev = device(on);
        let (kind, mtu) = (Kind::Bridge, on.wire.max(on.accept));
        let link = Link { dev: dev.clone(), kind, mtu, mac: mac(on), master: None };
        let addrs = on.blocks.iter().map(|block| {
            let addr = IpNet::new(gateway_of(block), block.prefix_len()).unwrap_or(*block);
            Object::Addr { dev: dev.clone(), addr }
        });
        [Object::Link(link), Object::Up { dev: dev.clone() }].into_iter().chain(addrs).collect()
    }

    fn described(&self) -> String {
        "bridge".into()
    }
}

fn device(on: &Ground<'_>) -> IfName {
    IfName::derived("weftb-", on.network.as_str())
}

fn mac(on: &Ground<'_>) -> Mac {
    Mac::derived(&["bridge", on.node.as_str(), on.network.as_str()])
}

/// The second address of the block; the first is the tunnel's.
pub fn gateway_of(block: &IpNet) -> IpAddr {
    match block.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first) + 1).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first) + 1).into(),
    }
}
