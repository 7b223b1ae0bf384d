//! The form of messages, from outside: bytes and what they say.

#![allow(clippy::unwrap_used, reason = "tests")]

mod captures;
#[path = "../corpus/mod.rs"]
mod corpus;
mod corpus_told;
mod dice;
mod malformed;
mod messages;
mod packer;
mod random;
mod stream;
mod text;
mod told;
mod values;
