//! A type for every string and number that has a rule. Parsed at the edge, trusted inside.

use std::{fmt, net::Ipv6Addr, str::FromStr, sync::Arc};

use ipnet::IpNet;

use serde::{Deserialize, Serialize};

/// A text that broke the rule of its type: what it was, and what the rule is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {rule}")]
pub struct BadName {
    pub text: String,
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident($held:ty), $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name($held);

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let valid: fn(&str) -> bool = $valid;
                if !valid(text) {
                    return Err(BadName { text: text.to_owned(), rule: $rule });
                }
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "maxLength": 253})
            }
        }
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

/// Up to 15 bytes of text in place: a state of thousands of objects names its links as often.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Short {
    // No name has a zero byte, so the order of arrays is that of texts.
    bytes: [u8; 15],
    len: u8,
}

impl From<&str> for Short {
    fn from(text: &str) -> Self {
        let mut bytes = [0; 15];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self { bytes, len: text.len().try_into().expect("checked: at most 15 bytes") }
    }
}
impl std::ops::Deref for Short {
    type Target = str;
    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len.into()]).expect("it was a text")
    }
}
impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

name! {
    /// An interface name the kernel will take (`dev_valid_name` in net/core/dev.c).
    IfName(Short), "an interface name: 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`",
    |s| (1..=15).contains(&s.len())
        && !s.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        && s != "." && s != ".."
}
name! {
    /// A node's name: a DNS subdomain, as Kubernetes names nodes (RFC 1123).
    NodeName(Arc<str>), "a node name: 1 to 253 characters of a-z, 0-9, `-` and `.`, no `-` or `.` at its ends",
    |s| s.len() <= 253 && s.split('.').all(is_label)
}
name! {
    /// A network's name: a DNS label (RFC 1123).
    NetworkName(Arc<str>), "a network name: 1 to 63 characters of a-z, 0-9 and `-`, no `-` at its ends",
    |s| is_label(s)
}

fn is_label(s: &str) -> bool {
    (1..=63).contains(&s.len())
        && s.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !s.starts_with('-')
        && !s.ends_with('-')
}

impl IfName {
    /// What every link of ours begins with in a node's own namespace.
    pub const PREFIX: &str = "weft";

    /// A name that this program wrote itself.
    pub fn new(name: &str) -> Self {
        name.parse().expect("a name this program wrote")
    }

    /// `stem` followed by `name`, or by as much of it as fits and a hash of the whole.
    pub fn derived(stem: &str, name: &str) -> Self {
        const HASH: usize = 5;
        let room = 15 - stem.len();
        if name.len() <= room
            && let Ok(whole) = format!("{stem}{name}").parse()
        {
            return whole;
        }
        let kept: String =
            name.chars().filter(char::is_ascii_alphanumeric).take(room - HASH).collect();
        Self::new(&format!("{stem}{kept}{:0HASH$x}", fnv1a(&[name]) & 0xf_ffff))
    }

    /// The host's end of a pod's link: the same for the same attachment, whoever asks.
    pub fn host_end(network: &str, container: &str, ifname: &str) -> Self {
        let hash = fnv1a(&[network, container, ifname]) >> 20;
        Self::new(&format!("{}{hash:011x}", Self::PREFIX))
    }

    /// What every host's end of a pod's pair of access begins with.
    pub const ACCESS: &str = "weftn";

    /// The host's end of the pair by which a pod reaches its node beside its own link.
    pub fn access_end(network: &str, container: &str, ifname: &str) -> Self {
        let hash = fnv1a(&[network, container, ifname]) >> 24;
        Self::new(&format!("{}{hash:010x}", Self::ACCESS))
    }

    /// One of the names that `host_end` and `access_end` give.
    pub fn is_host_end(&self) -> bool {
        let hash = self.as_str().strip_prefix(Self::PREFIX).unwrap_or_default();
        let hash = hash.strip_prefix('n').filter(|hash| hash.len() == 10).unwrap_or(hash);
        self.as_str().len() == 15 && hash.bytes().all(|b| b.is_ascii_hexdigit())
    }

    /// What a VLAN's device that pods' links are children of begins with.
    pub const VLAN: &str = "weftv-";

    pub fn is_vlan(&self) -> bool {
        self.as_str().starts_with(Self::VLAN)
    }

