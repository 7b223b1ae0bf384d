//! Token buckets on links (include/uapi/linux/pkt_sched.h, net/sched/sch_tbf.c): ours are known by the
//! handle.

use std::{collections::BTreeMap, io};

use weft_core::{bandwidth::Limit, name::IfName, state::Object};

use crate::{
    socket,
    uapi::*,
    wire::{self, Batch, Message, u32_at},
};

/// "we" in ASCII, as the handle of a root.
const HANDLE: u32 = 0x7765_0000;
const ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const ETHERNET: u8 = 1;
/// `struct tc_ratespec`, and where the rate stands in it.
const RATESPEC: usize = 12;
const RATE_AT: usize = 8;
/// Where `struct tc_tbf_qopt` has its queue and its bucket, and its length.
const LIMIT_AT: usize = 2 * RATESPEC;
const BUFFER_AT: usize = LIMIT_AT + 4;
const QOPT: usize = BUFFER_AT + 8;
/// Nanoseconds of the kernel's tick (`PSCHED_TICKS2NS`).
const TICK: u64 = 64;

/// `struct tcmsg`.
fn tcmsg(index: u32, handle: u32, parent: u32) -> [u8; 20] {
    let mut body = [0; 20];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&handle.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    body
}

pub(crate) fn put(batch: &mut Batch, index: u32, limit: &Limit) {
    let mut qopt = [0; QOPT];
    qopt[1] = ETHERNET;
    let rate = u32::try_from(limit.rate).unwrap_or(u32::MAX);
    qopt[RATE_AT..RATESPEC].copy_from_slice(&rate.to_ne_bytes());
    qopt[LIMIT_AT..BUFFER_AT].copy_from_slice(&limit.queue().to_ne_bytes());
    batch
        .begin(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, &tcmsg(index, HANDLE, ROOT))
        .attr_str(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS, |batch| {
            batch.attr(TCA_TBF_PARMS, &qopt).attr_u32(TCA_TBF_BURST, limit.burst);
            if limit.rate > u64::from(u32::MAX) {
                batch.attr(TCA_TBF_RATE64, &limit.rate.to_ne_bytes());
            }
        })
        .end();
}

pub(crate) fn take(batch: &mut Batch, index: u32) {
    batch.begin(RTM_DELQDISC, 0, &tcmsg(index, HANDLE, ROOT)).end();
}

/// Those of ours on links that `names` knows.
pub(crate) fn all(
    socket: &mut socket::Link,
    names: &BTreeMap<u32, IfName>,
) -> io::Result<Vec<Object>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let dump = socket.dump(RTM_GETQDISC, &tcmsg(0, 0, 0), |_| {}, |message| one(message, names));
    match dump {
        // A kernel without any.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        dump => dump,
    }
}

fn one(message: &Message<'_>, names: &BTreeMap<u32, IfName>) -> Option<Object> {
    let (index, handle, parent) =
        (u32_at(message.body, 4)?, u32_at(message.body, 8)?, u32_at(message.body, 12)?);
    let of = |body: &'_ [u8], of: u16| -> Option<Vec<u8>> {
        wire::attrs(body).find(|(kind, _)| *kind == of).map(|(_, value)| value.to_vec())
    };
    let body = message.body.get(20..)?;
    let ours = (handle, parent) == (HANDLE, ROOT) && wire::text(&of(body, TCA_KIND)?) == "tbf";
    let options = ours.then(|| of(body, TCA_OPTIONS)).flatten()?;
    let qopt = of(&options, TCA_TBF_PARMS)?;
    let large = of(&options, TCA_TBF_RATE64).and_then(|rate| rate.try_into().ok());
    let rate = match large {
        Some(rate) => u64::from_ne_bytes(rate),
        None => u32_at(&qopt, RATE_AT)?.into(),
    };
    let limit = Limit::of_queue(rate, u32_at(&qopt, LIMIT_AT)?);
    let whole = near(u32_at(&qopt, BUFFER_AT)?.into(), ticks(&limit));
    // One whose bucket is another's differs from whatever is wanted.
    let limit = if whole { limit } else { Limit { burst: 0, ..limit } };
    Some(Object::Shaped { dev: names.get(&index)?.clone(), limit })
}

/// How long the bucket takes to fill, as the kernel counts.
fn ticks(limit: &Limit) -> u64 {
    u64::from(limit.burst) * 1_000_000_000 / limit.rate.max(1) / TICK
}

/// As near as rounding leaves it.
fn near(is: u64, wanted: u64) -> bool {
    is.abs_diff(wanted) <= 2 + wanted / 100
}
