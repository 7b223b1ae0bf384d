//! Tables of bytes and what they say, both ways: OPEN, NOTIFICATION, ROUTE-REFRESH, and headers.

use std::net::Ipv4Addr;

use weft_bgp::{
    attrs::Family,
    wire::{
        self, Agreed, Capability, GracefulRestart, Message, Notification, Open, Refresh,
        RouteRefresh,
    },
};

use crate::told::{bytes, hex};

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

fn read(hex: &str) -> Result<Option<Message>, Notification> {
    wire::read(&bytes(hex), &Agreed::default())
}

fn error(hex: &str) -> String {
    read(hex).map_or_else(
        |n| format!("{}/{} {}", n.code, n.subcode, self::hex(&n.data)).trim().to_owned(),
        |message| format!("{message:?}"),
    )
}

/// An OPEN of version 4, AS 64512, hold time 90 and this identifier, with optional parameters.
fn open(parameters: &str) -> String {
    whole(1, &format!("04 fc00 005a c0000201 {parameters}"))
}

fn whole(kind: u8, body: &str) -> String {
    format!("{MARKER} {:04x} {kind:02x} {body}", bytes(body).len() + 19)
}

#[test]
fn headers() {
    for (message, expected) in [
        ("", "1/2 0000"),
        ("ffff", "1/2 0002"),
        (&format!("{MARKER} 0013 04"), "Some(Keepalive)"),
        (&format!("{MARKER} 0012 04"), "1/2 0012"),
        (&format!("{MARKER} 0014 04 00"), "1/2 0014"),
        (&format!("{MARKER} 1001 02"), "1/2 1001"),
        (&format!("{MARKER} ffff 02"), "1/2 ffff"),
        (&format!("{MARKER} 0000 02"), "1/2 0000"),
        (&format!("{MARKER} 0013 00"), "1/3 00"),
        (&format!("{MARKER} 0013 06"), "1/3 06"),
        (&format!("{MARKER} 001c 01 04fc00005ac0000201"), "1/2 001c"),
        (&format!("{MARKER} 0016 02 000000"), "1/2 0016"),
        (&format!("{MARKER} 0014 03 06"), "1/2 0014"),
        (&format!("{MARKER} 0015 04 0000"), "1/2 0015"),
        // Not as long as it says.
        (&format!("{MARKER} 0017 02 000000"), "1/2 0016"),
        ("fffffffffffffffffffffffffffffffe 0013 04", "1/1"),
        ("00000000000000000000000000000000 0013 04", "1/1"),
    ] {
        assert_eq!(error(message), expected, "{message}");
    }
}

#[test]
fn opens() {
    let restart = |restarted, notification, seconds, families: &[_]| {
        Capability::GracefulRestart(GracefulRestart {
            restarted,
            notification,
            seconds,
            families: families.to_vec(),
        })
    };
    let other = |code, value: &str| Capability::Other { code, value: bytes(value) };
    for (parameters, capabilities) in [
        ("00", vec![]),
        ("02 0200", vec![]),
        ("08 0206 0104 00010001", vec![Capability::Multiprotocol(Family::Ipv4)]),
        ("08 0206 0104 00020001", vec![Capability::Multiprotocol(Family::Ipv6)]),
        // What is reserved says nothing.
        ("08 0206 0104 0002ff01", vec![Capability::Multiprotocol(Family::Ipv6)]),
        ("08 0206 0104 00190046", vec![other(1, "00190046")]),
        ("04 0202 0200", vec![Capability::RouteRefresh]),
        ("04 0202 4600", vec![Capability::EnhancedRouteRefresh]),
        ("0a 0208 0506 000100010002", vec![Capability::Ipv4OverIpv6]),
        ("10 020e 050c 000100800002 000100010002", vec![Capability::Ipv4OverIpv6]),
        ("0a 0208 0506 000100800002", vec![other(5, "000100800002")]),
        ("06 0204 4002 0078", vec![restart(false, false, 120, &[])]),
        ("06 0204 4002 cfff", vec![restart(true, true, 4095, &[])]),
        // Of several the last one counts (RFC 4724, 3).
        ("0a 0208 4002 0078 4002 8001", vec![restart(true, false, 1, &[])]),
        (
            "12 0210 400e 8078 00010180 00020100 00190046",
            vec![restart(true, false, 120, &[(Family::Ipv4, true), (Family::Ipv6, false)])],
        ),
        ("06 0204 c802 abcd", vec![other(200, "abcd")]),
        // Each in a parameter of its own.
        (
            "08 0202 0200 0202 4600",
            vec![Capability::RouteRefresh, Capability::EnhancedRouteRefresh],
        ),
        // RFC 9072.
        ("ff ff 0005 02 0002 0200", vec![Capability::RouteRefresh]),
        ("01 ff 0005 02 0002 0200", vec![Capability::RouteRefresh]),
        ("ff ff 0000", vec![]),
    ] {
        let expected = Open {
            asn: 64512,
            hold_time: 90,
            router_id: Ipv4Addr::new(192, 0, 2, 1),
            capabilities,
        };
        assert_eq!(read(&open(parameters)), Ok(Some(Message::Open(expected))), "{parameters}");
    }
}

