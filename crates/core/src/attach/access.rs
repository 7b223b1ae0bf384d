//! The way between a pod and its own node, where the pod's link is a child of a NIC and the kernel
//! hands nothing from the one to the other: a second pair, routed, the same in every mode. The pod's
//! end has no address of its own; neighbours are written on both sides, so no ARP or ND is sent.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Birth, Ground,
    veth::{GATEWAY4, GATEWAY6, HOST_MAC},
};
use crate::{
    attachment::{Attachment, Phase},
    name::{IfName, Mac, Mtu},
    state::{Hop, Kind, Link, Object, Route, State},
};

/// What pods of a network reach by their node, and by which of its addresses it reaches them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The node's addresses; what it sends to pods comes from the first of their family.
    pub node: Vec<IpAddr>,
    /// Ranges of Services.
    pub services: Vec<IpNet>,
    /// Prefixes that lie behind the node for them: Services, and pods that nodes route to.
    pub through: Vec<IpNet>,
    /// Largest packet of the pair.
    pub mtu: Mtu,
}

impl Access {
    /// `addrs` are the node's, those of its underlay first; `routed` the ranges of networks whose
    /// pods are reached by the nodes' routing.
    pub fn new(services: Vec<IpNet>, addrs: &[IpAddr], routed: &[IpNet], wire: Mtu) -> Self {
        let mut through: Vec<IpNet> = services.iter().chain(routed).copied().collect();
        through.sort();
        through.dedup();
        let mut node: Vec<IpAddr> = Vec::new();
        for addr in addrs {
            let first = node.iter().all(|known| known.is_ipv4() != addr.is_ipv4());
            let covered = through.iter().any(|net| net.contains(addr));
            if first || !covered && !node.contains(addr) {
                node.push(*addr);
            }
        }
        Self { node, services, through, mtu: wire.max(Mtu::IPV6_LEAST) }
    }

    /// What the node sends from to pods of the family.
    pub fn source(&self, ipv4: bool) -> Option<IpAddr> {
        self.node.iter().copied().find(|addr| addr.is_ipv4() == ipv4)
    }

    /// Where packets of the family go that leave the pod by the pair. None: the node has no address
    /// of it, and so no way back.
    fn destinations(&self, ipv4: bool) -> Vec<IpNet> {
        let family = |net: &IpNet| net.addr().is_ipv4() == ipv4;
        let all = self.node.iter().copied().map(IpNet::from).chain(self.through.iter().copied());
        if self.source(ipv4).is_some() { all.filter(family).collect() } else { Vec::new() }
    }

    /// The destination of the pair's routes that covers the address.
    pub fn leads_to(&self, addr: IpAddr) -> Option<IpNet> {
        let found = self.destinations(addr.is_ipv4()).into_iter();
        found.filter(|net| net.contains(&addr)).max_by_key(IpNet::prefix_len)
    }
}

/// The pod's end, by the name of the interface that it stands beside.
pub fn pod_end(ifname: &IfName) -> IfName {
    IfName::derived("weft-", ifname.as_str())
}

/// The pod's next hop on the pair.
pub fn gateway(ipv4: bool) -> IpAddr {
    if ipv4 { GATEWAY4.into() } else { GATEWAY6.into() }
}

/// The pod's pair, where it has one and its network gives access.
fn pair<'a>(pod: &'a Attachment, on: &Ground<'a>) -> Option<(&'a IfName, &'a Access)> {
    pod.access.as_ref().zip(on.access)
}

fn link(dev: IfName, mac: Mac, access: &Access) -> Link {
    Link { dev, kind: Kind::Veth, mtu: access.mtu, mac, master: None }
}

fn pod_mac(pod: &Attachment) -> Mac {
    Mac::derived(&["access", &pod.id.cni, &pod.id.container, pod.id.ifname.as_str()])
}

pub fn birth(pod: &Attachment, on: &Ground<'_>) -> Option<Birth> {
    let (host, access) = pair(pod, on)?;
    Some(Birth::Pair {
        host: link(host.clone(), HOST_MAC, access),
        pod: link(pod_end(&pod.id.ifname), pod_mac(pod), access),
    })
}

/// The pod's side.
pub fn inside(pod: &Attachment, on: &Ground<'_>) -> State {
    let Some((_, access)) = pair(pod, on) else { return State::default() };
    let dev = pod_end(&pod.id.ifname);
    let end = link(dev.clone(), pod_mac(pod), access);
    let mut state: State =
        [Object::Link(end), Object::Up { dev: dev.clone() }].into_iter().collect();
    for addr in pod.usable() {
        let via = gateway(addr.is_ipv4());
        state.put(Object::Neigh { dev: dev.clone(), ip: via, mac: HOST_MAC });
        let routes = access.destinations(addr.is_ipv4()).into_iter().map(|dst| {
            let to = Hop::GatewayFrom(dev.clone(), via, *addr);
            Object::Route(Route { dst, to, mtu: None })
        });
        state.extend(routes);
    }
    state
}

