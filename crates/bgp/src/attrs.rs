//! What is known of a route: its path attributes (RFC 4271, 5; RFC 1997, 4456, 8092), and where it
//! leads.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod text;

pub use text::NoSuchText;

/// An address family, each with unicast routes alone (RFC 4760: AFI 1 and 2, SAFI 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub fn of(prefix: &IpNet) -> Self {
        if prefix.addr().is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if *self == Self::Ipv4 { "ipv4" } else { "ipv6" })
    }
}

/// In the order in which they are preferred (RFC 4271, 9.1.2.2 b).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    Set(Vec<u32>),
    Sequence(Vec<u32>),
    ConfedSequence(Vec<u32>),
    ConfedSet(Vec<u32>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// How long it is for the choice of the best (RFC 4271, 9.1.2.2 a; RFC 5065, 5.3): a set is one
    /// AS, a confederation none.
    pub fn length(&self) -> usize {
        let of = |segment: &Segment| match segment {
            Segment::Sequence(numbers) => numbers.len(),
            Segment::Set(_) => 1,
            Segment::ConfedSequence(_) | Segment::ConfedSet(_) => 0,
        };
        self.0.iter().map(of).sum()
    }

    /// Behind what is there; two sequences become one.
    pub fn append(&mut self, segment: Segment) {
        match (self.0.last_mut(), segment) {
            (Some(Segment::Sequence(last)), Segment::Sequence(more))
            | (Some(Segment::ConfedSequence(last)), Segment::ConfedSequence(more)) => {
                last.extend(more);
            }
            (_, segment) => self.0.push(segment),
        }
    }
}

/// An address that packets are sent to next. The second of an IPv6 one is its link-local address
/// (RFC 2545, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    V4(Ipv4Addr),
    V6(Ipv6Addr, Option<Ipv6Addr>),
}

impl NextHop {
    pub fn addr(self) -> IpAddr {
        match self {
            Self::V4(addr) => addr.into(),
            Self::V6(addr, _) => addr.into(),
        }
    }
}

/// Path attributes, the next hop aside. Kept once for all routes that have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attrs {
    pub origin: Origin,
    pub as_path: AsPath,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(u32, Ipv4Addr)>,
    pub communities: Vec<Community>,
    pub large_communities: Vec<LargeCommunity>,
    pub originator: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// Optional transitive ones that this speaker does not know, passed on with `partial` set.
    pub others: Vec<Other>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Other {
    pub code: u8,
    pub partial: bool,
    pub value: Vec<u8>,
}

/// RFC 1997. Written `64512:100`, or by the name of a well-known one (`no-export`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    pub const BLACKHOLE: Self = Self(0xffff_029a);
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
}

/// RFC 8092. Written `64512:1:2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);
