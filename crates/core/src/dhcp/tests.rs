//! Tables of messages and of their exchanges, and what no message may do.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;

use super::{
    packet::{SERVER_PORT, wrap},
    *,
};
use crate::{
    attachment::AttachmentId,
    name::{IfName, Mac},
};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const XID: u32 = 0x0102_0304;
const SERVER: &str = "10.77.0.2";
const ADDR: &str = "10.77.0.50";

fn pod(container: &str, ifname: &str) -> AttachmentId {
    AttachmentId { cni: "lan".into(), container: container.into(), ifname: IfName::new(ifname) }
}
fn client() -> Client {
    Client::new(&pod("c1", "eth0"), MAC, Some("web-0.default"))
}
fn range() -> Ipv4Net {
    "10.77.0.0/24".parse().unwrap()
}
fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}
fn option(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).unwrap()], value].concat()
}
fn addr_option(code: u8, addr: &str) -> Vec<u8> {
    option(code, &ip(addr).octets())
}

/// A server's message around these options, in a packet.
fn packet(yiaddr: &str, options: &[Vec<u8>]) -> Vec<u8> {
    let mut message =
        [&[2, 1, 6, 0][..], &XID.to_be_bytes(), &[0; 8], &ip(yiaddr).octets()].concat();
    message.resize(28, 0);
    message.extend(MAC.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99]);
    options.iter().for_each(|option| message.extend(option));
    message.push(255);
    from_server(&message)
}

fn from_server(message: &[u8]) -> Vec<u8> {
    let mut packet = wrap(ip(SERVER), Ipv4Addr::BROADCAST, message);
    packet[20..24].copy_from_slice(&[SERVER_PORT, CLIENT_PORT].map(u16::to_be_bytes).concat());
    packet
}

/// What every useful answer has.
fn usual(kind: u8) -> Vec<Vec<u8>> {
    vec![
        option(53, &[kind]),
        addr_option(54, SERVER),
        option(51, &120u32.to_be_bytes()),
        addr_option(1, "255.255.255.0"),
        addr_option(3, "10.77.0.1"),
    ]
}
fn with(kind: u8, more: &[Vec<u8>]) -> Vec<u8> {
    packet(ADDR, &[usual(kind), more.to_vec()].concat())
}
/// The usual without an option, or with another in its place.
fn instead(code: u8, by: &[Vec<u8>]) -> Vec<u8> {
    let rest = usual(5).into_iter().filter(|option| option[0] != code);
    packet(ADDR, &rest.chain(by.to_vec()).collect::<Vec<_>>())
}

fn hear(packet: &[u8]) -> String {
    match client().hear(XID, packet, range()) {
        Ok(Answer::Offer(terms)) => {
            format!("offer {terms} for {} {} {}", terms.time, terms.t1, terms.t2)
        }
        Ok(Answer::Ack(terms)) => {
            format!("ack {terms} for {} {} {}", terms.time, terms.t1, terms.t2)
        }
        Ok(Answer::Nak { server, text }) => format!("nak {server:?} {text}"),
        Err(deaf) => format!("deaf: {deaf}"),
    }
}

