//! TCP-MD5 and GTSM: who is let in, and what is said of who is not.

use weft_bgp::config::Ttl;

use crate::{peer::*, sessions::*, site::*};

with_each!(
    with_password_over_ipv4,
    with_password_over_ipv6,
    with_password_when_it_connects,
    with_a_wrong_password_is_told_so,
    secured_by_ttl,
);

fn with_password(kind: Kind, addr: &str, ours_at: &str, passive: bool) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.addr = ip(addr);
    setup.others[0].addr = ip(ours_at);
    setup.others[0].password = Some("sesame");
    setup.others[0].passive = !passive;
    ours.desired.config.neighbours.clear();
    let neighbour = ours.neighbour(addr, THEIR_AS);
    neighbour.password = Some("sesame".into());
    neighbour.passive = passive;
    if ip(addr).is_ipv6() {
        neighbour.next_hop4 = None;
    }
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
}

fn with_password_over_ipv4(kind: Kind) {
    with_password(kind, "10.0.0.2", "10.0.0.1", false);
}

fn with_password_over_ipv6(kind: Kind) {
    with_password(kind, "fd00::2", "fd00::1", false);
}

fn with_password_when_it_connects(kind: Kind) {
    with_password(kind, "10.0.0.2", "10.0.0.1", true);
}

fn with_a_wrong_password_is_told_so(kind: Kind) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.others[0].password = Some("sesame");
    ours.neighbour("10.0.0.2", THEIR_AS).password = Some("open".into());
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    ours.until("told", |ours| ours.error("10.0.0.2").contains("the passwords differ"));
    assert!(!ours.is_up("10.0.0.2"));
    ours.neighbour("10.0.0.2", THEIR_AS).password = Some("sesame".into());
    ours.apply();
    both_told(&ours, &peer, "fd00::1", "fd00::2");
}

/// The other side lets nothing pass that was forwarded, nor do we.
fn secured_by_ttl(kind: Kind) {
    let (site, mut setup, mut ours) = meeting(kind);
    setup.others[0].security = true;
    ours.neighbour("10.0.0.2", THEIR_AS).ttl = Ttl::Security(0);
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    assert!(sh(&site.hosts[0], "ss -Htnie").contains("established") || ours.is_up("10.0.0.2"));
}