#[test]
fn four_octet_as_is_what_is_meant() {
    let message = whole(1, "04 5ba0 0000 c0000201 08 0206 4104 fa56ea01");
    let Ok(Some(Message::Open(open))) = read(&message) else { panic!() };
    assert_eq!((open.asn, open.hold_time), (4_200_000_001, 0));
    assert_eq!(open.capabilities, [Capability::FourOctetAs(4_200_000_001)]);
    let mut written = Vec::new();
    wire::write(&Message::Open(open), &Agreed::default(), &mut written);
    assert_eq!(hex(&written), hex(&bytes(&message)));
}

#[test]
fn opens_that_are_wrong() {
    for (message, expected) in [
        (whole(1, "03 fc00 005a c0000201 00"), "2/1 0004"),
        (whole(1, "05 fc00 005a c0000201 00"), "2/1 0004"),
        (whole(1, "04 fc00 0001 c0000201 00"), "2/6"),
        (whole(1, "04 fc00 0002 c0000201 00"), "2/6"),
        (whole(1, "04 fc00 005a 00000000 00"), "2/3"),
        // Lengths that do not agree.
        (open("01"), "2/0"),
        (open("00 0200"), "2/0"),
        (open("03 0200"), "2/0"),
        (open("02 0201"), "2/0"),
        (open("01 02"), "2/0"),
        (open("03 0201 02"), "2/0"),
        (open("04 0202 0201"), "2/0"),
        // Capabilities of a wrong length.
        (open("05 0203 020100"), "2/0"),
        (open("07 0205 0103 000100"), "2/0"),
        (open("07 0205 4103 00fc00"), "2/0"),
        (open("05 0203 4001 00"), "2/0"),
        (open("07 0205 4003 007800"), "2/0"),
        (open("07 0205 0503 000100"), "2/0"),
        // Parameters that nobody knows, or no longer.
        (open("03 0101 00"), "2/4"),
        (open("02 0300"), "2/4"),
        (open("ff ff 0004 03 0001 00"), "2/4"),
        // RFC 9072.
        (open("ff ff"), "2/0"),
        (open("ff ff 00"), "2/0"),
        (open("ff ff 0006 02 0002 0200"), "2/0"),
        (open("ff ff 0004 02 0002 0200"), "2/0"),
        (open("ff ff 0005 02 0003 0200"), "2/0"),
        (open("00 ff 0005 02 0002 0200"), "2/0"),
    ] {
        assert_eq!(error(&message), expected, "{message}");
    }
}

#[test]
fn more_capabilities_than_255_bytes_are_written_and_read() {
    for count in [1, 27, 28, 29, 200] {
        let capabilities: Vec<Capability> = (0..count)
            .map(|code| Capability::Other { code: code | 128, value: vec![7; 7] })
            .collect();
        let router_id = Ipv4Addr::new(192, 0, 2, 1);
        let open = Message::Open(Open { asn: 1, hold_time: 3, router_id, capabilities });
        let mut written = Vec::new();
        wire::write(&open, &Agreed::default(), &mut written);
        assert_eq!(wire::read(&written, &Agreed::default()), Ok(Some(open)), "{count}");
    }
}

#[test]
fn what_fits_in_no_open_is_left_out() {
    let long = |length| Capability::Other { code: 200, value: vec![7; length] };
    let mut capabilities = vec![long(256), Capability::RouteRefresh];
    capabilities.extend((0..100).map(|_| long(200)));
    let router_id = Ipv4Addr::new(192, 0, 2, 1);
    let open = Message::Open(Open { asn: 1, hold_time: 3, router_id, capabilities });
    let mut written = Vec::new();
    wire::write(&open, &Agreed::default(), &mut written);
    assert!(written.len() <= wire::MESSAGE_MAX);
    let Ok(Some(Message::Open(read))) = wire::read(&written, &Agreed::default()) else { panic!() };
    assert_eq!(read.capabilities.len(), 1 + 20);
    assert_eq!(read.capabilities[0], Capability::RouteRefresh);
}

#[test]
fn route_refreshes() {
    let refresh = |family, kind| format!("{:?}", Some(RouteRefresh { family, kind }));
    let of = |message: &str| match read(message) {
        Ok(Some(Message::RouteRefresh(refresh))) => format!("{:?}", Some(refresh)),
        _ => error(message),
    };
    for (body, expected) in [
        ("0001 00 01", refresh(Family::Ipv4, Refresh::Request)),
        ("0002 01 01", refresh(Family::Ipv6, Refresh::Begin)),
        ("0002 02 01", refresh(Family::Ipv6, Refresh::End)),
        ("0001 00 80", "None".to_owned()),
        ("0019 00 46", "None".to_owned()),
        ("0001 03 01", "None".to_owned()),
        ("0001 03 01 00", "None".to_owned()),
        ("", "1/2 0013".to_owned()),
        ("0001", "1/2 0015".to_owned()),
        ("0001 00", "1/2 0016".to_owned()),
        ("0001 00 01 00", "1/2 0018".to_owned()),
        // The whole message is quoted (RFC 7313, 5).
        ("0001 01", format!("7/1 {MARKER}001605000101")),
        ("0001 02 01 00", format!("7/1 {MARKER}0018050001020100")),
    ] {
        assert_eq!(of(&whole(5, body)), expected, "{body}");
    }
    for family in Family::ALL {
        for kind in [Refresh::Request, Refresh::Begin, Refresh::End] {
            let message = Message::RouteRefresh(RouteRefresh { family, kind });
            let mut written = Vec::new();
            wire::write(&message, &Agreed::default(), &mut written);
            assert_eq!(wire::read(&written, &Agreed::default()), Ok(Some(message)));
        }
    }
}

