//! Two speakers: what they agree on and tell each other.

use std::time::Duration;

use weft_bgp::attrs::Family;

use crate::{
    net::Net,
    setting::{HOLD, addr, node, route4, route6},
};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn pair(seed: u64) -> Net {
    Net::new(seed, vec![(addr(1), node(1, [2])), (addr(2), node(2, [1]))])
}

pub fn established(net: &Net, of: u8, about: u8) -> bool {
    net.report(addr(of), addr(about)).state == "established"
}

pub fn knows(net: &Net, of: u8, about: u8) -> bool {
    let learnt = net.learnt(addr(of));
    [route4(about), route6(about)].iter().all(|route| {
        learnt.iter().any(|l| l.prefix == *route && !l.hops.is_empty() && l.why.is_none())
    })
}

#[test]
fn two_speakers_agree_and_tell_each_other_their_routes() {
    for seed in 1..20 {
        let mut net = pair(seed);
        assert!(net.until(SECOND, |net| established(net, 1, 2) && established(net, 2, 1)));
        assert!(net.until(SECOND, |net| knows(net, 1, 2) && knows(net, 2, 1)));
        let report = net.report(addr(1), addr(2));
        assert_eq!(report.established, 1);
        assert_eq!(report.hold_time, HOLD);
        assert_eq!(report.routes_in[&Family::Ipv4], 1);
        assert_eq!(report.routes_out[&Family::Ipv6], 1);
        assert_eq!(report.last_error, None);
        assert_eq!(
            report.capabilities.join(", "),
            "ipv4 unicast, ipv6 unicast, 4-octet AS, route refresh, enhanced route refresh, \
             IPv4 over IPv6 next hops, graceful restart 60 s (ipv4, ipv6)"
        );
        // Keepalives hold it.
        net.run(100 * SECOND);
        assert_eq!(net.report(addr(1), addr(2)).established, 1);
        assert!(net.report(addr(1), addr(2)).messages_in > 33);
    }
}

#[test]
fn what_is_originated_later_is_told_and_withdrawn() {
    let mut net = pair(1);
    assert!(net.until(SECOND * 2, |net| knows(net, 1, 2)));
    let mut config = node(2, [1]);
    config.originated = crate::setting::originated(7);
    net.configure(addr(2), config);
    assert!(net.until(SECOND, |net| knows(net, 1, 7) && !knows(net, 1, 2)));
    assert_eq!(net.report(addr(1), addr(2)).established, 1);
}

#[test]
fn who_is_silent_for_the_hold_time_is_given_up() {
    let mut net = pair(1);
    for local in [1, 2] {
        let mut config = node(local, [3 - local]);
        config.neighbours.values_mut().for_each(|n| n.bfd = false);
        net.configure(addr(local), config);
    }
    assert!(net.until(5 * SECOND, |net| knows(net, 1, 2)));
    net.cut(addr(1), addr(2));
    let began = net.now;
    assert!(net.until(20 * SECOND, |net| !knows(net, 1, 2)));
    let took = net.since(began);
    assert!((SECOND * 6..=SECOND * 9).contains(&took), "{took:?}");
    let error = net.report(addr(1), addr(2)).last_error.unwrap();
    assert_eq!(error, "nothing was heard of it for 9 s (hold time)");
}
