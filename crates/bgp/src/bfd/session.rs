//! One session: what it makes of what it hears and of silence, and what it says when.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    Settings,
    kept::{Kept, Remote},
    packet::Control,
    report::{Refusal, Report},
    set::Change,
    state::{Diag, State},
    timing::{Dice, INTERVAL_MIN, Pace, Poll, SLOW},
};
use crate::Time;

pub struct Session {
    pub peer: IpAddr,
    pub settings: Settings,
    pub discriminator: u32,
    pub source_port: u16,
    pub state: State,
    diag: Diag,
    since: Time,
    last_down: Option<String>,
    send: Pace,
    hear: Pace,
    poll: Poll,
    remote: Remote,
    remote_diag: Diag,
    /// Since when the other side is silent; none if nothing is expected of it.
    heard: Option<Time>,
    /// Goes on from an earlier program's, and nothing was heard since.
    pub resumed: bool,
    /// The last packet, without its P and F bits, and when it was sent at what interval.
    sent: Option<(Control, Time)>,
    paced: Option<Duration>,
    due: Option<Time>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    packets_in: u64,
    packets_out: u64,
    refused: BTreeMap<Refusal, u64>,
    ups: u64,
    downs: u64,
}

impl Session {
    pub fn new(
        peer: IpAddr,
        settings: Settings,
        discriminator: u32,
        source_port: u16,
        now: Time,
    ) -> Self {
        let settings = possible(settings);
        Self {
            peer,
            send: Pace::new(settings.interval.max(SLOW)),
            hear: Pace::new(settings.interval),
            settings,
            discriminator,
            source_port,
            state: State::Down,
            diag: Diag::None,
            since: now,
            last_down: None,
            poll: Poll::Idle,
            remote: Remote::default(),
            remote_diag: Diag::None,
            heard: None,
            resumed: false,
            sent: None,
            paced: None,
            due: Some(now),
            counts: Counts::default(),
        }
    }

    /// One that goes on where an earlier program left it. The other side has one detection time to
    /// be heard, as if it had just been; what it says then decides, as ever: if it has given us up
    /// meanwhile, it says Down and we follow.
    pub fn resumed(kept: &Kept, now: Time) -> Self {
        let fresh =
            Self::new(kept.peer, kept.settings(), kept.discriminator, kept.source_port, now);
        if kept.state != State::Up {
            return fresh;
        }
        let mut session = Self {
            state: State::Up,
            send: kept.send,
            hear: kept.hear,
            remote: kept.remote,
            heard: Some(now),
            resumed: true,
            ..fresh
        };
        // What was said, and not acknowledged yet, may never have been heard.
        if session.send.said != session.send.used || session.hear.said != session.hear.used {
            session.poll.begin();
        }
        // It may have asked for patience before it ended.
        session.pace();
        session
    }

    pub fn kept(&self) -> Kept {
        Kept {
            peer: self.peer,
            local: self.settings.local,
            multihop: self.settings.multihop,
            on_link: self.settings.on_link,
            interval: self.settings.interval,
            multiplier: self.settings.multiplier,
            discriminator: self.discriminator,
            source_port: self.source_port,
            state: self.state,
            send: self.send,
            hear: self.hear,
            remote: self.remote,
        }
    }

    /// True if the settings can be had without beginning anew.
    pub fn can_become(&self, settings: &Settings) -> bool {
        self.settings.local == settings.local && self.settings.multihop == settings.multihop
    }

    pub fn become_so(&mut self, settings: Settings, now: Time, dice: &mut Dice) {
        self.settings = possible(settings);
        self.pace();
        self.schedule(now, dice);
    }

    /// Asks the other side to wait for so long before it takes this one for dead. Nothing else
    /// changes, so it is to be followed by an end: a successor goes on as its settings say.
    pub fn ask_patience(&mut self, time: Duration, now: Time, dice: &mut Dice) {
        let slow = time / self.settings.multiplier.into();
        if self.state == State::Up && slow > self.send.used && self.send.send_every(slow, true) {
            self.poll.begin();
            self.schedule(now, dice);
        }
    }

