//! BFD against FRR's bfdd and BIRD, on the kernel, each in a namespace of its own.
#![allow(clippy::unwrap_used)]

mod ours;
mod peer;
mod restart;
mod sessions;
mod site;

/// Each test once for FRR and once for BIRD.
macro_rules! with_each {
    ($($test:ident),* $(,)?) => {
        mod frr {
            $(#[test] fn $test() { super::$test(crate::peer::Kind::Frr); })*
        }
        mod bird {
            $(#[test] fn $test() { super::$test(crate::peer::Kind::Bird); })*
        }
    };
}
use with_each;
