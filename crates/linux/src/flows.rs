//! Connection tracking of one namespace (include/uapi/linux/netfilter/nfnetlink_conntrack.h): what is
//! remembered of an address is forgotten before another pod has it.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_sys::protocols;

use crate::{
    kernel::{Kernel, POISONED},
    socket,
    uapi::family,
    wire::{self, Message},
};

const SUBSYSTEM: u16 = 1 << 8;
const CT_GET: u16 = SUBSYSTEM + 1;
const CT_DELETE: u16 = SUBSYSTEM + 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)` of net/netfilter/nf_internals.h.
const BY_SOURCE: u32 = 1;

/// Up to here the kernel is asked for each address's flows, beyond for all there are.
const ONE_BY_ONE: usize = 8;
/// Flows forgotten in one send.
const AT_ONCE: usize = 256;

/// One entry, as it is named to be deleted: attributes as the kernel gave them.
struct Flow {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

impl Kernel {
    /// Forgets every flow that one of the addresses began or answers. Returns how many there were;
    /// none where nothing is tracked.
    pub fn forget_flows(&self, addrs: &BTreeSet<IpAddr>) -> io::Result<usize> {
        if addrs.is_empty() {
            return Ok(0);
        }
        let mut kept = self.flows.lock().expect(POISONED);
        let open = || self.netns.run(|| socket::Link::open(protocols::NETLINK_NETFILTER))?;
        let mut socket = kept.take().map_or_else(open, Ok)?;
        let forgotten = forget(&mut socket, addrs)?;
        // One whose exchange failed may hold stale answers.
        *kept = Some(socket);
        Ok(forgotten)
    }
}

fn forget(socket: &mut socket::Link, addrs: &BTreeSet<IpAddr>) -> io::Result<usize> {
    let mut flows = Vec::new();
    if addrs.len() > ONE_BY_ONE {
        flows = tracked(socket, addrs, None)?;
    } else {
        for addr in addrs {
            for side in [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY] {
                flows.extend(tracked(socket, addrs, Some((*addr, side)))?);
            }
        }
    }
    for some in flows.chunks(AT_ONCE) {
        let mut batch = socket.batch();
        for flow in some {
            batch.begin(CT_DELETE, 0, &header(flow.family));
            batch.nest(CTA_TUPLE_ORIG, |batch| {
                batch.raw(&flow.original);
            });
            for (kind, value) in [(CTA_ZONE, &flow.zone), (CTA_ID, &flow.id)] {
                if let Some(value) = value {
                    batch.attr(kind, value);
                }
            }
            batch.end();
        }
        // One that has ended meanwhile is as good.
        let refused = socket.send(batch)?.into_iter().find(|answer| answer.errno != libc::ENOENT);
        if let Some(answer) = refused {
            return Err(io::Error::from_raw_os_error(answer.errno));
        }
    }
    Ok(flows.len())
}

/// `struct nfgenmsg`.
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Flows of the addresses; `only` spares the kernel telling those that another address began (or, of
/// tuple reply, answers).
fn tracked(
    socket: &mut socket::Link,
    addrs: &BTreeSet<IpAddr>,
    only: Option<(IpAddr, u16)>,
) -> io::Result<Vec<Flow>> {
    let of = only.map_or(0, |(addr, _)| family(addr));
    let found = socket.dump(
        CT_GET,
        &header(of),
        |batch| {
            let Some((addr, side)) = only else { return };
            let flags = match side {
                CTA_TUPLE_ORIG => CTA_FILTER_ORIG_FLAGS,
                _ => CTA_FILTER_REPLY_FLAGS,
            };
            let kind = if addr.is_ipv4() { CTA_IP_V4_SRC } else { CTA_IP_V6_SRC };
            batch.nest(CTA_FILTER, |batch| {
                batch.attr_u32(flags, BY_SOURCE);
            });
            batch.nest(side, |batch| {
                batch.nest(CTA_TUPLE_IP, |batch| {
                    batch.attr_ip(kind, addr);
                });
            });
        },
        |message| flow(message, addrs),
    );
    match found {
        // No connection tracking here, or none that can be asked for.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        found => found,
    }
}

/// The flow of a message, if one of the addresses has a part in it.
fn flow(message: &Message<'_>, addrs: &BTreeSet<IpAddr>) -> Option<Flow> {
    let body = message.body.get(4..)?;
    let value = |of: u16| wire::attrs(body).find(|(kind, _)| *kind == of).map(|(_, value)| value);
    let original = value(CTA_TUPLE_ORIG)?;
    let sources = [Some(original), value(CTA_TUPLE_REPLY)].into_iter().flatten().filter_map(source);
    let ours = sources.into_iter().any(|addr| addrs.contains(&addr));
    ours.then(|| Flow {
        family: message.body[0],
        original: original.to_vec(),
        zone: value(CTA_ZONE).map(<[u8]>::to_vec),
        id: value(CTA_ID).map(<[u8]>::to_vec),
    })
}

/// The source address of a tuple.
fn source(tuple: &[u8]) -> Option<IpAddr> {
    let (_, ip) = wire::attrs(tuple).find(|(kind, _)| *kind == CTA_TUPLE_IP)?;
    let of = |kind: &u16| [CTA_IP_V4_SRC, CTA_IP_V6_SRC].contains(kind);
    let (_, addr) = wire::attrs(ip).find(|(kind, _)| of(kind))?;
    wire::ip(addr)
}
