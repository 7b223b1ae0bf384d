//! Each shape of rule as nftables expressions, and back. What can't be read back is not ours.

use ipnet::{IpNet, ip_mask_to_prefix};
use weft_core::policy::Rule;

use super::{
    access,
    numbers::*,
    words::{
        self, BITWISE_MASK, BITWISE_XOR, CMP_DATA, CMP_EQ, CMP_OP, DROP, IPV4, IPV6, LOOKUP_FLAGS,
        META_IIFTYPE, META_KEY, REG_1, compare, expression, lookup, meta, payload, verdict_of,
    },
};
use crate::wire::{self, Batch};

const UDP: u8 = 17;
/// Where the destination port stands in a UDP header, and its length.
const UDP_DPORT: (u32, u32) = (2, 2);
/// ARPHRD_ETHER.
const ETHERNET: u16 = 1;
/// Where the sender stands in an Ethernet header, and its length.
const ETHER_SOURCE: (u32, u32) = (6, 6);
const ACCEPTED: i32 = 1;
const GOTO: i32 = -4;
const TARGET_NAME: u16 = 1;

/// Where an address stands in its header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
}

pub(super) fn encode(batch: &mut Batch, rule: &Rule) {
    let (from, to) = match rule {
        Rule::NoTrackPort { port } => {
            to_udp(batch, *port);
            return expression(batch, "notrack", |_| {});
        }
        Rule::NoTunnel { from, port } => {
            to_udp(batch, *port);
            (from, None)
        }
        Rule::MasqueradeAccess => return access::masquerade(batch),
        Rule::MasqueradeLed => return access::masquerade_led(batch),
        Rule::MasqueradeBack { dev } => return access::masquerade_back(batch, dev),
        Rule::Apart { range, .. } => {
            access::between(batch);
            (range, Some(range))
        }
        Rule::NoTrack { from, to } | Rule::Keep { from, to } => (from, Some(to)),
        Rule::Masquerade { from } => (from, None),
    };
    words::family(batch, from.addr().is_ipv4());
    prefix(batch, Field::Source, from);
    to.into_iter().for_each(|to| prefix(batch, Field::Destination, to));
    match rule {
        Rule::NoTrack { .. } => expression(batch, "notrack", |_| {}),
        Rule::Keep { .. } => verdict_of(batch, RETURN),
        Rule::Apart { unless_translated, .. } => {
            if *unless_translated {
                words::translated(batch, false);
            }
            verdict_of(batch, DROP);
        }
        Rule::Masquerade { .. } => expression(batch, "masq", |_| {}),
        Rule::NoTunnel { .. } => verdict_of(batch, DROP),
        // Written whole above.
        Rule::NoTrackPort { .. }
        | Rule::MasqueradeAccess
        | Rule::MasqueradeLed
        | Rule::MasqueradeBack { .. } => {}
    }
}

fn to_udp(batch: &mut Batch, port: u16) {
    meta(batch, META_L4PROTO, REG_1);
    compare(batch, &[UDP]);
    payload(batch, TRANSPORT_HEADER, UDP_DPORT, REG_1);
    compare(batch, &port.to_be_bytes());
}

/// Drops a frame whose sender is in the set.
pub(super) fn drop_senders(batch: &mut Batch, set: &str) {
    // Always so where the rule stands; `nft` shows the rest in words where it is asked.
    meta(batch, META_IIFTYPE, REG_1);
    compare(batch, &ETHERNET.to_ne_bytes());
    payload(batch, LINK_HEADER, ETHER_SOURCE, REG_1);
    lookup(batch, set, None, false);
    verdict_of(batch, DROP);
}

/// The set, of a rule that `drop_senders` wrote.
pub(super) fn dropped_senders(expressions: &[u8]) -> Option<String> {
    let parts: Vec<(String, &[u8])> =
        wire::attrs(expressions).map(|(_, expression)| parts(expression)).collect();
    let [(meta, kind), (cmp, is), (load, payload), (lookup, set), (last, action)] = &parts[..]
    else {
        return None;
    };
    let loads = (number(payload, PAYLOAD_OFFSET)?, number(payload, PAYLOAD_LEN)?);
    let whole = meta == "meta"
        && number(kind, META_KEY)? == META_IIFTYPE
        && cmp == "cmp"
        && number(is, CMP_OP)? == CMP_EQ
        && value(is, CMP_DATA)? == ETHERNET.to_ne_bytes()
        && load == "payload"
        && number(payload, PAYLOAD_BASE)? == LINK_HEADER
        && loads == ETHER_SOURCE
        && lookup == "lookup"
        && number(set, LOOKUP_FLAGS).unwrap_or(0) == 0
        && last == "immediate"
        && verdict(action) == Some(DROP);
    whole.then(|| nested(set, LOOKUP_SET).map(wire::text)).flatten()
}

