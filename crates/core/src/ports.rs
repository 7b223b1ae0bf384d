//! Ports of the node that lead to a pod (the runtime's capability `portMappings`): what the node
//! holds for them, and which can't be beside each other.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    attach::{Footing, bridge},
    attachment::{Attachment, Phase},
    name::IfName,
    policy::spec::Protocol,
    state::{Key, Knob, Object, Route, State},
};

/// One, as the runtime asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
    /// One address of the node's; unspecified: all of its family; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// The address that is asked for; none: all.
    fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    pub fn is_of(&self, ipv4: bool) -> bool {
        self.host_ip.is_none_or(|ip| ip.is_ipv4() == ipv4)
    }

    /// True if some connection would be for both.
    pub fn meets(&self, other: &Self) -> bool {
        let family = [true, false].into_iter().any(|ipv4| self.is_of(ipv4) && other.is_of(ipv4));
        let one = self.address().zip(other.address()).is_none_or(|(a, b)| a == b);
        (self.host_port, self.protocol) == (other.host_port, other.protocol) && family && one
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.host_port), self.protocol),
            None => write!(f, "{}/{}", self.host_port, self.protocol),
        }
    }
}

/// Where connections knock that a port is mapped for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Door {
    pub ipv4: bool,
    /// None: at any of the node's addresses.
    pub ip: Option<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv4 { "ip" } else { "ip6" };
        match self.ip {
            Some(ip) => write!(f, "{family} daddr {ip}")?,
            None => write!(f, "{family} fib daddr type local")?,
        }
        write!(f, " {} dport {}", self.protocol, self.port)
    }
}

/// Whose connections to a pod by a mapped port take an address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Client {
    /// The pod's own: it takes nothing that comes from its own address.
    Itself,
    /// Everybody's: the pod's answers would go by another way than the node.
    Anybody,
}

fn door(mapping: &PortMapping, ipv4: bool) -> Door {
    let (protocol, port) = (mapping.protocol, mapping.host_port);
    Door { ipv4, ip: mapping.address(), protocol, port }
}

fn mapped(pod: &Attachment, addr: IpAddr) -> impl Iterator<Item = &PortMapping> {
    pod.ports.iter().filter(move |mapping| mapping.is_of(addr.is_ipv4()))
}

/// Whose address is hidden. Where the pod has a link by which all else leaves, the node sees its
/// answers only if that link is its way to the node.
fn hidden(pod: &Attachment) -> Client {
    if pod.default_route && pod.access.is_none() { Client::Itself } else { Client::Anybody }
}

/// What the node holds for a pod's ports, `reached` being what it holds for the pod besides. Where
/// it has no way to the pod there is none by its ports either.
pub fn outside(pod: &Attachment, reached: &State) -> State {
    let mut state = State::default();
    if pod.phase == Phase::Doomed {
        return state;
    }
    for addr in pod.usable().iter().filter(|addr| mapped(pod, **addr).next().is_some()) {
        let Some(dev) = way(reached, *addr) else { continue };
        let ipv4 = addr.is_ipv4();
        state.extend(mapped(pod, *addr).map(|mapping| {
            let to = SocketAddr::new(*addr, mapping.container_port);
            Object::Port { door: door(mapping, ipv4), to }
        }));
        state.put(Object::Hidden { addr: *addr, from: hidden(pod) });
        if ipv4 {
            // What the node sends from 127.0.0.1 leaves by no other device.
            state.put(Object::Sysctl { knob: Knob::RouteLocalnet(dev.clone()), value: 1 });
        }
    }
    state
}

/// The node's device by which it reaches the address.
fn way(reached: &State, addr: IpAddr) -> Option<&IfName> {
    match reached.get(&Key::Route(addr.into())) {
        Some(Object::Route(Route { to, .. })) => to.dev(),
        _ => None,
    }
}

/// Everything by which the pod may be reached by its ports.
pub fn keys(pod: &Attachment) -> Vec<Key> {
    let of = |addr: &IpAddr| {
        let doors = mapped(pod, *addr).map(|mapping| Key::Port(door(mapping, addr.is_ipv4())));
        let hidden = Key::Hidden(*addr, hidden(pod));
        doors.chain([hidden]).collect::<Vec<_>>()
    };
    let addrs = pod.addrs.iter().filter(|addr| mapped(pod, **addr).next().is_some());
    addrs.flat_map(of).collect()
}

/// What the device that the pod shares with others is told before its ports go, unless another's ports
/// need it: that it carries the node's loopback addresses no longer. What keeps pods from those addresses
/// goes with the last port.
pub fn deaf<'a>(
    pod: &Attachment,
    mut others: impl Iterator<Item = &'a Attachment>,
) -> Option<Object> {
    let kind = pod.attach.kind();
    let shares = kind.footing() == Footing::Node && kind.reached_past_routes();
    let has_ipv4 = |pod: &Attachment| {
        pod.addrs.iter().any(|ip| ip.is_ipv4() && mapped(pod, *ip).next().is_some())
    };
    let needs = |other: &Attachment| {
        other.id != pod.id
            && other.network == pod.network
            && other.phase != Phase::Doomed
            && has_ipv4(other)
    };
    let deaf = shares && has_ipv4(pod) && !others.any(needs);
    let knob = Knob::RouteLocalnet(bridge::device(&pod.network));
    deaf.then_some(Object::Sysctl { knob, value: 0 })
}

/// The attachment that has a port already which this asks for, and the port.
pub fn taken<'a>(
    asked: &'a [PortMapping],
    mut others: impl Iterator<Item = &'a Attachment>,
) -> Option<(&'a Attachment, &'a PortMapping)> {
    others.find_map(|other| {
        let meets = |mapping: &&PortMapping| other.ports.iter().any(|port| port.meets(mapping));
        asked.iter().find(meets).map(|mapping| (other, mapping))
    })
}

#[cfg(test)]
mod tests;
