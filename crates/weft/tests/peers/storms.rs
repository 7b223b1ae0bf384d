//! Hundreds of routes that come and go, through a real daemon: what is left is what is.

use crate::{peer::*, raw::Raw, sessions::*, site::*};

with_each!(ends_as_it_should);

const ROUTES: usize = 300;
const ROUNDS: usize = 12;

/// The daemon hears the storm from a third, and passes on to us what it makes of it.
fn ends_as_it_should(kind: Kind) {
    let (site, mut setup, ours) = meeting(kind);
    setup.others.push(Other { hold: 90, ..Other::new("10.0.0.3", 65003) });
    setup.others[1].passive = true;
    ours.apply();
    let peer = Peer::start(&site.hosts[1], setup);
    both_told(&ours, &peer, "fd00::1", "fd00::2");
    let mut raw = Raw::connect(&site.hosts[2], "10.0.0.3", "10.0.0.2");
    raw.establish(65003, 90);
    let prefix = |n: &usize| format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
    for round in 0..ROUNDS {
        let some = |n: &usize| !(n * 7 + round * 3).is_multiple_of(5);
        let (on, off): (Vec<usize>, Vec<usize>) = (0..ROUTES).partition(some);
        let on: Vec<String> = on.iter().map(prefix).collect();
        let off: Vec<String> = off.iter().map(prefix).collect();
        raw.announce(&[65003, 65100 + u32::try_from(round).unwrap()], &on);
        raw.withdraw(&off);
    }
    let last = ROUNDS - 1;
    let left = (0..ROUTES).filter(|n| !(n * 7 + last * 3).is_multiple_of(5));
    let mut left: Vec<String> = left.map(|n| prefix(&n)).collect();
    left.extend(["10.2.0.0/24".into(), "fd00:2::/112".into()]);
    let left = left.into_iter().collect();
    ours.until("as it should be", |ours| ours.prefixes() == left);
    let path = format!("{THEIR_AS} 65003 {}", 65100 + last);
    let known = ours.known();
    let through = known.routes.values().filter(|route| route.as_path == path);
    assert_eq!(through.count(), left.len() - 2);
    assert_eq!(ours.report("10.0.0.2").established, 1);
}
