//! Every state and every event that can come in it: what is sent, which connections are made and
//! closed, what state follows, and what is kept of the neighbour's routes. `states.txt` is the whole
//! table; what comes out different is printed.

use weft_bgp::{
    Closed, Event,
    attrs::Family,
    wire::{Capability, GracefulRestart, Message, Notification, Refresh, RouteRefresh, Update},
};

use crate::{
    bench::{Bench, established, of_as, open, openconfirm, opensent, plain},
    net::Numbers,
    pair::SECOND,
    setting::{addr, node},
};

fn notification(code: u8, subcode: u8) -> Message {
    Message::Notification(Notification { code, subcode, data: vec![] })
}

fn refresh(kind: Refresh) -> Message {
    Message::RouteRefresh(RouteRefresh { family: Family::Ipv4, kind })
}

type Step = fn(&mut Bench);

const STATES: &[(&str, Step)] = &[
    ("active", |_| ()),
    ("idle, after an error", |b| {
        opensent(b);
        b.send(&open(|o| of_as(o, 1)));
    }),
    ("connect", |b| b.wait(1)),
    ("opensent", opensent),
    ("opensent, it connected", Bench::accepted),
    ("opensent twice, spoken on its", |b| {
        opensent(b);
        b.accepted();
    }),
    ("openconfirm", openconfirm),
    ("openconfirm, and its is opensent", |b| {
        openconfirm(b);
        b.accepted();
    }),
    ("openconfirm on its, and ours is opensent", |b| {
        opensent(b);
        let ours = b.conn;
        b.accepted();
        b.send(&open(|_| ()));
        b.conn = ours;
    }),
    ("established", established),
    ("established without graceful restart", |b| {
        opensent(b);
        b.send(&open(plain));
        b.event(Event::Bfd(addr(2), Ok(())));
        b.send(&Message::Keepalive);
        b.update();
    }),
    ("established for long, and its is opensent", |b| {
        established(b);
        for _ in 0..4 {
            b.pass(SECOND * 3);
            b.send(&Message::Keepalive);
        }
        b.accepted();
    }),
    ("active, while it restarts", |b| {
        established(b);
        b.event(Event::Closed(b.conn, Closed::ByPeer));
    }),
    ("openconfirm, after its restart", |b| {
        established(b);
        b.event(Event::Closed(b.conn, Closed::ByPeer));
        b.accepted();
        b.send(&open(|_| ()));
    }),
    ("opensent, after our own restart", |b| {
        b.restarted();
        b.accepted();
    }),
    ("established, after our own restart", |b| {
        b.restarted();
        b.accepted();
        b.send(&open(|_| ()));
        b.send(&Message::Keepalive);
    }),
    ("idle, after too many routes", |b| {
        b.configure(|c| c.neighbours.values_mut().for_each(|n| n.routes_max = 0));
        established(b);
    }),
];

const EVENTS: &[(&str, Step)] = &[
    ("connected", |b| b.event(Event::Connected(b.conn))),
    ("closed by peer", |b| b.event(Event::Closed(b.conn, Closed::ByPeer))),
    ("broken", |b| b.event(Event::Closed(b.conn, Closed::Broken("timed out".into())))),
    ("it connects", Bench::accepted),
    ("OPEN", |b| b.send(&open(|_| ()))),
    ("OPEN, forwarding lost", |b| {
        b.send(&open(|o| {
            plain(o);
            o.capabilities.push(Capability::GracefulRestart(GracefulRestart::default()));
        }));
        b.send(&Message::Keepalive);
    }),
    ("OPEN, no F bit", |b| {
        b.send(&open(|o| {
            plain(o);
            let families = vec![(Family::Ipv4, false)];
            let graceful = GracefulRestart { families, ..GracefulRestart::default() };
            o.capabilities.push(Capability::GracefulRestart(graceful));
        }));
        b.send(&Message::Keepalive);
    }),
    ("OPEN, other AS", |b| b.send(&open(|o| of_as(o, 65002)))),
    ("OPEN, our router id", |b| b.send(&open(|o| o.router_id = [10, 0, 0, 1].into()))),
    ("OPEN, hold time 1", |b| b.send(&open(|o| o.hold_time = 1))),
    ("OPEN, hold time 0", |b| b.send(&open(|o| o.hold_time = 0))),
    ("OPEN, no family", |b| {
        let other = Capability::Other { code: 1, value: vec![0, 25, 0, 70] };
        b.send(&open(|o| o.capabilities = vec![other]));
    }),
    ("KEEPALIVE", |b| b.send(&Message::Keepalive)),
    ("UPDATE", Bench::update),
    ("End-of-RIB", |b| {
        b.send(&Message::Update(Update { end_of_rib: Some(Family::Ipv4), ..Update::default() }));
    }),
    ("UPDATE, malformed", |b| {
        b.bytes(&[&[0xff; 16][..], &[0, 25, 2, 0, 9, 0, 0, 1, 2][..]].concat());
    }),
    ("ROUTE-REFRESH", |b| b.send(&refresh(Refresh::Request))),
    ("BoRR, EoRR", |b| {
        b.send(&refresh(Refresh::Begin));
        b.send(&refresh(Refresh::End));
    }),
    ("NOTIFICATION", |b| b.send(&notification(3, 1))),
    ("CEASE, reset", |b| b.send(&notification(6, 4))),
    ("CEASE, collision", |b| b.send(&notification(6, 7))),
    ("garbage", |b| b.bytes(b"GET / HTTP/1.0\r\n\r\n    ")),
    ("half a message", |b| b.bytes(&[0xff; 18])),
    ("unknown type", |b| b.bytes(&[&[0xff; 16][..], &[0, 19, 9]].concat())),
    ("BFD up", |b| b.event(Event::Bfd(addr(2), Ok(())))),
    ("BFD down", |b| b.event(Event::Bfd(addr(2), Err("no packet".into())))),
    ("a timer", |b| b.wait(1)),
    ("ten seconds", |b| b.pass(SECOND * 10)),
    ("filter changes", |b| {
        b.configure(|c| c.neighbours.values_mut().for_each(|n| n.import.else_pass = false));
    }),
    ("hold time changes", |b| {
        b.configure(|c| c.neighbours.values_mut().for_each(|n| n.hold_time = 30));
    }),
    ("AS changes", |b| {
        b.configure(|c| c.neighbours.values_mut().for_each(|n| n.remote_as = 65002));
    }),
    ("router id changes", |b| b.configure(|c| c.router_id = [10, 0, 0, 7].into())),
    ("removed", |b| b.configure(|c| c.neighbours.clear())),
    ("stop", |b| {
        b.speaker.stop(false, b.now);
        b.watch();
    }),
    ("stop for good", |b| {
        b.speaker.stop(true, b.now);
        b.watch();
    }),
];

