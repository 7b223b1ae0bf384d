//! The ordinary messages, there and back.
use super::*;
use crate::attrs::*;
#[test]
fn smoke() {
    let agreed = Agreed { four_octet_as: true, ipv4: true, ipv6: true, ..Agreed::default() };
    let attrs = Attrs {
        as_path: "64512 4200000001".parse().unwrap(),
        local_pref: Some(100),
        ..Attrs::default()
    };
    for hop in
        [NextHop::V4([192, 0, 2, 1].into()), NextHop::V6("2001:db8::1".parse().unwrap(), None)]
    {
        let p = if hop.addr().is_ipv4() { "10.0.0.0/8" } else { "2001:db8::/32" };
        let message = Message::Update(Update {
            attrs: Some(attrs.clone()),
            reach: vec![Reach { next_hop: hop, prefixes: vec![p.parse().unwrap()] }],
            ..Update::default()
        });
        let mut bytes = Vec::new();
        write(&message, &agreed, &mut bytes);
        let mut frames = Frames::default();
        frames.push(&bytes);
        let one = frames.cut().unwrap().unwrap();
        assert_eq!(read(&one, &agreed), Ok(Some(message)));
    }
    for capabilities in [
        vec![],
        vec![
            Capability::FourOctetAs(4200000001),
            Capability::Multiprotocol(Family::Ipv6),
            Capability::GracefulRestart(GracefulRestart {
                restarted: true,
                notification: true,
                seconds: 120,
                families: vec![(Family::Ipv4, true)],
            }),
        ],
    ] {
        let asn = if capabilities.is_empty() { 64512 } else { 4200000001 };
        let open = Message::Open(Open {
            asn,
            hold_time: 90,
            router_id: [1, 2, 3, 4].into(),
            capabilities,
        });
        let mut bytes = Vec::new();
        write(&open, &agreed, &mut bytes);
        assert_eq!(read(&bytes, &agreed), Ok(Some(open)));
    }
}
