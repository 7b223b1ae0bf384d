//! One neighbour: its connections, of which there may be two until one is chosen (RFC 4271, 6.8), and
//! the state machine of each (8.2.2).
//!
//! `neighbour.rs` is the whole of it and what happens to it from outside, `receive.rs` what its
//! messages do, `end.rs` how a session ends and what is kept then, `say.rs` what is sent.
//! `connection.rs` is one TCP connection, `open.rs` what two OPENs agree on, `retry.rs` when it is
//! tried again, `links.rs` the numbers of connections, `words.rs` what people read.

mod connection;
mod end;
mod links;
mod neighbour;
mod open;
mod receive;
mod retry;
mod say;
mod words;

pub(crate) use links::Links;
pub(crate) use neighbour::{Context, Session};
