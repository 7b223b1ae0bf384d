//! What codes and subcodes of a NOTIFICATION mean, in words.

use std::fmt::{self, Write};

use super::{Notification, bytes::Bytes, reach};

/// RFC 4271, 4.5; RFC 7313, 5; RFC 9687.
pub mod code {
    pub const HEADER: u8 = 1;
    pub const OPEN: u8 = 2;
    pub const UPDATE: u8 = 3;
    pub const HOLD_TIMER: u8 = 4;
    /// Its subcodes (RFC 6608) are the states: 1 OpenSent, 2 OpenConfirm, 3 Established.
    pub const STATE_MACHINE: u8 = 5;
    pub const CEASE: u8 = 6;
    pub const ROUTE_REFRESH: u8 = 7;
    pub const SEND_HOLD_TIMER: u8 = 8;
}

pub(super) mod header_error {
    pub const NOT_SYNCHRONIZED: u8 = 1;
    pub const BAD_LENGTH: u8 = 2;
    pub const BAD_TYPE: u8 = 3;
}

pub mod open_error {
    pub const UNSPECIFIC: u8 = 0;
    pub const VERSION: u8 = 1;
    pub const BAD_PEER_AS: u8 = 2;
    pub const BAD_IDENTIFIER: u8 = 3;
    pub const PARAMETER: u8 = 4;
    pub const HOLD_TIME: u8 = 6;
    /// RFC 5492: the data is the capability that is missed.
    pub const CAPABILITY: u8 = 7;
}

pub(super) mod update_error {
    pub const ATTRIBUTE_LIST: u8 = 1;
    pub const UNKNOWN_WELL_KNOWN: u8 = 2;
    pub const MISSING: u8 = 3;
    pub const FLAGS: u8 = 4;
    pub const LENGTH: u8 = 5;
    pub const ORIGIN: u8 = 6;
    pub const NEXT_HOP: u8 = 8;
    pub const OPTIONAL: u8 = 9;
    pub const NETWORK: u8 = 10;
    pub const AS_PATH: u8 = 11;
}

/// RFC 4486; RFC 8538 (9), RFC 9384 (10).
pub mod cease {
    pub const TOO_MANY_PREFIXES: u8 = 1;
    pub const SHUTDOWN: u8 = 2;
    pub const DECONFIGURED: u8 = 3;
    pub const RESET: u8 = 4;
    pub const REJECTED: u8 = 5;
    pub const CONFIGURATION: u8 = 6;
    pub const COLLISION: u8 = 7;
    pub const RESOURCES: u8 = 8;
    pub const HARD_RESET: u8 = 9;
    pub const BFD_DOWN: u8 = 10;
}

pub(super) mod refresh_error {
    pub const BAD_LENGTH: u8 = 1;
}

/// So many bytes of data are shown.
const SHOWN: usize = 24;
/// A hard reset in a hard reset in … : so deep they are shown.
const DEPTH: usize = 2;

impl Notification {
    /// CEASE with a shutdown communication (RFC 9003), cut to the 255 bytes that it may have.
    pub fn cease(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = vec![u8::try_from(end).unwrap_or(0)];
        data.extend_from_slice(&text.as_bytes()[..end]);
        Self { code: code::CEASE, subcode, data }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match code_name(self.code) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "error code {}", self.code)?,
        }
        match (subcode_name(self.code, self.subcode), self.subcode) {
            (Some(name), _) => write!(f, ": {name}")?,
            (None, 0) => {}
            (None, subcode) => write!(f, ": subcode {subcode}")?,
        }
        self.show_data(f, depth)
    }

    fn show_data(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match (self.code, self.subcode, self.data.as_slice()) {
            (_, _, []) => Ok(()),
            (code::CEASE, cease::SHUTDOWN | cease::RESET, data) => show_communication(f, data),
            (code::CEASE, cease::HARD_RESET, [code, subcode, data @ ..]) if depth > 0 => {
                f.write_str(" (")?;
                Self::with(*code, *subcode, data).show(f, depth - 1)?;
                f.write_str(")")
            }
            (code::CEASE, cease::TOO_MANY_PREFIXES, data) if data.len() == 7 => {
                show_limit(f, Bytes(data))
            }
            (code::HEADER, header_error::BAD_LENGTH, &[high, low])
            | (code::OPEN, open_error::VERSION, &[high, low]) => {
                write!(f, " ({})", u16::from_be_bytes([high, low]))
            }
            (code::HEADER, header_error::BAD_TYPE, [kind]) => write!(f, " ({kind})"),
            (code::UPDATE, update_error::MISSING, [code]) => match super::attribute::name(*code) {
                Some(name) => write!(f, " ({name})"),
                None => write!(f, " ({code})"),
            },
            (_, _, data) => show_bytes(f, data),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.show(f, DEPTH)
    }
}

