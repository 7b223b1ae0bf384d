//! One speaker at the bench: its only neighbour is the test, which speaks by hand.

use std::time::Duration;

use weft_bgp::{
    Action, Conn, Event, Speaker, Time,
    attrs::{Attrs, Family, NextHop},
    config::Config,
    wire::{self, Agreed, Capability, Frames, GracefulRestart, Message, Open, Packer},
};

use crate::{
    pair::SECOND,
    setting::{AS, addr, node, route4},
};

pub struct Bench {
    pub speaker: Speaker,
    pub config: Config,
    pub now: Time,
    /// The connection that is spoken on.
    pub conn: Conn,
    pub said: Vec<String>,
}

impl Bench {
    pub fn new() -> Self {
        let now = SECOND;
        let config = Config { originated: [].into(), ..node(1, [2]) };
        let mut speaker = Speaker::new(now);
        speaker.configure(config.clone(), now);
        Self { speaker, config, now, conn: Conn(0), said: vec![] }
    }

    pub fn event(&mut self, event: Event) {
        if let Some(conn) = self.speaker.handle(event, self.now) {
            self.said.push(format!("welcome {}", conn.0));
            self.conn = conn;
        }
        self.watch();
    }

    /// What the speaker says and does.
    pub fn watch(&mut self) {
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

    pub fn write(&mut self, conn: Conn) {
        let (mut bytes, mut frames) = (vec![], Frames::default());
        self.speaker.outgoing(conn, &mut bytes, 10_000, self.now);
        frames.push(&bytes);
        while let Some(message) = frames.cut().unwrap() {
            let message = wire::read(&message, &agreed()).unwrap().unwrap();
            self.said.push(format!("{} {}", conn.0, name(&message)));
        }
    }

    pub fn send(&mut self, message: &Message) {
        let mut bytes = vec![];
        wire::write(message, &agreed(), &mut bytes);
        self.bytes(&bytes);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.event(Event::Bytes(self.conn, bytes));
    }

    pub fn update(&mut self) {
        let attrs = Attrs { local_pref: Some(100), ..Attrs::default() };
        let next_hop = NextHop::V4([10, 0, 0, 2].into());
        let mut packer = Packer::announce(&attrs, next_hop, Family::Ipv4, &agreed()).unwrap();
        assert!(packer.add(&route4(2)));
        let mut bytes = vec![];
        packer.finish(&mut bytes);
        self.bytes(&bytes);
    }

    /// Time passes until something is due, that many times.
    pub fn wait(&mut self, times: u32) {
        for _ in 0..times {
            self.now = self.speaker.deadline().unwrap_or(self.now).max(self.now);
            self.speaker.tick(self.now);
            self.watch();
        }
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.speaker.deadline().is_some_and(|next| next <= end) {
            self.wait(1);
        }
        self.now = end;
    }

    pub fn accepted(&mut self) {
        self.event(Event::Accepted { from: addr(2), to: addr(1) });
    }

    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.speaker.configure(self.config.clone(), self.now);
        self.watch();
    }

    /// We are killed, with a session that stood, and go on.
    pub fn restarted(&mut self) {
        established(self);
        self.speaker = Speaker::restarted(&self.speaker.keep(), self.now);
        self.speaker.configure(self.config.clone(), self.now);
        assert!(self.speaker.settling());
    }

    pub fn outcome(&mut self) -> String {
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

pub fn agreed() -> Agreed {
    Agreed { four_octet_as: true, ipv4: true, ipv6: true, ..Agreed::default() }
}

pub fn name(message: &Message) -> String {
    match message {
        Message::Open(_) => "OPEN".to_owned(),
        Message::Update(update) if update.end_of_rib.is_some() => "End-of-RIB".to_owned(),
        Message::Update(_) => "UPDATE".to_owned(),
        Message::Notification(why) => format!("NOTIFICATION {why}"),
        Message::Keepalive => "KEEPALIVE".to_owned(),
        Message::RouteRefresh(refresh) => format!("ROUTE-REFRESH {:?}", refresh.kind),
    }
}

pub fn open(change: impl FnOnce(&mut Open)) -> Message {
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

pub fn of_as(open: &mut Open, asn: u32) {
    open.asn = asn;
    open.capabilities.push(Capability::FourOctetAs(asn));
}

pub fn plain(open: &mut Open) {
    open.capabilities.retain(|c| !matches!(c, Capability::GracefulRestart(_)));
}

pub fn opensent(bench: &mut Bench) {
    bench.wait(1);
    bench.event(Event::Connected(bench.conn));
}

pub fn openconfirm(bench: &mut Bench) {
    opensent(bench);
    bench.send(&open(|_| ()));
}

pub fn established(bench: &mut Bench) {
    openconfirm(bench);
    bench.event(Event::Bfd(addr(2), Ok(())));
    bench.send(&Message::Keepalive);
    bench.update();
}
