//! What other programs' rules do that concerns pods: read and named, never touched.

use std::{fmt, fs, io};

use ipnet::IpNet;
use serde::Serialize;
use weft_core::network::overlap;

use super::numbers::*;
use super::{
    BRIDGE, Base, Error, FORWARD_HOOK, GETRULE, INET, INPUT_HOOK, NETDEV, Nft, OUTPUT, POISONED,
    PREROUTING, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, chains, header, is_ours,
    shape::{self, Match, Word},
    tables, value_of,
};
use crate::socket;

const DROP: u32 = 0;
/// Chains that jump to chains are followed so far (the kernel allows 16).
const JUMPS_MAX: usize = 16;
const LEGACY_NAMES: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];
const FAMILIES: [(u8, &str, Option<bool>); 5] = [
    (INET, "inet", None),
    (2, "ip", Some(true)),
    (NETDEV, "netdev", None),
    (BRIDGE, "bridge", None),
    (10, "ip6", Some(false)),
];

/// What must get through: packets of pods, and of tunnels to these UDP ports.
pub struct Passing<'a> {
    pub ranges: &'a [IpNet],
    pub ports: &'a [u16],
}

/// Something another program's rules do to pod packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// A chain drops what should get through, or what nothing in it accepts.
    Drops { family: &'static str, table: String, chain: String, what: &'static str, how: String },
    /// Rules of iptables' old kind, which nftables can't show.
    Legacy { command: &'static str },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drops { family, table, chain, what, how } => write!(
                f,
                "a foreign firewall may drop {what}: table {family} {table} chain {chain} {how}; let \
                 its owner accept the pods' ranges and the VTEPs' UDP port there (`nft list chain \
                 {family} {table} {chain}` shows it), an accept in another table does not outvote it"
            ),
            Self::Legacy { command } => write!(
                f,
                "a firewall of {command} stands here, which can't be read from here: see that its \
                 FORWARD chain accepts the pods' ranges (`{command} -S FORWARD`)"
            ),
        }
    }
}

/// What passes a hook, of what weft sends: pods' packets, tunnels.
fn passes(chain: &Base) -> Option<(bool, bool)> {
    let hook = chain.hook.filter(|_| chain.kind == "filter")?;
    match (chain.family, hook) {
        (NETDEV, _) | (_, PREROUTING | POSTROUTING) => Some((true, true)),
        (_, FORWARD_HOOK) => Some((true, false)),
        (_, INPUT_HOOK | OUTPUT) => Some((false, true)),
        _ => None,
    }
}

impl Nft {
    pub(crate) fn foreign_nat(&self) -> Result<bool, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let translates = |chain: &Base| {
            chain.kind == "nat" && [PREROUTING, OUTPUT].map(Some).contains(&chain.hook)
        };
        Ok(foreign_chains(&mut socket)?.iter().any(translates) || legacy("nat").next().is_some())
    }

    pub(crate) fn foreign_firewall(&self, passing: &Passing<'_>) -> Result<Vec<Finding>, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let mut findings = Vec::new();
        for chain in foreign_chains(&mut socket)? {
            let Some((pods, tunnels)) = passes(&chain) else { continue };
            let Some((_, family, of)) = FAMILIES.into_iter().find(|(n, ..)| *n == chain.family)
            else {
                continue;
            };
            let concerned = Passing {
                ranges: if pods { passing.ranges } else { &[] },
                ports: if tunnels { passing.ports } else { &[] },
            };
            let place = (chain.family, of, chain.table.as_str());
            let how = match refusal(&mut socket, place, &chain.name, &concerned, JUMPS_MAX)? {
                Goes::Nowhere(how) => how,
                Goes::On if chain.policy == Some(DROP) => "has policy drop".to_owned(),
                Goes::On | Goes::Through => continue,
            };
            let what = match (pods, tunnels) {
                (true, false) => "pod packets",
                (false, _) if chain.hook == Some(INPUT_HOOK) => "packets of other nodes' tunnels",
                (false, _) => "packets of this node's tunnels",
                _ => "pod packets and tunnels",
            };
            let Base { table, name: chain, .. } = chain;
            findings.push(Finding::Drops { family, table, chain, what, how });
        }
        findings.extend(legacy("filter").map(|command| Finding::Legacy { command }));
        Ok(findings)
    }
}

/// What becomes of what should pass.
enum Goes {
    /// Behind the chain's last rule.
    On,
    Through,
    Nowhere(String),
}

