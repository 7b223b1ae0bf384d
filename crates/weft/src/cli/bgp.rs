//! `weft bgp`: neighbours, learnt routes, and the settings of the cluster.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use weft_bgp::{
    attrs::Family,
    bfd::{Report, State},
    report::NeighbourReport,
};

use super::{Asked, Control, client, show, text::table};
use crate::control::bgp::{BgpStatus, LearntRoute};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bgp {
    #[command(subcommand)]
    command: Option<BgpCommand>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Subcommand)]
enum BgpCommand {
    /// List what neighbours have said, and what it is good for here
    Routes(Asked),
    /// Print the cluster's settings, every field said (JSON, which `bgp apply` takes as it takes YAML)
    Settings(Control),
    /// Say how the cluster speaks BGP, from a file (YAML; `-` is standard input)
    Apply {
        /// The settings; `-` is standard input
        #[arg(short, long)]
        file: PathBuf,
        #[command(flatten)]
        agent: Control,
    },
    /// Take back what was said: all settings have their defaults
    Reset(Control),
}

/// The exit code: what is amiss with a session is something to do.
pub fn run(bgp: &Bgp) -> anyhow::Result<u8> {
    match &bgp.command {
        None => {
            let status: BgpStatus = show(&bgp.asked, "/v1/bgp", status)?;
            let up = status.neighbours.iter().all(|n| n.state == "established");
            let well = up && status.problems.is_empty();
            return Ok(if well { 0 } else { super::SOMETHING_TO_DO });
        }
        Some(BgpCommand::Routes(asked)) => {
            drop(show::<Vec<LearntRoute>>(asked, "/v1/bgp/routes", |r| routes(r))?);
        }
        Some(BgpCommand::Settings(agent)) => {
            let value = client::ask(&agent.control, "GET", "/v1/bgp/settings", None)?;
            super::put(&format!("{value:#}\n"))?;
        }
        Some(BgpCommand::Apply { file, agent }) => {
            let written = super::read_file(file)?;
            let done = client::ask(&agent.control, "PUT", "/v1/bgp/settings", Some(written))?;
            println!("settings of BGP applied, revision {}", done["revision"]);
        }
        Some(BgpCommand::Reset(agent)) => {
            client::ask(&agent.control, "DELETE", "/v1/bgp/settings", None)?;
            println!("settings of BGP are the defaults");
        }
    }
    Ok(0)
}

fn status(status: &BgpStatus) -> String {
    let Some(speaker) = &status.speaker else {
        return "no network is joined by BGP: no neighbour is spoken to\n".into();
    };
    let mut out =
        format!("AS {} router id {} routes {}\n", speaker.asn, speaker.router_id, status.routes);
    status.problems.iter().for_each(|problem| out += &format!("  ! {problem}\n"));
    if status.settling {
        out += "  after a restart: routes of before stay until all neighbours have said theirs\n";
    }
    let head = ["NEIGHBOUR", "ADDRESS", "AS", "STATE", "SINCE", "IN", "OUT", "BFD", "LAST ERROR"];
    out += &table(&head, status.neighbours.iter().map(row));
    out.extend(status.bfd.iter().filter_map(|(peer, report)| watched(*peer, report)));
    for (dst, why) in &status.refused {
        let _ = writeln!(out, "  left out {dst}: {why}");
    }
    for (dst, why) in &status.unresolved {
        let _ = writeln!(out, "  nowhere {dst}: {why}");
    }
    out
}

/// None where BFD is as it should be.
fn watched(peer: IpAddr, bfd: &Report) -> Option<String> {
    if bfd.state == State::Up && bfd.refused.is_empty() {
        return None;
    }
    let mut line = format!("  BFD {peer}: {} for {}", bfd.state, long(bfd.since_ms));
    if let Some(why) = &bfd.last_down {
        let _ = write!(line, "; last down: {why}");
    }
    for (why, count) in &bfd.refused {
        let _ = write!(line, "; {count} packets refused: {why}");
    }
    line.push('\n');
    Some(line)
}

