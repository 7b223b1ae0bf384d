//! Capabilities in an OPEN (RFC 5492). Those that are not known are kept as they came.

use super::{Capability, GracefulRestart, bytes::Bytes, reach};
use crate::attrs::Family;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const GRACEFUL_RESTART: u8 = 64;
const FOUR_OCTET_AS: u8 = 65;
const ENHANCED_ROUTE_REFRESH: u8 = 70;

/// RFC 8950, 4: NLRI AFI 1, SAFI 1, next hop AFI 2.
const IPV4_OVER_IPV6: [u8; 6] = [0, 1, 0, 1, 0, 2];
const RESTARTED: u16 = 0x8000;
/// RFC 8538, 2.
const NOTIFICATION: u16 = 0x4000;
const SECONDS: u16 = 0x0fff;
const FORWARDING: u8 = 0x80;

/// All that one optional parameter holds; none if it is malformed.
pub fn read(parameter: &[u8], into: &mut Vec<Capability>) -> Option<()> {
    let mut rest = Bytes(parameter);
    while !rest.is_empty() {
        let code = rest.u8()?;
        let capability = one(code, rest.sized8()?)?;
        if matches!(capability, Capability::GracefulRestart(_)) {
            // RFC 4724, 3: of several the last one counts.
            into.retain(|other| !matches!(other, Capability::GracefulRestart(_)));
        }
        into.push(capability);
    }
    Some(())
}

fn one(code: u8, value: &[u8]) -> Option<Capability> {
    let other = || Capability::Other { code, value: value.to_vec() };
    let bare = |capability| value.is_empty().then_some(capability);
    match code {
        MULTIPROTOCOL => {
            let &[afi1, afi2, _, safi] = value else { return None };
            let family = reach::family(u16::from_be_bytes([afi1, afi2]), safi);
            Some(family.map_or_else(other, Capability::Multiprotocol))
        }
        ROUTE_REFRESH => bare(Capability::RouteRefresh),
        ENHANCED_ROUTE_REFRESH => bare(Capability::EnhancedRouteRefresh),
        EXTENDED_NEXT_HOP if !value.len().is_multiple_of(6) => None,
        EXTENDED_NEXT_HOP => {
            let ours = value.chunks_exact(6).any(|triple| triple == IPV4_OVER_IPV6);
            Some(if ours { Capability::Ipv4OverIpv6 } else { other() })
        }
        FOUR_OCTET_AS => Some(Capability::FourOctetAs(u32::from_be_bytes(value.try_into().ok()?))),
        GRACEFUL_RESTART => graceful_restart(Bytes(value)).map(Capability::GracefulRestart),
        _ => Some(other()),
    }
}

fn graceful_restart(mut value: Bytes<'_>) -> Option<GracefulRestart> {
    let flags = value.u16()?;
    let mut families: Vec<(Family, bool)> = Vec::new();
    while !value.is_empty() {
        let [afi1, afi2, safi, flags] = value.array()?;
        let family = reach::family(u16::from_be_bytes([afi1, afi2]), safi);
        families.extend(family.map(|family| (family, flags & FORWARDING != 0)));
    }
    Some(GracefulRestart {
        restarted: flags & RESTARTED != 0,
        notification: flags & NOTIFICATION != 0,
        seconds: flags & SECONDS,
        families,
    })
}

/// None: a value that is longer than its length can say.
pub fn write(capability: &Capability) -> Option<Vec<u8>> {
    let (code, value) = match capability {
        Capability::Multiprotocol(family) => {
            (MULTIPROTOCOL, vec![0, reach::afi(*family), 0, reach::UNICAST])
        }
        Capability::RouteRefresh => (ROUTE_REFRESH, Vec::new()),
        Capability::EnhancedRouteRefresh => (ENHANCED_ROUTE_REFRESH, Vec::new()),
        Capability::Ipv4OverIpv6 => (EXTENDED_NEXT_HOP, IPV4_OVER_IPV6.to_vec()),
        Capability::FourOctetAs(asn) => (FOUR_OCTET_AS, asn.to_be_bytes().to_vec()),
        Capability::GracefulRestart(restart) => (GRACEFUL_RESTART, restart_value(restart)),
        Capability::Other { code, value } => (*code, value.clone()),
    };
    let mut bytes = vec![code, u8::try_from(value.len()).ok()?];
    bytes.extend(value);
    Some(bytes)
}

fn restart_value(restart: &GracefulRestart) -> Vec<u8> {
    let mut flags = restart.seconds.min(SECONDS);
    flags |= if restart.restarted { RESTARTED } else { 0 };
    flags |= if restart.notification { NOTIFICATION } else { 0 };
    let mut value = flags.to_be_bytes().to_vec();
    for (family, forwarding) in &restart.families {
        let forwarding = if *forwarding { FORWARDING } else { 0 };
        value.extend([0, reach::afi(*family), reach::UNICAST, forwarding]);
    }
    value
}