    pub fn is_ours(&self) -> bool {
        self.as_str().starts_with(Self::PREFIX)
    }
}

/// FNV-1a over the parts, each closed by a zero byte: stable across versions and machines.
pub fn fnv1a(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A unicast, locally administered address that follows from the names (IEEE 802 c).
    pub fn derived(parts: &[&str]) -> Self {
        let [_, _, a, b, c, d, e, f] = fnv1a(parts).to_be_bytes();
        Self([(a & 0xfc) | 0x02, b, c, d, e, f])
    }

    /// The link-local address that the kernel would derive (RFC 4291, appendix A).
    pub fn link_local(&self) -> IpNet {
        let [a, b, c, d, e, f] = self.0;
        let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&id);
        IpNet::new(Ipv6Addr::from(octets).into(), 64).expect("64 is a length of prefixes")
    }

    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
impl FromStr for Mac {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad =
            || BadName { text: text.to_owned(), rule: "a MAC address like 02:00:5e:10:00:01" };
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect::<Option<_>>()
            .ok_or_else(bad)?;
        bytes.try_into().map(Self).map_err(|_| bad())
    }
}
impl TryFrom<String> for Mac {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}
impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $range:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($repr);

        impl $name {
            pub fn get(self) -> $repr {
                self.0
            }
        }
        impl TryFrom<u64> for $name {
            type Error = BadName;
            fn try_from(value: u64) -> Result<Self, BadName> {
                let bad = || BadName { text: value.to_string(), rule: $rule };
                let value = <$repr>::try_from(value).map_err(|_| bad())?;
                if ($range).contains(&value) { Ok(Self(value)) } else { Err(bad()) }
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let (least, most) = ($range).into_inner();
                schemars::json_schema!({"type": "integer", "minimum": least, "maximum": most})
            }
        }
        impl From<$name> for u64 {
            fn from(value: $name) -> u64 {
                value.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

ranged! {
    /// VXLAN network identifier (RFC 7348, section 5: 24 bits). 0 is not ours to use.
    Vni, u32, 1..=0xff_ffff, "a VNI: 1 to 16777215"
}
ranged! {
    /// The largest IP packet, in bytes, that a link or a path takes whole.
    Mtu, u16, 576..=u16::MAX, "an MTU: 576 to 65535 bytes, and at least 1280 for IPv6"
}

impl Mtu {
    pub const ETHERNET: Self = Self(1500);
    /// What every link with IPv6 takes (RFC 8200, section 5).
    pub const IPV6_LEAST: Self = Self(1280);
    pub const MAX: Self = Self(u16::MAX);

    /// What is left for the packet inside when `bytes` go to the envelope.
    pub fn less(self, bytes: u16) -> Self {
        Self(self.0.saturating_sub(bytes).max(576))
    }

    /// As a kernel tells it; a device's MTU may lie outside what we would choose.
    pub fn from_kernel(mtu: u32) -> Self {
        Self(u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        let cases = [
            ("eth0", true),
            ("", false),
            ("a-name-of-15-by", true),
            ("a-name-of-16-byt", false),
            ("a/b", false),
            ("a b", false),
            ("..", false),
            ("eth0:1", false),
        ];
        for (name, good) in cases {
            assert_eq!(name.parse::<IfName>().is_ok(), good, "{name:?}");
        }
    }

    #[test]
    fn derived_names_fit_and_differ() {
        assert_eq!(IfName::derived("weftx4-", "default").as_str(), "weftx4-default");
        let (a, b) = ("storage-replication-a", "storage-replication-b");
        let (a, b) = (IfName::derived("weftb-", a), IfName::derived("weftb-", b));
        assert!(a != b && a.as_str().len() == 15 && a.is_ours(), "{a} {b}");
    }

    #[test]
    fn a_link_local_address_is_the_kernels() {
        let mac: Mac = "02:77:65:66:74:01".parse().unwrap();
        assert_eq!(mac.link_local().to_string(), "fe80::77:65ff:fe66:7401/64");
    }

    #[test]
    fn a_derived_mac_is_local_and_unicast() {
        for n in 0..1000 {
            let mac = Mac::derived(&["node", &n.to_string()]);
            assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac}");
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
        for bad in ["", "02:00", "02:00:00:00:00:zz", "2:0:0:0:0:1", "020000000001"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
