//! Sessions between nodes that are wanted no more, since others reflect: they stay until those that take
//! their place have stood for a while, so that no route is without a session in between.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use weft_bgp::{bfd, config, report::NeighbourReport};
use weft_core::{bgp::Speaker, name::NodeName, view::View};

use crate::bgp::Desired;

/// A session that took another's place has told its routes by then.
const STAND: Duration = Duration::from_secs(3);
/// Longer than this nobody is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which sessions are on their way out, and since when.
#[derive(Default)]
pub struct Parting {
    since: Option<Instant>,
    old: BTreeMap<IpAddr, Old>,
}

#[derive(Clone)]
struct Old {
    node: NodeName,
    config: config::Neighbour,
    bfd: Option<bfd::Settings>,
}

impl Parting {
    /// Adds to what is wanted what was, as long as that is to stay. True while something does.
    pub fn keep(
        &mut self,
        desired: &mut Desired,
        (told, before): (Option<&Desired>, Option<&Speaker>),
        now: (&View, &[NeighbourReport]),
    ) -> bool {
        let (view, reports) = now;
        for (addr, neighbour) in before.into_iter().flat_map(|before| &before.neighbours) {
            let config = told.and_then(|told| told.config.neighbours.get(addr));
            let wanted = desired.config.neighbours.contains_key(addr);
            if let (Some(node), Some(config), false) = (&neighbour.node, config, wanted) {
                let bfd = told.and_then(|told| told.bfd.get(addr)).cloned();
                let old = Old { node: node.clone(), config: config.clone(), bfd };
                self.old.entry(*addr).or_insert(old);
                self.since.get_or_insert_with(Instant::now);
            }
        }
        let asn = desired.config.neighbours.values().map(|n| n.local_as).next();
        self.old.retain(|addr, old| {
            let there = view.nodes.get(&old.node).is_some_and(|node| {
                let parts = node.record.networks.iter().map(|(_, part)| part);
                node.record.underlay.contains(addr) && weft_core::bgp::participates(parts)
            });
            // Without another session nobody has taken its place: nodes are to speak no more.
            there
                && asn == Some(old.config.local_as)
                && !desired.config.neighbours.contains_key(addr)
        });
        let waited = self.since.map(|since| since.elapsed()).unwrap_or_default();
        if self.old.is_empty() || waited > PATIENCE || waited > STAND && stand(desired, reports) {
            *self = Self::default();
            return false;
        }
        for (addr, old) in &self.old {
            desired.config.neighbours.insert(*addr, old.config.clone());
            desired.bfd.extend(old.bfd.clone().map(|bfd| (*addr, bfd)));
        }
        true
    }
}

/// All that are wanted are established for long enough.
pub(super) fn stand(desired: &Desired, reports: &[NeighbourReport]) -> bool {
    let long = u64::try_from(STAND.as_millis()).unwrap_or(u64::MAX);
    let mut wanted = desired.config.neighbours.keys();
    wanted.all(|addr| {
        let report = reports.iter().find(|report| report.addr == Some(*addr));
        report.is_some_and(|report| report.state == "established" && report.since_ms >= long)
    })
}
