//! ROUTE-REFRESH (RFC 2918, 3; RFC 7313, 3.2 and 5).

use super::{
    Notification, Refresh, RouteRefresh, frames,
    notification::{code, refresh_error},
    reach,
};

/// None: a family that is not spoken, or a kind that RFC 7313 does not know; both are ignored.
pub fn read(message: &[u8], body: &[u8]) -> Result<Option<RouteRefresh>, Notification> {
    let kind = match body.get(2) {
        Some(0) => Refresh::Request,
        Some(1) => Refresh::Begin,
        Some(2) => Refresh::End,
        Some(_) => return Ok(None),
        None => return Err(frames::bad_length(message.len())),
    };
    let &[afi1, afi2, _, safi] = body else {
        return Err(match kind {
            Refresh::Request => frames::bad_length(message.len()),
            _ => Notification::with(code::ROUTE_REFRESH, refresh_error::BAD_LENGTH, message),
        });
    };
    let family = reach::family(u16::from_be_bytes([afi1, afi2]), safi);
    Ok(family.map(|family| RouteRefresh { family, kind }))
}

pub fn write(refresh: RouteRefresh, out: &mut Vec<u8>) {
    let kind = match refresh.kind {
        Refresh::Request => 0,
        Refresh::Begin => 1,
        Refresh::End => 2,
    };
    out.extend_from_slice(&[0, reach::afi(refresh.family), kind, reach::UNICAST]);
}