fn offset(field: Field, ipv4: bool) -> u32 {
    match (field, ipv4) {
        (Field::Source, true) => 12,
        (Field::Destination, true) => 16,
        (Field::Source, false) => 8,
        (Field::Destination, false) => 24,
    }
}

fn prefix(batch: &mut Batch, field: Field, net: &IpNet) {
    let ipv4 = net.addr().is_ipv4();
    let at = (offset(field, ipv4), if ipv4 { 4 } else { 16 });
    words::within(batch, (NETWORK_HEADER, at), net);
}

/// What a row of expressions was found to match so far.
#[derive(Default)]
pub(super) struct Reading {
    ipv4: Option<bool>,
    /// What the register holds, and how many bytes of it.
    loaded: Option<(Loaded, usize)>,
    mask: Option<Vec<u8>>,
    from: Option<IpNet>,
    to: Option<IpNet>,
    udp: bool,
    port: Option<u16>,
    rule: Option<Rule>,
}

enum Loaded {
    Family,
    Address(Field),
    Protocol,
    Port,
}

pub(super) fn decode(expressions: &[u8]) -> Option<Rule> {
    let parts: Vec<(String, &[u8])> =
        wire::attrs(expressions).map(|(_, expression)| parts(expression)).collect();
    let mut reading = Reading::default();
    let read = parts.iter().try_for_each(|(name, data)| {
        reading.rule.is_none().then_some(())?;
        reading.take(name, data)
    });
    read.and(reading.rule).or_else(|| access::decode(&parts))
}

/// What a stranger's rule says, as far as it can be read.
pub(super) enum Word {
    /// It drops or rejects what it matches.
    Refuses(Match),
    Accepts(Match),
    Jumps(Match, String),
    Other,
}

/// What a rule asks of a packet; nothing: everything passes.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) from: Option<IpNet>,
    pub(super) to: Option<IpNet>,
    /// The destination's, over UDP.
    pub(super) port: Option<u16>,
    /// Something else besides.
    pub(super) more: bool,
}

/// `family` is the table's, where it has one.
pub(super) fn word(family: Option<bool>, expressions: &[u8]) -> Word {
    let mut reading = Reading { ipv4: family, ..Reading::default() };
    for (_, expression) in wire::attrs(expressions) {
        let (name, data) = parts(expression);
        let matches = |reading: &Reading| Match {
            from: reading.from,
            to: reading.to,
            port: reading.port,
            more: reading.ipv4 != family || (reading.udp && reading.port.is_none()),
        };
        match name.as_str() {
            "counter" | "log" => {}
            "meta" | "payload" | "bitwise" | "cmp" if reading.take(&name, data).is_some() => {}
            "reject" => return Word::Refuses(matches(&reading)),
            // iptables' words for it, carried whole.
            "target" if nested(data, TARGET_NAME).map(wire::text).as_deref() == Some("REJECT") => {
                return Word::Refuses(matches(&reading));
            }
            "immediate" => {
                let (matches, chain) = (matches(&reading), jump(data));
                return match (verdict(data), chain) {
                    (Some(DROP), _) => Word::Refuses(matches),
                    (Some(ACCEPTED), _) => Word::Accepts(matches),
                    (Some(JUMP | GOTO), Some(chain)) => Word::Jumps(matches, chain),
                    _ => Word::Other,
                };
            }
            _ => return Word::Other,
        }
    }
    Word::Other
}

fn jump(data: &[u8]) -> Option<String> {
    nested(nested(nested(data, IMMEDIATE_DATA)?, DATA_VERDICT)?, VERDICT_CHAIN).map(wire::text)
}

pub(super) fn verdict(data: &[u8]) -> Option<i32> {
    let verdict = nested(nested(data, IMMEDIATE_DATA)?, DATA_VERDICT)?;
    number(verdict, VERDICT_CODE).map(u32::cast_signed)
}

/// An expression's name and data.
fn parts(expression: &[u8]) -> (String, &[u8]) {
    let mut parts = (String::new(), &[][..]);
    for (kind, value) in wire::attrs(expression) {
        match kind {
            EXPR_NAME => parts.0 = wire::text(value),
            EXPR_DATA => parts.1 = value,
            _ => {}
        }
    }
    parts
}

