//! Prefixes as they stand in messages: their length in bits, then as many bytes as hold these
//! (RFC 4271, 4.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::attrs::Family;

/// All of a field. None if it is not syntactically correct (RFC 7606, 5.3). Bits behind a prefix's
/// length say nothing and are cleared.
pub fn read(field: &[u8], family: Family) -> Option<Vec<IpNet>> {
    let mut prefixes = Vec::with_capacity(count(field));
    let mut rest = field;
    while let Some((&bits, after)) = rest.split_first() {
        let (bytes, after) = after.split_at_checked(usize::from(bits).div_ceil(8))?;
        prefixes.push(match family {
            Family::Ipv4 => ipv4(bits, bytes)?,
            Family::Ipv6 => ipv6(bits, bytes)?,
        });
        rest = after;
    }
    Some(prefixes)
}

/// How many there are, if they are correct.
fn count(field: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while let Some(&bits) = field.get(at) {
        at += 1 + usize::from(bits).div_ceil(8);
        count += 1;
    }
    count
}

fn ipv4(bits: u8, bytes: &[u8]) -> Option<IpNet> {
    let mut addr = [0; 4];
    addr.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
    let addr = Ipv4Addr::from_bits(u32::from_be_bytes(addr) & mask);
    Ipv4Net::new(addr, bits).ok().map(IpNet::V4)
}

fn ipv6(bits: u8, bytes: &[u8]) -> Option<IpNet> {
    let mut addr = [0; 16];
    addr.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
    let addr = Ipv6Addr::from_bits(u128::from_be_bytes(addr) & mask);
    Ipv6Net::new(addr, bits).ok().map(IpNet::V6)
}

/// Bytes that it takes in a message.
pub fn size(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

pub fn write(prefix: &IpNet, out: &mut Vec<u8>) {
    let bytes = size(prefix) - 1;
    out.push(prefix.prefix_len());
    match prefix {
        IpNet::V4(net) => out.extend_from_slice(&net.network().octets()[..bytes]),
        IpNet::V6(net) => out.extend_from_slice(&net.network().octets()[..bytes]),
    }
}

/// A prefix that no unicast route can have (RFC 4271, 6.3: it is ignored, the session goes on).
pub fn is_senseless(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => matches!(net.network().octets()[0], 127 | 224..),
        IpNet::V6(net) => {
            let addr = net.network();
            addr.is_multicast() || addr.is_unicast_link_local() || addr.is_loopback()
        }
    }
}
