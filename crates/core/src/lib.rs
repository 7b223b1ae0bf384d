//! What weft decides. Pure: no I/O, no clock, no randomness, no threads, no unsafe.
#![forbid(unsafe_code)]

pub mod mark;
pub mod name;
pub mod plan;
pub mod policy;
pub mod state;