#[test]
fn notifications_in_words() {
    for (body, words) in [
        ("0101", "Message Header Error: Connection Not Synchronized"),
        ("0102 0012", "Message Header Error: Bad Message Length (18)"),
        ("0103 09", "Message Header Error: Bad Message Type (9)"),
        ("0200", "OPEN Message Error"),
        ("0201 0004", "OPEN Message Error: Unsupported Version Number (4)"),
        ("0202 fdea", "OPEN Message Error: Bad Peer AS (fdea)"),
        ("0203", "OPEN Message Error: Bad BGP Identifier"),
        ("0206", "OPEN Message Error: Unacceptable Hold Time"),
        ("0207 01040002 0001", "OPEN Message Error: Unsupported Capability (010400020001)"),
        ("0303 03", "UPDATE Message Error: Missing Well-known Attribute (NEXT_HOP)"),
        ("0303 c8", "UPDATE Message Error: Missing Well-known Attribute (200)"),
        ("030b", "UPDATE Message Error: Malformed AS_PATH"),
        ("0400", "Hold Timer Expired"),
        ("0502", "Finite State Machine Error: Receive Unexpected Message in OpenConfirm State"),
        ("0601 0001 01 000003e8", "Cease: Maximum Number of Prefixes Reached (ipv4: at most 1000)"),
        (
            "0601 0019 46 000003e8",
            "Cease: Maximum Number of Prefixes Reached (AFI 25 SAFI 70: at most 1000)",
        ),
        ("0601 0001 01 0003e8", "Cease: Maximum Number of Prefixes Reached (0001010003e8)"),
        ("0602", "Cease: Administrative Shutdown"),
        ("0602 00", "Cease: Administrative Shutdown"),
        ("0602 03 627965", "Cease: Administrative Shutdown: \"bye\""),
        ("0604 03 c3a921", "Cease: Administrative Reset: \"é!\""),
        // A log's lines, a terminal's colours, a quote.
        (
            "0602 0b 0a1b5b33316d00 22 e280ae",
            "Cease: Administrative Shutdown: \"\u{fffd}\u{fffd}[31m\u{fffd}'\u{fffd}\"",
        ),
        ("0602 02 ff41", "Cease: Administrative Shutdown (02ff41)"),
        ("0602 09 41", "Cease: Administrative Shutdown (0941)"),
        ("0603", "Cease: Peer De-configured"),
        ("0607", "Cease: Connection Collision Resolution"),
        ("0609 06 02 03 627965", "Cease: Hard Reset (Cease: Administrative Shutdown: \"bye\")"),
        (
            "0609 0609 0609 0609 0400",
            "Cease: Hard Reset (Cease: Hard Reset (Cease: Hard Reset (06090400)))",
        ),
        ("060a", "Cease: BFD Down"),
        ("060b", "Cease: subcode 11"),
        ("0701 0001", "ROUTE-REFRESH Message Error: Invalid Message Length (0001)"),
        ("0800", "Send Hold Timer Expired"),
        ("0903 01", "error code 9: subcode 3 (01)"),
        ("0000", "error code 0"),
    ] {
        let message = bytes(&whole(3, body));
        let read = wire::read(&message, &Agreed::default());
        let Ok(Some(Message::Notification(notification))) = read else { panic!("{body}") };
        assert_eq!(notification.to_string(), words, "{body}");
        let mut written = Vec::new();
        wire::write(&Message::Notification(notification), &Agreed::default(), &mut written);
        assert_eq!(hex(&written), hex(&message));
    }
}

#[test]
fn communications_are_cut_between_letters() {
    for (text, length) in [("", 0), ("bye", 3), (&"é".repeat(200), 254), (&"a".repeat(300), 255)] {
        let data = Notification::cease(wire::cease::SHUTDOWN, text).data;
        assert_eq!(data.len(), length + 1);
        assert_eq!(usize::from(data[0]), length);
        assert!(text.starts_with(str::from_utf8(&data[1..]).unwrap()));
    }
}

#[test]
fn long_data_is_cut_to_a_message() {
    let notification = Notification::with(3, 9, &[7; 5000]);
    let mut written = Vec::new();
    wire::write(&Message::Notification(notification), &Agreed::default(), &mut written);
    assert_eq!(written.len(), wire::MESSAGE_MAX);
    assert!(wire::read(&written, &Agreed::default()).is_ok());
}