#[test]
fn answers_are_read_and_what_is_odd_is_named() {
    let full = "10.77.0.50/24 from 10.77.0.2 router 10.77.0.1";
    let seconds = |code, seconds: u32| option(code, &seconds.to_be_bytes());
    let broken = |why| format!("deaf: a broken message: {why}");
    let cases = [
        (with(2, &[]), format!("offer {full} for 120 60 105")),
        (with(5, &[]), format!("ack {full} for 120 60 105")),
        (with(5, &[seconds(58, 3), seconds(59, 100)]), format!("ack {full} for 120 3 100")),
        // Times that contradict each other.
        (with(5, &[seconds(58, 110), seconds(59, 100)]), format!("ack {full} for 120 60 100")),
        (with(5, &[seconds(58, 0), seconds(59, 400)]), format!("ack {full} for 120 60 105")),
        (instead(51, &[seconds(51, 1)]), format!("ack {full} for 1 0 1")),
        // Options that nobody asked for, padding, and one in two parts (RFC 3396).
        (
            with(5, &[option(43, &[1, 2]), vec![0, 0], option(250, &[0; 200])]),
            format!("ack {full} for 120 60 105"),
        ),
        (
            instead(3, &[option(3, &[10, 77]), option(3, &[0, 9])]),
            "ack 10.77.0.50/24 from 10.77.0.2 router 10.77.0.9 for 120 60 105".into(),
        ),
        // Routers: the first that is on the link; none is no fault.
        (
            instead(3, &[option(3, &[10, 9, 0, 1, 10, 77, 0, 7])]),
            "ack 10.77.0.50/24 from 10.77.0.2 router 10.77.0.7 for 120 60 105".into(),
        ),
        (instead(3, &[]), "ack 10.77.0.50/24 from 10.77.0.2 for 120 60 105".into()),
        (instead(1, &[]), format!("ack {full} for 120 60 105")),
        (
            instead(1, &[addr_option(1, "255.255.0.0")]),
            "ack 10.77.0.50/16 from 10.77.0.2 router 10.77.0.1 for 120 60 105".into(),
        ),
        (
            packet(
                "0.0.0.0",
                &[option(53, &[6]), addr_option(54, SERVER), option(56, b"wrong\nnetwork")],
            ),
            "nak Some(10.77.0.2) wrongnetwork".into(),
        ),
        (packet("0.0.0.0", &[option(53, &[6])]), "nak None ".into()),
        // What can't be used.
        (
            instead(1, &[addr_option(1, "255.0.255.0")]),
            "deaf: server 10.77.0.2 gives 10.77.0.50 with a netmask that is none".into(),
        ),
        (
            packet("192.0.2.9", &usual(2)),
            "deaf: server 10.77.0.2 gives 192.0.2.9, which is outside 10.77.0.0/24".into(),
        ),
        (
            packet("10.77.0.255", &usual(2)),
            "deaf: server 10.77.0.2 gives 10.77.0.255/24, which is no host's address".into(),
        ),
        (
            packet("0.0.0.0", &usual(2)),
            "deaf: server 10.77.0.2 gives 0.0.0.0, which is outside 10.77.0.0/24".into(),
        ),
        (instead(51, &[]), "deaf: server 10.77.0.2 gives 10.77.0.50 for no time".into()),
        (
            instead(51, &[seconds(51, 0)]),
            "deaf: server 10.77.0.2 gives 10.77.0.50 for no time".into(),
        ),
        (instead(54, &[]), broken("without the server's identifier")),
        (instead(54, &[addr_option(54, "0.0.0.0")]), broken("without the server's identifier")),
        (instead(51, &[option(51, &[1])]), broken("an option of a wrong length")),
        (instead(54, &[option(54, &[10, 77, 0, 2, 9])]), broken("an option of a wrong length")),
        (instead(53, &[]), broken("without a type")),
        (instead(53, &[option(53, &[3])]), broken("of a type that no server sends")),
        (with(5, &[vec![12, 200, 1]]), broken("an option is longer than the message")),
        // Somebody else's.
        (with(5, &[option(61, b"another")]), "deaf: an answer to somebody else".into()),
    ];
    for (packet, says) in cases {
        assert_eq!(hear(&packet), says);
    }
}

#[test]
fn what_is_for_another_is_not_heard() {
    // Offsets in the packet: 28 bytes of heads before the message.
    for (at, says) in [
        (28 + 4, "deaf: an answer to somebody else"),
        (28 + 1, "deaf: an answer to somebody else"),
        (28 + 33, "deaf: an answer to somebody else"),
        (28, "deaf: not a DHCP server's"),
        (28 + 239, "deaf: not a DHCP server's"),
    ] {
        let mut odd = with(5, &[]);
        odd[at] ^= 0x40;
        assert_eq!(hear(&odd), says, "{at}");
    }
}

