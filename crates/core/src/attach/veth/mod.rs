//! A routed veth pair, no bridge: the pod has its address alone (/32, /128) and sends everything
//! to one next hop that is the host's end. Neighbours are written on both sides, so no ARP or ND
//! is ever sent on the pair. Measured faster than a bridge (KERNEL: 10 to 15 %).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Attaching, Birth, Ground, NextHop};
use crate::{
    attachment::Attachment,
    name::Mac,
    state::{Hop, Kind, Link, Object, Route, State},
};

/// It has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Veth {}

/// The pod's next hop. Link-local (RFC 3927): it never leaves the pair.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Every host end has it: the pairs are links of their own.
pub const HOST_MAC: Mac = Mac([0x02, 0x77, 0x65, 0x66, 0x74, 0x01]);

fn host_end(pod: &Attachment, on: &Ground<'_>) -> Link {
    // As large as the underlay, so that a packet too large for its path reaches the routing
    // code, which answers it, and is not dropped by the pair without a word.
    let (dev, mtu) = (pod.host_end(), on.wire.max(on.accept));
    Link { dev, kind: Kind::Veth, mtu, mac: HOST_MAC, master: None }
}

impl Attaching for Veth {
    fn birth(&self, pod: &Attachment, on: &Ground<'_>) -> Birth {
        Birth::Pair { host: host_end(pod, on), pod: super::veth_end(pod, on) }
    }

    fn outside(&self, pod: &Attachment, on: &Ground<'_>) -> State {
        let dev = &pod.host_end();
        let link = [Object::Link(host_end(pod, on)), Object::Up { dev: dev.clone() }];
        let addrs = pod.addrs.iter().flat_map(|ip| {
            let (dst, to) = (IpNet::from(*ip), Hop::Link(dev.clone()));
            [
                Object::Neigh { dev: dev.clone(), ip: *ip, mac: pod.mac },
                Object::Route(Route { dst, to, mtu: Some(on.accept) }),
            ]
        });
        link.into_iter().chain(addrs).collect()
    }

    fn next_hop(&self, addr: IpAddr, _on: &Ground<'_>) -> Option<NextHop> {
        let ip = if addr.is_ipv4() { GATEWAY4.into() } else { GATEWAY6.into() };
        Some(NextHop { ip, mac: Some(HOST_MAC) })
    }

    fn pod_addr(&self, addr: IpAddr, _on: &Ground<'_>) -> IpNet {
        addr.into()
    }

    fn reached_past_routes(&self) -> bool {
        false
    }

    fn node(&self, on: &Ground<'_>) -> State {
        nowhere_else(on)
    }

    fn described(&self) -> String {
        "veth".into()
    }
}

/// An address of the block that no pod has leads nowhere, instead of out by the default route.
pub(super) fn nowhere_else(on: &Ground<'_>) -> State {
    let nowhere =
        |block: &IpNet| Object::Route(Route { dst: *block, to: Hop::Blackhole, mtu: None });
    on.blocks.iter().map(nowhere).collect()
}
