//! Whole speakers with each other, over a network that exists as values alone: its time passes as
//! fast as it can be computed, and the same seed gives the same run.

#![allow(clippy::unwrap_used)]

mod bench;
mod failures;
mod load;
mod net;
mod pair;
mod setting;
mod states;
mod walks;