#[test]
fn options_go_on_in_the_fields_for_names_where_it_is_said() {
    let split = |overload: u8| {
        let mut message = packet(ADDR, &[option(53, &[5]), option(52, &[overload])]);
        let file = [addr_option(54, SERVER), option(51, &120u32.to_be_bytes()), vec![255]].concat();
        message[28 + 108..28 + 108 + file.len()].copy_from_slice(&file);
        let sname = [addr_option(1, "255.255.255.0"), addr_option(3, "10.77.0.1")].concat();
        message[28 + 44..28 + 44 + sname.len()].copy_from_slice(&sname);
        hear(&message)
    };
    assert_eq!(split(3), "ack 10.77.0.50/24 from 10.77.0.2 router 10.77.0.1 for 120 60 105");
    assert_eq!(split(1), "ack 10.77.0.50/24 from 10.77.0.2 for 120 60 105");
    assert_eq!(split(2), "deaf: a broken message: without the server's identifier");
    assert_eq!(split(0), "deaf: a broken message: without the server's identifier");
    // A length that leaves the field.
    let mut message = packet(ADDR, &[usual(5), vec![option(52, &[1])]].concat());
    assert!(hear(&message).starts_with("ack"), "nothing but padding there");
    message[28 + 108..28 + 236].fill(0);
    message[28 + 234..28 + 236].copy_from_slice(&[12, 9]);
    assert_eq!(hear(&message), "deaf: a broken message: an option is longer than the message");
}

/// The same numbers in every run (xorshift64).
fn roll(dice: &mut u64, sides: usize) -> usize {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    usize::try_from(*dice % sides as u64).unwrap()
}

#[test]
fn no_message_however_broken_ends_us_or_gives_an_address_outside() {
    let overloaded = with(5, &[option(52, &[3]), option(55, &[1, 3, 6])]);
    let seeds = [with(2, &[]), with(5, &[option(250, &[7; 100])]), with(6, &[]), overloaded];
    let mut dice = 0x9e37_79b9_7f4a_7c15;
    let (mut heard, mut deaf) = (0, 0);
    let mut try_it = |packet: &[u8]| match client().hear(XID, packet, range()) {
        Ok(Answer::Offer(terms) | Answer::Ack(terms)) => {
            heard += 1;
            assert!(range().contains(&terms.addr) && terms.time > 0, "{terms:?}");
            assert!(terms.t1 <= terms.t2 && terms.t2 <= terms.time, "{terms:?}");
        }
        Ok(Answer::Nak { text, .. }) => assert!(text.chars().count() <= 128),
        Err(_) => deaf += 1,
    };
    for seed in &seeds {
        (0..=seed.len()).for_each(|length| try_it(&seed[..length]));
        // Each byte in all its values, then many at once, then cut as well.
        for at in 0..seed.len() {
            for value in 0..=255 {
                let mut odd = seed.clone();
                odd[at] = value;
                try_it(&odd);
            }
        }
        for _ in 0..50_000 {
            let mut odd = seed.clone();
            for _ in 0..=roll(&mut dice, 8) {
                // Mostly where options are.
                let at = if roll(&mut dice, 4) == 0 { 0 } else { 28 + 236 };
                let at = at + roll(&mut dice, seed.len() - at);
                odd[at] = u8::try_from(roll(&mut dice, 256)).unwrap();
            }
            if roll(&mut dice, 8) == 0 {
                odd.truncate(roll(&mut dice, seed.len()));
            }
            try_it(&odd);
        }
    }
    assert!(heard > 10_000 && deaf > 10_000, "{heard} {deaf}");
}

