//! The agent's answers as text.

use std::fmt::Write;

use serde_json::Value;
use weft_core::{dhcp::Standing, name::NodeName};

use crate::control::{
    policy::{self, Count, Policies},
    report::{Block, PeerPath, Plan, Pod, Status},
};

pub fn status(status: &Status) -> String {
    let mut out = String::new();
    let state = if status.converged { "converged" } else { "NOT converged" };
    let _ = writeln!(out, "node {} weft {} {state}", status.node, status.version);
    for problem in &status.problems {
        let _ = writeln!(out, "  problem: {problem}");
    }
    let store = match (&status.store.away, status.store.synced) {
        (Some(why), _) => format!("away: {why} (serving from the last view)"),
        (None, true) => "synced".into(),
        (None, false) => "not yet listed".into(),
    };
    let _ =
        writeln!(out, "store {store} revision {} nodes {}", status.store.revision, status.nodes);
    for nic in &status.underlay {
        let _ = writeln!(out, "underlay {} dev {} mtu {}", nic.addr, nic.dev, nic.mtu);
    }
    for (name, network) in &status.networks {
        let blocks: Vec<String> = network.blocks.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            out,
            "network {name} attach {} join {} mtu {} blocks {} peers {}",
            network.attach,
            network.join,
            network.mtu,
            match &network.leases {
                Some(_) => "by dhcp".into(),
                None if blocks.is_empty() => "none yet".into(),
                None => blocks.join(","),
            },
            network.peers
        );
        for lease in network.leases.iter().flatten() {
            let left = lease.left.map_or("for ever".into(), |left| format!("{left} s left"));
            let state = match &lease.standing {
                Standing::Held => left,
                Standing::Offered => "offered".into(),
                Standing::Lost(why) => format!("LOST: {why}"),
            };
            let _ = writeln!(out, "  lease {} pod {}: {state}", lease.terms, lease.pod);
        }
        for (peer, why) in &network.unreachable {
            let _ = writeln!(out, "  no path to {peer}: {why}");
        }
        if let Some(switch) = &network.switch {
            let _ = writeln!(out, "  {switch}");
        }
        if !network.withdrawing.is_empty() {
            let waiting: Vec<&str> = network.waiting.iter().map(NodeName::as_str).collect();
            let _ = writeln!(
                out,
                "  still holds {}: not yet acknowledged by {}",
                network.withdrawing.join(","),
                if waiting.is_empty() { "the store".into() } else { waiting.join(",") }
            );
        }
    }
    let _ = writeln!(out, "pods {}", status.pods);
    if let Some(Count { listed, policies, selected }) = &status.policies {
        let listed = if *listed { "" } else { " (not yet listed in full)" };
        let _ = writeln!(out, "policies {policies} select {selected} pods here{listed}");
    }
    out
}

pub fn plan(plan: &Plan) -> String {
    if plan.changes.is_empty() {
        return "nothing to change\n".into();
    }
    plan.changes.iter().map(|change| format!("{change}\n")).collect()
}

pub fn pods(pods: &[Pod]) -> String {
    let rows = pods.iter().map(|pod| {
        let addrs: Vec<String> = pod.addrs.iter().map(ToString::to_string).collect();
        vec![
            pod.pod.clone(),
            pod.network.to_string(),
            pod.attach.clone(),
            pod.id.ifname.to_string(),
            addrs.join(","),
            host_dev(pod),
            format!("{:?}", pod.phase).to_lowercase(),
        ]
    });
    table(&["POD", "NETWORK", "ATTACH", "DEV", "ADDRESS", "HOST DEV", "PHASE"], rows)
}

/// The host's end, or as iproute2 has it the device that the pod's link is on.
fn host_dev(pod: &Pod) -> String {
    let parent = || pod.parent.as_ref().map(|parent| format!("@{parent}"));
    pod.host_end.as_ref().map(ToString::to_string).or_else(parent).unwrap_or_default()
}

pub fn ipam(blocks: &[Block]) -> String {
    let rows = blocks.iter().map(|block| {
        let taken = match (block.taken, block.size, &block.pod) {
            (Some(taken), Some(size), _) => format!("{taken} of {size}"),
            (_, _, Some(pod)) if block.node.is_some() => format!("by {pod}"),
            (_, _, Some(pod)) => format!("kept for {pod}"),
            _ => "-".into(),
        };
        let node = block.node.as_ref().map_or("-", NodeName::as_str).to_owned();
        vec![block.network.to_string(), block.block.to_string(), node, taken]
    });
    table(&["NETWORK", "BLOCK", "NODE", "TAKEN"], rows)
}

pub fn paths(paths: &[PeerPath]) -> String {
    let rows = paths.iter().map(|path| {
        vec![
            path.network.to_string(),
            path.peer.to_string(),
            path.family.clone(),
            path.path.clone(),
            path.why.clone(),
        ]
    });
    table(&["NETWORK", "PEER", "FAMILY", "PATH", "WHY"], rows)
}

pub fn explain(explained: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut out = format!("{} -> {}\n", text(&explained["from"]), text(&explained["to"]));
    let hops = explained["hops"].as_array().cloned().unwrap_or_default();
    for (n, hop) in hops.iter().enumerate() {
        let _ = writeln!(out, "{:>3}  {:<16} {}", n + 1, text(&hop["at"]), text(&hop["text"]));
    }
    if let Some(mtu) = explained["mtu"].as_u64() {
        let _ = writeln!(out, "     mtu of the whole way: {mtu}");
    }
    out
}

pub fn policies(policies: &Policies) -> String {
    let rows = policies.pods.iter().flat_map(|pod| {
        sides(pod).map(|(direction, side)| {
            let open = side.entries.map_or("everything".into(), |n| format!("{n} entries"));
            let names = side.policies.join(",");
            let names = if names.is_empty() { "-".into() } else { names };
            vec![pod.pod.clone(), direction.into(), names, open]
        })
    });
    let mut out = table(&["POD", "DIRECTION", "POLICIES", "OPEN"], rows);
    for (direction, side) in policies.pods.iter().flat_map(sides) {
        let (Some(list), Some(open)) = (&side.list, &side.open) else { continue };
        let _ = writeln!(out, "{direction} list {list}");
        open.iter().for_each(|open| _ = writeln!(out, "  {open}"));
    }
    for flaw in &policies.impossible {
        let _ = writeln!(out, "problem: {flaw}");
    }
    if !policies.listed {
        out.push_str("pods, namespaces and policies are not yet listed in full\n");
    }
    out
}

fn sides(pod: &policy::Pod) -> [(&'static str, &policy::Side); 2] {
    [("ingress", &pod.ingress), ("egress", &pod.egress)]
}

pub fn networks(networks: &Value) -> String {
    let rows = networks.as_object().into_iter().flatten().map(|(name, network)| {
        let ranges = network["ranges"].as_array().into_iter().flatten();
        let ranges: Vec<&str> = ranges.filter_map(Value::as_str).collect();
        let kind = |of: &str| network[of]["kind"].as_str().unwrap_or("?").to_owned();
        let default = if network["default"] == true { "yes" } else { "" };
        vec![name.clone(), kind("attach"), kind("join"), ranges.join(","), default.into()]
    });
    table(&["NETWORK", "ATTACH", "JOIN", "RANGES", "DEFAULT"], rows)
}

/// Columns as wide as their widest cell.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    let width =
        |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    all.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        })
        .collect()
}
