//! BGP and BFD with real neighbours: FRR, BIRD 2 and GoBGP as Debian has them, and a raw one that says
//! what none of these would. Each test is a process in a sandbox of its own; what all of them use is
//! in `site.rs` and `peer.rs` (one file per daemon beside it), the rest is one file per theme.
#![allow(clippy::unwrap_used)]

/// Tests with each daemon: `THEME::DAEMON::TEST`.
macro_rules! with_each {
    ($($test:ident),* $(,)?) => {
        with_frr_and_bird!($($test),*);
        with_frr_and_bird!(@ gobgp Gobgp $($test),*);
    };
}
/// Of what GoBGP does not do.
macro_rules! with_frr_and_bird {
    ($($test:ident),* $(,)?) => {
        with_frr_and_bird!(@ frr Frr $($test),*);
        with_frr_and_bird!(@ bird Bird $($test),*);
    };
    (@ $module:ident $kind:ident $($test:ident),*) => {
        mod $module {
            $(#[test]
            fn $test() {
                super::$test(crate::peer::Kind::$kind);
            })*
        }
    };
}

mod bird;
#[path = "../../../bgp/tests/corpus/mod.rs"]
mod corpus;
mod frr;
mod gobgp;
mod peer;
mod raw;
mod site;

mod bad;
mod death;
mod families;
mod refresh;
mod restarts;
mod sessions;
mod signed;
mod storms;
mod watched;
