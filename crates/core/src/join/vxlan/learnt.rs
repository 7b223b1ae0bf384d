//! The routed tunnel without a control plane: the whole range is on-link on the VTEP, each node
//! answers ARP and ND there for its own pods, and who has which MAC is learnt.

use super::{Group, Vtep, hold, tunnel_address};
use crate::{
    attach::Ground,
    state::{Hop, Kind, Knob, Link, Object, Route, State},
};

/// The tunnel's link as one that joins a group; none where this node can't.
pub fn link(link: Link, vtep: Vtep, group: &Group, on: &Ground<'_>) -> Option<Link> {
    let (local, vni, port, _) = vtep;
    let nic = on.nics.iter().find(|nic| nic.addr.addr() == local).map(|nic| nic.dev.clone());
    // Without its device the group can't be joined; the address is about to go too.
    let lower = group.device.clone().or(nic)?;
    let (group, ttl) = (group.addr, group.ttl);
    Some(Link { kind: Kind::VxlanGroup { vni, port, local, group, ttl, lower }, ..link })
}

pub fn hold_routed(vtep: Vtep, group: &Group, on: &Ground<'_>) -> State {
    let Some(link) = link(super::link(vtep, on.wire), vtep, group, on) else {
        return State::default();
    };
    let mut state = hold(vtep, on);
    let dev = link.dev.clone();
    state.put(Object::Link(link));
    // Who forwards asks from a link-local address or not at all (ndisc_send_ns); who answers for
    // others waits up to 0.8 s by default (proxy_delay).
    let knobs = [
        (Knob::ProxyNdp(dev.clone()), 1),
        (Knob::ProxyDelay4(dev.clone()), 0),
        (Knob::ProxyDelay6(dev.clone()), 0),
    ];
    state.extend(knobs.map(|(knob, value)| Object::Sysctl { knob, value }));
    state.put(Object::Addr { dev: dev.clone(), addr: vtep.3.link_local() });
    for range in on.ranges {
        let own = on.blocks.iter().find(|block| range.contains(*block)).map(tunnel_address);
        state.extend(own.map(|own| {
            let to = Hop::From(dev.clone(), own);
            Object::Route(Route { dst: *range, to, mtu: Some(on.send) })
        }));
    }
    state
}
