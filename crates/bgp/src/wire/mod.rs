//! The form of messages (RFC 4271, 4), and what is wrong with one that has none. Reads and writes;
//! what a message means is the session's and the tables' business.

mod as_path;
mod attribute;
mod attributes;
mod bytes;
mod capability;
mod frames;
mod message;
mod notification;
mod open;
mod pack;
mod prefix;
mod put;
mod reach;
mod refresh;
mod update;

pub use frames::Frames;
pub use message::{
    Agreed, Capability, GracefulRestart, Message, Notification, Open, Reach, Refresh, RouteRefresh,
    Update, read, write,
};
pub use notification::{cease, code, open_error};
pub use pack::{Packer, TooLong};

/// Port of BGP.
pub const PORT: u16 = 179;
/// Bytes of the largest message (RFC 4271, 4.1). RFC 8654's larger ones are not offered.
pub const MESSAGE_MAX: usize = 4096;
/// Bytes before a message's own: marker, length, type.
const HEADER: usize = 19;
/// RFC 6793: stands for an AS number that two bytes can't hold.
const AS_TRANS: u16 = 23456;
