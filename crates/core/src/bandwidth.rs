//! How much a pod may send and receive (the runtime's capability `bandwidth`), as token buckets on
//! the two ends of its link.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    attachment::Attachment,
    state::{Object, State},
};

/// As the runtime asks for it, seen from the pod: it receives by `ingress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Limit>,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once.
    pub burst: u32,
}

/// A bucket holds one packet of the largest kind at least, whatever was asked for, and some
/// milliseconds of its rate where nothing was: a smaller one is empty before it is filled again.
const BURST_LEAST: u64 = 64 * 1024;
const BURSTS_A_SECOND: u64 = 50;
/// In bits a second: less fills no bucket within the kernel's reckoning, nor can Kubernetes ask for it.
pub const LEAST_RATE: u64 = 1000;
/// How many seconds a bucket takes to fill at most: the kernel's reckoning ends at 274.
const FILLS_WITHIN: u64 = 200;
/// What containerd and CRI-O say where nobody has asked for a burst, in bits.
const ANY_BURST: u64 = i32::MAX as u64;
/// How long a packet waits at most behind a full bucket.
const WAITS_A_SECOND: u64 = 40;

impl Limit {
    /// Of bits a second, and bits at once; no burst, or one without bounds, is ours to choose.
    pub fn of_bits(rate: u64, burst: u64) -> Option<Self> {
        if rate < LEAST_RATE {
            return None;
        }
        let rate = rate / 8;
        let asked = Some(burst).filter(|burst| (1..ANY_BURST).contains(burst));
        let burst = asked.map_or(rate / BURSTS_A_SECOND, |bits| bits / 8).max(BURST_LEAST);
        let most = rate.saturating_mul(FILLS_WITHIN).min(u64::from(u32::MAX) / 4);
        let burst = u32::try_from(burst.min(most)).unwrap_or(u32::MAX);
        Some(Self { rate, burst })
    }

    /// Bytes that are kept in all, those of the bucket included.
    pub fn queue(&self) -> u32 {
        u32::try_from(self.waiting()).unwrap_or(u32::MAX / 2).saturating_add(self.burst)
    }

    fn waiting(&self) -> u64 {
        (self.rate / WAITS_A_SECOND).min(u64::from(u32::MAX) / 2)
    }

    /// Of the rate and the queue that a kernel tells: it rounds what it tells of the bucket.
    pub fn of_queue(rate: u64, queue: u32) -> Self {
        let without = Self { rate, burst: 0 };
        Self { rate, burst: queue.saturating_sub(without.queue()) }
    }
}

/// As tc writes it.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.rate) * 8;
        write!(f, "tbf rate {bits}bit burst {}b limit {}b", self.burst, self.queue())
    }
}

/// What the pod's own end holds.
pub fn inside(pod: &Attachment) -> State {
    let dev = pod.id.ifname.clone();
    let limit = pod.bandwidth.and_then(|asked| asked.egress);
    limit.map(|limit| Object::Shaped { dev, limit }).into_iter().collect()
}

/// What the node's end holds. A link that is in the pod alone has none.
pub fn outside(pod: &Attachment) -> State {
    let limit = pod.bandwidth.and_then(|asked| asked.ingress);
    let shaped = pod.host_end.clone().zip(limit);
    shaped.map(|(dev, limit)| Object::Shaped { dev, limit }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_bytes_and_a_bucket_holds_a_packet_at_least() {
        let table = [
            ((0, 0), None),
            ((999, 0), None),
            ((1000, 0), Some((125, 25_000))),
            ((8_000_000, 0), Some((1_000_000, 65_536))),
            ((8_000_000, 8_000), Some((1_000_000, 65_536))),
            ((8_000_000, 8_000_000), Some((1_000_000, 1_000_000))),
            ((80_000_000, u64::from(u32::MAX)), Some((10_000_000, 200_000))),
            ((80_000_000, 2_147_483_647), Some((10_000_000, 200_000))),
            ((u64::MAX, 0), Some((u64::MAX / 8, u32::MAX / 4))),
        ];
        for ((rate, burst), want) in table {
            let limit = Limit::of_bits(rate, burst);
            assert_eq!(limit.map(|limit| (limit.rate, limit.burst)), want, "{rate} {burst}");
            // What a kernel tells of it is the same.
            let told = limit.map(|limit| Limit::of_queue(limit.rate, limit.queue()));
            assert_eq!(told, limit, "{rate} {burst}");
        }
    }
}
