//! BGP's thread: sockets and time are told to the speaker, and what it says is done.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{IpAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_bgp::{
    Action, Closed, Conn, Event, Speaker, Time,
    config::{Neighbour, Ttl},
};
use weft_linux::tcp;

use super::{
    doors::Doors,
    line::{Got, Line, has_left, not_connected},
    publish::Publisher,
    router::{Desired, Mail},
};

/// Bytes read of one neighbour before others are served.
const READ_MAX: usize = 64 << 10;
/// So often what BFD has found dead is asked whether it had said goodbye before.
const LAST_READS: usize = 256;
/// How long the other side may take to close, after us.
const LEAVE: Duration = Duration::from_secs(1);
/// The same when the whole router stops.
const LAST_LEAVE: Duration = Duration::from_millis(300);

pub(super) struct Driver {
    began: Instant,
    speaker: Speaker,
    desired: Option<Desired>,
    doors: Doors,
    lines: BTreeMap<Conn, Line>,
    /// Connections that we have closed, until the other side has too.
    leaving: Vec<(Instant, TcpStream)>,
    publisher: Publisher,
    letters: Receiver<Mail>,
    ear: UnixStream,
    buffer: Vec<u8>,
    /// What BFD said last of each neighbour, of some perhaps before they were configured.
    watched: BTreeMap<IpAddr, Result<(), String>>,
    /// Something has happened since the reports were made.
    moved: bool,
    /// Some neighbour could be told more at once.
    busy: bool,
    /// No neighbour had anything to say when it was last asked.
    idle: bool,
    badly_signed: u64,
    end: bool,
}

