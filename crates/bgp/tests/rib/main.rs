//! The tables from outside: what neighbours say goes in, what is best and what others are told comes
//! out.

#![allow(clippy::unwrap_used)]

mod best;
mod model;
mod paths;
mod random;
mod said;
mod told;
mod world;
