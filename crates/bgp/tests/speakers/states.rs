//! Every state and every event that can come in it: what is sent, which connections are made and
//! closed, what state follows, and what is kept of the neighbour's routes. `states.txt` is the whole
//! table; what comes out different is printed.

use std::time::Duration;

use weft_bgp::{
    Action, Closed, Conn, Event, Speaker, Time,
    attrs::{Attrs, Family, NextHop},
    config::Config,
    wire::{
        self, Agreed, Capability, Frames, GracefulRestart, Message, Notification, Open, Packer,
        Refresh, RouteRefresh, Update,
    },
};

use crate::{
    net::Numbers,
    pair::SECOND,
    setting::{AS, addr, node, route4},
};

/// One speaker, whose only neighbour is the test.
struct Bench {
    speaker: Speaker,
    config: Config,
    now: Time,
    /// The connection that is spoken on.
    conn: Conn,
    said: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        let now = SECOND;
        let config = Config { originated: [].into(), ..node(1, [2]) };
        let mut speaker = Speaker::new(now);
        speaker.configure(config.clone(), now);
        Self { speaker, config, now, conn: Conn(0), said: vec![] }
    }

    fn event(&mut self, event: Event) {
        if let Some(conn) = self.speaker.handle(event, self.now) {
            self.said.push(format!("welcome {}", conn.0));
            self.conn = conn;
        }
        self.watch();
    }

    /// What the speaker says and does.
    fn watch(&mut self) {
        while let Some(action) = self.speaker.action() {
            match action {
                Action::Connect { conn, .. } => {
                    self.said.push(format!("connect {}", conn.0));
                    self.conn = conn;
                }
                Action::Close(conn) => {
                    self.write(conn);
                    self.said.push(format!("close {}", conn.0));
                }
            }
        }
        (1..=9).for_each(|conn| self.write(Conn(conn)));
    }

    fn write(&mut self, conn: Conn) {
        let (mut bytes, mut frames) = (vec![], Frames::default());
        self.speaker.outgoing(conn, &mut bytes, 10_000, self.now);
        frames.push(&bytes);
        while let Some(message) = frames.cut().unwrap() {
            let message = wire::read(&message, &agreed()).unwrap().unwrap();
            self.said.push(format!("{} {}", conn.0, name(&message)));
        }
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = vec![];
        wire::write(message, &agreed(), &mut bytes);
        self.bytes(&bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.event(Event::Bytes(self.conn, bytes));
    }

    fn update(&mut self) {
        let attrs = Attrs { local_pref: Some(100), ..Attrs::default() };
        let next_hop = NextHop::V4([10, 0, 0, 2].into());
        let mut packer = Packer::announce(&attrs, next_hop, Family::Ipv4, &agreed()).unwrap();
        assert!(packer.add(&route4(2)));
        let mut bytes = vec![];
        packer.finish(&mut bytes);
        self.bytes(&bytes);
    }

    /// Time passes until something is due, that many times.
    fn wait(&mut self, times: u32) {
        for _ in 0..times {
            self.now = self.speaker.deadline().unwrap_or(self.now).max(self.now);
            self.speaker.tick(self.now);
            self.watch();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.speaker.deadline().is_some_and(|next| next <= end) {
            self.wait(1);
        }
        self.now = end;
    }

    fn accepted(&mut self) {
        self.event(Event::Accepted { from: addr(2), to: addr(1) });
    }

    fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.speaker.configure(self.config.clone(), self.now);
        self.watch();
    }

    fn outcome(&mut self) -> String {
        let report = self.speaker.neighbours(self.now).pop();
        let state = report.map_or("no neighbour".to_owned(), |report| report.state);
        let routes = match self.speaker.learnt().pop() {
            None => "",
            Some(learnt) if learnt.stale => ", stale route",
            Some(_) => ", route",
        };
        let said = if self.said.is_empty() { "-".to_owned() } else { self.said.join(", ") };
        format!("{state}{routes}: {said}")
    }
}

fn agreed() -> Agreed {
    Agreed { four_octet_as: true, ipv4: true, ipv6: true, ..Agreed::default() }
}

fn name(message: &Message) -> String {
    match message {
        Message::Open(_) => "OPEN".to_owned(),
        Message::Update(update) if update.end_of_rib.is_some() => "End-of-RIB".to_owned(),
        Message::Update(_) => "UPDATE".to_owned(),
        Message::Notification(why) => format!("NOTIFICATION {why}"),
        Message::Keepalive => "KEEPALIVE".to_owned(),
        Message::RouteRefresh(refresh) => format!("ROUTE-REFRESH {:?}", refresh.kind),
    }
}

fn open(change: impl FnOnce(&mut Open)) -> Message {
    let graceful = GracefulRestart {
        restarted: false,
        notification: false,
        seconds: 30,
        families: vec![(Family::Ipv4, true)],
    };
    let mut open = Open {
        asn: AS,
        hold_time: 9,
        router_id: [10, 0, 0, 2].into(),
        capabilities: vec![
            Capability::Multiprotocol(Family::Ipv4),
            Capability::FourOctetAs(AS),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::GracefulRestart(graceful),
        ],
    };
    change(&mut open);
    Message::Open(open)
}

fn of_as(open: &mut Open, asn: u32) {
    open.asn = asn;
    open.capabilities.push(Capability::FourOctetAs(asn));
}

fn plain(open: &mut Open) {
    open.capabilities.retain(|c| !matches!(c, Capability::GracefulRestart(_)));
}

fn notification(code: u8, subcode: u8) -> Message {
    Message::Notification(Notification { code, subcode, data: vec![] })
}

fn refresh(kind: Refresh) -> Message {
    Message::RouteRefresh(RouteRefresh { family: Family::Ipv4, kind })
}

type Step = fn(&mut Bench);

fn opensent(bench: &mut Bench) {
    bench.wait(1);
    bench.event(Event::Connected(bench.conn));
}

fn openconfirm(bench: &mut Bench) {
    opensent(bench);
    bench.send(&open(|_| ()));
}

fn established(bench: &mut Bench) {
    openconfirm(bench);
    bench.event(Event::Bfd(addr(2), Ok(())));
    bench.send(&Message::Keepalive);
    bench.update();
}

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
