//! The form of messages (RFC 4271, 4), and what is wrong with one that has none. Reads and writes;
//! what a message means is the session's and the tables' business.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use crate::attrs::{Attrs, Family, NextHop};

/// Port of BGP.
pub const PORT: u16 = 179;
/// Bytes of the largest message (RFC 4271, 4.1). RFC 8654's larger ones are not offered.
pub const MESSAGE_MAX: usize = 4096;

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
    /// One that this speaker does not know, or a family that it does not speak.
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
    /// An external session: LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST are ignored (RFC 7606, 7.5).
    pub external: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
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

/// Cuts a stream into messages. Holds at most one message that is not complete.
#[derive(Debug, Default)]
pub struct Frames {}

#[allow(unused_variables)]
impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        todo!()
    }

    /// The next message that is complete, as it came, header and all; the error is what to send to
    /// whom sent no message.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Notification> {
        todo!()
    }
}

/// Reads one whole message. The error is the NOTIFICATION that it deserves. A ROUTE-REFRESH of a
/// family that is not spoken is none: it is ignored (RFC 2918, 4).
#[allow(unused_variables)]
pub fn read(message: &[u8], agreed: &Agreed) -> Result<Option<Message>, Notification> {
    todo!()
}

/// Adds a message to the buffer. An UPDATE that would be too long is a mistake of the caller, who
/// packs by `Packer`.
#[allow(unused_variables)]
pub fn write(message: &Message, agreed: &Agreed, buffer: &mut Vec<u8>) {
    todo!()
}

/// Fills UPDATE messages of one family with prefixes that share attributes and next hop.
pub struct Packer {}

#[allow(unused_variables)]
impl Packer {
    pub fn announce(attrs: &Attrs, next_hop: NextHop, family: Family, agreed: &Agreed) -> Self {
        todo!()
    }
    pub fn withdraw(family: Family) -> Self {
        todo!()
    }
    /// False if there is no room for it: then `finish`, and begin another.
    pub fn add(&mut self, prefix: &IpNet) -> bool {
        todo!()
    }
    /// Adds the message to the buffer; nothing where no prefix was added.
    pub fn finish(self, buffer: &mut Vec<u8>) {
        todo!()
    }
}