impl Reading {
    pub(super) fn take(&mut self, name: &str, data: &[u8]) -> Option<()> {
        match name {
            "meta" => {
                let loaded = match number(data, META_KEY)? {
                    META_NFPROTO => Loaded::Family,
                    META_L4PROTO => Loaded::Protocol,
                    _ => return None,
                };
                self.loaded = Some((loaded, 1));
            }
            "payload" => self.load(data)?,
            "bitwise" => {
                let plain = value(data, BITWISE_XOR)?.iter().all(|byte| *byte == 0);
                let mask = value(data, BITWISE_MASK)?.to_vec();
                (plain && self.mask.replace(mask).is_none()).then_some(())?;
            }
            "cmp" => {
                (number(data, CMP_OP)? == CMP_EQ).then_some(())?;
                self.compare(value(data, CMP_DATA)?)?;
            }
            "notrack" => {
                self.rule = Some(match self.port {
                    // A port, and nothing besides.
                    Some(port) if self.ipv4.is_none() => Rule::NoTrackPort { port },
                    _ => {
                        let (from, to) = self.ends()?;
                        Rule::NoTrack { from, to }
                    }
                });
            }
            "masq" => {
                // Flags and port ranges would be attributes.
                (self.to.is_none() && data.is_empty()).then_some(())?;
                self.rule = Some(Rule::Masquerade { from: self.ends()?.0 });
            }
            "immediate" => {
                self.rule = Some(match (verdict(data)?, self.port) {
                    (DROP, Some(port)) if self.to.is_none() => {
                        Rule::NoTunnel { from: self.from?, port }
                    }
                    (RETURN, None) => {
                        let (from, to) = self.ends()?;
                        Rule::Keep { from, to }
                    }
                    _ => return None,
                });
            }
            _ => return None,
        }
        Some(())
    }

    fn load(&mut self, data: &[u8]) -> Option<()> {
        let (at, length) = (number(data, PAYLOAD_OFFSET)?, number(data, PAYLOAD_LEN)?);
        let loaded = match number(data, PAYLOAD_BASE)? {
            NETWORK_HEADER => {
                let (ipv4, fields) = (self.ipv4?, [Field::Source, Field::Destination]);
                Loaded::Address(fields.into_iter().find(|field| offset(*field, ipv4) == at)?)
            }
            TRANSPORT_HEADER if self.udp && (at, length) == UDP_DPORT => Loaded::Port,
            _ => return None,
        };
        self.loaded = Some((loaded, usize::try_from(length).ok()?));
        self.mask = None;
        Some(())
    }

    fn compare(&mut self, value: &[u8]) -> Option<()> {
        let (loaded, length) = self.loaded.take()?;
        (value.len() == length).then_some(())?;
        match loaded {
            Loaded::Family => {
                let ipv4 = match *value.first()? {
                    IPV4 => true,
                    IPV6 => false,
                    _ => return None,
                };
                self.ipv4.replace(ipv4).is_none().then_some(())
            }
            Loaded::Protocol => {
                let first = self.mask.is_none() && !std::mem::replace(&mut self.udp, true);
                (first && value == [UDP]).then_some(())
            }
            Loaded::Port => {
                let port = u16::from_be_bytes(value.try_into().ok()?);
                (self.mask.is_none() && self.port.replace(port).is_none()).then_some(())
            }
            Loaded::Address(field) => {
                // `nft` loads only as many bytes as a prefix has.
                let whole = if self.ipv4? { 4 } else { 16 };
                let mut mask = self.mask.take().unwrap_or_else(|| vec![0xff; value.len()]);
                let mut bytes = value.to_vec();
                mask.resize(whole, 0);
                bytes.resize(whole, 0);
                let prefix = ip_mask_to_prefix(wire::ip(&mask)?).ok()?;
                let net = IpNet::new(wire::ip(&bytes)?, prefix).ok()?;
                let end = match field {
                    Field::Source => &mut self.from,
                    Field::Destination => &mut self.to,
                };
                end.replace(net).is_none().then_some(())
            }
        }
    }

    /// Of one that asks for addresses and nothing besides.
    pub(super) fn addresses(&self) -> Option<(IpNet, IpNet)> {
        self.ends().filter(|_| self.rule.is_none() && self.loaded.is_none())
    }

    /// A prefix that is not compared is the whole family.
    fn ends(&self) -> Option<(IpNet, IpNet)> {
        (!self.udp).then_some(())?;
        let all: IpNet = if self.ipv4? { "0.0.0.0/0" } else { "::/0" }.parse().ok()?;
        Some((self.from.unwrap_or(all), self.to.unwrap_or(all)))
    }
}

fn nested(data: &[u8], of: u16) -> Option<&[u8]> {
    wire::attrs(data).find(|(kind, _)| *kind == of).map(|(_, value)| value)
}

pub(super) fn number(data: &[u8], of: u16) -> Option<u32> {
    nested(data, of)?.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn value(data: &[u8], of: u16) -> Option<&[u8]> {
    nested(nested(data, of)?, DATA_VALUE)
}
