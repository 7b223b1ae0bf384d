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
const CT_GET_STATS: u16 = SUBSYSTEM + 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)` of net/netfilter/nf_internals.h.
const BY_SOURCE: u32 = 1;

/// By protocol and destination port.
const BY_PORT: u32 = 1 << 3 | 1 << 5;
const UDP: u8 = 17;

/// To look for one address's flows the kernel walks its whole table, which all namespaces share, empty
/// or not: that takes as long as to tell so many flows.
const WALK: usize = 1000;
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
    /// Forgets UDP flows to these ports of the namespace's own addresses, but for those that the pod
    /// of these addresses answers. Returns how many there were.
    pub fn forget_udp_to(&self, ports: &BTreeSet<u16>, pod: &[IpAddr]) -> io::Result<usize> {
        if ports.is_empty() {
            return Ok(0);
        }
        let own = self.with(crate::observe::addrs)?;
        let own: BTreeSet<IpAddr> = own.into_iter().map(|at| at.addr.addr()).collect();
        self.with_flows(|socket| {
            let mut flows = Vec::new();
            if count(socket)? == 0 {
                return Ok(0);
            }
            for (ipv4, port) in
                [true, false].into_iter().flat_map(|v| ports.iter().map(move |p| (v, *p)))
            {
                flows.extend(udp_to(socket, ipv4, port, &own, pod)?);
            }
            delete(socket, &flows)
        })
    }

    fn with_flows<T>(
        &self,
        work: impl FnOnce(&mut socket::Link) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut kept = self.flows.lock().expect(POISONED);
        let open = || self.netns.run(|| socket::Link::open(protocols::NETLINK_NETFILTER))?;
        let mut socket = kept.take().map_or_else(open, Ok)?;
        let done = work(&mut socket)?;
        // One whose exchange failed may hold stale answers.
        *kept = Some(socket);
        Ok(done)
    }

    /// Forgets every flow that one of the addresses began or answers. Returns how many there were;
    /// none where nothing is tracked.
    pub fn forget_flows(&self, addrs: &BTreeSet<IpAddr>) -> io::Result<usize> {
        if addrs.is_empty() {
            return Ok(0);
        }
        self.with_flows(|socket| forget(socket, addrs))
    }
}

fn forget(socket: &mut socket::Link, addrs: &BTreeSet<IpAddr>) -> io::Result<usize> {
    let sides = [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY];
    let mut flows = Vec::new();
    match count(socket)? {
        0 => {}
        few if few < WALK * sides.len() * addrs.len() => flows = tracked(socket, addrs, None)?,
        _ => {
            for (addr, side) in addrs.iter().flat_map(|addr| sides.map(|side| (*addr, side))) {
                flows.extend(tracked(socket, addrs, Some((addr, side)))?);
            }
        }
    }
    delete(socket, &flows)
}

/// How many flows are tracked in the socket's namespace.
fn count(socket: &mut socket::Link) -> io::Result<usize> {
    let mut batch = socket.batch();
    batch.begin(CT_GET_STATS, 0, &header(0));
    batch.end();
    let entries = |message: &Message<'_>| {
        let count = value(message, CTA_STATS_GLOBAL_ENTRIES)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(count)).ok()
    };
    // Refused: no connection tracking here, or none that can be asked for.
    Ok(socket.ask(&batch, entries)?.into_iter().flatten().next().unwrap_or(0))
}

fn delete(socket: &mut socket::Link, flows: &[Flow]) -> io::Result<usize> {
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
    or_nothing(found)
}

/// No connection tracking here, or none that can be asked for.
fn or_nothing(found: io::Result<Vec<Flow>>) -> io::Result<Vec<Flow>> {
    match found {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        found => found,
    }
}

/// UDP flows to the port of one of `own`, that none of `pod` answers.
fn udp_to(
    socket: &mut socket::Link,
    ipv4: bool,
    port: u16,
    own: &BTreeSet<IpAddr>,
    pod: &[IpAddr],
) -> io::Result<Vec<Flow>> {
    let of = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    let found = socket.dump(
        CT_GET,
        &header(u8::try_from(of).unwrap_or(0)),
        |batch| {
            batch.nest(CTA_FILTER, |batch| {
                batch.attr_u32(CTA_FILTER_ORIG_FLAGS, BY_PORT);
            });
            batch.nest(CTA_TUPLE_ORIG, |batch| {
                batch.nest(CTA_TUPLE_PROTO, |batch| {
                    batch.attr_u8(CTA_PROTO_NUM, UDP).attr_be16(CTA_PROTO_DST_PORT, port);
                });
            });
        },
        |message| {
            // An older kernel tells all there are.
            let (original, reply) = tuples(message)?;
            let asked =
                destination(original).is_some_and(|(ip, to)| to == port && own.contains(&ip));
            let answered = reply.and_then(source).is_some_and(|addr| pod.contains(&addr));
            (asked && !answered).then(|| named(message)).flatten()
        },
    );
    or_nothing(found)
}

/// Where a UDP tuple goes.
fn destination(tuple: &[u8]) -> Option<(IpAddr, u16)> {
    let nested = |of: u16| wire::attrs(tuple).find(|(kind, _)| *kind == of).map(|(_, value)| value);
    let (ip, proto) = (nested(CTA_TUPLE_IP)?, nested(CTA_TUPLE_PROTO)?);
    let to = |kind: &u16| [CTA_IP_V4_DST, CTA_IP_V6_DST].contains(kind);
    let (_, addr) = wire::attrs(ip).find(|(kind, _)| to(kind))?;
    let of = |of: u16| wire::attrs(proto).find(|(kind, _)| *kind == of).map(|(_, value)| value);
    let port = u16::from_be_bytes(of(CTA_PROTO_DST_PORT)?.try_into().ok()?);
    (of(CTA_PROTO_NUM)? == [UDP]).then_some((wire::ip(addr)?, port))
}

/// The flow of a message, if one of the addresses has a part in it.
fn flow(message: &Message<'_>, addrs: &BTreeSet<IpAddr>) -> Option<Flow> {
    let (original, reply) = tuples(message)?;
    let sources = [Some(original), reply].into_iter().flatten().filter_map(source);
    let ours = sources.into_iter().any(|addr| addrs.contains(&addr));
    ours.then(|| named(message)).flatten()
}

fn value<'a>(message: &Message<'a>, of: u16) -> Option<&'a [u8]> {
    wire::attrs(message.body.get(4..)?).find(|(kind, _)| *kind == of).map(|(_, value)| value)
}

/// How the first packet of a flow was addressed, and how its answers are.
fn tuples<'a>(message: &Message<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    Some((value(message, CTA_TUPLE_ORIG)?, value(message, CTA_TUPLE_REPLY)))
}

fn named(message: &Message<'_>) -> Option<Flow> {
    Some(Flow {
        family: *message.body.first()?,
        original: value(message, CTA_TUPLE_ORIG)?.to_vec(),
        zone: value(message, CTA_ZONE).map(<[u8]>::to_vec),
        id: value(message, CTA_ID).map(<[u8]>::to_vec),
    })
}

/// The source address of a tuple.
fn source(tuple: &[u8]) -> Option<IpAddr> {
    let (_, ip) = wire::attrs(tuple).find(|(kind, _)| *kind == CTA_TUPLE_IP)?;
    let of = |kind: &u16| [CTA_IP_V4_SRC, CTA_IP_V6_SRC].contains(kind);
    let (_, addr) = wire::attrs(ip).find(|(kind, _)| of(kind))?;
    wire::ip(addr)
}