/// A client's message, as tcpdump would say it.
fn said(packet: &[u8]) -> String {
    let message = &packet[28..];
    let mut text = String::new();
    let mut options = &message[240..];
    while let [code, length, rest @ ..] = options {
        if *code == 255 {
            break;
        }
        let (value, rest) = rest.split_at(usize::from(*length));
        options = rest;
        let value = match code {
            12 => String::from_utf8(value.to_vec()).unwrap(),
            50 | 54 => value.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
            61 => "id".into(),
            _ => format!("{value:?}"),
        };
        text += &format!(" {code}={value}");
    }
    let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let ciaddr = Ipv4Addr::new(message[12], message[13], message[14], message[15]);
    assert_eq!((from, &message[..4], &message[28..34]), (ciaddr, &[1, 1, 6, 0][..], &MAC.0[..]));
    assert!(message.len() >= 300 && message[4..8] == XID.to_be_bytes());
    let broadcast = if message[10] == 0x80 { " broadcast" } else { "" };
    format!("{from} > {to}{broadcast}{text}")
}

#[test]
fn each_message_has_what_rfc_2131_table_5_asks_for() {
    let (addr, server) = (ip(ADDR), ip(SERVER));
    let rest = "12=web-0 55=[1, 3, 51, 58, 59]";
    for (ask, says) in [
        (
            Ask::Discover { want: None },
            format!("0.0.0.0 > 255.255.255.255 broadcast 53=[1] 61=id {rest}"),
        ),
        (
            Ask::Discover { want: Some(addr) },
            format!("0.0.0.0 > 255.255.255.255 broadcast 53=[1] 61=id 50={ADDR} {rest}"),
        ),
        (
            Ask::Select { addr, server },
            format!(
                "0.0.0.0 > 255.255.255.255 broadcast 53=[3] 61=id 50={ADDR} 54={SERVER} {rest}"
            ),
        ),
        (
            Ask::Reboot { addr },
            format!("0.0.0.0 > 255.255.255.255 broadcast 53=[3] 61=id 50={ADDR} {rest}"),
        ),
        (Ask::Renew { addr, server }, format!("{ADDR} > {SERVER} 53=[3] 61=id {rest}")),
        (Ask::Rebind { addr }, format!("{ADDR} > 255.255.255.255 53=[3] 61=id {rest}")),
        (Ask::Release { addr, server }, format!("{ADDR} > {SERVER} 53=[7] 61=id 54={SERVER}")),
    ] {
        assert_eq!(said(&client().say(&ask, XID, 0)), says);
    }
}

#[test]
fn an_identifier_is_the_pods_own_whatever_its_mac_address() {
    let id = |container, ifname, mac| {
        let packet = Client::new(&pod(container, ifname), mac, None).say(
            &Ask::Discover { want: None },
            XID,
            0,
        );
        packet[28 + 243..28 + 243 + 25].to_vec()
    };
    let first = id("c1", "eth0", MAC);
    assert_eq!(first[..3], [61, 23, 255]);
    assert_eq!(first, id("c1", "eth0", Mac([2, 0, 0, 0, 0, 9])));
    assert_ne!(first, id("c2", "eth0", MAC));
    assert_ne!(first, id("c1", "net1", MAC));
    for (name, host) in [("web-0", "web-0"), ("a.b", "a"), ("-x-", "x"), ("ü", ""), ("", "")] {
        let client = Client::new(&pod("c1", "eth0"), MAC, Some(name));
        let says = said(&client.say(&Ask::Discover { want: None }, XID, 0));
        assert_eq!(says.contains(&format!("12={host} ")), !host.is_empty(), "{name}: {says}");
    }
}

const START: Duration = Duration::from_secs(1000);

