//! All sessions of a node. Told what comes in and what the time is, it says what is to be sent and
//! which neighbours are up.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::{
    PORT, Settings, TTL, kept,
    packet::{Control, LENGTH},
    report::{Refusal, Report},
    session::Session,
    state::{Diag, State},
    timing::Dice,
};
use crate::Time;

/// Source ports (RFC 5881, 4).
const SOURCE_PORTS: (u32, u32) = (49152, 65535);

/// What happened to a neighbour. What is switched off on purpose is not told (RFC 5882, 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Up,
    Down { why: String, diag: Diag },
}

/// A datagram to be sent with TTL 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub peer: IpAddr,
    pub local: IpAddr,
    /// Of this session alone, and the same for all of its packets.
    pub source_port: u16,
    pub port: u16,
    pub bytes: [u8; LENGTH],
}

pub struct Bfd {
    dice: Dice,
    sessions: BTreeMap<IpAddr, Session>,
    by_discriminator: BTreeMap<u32, IpAddr>,
    /// Sessions that are no longer wanted, until their other sides will have heard it.
    leaving: Vec<(Session, Time)>,
    packets: VecDeque<Packet>,
    changes: VecDeque<(IpAddr, Change)>,
    version: u64,
    /// When the next `tick` was to be at the latest.
    expected: Option<Time>,
}

