//! What other programs' rules do that concerns pods: read and named, never touched.

use std::{fmt, fs, io};

use serde::Serialize;
use weft_core::mark;

use super::{
    ACCEPT, Base, Error, GETRULE, INET, NETDEV, Nft, OUTPUT, POISONED, PREROUTING, RULE_CHAIN,
    RULE_EXPRESSIONS, RULE_TABLE, chains, header, shape, tables, value_of,
};
use crate::socket;

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const DROP: u32 = 0;
const LEGACY_NAMES: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Something another program's rules do to pod packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// A chain ends in dropping what nothing in it accepts.
    Drops { family: &'static str, table: String, chain: String, input: bool, policy: bool },
    /// Rules of iptables' old kind, which nftables can't show.
    Legacy { command: &'static str },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drops { family, table, chain, input, policy } => {
                let how = if *policy { "has policy drop" } else { "drops all at its end" };
                let (what, mend) = if *input {
                    ("packets of other nodes' tunnels", "the VTEPs' UDP port")
                } else {
                    ("pod packets", "the pods' ranges")
                };
                write!(
                    f,
                    "a foreign firewall may drop {what}: table {family} {table} chain {chain} \
                     {how}; let its owner accept {mend} there (`nft list chain {family} {table} \
                     {chain}` shows it), an accept in another table does not outvote it"
                )
            }
            Self::Legacy { command } => write!(
                f,
                "a firewall of {command} stands here, which can't be read from here: see that its \
                 FORWARD chain accepts the pods' ranges (`{command} -S FORWARD`)"
            ),
        }
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

    pub(crate) fn foreign_firewall(&self) -> Result<Vec<Finding>, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let mut findings = Vec::new();
        for chain in foreign_chains(&mut socket)? {
            let Some(input) = [(FORWARD, false), (INPUT, true)]
                .into_iter()
                .find_map(|(hook, input)| (chain.hook == Some(hook)).then_some(input))
            else {
                continue;
            };
            let policy = chain.policy == Some(DROP);
            let refuses = |socket| ends_in_refusal(socket, &chain);
            if !policy && (chain.policy != Some(ACCEPT) || !refuses(&mut socket)?) {
                continue;
            }
            let known = [(1, "inet"), (2, "ip"), (7, "bridge"), (10, "ip6")];
            let Some((_, family)) = known.into_iter().find(|(number, _)| *number == chain.family)
            else {
                continue;
            };
            let Base { table, name: chain, .. } = chain;
            findings.push(Finding::Drops { family, table, chain, input, policy });
        }
        findings.extend(legacy("filter").map(|command| Finding::Legacy { command }));
        Ok(findings)
    }
}

/// Chains of all tables but ours that are in force.
fn foreign_chains(socket: &mut socket::Link) -> Result<Vec<Base>, Error> {
    let read = |what| move |error| Error::Read { what, error };
    let dormant = tables(socket).map_err(read("tables"))?;
    let dormant: Vec<_> = dormant.into_iter().filter(super::Table::dormant).collect();
    let mut chains = chains(socket).map_err(read("chains"))?;
    chains.retain(|chain| {
        let table = (chain.family, &chain.table);
        let ours = [INET, NETDEV].contains(&chain.family) && chain.table == mark::TABLE;
        !ours && !dormant.iter().any(|dormant| table == (dormant.family, &dormant.name))
    });
    Ok(chains)
}

/// True if the last rule of a chain drops or rejects whatever comes that far.
fn ends_in_refusal(socket: &mut socket::Link, chain: &Base) -> Result<bool, Error> {
    let rules = socket.dump(
        GETRULE,
        &header(chain.family),
        |batch| {
            batch.attr_str(RULE_TABLE, &chain.table).attr_str(RULE_CHAIN, &chain.name);
        },
        |message| Some(value_of(message, RULE_EXPRESSIONS).is_some_and(shape::refuses_all)),
    );
    match rules {
        Ok(rules) => Ok(rules.last() == Some(&true)),
        // It went meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::Read { what: "rules", error }),
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
