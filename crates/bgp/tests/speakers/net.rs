//! The network: links that can be cut, connections with their delays, kernels that answer for
//! programs that are gone, and BFD between all nodes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use weft_bgp::{
    Action, Closed, Conn, Event, Speaker, Time,
    config::Config,
    report::{Learnt, NeighbourReport},
};

const MS: Duration = Duration::from_millis(1);
/// TCP gives up on what is not acknowledged, and a connect on what is not answered.
const TCP_GIVES_UP: Duration = Duration::from_secs(25);
const BFD_TICK: Duration = Duration::from_millis(300);
const BFD_DETECTS: Duration = Duration::from_millis(900);

/// xorshift64*: the same numbers for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    }
}

pub struct Node {
    pub config: Config,
    pub speaker: Option<Speaker>,
    /// What its last speaker has written down.
    kept: Vec<u8>,
    version: u64,
    pipes: BTreeMap<Conn, (usize, usize)>,
}

enum Item {
    Syn,
    SynAck,
    Bytes(Vec<u8>),
    Fin,
}

struct End {
    node: IpAddr,
    /// None: nobody has it (any more), the kernel answers.
    conn: Option<Conn>,
    coming: VecDeque<(Time, Item)>,
    waits_since: Option<Time>,
}

pub struct Net {
    pub now: Time,
    pub numbers: Numbers,
    pub nodes: BTreeMap<IpAddr, Node>,
    /// Pairs, the smaller first.
    cuts: BTreeSet<(IpAddr, IpAddr)>,
    off: BTreeSet<IpAddr>,
    pipes: Vec<Option<[End; 2]>>,
    next_bfd: Time,
    /// By who watches and who is watched: when it was last seen, and whether that was said.
    bfd: BTreeMap<(IpAddr, IpAddr), (Time, bool)>,
    /// Those whose BFD is new since they were seen last, as others notice.
    bfd_anew: BTreeSet<(IpAddr, IpAddr)>,
    /// Everything that was sent, by sender: for tests that count.
    pub sent: BTreeMap<IpAddr, u64>,
}

impl Net {
    pub fn new(seed: u64, configs: Vec<(IpAddr, Config)>) -> Self {
        let nodes = configs.into_iter().map(|(addr, config)| (addr, Node::new(config))).collect();
        let mut net = Self {
            now: Time::from_secs(1),
            numbers: Numbers(seed),
            nodes,
            cuts: BTreeSet::new(),
            off: BTreeSet::new(),
            pipes: vec![],
            next_bfd: Time::ZERO,
            bfd: BTreeMap::new(),
            bfd_anew: BTreeSet::new(),
            sent: BTreeMap::new(),
        };
        net.addrs().into_iter().for_each(|addr| net.boot(addr));
        net
    }

    pub fn since(&self, then: Time) -> Duration {
        self.now.saturating_sub(then)
    }

    pub fn addrs(&self) -> Vec<IpAddr> {
        self.nodes.keys().copied().collect()
    }

    pub fn speaker(&mut self, addr: IpAddr) -> &mut Speaker {
        self.node(addr).speaker.as_mut().expect("it runs")
    }

    pub fn speaker_of(&self, addr: IpAddr) -> &Speaker {
        self.nodes[&addr].speaker.as_ref().expect("it runs")
    }

    fn node(&mut self, addr: IpAddr) -> &mut Node {
        self.nodes.get_mut(&addr).expect("a node of this network")
    }

    pub fn learnt(&self, addr: IpAddr) -> Vec<Learnt> {
        self.nodes[&addr].speaker.as_ref().map(Speaker::learnt).unwrap_or_default()
    }

    pub fn report(&self, of: IpAddr, about: IpAddr) -> NeighbourReport {
        let reports = self.speaker_of(of).neighbours(self.now);
        reports.into_iter().find(|report| report.addr == Some(about)).expect("a neighbour")
    }

    /// A speaker without memory.
    pub fn boot(&mut self, addr: IpAddr) {
        self.off.remove(&addr);
        let speaker = Speaker::new(self.now);
        self.begin(addr, speaker);
    }