/// RFC 9003, 2: UTF-8 behind its length. A neighbour's text goes to a log: nothing of it may look
/// like more than text.
fn show_communication(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    let text = Bytes(data).sized8().map(std::str::from_utf8);
    let Some(Ok(text)) = text else { return show_bytes(f, data) };
    if text.is_empty() {
        return Ok(());
    }
    f.write_str(": \"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_char('\'')?,
            _ if c.is_control() || is_invisible(c) => f.write_char('\u{fffd}')?,
            _ => f.write_char(c)?,
        }
    }
    f.write_str("\"")
}

/// Separators of lines, and what turns the direction of writing around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// RFC 4486, 4: the family and the number that is too many.
fn show_limit(f: &mut fmt::Formatter<'_>, mut data: Bytes<'_>) -> fmt::Result {
    let (Some(afi), Some(safi), Some(most)) = (data.u16(), data.u8(), data.u32()) else {
        return Ok(());
    };
    match reach::family(afi, safi) {
        Some(family) => write!(f, " ({family}: at most {most})"),
        None => write!(f, " (AFI {afi} SAFI {safi}: at most {most})"),
    }
}

fn show_bytes(f: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    f.write_str(" (")?;
    for byte in data.iter().take(SHOWN) {
        write!(f, "{byte:02x}")?;
    }
    f.write_str(if data.len() > SHOWN { "…)" } else { ")" })
}

fn code_name(code: u8) -> Option<&'static str> {
    Some(match code {
        code::HEADER => "Message Header Error",
        code::OPEN => "OPEN Message Error",
        code::UPDATE => "UPDATE Message Error",
        code::HOLD_TIMER => "Hold Timer Expired",
        code::STATE_MACHINE => "Finite State Machine Error",
        code::CEASE => "Cease",
        code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
        code::SEND_HOLD_TIMER => "Send Hold Timer Expired",
        _ => return None,
    })
}

fn subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (code::HEADER, 1) => "Connection Not Synchronized",
        (code::HEADER, 2) => "Bad Message Length",
        (code::HEADER, 3) => "Bad Message Type",
        (code::OPEN, 1) => "Unsupported Version Number",
        (code::OPEN, 2) => "Bad Peer AS",
        (code::OPEN, 3) => "Bad BGP Identifier",
        (code::OPEN, 4) => "Unsupported Optional Parameter",
        (code::OPEN, 5) => "Authentication Failure",
        (code::OPEN, 6) => "Unacceptable Hold Time",
        (code::OPEN, 7) => "Unsupported Capability",
        (code::UPDATE, 1) => "Malformed Attribute List",
        (code::UPDATE, 2) => "Unrecognized Well-known Attribute",
        (code::UPDATE, 3) => "Missing Well-known Attribute",
        (code::UPDATE, 4) => "Attribute Flags Error",
        (code::UPDATE, 5) => "Attribute Length Error",
        (code::UPDATE, 6) => "Invalid ORIGIN Attribute",
        (code::UPDATE, 7) => "AS Routing Loop",
        (code::UPDATE, 8) => "Invalid NEXT_HOP Attribute",
        (code::UPDATE, 9) => "Optional Attribute Error",
        (code::UPDATE, 10) => "Invalid Network Field",
        (code::UPDATE, 11) => "Malformed AS_PATH",
        (code::STATE_MACHINE, 1) => "Receive Unexpected Message in OpenSent State",
        (code::STATE_MACHINE, 2) => "Receive Unexpected Message in OpenConfirm State",
        (code::STATE_MACHINE, 3) => "Receive Unexpected Message in Established State",
        (code::CEASE, cease::TOO_MANY_PREFIXES) => "Maximum Number of Prefixes Reached",
        (code::CEASE, cease::SHUTDOWN) => "Administrative Shutdown",
        (code::CEASE, cease::DECONFIGURED) => "Peer De-configured",
        (code::CEASE, cease::RESET) => "Administrative Reset",
        (code::CEASE, cease::REJECTED) => "Connection Rejected",
        (code::CEASE, cease::CONFIGURATION) => "Other Configuration Change",
        (code::CEASE, cease::COLLISION) => "Connection Collision Resolution",
        (code::CEASE, cease::RESOURCES) => "Out of Resources",
        (code::CEASE, cease::HARD_RESET) => "Hard Reset",
        (code::CEASE, cease::BFD_DOWN) => "BFD Down",
        (code::ROUTE_REFRESH, 1) => "Invalid Message Length",
        _ => return None,
    })
}
