//! Who passes on what others said (RFC 4456): named, or chosen by everybody alike from the nodes' names.
//! A node that comes or goes moves the choice only if it is itself one of the chosen (rendezvous
//! hashing).

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use crate::name::{NodeName, fnv1a};

/// Labels by whose values the chosen are spread, the first that a node has.
const SPREAD: [&str; 2] = ["rack", "topology.kubernetes.io/zone"];

/// Among the nodes of one AS, with their labels. None: all have sessions with all.
pub fn reflectors<'a>(
    settings: &Settings,
    nodes: impl Iterator<Item = (&'a NodeName, &'a BTreeMap<String, String>)>,
) -> BTreeSet<NodeName> {
    let nodes: Vec<_> = nodes.collect();
    let Some(reflecting) = settings.reflectors.on() else { return BTreeSet::new() };
    if !reflecting.nodes.is_empty() {
        let named = nodes.iter().filter(|(name, _)| reflecting.nodes.contains(name));
        return named.map(|(name, _)| (*name).clone()).collect();
    }
    if nodes.len() <= usize::from(reflecting.above) {
        return BTreeSet::new();
    }
    let mut ranked: Vec<(u64, &NodeName, &str)> =
        nodes.iter().map(|(name, labels)| (rank(name), *name, place(labels))).collect();
    ranked.sort_unstable();
    // Of each place the best, then of each the second, and so on.
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut turns: Vec<(usize, u64, &NodeName)> = Vec::new();
    for (rank, name, place) in ranked {
        let turn = seen.entry(place).or_default();
        turns.push((*turn, rank, name));
        *turn += 1;
    }
    turns.sort_unstable();
    let chosen = turns.into_iter().take(reflecting.count.into());
    chosen.map(|(_, _, name)| name.clone()).collect()
}

fn place(labels: &BTreeMap<String, String>) -> &str {
    SPREAD.iter().find_map(|label| labels.get(*label)).map_or("", String::as_str)
}

/// Names that differ in their last letter are as far apart as any others (the finalizer of
/// MurmurHash3).
fn rank(name: &NodeName) -> u64 {
    let hash = fnv1a(&["reflector", name.as_str()]);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