#[test]
fn every_event_in_every_state() {
    let mut table = String::new();
    for (state, reach) in STATES {
        table.push_str(&format!("{state}\n"));
        for (event, happen) in EVENTS {
            let mut bench = Bench::new();
            reach(&mut bench);
            bench.watch();
            bench.said.clear();
            happen(&mut bench);
            table.push_str(&format!("  {event} → {}\n", bench.outcome()));
            goes_on(bench, state, event);
        }
    }
    let expected = include_str!("states.txt");
    let other: Vec<_> = table.lines().filter(|line| !expected.contains(line)).collect();
    assert!(table == expected, "different:\n{}\nwhole:\n{table}", other.join("\n"));
}

#[test]
fn any_row_of_events_wedges_nothing() {
    for seed in 1..=3000 {
        let (mut numbers, mut bench) = (Numbers(seed), Bench::new());
        let mut pick = |most: usize| usize::try_from(numbers.below(most as u64)).unwrap();
        for _ in 0..10 {
            // Half of the time on the way to Established, or hardly anything would get there.
            match pick(8) {
                0 => opensent(&mut bench),
                1 => bench.accepted(),
                2 => bench.send(&open(|_| ())),
                3 => bench.send(&Message::Keepalive),
                _ => EVENTS[pick(EVENTS.len() - 2)].1(&mut bench),
            }
            assert!(bench.speaker.deadline().is_none_or(|next| next + SECOND > bench.now));
        }
        goes_on(bench, "any", &format!("seed {seed}"));
    }
}

#[test]
fn any_bytes_wedge_nothing() {
    for seed in 1..=2000 {
        let mut numbers = Numbers(seed);
        let mut below = |most: u64| numbers.below(most);
        let mut bench = Bench::new();
        STATES[usize::try_from(below(STATES.len() as u64)).unwrap()].1(&mut bench);
        for _ in 0..3 {
            let kind = u8::try_from(1 + below(5)).unwrap();
            let length = if kind == 4 { 0 } else { below(60) };
            let body = (0..length).map(|_| u8::try_from(below(256)).unwrap());
            let header = [&[0xff; 16][..], &[0, u8::try_from(19 + length).unwrap(), kind]].concat();
            let message: Vec<_> = header.into_iter().chain(body).collect();
            bench.bytes(&message);
        }
        goes_on(bench, "any", &format!("seed {seed}"));
    }
}

/// Whatever happened, the neighbour can come back.
fn goes_on(mut bench: Bench, state: &str, event: &str) {
    if event.starts_with("stop") {
        assert_eq!(bench.speaker.deadline(), None, "{state}, {event}");
        return;
    }
    let neighbours = node(1, [2]).neighbours;
    bench.configure(|c| (c.neighbours, c.router_id) = (neighbours, [10, 0, 0, 1].into()));
    // Longer than it is shut out; whatever is made here stays without an answer.
    bench.pass(SECOND * 700);
    for _ in 0..20 {
        if bench.speaker.neighbours(bench.now)[0].state == "established" {
            break;
        }
        bench.pass(SECOND);
        bench.accepted();
        bench.send(&open(|_| ()));
        bench.send(&Message::Keepalive);
    }
    let report = bench.speaker.neighbours(bench.now).remove(0);
    assert_eq!(report.state, "established", "{state}, {event}: {report:?}");
}
