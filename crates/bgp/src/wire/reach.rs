//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760, 3 and 4), with next hops of either family
//! (RFC 2545, 3; RFC 8950, 3).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    Agreed,
    attribute::{self, Malformed},
    bytes::Bytes,
    notification::update_error as error,
    prefix,
};
use crate::attrs::{Family, NextHop};

pub const UNICAST: u8 = 1;

pub fn family(afi: u16, safi: u8) -> Option<Family> {
    match (afi, safi) {
        (1, UNICAST) => Some(Family::Ipv4),
        (2, UNICAST) => Some(Family::Ipv6),
        _ => None,
    }
}

/// Fits into one byte in both cases.
pub fn afi(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    }
}

pub fn agreed_on(agreed: &Agreed, family: Family) -> bool {
    match family {
        Family::Ipv4 => agreed.ipv4,
        Family::Ipv6 => agreed.ipv6,
    }
}

#[derive(Debug)]
pub struct MpReach {
    pub next_hop: Result<NextHop, Malformed>,
    pub prefixes: Vec<IpNet>,
}

/// None: a family that was not agreed on; it is ignored.
pub fn read_reach(value: &[u8], agreed: &Agreed) -> Result<Option<MpReach>, Malformed> {
    if value.len() < 5 {
        return Err(attribute::wrong_length(value));
    }
    let mut rest = Bytes(value);
    let Some(family) = read_family(&mut rest, agreed)? else { return Ok(None) };
    let next_hop = rest.sized8().ok_or_else(|| malformed("a next hop beyond its end"))?;
    let next_hop = read_next_hop(next_hop, family, agreed)?;
    rest.u8().ok_or_else(|| malformed("no byte behind the next hop"))?;
    let prefixes = prefix::read(rest.0, family).ok_or_else(no_prefix)?;
    Ok(Some(MpReach { next_hop, prefixes }))
}

/// None: a family that was not agreed on; it is ignored.
pub fn read_unreach(
    value: &[u8],
    agreed: &Agreed,
) -> Result<Option<(Family, Vec<IpNet>)>, Malformed> {
    if value.len() < 3 {
        return Err(attribute::wrong_length(value));
    }
    let mut rest = Bytes(value);
    let Some(family) = read_family(&mut rest, agreed)? else { return Ok(None) };
    let prefixes = prefix::read(rest.0, family).ok_or_else(no_prefix)?;
    Ok(Some((family, prefixes)))
}

fn read_family(rest: &mut Bytes<'_>, agreed: &Agreed) -> Result<Option<Family>, Malformed> {
    let (Some(afi), Some(safi)) = (rest.u16(), rest.u8()) else {
        return Err(malformed("no family"));
    };
    Ok(family(afi, safi).filter(|family| agreed_on(agreed, *family)))
}

/// Of a wrong length: the prefixes behind it can't be found (RFC 7606, 7.11), which is the outer
/// error. The inner one is an address that no host can have.
fn read_next_hop(
    bytes: &[u8],
    family: Family,
    agreed: &Agreed,
) -> Result<Result<NextHop, Malformed>, Malformed> {
    let over_ipv6 = family == Family::Ipv6 || agreed.ipv4_over_ipv6;
    match bytes.len() {
        4 if family == Family::Ipv4 => Ok(attribute::next_hop(bytes).map(NextHop::V4)),
        16 | 32 if over_ipv6 => Ok(ipv6_next_hop(bytes)),
        length => Err(malformed(&format!("a next hop of {length} bytes for {family}"))),
    }
}

/// Some send `::` and the link-local address behind it; and a second one that is not link-local
/// says nothing.
fn ipv6_next_hop(bytes: &[u8]) -> Result<NextHop, Malformed> {
    let mut bytes = Bytes(bytes);
    let first = bytes.array::<16>().map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from);
    let second = bytes.array::<16>().map(Ipv6Addr::from);
    let second = second.filter(Ipv6Addr::is_unicast_link_local);
    let (addr, link_local) = match second {
        Some(second) if first.is_unspecified() => (second, None),
        _ => (first, second),
    };
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() {
        return Err(Malformed::new(error::OPTIONAL, &format!("{addr} is no host's address")));
    }
    Ok(NextHop::V6(addr, link_local))
}

fn malformed(why: &str) -> Malformed {
    Malformed::new(error::OPTIONAL, why)
}

fn no_prefix() -> Malformed {
    malformed("a prefix that is too long or beyond its end")
}

/// Up to where the prefixes begin.
pub fn write_reach(family: Family, next_hop: NextHop, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, afi(family), UNICAST]);
    match (family, next_hop) {
        (Family::Ipv4, NextHop::V4(addr)) => write_next_hop(&addr.octets(), &[], out),
        (Family::Ipv6, NextHop::V4(addr)) => write_next_hop(&mapped(addr), &[], out),
        (_, NextHop::V6(addr, None)) => write_next_hop(&addr.octets(), &[], out),
        (_, NextHop::V6(addr, Some(local))) => {
            write_next_hop(&addr.octets(), &local.octets(), out);
        }
    }
    out.push(0);
}

fn mapped(addr: Ipv4Addr) -> [u8; 16] {
    addr.to_ipv6_mapped().octets()
}

fn write_next_hop(first: &[u8], second: &[u8], out: &mut Vec<u8>) {
    out.push(if second.is_empty() { 0 } else { 16 } + if first.len() == 4 { 4 } else { 16 });
    out.extend_from_slice(first);
    out.extend_from_slice(second);
}