    /// Nothing was asked that is not answered.
    pub fn is_settled(&self) -> bool {
        self.state != State::Up || self.poll == Poll::Idle
    }

    /// Says from now on that it is switched off.
    pub fn switch_off(&mut self, now: Time, dice: &mut Dice) {
        self.poll = Poll::Idle;
        self.go(State::AdminDown, Diag::AdministrativelyDown, now);
        self.schedule(now, dice);
    }

    /// A packet for it, well formed (6.8.6). Returns what is to be answered at once.
    pub fn hears(
        &mut self,
        said: &Control,
        now: Time,
        dice: &mut Dice,
    ) -> (Option<Change>, Option<Control>) {
        self.counts.packets_in += 1;
        self.remote_diag = said.diag;
        self.remote = Remote {
            state: said.state,
            discriminator: said.mine,
            desired_tx: said.desired_tx,
            required_rx: said.required_rx,
            multiplier: said.multiplier,
            demand: said.demand,
        };
        self.heard = Some(now);
        if said.last && self.poll.answered() {
            self.send.acknowledged();
            self.hear.acknowledged();
        }
        let change = self.follow(said, now);
        let answer = said.poll.then(|| {
            let answer = Control { poll: false, last: true, ..self.control() };
            self.count(answer, now);
            answer
        });
        self.schedule(now, dice);
        (change, answer)
    }

    fn follow(&mut self, said: &Control, now: Time) -> Option<Change> {
        let resumed = std::mem::take(&mut self.resumed);
        let was = self.state;
        let (next, diag) = was.hears(said.state);
        if next != was {
            self.go(next, diag, now);
        }
        match (was, next) {
            (State::Up, State::Up) => resumed.then_some(Change::Up),
            (_, State::Up) => Some(Change::Up),
            (State::Up, _) => {
                let why = format!("{} says that its session is {}", self.peer, said.state);
                let why = format!("{why} ({})", said.diag);
                self.last_down = Some(why.clone());
                // RFC 5882, 3.2: switched off does not mean dead, and BGP sees that for itself. One
                // that was given up while this program was away is alive as well.
                let alive = resumed || said.state == State::AdminDown;
                (!alive).then_some(Change::Down { why, diag })
            }
            _ => None,
        }
    }

    /// Whatever is due: silence that was too long, and the next packet.
    pub fn tick(&mut self, now: Time, dice: &mut Dice) -> (Option<Change>, Option<Control>) {
        let change = self.expire(now, dice);
        if self.due.is_none_or(|due| now < due) {
            return (change, None);
        }
        let control = self.control();
        self.count(control, now);
        self.paced = self.interval();
        self.due = self.paced.map(|every| now + dice.jitter(every, self.settings.multiplier));
        (change, Some(control))
    }

    fn expire(&mut self, now: Time, dice: &mut Dice) -> Option<Change> {
        if self.expires().is_none_or(|end| now < end) {
            return None;
        }
        let (was, limit) = (self.state, self.detection());
        self.heard = None;
        self.remote = Remote::default();
        self.resumed = false;
        if matches!(was, State::Init | State::Up) {
            self.poll = Poll::Idle;
            self.go(State::Down, Diag::DetectionTimeExpired, now);
        }
        self.schedule(now, dice);
        let why = format!("nothing heard of {} for {} ms", self.peer, limit.as_millis());
        if was != State::Up {
            return None;
        }
        self.last_down = Some(why.clone());
        Some(Change::Down { why, diag: Diag::DetectionTimeExpired })
    }

    /// Who slept through a whole detection time knows nothing of others: their time begins anew.
    pub fn slept(&mut self, slept: Duration, now: Time) {
        if self.heard.is_some() && slept >= self.detection() {
            self.heard = Some(now);
        }
    }

    /// When `tick` is to be called.
    pub fn deadline(&self) -> Option<Time> {
        self.due.into_iter().chain(self.expires()).min()
    }

    pub fn refuse(&mut self, refusal: Refusal) {
        *self.counts.refused.entry(refusal).or_default() += 1;
    }