    /// One that goes on from what the one before has written down.
    pub fn restart(&mut self, addr: IpAddr) {
        let speaker = Speaker::restarted(&self.nodes[&addr].kept, self.now);
        self.begin(addr, speaker);
    }

    fn begin(&mut self, addr: IpAddr, mut speaker: Speaker) {
        speaker.configure(self.nodes[&addr].config.clone(), self.now);
        self.bfd_anew.extend(self.addrs().into_iter().map(|other| (other, addr)));
        self.node(addr).speaker = Some(speaker);
        self.pump(addr);
    }

    pub fn configure(&mut self, addr: IpAddr, config: Config) {
        let now = self.now;
        self.node(addr).config = config.clone();
        if let Some(speaker) = &mut self.node(addr).speaker {
            speaker.configure(config, now);
            self.pump(addr);
        }
    }

    /// SIGKILL: its kernel closes its connections.
    pub fn kill(&mut self, addr: IpAddr) {
        let node = self.node(addr);
        node.speaker = None;
        for (pipe, end) in std::mem::take(&mut node.pipes).into_values() {
            self.hang_up(pipe, end);
        }
    }

    /// The power goes: nobody hears of it.
    pub fn power_off(&mut self, addr: IpAddr) {
        self.off.insert(addr);
        let node = self.node(addr);
        node.speaker = None;
        node.kept.clear();
        for (pipe, end) in std::mem::take(&mut node.pipes).into_values() {
            if let Some(pipe) = &mut self.pipes[pipe] {
                pipe[end].conn = None;
            }
        }
    }

    pub fn stop(&mut self, addr: IpAddr, for_good: bool) {
        let now = self.now;
        self.speaker(addr).stop(for_good, now);
        self.pump(addr);
        self.kill(addr);
    }

