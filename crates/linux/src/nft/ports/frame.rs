//! The chains of the table and their rules, which are always the same.

use std::{io, net::Ipv6Addr};

use weft_core::{mark, name::IfName, ports::Client};

use super::super::numbers::*;
use super::{
    super::{
        Chain, Error, GETRULE, INET, NEWRULE, NEWTABLE, NLM_F_APPEND, NLM_F_CREATE, OUTPUT,
        POSTROUTING, PREROUTING, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, RULE_USERDATA, access,
        add_chain_of,
        alike::alike,
        chains as all_chains, comment, header, known, shape,
        shape::{
            META_DREG, META_KEY, META_L4PROTO, META_NFPROTO, NETWORK_HEADER, PAYLOAD_BASE,
            PAYLOAD_DREG, PAYLOAD_LEN, PAYLOAD_OFFSET, REG_1, TRANSPORT_HEADER, compare,
            expression,
        },
        tables, text_of, value_of,
    },
    read,
    sets::{FAMILIES, Family, IS_MAP, Of, SETS, Set, family, octets, set_of, sets},
    table,
};
use crate::{
    socket,
    uapi::RTN_LOCAL,
    wire::{self, Batch},
};

const RESULT_TYPE: u32 = 3;
const OF_DADDR: u32 = 2;
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDR_MIN: u16 = 3;
const NAT_ADDR_MAX: u16 = 4;
const NAT_PROTO_MIN: u16 = 5;
const NAT_PROTO_MAX: u16 = 6;
const NAT_FLAGS: u16 = 7;
const DNAT: u32 = 1;
/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED`.
const ADDRESS_AND_PORT: u32 = 1 | 2;
/// The register behind a protocol in the first.
const SECOND_OF_PORT: u32 = 9;

/// Before connection tracking: what only this host's own loopback may carry.
const GUARD: Chain = Chain { name: "guard", kind: "filter", hook: PREROUTING, priority: -300 };
const IN: Chain = Chain { name: "prerouting", kind: "nat", hook: PREROUTING, priority: -100 };
const OUT: Chain = Chain { name: "output", kind: "nat", hook: OUTPUT, priority: -100 };
const BACK: Chain = Chain { name: "postrouting", kind: "nat", hook: POSTROUTING, priority: 100 };

type Rule = Box<dyn Fn(&mut Batch)>;

/// Every chain and its rules, as they are always.
fn chains() -> [(&'static Chain, Vec<Rule>); 4] {
    let guard = [shape::LOOPBACK_SOURCE, shape::LOOPBACK_DESTINATION];
    let guard =
        guard.into_iter().map(|at| Box::new(move |batch: &mut Batch| stray(batch, at)) as _);
    let lead = || FAMILIES.iter().flat_map(|of| [Of::One, Of::Any].map(|set| leads(of, set)));
    let keep: Rule = Box::new(own_loopback6);
    let back = FAMILIES.iter().map(itself).chain(FAMILIES.iter().map(anybody));
    [
        (&GUARD, guard.collect()),
        (&IN, lead().collect()),
        (&OUT, [keep].into_iter().chain(lead()).collect()),
        (&BACK, back.chain([Box::new(from_loopback) as _]).collect()),
    ]
}

pub(super) fn frame(batch: &mut Batch) {
    table(batch, NEWTABLE, NLM_F_CREATE);
    for (id, set) in (1..).zip(&SETS) {
        set.write(batch, id);
    }
    for (chain, rules) in chains() {
        add_chain_of(batch, mark::PORTS, chain);
        for rule in rules {
            batch
                .begin(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &header(INET))
                .attr_str(RULE_TABLE, mark::PORTS)
                .attr_str(RULE_CHAIN, chain.name)
                .nest(RULE_EXPRESSIONS, rule)
                .attr(RULE_USERDATA, &comment("weft"))
                .end();
        }
    }
}

/// `iifname "weft*" ip saddr (or daddr) 127.0.0.0/8 drop`: pods' links may carry it once the node
/// itself sends from there to them.
fn stray(batch: &mut Batch, at: u32) {
    access::named(batch, META_IIFNAME, IfName::PREFIX.as_bytes());
    shape::loopback(batch, at);
    shape::verdict_of(batch, shape::DROP);
}

/// `oifname "weft*" ip saddr 127.0.0.0/8 masquerade`.
fn from_loopback(batch: &mut Batch) {
    access::named(batch, META_OIFNAME, IfName::PREFIX.as_bytes());
    shape::loopback(batch, shape::LOOPBACK_SOURCE);
    expression(batch, "masq", |_| {});
}

/// `ip6 daddr ::1 return`: IPv6 has no way from there.
fn own_loopback6(batch: &mut Batch) {
    let of = family(false);
    nfproto(batch, of);
    address(batch, of.destination, of, REG_1);
    compare(batch, &octets(Ipv6Addr::LOCALHOST.into()));
    shape::verdict_of(batch, RETURN);
}

/// `[fib daddr type local] dnat ip to [ip daddr .] meta l4proto . th dport map @SET`.
fn leads(of: &'static Family, which: Of) -> Rule {
    let set = set_of(of.ipv4, which);
    Box::new(move |batch| {
        nfproto(batch, of);
        let (protocol, port) = match which {
            Of::One => {
                address(batch, of.destination, of, REG_1);
                (of.second, of.third)
            }
            _ => {
                local(batch);
                (REG_1, SECOND_OF_PORT)
            }
        };
        meta(batch, META_L4PROTO, protocol);
        payload(batch, (TRANSPORT_HEADER, 2, 2), port);
        expression(batch, "lookup", |batch| {
            batch.attr_str(LOOKUP_SET, set.name).attr_be32(LOOKUP_SREG, REG_1);
            batch.attr_be32(LOOKUP_DREG, REG_1);
        });
        expression(batch, "nat", |batch| {
            batch
                .attr_be32(NAT_TYPE, DNAT)
                .attr_be32(NAT_FAMILY, of.number.into())
                .attr_be32(NAT_ADDR_MIN, REG_1)
                .attr_be32(NAT_ADDR_MAX, REG_1)
                .attr_be32(NAT_PROTO_MIN, of.second)
                .attr_be32(NAT_PROTO_MAX, of.second)
                .attr_be32(NAT_FLAGS, ADDRESS_AND_PORT);
        });
    })
}

/// `ip saddr . ip daddr @itself4 masquerade`.
fn itself(of: &'static Family) -> Rule {
    Box::new(move |batch| {
        nfproto(batch, of);
        address(batch, of.source, of, REG_1);
        address(batch, of.destination, of, of.second);
        member(batch, set_of(of.ipv4, Of::Hidden(Client::Itself)));
        expression(batch, "masq", |_| {});
    })
}

/// `ip daddr @anybody4 ct status dnat masquerade`.
fn anybody(of: &'static Family) -> Rule {
    Box::new(move |batch| {
        nfproto(batch, of);
        address(batch, of.destination, of, REG_1);
        member(batch, set_of(of.ipv4, Of::Hidden(Client::Anybody)));
        access::if_translated(batch);
        expression(batch, "masq", |_| {});
    })
}

fn member(batch: &mut Batch, set: &Set) {
    expression(batch, "lookup", |batch| {
        batch.attr_str(LOOKUP_SET, set.name).attr_be32(LOOKUP_SREG, REG_1);
    });
}

fn nfproto(batch: &mut Batch, of: &Family) {
    meta(batch, META_NFPROTO, REG_1);
    compare(batch, &[of.number]);
}

fn meta(batch: &mut Batch, key: u32, register: u32) {
    expression(batch, "meta", |batch| {
        batch.attr_be32(META_KEY, key).attr_be32(META_DREG, register);
    });
}

fn address(batch: &mut Batch, at: u32, of: &Family, register: u32) {
    payload(batch, (NETWORK_HEADER, at, of.octets), register);
}

fn payload(batch: &mut Batch, (base, offset, length): (u32, u32, u32), register: u32) {
    expression(batch, "payload", |batch| {
        batch
            .attr_be32(PAYLOAD_DREG, register)
            .attr_be32(PAYLOAD_BASE, base)
            .attr_be32(PAYLOAD_OFFSET, offset)
            .attr_be32(PAYLOAD_LEN, length);
    });
}

/// `fib daddr type local`.
fn local(batch: &mut Batch) {
    expression(batch, "fib", |batch| {
        batch
            .attr_be32(FIB_DREG, REG_1)
            .attr_be32(FIB_RESULT, RESULT_TYPE)
            .attr_be32(FIB_FLAGS, OF_DADDR);
    });
    compare(batch, &u32::from(RTN_LOCAL).to_ne_bytes());
}

/// True if the table has our chains, rules and sets, and nothing else.
pub(super) fn framed(socket: &mut socket::Link) -> Result<bool, Error> {
    let tables = tables(socket).map_err(read("tables"))?;
    let ours = tables.iter().find(|table| table.family == INET && table.name == mark::PORTS);
    if ours.is_none_or(|table| table.flags != 0) {
        return Ok(false);
    }
    let bases = all_chains(socket).map_err(read("chains"))?;
    let bases: Vec<_> =
        bases.into_iter().filter(|b| b.family == INET && b.table == mark::PORTS).collect();
    let rules = dumped(socket).map_err(read("rules"))?;
    let sets = sets(socket).map_err(read("sets"))?;
    let expected = chains();
    let count: usize = expected.iter().map(|(_, rules)| rules.len()).sum();
    let right = |(chain, wanted): &(&Chain, Vec<Rule>)| {
        let theirs: Vec<_> = rules.iter().filter(|(name, _)| name == chain.name).collect();
        known(&bases, chain)
            && theirs.len() == wanted.len()
            && wanted.iter().zip(theirs).all(|(wanted, (_, is))| {
                let mut batch = Batch::default();
                batch.nest(RULE_EXPRESSIONS, wanted);
                wire::attrs(batch.bytes()).all(|(_, wanted)| alike(wanted, is))
            })
    };
    let is_set = |set: &Set| {
        let flags = if set.is_map() { IS_MAP } else { 0 };
        sets.contains(&(set.name.to_owned(), set.key(), flags))
    };
    Ok(bases.len() == expected.len()
        && rules.len() == count
        && sets.len() == SETS.len()
        && SETS.iter().all(is_set)
        && expected.iter().all(right))
}

/// Each rule's chain and expressions.
fn dumped(socket: &mut socket::Link) -> io::Result<Vec<(String, Vec<u8>)>> {
    socket.dump(
        GETRULE,
        &header(INET),
        |batch| {
            batch.attr_str(RULE_TABLE, mark::PORTS);
        },
        |message| {
            let ours = text_of(message, RULE_TABLE)? == mark::PORTS;
            let expressions = value_of(message, RULE_EXPRESSIONS).unwrap_or_default().to_vec();
            ours.then(|| (text_of(message, RULE_CHAIN).unwrap_or_default(), expressions))
        },
    )
}
