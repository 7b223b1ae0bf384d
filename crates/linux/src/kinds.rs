//! What kind of link a link is (`IFLA_LINKINFO`), written and read: one pair of functions a kind.

use weft_core::{
    attach::{
        VlanId,
        ipvlan::{self, Flag},
        macvlan::Mode,
    },
    name::{IfName, Vni},
    state::Kind,
};

use crate::{
    encode::local_attr,
    uapi::*,
    wire::{self, Batch, u16_at, u32_at},
};

/// Of a link that is made or changed; `lower` is the number of the device that it stands on, or by
/// which a group is joined.
pub(crate) fn write(batch: &mut Batch, kind: &Kind, lower: u32) {
    if let Kind::Vlan { .. } = kind {
        batch.attr_u32(IFLA_LINK, lower);
    }
    batch.nest(IFLA_LINKINFO, |batch| match kind {
        Kind::Vxlan { vni, port, local } => {
            batch.attr(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |batch| {
                batch
                    .attr_u32(IFLA_VXLAN_ID, vni.get())
                    .attr_ip(local_attr(*local), *local)
                    .attr_be16(IFLA_VXLAN_PORT, *port)
                    .attr_u8(IFLA_VXLAN_LEARNING, 0);
            });
        }
        Kind::VxlanGroup { vni, port, local, group, ttl, .. } => {
            let to = if group.is_ipv4() { IFLA_VXLAN_GROUP } else { IFLA_VXLAN_GROUP6 };
            batch.attr(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |batch| {
                batch
                    .attr_u32(IFLA_VXLAN_ID, vni.get())
                    .attr_ip(to, *group)
                    .attr_u32(IFLA_VXLAN_LINK, lower)
                    .attr_u8(IFLA_VXLAN_TTL, *ttl)
                    .attr_ip(local_attr(*local), *local)
                    .attr_be16(IFLA_VXLAN_PORT, *port)
                    .attr_u8(IFLA_VXLAN_LEARNING, 1);
            });
        }
        Kind::Bridge => {
            batch.attr(IFLA_INFO_KIND, b"bridge");
        }
        Kind::Veth => {
            batch.attr(IFLA_INFO_KIND, b"veth");
        }
        Kind::Vlan { id, .. } => {
            batch.attr(IFLA_INFO_KIND, b"vlan").nest(IFLA_INFO_DATA, |batch| {
                batch.attr_u16(IFLA_VLAN_ID, id.get());
            });
        }
        Kind::Macvlan { mode } => macvlan(batch, *mode),
        Kind::Ipvlan { mode, flag } => ipvlan(batch, *mode, *flag),
    });
}

/// By the kernel's name of the kind: what it is, and the number of the device that a group is joined
/// by.
pub(crate) fn read(kind: &str, data: &[u8]) -> (Option<Kind>, Option<u32>) {
    let kind = match kind {
        "vxlan" => return vxlan_kind(data),
        "bridge" => Some(Kind::Bridge),
        "veth" => Some(Kind::Veth),
        "macvlan" => macvlan_kind(data),
        "ipvlan" => ipvlan_kind(data),
        "vlan" => vlan_kind(data),
        _ => None,
    };
    (kind, None)
}

fn ipvlan(batch: &mut Batch, mode: ipvlan::Mode, flag: Flag) {
    batch.attr(IFLA_INFO_KIND, b"ipvlan").nest(IFLA_INFO_DATA, |batch| {
        batch
            .attr_u16(IFLA_IPVLAN_MODE, l3_number(mode))
            .attr_u16(IFLA_IPVLAN_FLAGS, flag_number(flag));
    });
}

/// `enum ipvlan_mode`.
fn l3_number(mode: ipvlan::Mode) -> u16 {
    match mode {
        ipvlan::Mode::L2 => 0,
        ipvlan::Mode::L3 => 1,
        ipvlan::Mode::L3s => 2,
    }
}

/// `IPVLAN_F_PRIVATE` and `IPVLAN_F_VEPA`.
fn flag_number(flag: Flag) -> u16 {
    match flag {
        Flag::Bridge => 0,
        Flag::Private => 1,
        Flag::Vepa => 2,
    }
}

fn macvlan(batch: &mut Batch, mode: Mode) {
    batch.attr(IFLA_INFO_KIND, b"macvlan").nest(IFLA_INFO_DATA, |batch| {
        batch.attr_u32(IFLA_MACVLAN_MODE, mode_number(mode));
    });
}

/// `enum macvlan_mode`.
fn mode_number(mode: Mode) -> u32 {
    match mode {
        Mode::Private => 1,
        Mode::Vepa => 2,
        Mode::Bridge => 4,
        Mode::Passthru => 8,
    }
}

fn macvlan_kind(data: &[u8]) -> Option<Kind> {
    let (_, mode) = wire::attrs(data).find(|(kind, _)| *kind == IFLA_MACVLAN_MODE)?;
    let mode = u32_at(mode, 0)?;
    let modes = [Mode::Private, Mode::Vepa, Mode::Bridge, Mode::Passthru];
    let mode = modes.into_iter().find(|known| mode_number(*known) == mode)?;
    Some(Kind::Macvlan { mode })
}

fn ipvlan_kind(data: &[u8]) -> Option<Kind> {
    let of = |attr: u16| {
        let (_, value) = wire::attrs(data).find(|(kind, _)| *kind == attr)?;
        u16_at(value, 0)
    };
    let (mode, flag) = (of(IFLA_IPVLAN_MODE)?, of(IFLA_IPVLAN_FLAGS)?);
    let modes = [ipvlan::Mode::L2, ipvlan::Mode::L3, ipvlan::Mode::L3s];
    let mode = modes.into_iter().find(|known| l3_number(*known) == mode)?;
    let flags = [Flag::Bridge, Flag::Private, Flag::Vepa];
    let flag = flags.into_iter().find(|known| flag_number(*known) == flag)?;
    Some(Kind::Ipvlan { mode, flag })
}

/// The device below it is named once all links are known.
fn vlan_kind(data: &[u8]) -> Option<Kind> {
    let (_, id) = wire::attrs(data).find(|(kind, _)| *kind == IFLA_VLAN_ID)?;
    let id = VlanId::try_from(u64::from(u16_at(id, 0)?)).ok()?;
    Some(Kind::Vlan { lower: IfName::new("?"), id })
}

/// What a VXLAN device is, and the number of the device that it stands on.
fn vxlan_kind(data: &[u8]) -> (Option<Kind>, Option<u32>) {
    let (mut vni, mut port, mut local) = (None, None, None);
    let (mut group, mut ttl, mut lower) = (None, 0, None);
    for (kind, value) in wire::attrs(data) {
        match kind {
            IFLA_VXLAN_ID => {
                vni = u32_at(value, 0).and_then(|vni| Vni::try_from(u64::from(vni)).ok())
            }
            IFLA_VXLAN_PORT => port = u16_at(value, 0).map(u16::from_be),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = wire::ip(value),
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => group = wire::ip(value),
            IFLA_VXLAN_TTL => ttl = value.first().copied().unwrap_or(0),
            IFLA_VXLAN_LINK => lower = u32_at(value, 0),
            _ => {}
        }
    }
    let (Some(vni), Some(port), Some(local)) = (vni, port, local) else { return (None, lower) };
    let kind = match group {
        Some(group) => {
            // Named once all links are known.
            let lower = IfName::new("?");
            Kind::VxlanGroup { vni, port, local, group, ttl, lower }
        }
        None => Kind::Vxlan { vni, port, local },
    };
    (Some(kind), lower)
}
