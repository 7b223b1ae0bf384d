//! Messages (RFC 2131, 2; options of RFC 2132): what a client says, and what of a server's answer
//! is believed.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::packet;
use crate::{
    attachment::AttachmentId,
    name::{Mac, fnv1a},
};

const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const ETHERNET: u8 = 1;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bit of `flags` that asks for answers by broadcast (RFC 2131, figure 2).
const BROADCAST: u16 = 0x8000;
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
const OPTIONS: usize = 240;
/// The shortest message that every relay passes on (RFC 1542, 2.1).
const LEAST: usize = 300;

mod option {
    pub const PAD: u8 = 0;
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const HOST_NAME: u8 = 12;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const TEXT: u8 = 56;
    pub const T1: u8 = 58;
    pub const T2: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const END: u8 = 255;
}

/// What a message is (RFC 2132, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// Who asks. Pods may share a MAC address, so it is the identifier that tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub mac: Mac,
    id: Vec<u8>,
    host: Option<String>,
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who has an address, this one if it can be?
    Discover {
        want: Option<Ipv4Addr>,
    },
    /// I take what this server has offered.
    Select {
        addr: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// I had this one: is it mine still? (INIT-REBOOT)
    Reboot {
        addr: Ipv4Addr,
    },
    /// Prolong my lease, to the server that gave it. (RENEWING)
    Renew {
        addr: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// Prolong my lease, to whoever can. (REBINDING)
    Rebind {
        addr: Ipv4Addr,
    },
    /// What this server gave me somebody has already.
    Decline {
        addr: Ipv4Addr,
        server: Ipv4Addr,
    },
    Release {
        addr: Ipv4Addr,
        server: Ipv4Addr,
    },
}

/// What a server gives, or has offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub addr: Ipv4Addr,
    pub prefix_len: u8,
    /// The network's router, where it named one that is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Ipv4Addr>,
    pub server: Ipv4Addr,
    /// In seconds from when it was asked for.
    pub time: u32,
    pub t1: u32,
    pub t2: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Offer(Terms),
    Ack(Terms),
    Nak { server: Option<Ipv4Addr>, text: String },
}

/// Why a packet is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deaf {
    #[error("not a DHCP server's")]
    NotDhcp,
    #[error("an answer to somebody else")]
    NotOurs,
    #[error("a broken message: {0}")]
    Broken(&'static str),
    /// Whole, but nothing that a pod can use.
    #[error("{0}")]
    Useless(String),
}

impl Client {
    /// Of a pod: the same at every try, and no other's. The form is RFC 4361's, with a DUID of
    /// RFC 6355.
    pub fn new(pod: &AttachmentId, mac: Mac, name: Option<&str>) -> Self {
        let ifname = fnv1a(&["iaid", &pod.cni, pod.ifname.as_str()]).to_be_bytes();
        let halves = ["duid", "duid-2"].map(|half| fnv1a(&[half, &pod.container]).to_be_bytes());
        let id = [&[255][..], &ifname[4..], &[0, 4], &halves.concat()].concat();
        Self { mac, id, host: name.and_then(host_name) }
    }

    /// The whole IPv4 packet.
    pub fn say(&self, ask: &Ask, xid: u32, secs: u16) -> Vec<u8> {
        packet::wrap(ask.from(), ask.to(), &self.message(ask, xid, secs))
    }

