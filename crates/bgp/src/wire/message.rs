//! Messages as values, and the way in and out of them.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::{HEADER, MESSAGE_MAX, frames, notification::code, open, pack, refresh, update};
use crate::attrs::{Attrs, Family, NextHop};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Update),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// As it is meant: that of the 4-octet capability where there is one (RFC 6793).
    pub asn: u32,
    pub hold_time: u16,
    pub router_id: Ipv4Addr,
    pub capabilities: Vec<Capability>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760.
    Multiprotocol(Family),
    /// RFC 2918.
    RouteRefresh,
    /// RFC 7313.
    EnhancedRouteRefresh,
    /// RFC 8950: IPv4 routes with IPv6 next hops.
    Ipv4OverIpv6,
    /// RFC 6793.
    FourOctetAs(u32),
    /// RFC 4724.
    GracefulRestart(GracefulRestart),
    /// One that this speaker does not know, or a family that it does not speak. At most 255 bytes.
    Other { code: u8, value: Vec<u8> },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// It has restarted, and does not wait for its neighbours' End-of-RIB before it says its own.
    pub restarted: bool,
    /// RFC 8538: it understands that a NOTIFICATION may be a restart too.
    pub notification: bool,
    /// Seconds, up to 4095.
    pub seconds: u16,
    /// Families, and whether forwarding went on while it restarted.
    pub families: Vec<(Family, bool)>,
}

/// What both sides have agreed on, as far as it changes the form of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    pub four_octet_as: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    pub ipv4_over_ipv6: bool,
    /// An external session: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are ignored (RFC 7606, 7.5),
    /// and not written either.
    pub external: bool,
}

/// `withdrawn` comes before `reach`: a prefix in both is reachable (RFC 4271, 4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Those of all that is in `reach`; none where that is empty.
    pub attrs: Option<Attrs>,
    pub reach: Vec<Reach>,
    /// Of any family; those whose attributes were malformed among them (RFC 7606: treat-as-withdraw).
    pub withdrawn: Vec<IpNet>,
    pub end_of_rib: Option<Family>,
    /// What was wrong and yet no reason to end the session, in words: for the log and `weft bgp`.
    pub faults: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    pub next_hop: NextHop,
    pub prefixes: Vec<IpNet>,
}

/// Why a session ends (RFC 4271, 4.5 and 6; RFC 4486, 9003, 9384). `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: Family,
    pub kind: Refresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    Request,
    /// RFC 7313: what was said before and is not said again until the end is to be forgotten.
    Begin,
    End,
}

pub(super) mod kind {
    pub const OPEN: u8 = 1;
    pub const UPDATE: u8 = 2;
    pub const NOTIFICATION: u8 = 3;
    pub const KEEPALIVE: u8 = 4;
    pub const ROUTE_REFRESH: u8 = 5;
}

/// Reads one whole message. The error is the NOTIFICATION that it deserves. A ROUTE-REFRESH of a
/// family that is not spoken is none: it is ignored (RFC 2918, 4).
pub fn read(message: &[u8], agreed: &Agreed) -> Result<Option<Message>, Notification> {
    let Some((header, body)) = message.split_first_chunk::<HEADER>() else {
        return Err(frames::bad_length(message.len()));
    };
    if frames::check(header)? != message.len() {
        return Err(frames::bad_length(message.len()));
    }
    Ok(match header[HEADER - 1] {
        kind::OPEN => Some(Message::Open(open::read(body)?)),
        kind::UPDATE => Some(Message::Update(update::read(body, agreed)?)),
        kind::NOTIFICATION => Some(Message::Notification(Notification::read(body))),
        kind::KEEPALIVE => Some(Message::Keepalive),
        _ => refresh::read(message, body)?.map(Message::RouteRefresh),
    })
}

/// Adds a message to the buffer. An UPDATE becomes as many as it needs; routes whose attributes fit
/// into none are withdrawn (RFC 4271, 9.2).
pub fn write(message: &Message, agreed: &Agreed, buffer: &mut Vec<u8>) {
    let begin = buffer.len();
    match message {
        Message::Open(open) => framed(kind::OPEN, buffer, |out| open::write(open, out)),
        Message::Update(update) => return pack::write(update, agreed, buffer),
        Message::Notification(n) => framed(kind::NOTIFICATION, buffer, |out| n.write(out)),
        Message::Keepalive => framed(kind::KEEPALIVE, buffer, |_| ()),
        Message::RouteRefresh(r) => {
            framed(kind::ROUTE_REFRESH, buffer, |out| refresh::write(*r, out));
        }
    }
    debug_assert!(buffer.len() - begin <= MESSAGE_MAX);
}

/// Header, then what `body` adds, then the length of it all.
fn framed(kind: u8, buffer: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = buffer.len();
    header(kind, buffer);
    body(buffer);
    let length = buffer.len() - begin;
    patch(buffer, begin + 16, length);
}

pub(super) fn header(kind: u8, buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&[0xff; 16]);
    buffer.extend_from_slice(&[0, 0, kind]);
}

/// Writes a 2-byte length where room was left for it.
pub(super) fn patch(buffer: &mut [u8], at: usize, length: usize) {
    let bytes = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    buffer[at..at + 2].copy_from_slice(&bytes);
}

impl Notification {
    pub fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    pub fn with(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: data.to_vec() }
    }

    pub(super) fn update(subcode: u8, data: &[u8]) -> Self {
        Self::with(code::UPDATE, subcode, data)
    }

    /// Its length was checked with the header.
    fn read(body: &[u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self::with(*code, *subcode, data),
            _ => Self::new(0, 0),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let most = MESSAGE_MAX - HEADER - 2;
        out.extend_from_slice(&[self.code, self.subcode]);
        out.extend_from_slice(&self.data[..self.data.len().min(most)]);
    }
}
