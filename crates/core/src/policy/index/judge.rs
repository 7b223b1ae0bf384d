//! Why something passes or does not, in the words of the policies: for whoever asks.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::{Index, known::Known};
use crate::policy::{
    clause::{By, Chosen, Clause, Peers, Scope, clauses},
    cluster::ObjectName,
    firewall::Ports,
    space::Space,
    spec::{Direction, Protocol},
};

/// About what another sends to a pod, or it to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No policy selects the pod.
    Unselected,
    /// Of what was asked for, this passes.
    Passes(Vec<Opening>),
    /// None of the policies that select the pod opens any of it.
    Dropped(Vec<ObjectName>),
    /// The cluster does not know the pod, and these policies might select it.
    Unknown(Vec<ObjectName>),
}

/// A rule that lets something pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    pub policy: ObjectName,
    /// As `spec.ingress[0]`.
    pub rule: String,
    /// None: everything.
    pub ports: Option<Ports>,
}

impl Judgement {
    pub fn drops(&self) -> bool {
        matches!(self, Self::Dropped(_) | Self::Unknown(_))
    }
}

impl Index {
    /// Pods of this node, with their addresses.
    pub fn locals(&self) -> impl Iterator<Item = (&ObjectName, &[IpAddr])> {
        self.local.iter().map(|(name, local)| (name, &local.addrs[..]))
    }

    /// Of a pod of whichever node.
    pub fn addrs(&self, pod: &ObjectName) -> &[IpAddr] {
        self.cluster.find(pod).map_or(&[], |known| &known.addrs)
    }

    /// How many policies the cluster has.
    pub fn policies(&self) -> usize {
        self.policies.values().map(BTreeMap::len).sum()
    }

    /// The policies that select a pod, of whichever node.
    pub fn selecting(&self, pod: &ObjectName, direction: Direction) -> Vec<ObjectName> {
        let known = self.cluster.find(pod);
        let all = self.policies.get(&pod.namespace).into_iter().flatten();
        let selects = all.filter(|(_, spec)| {
            spec.concerns(direction)
                && known.is_none_or(|pod| spec.pod_selector.matches(&pod.labels))
        });
        let object =
            |name: &_| ObjectName { namespace: pod.namespace.clone(), name: Clone::clone(name) };
        selects.map(|(name, _)| object(name)).collect()
    }

    /// The pod that has this address, as the cluster knows it.
    pub fn pod_at(&self, addr: IpAddr) -> Option<ObjectName> {
        let id = self.cluster.at(addr).next()?;
        let namespace = self.cluster.pod(id)?.namespace.clone();
        let pods = &self.cluster.namespaces.get(&namespace)?.pods;
        let (name, _) = pods.iter().find(|(_, one)| **one == id)?;
        Some(ObjectName { namespace, name: (**name).into() })
    }

    /// Ingress: from the other to the pod; egress: from the pod to the other. Without a port: whatever
    /// is open between them. That a pod reaches itself and its own node is not looked at.
    pub fn judge(
        &self,
        pod: &ObjectName,
        direction: Direction,
        other: IpAddr,
        port: Option<(Protocol, u16)>,
    ) -> Judgement {
        let selecting = self.selecting(pod, direction);
        if selecting.is_empty() {
            return Judgement::Unselected;
        }
        let Some(known) = self.cluster.find(pod) else { return Judgement::Unknown(selecting) };
        let mut openings = Vec::new();
        for policy in &selecting {
            let Some(spec) =
                self.policies.get(&policy.namespace).and_then(|all| all.get(&policy.name))
            else {
                continue;
            };
            for clause in clauses(&policy.namespace, spec, direction).0 {
                let open = self.open(&clause, known, direction, other);
                let open = open.into_iter().filter(|ports| includes(*ports, port));
                openings.extend(open.map(|ports| Opening {
                    policy: policy.clone(),
                    rule: format!("spec.{}[{}]", word(direction), clause.rule),
                    ports,
                }));
            }
        }
        openings.dedup();
        if openings.is_empty() {
            return Judgement::Dropped(selecting);
        }
        Judgement::Passes(openings)
    }

    /// The ports that a rule opens between the pod and this address.
    fn open(
        &self,
        Clause { peers, by, .. }: &Clause,
        pod: &Known,
        direction: Direction,
        other: IpAddr,
    ) -> Vec<Option<Ports>> {
        let there = || self.cluster.at(other).filter_map(|id| self.cluster.pod(id));
        let mut open = Vec::new();
        let among = |space: &Space| space.contains(other);
        let theirs = direction == Direction::Egress && matches!(by, By::Named(..));
        if let (Peers::Addresses(space), false) = (peers, theirs) {
            if among(space) {
                by.each(&pod.ports, |ports| open.push(ports));
            }
            return open;
        }
        for peer in there() {
            let meant = match peers {
                Peers::Addresses(space) => among(space),
                Peers::Pods(chosen) => self.chooses(chosen, peer),
            };
            if meant {
                let names = if theirs { &peer.ports } else { &pod.ports };
                by.each(names, |ports| open.push(ports));
            }
        }
        open
    }

    fn chooses(&self, Chosen { scope, pods }: &Chosen, pod: &Known) -> bool {
        let labels = self.cluster.namespaces.get(&pod.namespace).and_then(|n| n.labels.as_ref());
        let there = match scope {
            Scope::Namespace(name) => *name == pod.namespace,
            Scope::Matching(selector) => labels.is_some_and(|labels| selector.matches(labels)),
            Scope::Any => true,
        };
        there && pods.matches(&pod.labels)
    }
}

fn includes(open: Option<Ports>, port: Option<(Protocol, u16)>) -> bool {
    let (Some(open), Some((protocol, port))) = (open, port) else { return true };
    open.protocol == protocol && open.first <= port && port <= open.last
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unselected => f.write_str("no policy selects the pod"),
            Self::Passes(openings) => listed(f, openings, "; "),
            Self::Dropped(policies) => {
                f.write_str("dropped: it is open by no rule of ")?;
                listed(f, policies, ", ")
            }
            Self::Unknown(policies) => {
                f.write_str(
                    "dropped: the cluster does not know the pod, which may be selected by ",
                )?;
                listed(f, policies, ", ")
            }
        }
    }
}

fn listed<T: fmt::Display>(f: &mut fmt::Formatter<'_>, all: &[T], between: &str) -> fmt::Result {
    all.iter().enumerate().try_for_each(|(n, one)| {
        f.write_str(if n == 0 { "" } else { between })?;
        one.fmt(f)
    })
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, rule, ports } = self;
        write!(f, "{policy} {rule} opens ")?;
        match ports {
            None => f.write_str("everything"),
            Some(ports) => ports.fmt(f),
        }
    }
}