fn row(n: &NeighbourReport) -> Vec<String> {
    let restarting = if n.restarting { " (restarting)" } else { "" };
    let stale: u32 = n.stale.values().sum();
    let stale = if stale > 0 { format!(" ({stale} stale)") } else { String::new() };
    vec![
        n.name.clone(),
        n.addr.map(|addr| addr.to_string()).unwrap_or_default(),
        n.remote_as.to_string(),
        format!("{}{restarting}", n.state),
        long(n.since_ms),
        format!("{}{stale}", counts(&n.routes_in)),
        counts(&n.routes_out),
        n.bfd.clone().unwrap_or_else(|| "-".into()),
        match &n.last_error {
            Some(why) if n.state == "established" => format!("was: {why}"),
            why => why.clone().unwrap_or_else(|| "-".into()),
        },
    ]
}

/// Of IPv4 and of IPv6.
fn counts(routes: &BTreeMap<Family, u32>) -> String {
    let of = |family| routes.get(&family).copied().unwrap_or(0);
    format!("{}+{}", of(Family::Ipv4), of(Family::Ipv6))
}

fn long(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn routes(routes: &[LearntRoute]) -> String {
    let rows = routes.iter().map(|route| {
        let learnt = &route.learnt;
        let hops: Vec<String> = learnt
            .hops
            .iter()
            .map(|hop| match hop.through {
                Some(through) => format!("{} for {through} from {}", hop.via, hop.from),
                None if hop.via == hop.from => hop.via.to_string(),
                None => format!("{} from {}", hop.via, hop.from),
            })
            .collect();
        let whose = route.network.as_ref().zip(route.node.as_ref());
        let whose = whose.map_or("-".into(), |(network, node)| format!("{node} ({network})"));
        let used = match (&route.left_out, route.used) {
            (Some(why), false) => format!("no: {why}"),
            (_, used) => if used { "yes" } else { "no" }.into(),
        };
        let path = if learnt.as_path.is_empty() { "-".into() } else { learnt.as_path.clone() };
        let stale = if learnt.stale { " stale" } else { "" };
        vec![
            format!("{}{stale}", learnt.prefix),
            if hops.is_empty() { "-".into() } else { hops.join(",") },
            path,
            whose,
            used,
        ]
    });
    table(&["PREFIX", "VIA", "AS PATH", "BLOCK OF", "USED"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_neighbour_that_is_down_is_told_with_its_last_error() {
        let value = json!({
            "speaker": {"asn": 64512, "routerId": "192.0.2.1"}, "routes": 2, "settling": false,
            "refused": {"10.1.3.0/24": "inside network blue, and no node has that block"},
            "unresolved": {},
            "neighbours": [{
                "name": "tor-a", "addr": "192.0.2.254", "localAs": 64512, "remoteAs": 65001,
                "state": "active", "sinceMs": 61000, "restarting": false, "routesIn": {"ipv4": 2},
                "stale": {"ipv4": 2}, "routesOut": {}, "refused": {}, "holdTime": 90,
                "capabilities": [], "lastError": "connection refused", "established": 1,
                "messagesIn": 0, "messagesOut": 0, "bfd": "down",
            }],
            "bfd": {"192.0.2.254": {
                "state": "down", "remoteState": "down", "sinceMs": 61000, "local": "192.0.2.1",
                "lastDown": "nothing heard of 192.0.2.254 for 900 ms", "diag": "", "remoteDiag": "",
                "multihop": false, "intervalMs": 1000, "remoteIntervalMs": 300, "detectionMs": 0,
                "packetsIn": 9, "packetsOut": 9, "ups": 1, "downs": 1, "discriminator": 1,
                "remoteDiscriminator": 0, "sourcePort": 50000,
                "refused": {"TTL below 255: it came through a router": 7},
            }},
        });
        let said = status(&serde_json::from_value(value).unwrap());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "AS 64512 router id 192.0.2.1 routes 2");
        assert!(lines[2].starts_with("tor-a      192.0.2.254  65001  active  61 s"), "{said}");
        assert!(lines[2].ends_with("2+0 (2 stale)  0+0  down  connection refused"), "{said}");
        assert_eq!(
            lines[3],
            "  BFD 192.0.2.254: down for 61 s; last down: nothing heard of 192.0.2.254 for 900 ms; \
             7 packets refused: TTL below 255: it came through a router"
        );
        assert_eq!(
            lines[4],
            "  left out 10.1.3.0/24: inside network blue, and no node has that block"
        );
    }
}
