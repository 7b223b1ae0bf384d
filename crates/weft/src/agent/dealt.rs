//! Blocks that are this node's by another's word: the operator's (`blocks` of agent.yaml), or that of
//! whoever gives Kubernetes' Nodes their `podCIDRs`. What is not dealt out a node claims by itself.

use ipnet::IpNet;
use weft_core::{name::NetworkName, network::Network};

use super::{Agent, POISONED};
use crate::store::PodCidrs;

/// What the API server says of Nodes' `podCIDRs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCidrs {
    pub wanted: PodCidrs,
    /// This node's; none: it was not heard of yet.
    pub own: Option<Vec<IpNet>>,
    /// Other Nodes have some.
    pub others: bool,
}

/// Whose word counts for one range of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dealt {
    /// Nobody deals: what is free may be claimed.
    Free,
    /// These, and nothing else; and who gave them.
    Given(Vec<IpNet>, &'static str),
    /// It is yet to be said.
    Wait(String),
}

const OPERATOR: &str = "agent.yaml";
const NODE: &str = "its Node object";

impl Agent {
    /// Whose word counts for a range of a network.
    pub(super) fn dealt(&self, name: &NetworkName, range: &IpNet, is_default: bool) -> Dealt {
        if let Some(given) = self.config.blocks.get(name) {
            let within = given.iter().copied().filter(|block| range.contains(block));
            return Dealt::Given(within.collect(), OPERATOR);
        }
        match &*self.node_cidrs.lock().expect(POISONED) {
            Some(cidrs) if is_default => deal(cidrs, range),
            _ => Dealt::Free,
        }
    }

    /// What is dealt out is neither given back nor claimed ahead.
    pub(super) fn is_dealt(&self, name: &NetworkName, network: &Network, is_default: bool) -> bool {
        network.ranges.iter().any(|range| self.dealt(name, range, is_default) != Dealt::Free)
    }

    /// Takes in what the API server says. True if it is news.
    #[cfg(feature = "kubernetes")]
    pub fn deal_out(&self, cidrs: NodeCidrs) -> bool {
        let mut known = self.node_cidrs.lock().expect(POISONED);
        let news = known.as_ref() != Some(&cidrs);
        *known = Some(cidrs);
        drop(known);
        if news {
            self.claimer.notify_one();
        }
        news
    }
}

fn deal(cidrs: &NodeCidrs, range: &IpNet) -> Dealt {
    if cidrs.wanted == PodCidrs::Ignored {
        return Dealt::Free;
    }
    let required = cidrs.wanted == PodCidrs::Required;
    let Some(own) = &cidrs.own else {
        return Dealt::Wait("the API server has yet to say which podCIDRs this Node has".into());
    };
    let of_family = |cidr: &&IpNet| cidr.addr().is_ipv4() == range.addr().is_ipv4();
    let family: Vec<IpNet> = own.iter().filter(of_family).copied().collect();
    let within: Vec<IpNet> = family.iter().copied().filter(|cidr| range.contains(cidr)).collect();
    match (within.is_empty(), family.first()) {
        (false, _) => Dealt::Given(within, NODE),
        (true, Some(outside)) if required => Dealt::Wait(format!(
            "this Node's podCIDR {outside} is not in {range}: make the network's range that of the \
             controller manager (--cluster-cidr), or set store.kubernetes.podCidrs to ignored"
        )),
        (true, None) if required || own.is_empty() && cidrs.others => Dealt::Wait(
            "this Node has no podCIDR for it yet, as others have: the controller manager gives it \
             (--allocate-node-cidrs); to do without set store.kubernetes.podCidrs to ignored"
                .into(),
        ),
        _ => Dealt::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_cidrs_are_its_blocks_where_it_has_any() {
        let nets =
            |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let cases = [
            // What is wanted, the own ones, whether others have any, the range, what is dealt.
            ("ignored", Some(&["10.1.7.0/24"][..]), true, "10.1.0.0/16", "free"),
            ("auto", None, false, "10.1.0.0/16", "wait"),
            ("auto", Some(&["10.1.7.0/24", "fd01::700/120"]), true, "10.1.0.0/16", "10.1.7.0/24"),
            ("auto", Some(&["10.1.7.0/24", "fd01::700/120"]), true, "fd01::/64", "fd01::700/120"),
            ("auto", Some(&["10.1.7.0/24"]), true, "fd01::/64", "free"),
            ("auto", Some(&["10.9.7.0/24"]), true, "10.1.0.0/16", "free"),
            ("auto", Some(&[]), true, "10.1.0.0/16", "wait"),
            ("auto", Some(&[]), false, "10.1.0.0/16", "free"),
            ("required", Some(&[]), false, "10.1.0.0/16", "wait"),
            ("required", Some(&["10.9.7.0/24"]), false, "10.1.0.0/16", "wait"),
            ("required", Some(&["10.1.7.0/24"]), false, "10.1.0.0/16", "10.1.7.0/24"),
        ];
        for (wanted, own, others, range, dealt) in cases {
            let cidrs = NodeCidrs {
                wanted: serde_json::from_value(wanted.into()).unwrap(),
                own: own.map(nets),
                others,
            };
            let is = match deal(&cidrs, &range.parse().unwrap()) {
                Dealt::Free => "free".to_owned(),
                Dealt::Given(blocks, _) => blocks.iter().map(ToString::to_string).collect(),
                Dealt::Wait(_) => "wait".into(),
            };
            assert_eq!(is, dealt, "{wanted} {own:?} {others} {range}");
        }
    }
}