    fn message(&self, ask: &Ask, xid: u32, secs: u16) -> Vec<u8> {
        // Who has no address yet, or shares its MAC, can't be reached otherwise.
        let answered = !matches!(ask.kind(), Kind::Decline | Kind::Release);
        let flags = if answered && ask.from().is_unspecified() { BROADCAST } else { 0 };
        let mut message = vec![BOOTREQUEST, ETHERNET, 6, 0];
        message.extend(xid.to_be_bytes());
        message.extend(secs.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(ask.from().octets());
        message.resize(CHADDR, 0);
        message.extend(self.mac.0);
        message.resize(OPTIONS - COOKIE.len(), 0);
        message.extend(COOKIE);
        let mut put = |code: u8, value: &[u8]| {
            message.extend([code, u8::try_from(value.len()).unwrap_or(0)]);
            message.extend(value);
        };
        put(option::TYPE, &[ask.kind() as u8]);
        put(option::CLIENT, &self.id);
        if let Some(addr) = ask.requested() {
            put(option::REQUESTED, &addr.octets());
        }
        if let Some(server) = ask.server() {
            put(option::SERVER, &server.octets());
        }
        if answered {
            if let Some(host) = &self.host {
                put(option::HOST_NAME, host.as_bytes());
            }
            let wanted = [option::MASK, option::ROUTER, option::LEASE_TIME, option::T1, option::T2];
            put(option::PARAMETERS, &wanted);
        }
        message.push(option::END);
        message.resize(message.len().max(LEAST), option::PAD);
        message
    }

    /// What a packet answers to this client's question of the number. `range` says how long a
    /// prefix is that the server does not name.
    pub fn hear(&self, xid: u32, packet: &[u8], range: Ipv4Net) -> Result<Answer, Deaf> {
        let message = packet::unwrap(packet).ok_or(Deaf::NotDhcp)?;
        let head = message.get(..OPTIONS).ok_or(Deaf::NotDhcp)?;
        if head[0] != BOOTREPLY || head[OPTIONS - COOKIE.len()..] != COOKIE {
            return Err(Deaf::NotDhcp);
        }
        let addressed = head[1..3] == [ETHERNET, 6] && head[CHADDR..CHADDR + 6] == self.mac.0;
        if head[4..8] != xid.to_be_bytes() || !addressed {
            return Err(Deaf::NotOurs);
        }
        let options = Options::read(message)?;
        // Servers of RFC 6842 say to whom they answer.
        if options.get(option::CLIENT).is_some_and(|id| id != self.id) {
            return Err(Deaf::NotOurs);
        }
        let server = options.addr(option::SERVER)?;
        match options.byte(option::TYPE)? {
            Some(kind) if kind == Kind::Nak as u8 => {
                let text = options.get(option::TEXT).unwrap_or_default();
                Ok(Answer::Nak { server, text: printable(&text) })
            }
            Some(kind) if kind == Kind::Offer as u8 => {
                terms(head, &options, range).map(Answer::Offer)
            }
            Some(kind) if kind == Kind::Ack as u8 => terms(head, &options, range).map(Answer::Ack),
            Some(_) => Err(Deaf::Broken("of a type that no server sends")),
            None => Err(Deaf::Broken("without a type")),
        }
    }
}

/// A pod's name as one label, or nothing (RFC 1123, 2.1).
fn host_name(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let label: String = name.chars().take_while(|c| fits(*c)).take(63).collect();
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// A server's own words, fit for a log.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

impl Ask {
    fn kind(&self) -> Kind {
        match self {
            Self::Discover { .. } => Kind::Discover,
            Self::Decline { .. } => Kind::Decline,
            Self::Release { .. } => Kind::Release,
            _ => Kind::Request,
        }
    }

    /// The sender's address, which is `ciaddr` too: that of a client that may use it (RFC 2131,
    /// table 5).
    fn from(&self) -> Ipv4Addr {
        match self {
            Self::Renew { addr, .. } | Self::Rebind { addr } | Self::Release { addr, .. } => *addr,
            Self::Discover { .. }
            | Self::Select { .. }
            | Self::Reboot { .. }
            | Self::Decline { .. } => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Where it is sent.
    pub fn to(&self) -> Ipv4Addr {
        match self {
            Self::Renew { server, .. } | Self::Release { server, .. } => *server,
            _ => Ipv4Addr::BROADCAST,
        }
    }

    fn requested(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Discover { want } => *want,
            Self::Select { addr, .. } | Self::Reboot { addr } | Self::Decline { addr, .. } => {
                Some(*addr)
            }
            _ => None,
        }
    }

    fn server(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Select { server, .. }
            | Self::Decline { server, .. }
            | Self::Release { server, .. } => Some(*server),
            _ => None,
        }
    }
}

fn terms(head: &[u8], options: &Options, range: Ipv4Net) -> Result<Terms, Deaf> {
    let useless = |why: String| Err(Deaf::Useless(why));
    let addr = Ipv4Addr::new(head[16], head[17], head[18], head[19]);
    let Some(server) = options.addr(option::SERVER)?.filter(|server| is_host(*server)) else {
        return Err(Deaf::Broken("without the server's identifier"));
    };
    let mask = options.addr(option::MASK)?;
    let net = match mask {
        Some(mask) => Ipv4Net::with_netmask(addr, mask),
        None => Ok(Ipv4Net::new_assert(addr, range.prefix_len())),
    };
    let Ok(net) = net else {
        return useless(format!("server {server} gives {addr} with a netmask that is none"));
    };
    if !range.contains(&addr) {
        return useless(format!("server {server} gives {addr}, which is outside {range}"));
    }
    let edge = net.prefix_len() < 31 && (addr == net.network() || addr == net.broadcast());
    if !is_host(addr) || edge || net.prefix_len() == 0 {
        return useless(format!("server {server} gives {net}, which is no host's address"));
    }
    let Some(time) = options.number(option::LEASE_TIME)?.filter(|time| *time > 0) else {
        return useless(format!("server {server} gives {addr} for no time"));
    };
    let routers = options.get(option::ROUTER).unwrap_or_default();
    let mut routers = routers.chunks_exact(4).map(|r| Ipv4Addr::new(r[0], r[1], r[2], r[3]));
    let router = routers.find(|router| net.contains(router) && is_host(*router) && *router != addr);
    let (t1, t2) = times(time, options.number(option::T1)?, options.number(option::T2)?);
    Ok(Terms { addr, prefix_len: net.prefix_len(), router, server, time, t1, t2 })
}

/// When to renew and when to rebind: as the server says, if that makes sense (RFC 2131, 4.4.5).
fn times(time: u32, t1: Option<u32>, t2: Option<u32>) -> (u32, u32) {
    let t2 = t2.filter(|t2| (1..time).contains(t2)).unwrap_or(time - time / 8);
    let t1 = t1.filter(|t1| (1..t2).contains(t1)).unwrap_or((time / 2).min(t2));
    (t1, t2)
}

fn is_host(addr: Ipv4Addr) -> bool {
    let nobody = addr.octets()[0] == 0 || addr.octets()[0] >= 224;
    !nobody && !addr.is_loopback()
}

/// The options of a message; one that stands there several times is one in parts (RFC 3396).
struct Options(Vec<(u8, Vec<u8>)>);

impl Options {
    fn read(message: &[u8]) -> Result<Self, Deaf> {
        let mut options = Self(Vec::new());
        options.take(&message[OPTIONS..])?;
        // Whether the fields for names hold options too (RFC 2132, 9.3; the order is RFC 2131's, 4.1).
        let overload = options.byte(option::OVERLOAD)?.unwrap_or(0);
        if overload & 1 != 0 {
            options.take(&message[FILE..OPTIONS - COOKIE.len()])?;
        }
        if overload & 2 != 0 {
            options.take(&message[SNAME..FILE])?;
        }
        Ok(options)
    }

    fn take(&mut self, mut field: &[u8]) -> Result<(), Deaf> {
        loop {
            field = match *field {
                [] | [option::END, ..] => return Ok(()),
                [option::PAD, ref rest @ ..] => rest,
                [code, length, ref rest @ ..] if rest.len() >= usize::from(length) => {
                    let (value, rest) = rest.split_at(usize::from(length));
                    match self.0.iter_mut().find(|(known, _)| *known == code) {
                        Some((_, known)) => known.extend(value),
                        None => self.0.push((code, value.to_vec())),
                    }
                    rest
                }
                _ => return Err(Deaf::Broken("an option is longer than the message")),
            }
        }
    }

    fn get(&self, code: u8) -> Option<Vec<u8>> {
        self.0.iter().find(|(known, _)| *known == code).map(|(_, value)| value.clone())
    }

    fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Deaf> {
        let length = |_| Deaf::Broken("an option of a wrong length");
        self.get(code).map(|value| value.try_into().map_err(length)).transpose()
    }
    fn byte(&self, code: u8) -> Result<Option<u8>, Deaf> {
        Ok(self.fixed(code)?.map(|[byte]| byte))
    }
    fn number(&self, code: u8) -> Result<Option<u32>, Deaf> {
        Ok(self.fixed(code)?.map(u32::from_be_bytes))
    }
    fn addr(&self, code: u8) -> Result<Option<Ipv4Addr>, Deaf> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} from {}", self.addr, self.prefix_len, self.server)?;
        match self.router {
            Some(router) => write!(f, " router {router}"),
            None => Ok(()),
        }
    }
}
