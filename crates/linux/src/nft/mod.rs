//! Our one nftables table, spoken in nfnetlink (include/uapi/linux/netfilter/nf_tables.h), and
//! what other tables do that concerns pods. The shapes of rules are a closed list, in core.

mod access;
mod alike;
mod apart;
mod foreign;
mod numbers;
mod policy;
mod ports;
mod shape;
mod sources;
mod table;
mod words;

use std::{io, sync::Mutex};

use netlink_sys::protocols;
use weft_core::{
    mark,
    name::IfName,
    plan::Change,
    policy::{Rule, Ruleset},
    state::{Key, Object},
};

pub(crate) use foreign::legacy_tables;
pub use foreign::{Finding, Passing};
pub use policy::{PolicyTable, Wanted, Was};
pub(crate) use sources::judge;

use numbers::*;
use table::{Elements, Fixed};

use crate::{
    socket,
    wire::{self, Batch, Message},
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = NEWTABLE + 1;
const NEWCHAIN: u16 = NEWTABLE + 3;
const GETCHAIN: u16 = NEWTABLE + 4;
const NEWRULE: u16 = NEWTABLE + 6;
const GETRULE: u16 = NEWTABLE + 7;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEV: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

const UNSPEC: u8 = 0;
const INET: u8 = 1;
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const PREROUTING: u32 = 0;
const INPUT_HOOK: u32 = 1;
const FORWARD_HOOK: u32 = 2;
const OUTPUT: u32 = 3;
const ACCEPT: u32 = 1;

const POISONED: &str = "no code that holds this lock panics";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open an nftables socket: {0}")]
    Open(io::Error),
    #[error("read the nftables {what}: {error}")]
    Read { what: &'static str, error: io::Error },
    #[error("write table {table}: {error} {text}")]
    Write { table: &'static str, error: io::Error, text: String },
}

/// Our table as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Absent,
    Ours(Ruleset),
    /// It holds what we never write.
    Altered,
}

/// One socket for life: closing one after a transaction that deleted something blocks for an RCU
/// grace period.
pub(crate) struct Nft {
    socket: Mutex<socket::Link>,
    port: u32,
    /// Held while a set is changed: whoever empties the last takes the table away.
    apart: Mutex<()>,
    ports: Fixed,
    /// Of ends that the node routes from, and of ports of bridges.
    sources: [Fixed; 2],
}

/// Tables of which objects are elements: what comes together is written in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elemental {
    Sources,
    Ports,
}

impl Elemental {
    pub(crate) fn of(key: &Key) -> Option<Self> {
        match key {
            Key::Sources(_) => Some(Self::Sources),
            Key::Port(_) | Key::Hidden(..) => Some(Self::Ports),
            _ => None,
        }
    }
}

/// A chain of ours, by what it does.
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const RAW: [Chain; 2] = [
    Chain { name: "raw-prerouting", kind: "filter", hook: PREROUTING, priority: -300 },
    Chain { name: "raw-output", kind: "filter", hook: OUTPUT, priority: -300 },
];
const FORWARD: Chain = Chain { name: "forward", kind: "filter", hook: FORWARD_HOOK, priority: 0 };
const NAT: Chain = Chain { name: "source-nat", kind: "nat", hook: POSTROUTING, priority: 100 };

impl Nft {
    pub(crate) fn open() -> Result<Self, Error> {
        let socket = socket::Link::open(protocols::NETLINK_NETFILTER).map_err(Error::Open)?;
        let port = socket.port;
        Ok(Self {
            port,
            socket: Mutex::new(socket),
            apart: Mutex::new(()),
            ports: ports::fixed(),
            sources: [sources::routed(), sources::bridged()],
        })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Replaces the whole table in one transaction: no packet meets half of it.
    pub(crate) fn replace(&self, ruleset: &Ruleset) -> Result<(), Error> {
        self.transact(|batch| {
            table(batch, NEWTABLE, NLM_F_CREATE);
            table(batch, DELTABLE, 0);
            table(batch, NEWTABLE, NLM_F_CREATE);
            for chain in RAW.iter().filter(|_| !ruleset.raw.is_empty()) {
                add_chain(batch, chain);
                ruleset.raw.iter().for_each(|rule| add_rule(batch, chain.name, rule));
            }
            if !ruleset.forward.is_empty() {
                add_chain(batch, &FORWARD);
                ruleset.forward.iter().for_each(|rule| add_rule(batch, FORWARD.name, rule));
            }
            // A nat chain turns connection tracking on, which costs: none without need.
            if !ruleset.nat.is_empty() {
                add_chain(batch, &NAT);
                ruleset.nat.iter().for_each(|rule| add_rule(batch, NAT.name, rule));
            }
        })
    }

    pub(crate) fn remove(&self) -> Result<(), Error> {
        self.transact(|batch| {
            table(batch, NEWTABLE, NLM_F_CREATE);
            table(batch, DELTABLE, 0);
        })
    }

    /// Changes of one such table, all in one transaction.
    pub(crate) fn change(&self, which: Elemental, changes: &[&Change]) -> Result<(), Error> {
        let keys: Vec<Key> = changes.iter().map(|change| change.key()).collect();
        let puts = || {
            changes.iter().filter_map(|change| match change {
                Change::Put(object) | Change::Recreate { object, .. } => Some(object),
                Change::Drop(_) => None,
            })
        };
        let gone = |held: fn(&Key, &Elements) -> Elements| {
            let keys = &keys;
            move |known: &Elements| merged(keys.iter().map(|key| held(key, known)))
        };
        match which {
            Elemental::Ports => {
                let new = merged(puts().map(ports::elements));
                self.ports.change(&self.socket, gone(ports::held), &new)
            }
            Elemental::Sources => self.sources.iter().enumerate().try_for_each(|(at, table)| {
                let new = merged(puts().map(|object| sources::elements(object)[at].clone()));
                table.change(&self.socket, gone(sources::held), &new)
            }),
        }
    }

    /// What is in force of them.
    pub(crate) fn elements(&self) -> Result<Vec<Object>, Error> {
        let [routed, bridged] = &self.sources;
        let (routed, bridged) = (routed.observe(&self.socket)?, bridged.observe(&self.socket)?);
        let mut objects = sources::objects([&routed, &bridged]);
        objects.extend(ports::objects(&self.ports.observe(&self.socket)?));
        Ok(objects)
    }

    /// Takes all tables away, whatever somebody has made of them.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        self.remove()?;
        self.remove_apart()?;
        self.sources.iter().chain([&self.ports]).try_for_each(|table| table.remove(&self.socket))
    }

