//! What NetworkPolicies say of this node's pods, and of one packet.

use std::net::IpAddr;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weft_core::{
    attachment::Attachment,
    policy::{
        cluster::ObjectName,
        firewall::ListName,
        index::{Index, Judgement},
        spec::{Direction, Protocol},
    },
};

use super::explain::{Explained, Hop, hop};
use crate::agent::Agent;

#[derive(Serialize, Deserialize)]
pub struct Policies {
    /// Pods, namespaces and policies were read in full since the agent began.
    pub listed: bool,
    /// Of the whole cluster.
    pub policies: usize,
    /// Of this node.
    pub pods: Vec<Pod>,
    /// What in policies that select them can't be, and so opens nothing.
    pub impossible: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Pod {
    pub pod: String,
    pub addrs: Vec<IpAddr>,
    pub ingress: Side,
    pub egress: Side,
}

#[derive(Serialize, Deserialize)]
pub struct Side {
    /// Those that select the pod. None at all: everything is open.
    pub policies: Vec<String>,
    /// The list that decides, as its chain and sets in `table inet weft-policy` are named.
    pub list: Option<String>,
    /// How many entries are open.
    pub entries: Option<usize>,
    /// They themselves, where one pod was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Vec<String>>,
}

/// What `weft status` says of policies.
#[derive(Serialize, Deserialize)]
pub struct Count {
    pub listed: bool,
    pub policies: usize,
    /// Pods of this node that any policy selects.
    pub selected: usize,
}

/// A protocol and a port of it, as Kubernetes prints them: `80/TCP`.
#[derive(Clone, Copy)]
pub struct Asked(pub Protocol, pub u16);

pub fn policies(agent: &Agent, pod: Option<&str>) -> anyhow::Result<Policies> {
    let policies = agent.policies.as_ref().context(
        "this agent reads no policies, and every pod is open; `policies: DIR` in its configuration names a \
         directory of them (`weft config`), and on Kubernetes the API server has them",
    )?;
    let is = |name: &ObjectName| {
        pod.is_none_or(|asked| name.to_string() == asked || *name.name == *asked)
    };
    let policies = policies.ask(|index, listed| {
        let pods = index.locals().filter(|(name, _)| is(name)).map(|(name, addrs)| {
            let side = |direction| side(index, name, direction, pod.is_some());
            Pod {
                pod: name.to_string(),
                addrs: addrs.to_vec(),
                ingress: side(Direction::Ingress),
                egress: side(Direction::Egress),
            }
        });
        let (pods, policies) = (pods.collect(), index.policies());
        Policies { listed, policies, pods, impossible: impossible(index) }
    });
    if let (Some(asked), []) = (pod, &policies.pods[..]) {
        bail!("{asked:?} is no pod of node {} of which policies speak", agent.node);
    }
    Ok(policies)
}

fn side(index: &Index, pod: &ObjectName, direction: Direction, all: bool) -> Side {
    let list = index.list(pod, direction);
    let entries = list.and_then(|list| index.firewall().lists.get(&list)).map(|l| &l.entries);
    let open = || entries.map(|open| open.iter().map(ToString::to_string).collect());
    Side {
        policies: index.selecting(pod, direction).iter().map(ToString::to_string).collect(),
        list: list.as_ref().map(ListName::to_string),
        entries: entries.map(std::collections::BTreeSet::len),
        open: if all { open() } else { None },
    }
}

fn impossible(index: &Index) -> Vec<String> {
    let all = index.impossible().into_iter();
    all.flat_map(|(policy, flaws)| {
        flaws.into_iter().map(move |flaw| format!("NetworkPolicy {policy}: {flaw}"))
    })
    .collect()
}

/// For `weft status`: how many there are, and what can't be.
pub fn count(agent: &Agent) -> (Option<Count>, Vec<String>) {
    let Some(policies) = &agent.policies else { return (None, Vec::new()) };
    let unread = policies.unread();
    policies.ask(|index, listed| {
        let selects = |pod| {
            [Direction::Ingress, Direction::Egress].iter().any(|d| index.list(pod, *d).is_some())
        };
        let selected = index.locals().filter(|(pod, _)| selects(pod)).count();
        let problems = [impossible(index), unread].concat();
        (Some(Count { listed, policies: index.policies(), selected }), problems)
    })
}

/// A pod of another node, by its name: an address of the family of `from`, as the cluster has it.
pub(super) fn address(agent: &Agent, name: &str, from: Option<&Attachment>) -> Option<IpAddr> {
    let (namespace, name) = name.split_once('/')?;
    let name = ObjectName { namespace: namespace.into(), name: name.into() };
    let alike = |addr: &IpAddr| {
        from.is_none_or(|pod| pod.addrs.iter().any(|own| own.is_ipv4() == addr.is_ipv4()))
    };
    let policies = agent.policies.as_ref()?;
    policies.ask(|index, _| index.addrs(&name).iter().copied().find(alike))
}

/// Follows the packet as far as policies let it.
pub(super) fn judge(
    agent: &Agent,
    explained: &mut Explained,
    (from, to): (Option<&Attachment>, Option<&Attachment>),
    port: Option<Asked>,
) {
    let Some(policies) = &agent.policies else { return };
    let Ok(dst) = explained.to.parse::<IpAddr>() else { return };
    let Some(src) = source(agent, from, dst) else { return };
    let port = port.map(|Asked(protocol, port)| (protocol, port));
    let (leaves, comes) = policies.ask(|index, _| {
        // On further networks everything is open.
        let named = |pod: &Attachment| {
            let pod = pod.pod.as_ref().filter(|_| pod.further.is_none())?;
            let name = pod.name.as_str().into();
            Some(ObjectName { namespace: pod.namespace.as_str().into(), name })
        };
        let sender = from.and_then(named).filter(|_| !super::access::is_node(agent, &explained.to));
        let known = || index.pod_at(dst);
        let receiver = to.map_or_else(known, named).filter(|_| from.is_some() || to.is_none());
        let leaves = sender.filter(|_| src != dst).map(|pod| {
            said(index, &pod, Direction::Egress, index.judge(&pod, Direction::Egress, dst, port))
        });
        let comes = receiver.filter(|_| src != dst).map(|pod| {
            said(index, &pod, Direction::Ingress, index.judge(&pod, Direction::Ingress, src, port))
        });
        (leaves, comes)
    });
    if let Some((hop, drops)) = leaves {
        explained.hops.insert(1, hop);
        if drops {
            explained.hops.truncate(2);
            return explained.drop();
        }
    }
    let Some((hop, drops)) = comes.filter(|_| explained.works) else { return };
    let last = explained.hops.pop();
    explained.hops.push(hop);
    if drops {
        return explained.drop();
    }
    explained.hops.extend(last);
}

fn said(
    index: &Index,
    pod: &ObjectName,
    direction: Direction,
    judgement: Judgement,
) -> (Hop, bool) {
    let word = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let list = index.list(pod, direction).map(|list| format!(" (list {list})"));
    let text = format!("{word}: {judgement}{}", list.unwrap_or_default());
    (hop(format!("pod {pod}"), text), judgement.drops())
}

/// The address that the packet has where it is judged.
fn source(agent: &Agent, from: Option<&Attachment>, dst: IpAddr) -> Option<IpAddr> {
    let alike = |addr: &IpAddr| addr.is_ipv4() == dst.is_ipv4();
    match from {
        Some(pod) => pod.addrs.iter().copied().find(alike),
        None => agent.serving().nics.iter().map(|nic| nic.addr.addr()).find(alike),
    }
}

impl std::str::FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol = match protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return Err(format!("{protocol:?} is not TCP, UDP or SCTP")),
        };
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self(
            protocol,
            port.ok_or_else(|| format!("{text:?} is no port, as `80/TCP` or `53/UDP` is"))?,
        ))
    }
}
