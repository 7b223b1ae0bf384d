//! One exchange with servers, of a bounded time: what is sent when, and what comes of the answers.
//! Times are since boot, as the caller tells them.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;

use super::message::{Answer, Ask, Client, Deaf, Terms};
use crate::name::Mac;

/// How long a pod waits for its address.
const OBTAIN_MAX: Duration = Duration::from_secs(10);
/// How long the answer to who has a lease already is waited for; it has time to ask again.
const KEEP_MAX: Duration = Duration::from_secs(4);
/// Waits before a message is sent again, each give or take a quarter.
const AGAIN: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Before all begins anew after a refusal.
const ANEW: Duration = Duration::from_secs(1);
/// How many odd things are remembered.
const REMARKS_MAX: usize = 3;

/// What an exchange is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Any address, or just this one.
    Obtain(Option<Ipv4Addr>),
    /// An address that was lost: no other is of use.
    Regain(Ipv4Addr),
    /// A lease that there is.
    Keep(Ask),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be sent now: an IPv4 packet, to this address.
    Send(Vec<u8>, Ipv4Addr),
    /// Nothing before this time, unless an answer comes.
    Wait(Duration),
    /// It came to nothing.
    Over(String),
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It will be asked for in the next step.
    Offered(Terms),
    /// It is ours, counted from this second.
    Leased(Terms, u64),
    /// What was offered was given to another meanwhile; all begins anew.
    Withdrawn,
    /// It is ours no more.
    Refused(String),
}

pub struct Exchange {
    client: Client,
    range: Ipv4Net,
    purpose: Purpose,
    xid: u32,
    state: State,
    start: Duration,
    /// When the present state's first message went out.
    asked: Duration,
    next: Duration,
    tries: usize,
    remarks: Vec<String>,
}

enum State {
    Selecting,
    Requesting(Terms),
    Keeping(Ask),
}

impl Exchange {
    /// `xid` is random: it is what tells our answers from a neighbour's.
    pub fn new(client: Client, range: Ipv4Net, purpose: Purpose, xid: u32, now: Duration) -> Self {
        let state = match &purpose {
            Purpose::Keep(ask) => State::Keeping(*ask),
            Purpose::Obtain(_) | Purpose::Regain(_) => State::Selecting,
        };
        let (tries, remarks) = (0, Vec::new());
        Self {
            client,
            range,
            purpose,
            xid,
            state,
            start: now,
            asked: now,
            next: now,
            tries,
            remarks,
        }
    }

    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    fn longest(&self) -> Duration {
        if matches!(self.purpose, Purpose::Keep(_)) { KEEP_MAX } else { OBTAIN_MAX }
    }
    fn end(&self) -> Duration {
        self.start + self.longest()
    }

    /// What to do now. `dice` is any number, so that pods that start together do not go on so.
    pub fn step(&mut self, now: Duration, dice: u32) -> Step {
        if now >= self.end() {
            return Step::Over(self.outcome());
        }
        if now < self.next {
            return Step::Wait(self.next.min(self.end()));
        }
        if self.tries == 0 {
            self.asked = now;
        }
        let wait = AGAIN[self.tries.min(AGAIN.len() - 1)];
        // Three quarters, and up to a half more.
        self.next = now + wait * 3 / 4 + wait * (dice % 512) / 1024;
        self.tries += 1;
        let ask = match &self.state {
            State::Selecting => Ask::Discover { want: self.want() },
            State::Requesting(terms) => Ask::Select { addr: terms.addr, server: terms.server },
            State::Keeping(ask) => *ask,
        };
        let secs = u16::try_from(now.saturating_sub(self.start).as_secs()).unwrap_or(u16::MAX);
        Step::Send(self.client.say(&ask, self.xid, secs), ask.to())
    }

    fn want(&self) -> Option<Ipv4Addr> {
        match self.purpose {
            Purpose::Obtain(want) => want,
            Purpose::Regain(addr) => Some(addr),
            Purpose::Keep(_) => None,
        }
    }