    /// True if there is any table by one of our names.
    pub(crate) fn any_left(&self) -> Result<bool, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let tables = tables(&mut socket).map_err(|error| Error::Read { what: "tables", error })?;
        Ok(tables.iter().any(|table| is_ours(table.family, &table.name)))
    }

    fn transact(&self, write: impl FnOnce(&mut Batch)) -> Result<(), Error> {
        transact(&mut self.socket.lock().expect(POISONED), mark::TABLE, write)
    }

    pub(crate) fn observe(&self) -> Result<Seen, Error> {
        let mut socket = self.socket.lock().expect(POISONED);
        let read = |what| move |error| Error::Read { what, error };
        let tables = tables(&mut socket).map_err(read("tables"))?;
        match tables.iter().find(|table| table.family == INET && table.name == mark::TABLE) {
            None => return Ok(Seen::Absent),
            Some(table) if table.flags != 0 => return Ok(Seen::Altered),
            Some(_) => {}
        }
        let chains: Vec<Base> = chains(&mut socket)
            .map_err(read("chains"))?
            .into_iter()
            .filter(|chain| chain.family == INET && chain.table == mark::TABLE)
            .collect();
        let rules = socket.dump(
            GETRULE,
            &header(INET),
            |batch| {
                batch.attr_str(RULE_TABLE, mark::TABLE);
            },
            |message| {
                (text_of(message, RULE_TABLE)? == mark::TABLE).then(|| {
                    let chain = text_of(message, RULE_CHAIN).unwrap_or_default();
                    (chain, value_of(message, RULE_EXPRESSIONS).and_then(shape::decode))
                })
            },
        );
        Ok(seen(&chains, &rules.map_err(read("rules"))?))
    }
}

fn is_ours(family: u8, table: &str) -> bool {
    match table {
        mark::TABLE => [INET, NETDEV].contains(&family),
        mark::SOURCES => [INET, BRIDGE, NETDEV].contains(&family),
        mark::PORTS | mark::POLICY_TABLE => family == INET,
        _ => false,
    }
}

fn merged(all: impl Iterator<Item = Elements>) -> Elements {
    let mut merged = Elements::new();
    for (name, some) in all.flatten() {
        merged.entry(name).or_default().extend(some);
    }
    merged
}

/// One transaction, done whole or not at all.
fn transact(
    socket: &mut socket::Link,
    table: &'static str,
    write: impl FnOnce(&mut Batch),
) -> Result<(), Error> {
    let mut batch = socket.batch();
    // `struct nfgenmsg`: the subsystem in network order.
    let whole = [UNSPEC, 0, 0, SUBSYSTEM.to_be_bytes()[1]];
    batch.begin(BATCH_BEGIN, 0, &whole).end();
    write(&mut batch);
    batch.acknowledge_last();
    let last = batch.last_seq();
    batch.begin(BATCH_END, 0, &whole).end();
    let failed = |error, text| Error::Write { table, error, text };
    let answers = socket.transact(&batch, last).map_err(|error| failed(error, String::new()))?;
    match answers.into_iter().next() {
        None => Ok(()),
        Some(answer) => Err(failed(io::Error::from_raw_os_error(answer.errno), answer.text)),
    }
}

struct Table {
    family: u8,
    name: String,
    flags: u32,
}

impl Table {
    /// Its chains are not in force.
    fn dormant(&self) -> bool {
        self.flags & 1 != 0
    }
}