impl Driver {
    pub(super) fn new(publisher: Publisher, letters: Receiver<Mail>, ear: UnixStream) -> Self {
        let speaker = match publisher.kept() {
            Some(kept) => Speaker::restarted(&kept, Time::ZERO),
            None => Speaker::new(Time::ZERO),
        };
        Self {
            began: Instant::now(),
            speaker,
            desired: None,
            doors: Doors::new(),
            lines: BTreeMap::new(),
            leaving: Vec::new(),
            publisher,
            letters,
            ear,
            buffer: vec![0; READ_MAX],
            watched: BTreeMap::new(),
            moved: true,
            busy: false,
            idle: true,
            badly_signed: tcp::badly_signed().unwrap_or(0),
            end: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            self.read_mail();
            if self.end {
                return;
            }
            self.doors.tend();
            self.speaker.tick(self.now());
            self.act();
            self.publish();
            let ready = self.wait();
            self.idle = ready.lines.is_empty();
            self.serve(ready);
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn tell(&mut self, event: Event<'_>) -> Option<Conn> {
        self.moved = true;
        let now = self.now();
        self.speaker.handle(event, now)
    }

    fn read_mail(&mut self) {
        while !self.end {
            let Ok(letter) = self.letters.try_recv() else { return };
            self.moved = true;
            match letter {
                Mail::Configure(desired) => self.configure(*desired),
                Mail::Bfd(peer, state) => self.heard_of(peer, state),
                Mail::Stop { for_good } => self.stop(for_good),
                Mail::End => self.end = true,
            }
        }
    }

    fn configure(&mut self, desired: Desired) {
        self.doors.configure(&desired.config, desired.port);
        let now = self.now();
        self.speaker.configure(desired.config.clone(), now);
        self.watched.retain(|peer, _| desired.bfd.contains_key(peer));
        if self.desired.is_none() {
            self.catch_up();
        }
        self.desired = Some(desired);
        self.publisher.configured();
    }

    /// What BFD saw before there was anybody to be told: whoever it lost meanwhile had been up.
    fn catch_up(&mut self) {
        for (peer, state) in self.watched.clone() {
            self.tell(Event::Bfd(peer, Ok(())));
            if state.is_err() {
                self.tell(Event::Bfd(peer, state));
            }
        }
    }

    /// Of a neighbour that BFD has lost, the goodbye is heard first if there was one: it tells a restart
    /// from a death.
    fn heard_of(&mut self, peer: IpAddr, state: Result<(), String>) {
        self.watched.insert(peer, state.clone());
        if state.is_err() {
            let all = self.lines.iter().filter(|(_, line)| line.peer == peer);
            let conns: Vec<Conn> = all.map(|(conn, _)| *conn).collect();
            for conn in conns {
                let mut reads = 0..LAST_READS;
                while reads.next().is_some() && self.read(conn) {}
            }
        }
        self.tell(Event::Bfd(peer, state));
    }

    fn stop(&mut self, for_good: bool) {
        if for_good {
            self.publisher.forget();
        } else {
            self.publisher.keep(&self.speaker);
        }
        let now = self.now();
        self.speaker.stop(for_good, now);
        self.act();
        let end = Instant::now() + LAST_LEAVE;
        while !self.leaving.is_empty() && Instant::now() < end {
            let mut fds: Vec<PollFd<'_>> =
                self.leaving.iter().map(|(_, stream)| readable(stream)).collect();
            let _ = poll(&mut fds, timeout(Some(end)));
            self.leave();
        }
        self.end = true;
    }

    /// Does what the speaker says until it says nothing more.
    fn act(&mut self) {
        self.busy = false;
        loop {
            while let Some(action) = self.speaker.action() {
                self.moved = true;
                self.perform(action);
            }
            if !self.write_all() {
                return;
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Connect { conn, from, to, ttl, password } => {
                match Line::connect(from, to, ttl, password.as_deref()) {
                    Ok(line) => drop(self.lines.insert(conn, line)),
                    Err(error) => {
                        let why = not_connected(&error, from, 0);
                        self.tell(Event::Closed(conn, why));
                    }
                }
            }
            Action::Close(conn) => {
                let Some(mut line) = self.lines.remove(&conn) else { return };
                let now = self.now();
                let speaker = &mut self.speaker;
                let more = |buffer: &mut Vec<u8>, most| speaker.outgoing(conn, buffer, most, now);
                if !line.connecting && line.write(more).is_ok() {
                    let left = line.leave().map(|stream| (Instant::now() + LEAVE, stream));
                    self.leaving.extend(left);
                }
            }
        }
    }

    /// Writes to whoever takes it; true if a connection has ended by that.
    fn write_all(&mut self) -> bool {
        let (now, speaker) = (self.now(), &mut self.speaker);
        let mut ended = Vec::new();
        for (conn, line) in &mut self.lines {
            if line.connecting || line.full || !(line.holds() || speaker.has_outgoing(*conn)) {
                continue;
            }
            self.moved = true;
            let more = |buffer: &mut Vec<u8>, most| speaker.outgoing(*conn, buffer, most, now);
            match line.write(more) {
                Ok(()) => self.busy |= !line.full && speaker.has_outgoing(*conn),
                Err(why) => ended.push((*conn, why)),
            }
        }
        let any = !ended.is_empty();
        ended.into_iter().for_each(|(conn, why)| self.ended(conn, why));
        any
    }

    fn ended(&mut self, conn: Conn, why: Closed) {
        self.lines.remove(&conn);
        self.tell(Event::Closed(conn, why));
    }

    fn publish(&mut self) {
        if self.publisher.routes_due(&self.speaker, self.idle) {
            if self.publisher.gather(&mut self.speaker) {
                self.publisher.routes(&self.speaker);
                self.moved = true;
            } else {
                self.busy = true;
            }
        }
        if self.moved && self.publisher.reports_due(self.idle) {
            self.publisher.reports(&self.speaker, self.began.elapsed());
            self.moved = false;
        }
        self.publisher.problems(self.doors.problems().collect());
    }

    /// Until something is ready or due.
    fn wait(&mut self) -> Ready {
        let due = self.due();
        let mut fds = vec![readable(&self.ear)];
        fds.extend(self.doors.listeners().map(readable));
        let doors = fds.len();
        fds.extend(self.lines.values().map(|line| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, line.connecting || line.full);
            PollFd::new(line.stream.as_fd(), flags)
        }));
        fds.extend(self.leaving.iter().map(|(_, stream)| readable(stream)));
        // EINTR, and ENOMEM, are as if nothing were ready.
        let _ = poll(&mut fds, timeout(due));
        let flags = |at: usize| fds[at].revents().unwrap_or(PollFlags::empty());
        let lines = self.lines.keys().enumerate();
        Ready {
            rung: !flags(0).is_empty(),
            knocked: (1..doors).any(|at| !flags(at).is_empty()),
            lines: lines
                .map(|(at, conn)| (*conn, flags(doors + at)))
                .filter(|(_, flags)| !flags.is_empty())
                .collect(),
        }
    }

    fn due(&self) -> Option<Instant> {
        if self.busy {
            return Some(Instant::now());
        }
        let tick = self.speaker.deadline().map(|deadline| self.began + deadline);
        let told = self.publisher.due(&self.speaker, self.moved);
        let left = self.leaving.iter().map(|(end, _)| *end).min();
        [tick, told, left, self.doors.due()].into_iter().flatten().min()
    }

    fn serve(&mut self, ready: Ready) {
        if ready.rung {
            let mut rings = [0; 64];
            while matches!((&self.ear).read(&mut rings), Ok(64)) {}
        }
        for (conn, flags) in ready.lines {
            self.serve_line(conn, flags);
        }
        if ready.knocked {
            self.accept();
        }
        self.leave();
    }

    fn serve_line(&mut self, conn: Conn, flags: PollFlags) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        if line.connecting {
            return self.connected(conn);
        }
        if flags.contains(PollFlags::POLLOUT) {
            line.full = false;
        }
        if flags.intersects(PollFlags::POLLIN | PollFlags::POLLERR | PollFlags::POLLHUP) {
            self.read(conn);
        }
    }

