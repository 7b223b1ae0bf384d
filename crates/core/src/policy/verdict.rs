//! Whether NetworkPolicies let a connection's first packet pass, and why: straight from the words of the
//! API, by loops over everything. What is fast is checked against this, and `explain` asks it.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use super::{
    cluster::{Labels, ObjectName, Pod},
    spec::{Direction, IpBlock, Operator, Peer, PolicySpec, Port, PortName, Protocol, Selector},
};
use crate::name::NodeName;

/// All that policies speak of. An address belongs to one pod or node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    pub policies: BTreeMap<ObjectName, PolicySpec>,
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    pub pods: BTreeMap<ObjectName, Pod>,
    pub nodes: BTreeMap<NodeName, Vec<IpAddr>>,
}

/// The first of a connection, after Services have chosen its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// The destination's. None: a protocol without ports, such as ICMP.
    pub port: Option<(Protocol, u16)>,
}

/// Both sides must let it pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Out of the source.
    pub egress: Side,
    /// Into the destination.
    pub ingress: Side,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Policies concern pods alone.
    NoPod(IpAddr),
    Pod(ObjectName, Reason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A pod cannot be kept from itself.
    Itself,
    /// Nor from its node, nor its node from it.
    OwnNode(NodeName),
    Unselected,
    /// The first rule that opens this, counted from 1.
    Opened {
        by: ObjectName,
        rule: usize,
    },
    /// By all these, and none opens this.
    Isolated {
        by: Vec<ObjectName>,
    },
}

impl Verdict {
    pub fn is_open(&self) -> bool {
        self.egress.is_open() && self.ingress.is_open()
    }
}

impl Side {
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Pod(_, Reason::Isolated { .. }))
    }
}

impl Cluster {
    pub fn verdict(&self, packet: &Packet) -> Verdict {
        Verdict {
            egress: self.side(Direction::Egress, packet),
            ingress: self.side(Direction::Ingress, packet),
        }
    }

    fn side(&self, direction: Direction, packet: &Packet) -> Side {
        let (own, other) = match direction {
            Direction::Egress => (packet.source, packet.destination),
            Direction::Ingress => (packet.destination, packet.source),
        };
        match self.pod_at(own) {
            None => Side::NoPod(own),
            Some((name, pod)) => {
                Side::Pod(name.clone(), self.reason(direction, (name, pod), other, packet))
            }
        }
    }

    fn reason(
        &self,
        direction: Direction,
        (name, pod): (&ObjectName, &Pod),
        other: IpAddr,
        packet: &Packet,
    ) -> Reason {
        if pod.addrs.contains(&other) {
            return Reason::Itself;
        }
        if let Some(node) = &pod.node
            && self.nodes.get(node).is_some_and(|addrs| addrs.contains(&other))
        {
            return Reason::OwnNode(node.clone());
        }
        let mut isolating = Vec::new();
        for (policy, spec) in &self.policies {
            let selected = policy.namespace == name.namespace
                && applies(spec, direction)
                && selects(&spec.pod_selector, &pod.labels);
            if !selected {
                continue;
            }
            isolating.push(policy.clone());
            for (at, (peers, ports)) in rules(spec, direction).into_iter().enumerate() {
                if self.any_peer(policy, peers, other) && self.any_port(ports, packet) {
                    return Reason::Opened { by: policy.clone(), rule: at + 1 };
                }
            }
        }
        if isolating.is_empty() {
            return Reason::Unselected;
        }
        Reason::Isolated { by: isolating }
    }

    /// "If this field is empty or missing, this rule matches all sources."
    fn any_peer(&self, policy: &ObjectName, peers: &[Peer], other: IpAddr) -> bool {
        peers.is_empty() || peers.iter().any(|peer| self.is_peer(policy, peer, other))
    }