    pub fn cut(&mut self, one: IpAddr, other: IpAddr) {
        self.cuts.insert((one.min(other), one.max(other)));
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// How many there have been.
    pub fn connections(&self) -> usize {
        self.pipes.len()
    }

    pub fn is_off(&self, addr: IpAddr) -> bool {
        self.off.contains(&addr)
    }

    fn is_cut(&self, one: IpAddr, other: IpAddr) -> bool {
        let off = self.off.contains(&one) || self.off.contains(&other);
        off || self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Until the condition holds; false if it does not in so long.
    pub fn until(&mut self, most: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !holds(self) {
            if !self.step(end) {
                return false;
            }
        }
        true
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// The next thing that happens; false if that is after `end`.
    fn step(&mut self, end: Time) -> bool {
        let deadline = |(addr, node): (&IpAddr, &Node)| Some((node.deadline()?, *addr));
        let due = self.nodes.iter().filter_map(deadline).min();
        let coming = self.next_item();
        let times = [due.map(|d| d.0), coming.map(|c| c.0), Some(self.next_bfd)];
        let next = times.into_iter().flatten().min().unwrap_or(end);
        if next > end {
            self.now = end;
            return false;
        }
        self.now = self.now.max(next);
        if coming.is_some_and(|c| c.0 == next) {
            let (_, pipe, side) = coming.expect("just seen");
            self.deliver(pipe, side);
        } else if let Some((_, addr)) = due.filter(|d| d.0 == next) {
            self.tick(addr);
        } else {
            self.bfd_tick();
        }
        true
    }

    fn tick(&mut self, addr: IpAddr) {
        let now = self.now;
        let speaker = self.speaker(addr);
        speaker.tick(now);
        assert!(speaker.deadline().is_none_or(|next| next > now), "what is due was done");
        self.pump(addr);
    }

    fn next_item(&self) -> Option<(Time, usize, usize)> {
        let ends = self.pipes.iter().enumerate().filter_map(|(i, p)| Some((i, p.as_ref()?)));
        let ends = ends.flat_map(|(i, pipe)| [(i, 0, &pipe[0]), (i, 1, &pipe[1])]);
        ends.filter_map(|(pipe, side, end)| Some((end.coming.front()?.0, pipe, side))).min()
    }

    /// What comes next to this end of the pipe.
    fn deliver(&mut self, at: usize, side: usize) {
        let now = self.now;
        let Some(pipe) = &self.pipes[at] else { return };
        let (here, there) = (pipe[side].node, pipe[1 - side].node);
        if self.is_cut(here, there) {
            return self.wait(at, side);
        }
        let Some(pipe) = &mut self.pipes[at] else { return };
        pipe[side].waits_since = None;
        let Some((_, item)) = pipe[side].coming.pop_front() else { return };
        let conn = pipe[side].conn;
        match item {
            Item::Syn => self.syn(at, here, there),
            Item::SynAck => self.tell(here, conn, Event::Connected),
            Item::Bytes(bytes) if conn.is_some() => {
                self.tell(here, conn, |c| Event::Bytes(c, &bytes))
            }
            // Nobody has it: RST.
            Item::Bytes(_) => self.hang_up(at, side),
            Item::Fin => {
                if let Some(conn) = conn {
                    self.node(here).pipes.remove(&conn);
                }
                self.tell(here, conn, |c| Event::Closed(c, Closed::ByPeer));
                self.pipes[at] = None;
            }
        }
        debug_assert!(now == self.now);
    }

    /// TCP repeats, and gives up some time.
    fn wait(&mut self, at: usize, side: usize) {
        let now = self.now;
        let Some(pipe) = &mut self.pipes[at] else { return };
        let since = *pipe[side].waits_since.get_or_insert(now);
        if now < since + TCP_GIVES_UP {
            pipe[side].coming[0].0 = now + 500 * MS;
            return;
        }
        let (sender, conn) = (pipe[1 - side].node, pipe[1 - side].conn.take());
        pipe[side].coming.clear();
        if let Some(conn) = conn {
            self.node(sender).pipes.remove(&conn);
        }
        self.tell(sender, conn, |c| Event::Closed(c, Closed::Broken("timed out".into())));
    }

    fn syn(&mut self, at: usize, here: IpAddr, there: IpAddr) {
        let now = self.now;
        let accept =
            |speaker: &mut Speaker| speaker.handle(Event::Accepted { from: there, to: here }, now);
        let node = self.node(here);
        let conn = node.speaker.as_mut().and_then(accept);
        let Some(conn) = conn else { return self.hang_up(at, 1) };
        node.pipes.insert(conn, (at, 1));
        if let Some(pipe) = &mut self.pipes[at] {
            pipe[1].conn = Some(conn);
        }
        self.send(at, 0, Item::SynAck);
        self.pump(here);
    }

    fn tell<'a>(&mut self, to: IpAddr, conn: Option<Conn>, event: impl FnOnce(Conn) -> Event<'a>) {
        let now = self.now;
        if let (Some(conn), Some(speaker)) = (conn, &mut self.node(to).speaker) {
            speaker.handle(event(conn), now);
            self.pump(to);
        }
    }

    /// This end of the pipe is closed.
    fn hang_up(&mut self, at: usize, side: usize) {
        if let Some(pipe) = &mut self.pipes[at] {
            pipe[side].conn = None;
            self.send(at, 1 - side, Item::Fin);
        }
    }

    fn send(&mut self, at: usize, to_side: usize, item: Item) {
        let delay = u32::try_from(1 + self.numbers.below(20)).unwrap();
        let at_the_earliest = self.now + MS * delay;
        let Some(pipe) = &mut self.pipes[at] else { return };
        let coming = &mut pipe[to_side].coming;
        let time = coming.back().map_or(at_the_earliest, |(last, _)| at_the_earliest.max(*last));
        coming.push_back((time, item));
    }

    /// Everything that a speaker wants done now.
    fn pump(&mut self, addr: IpAddr) {
        loop {
            let Some(speaker) = &mut self.node(addr).speaker else { return };
            let Some(action) = speaker.action() else { break };
            match action {
                Action::Connect { conn, to, .. } => self.connect(addr, conn, to.ip()),
                Action::Close(conn) => self.close(addr, conn),
            }
        }
        for (conn, (pipe, end)) in self.nodes[&addr].pipes.clone() {
            self.write(addr, conn, pipe, end);
        }
        let node = self.node(addr);
        let Some(speaker) = &mut node.speaker else { return };
        if speaker.version() != node.version || node.kept.is_empty() {
            node.version = speaker.version();
            node.kept = speaker.keep();
        }
    }

    fn connect(&mut self, from: IpAddr, conn: Conn, to: IpAddr) {
        let end = |node, conn| End { node, conn, coming: VecDeque::new(), waits_since: None };
        let at = self.pipes.len();
        self.pipes.push(Some([end(from, Some(conn)), end(to, None)]));
        self.node(from).pipes.insert(conn, (at, 0));
        if self.nodes.contains_key(&to) {
            self.send(at, 1, Item::Syn);
        }
    }

    fn close(&mut self, addr: IpAddr, conn: Conn) {
        let Some((pipe, end)) = self.node(addr).pipes.remove(&conn) else { return };
        self.write(addr, conn, pipe, end);
        self.hang_up(pipe, end);
    }

    fn write(&mut self, addr: IpAddr, conn: Conn, pipe: usize, end: usize) {
        let now = self.now;
        loop {
            let most = 1 + usize::try_from(self.numbers.below(6000)).unwrap();
            let speaker = self.speaker(addr);
            if !speaker.has_outgoing(conn) {
                return;
            }
            let mut bytes = vec![];
            speaker.outgoing(conn, &mut bytes, most, now);
            if bytes.is_empty() {
                return;
            }
            *self.sent.entry(addr).or_default() += bytes.len() as u64;
            let cut = usize::try_from(self.numbers.below(bytes.len() as u64)).unwrap();
            let rest = bytes.split_off(cut);
            self.send(pipe, 1 - end, Item::Bytes(bytes));
            self.send(pipe, 1 - end, Item::Bytes(rest));
        }
    }

    fn bfd_tick(&mut self) {
        self.next_bfd = self.now + BFD_TICK;
        for here in self.addrs() {
            for there in self.nodes[&here].config.neighbours.keys().copied().collect::<Vec<_>>() {
                self.bfd_between(here, there);
            }
        }
    }

    fn bfd_between(&mut self, here: IpAddr, there: IpAddr) {
        let now = self.now;
        let runs = |addr: &IpAddr| self.nodes.get(addr).is_some_and(|n| n.speaker.is_some());
        if !runs(&here) {
            self.bfd.remove(&(here, there));
            return;
        }
        let seen = runs(&there) && !self.is_cut(here, there);
        let Some((last, up)) = self.bfd.get_mut(&(here, there)).filter(|_| !seen) else {
            let known = self.bfd.insert((here, there), (now, seen));
            let was_up = known.is_some_and(|(_, up)| up);
            if seen && self.bfd_anew.remove(&(here, there)) && was_up {
                self.bfd.insert((here, there), (now, false));
                let why = "neighbor signaled session down".to_owned();
                self.tell(here, Some(Conn(0)), |_| Event::Bfd(there, Err(why)));
            } else if seen && !was_up {
                self.tell(here, Some(Conn(0)), |_| Event::Bfd(there, Ok(())));
            }
            return;
        };
        if *up && now >= *last + BFD_DETECTS {
            *up = false;
            let why = "no packet for 900 ms".to_owned();
            self.tell(here, Some(Conn(0)), |_| Event::Bfd(there, Err(why)));
        }
    }
}

impl Node {
    fn new(config: Config) -> Self {
        let (kept, pipes) = <_>::default();
        Self { config, speaker: None, kept, version: 0, pipes }
    }

    fn deadline(&self) -> Option<Time> {
        self.speaker.as_ref().and_then(Speaker::deadline)
    }
}