impl Bfd {
    /// Without sessions. Discriminators, source ports and jitter follow from the seed, which should be
    /// different every time.
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed),
            sessions: BTreeMap::new(),
            by_discriminator: BTreeMap::new(),
            leaving: Vec::new(),
            packets: VecDeque::new(),
            changes: VecDeque::new(),
            version: 0,
            expected: None,
        }
    }

    /// With the sessions of an earlier one (`keep`), which go on at once.
    pub fn restored(kept: &[u8], seed: u64, now: Time) -> Self {
        let mut bfd = Self::new(seed);
        for kept in kept::read(kept) {
            if !bfd.by_discriminator.contains_key(&kept.discriminator) {
                bfd.insert(kept.peer, Session::resumed(&kept, now));
            }
        }
        bfd
    }

    /// What a successor needs; other than before whenever `version` is.
    pub fn keep(&self) -> Vec<u8> {
        kept::write(self.sessions.values().map(Session::kept))
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// All neighbours that are to be watched from now on. Idempotent; changed times are agreed with
    /// the neighbour, a changed address or kind begins a session anew.
    pub fn configure(&mut self, wanted: BTreeMap<IpAddr, Settings>, now: Time) {
        let gone: Vec<IpAddr> = self
            .sessions
            .iter()
            .filter(|(peer, session)| {
                wanted.get(*peer).is_none_or(|settings| !session.can_become(settings))
            })
            .map(|(peer, _)| *peer)
            .collect();
        gone.into_iter().for_each(|peer| self.leave(peer, now));
        for (peer, settings) in wanted {
            if self.sessions.contains_key(&peer) {
                self.on(peer, |session, dice| session.become_so(settings, now, dice));
            } else {
                let (discriminator, port) = (self.new_discriminator(), self.new_port());
                self.insert(peer, Session::new(peer, settings, discriminator, port, now));
            }
        }
    }

    /// A datagram that came in on a port of ours.
    pub fn receive(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        ttl: u8,
        port: u16,
        bytes: &[u8],
        now: Time,
    ) -> Result<(), Refusal> {
        let meant = self.meant(from, to, ttl, port, bytes);
        if let (Err(refusal), Some(session)) = (&meant, self.sessions.get_mut(&from)) {
            session.refuse(*refusal);
        }
        let (peer, control) = meant?;
        let said = self.on(peer, |session, dice| session.hears(&control, now, dice));
        said.into_iter().for_each(|said| self.say(peer, said));
        Ok(())
    }

    /// Whom a datagram is for, and what it says.
    fn meant(
        &self,
        from: IpAddr,
        to: IpAddr,
        ttl: u8,
        port: u16,
        bytes: &[u8],
    ) -> Result<(IpAddr, Control), Refusal> {
        if port == PORT && ttl != TTL {
            return Err(Refusal::Ttl);
        }
        let control = Control::read(bytes)?;
        let peer = match control.yours {
            0 if matches!(control.state, State::Init | State::Up) => return Err(Refusal::Unasked),
            0 => from,
            // Whatever address it came from (RFC 5880, 6.3).
            yours => *self.by_discriminator.get(&yours).ok_or(Refusal::Discriminator)?,
        };
        let session = self.sessions.get(&peer).ok_or(Refusal::Stranger)?;
        if session.settings.port() != port {
            return Err(Refusal::Port);
        }
        if session.settings.on_link && ttl != TTL {
            return Err(Refusal::Ttl);
        }
        if control.yours == 0 && session.settings.local != to {
            return Err(Refusal::Address);
        }
        Ok((peer, control))
    }

    /// Whatever is due by now. To be called at `deadline` and whenever something came in, after all of
    /// it was given to `receive`; harmless at any time.
    ///
    /// Who calls it later than `deadline` by a whole detection time has not heard what came in
    /// meanwhile, or lost it: that session's silence counts from now.
    pub fn tick(&mut self, now: Time) {
        let slept = self.expected.map_or(Duration::ZERO, |then| now.saturating_sub(then));
        let is_due = |session: &Session| session.deadline().is_some_and(|due| due <= now);
        let due = self.sessions.iter().filter(|(_, session)| is_due(session));
        let due: Vec<IpAddr> = due.map(|(peer, _)| *peer).collect();
        for peer in due {
            let said = self.on(peer, |session, dice| {
                let resumed = session.resumed;
                session.slept(slept, now);
                (resumed, session.tick(now, dice))
            });
            let Some((resumed, said)) = said else { continue };
            // The earlier program knew it as up: so who listens here is told both.
            let was_up = (resumed && said.0.is_some()).then_some((peer, Change::Up));
            self.changes.extend(was_up);
            self.say(peer, said);
        }
        let leaving = self.leaving.len();
        self.leaving.retain(|(_, until)| now < *until);
        self.version += u64::from(self.leaving.len() != leaving);
        for (session, _) in &mut self.leaving {
            let (_, control) = session.tick(now, &mut self.dice);
            self.packets.extend(control.map(|control| packet(session, &control)));
        }
        self.expected = self.deadline();
    }

    /// When `tick` is to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let sessions = self.sessions.values().filter_map(Session::deadline);
        let leaving = self.leaving.iter();
        let leaving = leaving
            .map(|(session, until)| session.deadline().map_or(*until, |due| due.min(*until)));
        sessions.chain(leaving).min()
    }

    /// What is to be sent next.
    pub fn transmit(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// What happened next.
    pub fn event(&mut self) -> Option<(IpAddr, Change)> {
        self.changes.pop_front()
    }

    /// The session's source port can't be had: it takes another, which is returned.
    pub fn another_port(&mut self, peer: IpAddr) -> Option<u16> {
        let port = self.new_port();
        self.on(peer, |session, _| session.source_port = port).map(|()| port)
    }

    /// Before a restart that is planned: asks all to wait for so long before they take us for dead.
    /// Once it `is_settled` they do.
    pub fn ask_patience(&mut self, time: Duration, now: Time) {
        let peers: Vec<IpAddr> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.on(peer, |session, dice| session.ask_patience(time, now, dice));
        }
        self.tick(now);
    }

    /// All neighbours that are up know what they were told last.
    pub fn is_settled(&self) -> bool {
        self.sessions.values().all(Session::is_settled)
    }

    /// Says to all that it is switched off, so that nobody takes it for dead.
    pub fn stop(&mut self, now: Time) {
        self.configure(BTreeMap::new(), now);
        self.tick(now);
    }

    /// Where packets are expected: this address means any of its family.
    pub fn listens(&self) -> BTreeSet<SocketAddr> {
        let any = |local: IpAddr| match local {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let settings = self.sessions.values().map(|session| &session.settings);
        settings.map(|settings| SocketAddr::new(any(settings.local), settings.port())).collect()
    }

    /// True if packets may still be sent to it. Another answer comes with another `version`.
    pub fn speaks_to(&self, peer: IpAddr) -> bool {
        self.sessions.contains_key(&peer)
            || self.leaving.iter().any(|(session, _)| session.peer == peer)
    }

    pub fn reports(&self, now: Time) -> BTreeMap<IpAddr, Report> {
        self.sessions.iter().map(|(peer, session)| (*peer, session.report(now))).collect()
    }

    /// Does something to a session, and sees whether a successor must know.
    fn on<T>(&mut self, peer: IpAddr, act: impl FnOnce(&mut Session, &mut Dice) -> T) -> Option<T> {
        let session = self.sessions.get_mut(&peer)?;
        let before = session.kept();
        let done = act(session, &mut self.dice);
        self.version += u64::from(session.kept() != before);
        Some(done)
    }

    fn say(&mut self, peer: IpAddr, (change, control): (Option<Change>, Option<Control>)) {
        let Some(session) = self.sessions.get(&peer) else { return };
        self.packets.extend(control.map(|control| packet(session, &control)));
        self.changes.extend(change.map(|change| (peer, change)));
    }

    fn insert(&mut self, peer: IpAddr, session: Session) {
        self.by_discriminator.insert(session.discriminator, peer);
        self.sessions.insert(peer, session);
        self.version += 1;
    }

    fn leave(&mut self, peer: IpAddr, now: Time) {
        let Some(mut session) = self.sessions.remove(&peer) else { return };
        self.by_discriminator.remove(&session.discriminator);
        self.version += 1;
        let until = now + session.remote_detection();
        session.switch_off(now, &mut self.dice);
        self.leaving.push((session, until));
    }

    fn new_discriminator(&mut self) -> u32 {
        loop {
            let number = self.dice.between(1, u32::MAX);
            if !self.by_discriminator.contains_key(&number) {
                return number;
            }
        }
    }

    /// One that no other session has, as long as there are such.
    fn new_port(&mut self) -> u16 {
        let (least, most) = SOURCE_PORTS;
        let mut port = 0;
        for _ in 0..64 {
            port = u16::try_from(self.dice.between(least, most)).unwrap_or(u16::MAX);
            if self.sessions.values().all(|session| session.source_port != port) {
                break;
            }
        }
        port
    }
}

fn packet(session: &Session, control: &Control) -> Packet {
    Packet {
        peer: session.peer,
        local: session.settings.local,
        source_port: session.source_port,
        port: session.settings.port(),
        bytes: control.write(),
    }
}