    fn is_peer(&self, policy: &ObjectName, peer: &Peer, other: IpAddr) -> bool {
        if peer.unreadable.is_some() {
            return false;
        }
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => in_block(block, other),
            // "If this field is set then neither of the other fields can be": means nothing.
            (Some(_), _, _) | (None, None, None) => false,
            (None, namespaces, pods) => {
                let Some((name, pod)) = self.pod_at(other) else { return false };
                let in_namespace = match namespaces {
                    Some(selector) => self
                        .namespaces
                        .get(&name.namespace)
                        .is_some_and(|labels| selects(selector, labels)),
                    None => name.namespace == policy.namespace,
                };
                in_namespace && pods.as_ref().is_none_or(|pods| selects(pods, &pod.labels))
            }
        }
    }

    /// "If this field is empty or missing, this rule matches all ports."
    fn any_port(&self, ports: &[Port], packet: &Packet) -> bool {
        ports.is_empty()
            || packet.port.is_some_and(|(protocol, number)| {
                ports.iter().any(|port| {
                    port.protocol == protocol && self.is_port(port, packet.destination, number)
                })
            })
    }

    /// A name is looked up at the pod that listens, in both directions.
    fn is_port(&self, port: &Port, destination: IpAddr, number: u16) -> bool {
        match (&port.port, port.end_port) {
            _ if port.unreadable.is_some() => false,
            (None, None) => true,
            (Some(PortName::Number(only)), None) => number == *only,
            // Empty where the end is below the beginning.
            (Some(PortName::Number(first)), Some(last)) => *first <= number && number <= last,
            (Some(PortName::Name(name)), None) => {
                self.pod_at(destination).is_some_and(|(_, pod)| {
                    pod.ports.iter().any(|named| {
                        *named.name == **name
                            && named.protocol == port.protocol
                            && named.port == number
                    })
                })
            }
            // "cannot be defined if the port field is not defined or … a named (string) port".
            (None | Some(PortName::Name(_)), Some(_)) => false,
        }
    }

    fn pod_at(&self, addr: IpAddr) -> Option<(&ObjectName, &Pod)> {
        self.pods.iter().find(|(_, pod)| pod.addrs.contains(&addr))
    }
}

/// As the API fills in `policyTypes`: ingress always, egress where it has a rule.
fn applies(spec: &PolicySpec, direction: Direction) -> bool {
    match direction {
        _ if !spec.policy_types.is_empty() => spec.policy_types.contains(&direction),
        Direction::Ingress => true,
        Direction::Egress => !spec.egress.is_empty(),
    }
}

fn rules(spec: &PolicySpec, direction: Direction) -> Vec<(&[Peer], &[Port])> {
    match direction {
        Direction::Ingress => spec.ingress.iter().map(|r| (&r.from[..], &r.ports[..])).collect(),
        Direction::Egress => spec.egress.iter().map(|r| (&r.to[..], &r.ports[..])).collect(),
    }
}

/// All its requirements together.
fn selects(selector: &Selector, labels: &Labels) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .all(|(key, value)| labels.get(&**key).is_some_and(|held| **held == **value));
    equal
        && selector.match_expressions.iter().all(|requirement| {
            let held = labels.get(&*requirement.key);
            let among = held.is_some_and(|held| requirement.values.iter().any(|v| **v == **held));
            match requirement.operator {
                Operator::In => among,
                // What lacks the label does not have it in the values either.
                Operator::NotIn => !among,
                Operator::Exists => held.is_some(),
                Operator::DoesNotExist => held.is_none(),
            }
        })
}

/// "Except values will be rejected if they are outside the cidr range": such a block means nothing.
fn in_block(block: &IpBlock, addr: IpAddr) -> bool {
    block.except.iter().all(|except| block.cidr.contains(except))
        && block.cidr.contains(&addr)
        && !block.except.iter().any(|except| except.contains(&addr))
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} ", self.source, self.destination)?;
        match self.port {
            Some((protocol, port)) => write!(f, "{protocol}/{port}"),
            None => f.write_str("without ports"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_open() { "open: from " } else { "denied: from " })?;
        self.egress.write(f, "egress")?;
        f.write_str("; to ")?;
        self.ingress.write(f, "ingress")
    }
}

impl Side {
    fn write(&self, f: &mut fmt::Formatter<'_>, direction: &str) -> fmt::Result {
        let (pod, reason) = match self {
            Self::NoPod(addr) => return write!(f, "{addr}: no pod"),
            Self::Pod(pod, reason) => (pod, reason),
        };
        match reason {
            Reason::Itself => write!(f, "{pod}: the pod itself"),
            Reason::OwnNode(node) => write!(f, "{pod}: {node} is its node"),
            Reason::Unselected => write!(f, "{pod}: no policy selects it for {direction}"),
            Reason::Opened { by, rule } => write!(f, "{pod}: {direction} rule {rule} of {by}"),
            Reason::Isolated { by } => {
                let by: Vec<_> = by.iter().map(ToString::to_string).collect();
                write!(f, "{pod}: no {direction} rule of {} opens this", by.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