fn tables(socket: &mut socket::Link) -> io::Result<Vec<Table>> {
    socket.dump(
        GETTABLE,
        &header(UNSPEC),
        |_| {},
        |message| {
            let flags = value_of(message, TABLE_FLAGS).and_then(|value| value.try_into().ok());
            Some(Table {
                family: *message.body.first()?,
                name: text_of(message, TABLE_NAME)?,
                flags: flags.map_or(0, u32::from_be_bytes),
            })
        },
    )
}

/// A chain as dumped.
struct Base {
    family: u8,
    table: String,
    name: String,
    kind: String,
    hook: Option<u32>,
    priority: Option<i32>,
    policy: Option<u32>,
    dev: Option<IfName>,
}

fn chains(socket: &mut socket::Link) -> io::Result<Vec<Base>> {
    socket.dump(
        GETCHAIN,
        &header(UNSPEC),
        |_| {},
        |message| {
            let hook = value_of(message, CHAIN_HOOK).unwrap_or_default();
            let of_hook = |of: u16| Some(wire::attrs(hook).find(|(kind, _)| *kind == of)?.1);
            let number = |of: u16| of_hook(of)?.try_into().ok().map(u32::from_be_bytes);
            let policy = value_of(message, CHAIN_POLICY);
            Some(Base {
                family: *message.body.first()?,
                table: text_of(message, CHAIN_TABLE)?,
                name: text_of(message, CHAIN_NAME)?,
                kind: text_of(message, CHAIN_TYPE).unwrap_or_default(),
                hook: number(HOOK_NUMBER),
                priority: number(HOOK_PRIORITY).map(u32::cast_signed),
                policy: policy.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes),
                dev: of_hook(HOOK_DEV).and_then(|dev| wire::text(dev).parse().ok()),
            })
        },
    )
}

/// What the dumped chains and rules amount to.
fn seen(chains: &[Base], rules: &[(String, Option<Rule>)]) -> Seen {
    let of = |name: &str| -> Option<Vec<Rule>> {
        rules.iter().filter(|(chain, _)| chain == name).map(|(_, rule)| rule.clone()).collect()
    };
    let (Some(pre), Some(out)) = (of(RAW[0].name), of(RAW[1].name)) else { return Seen::Altered };
    let (Some(forward), Some(nat)) = (of(FORWARD.name), of(NAT.name)) else { return Seen::Altered };
    let all = [(&RAW[0], &pre), (&RAW[1], &out), (&FORWARD, &forward), (&NAT, &nat)];
    let expected: Vec<&Chain> =
        all.into_iter().filter(|(_, rules)| !rules.is_empty()).map(|(chain, _)| chain).collect();
    let whole = expected.iter().all(|chain| known(chains, chain))
        && expected.len() == chains.len()
        && all.iter().map(|(_, rules)| rules.len()).sum::<usize>() == rules.len()
        && pre == out;
    if whole { Seen::Ours(Ruleset { raw: pre, forward, nat }) } else { Seen::Altered }
}

/// True if the chain is among them, with its hook and no policy against it.
fn known(chains: &[Base], chain: &Chain) -> bool {
    chains.iter().any(|base| {
        base.name == chain.name
            && base.kind == chain.kind
            && base.hook == Some(chain.hook)
            && base.priority == Some(chain.priority)
            && base.policy == Some(ACCEPT)
    })
}

fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn table(batch: &mut Batch, kind: u16, flags: u16) {
    batch.begin(kind, flags, &header(INET)).attr_str(TABLE_NAME, mark::TABLE).end();
}

fn add_chain(batch: &mut Batch, chain: &Chain) {
    batch
        .begin(NEWCHAIN, NLM_F_CREATE, &header(INET))
        .attr_str(CHAIN_TABLE, mark::TABLE)
        .attr_str(CHAIN_NAME, chain.name)
        .nest(CHAIN_HOOK, |batch| {
            batch
                .attr_be32(HOOK_NUMBER, chain.hook)
                .attr_be32(HOOK_PRIORITY, chain.priority.cast_unsigned());
        })
        .attr_str(CHAIN_TYPE, chain.kind)
        .end();
}

fn add_rule(batch: &mut Batch, chain: &str, rule: &Rule) {
    batch
        .begin(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(INET))
        .attr_str(RULE_TABLE, mark::TABLE)
        .attr_str(RULE_CHAIN, chain)
        .nest(RULE_EXPRESSIONS, |batch| shape::encode(batch, rule))
        .attr(RULE_USERDATA, &comment("weft"))
        .end();
}

/// What `nft list` shows as the rule's comment: one TLV of type 0.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], text.as_bytes(), &[0]].concat()
}

fn value_of<'a>(message: &Message<'a>, of: u16) -> Option<&'a [u8]> {
    wire::attrs(message.body.get(4..)?).find(|(kind, _)| *kind == of).map(|(_, value)| value)
}

fn text_of(message: &Message<'_>, of: u16) -> Option<String> {
    value_of(message, of).map(wire::text)
}
