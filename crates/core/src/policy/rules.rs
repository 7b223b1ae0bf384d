//! What our nftables table says, as a closed list of shapes. The kernel crate knows how each is
//! spelt in expressions; nothing else may appear in the table.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::IfName;

const ACCESS: &str = IfName::ACCESS;

/// The whole table. Order within a chain is the order of evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// `prerouting` and `output`, hook priority raw: before connection tracking.
    pub raw: Vec<Rule>,
    /// `forward`, hook priority filter.
    pub forward: Vec<Rule>,
    /// `postrouting`, type nat, priority srcnat.
    pub nat: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Packets between these prefixes are not tracked: no NAT can ever concern them.
    NoTrack { from: IpNet, to: IpNet },
    /// Nor are packets to this UDP port: a tunnel's own, which nobody translates.
    NoTrackPort { port: u16 },
    /// Nobody of this prefix sends to this UDP port: a VTEP takes what is in a tunnel's packet for the
    /// word of a node, whoever sent it.
    NoTunnel { from: IpNet, port: u16 },
    /// Packets from and to these prefixes keep their source address; before tracking, they are
    /// tracked whatever the rules behind say.
    Keep { from: IpNet, to: IpNet },
    /// Whatever else leaves `from` takes the address of the interface it leaves by, multicast
    /// and broadcast too unless a rule before keeps them.
    Masquerade { from: IpNet },
    /// What comes in by one pair of access does not go out by another, between two addresses of
    /// this prefix: not at all, or unless a Service led it there.
    Apart { range: IpNet, unless_translated: bool },
    /// Whatever comes in by a pair of access takes an address of the node.
    MasqueradeAccess,
    /// What a Service led to a pod's pair of access takes an address of the node: to any other the pod
    /// would answer by its network.
    MasqueradeLed,
    /// What came in by this bridge, and goes out by it again to where a Service led it, takes an
    /// address of the node.
    MasqueradeBack { dev: IfName },
}

/// As `nft` writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |net: &IpNet| if net.addr().is_ipv4() { "ip" } else { "ip6" };
        match self {
            Self::NoTrack { from, to } => {
                write!(f, "{0} saddr {from} {0} daddr {to} notrack", family(from))
            }
            Self::NoTrackPort { port } => write!(f, "udp dport {port} notrack"),
            Self::NoTunnel { from, port } => {
                write!(f, "udp dport {port} {} saddr {from} drop", family(from))
            }
            Self::Keep { from, to } => {
                write!(f, "{0} saddr {from} {0} daddr {to} return", family(from))
            }
            Self::Masquerade { from } => write!(f, "{} saddr {from} masquerade", family(from)),
            Self::Apart { range, unless_translated } => {
                let ip = family(range);
                let unless = if *unless_translated { " ct status ! dnat" } else { "" };
                write!(f, "iifname \"{ACCESS}*\" oifname \"{ACCESS}*\" ")?;
                write!(f, "{ip} saddr {range} {ip} daddr {range}{unless} drop")
            }
            Self::MasqueradeAccess => write!(f, "iifname \"{ACCESS}*\" masquerade"),
            Self::MasqueradeLed => {
                write!(f, "oifname \"{ACCESS}*\" ct status dnat masquerade")
            }
            Self::MasqueradeBack { dev } => {
                write!(f, "iifname \"{dev}\" oifname \"{dev}\" ct status dnat masquerade")
            }
        }
    }
}
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, rules: &[Rule]| {
            write!(f, "chain {name} {{ ")?;
            rules.iter().try_for_each(|rule| write!(f, "{rule}; "))?;
            f.write_str("}")
        };
        f.write_str("{ ")?;
        list(f, "raw", &self.raw)?;
        f.write_str(" ")?;
        if !self.forward.is_empty() {
            list(f, "forward", &self.forward)?;
            f.write_str(" ")?;
        }
        list(f, "nat", &self.nat)?;
        f.write_str(" }")
    }
}