/// The node's side. A pod that is going has none.
pub fn outside(pod: &Attachment, on: &Ground<'_>) -> State {
    let Some((dev, access)) = pair(pod, on).filter(|_| pod.phase != Phase::Doomed) else {
        return State::default();
    };
    let end = link(dev.clone(), HOST_MAC, access);
    let mut state: State =
        [Object::Link(end), Object::Up { dev: dev.clone() }].into_iter().collect();
    for addr in pod.usable() {
        let Some(source) = access.source(addr.is_ipv4()) else { continue };
        let (dst, to) = ((*addr).into(), Hop::From(dev.clone(), source));
        state.put(Object::Neigh { dev: dev.clone(), ip: *addr, mac: pod_mac(pod) });
        state.put(Object::Route(Route { dst, to, mtu: None }));
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn access(addrs: &[&str], routed: &[&str], services: &[&str]) -> Access {
        let addrs: Vec<IpAddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        Access::new(nets(services), &addrs, &nets(routed), Mtu::ETHERNET)
    }

    fn pod() -> Attachment {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "cni": "net", "container": "c", "ifname": "eth0", "phase": "attached",
            "network": "lan", "attach": {"kind": "macvlan", "parent": "eth1"}, "runtime": "test",
            "netns": "/run/netns/x", "cookie": 1, "nsid": 0, "mac": "02:00:00:00:00:01",
            "access": "weftn0", "addrs": ["10.77.0.17", "fd00:77::11"], "default_route": true,
        }))
        .unwrap()
    }

    fn held(pod: &Attachment, access: &Access) -> [Vec<String>; 2] {
        let on = Ground {
            node: &"node-a".parse().unwrap(),
            network: &"lan".parse().unwrap(),
            ranges: &[],
            blocks: &[],
            gateways: &[],
            segment: crate::attach::Segment::Node,
            nics: &[],
            answers: Vec::new(),
            send: Mtu::ETHERNET,
            accept: Mtu::ETHERNET,
            wire: Mtu::ETHERNET,
            parent: None,
            access: Some(access),
        };
        [inside(pod, &on), outside(pod, &on)]
            .map(|state| state.objects().map(ToString::to_string).collect())
    }

    #[test]
    fn a_pod_reaches_its_node_services_and_routed_pods_by_the_pair() {
        let given = access(&["192.0.2.1", "10.77.0.6"], &["10.1.0.0/16"], &["10.96.0.0/12"]);
        let [inside, outside] = held(&pod(), &given);
        let mac = pod_mac(&pod());
        assert_eq!(
            inside,
            [
                &format!("link weft-eth0 veth mtu 1500 address {mac}"),
                "link weft-eth0 up",
                "neigh 169.254.1.1 lladdr 02:77:65:66:74:01 dev weft-eth0",
                "neigh fe80::1 lladdr 02:77:65:66:74:01 dev weft-eth0",
                "route 10.1.0.0/16 via 169.254.1.1 dev weft-eth0 src 10.77.0.17",
                "route 10.77.0.6/32 via 169.254.1.1 dev weft-eth0 src 10.77.0.17",
                "route 10.96.0.0/12 via 169.254.1.1 dev weft-eth0 src 10.77.0.17",
                "route 192.0.2.1/32 via 169.254.1.1 dev weft-eth0 src 10.77.0.17",
            ]
        );
        // The node has no IPv6 address: it can't be answered, and so does not send.
        assert_eq!(
            outside,
            [
                "link weftn0 veth mtu 1500 address 02:77:65:66:74:01",
                "link weftn0 up",
                &format!("neigh 10.77.0.17 lladdr {mac} dev weftn0"),
                "route 10.77.0.17/32 dev weftn0 src 192.0.2.1",
            ]
        );
    }

    #[test]
    fn an_address_of_the_node_that_lies_in_a_prefix_has_no_route_of_its_own() {
        let addrs = ["192.0.2.1", "2001:db8::1", "10.96.0.10", "10.1.7.1", "192.0.2.1"];
        let given = access(&addrs, &["10.1.0.0/16"], &["10.96.0.0/12"]);
        let said: Vec<String> = given.node.iter().map(ToString::to_string).collect();
        assert_eq!(said, ["192.0.2.1", "2001:db8::1"]);
        let leads = |addr: &str| given.leads_to(addr.parse().unwrap()).map(|net| net.to_string());
        assert_eq!(leads("10.96.0.10").as_deref(), Some("10.96.0.0/12"));
        assert_eq!(leads("2001:db8::1").as_deref(), Some("2001:db8::1/128"));
        assert_eq!(leads("203.0.113.1"), None);
    }

    #[test]
    fn a_pod_that_goes_or_has_no_pair_holds_nothing() {
        let given = access(&["192.0.2.1"], &[], &[]);
        let doomed = Attachment { phase: Phase::Doomed, ..pod() };
        assert!(held(&doomed, &given)[1].is_empty());
        let without = Attachment { access: None, ..pod() };
        assert_eq!(held(&without, &given), [[""; 0]; 2]);
    }
}
