//! OPEN: what we offer, and what is agreed when the other side's has come (RFC 4271, 4.2 and 6.2;
//! RFC 5492).

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::neighbour::Context;
use crate::{
    attrs::Family,
    config::Neighbour,
    wire::{Agreed, Capability, GracefulRestart, Notification, Open, code, open_error},
};

/// Seconds that 12 bits hold (RFC 4724, 3).
const RESTART_MAX: u64 = 4095;

/// What two OPENs agree on.
#[derive(Clone, Debug)]
pub struct Terms {
    pub router_id: Ipv4Addr,
    /// Seconds; 0: no keepalives and no hold timer.
    pub hold_time: u16,
    pub families: BTreeSet<Family>,
    pub agreed: Agreed,
    pub route_refresh: bool,
    pub enhanced_refresh: bool,
    /// What it says of graceful restart, if we offered it too.
    pub graceful: Option<GracefulRestart>,
    /// It wants to be told when it was told everything.
    pub end_of_rib: bool,
}

/// Why its OPEN is not taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub notification: Notification,
    pub words: String,
}

/// `preserved`: packets to our routes went on being forwarded since our last session with it.
pub fn ours(config: &Neighbour, preserved: bool, cx: &Context) -> Open {
    let mut capabilities: Vec<_> =
        config.families.iter().map(|&family| Capability::Multiprotocol(family)).collect();
    capabilities.push(Capability::RouteRefresh);
    // FRR answers none before it has said End-of-RIB, and that it says with graceful restart alone.
    if config.graceful_restart.is_some() {
        capabilities.push(Capability::EnhancedRouteRefresh);
    }
    if config.families.contains(&Family::Ipv4) {
        capabilities.push(Capability::Ipv4OverIpv6);
    }
    capabilities.push(Capability::FourOctetAs(config.local_as));
    if let Some(time) = config.graceful_restart {
        // RFC 8538 is not offered: between nodes a NOTIFICATION means what it says, and a hold timer
        // that expires is a death, after which nobody should be sent packets.
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted: cx.restarting,
            notification: false,
            seconds: u16::try_from(time.as_secs().min(RESTART_MAX)).unwrap_or(u16::MAX),
            families: config.families.iter().map(|&family| (family, preserved)).collect(),
        }));
    }
    Open {
        asn: config.local_as,
        hold_time: config.hold_time,
        router_id: cx.router_id,
        capabilities,
    }
}

/// Its form is right: the codec has looked at it.
pub fn judge(config: &Neighbour, our_id: Ipv4Addr, open: &Open) -> Result<Terms, Refusal> {
    who_it_is(config, our_id, open)?;
    let families = families(config, open)?;
    let has = |wanted: &Capability| open.capabilities.contains(wanted);
    let ipv4 = families.contains(&Family::Ipv4);
    let agreed = Agreed {
        four_octet_as: open.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_))),
        ipv4,
        ipv6: families.contains(&Family::Ipv6),
        ipv4_over_ipv6: ipv4 && has(&Capability::Ipv4OverIpv6),
        external: config.local_as != config.remote_as,
    };
    let graceful = open.capabilities.iter().find_map(|c| match c {
        Capability::GracefulRestart(restart) => Some(restart),
        _ => None,
    });
    let route_refresh = has(&Capability::RouteRefresh);
    let enhanced_refresh = route_refresh
        && config.graceful_restart.is_some()
        && has(&Capability::EnhancedRouteRefresh);
    Ok(Terms {
        router_id: open.router_id,
        hold_time: config.hold_time.min(open.hold_time),
        families,
        agreed,
        route_refresh,
        enhanced_refresh,
        graceful: graceful.filter(|_| config.graceful_restart.is_some()).cloned(),
        end_of_rib: graceful.is_some(),
    })
}

fn who_it_is(config: &Neighbour, our_id: Ipv4Addr, open: &Open) -> Result<(), Refusal> {
    if open.asn != config.remote_as {
        let (expected, says) = (config.remote_as, open.asn);
        return Err(refusal(
            open_error::BAD_PEER_AS,
            format!("wrong AS: expected {expected}, it says {says}"),
        ));
    }
    // An identifier is unique inside an AS, and need not be beyond (RFC 6286).
    let internal = config.local_as == config.remote_as;
    if internal && open.router_id == our_id {
        let words = format!("it has the router id of this node, {our_id}: change one of them");
        return Err(refusal(open_error::BAD_IDENTIFIER, words));
    }
    Ok(())
}

fn families(config: &Neighbour, open: &Open) -> Result<BTreeSet<Family>, Refusal> {
    let spoken = open.capabilities.iter().filter_map(|c| match c {
        Capability::Multiprotocol(family) => Some(*family),
        _ => None,
    });
    let spoken: BTreeSet<_> = spoken.collect();
    let foreign = |c: &Capability| matches!(c, Capability::Other { code: MULTIPROTOCOL, .. });
    let silent = spoken.is_empty() && !open.capabilities.iter().any(foreign);
    // One that says nothing speaks IPv4 (RFC 4760, 8).
    let spoken = if silent { BTreeSet::from([Family::Ipv4]) } else { spoken };
    let common: BTreeSet<_> = config.families.intersection(&spoken).copied().collect();
    if !common.is_empty() {
        return Ok(common);
    }
    let words = format!(
        "no address family in common: here {}, there {}",
        list(&config.families),
        list(&spoken)
    );
    let data = config.families.iter().flat_map(|&family| multiprotocol(family)).collect();
    Err(Refusal {
        notification: Notification { code: code::OPEN, subcode: open_error::CAPABILITY, data },
        words,
    })
}

const MULTIPROTOCOL: u8 = 1;

/// The capability as it would have to be in its OPEN (RFC 5492, 5).
fn multiprotocol(family: Family) -> [u8; 6] {
    let afi = if family == Family::Ipv4 { 1 } else { 2 };
    [MULTIPROTOCOL, 4, 0, afi, 0, 1]
}

fn list(families: &BTreeSet<Family>) -> String {
    let names: Vec<_> = families.iter().map(ToString::to_string).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn refusal(subcode: u8, words: String) -> Refusal {
    Refusal { notification: Notification { code: code::OPEN, subcode, data: vec![] }, words }
}