/// What an exchange does with these answers, each heard after so many milliseconds.
fn exchange(purpose: Purpose, answers: &[(u64, Vec<u8>)]) -> Vec<String> {
    let mut exchange = Exchange::new(client(), range(), purpose, XID, START);
    let mut answers = answers.iter();
    let mut answer = answers.next();
    let (mut now, mut log) = (START, Vec::new());
    loop {
        let at = |now: Duration| now.saturating_sub(START).as_millis();
        // The middle of the dice: neither sooner nor later.
        match exchange.step(now, 256) {
            Step::Send(packet, to) => {
                let kind = ["", "discover", "", "request"][usize::from(packet[28 + 242])];
                log.push(format!("{} {kind} {to}", at(now)));
            }
            Step::Over(why) => {
                log.push(format!("{} over: {why}", at(now)));
                return log;
            }
            Step::Wait(until) => {
                let heard = answer.filter(|(ms, _)| START + Duration::from_millis(*ms) <= until);
                let Some((ms, packet)) = heard else {
                    now = until;
                    continue;
                };
                answer = answers.next();
                now = START + Duration::from_millis(*ms);
                match exchange.hear(packet, now) {
                    Some(News::Offered(terms)) => log.push(format!("{ms} offered {terms}")),
                    Some(News::Leased(terms, since)) => {
                        log.push(format!("{ms} leased {terms} since {since}"));
                        return log;
                    }
                    Some(News::Withdrawn) => log.push(format!("{ms} withdrawn")),
                    Some(News::Refused(why)) => {
                        log.push(format!("{ms} refused: {why}"));
                        return log;
                    }
                    None => {}
                }
            }
        }
    }
}

#[test]
fn exchanges_end_well_or_say_why_not() {
    let full = "10.77.0.50/24 from 10.77.0.2 router 10.77.0.1";
    let all = "255.255.255.255";
    let nak =
        || packet("0.0.0.0", &[option(53, &[6]), addr_option(54, SERVER), option(56, b"gone")]);
    let other = |kind| packet("10.77.0.51", &usual(kind));
    let far = || packet("192.0.2.1", &usual(2));
    let (addr, server) = (ip(ADDR), ip(SERVER));
    let renew = || Purpose::Keep(Ask::Renew { addr, server });
    let rebind = || Purpose::Keep(Ask::Rebind { addr });
    let discovers: Vec<String> =
        [0, 1000, 3000, 7000].map(|at| format!("{at} discover {all}")).into();
    let and = |first: &[String], last: &str| [first, &[last.to_owned()]].concat();
    let cases: Vec<(Purpose, Vec<(u64, Vec<u8>)>, Vec<String>)> = vec![
        (Purpose::Obtain(None), vec![], and(&discovers, "10000 over: no DHCP server answered within 10 s")),
        (
            Purpose::Obtain(None),
            vec![(1500, with(2, &[])), (2600, with(5, &[]))],
            vec![
                discovers[0].clone(), discovers[1].clone(), format!("1500 offered {full}"),
                format!("1500 request {all}"), format!("2500 request {all}"),
                format!("2600 leased {full} since 1001"),
            ],
        ),
        (
            Purpose::Obtain(None),
            vec![(10, far()), (20, far())],
            and(&discovers, "10000 over: server 10.77.0.2 gives 192.0.2.1, which is outside 10.77.0.0/24"),
        ),
        (
            Purpose::Obtain(Some(addr)),
            vec![(10, other(2)), (20, with(2, &[])), (30, other(5)), (40, with(5, &[]))],
            vec![
                discovers[0].clone(), format!("20 offered {full}"), format!("20 request {all}"),
                format!("40 leased {full} since 1000"),
            ],
        ),
        (
            Purpose::Obtain(None),
            vec![(10, with(2, &[])), (8000, far())],
            vec![
                discovers[0].clone(), format!("10 offered {full}"), format!("10 request {all}"),
                format!("1010 request {all}"), format!("3010 request {all}"), format!("7010 request {all}"),
                "10000 over: server 10.77.0.2 offered 10.77.0.50 and did not acknowledge it within 10 s; \
                 server 10.77.0.2 gives 192.0.2.1, which is outside 10.77.0.0/24".into(),
            ],
        ),
        (
            Purpose::Obtain(None),
            vec![(10, with(2, &[])), (20, nak())],
            vec![
                discovers[0].clone(), format!("10 offered {full}"), format!("10 request {all}"),
                "20 withdrawn".into(),
                format!("1020 discover {all}"), format!("2020 discover {all}"), format!("4020 discover {all}"),
                format!("8020 discover {all}"),
                "10000 over: server 10.77.0.2 offered 10.77.0.50 and refused it (gone)".into(),
            ],
        ),
        (Purpose::Regain(addr), vec![(10, other(2))], and(&discovers, "10000 over: server 10.77.0.2 offers 10.77.0.51, not 10.77.0.50")),
        (renew(), vec![(5, with(5, &[]))], vec!["0 request 10.77.0.2".into(), format!("5 leased {full} since 1000")]),
        (renew(), vec![(5, nak())], vec!["0 request 10.77.0.2".into(), "5 refused: server 10.77.0.2 refused 10.77.0.50 (gone)".into()]),
        (
            renew(),
            vec![(5, other(5)), (6, with(2, &[]))],
            vec![
                "0 request 10.77.0.2".into(), "1000 request 10.77.0.2".into(), "3000 request 10.77.0.2".into(),
                "4000 over: server 10.77.0.2 did not answer within 4 s; server 10.77.0.2 answered with 10.77.0.51, not 10.77.0.50".into(),
            ],
        ),
        (rebind(), vec![(5, packet("0.0.0.0", &[option(53, &[6])]))], vec![format!("0 request {all}"), "5 refused: a server refused 10.77.0.50".into()]),
        (rebind(), vec![(5, with(5, &[]))], vec![format!("0 request {all}"), format!("5 leased {full} since 1000")]),
    ];
    for (purpose, answers, log) in cases {
        assert_eq!(exchange(purpose.clone(), &answers), log, "{purpose:?}");
    }
}