    /// Detection time of this side (6.8.4).
    fn detection(&self) -> Duration {
        self.hear.used.max(self.remote.desired_tx) * self.remote.multiplier.into()
    }

    /// How long the other side may take to notice our silence.
    pub fn remote_detection(&self) -> Duration {
        self.send.used.max(self.remote.required_rx) * self.settings.multiplier.into()
    }

    fn expires(&self) -> Option<Time> {
        self.heard.map(|heard| heard + self.detection())
    }

    /// How often packets are sent (6.8.7), before jitter.
    fn interval(&self) -> Option<Duration> {
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        let asked_not_to = self.remote.demand && both_up && self.poll == Poll::Idle;
        let quiet = asked_not_to || self.remote.required_rx.is_zero();
        (!quiet).then(|| self.send.used.max(self.remote.required_rx))
    }

    fn go(&mut self, state: State, diag: Diag, now: Time) {
        self.counts.ups += u64::from(state == State::Up);
        self.counts.downs += u64::from(self.state == State::Up);
        (self.state, self.diag, self.since) = (state, diag, now);
        self.pace();
    }

    /// Intervals as settings and state want them, and a Poll Sequence if that is a change.
    fn pace(&mut self) {
        let up = self.state == State::Up;
        let interval = self.settings.interval;
        let send = if up { interval } else { interval.max(SLOW) };
        let changed = self.send.send_every(send, up) | self.hear.hear_every(interval, up);
        if changed && self.state != State::AdminDown {
            self.poll.begin();
        }
    }

    /// A packet that would say anything new goes at once; a changed interval counts from the last
    /// packet (6.8.3, 6.8.7).
    fn schedule(&mut self, now: Time, dice: &mut Dice) {
        let interval = self.interval();
        let Some((sent, at)) = self.sent else { return };
        if plain(self.control()) != sent {
            self.due = Some(now);
        } else if self.paced != interval {
            let next = interval.map(|every| at + dice.jitter(every, self.settings.multiplier));
            self.due = next.map(|next| next.max(now));
        }
        self.paced = interval;
    }

    fn control(&self) -> Control {
        Control {
            diag: self.diag,
            state: self.state,
            poll: self.poll != Poll::Idle,
            last: false,
            independent: false,
            demand: false,
            multiplier: self.settings.multiplier,
            mine: self.discriminator,
            yours: self.remote.discriminator,
            desired_tx: self.send.said,
            required_rx: self.hear.said,
            required_echo: Duration::ZERO,
        }
    }

    fn count(&mut self, control: Control, now: Time) {
        self.counts.packets_out += 1;
        self.sent = Some((plain(control), now));
    }

    pub fn report(&self, now: Time) -> Report {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let refused = self.counts.refused.iter();
        Report {
            state: self.state,
            remote_state: self.remote.state,
            since_ms: millis(now.saturating_sub(self.since)),
            last_down: self.last_down.clone(),
            diag: self.diag.to_string(),
            remote_diag: self.remote_diag.to_string(),
            local: self.settings.local,
            multihop: self.settings.multihop,
            interval_ms: self.interval().map_or(0, millis),
            remote_interval_ms: millis(self.hear.used.max(self.remote.desired_tx)),
            detection_ms: millis(self.detection()),
            packets_in: self.counts.packets_in,
            packets_out: self.counts.packets_out,
            refused: refused.map(|(why, count)| (why.to_string(), *count)).collect(),
            ups: self.counts.ups,
            downs: self.counts.downs,
            discriminator: self.discriminator,
            remote_discriminator: self.remote.discriminator,
            source_port: self.source_port,
            resumed: self.resumed,
        }
    }
}

fn plain(control: Control) -> Control {
    Control { poll: false, last: false, ..control }
}

/// Settings within what the protocol can say.
fn possible(settings: Settings) -> Settings {
    let most = Duration::from_micros(u32::MAX.into());
    Settings {
        interval: settings.interval.clamp(INTERVAL_MIN, most),
        multiplier: settings.multiplier.max(1),
        ..settings
    }
}