    /// Takes what came in by the link, which may be anything.
    pub fn hear(&mut self, packet: &[u8], now: Duration) -> Option<News> {
        let answer = match self.client.hear(self.xid, packet, self.range) {
            Ok(answer) => answer,
            Err(Deaf::NotDhcp | Deaf::NotOurs) => return None,
            Err(deaf) => return self.remark(deaf.to_string()),
        };
        match (&self.state, answer) {
            (State::Selecting, Answer::Offer(terms)) => self.offered(terms, now),
            (State::Requesting(asked), Answer::Ack(terms)) => {
                let same = (asked.addr, asked.server) == (terms.addr, terms.server);
                same.then_some(News::Leased(terms, self.asked.as_secs()))
            }
            (State::Requesting(asked), Answer::Nak { server, text }) => {
                if server != Some(asked.server) {
                    return None;
                }
                let refused = said(
                    &format!("server {} offered {} and refused it", asked.server, asked.addr),
                    &text,
                );
                self.begin_anew(now);
                self.remark(refused);
                Some(News::Withdrawn)
            }
            (State::Keeping(ask), answer) => self.kept(*ask, answer),
            _ => None,
        }
    }

    /// Gives back what was leased, since somebody has it (RFC 2131, 3.1, step 5), as the packet that says
    /// so. All begins anew, within the time that the pod waits.
    pub fn decline(&mut self, terms: Terms, who: Mac, now: Duration) -> Vec<u8> {
        let Terms { addr, server, .. } = terms;
        let said = self.client.say(&Ask::Decline { addr, server }, self.xid, 0);
        self.begin_anew(now);
        self.remark(format!("server {server} gave {addr}, which {who} has: declined"));
        said
    }

    fn begin_anew(&mut self, now: Duration) {
        self.state = State::Selecting;
        (self.tries, self.next) = (0, now + ANEW);
        // What was said before has no answer any more.
        self.xid = self.xid.rotate_left(7) ^ 0x9e37_79b9;
    }

    fn offered(&mut self, terms: Terms, now: Duration) -> Option<News> {
        if let Some(want) = self.want().filter(|want| *want != terms.addr) {
            return self
                .remark(format!("server {} offers {}, not {want}", terms.server, terms.addr));
        }
        self.state = State::Requesting(terms);
        (self.tries, self.next) = (0, now);
        Some(News::Offered(terms))
    }

    fn kept(&mut self, ask: Ask, answer: Answer) -> Option<News> {
        let (addr, from) = match ask {
            Ask::Renew { addr, server } => (addr, Some(server)),
            Ask::Rebind { addr } | Ask::Reboot { addr } => (addr, None),
            Ask::Discover { .. }
            | Ask::Select { .. }
            | Ask::Decline { .. }
            | Ask::Release { .. } => return None,
        };
        match answer {
            Answer::Ack(terms) if terms.addr == addr => {
                Some(News::Leased(terms, self.asked.as_secs()))
            }
            Answer::Ack(terms) => self.remark(format!(
                "server {} answered with {}, not {addr}",
                terms.server, terms.addr
            )),
            Answer::Nak { server, text } if from.is_none() || server == from => {
                let who = server.map_or_else(|| "a server".into(), |s| format!("server {s}"));
                Some(News::Refused(said(&format!("{who} refused {addr}"), &text)))
            }
            Answer::Nak { .. } | Answer::Offer(_) => None,
        }
    }

    fn remark(&mut self, remark: String) -> Option<News> {
        if self.remarks.len() < REMARKS_MAX && !self.remarks.contains(&remark) {
            self.remarks.push(remark);
        }
        None
    }

    fn outcome(&self) -> String {
        let longest = self.longest().as_secs();
        let silence = match &self.state {
            State::Selecting if !self.remarks.is_empty() => None,
            State::Selecting => Some(format!("no DHCP server answered within {longest} s")),
            State::Requesting(terms) => Some(format!(
                "server {} offered {} and did not acknowledge it within {longest} s",
                terms.server, terms.addr
            )),
            State::Keeping(ask) if ask.to().is_broadcast() => {
                Some(format!("no DHCP server answered within {longest} s"))
            }
            State::Keeping(ask) => {
                Some(format!("server {} did not answer within {longest} s", ask.to()))
            }
        };
        silence.into_iter().chain(self.remarks.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

fn said(what: &str, text: &str) -> String {
    if text.is_empty() { what.to_owned() } else { format!("{what} ({text})") }
}