fn refusal(
    socket: &mut socket::Link,
    place: (u8, Option<bool>, &str),
    chain: &str,
    passing: &Passing<'_>,
    jumps: usize,
) -> Result<Goes, Error> {
    let mut accepted: Vec<Match> = Vec::new();
    for word in words(socket, place, chain)? {
        match word {
            Word::Accepts(of) if of == Match::default() => return Ok(Goes::Through),
            Word::Accepts(of) => {
                accepted.push(of);
                if all_accepted(&accepted, passing) {
                    return Ok(Goes::Through);
                }
            }
            Word::Refuses(of) if of == Match::default() => {
                return Ok(Goes::Nowhere("drops all at its end".into()));
            }
            Word::Refuses(of) if concerns(&of, passing) => {
                return Ok(Goes::Nowhere(format!("drops {}", said(&of))));
            }
            Word::Jumps(of, to)
                if jumps > 0 && (of == Match::default() || concerns(&of, passing)) =>
            {
                match refusal(socket, place, &to, passing, jumps - 1)? {
                    Goes::On => {}
                    Goes::Through => return Ok(Goes::Through),
                    Goes::Nowhere(how) => {
                        return Ok(Goes::Nowhere(format!("jumps to {to}, which {how}")));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Goes::On)
}

/// True if the rules accept all that should pass, by one of its ends at least.
fn all_accepted(accepted: &[Match], passing: &Passing<'_>) -> bool {
    let range = |range: &IpNet| {
        accepted.iter().any(|of| match (of.from, of.to, of.port) {
            (Some(net), None, None) | (None, Some(net), None) => net.contains(range),
            _ => false,
        })
    };
    let port = |port: &u16| {
        accepted.iter().any(|of| of.port == Some(*port) && of.from.is_none() && of.to.is_none())
    };
    passing.ranges.iter().all(range) && passing.ports.iter().all(port)
}

/// True if what should pass is among what is matched, by addresses or port alone.
fn concerns(of: &Match, passing: &Passing<'_>) -> bool {
    let pods = |net: Option<IpNet>| {
        net.is_none_or(|net| passing.ranges.iter().any(|range| overlap(range, &net)))
    };
    match of.port {
        Some(port) => of.from.is_none() && of.to.is_none() && passing.ports.contains(&port),
        None => (of.from.is_some() || of.to.is_some()) && pods(of.from) && pods(of.to),
    }
}

fn said(of: &Match) -> String {
    let from = of.from.map(|net| format!("saddr {net}"));
    let to = of.to.map(|net| format!("daddr {net}"));
    let port = of.port.map(|port| format!("udp dport {port}"));
    [from, to, port].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Chains of all tables but ours that are in force.
fn foreign_chains(socket: &mut socket::Link) -> Result<Vec<Base>, Error> {
    let read = |what| move |error| Error::Read { what, error };
    let dormant = tables(socket).map_err(read("tables"))?;
    let dormant: Vec<_> = dormant.into_iter().filter(super::Table::dormant).collect();
    let mut chains = chains(socket).map_err(read("chains"))?;
    chains.retain(|chain| {
        let table = (chain.family, &chain.table);
        !is_ours(chain.family, &chain.table)
            && !dormant.iter().any(|dormant| table == (dormant.family, &dormant.name))
    });
    Ok(chains)
}

fn words(
    socket: &mut socket::Link,
    (number, family, table): (u8, Option<bool>, &str),
    chain: &str,
) -> Result<Vec<Word>, Error> {
    let rules = socket.dump(
        GETRULE,
        &header(number),
        |batch| {
            batch.attr_str(RULE_TABLE, table).attr_str(RULE_CHAIN, chain);
        },
        |message| {
            let word = value_of(message, RULE_EXPRESSIONS).map(|rule| shape::word(family, rule));
            Some(word.unwrap_or(Word::Other))
        },
    );
    match rules {
        // It went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        rules => rules.map_err(|error| Error::Read { what: "rules", error }),
    }
}

/// Commands of iptables' old kind that have `table` in the calling thread's namespace. The kernel
/// has no word for what the table holds but theirs.
fn legacy(table: &'static str) -> impl Iterator<Item = &'static str> {
    let commands = ["iptables-legacy", "ip6tables-legacy"];
    LEGACY_NAMES.into_iter().zip(commands).filter_map(move |(file, command)| {
        let names = fs::read_to_string(file);
        names.is_ok_and(|names| names.lines().any(|name| name == table)).then_some(command)
    })
}

/// The names of all tables of iptables' old kind, as the kernel lists them.
pub(crate) fn legacy_tables() -> String {
    let names = LEGACY_NAMES.map(|file| fs::read_to_string(file).unwrap_or_default());
    names.join("\n\n")
}