    fn connected(&mut self, conn: Conn) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let (ttl, hold_time) = wanted(self.desired.as_ref(), line.peer);
        let local = line.local;
        let stands = match line.stream.take_error() {
            Ok(None) => line.shape(ttl, hold_time),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match stands {
            Ok(()) => {
                self.tell(Event::Connected(conn));
            }
            Err(error) => {
                let before = self.badly_signed;
                self.badly_signed = tcp::badly_signed().unwrap_or(before);
                let why = not_connected(&error, local, self.badly_signed - before);
                self.ended(conn, why);
            }
        }
    }

    /// True if there was something.
    fn read(&mut self, conn: Conn) -> bool {
        let Some(line) = self.lines.get_mut(&conn).filter(|line| !line.connecting) else {
            return false;
        };
        let got = line.read(&mut self.buffer);
        match got {
            Got::Nothing => return false,
            Got::Closed(why) => self.ended(conn, why),
            Got::Bytes(length) => {
                self.moved = true;
                let now = self.now();
                self.speaker.handle(Event::Bytes(conn, &self.buffer[..length]), now);
            }
        }
        true
    }

    fn accept(&mut self) {
        for (stream, from) in self.doors.accept() {
            let Ok(to) = stream.local_addr() else { continue };
            let from = from.ip();
            let Some(conn) = self.tell(Event::Accepted { from, to: to.ip() }) else { continue };
            let mut line = Line::new(stream, to.ip(), from, false);
            let (ttl, hold_time) = wanted(self.desired.as_ref(), from);
            match line.shape(ttl, hold_time) {
                Ok(()) => drop(self.lines.insert(conn, line)),
                Err(error) => {
                    let why = format!("set the connection's options: {error}");
                    self.tell(Event::Closed(conn, Closed::Broken(why)));
                }
            }
        }
    }

    fn leave(&mut self) {
        let (now, buffer) = (Instant::now(), &mut self.buffer);
        self.leaving.retain(|(end, stream)| now < *end && !has_left(stream, buffer));
    }
}

/// What is ready.
struct Ready {
    rung: bool,
    knocked: bool,
    lines: Vec<(Conn, PollFlags)>,
}

/// What a connection is to be like: TTL and hold time.
fn wanted(desired: Option<&Desired>, peer: IpAddr) -> (Ttl, u16) {
    let neighbours = desired.map(|desired| &desired.config.neighbours);
    let of = neighbours.and_then(|all| all.get(&peer));
    of.map(|of: &Neighbour| (of.ttl, of.hold_time)).unwrap_or_default()
}

fn readable(of: &impl AsFd) -> PollFd<'_> {
    let fd: BorrowedFd<'_> = of.as_fd();
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Rounded up, or a wait of less than a millisecond would be none.
fn timeout(due: Option<Instant>) -> PollTimeout {
    let Some(due) = due else { return PollTimeout::NONE };
    let left = due.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return PollTimeout::ZERO;
    }
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