fn lease(standing: Standing, time: u32) -> Lease {
    let (t1, t2) = (time / 2, time - time / 8);
    let terms =
        Terms { addr: ip(ADDR), prefix_len: 24, router: None, server: ip(SERVER), time, t1, t2 };
    Lease { terms, since: 1000, via: MAC, standing }
}

#[test]
fn a_lease_is_renewed_then_rebound_then_over() {
    let (held, addr, server) = (lease(Standing::Held, 120), ip(ADDR), ip(SERVER));
    let at = |seconds: u64| Duration::from_secs(1000 + seconds);
    for (now, due, again) in [
        (0, Due::Not(at(60)), 52_500),
        (59, Due::Not(at(60)), 82_000),
        (60, Due::Now(Purpose::Keep(Ask::Renew { addr, server })), 82_500),
        (100, Due::Now(Purpose::Keep(Ask::Renew { addr, server })), 105_000),
        (105, Due::Now(Purpose::Keep(Ask::Rebind { addr })), 120_000),
        (119, Due::Now(Purpose::Keep(Ask::Rebind { addr })), 120_000),
        (120, Due::Expired, 135_000),
    ] {
        assert_eq!(held.due(at(now)), due, "{now}");
        assert_eq!(held.again(at(now)).saturating_sub(at(0)).as_millis(), again, "{now}");
    }
    let lost = lease(Standing::Lost("expired".into()), 120);
    assert_eq!(lost.due(at(1)), Due::Now(Purpose::Regain(addr)));
    assert_eq!(lost.again(at(1)), at(16));
    let for_ever = lease(Standing::Held, u32::MAX);
    assert_eq!((for_ever.due(at(9_999_999)), for_ever.end()), (Due::Not(Duration::MAX), None));
    // A long one: halfway, and a minute at most often.
    let long = lease(Standing::Held, 86_400);
    assert_eq!(long.again(at(43_200)), at(43_200 + 16_200));
    assert_eq!(long.again(at(75_590)), at(75_600));
}

#[test]
fn a_lease_is_read_as_it_was_written() {
    for standing in [Standing::Offered, Standing::Held, Standing::Lost("expired".into())] {
        let lease = lease(standing, 60);
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease, "{text}");
    }
}
