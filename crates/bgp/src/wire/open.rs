//! OPEN (RFC 4271, 4.2 and 6.2; RFC 9072). Whether its AS number is the right one, the session knows.

use std::net::Ipv4Addr;

use super::{
    AS_TRANS, Capability, HEADER, MESSAGE_MAX, Notification, Open,
    bytes::Bytes,
    capability,
    notification::{code, open_error},
};

const VERSION: u8 = 4;
const CAPABILITIES: u8 = 2;
/// RFC 9072: in the place of the first parameter's type, it says that lengths have two bytes.
const EXTENDED: u8 = 255;
/// Before the optional parameters in their extended form.
const FIXED: usize = 13;

pub fn read(body: &[u8]) -> Result<Open, Notification> {
    let malformed = || Notification::new(code::OPEN, open_error::UNSPECIFIC);
    let (fixed, parameters) = body.split_first_chunk::<9>().ok_or_else(malformed)?;
    let &[version, as1, as2, hold1, hold2, id @ ..] = fixed;
    let two_octet = u16::from_be_bytes([as1, as2]);
    let hold_time = u16::from_be_bytes([hold1, hold2]);
    let router_id = Ipv4Addr::from(id);
    if version != VERSION {
        return Err(Notification::with(code::OPEN, open_error::VERSION, &[0, VERSION]));
    }
    if router_id.is_unspecified() {
        return Err(Notification::new(code::OPEN, open_error::BAD_IDENTIFIER));
    }
    if matches!(hold_time, 1 | 2) {
        return Err(Notification::new(code::OPEN, open_error::HOLD_TIME));
    }
    let capabilities = optional(parameters).map_err(|subcode| {
        let subcode = subcode.unwrap_or(open_error::UNSPECIFIC);
        Notification::new(code::OPEN, subcode)
    })?;
    let four_octet = capabilities.iter().rev().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    Ok(Open { asn: four_octet.unwrap_or(two_octet.into()), hold_time, router_id, capabilities })
}

/// The error is the subcode; none for a field that is malformed.
fn optional(field: &[u8]) -> Result<Vec<Capability>, Option<u8>> {
    let (mut parameters, extended) = match field {
        [length, EXTENDED, rest @ ..] if *length > 0 => (all(rest, Bytes::sized16)?, true),
        _ => (all(field, Bytes::sized8)?, false),
    };
    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let kind = parameters.u8().ok_or(None)?;
        let value = if extended { parameters.sized16() } else { parameters.sized8() };
        let value = value.ok_or(None)?;
        if kind != CAPABILITIES {
            return Err(Some(open_error::PARAMETER));
        }
        capability::read(value, &mut capabilities).ok_or(None)?;
    }
    Ok(capabilities)
}

/// A field whose length says that it is all that there is.
fn all<'a>(
    field: &'a [u8],
    sized: fn(&mut Bytes<'a>) -> Option<&'a [u8]>,
) -> Result<Bytes<'a>, Option<u8>> {
    let mut field = Bytes(field);
    let value = sized(&mut field).ok_or(None)?;
    if field.is_empty() { Ok(Bytes(value)) } else { Err(None) }
}

pub fn write(open: &Open, out: &mut Vec<u8>) {
    let two_octet = u16::try_from(open.asn).unwrap_or(AS_TRANS);
    out.push(VERSION);
    out.extend_from_slice(&two_octet.to_be_bytes());
    out.extend_from_slice(&open.hold_time.to_be_bytes());
    out.extend_from_slice(&open.router_id.octets());
    let capabilities = capabilities(open);
    let length = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
    match u8::try_from(length + 2) {
        Ok(2) => out.push(0),
        Ok(whole) => out.extend_from_slice(&[whole, CAPABILITIES, whole - 2]),
        Err(_) => {
            out.extend_from_slice(&[EXTENDED, EXTENDED]);
            out.extend_from_slice(&(length + 3).to_be_bytes());
            out.push(CAPABILITIES);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&capabilities);
}

/// As many as there is room for.
fn capabilities(open: &Open) -> Vec<u8> {
    let most = MESSAGE_MAX - HEADER - FIXED - 3;
    let mut all = Vec::new();
    for one in open.capabilities.iter().filter_map(capability::write) {
        if all.len() + one.len() <= most {
            all.extend(one);
        }
    }
    all
}
