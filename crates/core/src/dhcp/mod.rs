//! Addresses by DHCP (RFC 2131, IPv4), as its client: what is said, how an answer is read, when
//! what is said next. Sends nothing and knows no clock: times are told, as seconds since boot.

mod exchange;
mod lease;
mod message;
mod packet;

pub use exchange::{Exchange, News, Purpose, Step};
pub use lease::{Due, Lease, Standing};
pub use message::{Answer, Ask, Client, Deaf, Kind, Terms};
pub use packet::CLIENT_PORT;

#[cfg(test)]
mod tests;
